"""The process that measures. It runs apart, because a peer may take its process down.

It tells the suite's process what it is about to do before it does it. When it dies or hangs, the
suite knows the contender, notes that, and starts another worker without it.
"""

from __future__ import annotations

import gc
import os
import re
import warnings
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import torch

from benchmarks import machine
from benchmarks.kernels.bench import (
    Case,
    Contender,
    Inputs,
    NotInstalled,
    Prepared,
    Unsupported,
)
from benchmarks.kernels.cases import draw, key
from benchmarks.kernels.ceilings import copy_bandwidth, matmul_rates
from benchmarks.kernels.expected import Expected
from benchmarks.kernels.ops import bench_of
from benchmarks.kernels.ours import contenders
from benchmarks.timing import Clock, clock_for, in_turn, summary

__all__ = ["Broken", "Limits", "Plan", "work"]

# Beside ours, those of the peers that may be there.
_PACKAGES = (
    "triton",
    "numpy",
    "late-interaction-kernels",
    "flash-maxsim",
    "maxsim-cpu",
    "numkong",
    "scipy",
)

_FOLDERS = re.compile(r"(?:/[\w.+-]+)+/")


@dataclass(frozen=True)
class Limits:
    """How long the timing may take."""

    budget: float  # seconds for all contenders of a case
    call: float  # seconds of one call; a contender that needs more isn't timed
    repeats: tuple[int, int]


@dataclass(frozen=True)
class Plan:
    """What a worker does."""

    device: str
    cases: list[Case]
    seed: int
    quick: bool
    threads: int | None = None
    ceilings: dict[str, Any] | None = None  # of an earlier worker of the same run
    # (case, contender) -> why it isn't tried again
    excluded: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def limits(self) -> Limits:
        """A GPU needs fewer seconds for the same number of calls."""
        if self.quick:
            return Limits(budget=0.2, call=2.0, repeats=(3, 5))
        if self.device == "cuda":
            return Limits(budget=0.8, call=0.5, repeats=(5, 50))
        return Limits(budget=6.0, call=3.0, repeats=(5, 30))


class Broken(Exception):  # noqa: N818  (ends the worker, not the run)
    """The CUDA context is gone, and every later call in this process would fail."""


def work(connection: Connection, plan: Plan) -> None:
    """Measure all cases of a plan; each message is a tuple that starts with its kind."""
    torch.set_grad_enabled(False)
    # A peer's advice on its arguments has no place between the tables.
    warnings.simplefilter("ignore")
    if plan.threads:
        torch.set_num_threads(plan.threads)
    os.environ["RAYON_NUM_THREADS"] = str(torch.get_num_threads())  # maxsim-cpu's
    device = torch.device("cuda", 0) if plan.device == "cuda" else torch.device("cpu")
    clock = clock_for(device)
    ceilings = plan.ceilings
    if ceilings is None:
        connection.send(("machine", machine.describe(device), machine.versions(*_PACKAGES)))
        ceilings = {
            "copy_bytes_per_s": copy_bandwidth(device, clock, quick=plan.quick),
            "matmul_flops_per_s": matmul_rates(device, clock, quick=plan.quick),
            "cache_bytes": clock.cache_bytes,
        }
        connection.send(("ceilings", ceilings))
    for case in plan.cases:
        connection.send(("case", key(case)))
        try:
            result = _case(case, plan, device, clock, ceilings, connection)
        except Broken as broken:
            connection.send(("broken", str(broken)))
            return
        connection.send(("result", key(case), result))
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    connection.send(("done",))


def _case(
    case: Case,
    plan: Plan,
    device: torch.device,
    clock: Clock,
    ceilings: dict[str, Any],
    connection: Connection,
) -> dict[str, Any]:
    rates = ceilings["matmul_flops_per_s"]
    described: dict[str, Any] = {
        "name": key(case),
        "op": case.op,
        "shapes": str(case),
        "dtype": case.dtype,
    }
    inputs = draw(case, plan.seed, device)
    expected = inputs.expected()
    floor, bound = expected.work.floor(ceilings["copy_bytes_per_s"], rates[case.dtype])
    described |= {
        "bytes": expected.work.bytes,
        "flops": expected.work.flops,
        "floor_s": floor,
        "bound": bound,
    }

    rows: dict[str, dict[str, Any]] = {}
    ready: dict[str, Prepared] = {}
    estimates: dict[str, float] = {}
    for contender in contenders(bench_of(case.op), plan.device):
        name = contender.name
        rows[name] = row = _row(contender)
        why = plan.excluded.get((key(case), name))
        if why is not None:
            row |= {"status": "fails", "reason": why}
            continue
        connection.send(("trying", key(case), name))
        prepared = _verified(contender, inputs, expected, row, device)
        if prepared is None:
            continue
        estimate = clock.once(prepared.run)
        if estimate > plan.limits.call and not contender.ours:
            reason = f"one call took {estimate:.1f} s, the limit is {plan.limits.call:g} s"
            row |= {"status": "too slow", "reason": reason}
            continue
        ready[name], estimates[name] = prepared, estimate

    samples = in_turn(
        clock,
        {name: prepared.run for name, prepared in ready.items()},
        estimates,
        budget=plan.limits.budget,
        repeats=plan.limits.repeats,
        before=lambda name: connection.send(("trying", key(case), name)),
    )
    for name, seconds in samples.items():
        rows[name] |= {"status": "ok", **summary(seconds)}
    return described | {"contenders": list(rows.values())}


def _row(contender: Contender) -> dict[str, Any]:
    return {
        "name": contender.name,
        "family": contender.family,
        "ours": contender.ours,
        "required": contender.required,
    }


def _verified(
    contender: Contender,
    inputs: Inputs,
    expected: Expected,
    row: dict[str, Any],
    device: torch.device,
) -> Prepared | None:
    """Run a contender once; None, with the reason in `row`, where it is not to be timed."""
    try:
        prepared = contender.prepare(inputs)
        row["note"] = prepared.note
        check = expected.check(prepared.result(prepared.run()))
    except NotInstalled as answer:
        row |= {"status": "not installed", "reason": str(answer)}
    except Unsupported as answer:
        row |= {"status": "unsupported", "reason": str(answer)}
        if answer.__cause__ is not None and device.type == "cuda":
            _still_works(device, str(answer))
    except Exception as error:
        row |= {"status": "fails", "reason": _in_a_line(error)}  # a peer may raise anything
        if device.type == "cuda":
            _still_works(device, row["reason"])
    else:
        row["error"] = {"relative": check.relative, "largest": check.largest}
        if check.ok:
            return prepared
        row |= {"status": "wrong", "reason": str(check)}
    return None


def _in_a_line(error: Exception) -> str:
    """An error's type and first line, without this machine's folders."""
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {_FOLDERS.sub('', first)}"[:200]


def _still_works(device: torch.device, reason: str) -> None:
    """Raise `Broken` where an error was one that CUDA doesn't recover from."""
    try:
        torch.cuda.synchronize(device)
        torch.zeros(1, device=device).add_(1).item()
        torch.cuda.empty_cache()
    except RuntimeError as error:
        raise Broken(reason) from error
