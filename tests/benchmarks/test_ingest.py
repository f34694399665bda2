"""The ingest proof with few documents: interrupted, killed, and complete."""

from __future__ import annotations

import json
import os
from copy import deepcopy
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.ingest.child import EVERY
from benchmarks.ingest.documents import checksum, documents, sentences
from benchmarks.ingest.proof import _unaccounted
from benchmarks.ingest.runs import Run
from m3qdrant import Document
from m3qdrant.demo import stdlib_docstrings
from m3qdrant.ingest.chunks import CHUNK_DOCUMENTS

N = 12 * EVERY


def test_what_is_acknowledged_is_counted_in_chunks() -> None:
    assert EVERY == CHUNK_DOCUMENTS


def test_documents_are_distinct_and_always_the_same() -> None:
    few = [f"sentence {i}." for i in range(12)]
    everything = list(documents(12 * 11, few))
    assert len({item.text for item in everything}) == len({item.id for item in everything}) == 132
    assert list(documents(50, few)) == everything[:50]
    with pytest.raises(ValueError, match="make no 133 pairs"):
        next(documents(133, few))


def test_there_are_sentences_for_a_hundred_thousand() -> None:
    found = sentences(stdlib_docstrings())
    assert len(found) == len(set(found))
    assert len(found) * (len(found) - 1) > 1_000_000
    texts = [item.text for item in islice(documents(100_000, found), 0, 100_000, 7)]
    assert len(set(texts)) == len(texts)


def test_the_checksum_tells_documents_apart_and_not_their_order() -> None:
    items = [Document("a", "x", {"n": 1}), Document("b", "y")]
    expected = checksum(items)
    assert checksum(reversed(items)) == expected
    for other in (
        items[:1],
        [*items, items[0]],
        [Document("a", "y", {"n": 1}), Document("b", "x")],
        [Document("a", "x", {"n": 2}), Document("b", "y")],
    ):
        assert checksum(other) != expected


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("results")
    status = main(["ingest", "--documents", str(N), "--out", str(out)])
    (path,) = out.glob("ingest-*.json")
    return status, json.loads(path.read_text()), path


def test_an_ingest_that_was_stopped_twice_is_complete(
    finished: tuple[int, dict[str, Any], Path],
) -> None:
    status, result, _ = finished
    assert result["wrong"] == []
    assert status == 0
    outcome = result["outcome"]
    assert outcome["count"] == N
    assert outcome["checksum"] == outcome["expected_checksum"]
    assert outcome["not_found"] == []
    interrupted, killed, last, again = result["runs"]
    assert 0 < interrupted["report"]["added"] == killed["found"] < N
    assert killed["report"] is None
    assert killed["found"] < last["found"] < N
    assert last["report"]["added"] + last["report"]["unchanged"] == N
    assert again["report"]["unchanged"] == N
    assert again["report"]["tokens"] == 0
    assert all(run["peak"] > run["peak_own"] > 0 for run in result["runs"])
    text = json.dumps(result)
    for private in (str(Path.home()), os.uname().nodename):
        assert private not in text


def test_its_plot(finished: tuple[int, dict[str, Any], Path]) -> None:
    pytest.importorskip("matplotlib")
    path = finished[2]
    assert main(["plot", str(path)]) == 0
    assert path.with_name(f"{path.stem}-memory.png").exists()


def _runs(result: dict[str, Any]) -> list[Run]:
    return [
        Run(**{key: value for key, value in row.items() if key != "peak_own"})
        for row in deepcopy(result["runs"])
    ]


def test_a_lost_document_is_noticed(finished: tuple[int, dict[str, Any], Path]) -> None:
    runs = _runs(finished[1])
    assert _unaccounted(N, runs) == []
    lost = _runs(finished[1])
    lost[2].found = lost[1].acknowledged - 1
    (line, *_) = _unaccounted(N, lost)
    assert line.startswith("SIGKILL: ")
    doubled = _runs(finished[1])
    assert doubled[2].report is not None
    doubled[2].report["replaced"] = 1
    (line,) = _unaccounted(N, doubled)
    assert line.startswith("run 3: ")


def test_too_few_documents_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["ingest", "--documents", "100"])
    assert "100 documents" in capsys.readouterr().err
