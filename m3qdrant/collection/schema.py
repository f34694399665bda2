"""M3Schema: how a user wants vectors stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from m3qdrant import jsonpath
from m3qdrant.errors import InputError
from m3qdrant.names import COLBERT, DENSE
from m3qdrant.scalars import plain_number

__all__ = ["CHOICES", "CLUSTER", "MEANT", "QDRANTS_NAMES", "IndexKind", "M3Schema"]

DenseDatatype = Literal["float32", "float16"]
DenseQuantization = Literal["int8", "turbo8", "turbo4"]
ColbertDatatype = Literal["float16", "float32", "turbo8", "turbo4"]
ColbertQuantization = Literal["int8"]
SparseDatatype = Literal["float32", "float16", "uint8"]
IndexKind = Literal["keyword", "integer", "float", "bool", "datetime", "uuid", "text", "geo"]

CHOICES: dict[str, tuple[str | None, ...]] = {
    "dense_datatype": get_args(DenseDatatype),
    "dense_quantization": (None, *get_args(DenseQuantization)),
    "colbert_datatype": get_args(ColbertDatatype),
    "colbert_quantization": (None, *get_args(ColbertQuantization)),
    "sparse_datatype": get_args(SparseDatatype),
}
_FLAGS = ("dense_on_disk", "colbert_on_disk", "colbert_hnsw", "sparse_on_disk")
_LEAST = {
    "hnsw_m": 0,
    "hnsw_ef_construct": 4,  # the server's own least
    "token_pooling": 1,
    "shards": 1,
    "replicas": 1,
    "write_consistency": 1,
}
CLUSTER = {
    "shards": "shard_number",
    "replicas": "replication_factor",
    "write_consistency": "write_consistency_factor",
}
"""Our names of a cluster's settings, and Qdrant's."""
QDRANTS_NAMES = {
    **{theirs: ours for ours, theirs in CLUSTER.items()},
    "m": "hnsw_m",
    "ef_construct": "hnsw_ef_construct",
}
"""Qdrant's names of what is one option here."""
MEANT = {
    "hnsw_config": ["hnsw_m", "hnsw_ef_construct"],
    "payload_m": ["tenant"],
    "is_tenant": ["tenant"],
    "quantization_config": ["dense_quantization", "colbert_quantization"],
    "quantization": ["dense_quantization", "colbert_quantization"],
    "scalar": ["dense_quantization", "colbert_quantization"],
    "datatype": ["dense_datatype", "colbert_datatype", "sparse_datatype"],
    "on_disk": ["dense_on_disk", "colbert_on_disk", "sparse_on_disk"],
    "payload_schema": ["payload_indexes"],
    "indexes": ["payload_indexes"],
}
"""Qdrant's names of what several options here, or another one, decide."""


class _Indexes(Mapping[str, IndexKind]):
    """Field names to index kinds: a mapping that can't change, so that it hashes and pickles."""

    def __init__(self, kinds: Mapping[str, IndexKind]) -> None:
        self._kinds = dict(kinds)

    def __getitem__(self, field: str) -> IndexKind:
        return self._kinds[field]

    def __iter__(self) -> Iterator[str]:
        return iter(self._kinds)

    def __len__(self) -> int:
        return len(self._kinds)

    def __hash__(self) -> int:
        return hash(frozenset(self._kinds.items()))

    def __repr__(self) -> str:
        return repr(self._kinds)


