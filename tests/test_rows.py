"""Rows where rows are meant: tables by their records, and nothing by what iterating gives."""

from __future__ import annotations

import io
import pathlib
import tempfile
from typing import Any

import numpy as np
import pytest

from m3qdrant import M3Encoder, M3Store
from m3qdrant.errors import InputError
from m3qdrant.rows import records, values

TABLE = {"id": ["a", "b", "c"], "text": ["one", "two", "three"], "year": [1, 2, 3]}
RECORDS = [dict(zip(TABLE, row, strict=True)) for row in zip(*TABLE.values(), strict=True)]


def tables() -> list[Any]:
    found: list[Any] = []
    for library, make in (("pandas", "DataFrame"), ("polars", "DataFrame"), ("pyarrow", "table")):
        try:
            module = __import__(library)
        except ImportError:
            continue
        found.append(pytest.param(getattr(module, make)(TABLE), id=library))
    return found or [pytest.param(None, marks=pytest.mark.skip(reason="no table library here"))]


@pytest.mark.parametrize("table", tables())
def test_a_tables_rows(table: Any) -> None:
    rows, length = records(table, "documents")
    assert [dict(row) for row in rows] == RECORDS
    assert length == 3


@pytest.mark.parametrize("table", tables())
def test_a_table_is_stored_by_its_rows(table: Any, encoder: M3Encoder) -> None:
    with M3Store(":memory:", "c", encoder) as store:
        report = store.add(table)
        assert (report.added, report.failed) == (3, [])
        assert sorted(d.id for d in store.documents()) == ["a", "b", "c"]
        assert store.count({"year": 2}) == 1
        with pytest.raises(InputError, match="ids: a table; give one of its columns"):
            store.delete(table)
        assert store.delete(table["id"] if hasattr(table, "iter_rows") else ["a", "b", "c"]) == 3


def test_what_pandas_lacks() -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(
        {
            "id": [1, None, 3],
            "text": ["x", "y", None],
            "score": [1.5, float("nan"), 2],
            "day": [pandas.Timestamp("2020-01-02"), pandas.NaT, pandas.NaT],
            "flag": pandas.array([True, None, False], dtype="boolean"),
        }
    )
    rows = list(records(table, "documents")[0])
    assert [row["score"] for row in rows] == [1.5, None, 2]
    assert [row["text"] for row in rows][2] is None
    assert [row["flag"] for row in rows] == [True, None, False]
    assert rows[1]["day"] is None
    assert rows[1]["id"] != rows[1]["id"]  # a lacking id is no reason to make one up


def test_ids_that_a_gap_made_floats(encoder: M3Encoder) -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"id": [1, None], "text": ["x", "y"]})
    with M3Store(":memory:", "c", encoder) as store:
        report = store.add(table)
        assert [error.field for error in report.failed] == ["id", "id"]
        assert "give 1, or its text" in report.failed[0].reason
        assert store.count() == 0


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        (b"hello", "bytes; decode it first"),
        (pathlib.PurePosixPath("docs.jsonl"), "a path; read the file first"),
        (io.StringIO("a"), "an open file"),
        (tempfile.NamedTemporaryFile("w+"), "an open file"),  # noqa: SIM115
        (np.zeros((2, 2)), "an array of 2 dimensions"),
        (np.zeros(2, dtype=[("id", "U1"), ("text", "U1")]), "a structured array"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_list_of_documents(source: Any, complaint: str, encoder: M3Encoder) -> None:
    with pytest.raises(InputError, match=complaint):
        values(source, "ids")
    with M3Store(":memory:", "c", encoder) as store:
        with pytest.raises(InputError, match=f"documents: {complaint}"):
            store.add(source)
        with pytest.raises(InputError, match="ids"):
            store.get(source)
        assert store.count() == 0


def test_lists_of_values() -> None:
    for source in (
        ["a", "b"],
        ("a", "b"),
        np.array(["a", "b"]),
        (c for c in "ab"),
        {"a": 1, "b": 2}.keys(),
    ):
        assert values(source, "ids") == ["a", "b"]
    for wrong in ("ab", {"a": 1}, 3, None):
        with pytest.raises(InputError, match=r"^ids: "):
            values(wrong, "ids")


def test_what_pyarrow_iterates_by_columns() -> None:
    arrow = pytest.importorskip("pyarrow")
    table = arrow.table(TABLE)
    batch = table.to_batches()[0]
    assert list(records(batch, "documents")[0]) == RECORDS
    assert values(table["id"], "ids") == ["a", "b", "c"]
    assert list(records(table["text"], "documents")[0]) == TABLE["text"]
    with pytest.raises(InputError, match="ids: a table"):
        values(table, "ids")
