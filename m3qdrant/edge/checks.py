"""Everything that is checked before the embedded engine sees it.

The engine trusts its caller. A ragged multivector makes it panic *after* it has logged the write,
so that every later opening replays the panic; one whose numbers happen to divide evenly is
reshaped without a word; NaN, duplicate sparse indices and unequal sparse lengths are stored; a
payload that nests too deep can be written but never read back; and a batch that it rejects
half-way stays half-applied. So nothing here trusts the caller: a batch is checked whole, and
either all of it is handed on or none.

The functions are pure. They don't only check, they also return what they checked, as arrays of
float32 that nobody else can change before the engine reads them (an array that was float32 and
contiguous already is not copied: it is the caller's, who must leave it alone during the call).
"""

from __future__ import annotations

import math
import struct
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from qdrant_client import models

from m3qdrant.errors import InputError, PointError
from m3qdrant.limits import MULTIVECTOR_LIMIT, most_tokens
from m3qdrant.scalars import plain_json

__all__ = [
    "CheckedPoint",
    "CheckedVector",
    "Sparse",
    "VectorSpec",
    "VectorSpecs",
    "check_id",
    "check_ids",
    "check_point_vectors",
    "check_points",
    "check_query_vector",
    "check_vector_names",
    "layout_of",
]

_FLOAT16_MAX = 65504.0
_UINT32_MAX = 2**32 - 1


class Sparse(NamedTuple):
    """A checked sparse vector: uint32 indices, ascending and unique, and float32 values."""

    indices: NDArray[np.uint32]
    values: NDArray[np.float32]


CheckedVector = NDArray[np.float32] | Sparse
"""(size,) for a dense vector, (tokens, size) for a multivector, or a `Sparse`."""


class CheckedPoint(NamedTuple):
    """A point that is safe to hand to the engine."""

    id: int | str
    vectors: dict[str, CheckedVector]
    payload: dict[str, Any] | None


@dataclass(frozen=True)
class VectorSpec:
    """What a collection expects of one of its vectors.

    Attributes:
        name: the vector's name; "" is the unnamed vector of a collection that has just one.
        kind: dense, multi (one vector a token) or sparse.
        size: numbers in a dense vector, or in one token of a multivector; 0 for sparse.
        float16: stored as float16, so that numbers above 65504 would turn infinite.
        cosine: normalised when stored, so that the sum of squares must stay finite.
    """

    name: str
    kind: Literal["dense", "multi", "sparse"]
    size: int = 0
    float16: bool = False
    cosine: bool = False


VectorSpecs = Mapping[str, VectorSpec]
"""A collection's vectors by name."""


class _RefusedError(Exception):
    """A reason, before it is known which point and field it belongs to."""


def layout_of(config: models.CreateCollection) -> dict[str, VectorSpec]:
    """The vectors that a collection's configuration describes."""
    layout = {}
    for name, dense in _named_vectors(config.vectors).items():
        layout[name] = VectorSpec(
            name,
            "dense" if dense.multivector_config is None else "multi",
            dense.size,
            float16=dense.datatype == models.Datatype.FLOAT16,
            cosine=dense.distance == models.Distance.COSINE,
        )
    for name, sparse in (config.sparse_vectors or {}).items():
        float16 = sparse.index is not None and sparse.index.datatype == models.Datatype.FLOAT16
        layout[name] = VectorSpec(name, "sparse", float16=float16)
    return layout


def _named_vectors(
    vectors: models.VectorParams | Mapping[str, models.VectorParams] | None,
) -> Mapping[str, models.VectorParams]:
    if vectors is None:
        return {}
    return {"": vectors} if isinstance(vectors, models.VectorParams) else vectors


# points


