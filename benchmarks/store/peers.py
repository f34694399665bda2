"""The embedded store beside what people would pick instead, on the same embeddings.

Whichever is installed: LanceDB (a multivector column, compared exactly and with its index), Milvus
Lite (dense and sparse, fused by rank; it has no multivectors) and qdrant-client's local mode
(dense and sparse candidates, reranked by the token vectors). Each is written the way its own
documents show, from arrays, in the same portions; making what it takes of the arrays is not timed.
Recall is against the exact ranking of what a contender ranks by, over all documents: mean MaxSim,
or, for Milvus Lite, the two exact lists fused by rank. "found" is the share of queries whose own
document is among the ten, which all can be compared by.
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.store.oracle import CANDIDATES, LIMIT, Oracle, Scores, best, recall
from benchmarks.store.texts import Texts
from benchmarks.tables import aligned, digits
from benchmarks.timing import quantile
from m3qdrant import M3Embeddings

__all__ = ["measure", "table"]

DOCUMENTS = 1_000
"""Where nobody says how many: all their vectors are in memory while stores are written."""
_PORTION = 128
_RRF = 60
_NAME = "measured"

Row = dict[str, Any]


class Peer(Protocol):
    """A store: it is made over an empty directory, filled, indexed and asked."""

    def write(self, portion: Any) -> None:
        """Store a portion of documents."""

    def index(self) -> None:
        """Build the indexes, and return when they are there."""

    def find(self, query: Any) -> list[int]:
        """The positions of the best ten documents."""

    def close(self) -> None:
        """Let go of the directory."""


def measure(
    texts: Texts,
    documents: M3Embeddings,
    queries: M3Embeddings,
    folder: Path | None,
    say: Callable[[str], None],
) -> list[Row]:
    """A row for each contender: what it took, and what it found.

    Args:
        texts: documents, queries and answers.
        documents: their embeddings, as wide as they are stored.
        queries: likewise.
        folder: where the directories lie meanwhile.
        say: told what is going on.
    """
    oracle = Oracle.of(queries, documents)
    rows = []
    for name, (package, kind, portions_of, query_of, by_rank) in _PEERS.items():
        if importlib.util.find_spec(package) is None:
            rows.append({"name": name, "status": "not installed"})
            continue
        row: Row = {"name": name, "status": "ok", "version": _version(package)}
        try:
            with tempfile.TemporaryDirectory(prefix="m3qdrant-peer-", dir=folder) as place:
                peer = kind(Path(place), documents)
                try:
                    row |= _measured(peer, portions_of(texts, documents), query_of, queries)
                finally:
                    peer.close()
        except Exception as error:  # a peer that fails costs its own row
            row |= {"status": "fails", "reason": f"{type(error).__name__}: {error}"[:300]}
        else:
            _judge(row, texts, oracle, by_rank)
            row["documents_s"] = len(documents) / row.pop("write_s")
        say(f"{name}: {row['status']} {row.get('reason', '')}".rstrip())
        rows.append(row)
    return rows


def table(rows: Sequence[Row]) -> str:
    """The rows for people."""
    cells = [("", "documents/s", "index s", "search ms", "p95", "recall@10", "found", "version")]
    others = []
    for row in rows:
        if row["status"] != "ok":
            others.append(f"  {row['name']}: {row['status']} {row.get('reason', '')}".rstrip())
            continue
        cells.append(
            (
                row["name"],
                digits(row["documents_s"]),
                digits(row["index_s"]),
                digits(row["p50_s"] * 1e3),
                digits(row["p95_s"] * 1e3),
                f"{row['recall']:.3f}",
                f"{row['found']:.2f}",
                row["version"],
            )
        )
    title = "What people would pick instead, on the same embeddings"
    return "\n".join(["", title, *aligned(cells), *others, ""])


def _measured(
    peer: Peer, portions: Iterator[Any], query_of: Callable[[M3Embeddings], Any], queries: Any
) -> Row:
    write = 0.0
    for portion in portions:
        begun = time.perf_counter()
        peer.write(portion)
        write += time.perf_counter() - begun
    begun = time.perf_counter()
    peer.index()
    index = time.perf_counter() - begun
    asked = [query_of(queries[i]) for i in range(len(queries))]
    hits = [peer.find(query) for query in asked]  # which also warms it up
    seconds = []
    for query in asked:
        begun = time.perf_counter()
        peer.find(query)
        seconds.append(time.perf_counter() - begun)
    seconds.sort()
    return {
        "write_s": write,
        "index_s": index,
        "p50_s": quantile(seconds, 0.5),
        "p95_s": quantile(seconds, 0.95),
        "hits": hits,
    }


def _judge(row: Row, texts: Texts, oracle: Oracle, by_rank: bool) -> None:
    hits = row.pop("hits")
    rankings = [
        _fused(oracle, i) if by_rank else oracle.full_ranking("colbert", i)
        for i in range(len(hits))
    ]
    row["recall"] = float(np.mean([recall(h, r) for h, r in zip(hits, rankings, strict=True)]))
    row["found"] = float(np.mean([a in h for h, a in zip(hits, texts.answers, strict=True)]))


def _fused(oracle: Oracle, query: int) -> Scores:
    """The two exact lists, fused by rank."""
    fused = np.zeros_like(oracle.dense[query])
    for mode in ("dense", "sparse"):
        positions = best(oracle.ranking(mode, query), CANDIDATES)
        fused[positions] += 1 / (_RRF + 1 + np.arange(len(positions)))
    scores: Scores = np.where(fused > 0, fused, -np.inf)
    return scores


def _version(package: str) -> str:
    names = {"m3qdrant": "qdrant-edge-py", "qdrant_client": "qdrant-client"}
    return version(names.get(package, package.replace("_", "-")))


# -- the contenders


def _spans(documents: M3Embeddings) -> Iterator[slice]:
    for start in range(0, len(documents), _PORTION):
        yield slice(start, min(start + _PORTION, len(documents)))


def _views(documents: M3Embeddings) -> tuple[Any, Any, Any]:
    assert documents.dense is not None
    assert documents.sparse is not None
    assert documents.colbert is not None
    return documents.dense, documents.sparse, documents.colbert


class _Ours:
    """`M3Store` on the embedded engine, mode "colbert"."""

    def __init__(self, place: Path, documents: M3Embeddings) -> None:
        from m3qdrant import M3Store

        self._store = M3Store(place, _NAME)
        self._positions: dict[str, int] = {}

    def write(self, portion: Any) -> None:
        documents, embeddings = portion
        self._store.add(documents, embeddings=embeddings, optimize=False).raise_for_failed()
        for document in documents:
            self._positions[document.id] = len(self._positions)

    def index(self) -> None:
        self._store.optimize()

    def find(self, query: Any) -> list[int]:
        hits = self._store.search(query, "colbert", LIMIT, CANDIDATES, components=False)
        return [self._positions[hit.id] for hit in hits]

    def close(self) -> None:
        self._store.close()


def _our_portions(texts: Texts, documents: M3Embeddings) -> Iterator[Any]:
    for span in _spans(documents):
        yield texts.documents[span], documents[span]


class _Lance:
    """LanceDB: a column of multivectors, compared with all documents."""

    def __init__(self, place: Path, documents: M3Embeddings) -> None:
        import lancedb  # type: ignore[import-not-found, unused-ignore]

        self._connection = lancedb.connect(str(place))
        self._table: Any = None

    def write(self, portion: Any) -> None:
        if self._table is None:
            self._table = self._connection.create_table(_NAME, portion)
        else:
            self._table.add(portion)

    def index(self) -> None:
        pass

    def find(self, query: Any) -> list[int]:
        asked = self._asked(query).select(["position", "_distance"]).limit(LIMIT)
        return [row["position"] for row in asked.to_list()]

    def _asked(self, query: Any) -> Any:
        return self._table.search(query, vector_column_name="colbert").distance_type("cosine")

    def close(self) -> None:
        self._table = None


class _LanceIndexed(_Lance):
    """LanceDB with the index that its documents name for multivectors, and its defaults."""

    def index(self) -> None:
        self._table.create_index(
            vector_column_name="colbert", metric="cosine", index_type="IVF_PQ"
        )


def _lance_portions(texts: Texts, documents: M3Embeddings) -> Iterator[Any]:
    import pyarrow as pa  # type: ignore[import-not-found, import-untyped, unused-ignore]

    _, _, colbert = _views(documents)
    width = colbert.vectors.shape[1]
    for span in _spans(documents):
        part = colbert[span]
        flat = pa.FixedSizeListArray.from_arrays(
            pa.array(part.vectors.float().numpy().reshape(-1)), width
        )
        rows = pa.ListArray.from_arrays(pa.array(part.cu_seqlens.int().numpy()), flat)
        yield pa.table(
            {
                "position": pa.array(range(span.start, span.stop)),
                "text": pa.array([d.text for d in texts.documents[span]]),
                "colbert": rows,
            }
        )


class _Milvus:
    """Milvus Lite: dense and sparse, fused by rank."""

    def __init__(self, place: Path, documents: M3Embeddings) -> None:
        from pymilvus import DataType, MilvusClient  # type: ignore[import-not-found, unused-ignore]

        dense, _, _ = _views(documents)
        self._client = MilvusClient(str(place / "milvus.db"))
        schema = self._client.create_schema(auto_id=False)
        schema.add_field("position", DataType.INT64, is_primary=True)
        schema.add_field("text", DataType.VARCHAR, max_length=65_535)
        schema.add_field("dense", DataType.FLOAT_VECTOR, dim=dense.shape[1])
        schema.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
        self._client.create_collection(_NAME, schema=schema)

    def write(self, portion: Any) -> None:
        self._client.insert(_NAME, portion)

    def index(self) -> None:
        chosen = self._client.prepare_index_params()
        chosen.add_index("dense", index_type="AUTOINDEX", metric_type="IP")
        chosen.add_index("sparse", index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
        self._client.create_index(_NAME, chosen)
        self._client.load_collection(_NAME)

    def find(self, query: Any) -> list[int]:
        from pymilvus import AnnSearchRequest, RRFRanker

        dense, sparse = query
        asked = [AnnSearchRequest([dense], "dense", {"metric_type": "IP"}, CANDIDATES)]
        if sparse:
            asked.append(AnnSearchRequest([sparse], "sparse", {"metric_type": "IP"}, CANDIDATES))
        (hits,) = self._client.hybrid_search(_NAME, asked, RRFRanker(_RRF), limit=LIMIT)
        return [hit["position"] for hit in hits]

    def close(self) -> None:
        self._client.close()


def _terms(row: Any) -> dict[int, float]:
    return dict(zip(row.indices.tolist(), row.values.tolist(), strict=True))


def _milvus_portions(texts: Texts, documents: M3Embeddings) -> Iterator[Any]:
    dense, sparse, _ = _views(documents)
    for span in _spans(documents):
        yield [
            {
                "position": i,
                "text": texts.documents[i].text[:20_000],
                "dense": dense[i].float().numpy(),
                "sparse": _terms(sparse[i]),
            }
            for i in range(span.start, span.stop)
        ]


class _Local:
    """qdrant-client's local mode: dense and sparse candidates, reranked by the token vectors."""

    def __init__(self, place: Path, documents: M3Embeddings) -> None:
        from qdrant_client import QdrantClient, models

        dense, _, colbert = _views(documents)
        self._client = QdrantClient(":memory:")
        several = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
        self._client.create_collection(
            _NAME,
            {
                "dense": models.VectorParams(size=dense.shape[1], distance=models.Distance.DOT),
                "colbert": models.VectorParams(
                    size=colbert.vectors.shape[1],
                    distance=models.Distance.DOT,
                    multivector_config=several,
                ),
            },
            {"sparse": models.SparseVectorParams()},
        )

    def write(self, portion: Any) -> None:
        self._client.upsert(_NAME, portion)

    def index(self) -> None:
        pass

    def find(self, query: Any) -> list[int]:
        from qdrant_client import models

        dense, sparse, colbert = query
        found = self._client.query_points(
            _NAME,
            colbert,
            using="colbert",
            prefetch=[
                models.Prefetch(query=dense, using="dense", limit=CANDIDATES),
                models.Prefetch(query=sparse, using="sparse", limit=CANDIDATES),
            ],
            limit=LIMIT,
            with_payload=False,
        )
        return [int(point.id) for point in found.points]

    def close(self) -> None:
        self._client.close()


