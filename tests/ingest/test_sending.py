"""Points sent in several batches at once: counted as they are written, refused by their names."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest
from qdrant_client import models

from m3qdrant import transport
from m3qdrant.collection import Call
from m3qdrant.errors import EngineError, RequestRejectedError
from m3qdrant.ingest.report import IngestReport
from m3qdrant.ingest.write import Entry, Prepared, send

N = 24
LARGE = "x" * 4_000_000  # six of them fill a batch


def entries(count: int) -> list[Entry]:
    return [
        Entry(
            models.PointStruct.model_construct(
                id=i, vector={"colbert": [[1.0]] * (i + 1)}, payload={"text": LARGE}
            ),
            f"d{i}",
            ["added"],
        )
        for i in range(count)
    ]


def carried_out(answer: Any) -> tuple[IngestReport, list[list[int]]]:
    """What becomes of `N` points in four batches, and the ids of each request."""
    report = IngestReport()
    requests: list[list[int]] = []
    lock = threading.Lock()

    def ask(call: Call[Any]) -> Any:
        ids = [point.id for point in call.arguments["points"]]
        with lock:
            requests.append(ids)
        return answer(ids)

    transport.drive(send("c", Prepared(entries(N), []), report), ask, lambda asked: True)
    return report, requests


def test_all_are_sent_once() -> None:
    report, requests = carried_out(lambda ids: None)
    assert len(requests) > 2
    assert sorted(id for ids in requests for id in ids) == list(range(N))
    assert (report.added, report.failed) == (N, [])
    assert report.tokens == sum(range(1, N + 1))


def test_an_engine_without_a_body_limit_takes_larger_batches() -> None:
    report = IngestReport()
    requests: list[list[int]] = []

    def ask(call: Call[Any]) -> None:
        requests.append([point.id for point in call.arguments["points"]])

    steps = send("c", Prepared(entries(N), []), report, remote=False)
    transport.drive(steps, ask, lambda asked: False)
    assert [len(ids) for ids in requests] == [23, 1], "of six each"
    assert report.added == N


def test_refused_documents_are_found() -> None:
    bad = {0, 7, 8, 23}

    def answer(ids: Sequence[int]) -> None:
        if refused := bad & set(ids):
            raise RequestRejectedError(f"no {sorted(refused)}")

    report, _ = carried_out(answer)
    assert report.added == N - len(bad)
    told = {error.id: str(error) for error in report.failed}
    assert told.keys() == {f"d{i}" for i in bad}
    for i in bad:
        assert f"no [{i}]" in told[f"d{i}"]


def test_what_was_written_before_a_failure_is_counted() -> None:
    written: list[int] = []

    def answer(ids: Sequence[int]) -> None:
        if 7 in ids:
            raise EngineError("gone")
        written.extend(ids)

    report = IngestReport()
    with pytest.raises(EngineError, match="gone"):
        transport.drive(
            send("c", Prepared(entries(N), []), report),
            lambda call: answer([point.id for point in call.arguments["points"]]),
            lambda asked: True,
        )
    assert report.added == len(written)
    assert report.failed == []
