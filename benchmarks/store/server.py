"""Documents to a server and back: this package beside qdrant-client, in throughput and client CPU.

Documents of 128 tokens x 1,024 numbers, all three vectors, over gRPC. Written by `M3Store.add`,
checks and look-ups included, and by qdrant-client's `upsert` from the same arrays, 8 documents a
request. Read back with all vectors as `migrate` reads them, and by qdrant-client's `retrieve`, as
it is set up by default (grpcio offers gzip, and a server takes it) and without gzip. Contenders
take turns, and what they read is compared. CPU is the process's own, all threads; a server on the
same machine takes its share of the same cores from both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from benchmarks.tables import aligned, digits
from benchmarks.timing import quantile
from m3qdrant import Document, M3Embeddings, SparseVectors, TokenVectors
from m3qdrant.names import COLBERT, DENSE, SPARSE

__all__ = ["measure", "table"]

TOKENS, WIDTH, TERMS = 128, 1024, 60
DOCUMENTS, QUICK_DOCUMENTS = 200, 24
ROUNDS, QUICK_ROUNDS = 3, 1
_REQUEST = 8  # documents; as many as our batches of this size have
_NAME = "m3qdrant-benchmark"

Row = dict[str, Any]


def measure(url: str, *, quick: bool, seed: int) -> list[Row]:
    """Write and read, in turn.

    Args:
        url: of the server, as `QDRANT_URL` has it; the port of gRPC as `connect` finds it.
        quick: few documents, one round.
        seed: of the vectors.

    Returns:
        A row for each contender and way: documents/s and client CPU seconds a document, the
        medians of the rounds.

    Raises:
        ValueError: the server answers no gRPC, or a contender reads other vectors than ours.
    """
    n = QUICK_DOCUMENTS if quick else DOCUMENTS
    rounds = QUICK_ROUNDS if quick else ROUNDS
    documents = [Document(f"d{i}", f"document {i}", {"n": i}) for i in range(n)]
    views = _views(n, seed)
    with _clients(url) as (store, plain, as_it_comes):
        writing: dict[str, Callable[[], Any]] = {
            "m3qdrant": lambda: _add(store, documents, views),
            "qdrant-client, no gzip": lambda: _upsert(plain, store, views),
        }
        store.add(documents, embeddings=views)
        ids = [record.id for record in plain.scroll(_NAME, limit=n)[0]]
        reading: dict[str, Callable[[], Any]] = {
            "m3qdrant": lambda: _read(store, ids),
            "qdrant-client, no gzip": lambda: plain.retrieve(_NAME, ids, with_vectors=True),
            "qdrant-client": lambda: as_it_comes.retrieve(_NAME, ids, with_vectors=True),
        }
        _compare(reading["m3qdrant"](), reading["qdrant-client, no gzip"]())
        rows = _times("write", writing, n, rounds)
        return rows + _times("read", reading, n, rounds)


def table(rows: list[Row]) -> str:
    """The rows for people."""
    cells = [("", "documents/s", "client CPU, ms a document", "times m3qdrant's CPU")]
    for row in rows:
        ours = next(r for r in rows if r["way"] == row["way"] and r["name"] == "m3qdrant")
        cells.append(
            (
                f"{row['way']}: {row['name']}",
                digits(row["documents_s"]),
                digits(row["cpu_s"] * 1e3),
                digits(row["cpu_s"] / ours["cpu_s"]),
            )
        )
    title = f"A server: documents of {TOKENS} x {WIDTH:,} numbers, and dense and sparse vectors"
    return "\n".join(["", title, *aligned(cells), ""])


def _views(n: int, seed: int) -> M3Embeddings:
    generator = torch.Generator().manual_seed(seed)

    def unit(rows: int) -> torch.Tensor:
        drawn = torch.randn(rows, WIDTH, generator=generator)
        return torch.nn.functional.normalize(drawn, dim=-1)

    return M3Embeddings(
        dense=unit(n),
        sparse=SparseVectors(
            torch.arange(n + 1) * TERMS,
            torch.arange(0, 4 * TERMS, 4).repeat(n).int(),
            torch.rand(n * TERMS, generator=generator) * 0.3 + 0.01,
        ),
        colbert=TokenVectors(unit(n * TOKENS), torch.arange(n + 1) * TOKENS),
    )


@contextmanager
def _clients(url: str) -> Iterator[tuple[Any, Any, Any]]:
    """Our store, a QdrantClient without gzip, and one as it comes."""
    from qdrant_client import QdrantClient

    from m3qdrant import M3Store, transport

    with M3Store(url, _NAME, timeout_s=300) as store:
        if not transport.capabilities_of(store.client).arrays:
            raise ValueError(f"{url} answers no gRPC: set QDRANT_GRPC_PORT")
        client: Any = store.client
        options = client.init_options
        # given as api_key, it would warn of http even on this machine
        shared: dict[str, Any] = {
            name: options[name] for name in ("url", "grpc_port", "headers", "timeout")
        }
        shared |= {"prefer_grpc": True, "check_compatibility": False}
        identity = {"grpc.compression_enabled_algorithms_bitset": 1}
        plain = QdrantClient(**shared, grpc_options=identity)
        as_it_comes = QdrantClient(**shared)
        try:
            yield store, plain, as_it_comes
        finally:
            plain.delete_collection(_NAME)
            plain.close()
            as_it_comes.close()


def _add(store: Any, documents: list[Document], views: M3Embeddings) -> None:
    store.add(documents, embeddings=views).raise_for_failed()


def _upsert(client: Any, store: Any, views: M3Embeddings) -> None:
    """What a program with arrays and qdrant-client does."""
    from qdrant_client import models

    from m3qdrant.collection import points

    assert views.dense is not None
    assert views.sparse is not None
    assert views.colbert is not None
    rows = zip(views.dense, views.sparse, views.colbert, strict=True)
    batch = []
    for i, (dense, sparse, colbert) in enumerate(rows):
        vector = {
            DENSE: dense.tolist(),
            SPARSE: points.sparse_vector(sparse),
            COLBERT: colbert.tolist(),
        }
        batch.append(
            models.PointStruct.model_construct(id=10**6 + i, vector=vector, payload={"n": i})
        )
        if len(batch) == _REQUEST or i == len(views) - 1:
            client.upsert(_NAME, batch, wait=True)
            batch = []


def _read(store: Any, ids: list[Any]) -> Any:
    from m3qdrant import transport
    from m3qdrant.collection import calls

    asked = calls.retrieve(_NAME, ids, with_payload=True, with_vectors=True, arrays=True)
    return transport.run(store.client, asked, where="the benchmark")


def _compare(ours: Any, theirs: Any) -> None:
    wanted = {record.id: record.vector for record in theirs}
    for record in ours:
        other = wanted.pop(record.id)
        for name in (DENSE, COLBERT):
            if not np.array_equal(record.vector[name], np.asarray(other[name], np.float32)):
                raise ValueError(f"{name} of point {record.id} is read in two ways")
        if record.vector[SPARSE] != other[SPARSE]:
            raise ValueError(f"sparse of point {record.id} is read in two ways")
    if wanted:
        raise ValueError(f"{len(wanted)} points were not read")


def _times(way: str, contenders: dict[str, Callable[[], Any]], n: int, rounds: int) -> list[Row]:
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for round in range(rounds):
        order = list(contenders)
        for name in order[round % len(order) :] + order[: round % len(order)]:
            wall, cpu = time.perf_counter(), time.process_time()
            contenders[name]()
            seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return [
        {
            "way": way,
            "name": name,
            "documents": n,
            "rounds": rounds,
            "documents_s": n / quantile(sorted(wall for wall, _ in taken), 0.5),
            "cpu_s": quantile(sorted(cpu for _, cpu in taken), 0.5) / n,
        }
        for name, taken in seconds.items()
    ]
