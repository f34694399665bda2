"""The kernel suite: verify, then time ours, the peers and the floor, in one run."""

from __future__ import annotations

import datetime
import json
import multiprocessing
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.kernels import case_tables
from benchmarks.kernels.cases import cases, key
from benchmarks.kernels.measuring import Plan, work
from benchmarks.machine import commit, load, slug

__all__ = ["Result", "failures", "run", "write"]

# Longer silence than this is a hang. Triton may compile a score of configurations in one step.
_PATIENCE = 240.0

Result = dict[str, Any]


def run(
    device: str,
    *,
    quick: bool,
    patterns: list[str] | None = None,
    seed: int | None = None,
    threads: int | None = None,
    revision: str | None = None,
    say: Callable[[str], None] = print,
) -> Result:
    """Measure and return the JSON document, printing each case's table when it is there.

    Raises:
        ValueError: no case matches the patterns.
        RuntimeError: the worker died before the first case.
    """
    chosen = cases(device, quick=quick, patterns=patterns)
    if not chosen:
        known = ", ".join(key(case) for case in cases(device, quick=quick))
        raise ValueError(f"no case matches {patterns}; there are {known}")
    seed = secrets.randbelow(2**31) if seed is None else seed
    started = time.monotonic()
    result: Result = {
        "suite": "kernels",
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "quick": quick,
        "seed": seed,
        "commit": commit(revision),
        "load": load(),
        "cases": [],
    }
    plan = Plan(device, chosen, seed, quick, threads)
    for message in _messages(plan):
        if message[0] == "machine":
            result |= {"machine": message[1], "versions": message[2]}
        elif message[0] == "ceilings":
            result["ceilings"] = message[1]
            say(case_tables.header(result))
        elif message[0] == "result":
            result["cases"].append(message[2])
            say(case_tables.block(message[2]))
    result["seconds"] = round(time.monotonic() - started, 1)
    say(case_tables.footer(result))
    return result


def failures(result: Result) -> list[str]:
    """Return what of ours was wrong or did not run."""
    return [
        f"{case['name']}: {row['name']}: {row['reason']}"
        for case in result["cases"]
        for row in case["contenders"]
        if row["required"] and row["status"] != "ok"
    ]


def write(result: Result, folder: Path) -> Path:
    """Write the JSON file into `folder` and return its path."""
    machine = result["machine"]
    quick = "-quick" if result["quick"] else ""
    name = f"kernels{quick}-{machine['device']}-{slug(machine['name'])}-{result['date']}.json"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path


def _messages(plan: Plan) -> Iterator[tuple[Any, ...]]:
    """Yield the workers' machine, ceilings and results, over as many workers as it takes."""
    excluded: dict[tuple[str, str], str] = {}
    while plan.cases:
        done, trying, why = 0, None, None
        for message in _one_worker(plan):
            if message[0] == "ceilings":
                plan = replace(plan, ceilings=message[1])
            if message[0] == "trying":
                trying = (message[1], message[2])
            elif message[0] == "case":
                trying = None
            elif message[0] in ("broken", "died"):
                why = message[1]
            elif message[0] == "result":
                done += 1
                yield message
            elif message[0] != "done":
                yield message
        plan = replace(plan, cases=plan.cases[done:], excluded=excluded)
        if why is None:
            return
        if plan.ceilings is None:
            raise RuntimeError(f"the measuring process {why} before the first case")
        if trying is not None and trying not in excluded:
            excluded[trying] = why
        else:  # the inputs or the reference, not a contender: there is nothing to leave out
            yield ("result", key(plan.cases[0]), _lost(plan, why))
            plan = replace(plan, cases=plan.cases[1:])


def _one_worker(plan: Plan) -> Iterator[tuple[Any, ...]]:
    """Yield a worker's messages, and ("died", why) where it ends before its time."""
    # A fresh process: a forked one could not use CUDA, nor threads that torch has started.
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(sender, plan), daemon=True)
    process.start()
    sender.close()
    try:
        yield from _received(receiver, process)
    finally:
        process.join(20)
        if process.is_alive():
            process.kill()
            process.join()


def _received(
    receiver: Connection, process: multiprocessing.context.SpawnProcess
) -> Iterator[tuple[Any, ...]]:
    while True:
        if not receiver.poll(_PATIENCE):
            process.kill()
            yield ("died", f"gave no sign of life for {_PATIENCE:g} s")
            return
        try:
            message = receiver.recv()
        except EOFError:
            process.join(20)
            code = process.exitcode
            ended = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
            yield ("died", f"crashed its process ({ended})")
            return
        yield message
        if message[0] in ("done", "broken"):
            return


def _lost(plan: Plan, why: str) -> Result:
    """A case without a measurement; ours counts as failed."""
    case = plan.cases[0]
    row = {"name": "m3kernels", "family": "m3kernels", "ours": True, "required": True}
    row |= {"status": "fails", "reason": f"the case's inputs or reference: {why}"}
    return {"name": key(case), "op": case.op, "shapes": str(case), "contenders": [row]}
