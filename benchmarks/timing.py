"""Timing: a clock for each device, cold caches, contenders in turn, medians."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

__all__ = [
    "Clock",
    "CpuClock",
    "CudaClock",
    "Run",
    "capture",
    "clock_for",
    "in_turn",
    "quantile",
    "summary",
]

Run = Callable[[], Any]

_cuda: Any = torch.cuda  # some of its classes have no types

# Reading this many times the cache's size leaves nothing of a contender's inputs in it. On a GPU
# it also takes long enough, some 0.3 ms, for Python to queue a call's launches meanwhile.
_FLUSHES = 4
_FLUSHES_CUDA = 16
# Rounds end early, after this many at least, when they took this many budgets.
_FEWEST_EVER = 3
_OVERDRAFT = 3.0

_CACHE = Path("/sys/devices/system/cpu/cpu0/cache")
_UNKNOWN_CACHE = 32 << 20


class Clock(Protocol):
    """Times single calls that find their inputs in memory, not in a cache."""

    cache_bytes: int

    def once(self, run: Run) -> float:
        """Return the seconds of one call."""


class CpuClock:
    """Wall time on the CPU."""

    def __init__(self) -> None:
        """Read the size of the last cache."""
        self.cache_bytes = _last_cache()
        self._other = torch.ones(_FLUSHES * self.cache_bytes // 4)

    def once(self, run: Run) -> float:
        """Return the seconds of one call."""
        self._other.sum()
        start = time.perf_counter()
        run()
        return time.perf_counter() - start


class CudaClock:
    """Device time between two events around the call.

    The flush reads. Writing would leave the cache full of lines that the timed call has to write
    back, which is a good part of a small op's traffic. While the flush runs, Python queues the
    call's launches, so that one or two launches cost what the device spends on them. A call that
    waits for the device, or launches more, shows that in its time.
    """

    def __init__(self, device: torch.device) -> None:
        """Read the size of the L2 cache."""
        self.cache_bytes = int(torch.cuda.get_device_properties(device).L2_cache_size)
        self._other = torch.ones(_FLUSHES_CUDA * self.cache_bytes // 4, device=device)
        self._sum = torch.empty((), device=device)

    def once(self, run: Run) -> float:
        """Return the seconds of one call."""
        start, end = (_cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        torch.sum(self._other, 0, out=self._sum)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) / 1e3


def clock_for(device: torch.device) -> Clock:
    """Return the clock of a device."""
    return CudaClock(device) if device.type == "cuda" else CpuClock()


def capture(run: Run) -> tuple[Run, Any]:
    """Record a call in a CUDA graph; return its replay, and the output that replays rewrite.

    Raises whatever the call raises where it cannot be recorded, such as a wait for the device.
    """
    # Compilation and the allocator's first requests belong before the recording, on a side
    # stream, as torch's documentation of CUDA graphs asks.
    side = _cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = run()
    return graph.replay, output


def in_turn(
    clock: Clock,
    runs: Mapping[str, Run],
    estimates: Mapping[str, float],
    *,
    budget: float,
    repeats: tuple[int, int],
    before: Callable[[str], None],
) -> dict[str, list[float]]:
    """Time all contenders in rounds, one call each, and return the seconds of each call.

    Rounds let a slow minute of the machine hit all alike. Each round starts with another
    contender, so that none always follows the same one. The first round is not counted.

    Args:
        clock: the device's clock.
        runs: the calls by contender.
        estimates: seconds of one call, which set the number of rounds.
        budget: seconds for all rounds together.
        repeats: the fewest and the most rounds.
        before: told the contender before each of its calls.
    """
    samples: dict[str, list[float]] = {name: [] for name in runs}
    if not runs:
        return samples
    names = list(runs)
    fewest, most = repeats
    rounds = int(budget / max(sum(estimates[name] for name in names), 1e-6))
    spent = 0.0
    for i in range(min(max(rounds, fewest), most) + 1):
        # The machine got slower than it was for the estimates.
        if i > _FEWEST_EVER and spent > _OVERDRAFT * budget:
            break
        shift = i % len(names)
        for name in names[shift:] + names[:shift]:
            before(name)
            seconds = clock.once(runs[name])
            spent += seconds
            if i > 0:
                samples[name].append(seconds)
    return samples


def summary(samples: Sequence[float]) -> dict[str, float | int]:
    """Return the median and the spread of some seconds."""
    ordered = sorted(samples)
    return {
        "median_s": quantile(ordered, 0.5),
        "min_s": ordered[0],
        "p10_s": quantile(ordered, 0.1),
        "p90_s": quantile(ordered, 0.9),
        "repeats": len(ordered),
    }


def quantile(ordered: Sequence[float], q: float) -> float:
    """Return the q-quantile of sorted numbers, linear between neighbours."""
    place = q * (len(ordered) - 1)
    i = int(place)
    j = min(i + 1, len(ordered) - 1)
    return ordered[i] + (place - i) * (ordered[j] - ordered[i])


def _last_cache() -> int:
    sizes = [_UNKNOWN_CACHE]
    for path in _CACHE.glob("index*/size"):
        text = path.read_text().strip()
        number = text.rstrip("KMG")
        if number.isdigit():
            sizes.append(int(number) << {"K": 10, "M": 20, "G": 30}.get(text[-1:], 0))
    return max(sizes)
