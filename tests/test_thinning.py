"""Of a thinned test's parameter sets one in n runs, and every value is seen."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

CONFTEST = """
from tests.thinning import thin

def pytest_collection_modifyitems(items):
    thin(items)
"""
TESTS = """
import pytest

@pytest.mark.thinned(4)
@pytest.mark.parametrize("a", range(6))
@pytest.mark.parametrize("b", "xyz")
@pytest.mark.parametrize("c", [None, 1.5])
def test_product(a, b, c): print(f"<product {a} {b} {c}>")

@pytest.mark.thinned(4)
@pytest.mark.parametrize("a", range(6))
def test_each(a): print(f"<each {a}>")

@pytest.mark.parametrize("a", range(6))
def test_all(a): print(f"<all {a}>")
"""
INI = "[pytest]\nmarkers =\n  thinned(n): some run\n  rest: the others\n"


def ran(directory: Path, which: str) -> dict[str, set[str]]:
    """By test the parameter sets that `-m which` runs."""
    (directory / "conftest.py").write_text(CONFTEST)
    (directory / "test_some.py").write_text(TESTS)
    (directory / "pytest.ini").write_text(INI)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-s", "-q", "-m", which],
        cwd=directory,
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, set[str]] = {"product": set(), "each": set(), "all": set()}
    for test, values in re.findall("<(\\w+) (.*?)>", done.stdout):
        found[test].add(values)
    return found


def test_one_in_n_runs_and_each_value(tmp_path: Path) -> None:
    some = ran(tmp_path, "not rest")
    assert len(some["all"]) == len(some["each"]) == 6  # no other set shows these values
    assert len(some["product"]) == 9
    for column, values in enumerate(("012345", "xyz")):
        assert {case.split()[column] for case in some["product"]} == set(values)
    assert ran(tmp_path, "not rest") == some
    rest = ran(tmp_path, "rest")
    assert rest["each"] == rest["all"] == set()
    assert rest["product"].isdisjoint(some["product"])
    assert len(rest["product"]) == 36 - 9
