"""Bytes overwritten in real files of vectors, found by the doctor and by searches."""

from __future__ import annotations

import json
import os
import random
import re
from pathlib import Path

import numpy as np
import pytest
from qdrant_client import models

from m3qdrant import M3Encoder, M3Schema, M3Store
from m3qdrant.collection import Document, IndexKind, Provenance, point_id
from m3qdrant.errors import StoreDamagedError
from m3qdrant.upkeep import examine
from m3qdrant.upkeep.damage import faults
from m3qdrant.upkeep.findings import Finding

N = 60
ROWS = [
    {"id": f"d{i}", "text": f"file number {i} of an archive, compressed", "n": i} for i in range(N)
]
INDEXED: dict[str, IndexKind] = {"n": "integer"}


@pytest.fixture(params=["float16", "float32", "turbo4"])
def place(tmp_path: Path, encoder: M3Encoder, request: pytest.FixtureRequest) -> Path:
    """A healthy collection."""
    schema = M3Schema(colbert_datatype=request.param, payload_indexes=INDEXED)
    with M3Store(tmp_path / "data", "docs", encoder, schema) as store:
        store.add(ROWS)
    return tmp_path / "data"


def errors(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity == "error"]


def storage(place: Path, vector: str, part: str = "vectors") -> list[Path]:
    """The files that hold a vector's numbers, or with `part` "offsets" where they begin."""
    found = [
        path
        for path in place.rglob(f"segments/*/vector_storage-{vector}/**/*")
        if path.parent.name in (part, f"tq_{part}") and path.name.startswith("chunk")
    ]
    assert found
    return found


def overwrite(path: Path, rng: random.Random, size: int) -> None:
    """Random bytes in place, at the front, where the numbers are."""
    silently(path, rng.randbytes(min(size, os.path.getsize(path))))


def silently(path: Path, content: bytes, at: int = 0) -> None:
    """As a failing disk does it, without a trace in the file's time."""
    times = path.stat()
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def points_and_files(findings: list[Finding], *, quick: bool = False) -> Finding:
    """The error about points; beside it there is one about files, unless it was a quick look."""
    found = errors(findings)
    assert len(found) == 2 - quick
    if not quick:
        assert re.match(r"\d+ of its files were damaged", found[0].what)
        assert "shard/segments/" in found[0].what
    assert [finding.collection for finding in found] == ["docs"] * len(found)
    return found[-1]


@pytest.mark.parametrize("quick", [False, True])
def test_what_is_whole_is_not_called_damaged(place: Path, quick: bool) -> None:
    assert errors(examine(place, quick=quick)) == []


@pytest.mark.parametrize("vector", ["dense", "colbert"])
def test_overwritten_vectors_are_found_and_named(place: Path, vector: str) -> None:
    rng = random.Random(random.randrange(10**9))
    for path in storage(place, vector):
        overwrite(path, rng, 200_000)
    for quick in (False, True):
        found = points_and_files(examine(place, quick=quick), quick=quick)
        assert f"of {N} points that were read are damaged" in found.what
        assert f"{vector}: " in found.what
        assert "'d" in found.what
        assert found.remedy is not None
        assert "ingest them again" in found.remedy
        assert found.what.count("'d") <= 20


def test_points_that_cannot_be_read_are_found_one_by_one(place: Path) -> None:
    for path in storage(place, "colbert", "offsets"):
        overwrite(path, random.Random(5), 200)
    found = points_and_files(examine(place))
    assert f"of {N} points that were read are damaged" in found.what
    assert "it can't be read" in found.what


def test_zeroed_vectors_are_found(place: Path) -> None:
    for path in storage(place, "dense"):
        silently(path, bytes(4096))
    found = points_and_files(examine(place))
    assert "dense: 1 of 1 vectors are not of length 1" in found.what


@pytest.mark.parametrize("components", [True, False])
@pytest.mark.parametrize("mode", ["dense", "colbert", "weighted"])
def test_a_search_gives_out_no_impossible_score(
    tmp_path: Path, encoder: M3Encoder, mode: str, components: bool
) -> None:
    with M3Store(tmp_path, "docs", encoder, M3Schema(payload_indexes=INDEXED)) as store:
        store.add(ROWS)
    for vector in ("dense", "colbert"):
        for path in storage(tmp_path, vector):
            # numbers of 96.0 in float32, of 3.6 in float16
            silently(path, np.full(50_000, 96.375, dtype=np.float32).tobytes()[:200_000])
    with (
        M3Store(tmp_path, "docs", encoder) as store,
        pytest.raises(StoreDamagedError, match=r"document 'd\d+' has .*m3qdrant doctor"),
    ):
        store.search("compress a file", mode, components=components)  # type: ignore[arg-type]


