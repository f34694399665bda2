"""Which parameter sets of a test run by default, where all of them would take minutes.

    @pytest.mark.thinned(4)
    @pytest.mark.parametrize("dim", [16, 64, 1024])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_scores(...): ...

One set in four runs, and every value of every parameter in one of them at least: which ones, a
checksum of their names decides. The others are marked `rest`; `-m rest` asks for them.
"""

from __future__ import annotations

import math
import zlib
from collections import defaultdict
from collections.abc import Iterable

import pytest

__all__ = ["thin"]


def thin(items: Iterable[pytest.Item]) -> None:
    """Mark what `thinned` tests leave out."""
    tests: dict[str, list[pytest.Function]] = defaultdict(list)
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("thinned"):
            tests[item.nodeid.partition("[")[0]].append(item)
    for sets in tests.values():
        marker = sets[0].get_closest_marker("thinned")
        assert marker is not None
        for item in _others(sets, math.ceil(len(sets) / marker.args[0])):
            item.add_marker("rest")


def _others(sets: list[pytest.Function], most: int) -> list[pytest.Function]:
    """All but `most` of the sets, and but those that hold a value which no other one has shown."""
    seen: set[tuple[str, int]] = set()
    kept, others = 0, []
    for item in sorted(sets, key=lambda item: zlib.crc32(item.name.encode())):
        values = {(name, id(value)) for name, value in item.callspec.params.items()}
        if values <= seen:
            others.append(item)
        else:
            kept += 1
        seen |= values
    return others[max(most - kept, 0) :]