def _lists(one: M3Embeddings) -> tuple[Any, Any, Any]:
    from m3qdrant.collection import points

    dense, sparse, colbert = _views(one)
    return (
        dense[0].float().tolist(),
        points.sparse_vector(sparse[0]),
        colbert.vectors.float().tolist(),
    )


def _local_portions(texts: Texts, documents: M3Embeddings) -> Iterator[Any]:
    from qdrant_client import models

    for span in _spans(documents):
        made = []
        for i in range(span.start, span.stop):
            dense, sparse, colbert = _lists(documents[i])
            vector: Any = {"dense": dense, "sparse": sparse, "colbert": colbert}
            payload = {"text": texts.documents[i].text}
            made.append(models.PointStruct.model_construct(id=i, vector=vector, payload=payload))
        yield made


def _token_rows(one: M3Embeddings) -> Any:
    return _views(one)[2].vectors.float().numpy()


def _dense_and_terms(one: M3Embeddings) -> Any:
    dense, sparse, _ = _views(one)
    return dense[0].float().numpy(), _terms(sparse[0])


_PEERS: dict[str, tuple[str, Any, Any, Callable[[M3Embeddings], Any], bool]] = {
    "m3qdrant, embedded": ("m3qdrant", _Ours, _our_portions, lambda one: one, False),
    "LanceDB, exact": ("lancedb", _Lance, _lance_portions, _token_rows, False),
    "LanceDB, IVF_PQ": ("lancedb", _LanceIndexed, _lance_portions, _token_rows, False),
    "Milvus Lite, dense and sparse": (
        "milvus_lite",
        _Milvus,
        _milvus_portions,
        _dense_and_terms,
        True,
    ),
    "qdrant-client's local mode": ("qdrant_client", _Local, _local_portions, _lists, False),
}
"""By name: package, class, what is written, what is asked, whether it ranks by two lists."""
