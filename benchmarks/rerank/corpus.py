"""A resident corpus at growing sizes: its loading, its memory, its searches, its cascades.

Beside it the engine's own MaxSim over all documents, which is what it stands in for, and the
floor: the bytes that a search has to read, at the rate at which memory is read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from qdrant_client import models

from benchmarks.rerank import draws
from benchmarks.rerank.draws import COLLECTION, Shape
from benchmarks.timing import quantile
from m3qdrant import Cascade, M3Embeddings, M3Store, ResidentCorpus
from m3qdrant.names import COLBERT

__all__ = ["measure"]

Row = dict[str, Any]

LIMIT = 10
_NEAR = 2e-4
"""float16 numbers are summed in another order by the engine."""
_DTYPES = ("float32", "bfloat16", "int8")
_CASCADES = (Cascade("int8", keep=100), Cascade("pooled", keep=100, factor=4))


def measure(
    folder: Path,
    shape: Shape,
    sizes: Sequence[int],
    batches: Sequence[int],
    repeats: int,
    seed: int,
    say: Callable[[str], None],
) -> list[Row]:
    """A row for each size and form.

    Args:
        folder: for the collections.
        shape: of documents and queries.
        sizes: documents.
        batches: queries of a search.
        repeats: searches that are timed.
        seed: of the draws.
        say: told what is going on.
    """
    rows = []
    asked = draws.queries(shape, max(batches), seed)
    for n in sizes:
        place = folder / f"corpus-{n}"
        draws.build(place, shape, n, seed)
        with M3Store(place, COLLECTION) as store:
            engine = _engine(store, asked[: min(2, len(asked))])
            for dtype in _DTYPES:
                row = _measured(store, dtype, shape, n, asked, batches, repeats, engine)
                rows.append(row)
                say(_line(row))
    return rows


def _measured(
    store: M3Store,
    dtype: Any,
    shape: Shape,
    n: int,
    asked: M3Embeddings,
    batches: Sequence[int],
    repeats: int,
    engine: tuple[list[list[tuple[str, float]]], float],
) -> Row:
    right, engine_s = engine
    row: Row = {"documents": n, "held": dtype, "tokens": n * shape.tokens, "status": "ok"}
    begun = time.perf_counter()
    with ResidentCorpus.load(store, dtype=dtype) as corpus:
        row["load_s"] = time.perf_counter() - begun
        row["stored_bytes_s"] = n * shape.tokens * shape.dim * 2 / row["load_s"]
        row["device_bytes"] = corpus.nbytes
        begun = time.perf_counter()
        corpus.refresh()
        row["refresh_s"] = time.perf_counter() - begun
        wrong = _wrong(corpus, asked[: len(right)], right, exact=dtype != "bfloat16")
        if wrong is not None:
            return row | {"status": "wrong", "reason": wrong}
        row["engine_s"] = engine_s
        row["floor_s"] = corpus.nbytes / _copy_rate(corpus.device)
        row["searches"] = {}
        for m in batches:

            def search(m: int = m) -> object:
                return corpus.search_batch(asked[:m], LIMIT, documents=False)

            row["searches"][str(m)] = _times(search, repeats)
        cascades = []
        for cascade in _CASCADES if dtype == "int8" else ():
            found = corpus.recall(asked, cascade, LIMIT)

            def narrowed(cascade: Cascade = cascade) -> object:
                return corpus.search_batch(asked[:1], LIMIT, documents=False, cascade=cascade)

            cascades.append(
                {
                    "first": cascade.first,
                    "keep": cascade.keep,
                    "recall": found.mean,
                    "worst": found.worst,
                    **_times(narrowed, repeats),
                }
            )
        row["cascades"] = cascades
    return row


def _engine(store: M3Store, asked: M3Embeddings) -> tuple[list[list[tuple[str, float]]], float]:
    """The engine's own best of all documents, and its seconds for a query."""
    assert asked.colbert is not None
    found, seconds = [], []
    for query in asked.colbert:
        request = models.QueryRequest(
            query=query.half().float().tolist(),
            using=COLBERT,
            limit=LIMIT,
            with_payload=True,
            params=models.SearchParams(exact=True),
        )
        begun = time.perf_counter()
        (answer,) = store.client.query_batch_points(COLLECTION, [request])
        seconds.append(time.perf_counter() - begun)
        hits = [(str((p.payload or {})["_m3"]["id"]), p.score / len(query)) for p in answer.points]
        found.append(hits)
    return found, sorted(seconds)[len(seconds) // 2]


def _wrong(
    corpus: ResidentCorpus,
    asked: M3Embeddings,
    right: Sequence[Sequence[tuple[str, float]]],
    *,
    exact: bool,
) -> str | None:
    """How a corpus differs from the engine; None where it does not."""
    near = _NEAR if exact else 5 * _NEAR
    for found, wanted in zip(corpus.search_batch(asked, LIMIT), right, strict=True):
        if len(found) != len(wanted):
            return f"{len(found)} hits, not {len(wanted)}"
        off = max(abs(hit.score - score) for hit, (_, score) in zip(found, wanted, strict=True))
        if off > near:
            return f"scores are off by {off:.2g}"
        last = wanted[-1][1] + near
        missing = {id for id, score in wanted if score > last} - {hit.id for hit in found}
        if missing:
            return f"{sorted(missing)[0]} is not found"
    return None


def _times(run: Callable[[], object], repeats: int) -> Row:
    run()
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begun)
    seconds.sort()
    return {"p50_s": quantile(seconds, 0.5), "p95_s": quantile(seconds, 0.95), "repeats": repeats}


def _copy_rate(device: torch.device) -> float:
    """Bytes a second that memory is read at, by a sum of what no cache holds."""
    rows = torch.ones(64 << 20, device=device)
    best = float("inf")
    for _ in range(3):
        begun = time.perf_counter()
        float(rows.sum())
        best = min(best, time.perf_counter() - begun)
    return rows.nbytes / best


def _line(row: Row) -> str:
    if row["status"] != "ok":
        return f"  {row['documents']:>9,} {row['held']:<9} {row['status']}: {row['reason']}"
    searches = ", ".join(
        f"{m} queries {times['p50_s'] * 1e3:,.0f} ms" for m, times in row["searches"].items()
    )
    cascades = "".join(
        f", {c['first']} {c['p50_s'] * 1e3:,.0f} ms (recall {c['recall']:.3f})"
        for c in row["cascades"]
    )
    return (
        f"  {row['documents']:>9,} {row['held']:<9} loaded in {row['load_s']:.1f} s "
        f"({row['stored_bytes_s'] / 1e6:,.0f} MB/s), {row['device_bytes'] / 1e6:,.0f} MB, "
        f"{searches}{cascades}; engine {row['engine_s'] * 1e3:,.0f} ms, "
        f"floor {row['floor_s'] * 1e3:,.0f} ms"
    )