@dataclass(frozen=True)
class M3Schema:
    """How vectors are stored. The defaults suit hybrid search with exact late-interaction scoring.

    In-memory mode computes in float32 and keeps no index: there, the options change nothing but
    the float16 roundings of the dense and the ColBERT vectors, which are done on our side, and
    `token_pooling`.

    `python -m benchmarks store` measures what each option costs and gains.

    Attributes:
        dense_datatype: "float16" halves the dense vectors on disk and in memory; scores move in
            the fifth decimal.
        dense_quantization: keeps a smaller copy of the dense vectors, which is searched first; the
            originals then rank `oversampling` times the limit again, so that scores are exact and
            only recall is at stake. The copy takes disk and indexing time, and saves memory only
            together with `dense_on_disk`. "int8" takes a byte a number; "turbo8" as much, and
            "turbo4" half of that, at less recall before the second ranking. On a server the turbos
            need Qdrant 1.18 ("turbo4") and 1.20 ("turbo8").
        dense_on_disk: the dense vectors are read from disk when needed and not loaded at the
            start: less memory, slower searches. With a quantization its small copy stays in memory
            and the disk is read for the second ranking alone.
        hnsw_m: edges a node of the dense graph. More find better and take more memory and more
            time to build; 0 makes no graph, so every search compares everything.
        hnsw_ef_construct: neighbours that are weighed up when a node is added. More make a better
            graph and take longer; searches cost the same.
        colbert_datatype: "float16" halves disk and memory; scores move in the fifth decimal.
            "float32" keeps what the encoder gave. "turbo8" and "turbo4" are a quarter and an
            eighth of float32 and have no original to fall back on: scores move in the fourth
            decimal with "turbo8", in the third with "turbo4". On a server they need Qdrant 1.20
            ("turbo8") and 1.19 ("turbo4").
        colbert_quantization: "int8" keeps a copy of one byte a number, on top of the originals,
            for a first ranking where only the best few candidates are asked for; the originals
            rank those again, and every score that is given out comes from them. It pays together
            with `colbert_on_disk`, where it saves reads; a score that needs all candidates, as
            `weighted` does, reads the originals anyway.
        colbert_on_disk: the ColBERT vectors, by far the most bytes of a collection, are read from
            disk when a candidate is scored. Memory no longer grows with the tokens; the first
            score of a document waits for the disk.
        colbert_hnsw: builds a graph over the ColBERT vectors as well. Each search here scores
            candidates of the other two vectors, which needs none, and building it costs minutes
            where the rest costs seconds: only for a program that asks Qdrant for MaxSim over the
            whole collection by itself.
        sparse_datatype: of the weights in the index. "float16" halves them and moves scores in the
            fifth decimal; "uint8" halves them again, and moves them in the fourth.
        sparse_on_disk: the sparse index is read from disk when needed: less memory, slower
            searches. For collections whose lexical search is rare.
        token_pooling: keeps one of so many ColBERT vectors of a document, by merging those that
            are most alike (see encode/pooling.py). Disk, memory and scoring time shrink by that
            factor; what is lost grows with it, and is little at 2. Storing takes longer.
        payload_indexes: payload keys that filters use, and the kind of their values: "keyword",
            "integer", "float", "bool", "datetime", "uuid", "text" or "geo". A filter on a field
            without an index looks at every candidate's payload; an index takes memory. Missing
            ones are made when a store is opened.
        tenant: the payload key whose value says whose document it is, where many users share a
            collection and every search filters by it. Each tenant's documents lie together and
            have a graph of their own; there is no graph over all of them, so a search without the
            filter compares everything.
        shards: parts that a collection is split into on a cluster; fixed at its creation. None
            leaves this and the next two to the server; the other engines have no cluster and
            ignore them.
        replicas: copies of each shard, on different nodes: a node may fail, at so many times the
            disk and the writes.
        write_consistency: replicas that must have taken a write before it counts. More are safer,
            but writes fail while too few answer.
    """

    dense_datatype: DenseDatatype = "float32"
    dense_quantization: DenseQuantization | None = None
    dense_on_disk: bool = False
    hnsw_m: int = 16
    hnsw_ef_construct: int = 100
    colbert_datatype: ColbertDatatype = "float16"
    colbert_quantization: ColbertQuantization | None = None
    colbert_on_disk: bool = False
    colbert_hnsw: bool = False
    sparse_datatype: SparseDatatype = "float32"
    sparse_on_disk: bool = False
    token_pooling: int = 1
    payload_indexes: Mapping[str, IndexKind] = _Indexes({})
    tenant: str | None = None
    shards: int | None = None
    replicas: int | None = None
    write_consistency: int | None = None

    def __post_init__(self) -> None:
        for name in (*_FLAGS, *_LEAST):  # numpy's numbers are Python's
            object.__setattr__(self, name, plain_number(getattr(self, name)))
        for name, choices in CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                allowed = ", ".join(map(repr, choices))
                raise InputError(f"{name} is {value!r}: give one of {allowed}")
        for name in _FLAGS:
            if not isinstance(value := getattr(self, name), bool):
                raise InputError(f"{name} is {value!r}: give True or False")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is None and name in CLUSTER:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(f"{name} is {value!r}: give a whole number from {least}")
        if self.colbert_hnsw and self.hnsw_m == 0:
            raise InputError(
                "colbert_hnsw makes a graph, and hnsw_m is 0: give it edges, such as 16"
            )
        self._check_payload_keys()
        kinds = {_path("payload_indexes", key): kind for key, kind in self.payload_indexes.items()}
        object.__setattr__(self, "payload_indexes", _Indexes(kinds))
        if self.tenant is not None:
            object.__setattr__(self, "tenant", _path("tenant", self.tenant))

    def _check_payload_keys(self) -> None:
        if not isinstance(self.payload_indexes, Mapping):
            raise InputError(
                f"payload_indexes is {self.payload_indexes!r}: give a mapping of fields to kinds, "
                "such as {'year': 'integer'}"
            )
        for field, kind in self.payload_indexes.items():
            _path("payload_indexes", field)
            if kind not in get_args(IndexKind):
                allowed = ", ".join(map(repr, get_args(IndexKind)))
                raise InputError(f"payload_indexes: {field!r} is {kind!r}: give one of {allowed}")
        if self.tenant is None:
            return
        _path("tenant", self.tenant)
        if self.payload_indexes.get(self.tenant, "keyword") != "keyword":
            raise InputError(
                f"payload_indexes: {self.tenant!r} is the tenant, whose index is a 'keyword' one: "
                "leave it out"
            )

    def features(self) -> list[str]:
        """What a server has to have for it, in versions.py's words."""
        chosen = [("quantization", self.dense_quantization), ("datatype", self.colbert_datatype)]
        turbo = [f"{kind} {value}" for kind, value in chosen if value in ("turbo8", "turbo4")]
        # an older server drops the metadata in silence, and with it what is kept nowhere else
        kept = self.token_pooling > 1 or self.tenant is not None
        return [*turbo, *(["metadata"] if kept else [])]

    def is_quantized(self, name: str) -> bool:
        """Whether a named vector has a quantized copy.

        Qdrant then scores by the copy wherever a request doesn't ask for the originals (`rescore`
        or `ignore`), also candidates that were given to it.
        """
        return {DENSE: self.dense_quantization, COLBERT: self.colbert_quantization}.get(
            name
        ) is not None


def _path(name: str, key: object) -> str:
    """The path of a payload's key, as the engine names its index."""
    try:
        return jsonpath.as_path(key)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
