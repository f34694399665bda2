"""Whole suites, end to end, take a minute each: the tests of what they leave are slow ones."""

from __future__ import annotations

import pytest

import tests.interpreting  # noqa: F401


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a suite's results."""
    for item in items:
        if "finished" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
