"""Rows where rows are meant: a table's records, never what iterating over it happens to give.

Iterating a pandas table gives the names of its columns, a mapping its keys, an open file its
lines. Tables are known by their methods, so that none of their libraries is imported.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sized
from collections.abc import Set as AbstractSet
from typing import Any, Literal, TypeAlias

import numpy as np

from m3qdrant.errors import InputError

__all__ = ["no_items", "records", "values"]

Container: TypeAlias = Literal["mapping", "set", "bytes", "path", "file"]


def records(source: Any, what: str) -> tuple[Any, int | None]:
    """The items of `source`, a table's as a mapping each; and how many, where that is known.

    Tables are those of pandas, polars, pyarrow and datasets. What a table of pandas lacks (NaN,
    NaT, NA) is None in the records, but an id that is lacking stays as it is.

    Args:
        source: a table, or any iterable of items; what is neither is given back as it is.
        what: the argument's name, for messages.

    Raises:
        InputError: it iterates over something else than items, with the remedy.
    """
    length = len(source) if isinstance(source, Sized) else None
    if callable(getattr(source, "iter_rows", None)) and hasattr(source, "columns"):  # polars
        return source.iter_rows(named=True), length
    if callable(getattr(source, "iterrows", None)) and hasattr(source, "columns"):  # pandas
        return _pandas(source), length
    if callable(getattr(source, "to_batches", None)):  # pyarrow
        batches = source.to_batches()
        return (row for batch in batches for row in batch.to_pylist()), getattr(
            source, "num_rows", length
        )
    if callable(getattr(source, "to_pylist", None)):  # pyarrow's batches and columns
        return source.to_pylist(), length
    _refuse(source, what)
    if isinstance(source, Mapping):
        raise InputError(
            f"{what}: a {type(source).__name__} of columns, or of other things; give its rows, a "
            "list of mappings (pandas.DataFrame(...) makes rows of columns)"
        )
    return source, length


def values(source: Any, what: str) -> list[Any]:
    """The items of a list of ids or texts: a list, tuple, set, array, series, generator.

    Raises:
        InputError: it iterates over something else than items, or is a table.
    """
    if hasattr(source, "columns"):
        raise InputError(f"{what}: a table; give one of its columns, such as table['id']")
    _refuse(source, what)
    if isinstance(source, Mapping):
        raise InputError(f"{what}: a mapping; give a list of what is meant, such as its values")
    if isinstance(source, str) or not isinstance(source, Iterable):
        raise InputError(f"{what}: {type(source).__name__}; give a list")
    of_pyarrow = getattr(source, "to_pylist", None)  # a column, whose own items are no Python's
    return list(of_pyarrow() if callable(of_pyarrow) else source)


def no_items(source: object) -> Container | None:
    """What `source` is, where iterating over it gives no items, or those in no order."""
    if isinstance(source, Mapping):
        return "mapping"
    if isinstance(source, AbstractSet):
        return "set"
    if isinstance(source, bytes | bytearray | memoryview):
        return "bytes"
    if isinstance(source, os.PathLike):
        return "path"
    if hasattr(source, "read") and not hasattr(
        source, "columns"
    ):  # which a table may have so named
        return "file"
    return None


def _refuse(source: Any, what: str) -> None:
    kind = no_items(source)
    if kind == "bytes":
        raise InputError(f"{what}: {type(source).__name__}; decode it first: .decode('utf-8')")
    if kind == "path":
        raise InputError(
            f"{what}: a path; read the file first, or use the command: m3qdrant ingest {source}"
        )
    if kind == "file":
        raise InputError(
            f"{what}: an open file, whose lines may be anything; give what they hold, such as "
            "map(json.loads, file)"
        )
    if isinstance(source, np.ndarray) and source.ndim != 1:
        raise InputError(f"{what}: an array of {source.ndim} dimensions; give one of 1")
    if isinstance(source, np.ndarray) and source.dtype.names:
        raise InputError(
            f"{what}: a structured array; give mappings: "
            "[dict(zip(array.dtype.names, row)) for row in array.tolist()]"
        )
    if type(source).__name__ == "LazyFrame":
        raise InputError(f"{what}: a LazyFrame, which holds no rows yet; give .collect()")


def _pandas(table: Any) -> Iterator[dict[str, Any]]:
    names = [name if isinstance(name, str) else str(name) for name in table.columns]
    if len(set(names)) != len(names):
        raise InputError(f"the table has two columns of one name: {', '.join(names)}")
    for row in table.itertuples(index=False, name=None):
        yield {
            name: None if name != "id" and _lacking(value) else value
            for name, value in zip(names, row, strict=True)
        }


def _lacking(value: Any) -> bool:
    """Whether pandas says by it that there is nothing: NaN, NaT or NA."""
    name = type(value).__name__
    return name in ("NAType", "NaTType") or (
        isinstance(value, float | np.floating | np.datetime64) and bool(value != value)
    )
