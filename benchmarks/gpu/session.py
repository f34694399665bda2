"""The session: each part in a process of its own, its outcome written as soon as it is there.

A part that takes its process down, or hangs, costs its own row. A session that ends early, with
its machine perhaps, is taken up where it ended: parts that the file has are not run again.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from benchmarks.machine import commit, slug
from benchmarks.tables import aligned

__all__ = ["PARTS", "failures", "run"]

Result = dict[str, Any]

# In the order that a short lease wants: what is right before what is fast. Seconds that a part may
# take; most need a fraction.
PARTS: dict[str, float] = {
    "environment": 60.0,
    "edges": 240.0,
    "tests": 300.0,
    "sanitizer": 180.0,
    "speed": 300.0,
    "tiles": 180.0,
    "folding": 60.0,
}

# These time nothing, and are mostly compiling: on a card they run side by side.
_UNTIMED = ("edges", "tests", "sanitizer")

# The rehearsal is on a CPU, in Triton's interpreter.
_DRY_FACTOR = 4.0

_DONE = ("ok", "wrong", "skipped")


def run(
    folder: Path,
    *,
    dry: bool,
    parts: Sequence[str] | None = None,
    again: bool = False,
    revision: str | None = None,
    say: Callable[[str], None] = print,
) -> tuple[Path, Result]:
    """Run the parts that `folder` has no outcome of yet; return the JSON file and what it holds.

    Args:
        folder: where the file lies, or will.
        dry: rehearse on the CPU.
        parts: only these.
        again: run them whatever the file has.
        revision: the commit, for a copy without its history.
        say: told of each part, and the table at the end.

    Raises:
        ValueError: there is no such part.
    """
    for name in parts or ():
        if name not in PARTS:
            raise ValueError(f"there is no part {name!r}; there are {', '.join(PARTS)}")
    at = commit(revision)
    folder.mkdir(parents=True, exist_ok=True)
    environment = _part("environment", dry)
    path = folder / f"gpu{'-dry' if dry else ''}-{slug(_name(environment))}.json"
    result = _earlier(path, at) or {
        "suite": "gpu",
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "dry": dry,
        "commit": at,
        "parts": {},
    }
    result["parts"]["environment"] = environment
    _write(path, result)
    say(_line("environment", environment))
    wanted = [name for name in parts or PARTS if name != "environment"]
    missing = [
        name
        for name in wanted
        if again or result["parts"].get(name, {}).get("status") not in _DONE
    ]
    for name in wanted:
        if name not in missing:
            say(_line(name, result["parts"][name]))
    for together in _rounds(missing, dry):
        with ThreadPoolExecutor(len(together)) as pool:
            under_way = {pool.submit(_part, name, dry): name for name in together}
            for done in as_completed(under_way):
                name = under_way[done]
                outcome = result["parts"][name] = done.result()
                if "result" in outcome:  # a suite's own, which asked git
                    outcome["result"]["commit"] = at
                _write(path, result)
                say(_line(name, outcome))
    say(_table(result))
    return path, result


def failures(result: Result) -> list[str]:
    """Return what was wrong, crashed or hung."""
    return [
        f"{name}: {outcome['summary']}"
        for name, outcome in result["parts"].items()
        if outcome["status"] not in ("ok", "skipped")
    ]


def _rounds(names: list[str], dry: bool) -> list[list[str]]:
    """Parts that run at the same time, a round after another."""
    if dry:
        return [[name] for name in names]
    untimed = [name for name in names if name in _UNTIMED]
    return [*([untimed] if untimed else []), *([name] for name in names if name not in _UNTIMED)]


def _part(name: str, dry: bool) -> Result:
    """Run a part in a process of its own; its outcome has status, summary, seconds and more."""
    limit = PARTS[name] * (_DRY_FACTOR if dry else 1)
    environment = dict(os.environ)
    if dry:
        environment |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "outcome.json"
        command = [sys.executable, "-m", "benchmarks.gpu", name, str(out)]
        command += ["--dry"] if dry else []
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, timeout=limit, capture_output=True, text=True
            )
            outcome = json.loads(out.read_text(encoding="utf-8")) if out.exists() else None
            if outcome is None:
                last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
                summary = f"its process ended with {done.returncode}: {last}"[:300]
                outcome = {"status": "crashed", "summary": summary}
        except subprocess.TimeoutExpired:
            outcome = {"status": "hung", "summary": f"no end after {limit:.0f} s"}
    seconds = round(time.monotonic() - started, 1)
    return {"seconds": seconds, **outcome}


def _name(environment: Result) -> str:
    machine = environment.get("machine", {})
    return str(machine.get("name", "unknown"))


def _earlier(path: Path, at: dict[str, Any]) -> Result | None:
    """What an interrupted session of the same commit on the same card left."""
    try:
        result: Result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return result if result.get("commit") == at else None


def _write(path: Path, result: Result) -> None:
    parts = result["parts"]
    result["parts"] = {name: parts[name] for name in PARTS if name in parts}
    whole = path.with_suffix(".part")
    whole.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    whole.replace(path)


def _line(name: str, outcome: Result) -> str:
    return f"{name}: {outcome['status']} in {outcome['seconds']:.0f} s: {outcome['summary']}"


def _table(result: Result) -> str:
    table = [("part", "status", "seconds", "outcome")]
    table += [
        (name, outcome["status"], f"{outcome['seconds']:.0f}", outcome["summary"])
        for name, outcome in result["parts"].items()
    ]
    details = [line for outcome in result["parts"].values() for line in outcome.get("table", ())]
    return "\n".join(["", *aligned(table, left=(0, 1, 3)), *details])
