"""Bytes overwritten in real files of vectors, found by the doctor and by searches."""

from __future__ import annotations

import json
import os
import random
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
    with open(path, "r+b") as file:
        file.write(rng.randbytes(min(size, os.path.getsize(path))))


@pytest.mark.parametrize("quick", [False, True])
def test_what_is_whole_is_not_called_damaged(place: Path, quick: bool) -> None:
    assert errors(examine(place, quick=quick)) == []


@pytest.mark.parametrize("vector", ["dense", "colbert"])
def test_overwritten_vectors_are_found_and_named(place: Path, vector: str) -> None:
    rng = random.Random(random.randrange(10**9))
    for path in storage(place, vector):
        overwrite(path, rng, 200_000)
    for quick in (False, True):
        (found,) = errors(examine(place, quick=quick))
        assert f"of {N} points that were read are damaged" in found.what
        assert f"{vector}: " in found.what
        assert "'d" in found.what
        assert found.remedy is not None
        assert "ingest them again" in found.remedy
        assert found.what.count("'d") <= 20


def test_points_that_cannot_be_read_are_found_one_by_one(place: Path) -> None:
    for path in storage(place, "colbert", "offsets"):
        overwrite(path, random.Random(5), 200)
    (found,) = errors(examine(place))
    assert f"of {N} points that were read are damaged" in found.what
    assert "it can't be read" in found.what


def test_zeroed_vectors_are_found(place: Path) -> None:
    for path in storage(place, "dense"):
        with open(path, "r+b") as file:
            file.write(bytes(4096))
    (found,) = errors(examine(place))
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
            with open(path, "r+b") as file:  # numbers of 96.0 in float32, of 3.6 in float16
                file.write(np.full(50_000, 96.375, dtype=np.float32).tobytes()[:200_000])
    with (
        M3Store(tmp_path, "docs", encoder) as store,
        pytest.raises(StoreDamagedError, match="m3qdrant doctor"),
    ):
        store.search("compress a file", mode, components=components)  # type: ignore[arg-type]


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