def check_points(
    points: models.Batch | Iterable[models.PointStruct], layout: VectorSpecs
) -> list[CheckedPoint]:
    """Check a batch as `upsert` takes it: a list of points, or a `Batch` of columns.

    Vectors may be lists, numpy arrays, or lists of either; float32 arrays are the fastest.

    Raises:
        PointError: the first point that is wrong, by id, with the field and the remedy.
        InputError: the batch as a whole is wrong: empty, or columns of different lengths.
    """
    checked = [
        _check_point(i, id, vector, payload, layout)
        for i, (id, vector, payload) in enumerate(_rows(points))
    ]
    if not checked:
        raise InputError("the batch is empty: pass at least one point")
    return checked


def check_point_vectors(
    points: Iterable[models.PointVectors], layout: VectorSpecs
) -> list[CheckedPoint]:
    """Check what `update_vectors` takes, as `check_points` does; the payloads are None.

    Raises:
        PointError: the first point that is wrong, by id, with the vector's name and the remedy.
        InputError: there are no points.
    """
    checked = []
    for i, point in enumerate(points):
        if not hasattr(point, "id") or not hasattr(point, "vector"):
            raise InputError(f"point #{i} is a {type(point).__name__}: pass models.PointVectors")
        checked.append(_check_point(i, point.id, point.vector, None, layout))
    if not checked:
        raise InputError("there are no points: pass at least one")
    return checked


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
            raise InputError(f"the vector {name!r}: {_unknown_vector(name, layout)}")
    return each


def _rows(
    points: models.Batch | Iterable[models.PointStruct],
) -> Iterable[tuple[Any, Any, Any]]:
    if not isinstance(points, models.Batch):
        for i, point in enumerate(points):
            if not hasattr(point, "id") or not hasattr(point, "vector"):
                raise InputError(
                    f"point #{i} is a {type(point).__name__}: pass models.PointStruct"
                )
            yield point.id, point.vector, getattr(point, "payload", None)
        return
    n = len(points.ids)
    payloads = points.payloads if points.payloads is not None else [None] * n
    if isinstance(points.vectors, Mapping):
        columns: Mapping[str, Any] = points.vectors
        lengths = {f"vectors[{name!r}]": len(column) for name, column in columns.items()}
        vectors: Sequence[Any] = []
        if all(length == n for length in lengths.values()):
            vectors = [{name: column[i] for name, column in columns.items()} for i in range(n)]
    else:
        vectors = points.vectors
        lengths = {"vectors": len(vectors)}
    lengths["payloads"] = len(payloads)
    for column_name, length in lengths.items():
        if length != n:
            raise InputError(
                f"the batch has {n} ids and {length} {column_name}: pass one for each point"
            )
    yield from zip(points.ids, vectors, payloads, strict=True)


def _check_point(i: int, id: Any, vector: Any, payload: Any, layout: VectorSpecs) -> CheckedPoint:
    shown, field = f"#{i}", "id"
    try:
        checked_id = check_id(id)
        shown = str(checked_id)
        vectors: dict[str, CheckedVector] = {}
        named = vector if isinstance(vector, Mapping) else {"": vector}
        for field, value in named.items():
            spec = layout.get(field)
            if spec is None:
                raise _RefusedError(_unknown_vector(field, layout))
            vectors[field] = _check_vector(value, spec)
        field = "payload"
        return CheckedPoint(checked_id, vectors, _check_payload(payload))
    except _RefusedError as refused:
        raise PointError(shown, field or "vector", str(refused)) from None
    except InputError as error:
        raise PointError(shown, field or "vector", str(error)) from None


def _unknown_vector(name: Any, layout: VectorSpecs) -> str:
    known = ", ".join(repr(n) for n in layout if n)
    if "" in layout:
        known = f"{known} and the unnamed vector" if known else "only the unnamed vector"
    if name == "":
        return f"the vector has no name: pass a dict by name; the collection has {known or 'none'}"
    return f"the collection has no vector of this name; it has {known or 'none'}"


