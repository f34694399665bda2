"""All kernel tests on the card; in a rehearsal a file of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

from benchmarks import ROOT

__all__ = ["run"]

# Each holds a context of its own on the card.
_MOST_WORKERS = 12


def run(*, dry: bool) -> dict[str, Any]:
    """Run pytest in a process of its own and return its counts, and the names of what failed."""
    chosen = "tests/kernels/test_quantize.py" if dry else "tests/kernels"
    command = [sys.executable, "-m", "pytest", chosen, "-q", "-p", "no:cacheprovider", "-rf"]
    command += ["-m", "slow or not slow"]
    # What is compiled ahead of time needs no card.
    command += ["--ignore", "tests/kernels/test_aot.py"]
    if not dry and find_spec("xdist"):  # compiling is most of it, and that is the CPU's
        command += ["-n", str(min(os.cpu_count() or 1, _MOST_WORKERS))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    counts = {
        kind: int(n)
        for n, kind in re.findall(r"(\d+) (passed|failed|skipped|errors?)\b", done.stdout)
    }
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    told = ", ".join(f"{n} {kind}" for kind, n in counts.items())
    return {
        "status": "ok" if done.returncode == 0 else "wrong",
        "summary": told or (done.stdout + done.stderr).strip()[-200:],
        "counts": counts,
        "failed": failed,
        "table": [f"  failed: {name}" for name in failed],
    }
