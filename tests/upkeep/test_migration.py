"""migrate: every kind of collection, what can't be, and a verification that sees."""

from __future__ import annotations

import uuid
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from m3qdrant import QdrantEdge
from m3qdrant.errors import SchemaMismatchError
from m3qdrant.upkeep import MigrationReport, migrate, migration
from m3qdrant.upkeep.sides import Directed
from tests.servers.rest import RestServer
from tests.upkeep.points import SIZE, everything, fill, point


@pytest.mark.thinned(3)
@pytest.mark.parametrize("ids", ["uuid", "int"])
@pytest.mark.parametrize("distance", ["Dot", "Cosine"])
@pytest.mark.parametrize("datatype", ["float32", "float16"])
def test_embedded_to_embedded(
    source: QdrantEdge,
    target: QdrantEdge,
    rng: np.random.Generator,
    datatype: str,
    distance: str,
    ids: str,
) -> None:
    fill(source, rng, 150, datatype=datatype, distance=distance, ids=ids)
    source.create_payload_index("c", "n", models.PayloadSchemaType.INTEGER)
    report = migrate(source, target, "c", "d", batch=32)
    assert report.verified
    assert (report.copied, report.unchanged, report.source_points) == (150, 0, 150)
    if (datatype, distance) == ("float16", "Cosine"):  # which is normalised once more
        assert report.rounded > 0
        assert everything(source).keys() == everything(target, "d").keys()
    else:
        assert everything(source) == everything(target, "d")
        assert report.rounded == 0
        assert report.source_checksum == report.target_checksum
    one, two = source.get_collection("c"), target.get_collection("d")
    assert one.config == two.config
    assert list(two.payload_schema) == ["n"]
    # a second run finds it all there
    again = migrate(source, target, "c", "d")
    assert again.verified
    assert (again.copied, again.unchanged) == (0, 150)
    assert again.target_checksum == report.target_checksum


@pytest.mark.parametrize("distance", ["Dot", "Cosine"])
@pytest.mark.parametrize("datatype", ["float32", "float16", "turbo8", "turbo4"])
def test_through_memory_and_back(
    source: QdrantEdge, target: QdrantEdge, rng: np.random.Generator, datatype: str, distance: str
) -> None:
    """In-memory mode keeps float32 and normalises once more: the same but for rounding."""
    fill(source, rng, 80, datatype=datatype, distance=distance)
    memory = QdrantClient(":memory:")
    with pytest.warns(UserWarning, match="turbo4") if datatype == "turbo4" else nullcontext():
        there = migrate(source, memory, "c")
    assert (there.verified, there.copied) == (True, 80)
    with pytest.warns(UserWarning, match="turbo4") if datatype == "turbo4" else nullcontext():
        back = migrate(memory, target, "c")
    assert (back.verified, back.copied) == (True, 80)


@pytest.mark.parametrize("distance", ["Dot", "Cosine"])
def test_numbers_that_are_rounded_on_arrival(
    target: QdrantEdge, rng: np.random.Generator, distance: str
) -> None:
    memory = QdrantClient(":memory:")
    fill(memory, rng, 40, datatype="float16", distance=distance)
    report = migrate(memory, target, "c")
    assert report.verified
    assert report.rounded > 20
    assert report.source_checksum != report.target_checksum
    assert "but for rounding" in str(report)
    assert migrate(memory, target, "c").copied == 0


def test_an_unnamed_vector(
    source: QdrantEdge, target: QdrantEdge, rng: np.random.Generator
) -> None:
    source.create_collection("c", models.VectorParams(size=3, distance=models.Distance.EUCLID))
    source.upsert(
        "c",
        [models.PointStruct(id=i, vector=rng.random(3).tolist()) for i in range(20)],
    )
    assert migrate(source, target, "c").verified
    assert everything(source) == everything(target)


def test_a_copy_is_another_collection(
    source: QdrantEdge, target: QdrantEdge, rng: np.random.Generator
) -> None:
    """Its points' versions count anew, so it is not to be taken for the one it comes from."""
    fill(source, rng, 5)
    source.update_collection("c", metadata={"m3qdrant": {"format": 1, "uuid": "one"}, "a": 2})
    assert migrate(source, target, "c").verified
    metadata = target.get_collection("c").config.metadata
    assert metadata is not None
    assert metadata["m3qdrant"]["uuid"] not in (None, "", "one")
    assert metadata["m3qdrant"]["format"] == 1
    assert metadata["a"] == 2


def test_an_empty_collection(
    source: QdrantEdge, target: QdrantEdge, rng: np.random.Generator
) -> None:
    fill(source, rng, 0)
    report = migrate(source, target, "c")
    assert (report.verified, report.copied) == (True, 0)