def check_id(id: Any) -> int | str:
    """A point id: an unsigned 64-bit integer, or a UUID (returned as a hyphenated string)."""
    if isinstance(id, uuid.UUID):
        return str(id)
    if isinstance(id, (int, np.integer)) and not isinstance(id, (bool, np.bool_)):
        if 0 <= id < 2**64:
            return int(id)
    elif isinstance(id, str):
        try:
            return str(uuid.UUID(id))
        except ValueError:
            pass
    raise InputError(
        f"{id!r} is no point id: use an integer from 0 to 2^64-1 or a UUID "
        "(uuid.uuid5(uuid.NAMESPACE_URL, your_id) makes one out of any string)"
    )


def check_ids(ids: Iterable[Any]) -> list[int | str]:
    """`check_id` for each of them."""
    if isinstance(ids, (str, bytes)):
        raise InputError(f"pass a list of point ids, not the string {ids!r}")
    return [check_id(id) for id in ids]


# vectors


def check_query_vector(vector: Any, name: str | None, layout: VectorSpecs) -> CheckedVector:
    """A query's vector, under the rules of the stored vector `name` (None: the unnamed one).

    Raises:
        InputError: with the vector's name, what is wrong, and the remedy.
    """
    spec = layout.get(name or "")
    if spec is None:
        what = f"the query names the vector {name!r}: " if name else "the query names no vector: "
        hint = _unknown_vector(name, layout) if name else _pass_using(layout)
        raise InputError(what + hint)
    try:
        return _check_vector(vector, spec)
    except _RefusedError as refused:
        where = f"the query for the vector {name!r}" if name else "the query vector"
        raise InputError(f"{where}: {refused}") from None


def _pass_using(layout: VectorSpecs) -> str:
    return "pass using=, one of " + (", ".join(repr(n) for n in layout if n) or "none")


def _check_vector(vector: Any, spec: VectorSpec) -> CheckedVector:
    if isinstance(vector, (models.Document, models.Image, models.InferenceObject)):
        raise _RefusedError(
            f"a {type(vector).__name__} needs an inference service: encode it first, "
            "M3Encoder does it here"
        )
    if spec.kind == "sparse":
        return _check_sparse(vector, spec)
    if _is_sparse(vector):
        raise _RefusedError(f"a sparse vector, where the collection keeps a {_words(spec)}")
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
            raise _RefusedError(
                f"an array of shape {vector.shape}, where the collection keeps a {_words(spec)}"
            )
        if len(vector) != spec.size:
            raise _RefusedError(_wrong_size(len(vector), spec))
        floats = _to_float32(vector)
    else:
        floats = np.frombuffer(_pack(vector, spec), dtype=np.float32)
    _check_finite(floats, spec)
    return floats


def _check_multi(vector: Any, spec: VectorSpec) -> NDArray[np.float32]:
    vector = _array(vector)
    if isinstance(vector, np.ndarray) and vector.dtype != object:
        if vector.ndim != 2:
            raise _RefusedError(
                f"an array of shape {vector.shape}, where the collection keeps a {_words(spec)}: "
                f"pass an array of shape (tokens, {spec.size})"
            )
        if vector.shape[0] == 0:
            raise _RefusedError("no token: leave the vector out of the point instead")
        if vector.shape[1] != spec.size:
            raise _RefusedError(f"each token: {_wrong_size(vector.shape[1], spec)}")
        _check_tokens(len(vector), spec)
        floats = _to_float32(vector)
    else:
        floats = _pack_rows(vector, spec)
    _check_finite(floats, spec)
    return floats


