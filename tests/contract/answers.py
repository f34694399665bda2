"""Answers as plain values, and how those of two backends are compared."""

from __future__ import annotations

from typing import Any

import pytest

__all__ = ["assert_same", "ids", "plain"]


def ids(hits: Any) -> list[str]:
    """The ids of hits, in their order, plain ones or not."""
    return [hit["id"] if isinstance(hit, dict) else hit.id for hit in hits]


def plain(value: Any) -> Any:
    """Results as plain values: hits and reports by what they hold."""
    if hasattr(value, "to_dict"):
        return plain(value.to_dict())
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def assert_same(found: Any, expected: Any, where: str) -> None:
    """The same values in the same order; numbers to 1e-5."""
    if isinstance(expected, float) and isinstance(found, (float, int)):
        assert found == pytest.approx(expected, abs=1e-5), where
    elif isinstance(expected, dict):
        assert isinstance(found, dict), where
        assert set(found) == set(expected), where
        for key, item in expected.items():
            assert_same(found[key], item, f"{where}[{key!r}]")
    elif isinstance(expected, list):
        assert isinstance(found, list), where
        assert len(found) == len(expected), where
        for i, (a, b) in enumerate(zip(found, expected, strict=True)):
            assert_same(a, b, f"{where}[{i}]")
    else:
        assert found == expected, where