def test_a_write_into_the_files_is_refused_and_what_it_hit_is_named(
    place: Path, encoder: M3Encoder
) -> None:
    (path, *_) = storage(place, "dense")
    with open(path, "r+b") as file:
        file.write(np.full(2, 1.5, dtype=np.float32).tobytes())
    with pytest.raises(StoreDamagedError, match="doctor"), M3Store(place, "docs", encoder):
        pass
    found = points_and_files(examine(place))
    assert f"1 of {N} points that were read are damaged: 'd" in found.what
    # the way out that the messages name
    damaged = re.search(r"'(d\d+)'", found.what)
    assert damaged
    (place / "docs" / "closed.json").unlink()
    with M3Store(place, "docs", encoder) as store:
        assert store.delete(damaged[1]) == 1
        assert store.add(ROWS).added == 1
    assert errors(examine(place)) == []


def test_files_that_hold_no_vectors_are_read_too(tmp_path: Path, encoder: M3Encoder) -> None:
    """Of one byte in any large file the doctor says in which; and that all is well, if it is."""
    with M3Store(tmp_path, "docs", encoder) as store:
        store.add({"id": f"d{i}", "text": f"{i} " + "some words " * 30} for i in range(300))
    record = json.loads((tmp_path / "docs" / "closed.json").read_text())
    large = sorted(record["contents"])
    assert any("payload_storage" in path for path in large)
    ok = [f for f in examine(tmp_path) if f.severity == "ok" and f.collection == "docs"]
    assert any("hold what they held when it was closed" in finding.what for finding in ok)
    for path in large:
        file = tmp_path / "docs" / path
        at, old = next((i, b) for i, b in enumerate(file.read_bytes()) if b)
        silently(file, bytes([old ^ 1]), at)
        wrong = [f.what for f in errors(examine(tmp_path)) if "of its files" in f.what]
        silently(file, bytes([old]), at)
        assert len(wrong) == 1, path
        assert wrong[0].startswith("1 of its files")
        assert path in wrong[0]
    assert errors(examine(tmp_path)) == []
    (tmp_path / "docs" / "closed.json").unlink()  # as after a crash
    notes = [f.what for f in examine(tmp_path) if f.severity == "note"]
    assert any("not closed in good order" in note for note in notes)


def test_texts_and_payloads_that_were_changed_are_told(tmp_path: Path, encoder: M3Encoder) -> None:
    rows = [{**row, "part": 0.1 + row["n"] / 8} for row in ROWS]  # type: ignore[operator]
    with M3Store(tmp_path, "docs", encoder, M3Schema(payload_indexes=INDEXED)) as store:
        store.add(rows, max_length=64, long_documents="truncate")
        assert not [f for f in examine(store.client) if "than" in f.what]
        change = store.client.set_payload
        change("docs", {"text": "file number 7 of an archive, compressed!"}, [point_id("d7")])
        change("docs", {"n": -1}, [point_id("d8"), point_id("d9")])
        change("docs", {"seen": True}, [point_id("d10")])
        found = {f.severity: f for f in examine(store.client) if "another" in f.what}
    assert set(found) == {"warning", "note"}
    assert found["warning"].what.startswith(f"1 of {N} points that were read have another text")
    assert found["warning"].what.endswith(": 'd7'")
    assert found["note"].what.startswith(f"3 of {N} points that were read have another payload")
    assert all(f"'d{i}'" in found["note"].what for i in (8, 9, 10))


def test_progress_is_shown(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examine(place, progress=True)
    shown = capsys.readouterr().err
    assert "reading the files of docs" in shown
    assert "reading the points of docs" in shown
    examine(place)
    assert capsys.readouterr().err == ""


def test_faults_of_a_point() -> None:
    made = Provenance.of(Document("a", "text"), "model", "")
    unit = np.eye(4)[0].tolist()

    def record(id: str = "a", **vectors: object) -> models.Record:
        whole = {"dense": unit, "colbert": [unit, unit], **vectors}
        payload = made.payload_of(Document("a", "text"))
        return models.Record.model_construct(id=point_id(id), payload=payload, vector=whole)

    def said(record: models.Record, ours: bool = True) -> list[str]:
        return list(faults(record, {"dense": 0.01, "colbert": 0.01} if ours else {}))

    assert said(record()) == []
    assert said(record(id="b")) == ["its id is another point's"]
    assert said(record(dense=[2.0, 0, 0, 0], colbert=[unit, [0.0] * 4])) == [
        "dense: 1 of 1 vectors are not of length 1 but 2",
        "colbert: 1 of 2 vectors are not of length 1 but 0",
    ]
    assert said(record(dense=[2.0, 0, 0, 0]), ours=False) == []
    for ours in (True, False):
        assert said(record(dense=[float("nan"), 0, 0, 0]), ours) == [
            "dense: numbers that are not finite"
        ]
    negative = models.SparseVector(indices=[1, 2], values=[0.5, -0.5])
    assert said(record(sparse=negative)) == ["sparse: a weight is negative"]
    assert json.dumps(said(record(sparse=models.SparseVector(indices=[1], values=[0.5])))) == "[]"