def _pack_rows(rows: Any, spec: VectorSpec) -> NDArray[np.float32]:
    if not isinstance(rows, (list, tuple, np.ndarray)):
        raise _RefusedError(
            f"a {type(rows).__name__}, where the collection keeps a {_words(spec)}"
        )
    if len(rows) == 0:
        raise _RefusedError("no token: leave the vector out of the point instead")
    if isinstance(rows[0], (int, float, np.number)):
        raise _RefusedError(
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
                    raise _RefusedError(_wrong_size(row.size, spec))
                packed.append(_to_float32(row).tobytes())
            else:
                packed.append(_pack(row, spec))
        except _RefusedError as refused:
            raise _RefusedError(f"token {i}: {refused}") from None
    return np.frombuffer(b"".join(packed), dtype=np.float32).reshape(len(rows), spec.size)


def _check_tokens(tokens: int, spec: VectorSpec) -> None:
    most = most_tokens(spec.size)
    if tokens > most:
        raise _RefusedError(
            f"{tokens} tokens of {spec.size} numbers: Qdrant takes fewer than "
            f"{MULTIVECTOR_LIMIT:,} numbers a multivector, here at most {most} tokens; "
            "shorten the text or split it into passages"
        )


def _pack(row: Any, spec: VectorSpec) -> bytes:
    """A list of `spec.size` numbers as float32 bytes. `struct` checks the count and each type."""
    if not isinstance(row, (list, tuple)):
        raise _RefusedError(f"a {type(row).__name__}, where {spec.size} numbers belong")
    try:
        return struct.pack(f"{spec.size}f", *row)
    except OverflowError:
        raise _RefusedError("a number too large for float32: scale the vector") from None
    except struct.error:
        if len(row) != spec.size:
            raise _RefusedError(_wrong_size(len(row), spec)) from None
        i, bad = next((i, x) for i, x in enumerate(row) if not isinstance(x, (int, float)))
        raise _RefusedError(
            f"position {i} is a {type(bad).__name__}, where a number belongs"
        ) from None


def _wrong_size(size: int, spec: VectorSpec) -> str:
    return (
        f"{size} numbers, where the collection keeps {spec.size}: "
        "encode with the model that the collection was made for"
    )


def _to_float32(array: NDArray[Any]) -> NDArray[np.float32]:
    if array.dtype.kind not in "fiu":
        raise _RefusedError(f"an array of {array.dtype}: pass float32")
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
                raise _RefusedError(
                    f"{row}position {column} is {flat[bad[0]]}: every number must be finite, "
                    "look for an overflow or an empty input in the encoder"
                )
            norms = np.square(floats).sum(axis=-1)
            if spec.cosine and not np.isfinite(norms).all():
                raise _RefusedError("its squared norm overflows float32: scale the vector")
    if spec.float16 and not spec.cosine and len(flat) and np.abs(flat).max() > _FLOAT16_MAX:
        raise _RefusedError(
            f"holds {np.abs(flat).max():g}, and the collection keeps float16, at most 65504: "
            "scale the vector"
        )


def _check_sparse(vector: Any, spec: VectorSpec) -> Sparse:
    if not _is_sparse(vector):
        raise _RefusedError(
            f"a {type(vector).__name__}, where the collection keeps a sparse vector: "
            "pass models.SparseVector(indices=..., values=...)"
        )
    indices, values = np.asarray(vector.indices), np.asarray(vector.values)
    if indices.ndim != 1 or indices.shape != values.shape:
        raise _RefusedError(
            f"{indices.size} indices and {values.size} values: each index needs its value"
        )
    if len(indices) == 0:
        return Sparse(np.empty(0, np.uint32), np.empty(0, np.float32))
    if indices.dtype.kind not in "iu" or indices.min() < 0 or indices.max() > _UINT32_MAX:
        raise _RefusedError("its indices must be integers from 0 to 4294967295")
    ids = np.ascontiguousarray(indices, dtype=np.uint32)
    weights = _to_float32(values)
    if (ids[1:] <= ids[:-1]).any():
        order = np.argsort(ids, kind="stable")
        ids, weights = ids[order], weights[order]
        twice = np.flatnonzero(ids[1:] == ids[:-1])
        if len(twice):
            raise _RefusedError(
                f"the index {ids[twice[0]]} stands there twice: keep one value for each index"
            )
    _check_finite(weights, spec)
    return Sparse(ids, weights)


def _check_payload(payload: Any) -> dict[str, Any] | None:
    if payload is None:
        return None
    if not isinstance(payload, Mapping):
        raise _RefusedError(f"a {type(payload).__name__}, where a dict belongs")
    checked: dict[str, Any] = plain_json(payload)
    return checked