def test_a_target_that_does_not_fit_is_left_alone(
    source: QdrantEdge, target: QdrantEdge, rng: np.random.Generator
) -> None:
    fill(source, rng, 5)
    target.create_collection(
        "c", {"a": models.VectorParams(size=SIZE + 1, distance=models.Distance.DOT)}
    )
    with pytest.raises(SchemaMismatchError) as error:
        migrate(source, target, "c")
    assert error.value.differences == [
        f"vector 'a' has size {SIZE} at the source, {SIZE + 1} at the target",
        "vector 'multi' is not in the target",
        "vector 's' is not in the target",
    ]
    assert target.count("c").count == 0


def test_beside_itself_under_another_name(source: QdrantEdge, rng: np.random.Generator) -> None:
    fill(source, rng, 5)
    assert migrate(source, source, "c", "copy").verified
    assert everything(source, "copy") == everything(source)


def _tamper(target: QdrantEdge, how: str, id: Any, rng: np.random.Generator) -> None:
    if how == "missing":
        target.delete("c", [id])
    elif how == "extra":
        target.upsert("c", [models.PointStruct(id=str(uuid.UUID(int=7)), vector={})])
    elif how == "payload":
        target.set_payload("c", {"n": 1.0}, [id])
    else:
        (record,) = target.retrieve("c", [id], with_vectors=True)
        vectors: Any = record.vector
        if how == "a bit of a vector":
            vectors["multi"][-1][-1] = float(
                np.nextafter(np.float32(vectors["multi"][-1][-1]), np.float32(9))
            )
        else:
            vectors["s"].values[0] *= 2
        target.upsert("c", [models.PointStruct(id=id, vector=vectors, payload=record.payload)])


@pytest.mark.parametrize(
    "how", ["missing", "extra", "payload", "a bit of a vector", "a sparse weight"]
)
def test_the_verification_sees_each_difference(
    source: QdrantEdge,
    target: QdrantEdge,
    rng: np.random.Generator,
    how: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill(source, rng, 60)
    whole = [
        id
        for id, (payload, vectors) in everything(source).items()
        if payload and {"a", "s", "multi"} <= vectors.keys() and vectors["s"].indices
    ]
    id = whole[int(rng.integers(len(whole)))]
    copy = migration._Migration._copy

    def tampered(*arguments: Any) -> Directed[None]:
        yield from copy(*arguments)
        _tamper(target, how, id, rng)

    with monkeypatch.context() as patched:
        patched.setattr(migration._Migration, "_copy", tampered)
        report = migrate(source, target, "c")
    assert not report.verified
    found = {"missing": report.missing, "extra": report.extra}.get(how, report.different)
    assert found == ([str(uuid.UUID(int=7))] if how == "extra" else [id])
    assert len(report.missing) + len(report.extra) + len(report.different) == 1
    assert "NOT the same" in str(report)
    if how == "extra":
        assert report.source_checksum == report.target_checksum
    else:
        assert report.source_checksum != report.target_checksum
        # a further run puts it right
        again = migrate(source, target, "c")
        assert (again.verified, again.copied) == (True, 1)


def test_a_writer_at_the_source_is_noticed_and_caught_up_with(
    source: QdrantEdge, target: QdrantEdge, rng: np.random.Generator
) -> None:
    fill(source, rng, 40)
    migrate(source, target, "c")
    source.set_payload("c", {"new": 1}, [min(everything(source))])
    source.upsert("c", [point(rng, 1_000)])
    report = migrate(source, target, "c")
    assert (report.verified, report.copied) == (True, 2)


def test_large_points_stay_below_the_limit_of_a_body(
    source: QdrantEdge, server: RestServer, rng: np.random.Generator
) -> None:
    size = 1024
    source.create_collection(
        "c",
        {
            "multi": models.VectorParams(
                size=size,
                distance=models.Distance.DOT,
                multivector_config=models.MultiVectorConfig(
                    comparator=models.MultiVectorComparator.MAX_SIM
                ),
                hnsw_config=models.HnswConfigDiff(m=0),
            )
        },
    )
    for i in range(13):
        tokens = 2 if i < 10 else 600  # small ones first: the page is large when large ones come
        source.upsert(
            "c",
            [
                models.PointStruct.model_construct(
                    id=i, vector={"multi": rng.standard_normal((tokens, size), np.float32)}
                )
            ],
        )
    assert migrate(source, server.url, "c").verified
    sizes = [request.bytes for request in server.seen("PUT", "/points$")]
    assert max(sizes) < 32e6 < sum(sizes[2:])  # the third page, in several bodies


def test_the_report_in_words() -> None:
    report = MigrationReport("A", "B", copied=3, source_points=9, target_points=7)
    report.missing = [*range(7)]
    assert "7 missing at the target (0, 1, 2, 3, 4, ...): run it again" in str(report)
    assert report.to_dict()["verified"] is False
    report = MigrationReport("A", "B", source_points=9, target_points=8)
    assert not report.verified
    assert "during the verification: run it again" in str(report)
