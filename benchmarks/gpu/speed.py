"""The kernel suite with its peers and the floor, as `python -m benchmarks kernels` runs it."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu.environment import device_of
from benchmarks.kernels.runner import failures
from benchmarks.kernels.runner import run as run_kernels

__all__ = ["run"]


def run(*, dry: bool) -> dict[str, Any]:
    """Return the suite's result and its tables; a rehearsal is its quick form on the CPU."""
    lines: list[str] = []
    device = device_of(dry=dry).type
    result = run_kernels(device, quick=dry, say=lines.append)
    wrong = failures(result)
    return {
        "status": "wrong" if wrong else "ok",
        "summary": f"{len(result['cases'])} cases, {len(wrong)} of ours wrong",
        "wrong": wrong,
        "result": result,
        "table": "\n".join(lines).splitlines(),
    }
