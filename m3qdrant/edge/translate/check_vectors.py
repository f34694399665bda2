"""Vectors, checked before the embedded engine sees them.

The engine trusts its caller. A ragged multivector makes it panic *after* it has logged the write,
so that every later opening replays the panic; one whose numbers happen to divide evenly is
reshaped without a word; NaN, duplicate sparse indices and unequal sparse lengths are stored; a
payload that nests too deep can be written but never read back; and a batch that it rejects
half-way stays half-applied. So nothing here trusts the caller.

The functions are pure. They don't only check, they also return what they checked, as arrays of
float32 that nobody else can change before the engine reads them (an array that was float32 and
contiguous already is not copied: it is the caller's, who must leave it alone during the call).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from qdrant_client import models

from m3qdrant.edge.translate.vector_specs import VectorSpec, VectorSpecs, unknown_vector
from m3qdrant.errors import InputError
from m3qdrant.limits import MULTIVECTOR_LIMIT, most_tokens

__all__ = [
    "CheckedVector",
    "RefusedError",
    "Sparse",
    "check_query_vector",
    "check_vector",
    "check_vector_names",
]

_FLOAT16_MAX = 65504.0

_UINT32_MAX = 2**32 - 1


class Sparse(NamedTuple):
    """A checked sparse vector: uint32 indices, ascending and unique, and float32 values."""

    indices: NDArray[np.uint32]
    values: NDArray[np.float32]


CheckedVector = NDArray[np.float32] | Sparse
"""(size,) for a dense vector, (tokens, size) for a multivector, or a `Sparse`."""


class RefusedError(Exception):
    """A reason, before it is known which point and field it belongs to."""


def check_query_vector(vector: Any, name: str | None, layout: VectorSpecs) -> CheckedVector:
    """A query's vector, under the rules of the stored vector `name` (None: the unnamed one).

    Raises:
        InputError: with the vector's name, what is wrong, and the remedy.
    """
    spec = layout.get(name or "")
    if spec is None:
        what = f"the query names the vector {name!r}: " if name else "the query names no vector: "
        hint = unknown_vector(name, layout) if name else _pass_using(layout)
        raise InputError(what + hint)
    try:
        return check_vector(vector, spec)
    except RefusedError as refused:
        where = f"the query for the vector {name!r}" if name else "the query vector"
        raise InputError(f"{where}: {refused}") from None


def check_vector_names(names: Iterable[str], layout: VectorSpecs) -> list[str]:
    """Vectors' names, each of which must exist; "" is the unnamed vector.

    Raises:
        InputError: a name that the collection lacks, or no name at all.
    """
    if isinstance(names, str):
        raise InputError(f"pass a list of vectors' names, not the string {names!r}")
    each = list(names)
    if not each:
        raise InputError("the list of vectors' names is empty: pass at least one")
    for name in each:
        if name not in layout:
            raise InputError(f"the vector {name!r}: {unknown_vector(name, layout)}")
    return each


def _pass_using(layout: VectorSpecs) -> str:
    return "pass using=, one of " + (", ".join(repr(n) for n in layout if n) or "none")


def check_vector(vector: Any, spec: VectorSpec) -> CheckedVector:
    if isinstance(vector, (models.Document, models.Image, models.InferenceObject)):
        raise RefusedError(
            f"a {type(vector).__name__} needs an inference service: encode it first, "
            "M3Encoder does it here"
        )
    if spec.kind == "sparse":
        return _check_sparse(vector, spec)
    if _is_sparse(vector):
        raise RefusedError(f"a sparse vector, where the collection keeps a {_words(spec)}")
    if spec.kind == "multi":
        return _check_multi(vector, spec)
    return _check_dense(vector, spec)


def _words(spec: VectorSpec) -> str:
    if spec.kind == "multi":
        return f"multivector of {spec.size} numbers a token"
    return f"dense vector of {spec.size} numbers" if spec.kind == "dense" else "sparse vector"


def _is_sparse(vector: Any) -> bool:
    return hasattr(vector, "indices") and hasattr(vector, "values")


def _array(vector: Any) -> Any:
    """Numpy arrays and what converts to one (a CPU tensor) as an array; anything else as it is."""
    if isinstance(vector, (np.ndarray, list, tuple)) or not hasattr(vector, "__array__"):
        return vector
    return np.asarray(vector)


def _check_dense(vector: Any, spec: VectorSpec) -> NDArray[np.float32]:
    vector = _array(vector)
    if isinstance(vector, np.ndarray):
        if vector.ndim != 1:
            raise RefusedError(
                f"an array of shape {vector.shape}, where the collection keeps a {_words(spec)}"
            )
        if len(vector) != spec.size:
            raise RefusedError(_wrong_size(len(vector), spec))
        floats = _to_float32(vector)
    else:
        floats = np.frombuffer(_pack(vector, spec), dtype=np.float32)
    _check_finite(floats, spec)
    return floats


def _check_multi(vector: Any, spec: VectorSpec) -> NDArray[np.float32]:
    vector = _array(vector)
    if isinstance(vector, np.ndarray) and vector.dtype != object:
        if vector.ndim != 2:
            raise RefusedError(
                f"an array of shape {vector.shape}, where the collection keeps a {_words(spec)}: "
                f"pass an array of shape (tokens, {spec.size})"
            )
        if vector.shape[0] == 0:
            raise RefusedError("no token: leave the vector out of the point instead")
        if vector.shape[1] != spec.size:
            raise RefusedError(f"each token: {_wrong_size(vector.shape[1], spec)}")
        _check_tokens(len(vector), spec)
        floats = _to_float32(vector)
    else:
        floats = _pack_rows(vector, spec)
    _check_finite(floats, spec)
    return floats


def _pack_rows(rows: Any, spec: VectorSpec) -> NDArray[np.float32]:
    if not isinstance(rows, (list, tuple, np.ndarray)):
        raise RefusedError(f"a {type(rows).__name__}, where the collection keeps a {_words(spec)}")
    if len(rows) == 0:
        raise RefusedError("no token: leave the vector out of the point instead")
    if isinstance(rows[0], (int, float, np.number)):
        raise RefusedError(
            f"a flat list of {len(rows)} numbers, where the collection keeps a {_words(spec)}: "
            "pass a list of token vectors"
        )
    _check_tokens(len(rows), spec)
    packed = []
    for i, row in enumerate(rows):
        row = _array(row)
        try:
            if isinstance(row, np.ndarray):
                if row.shape != (spec.size,):
                    raise RefusedError(_wrong_size(row.size, spec))
                packed.append(_to_float32(row).tobytes())
            else:
                packed.append(_pack(row, spec))
        except RefusedError as refused:
            raise RefusedError(f"token {i}: {refused}") from None
    return np.frombuffer(b"".join(packed), dtype=np.float32).reshape(len(rows), spec.size)


def _check_tokens(tokens: int, spec: VectorSpec) -> None:
    most = most_tokens(spec.size)
    if tokens > most:
        raise RefusedError(
            f"{tokens} tokens of {spec.size} numbers: Qdrant takes fewer than "
            f"{MULTIVECTOR_LIMIT:,} numbers a multivector, here at most {most} tokens; "
            "shorten the text or split it into passages"
        )


def _pack(row: Any, spec: VectorSpec) -> bytes:
    """A list of `spec.size` numbers as float32 bytes. `struct` checks the count and each type."""
    if not isinstance(row, (list, tuple)):
        raise RefusedError(f"a {type(row).__name__}, where {spec.size} numbers belong")
    try:
        return struct.pack(f"{spec.size}f", *row)
    except OverflowError:
        raise RefusedError("a number too large for float32: scale the vector") from None
    except struct.error:
        if len(row) != spec.size:
            raise RefusedError(_wrong_size(len(row), spec)) from None
        i, bad = next((i, x) for i, x in enumerate(row) if not isinstance(x, (int, float)))
        raise RefusedError(
            f"position {i} is a {type(bad).__name__}, where a number belongs"
        ) from None


def _wrong_size(size: int, spec: VectorSpec) -> str:
    return (
        f"{size} numbers, where the collection keeps {spec.size}: "
        "encode with the model that the collection was made for"
    )


def _to_float32(array: NDArray[Any]) -> NDArray[np.float32]:
    if array.dtype.kind not in "fiu":
        raise RefusedError(f"an array of {array.dtype}: pass float32")
    with np.errstate(over="ignore", invalid="ignore"):  # infinities are reported by _check_finite
        return np.ascontiguousarray(array, dtype=np.float32)


def _check_finite(floats: NDArray[np.float32], spec: VectorSpec) -> None:
    flat = floats.reshape(-1)
    # One dot product is the cheapest look at every number: NaN and infinity survive it. It may
    # also overflow by itself, so only a failure looks closer.
    with np.errstate(over="ignore", invalid="ignore"):
        finite = math.isfinite(float(np.dot(flat, flat)))
        if not finite:
            bad = np.flatnonzero(~np.isfinite(flat))
            if len(bad):
                row = f"token {int(bad[0]) // spec.size}, " if spec.kind == "multi" else ""
                column = int(bad[0]) % spec.size if spec.kind == "multi" else int(bad[0])
                raise RefusedError(
                    f"{row}position {column} is {flat[bad[0]]}: every number must be finite, "
                    "look for an overflow or an empty input in the encoder"
                )
            norms = np.square(floats).sum(axis=-1)
            if spec.cosine and not np.isfinite(norms).all():
                raise RefusedError("its squared norm overflows float32: scale the vector")
    if spec.float16 and not spec.cosine and len(flat) and np.abs(flat).max() > _FLOAT16_MAX:
        raise RefusedError(
            f"holds {np.abs(flat).max():g}, and the collection keeps float16, at most 65504: "
            "scale the vector"
        )


def _check_sparse(vector: Any, spec: VectorSpec) -> Sparse:
    if not _is_sparse(vector):
        raise RefusedError(
            f"a {type(vector).__name__}, where the collection keeps a sparse vector: "
            "pass models.SparseVector(indices=..., values=...)"
        )
    indices, values = np.asarray(vector.indices), np.asarray(vector.values)
    if indices.ndim != 1 or indices.shape != values.shape:
        raise RefusedError(
            f"{indices.size} indices and {values.size} values: each index needs its value"
        )
    if len(indices) == 0:
        return Sparse(np.empty(0, np.uint32), np.empty(0, np.float32))
    if indices.dtype.kind not in "iu" or indices.min() < 0 or indices.max() > _UINT32_MAX:
        raise RefusedError("its indices must be integers from 0 to 4294967295")
    ids = np.ascontiguousarray(indices, dtype=np.uint32)
    weights = _to_float32(values)
    if (ids[1:] <= ids[:-1]).any():
        order = np.argsort(ids, kind="stable")
        ids, weights = ids[order], weights[order]
        twice = np.flatnonzero(ids[1:] == ids[:-1])
        if len(twice):
            raise RefusedError(
                f"the index {ids[twice[0]]} stands there twice: keep one value for each index"
            )
    _check_finite(weights, spec)
    return Sparse(ids, weights)
