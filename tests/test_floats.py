"""What the engine makes of floats in payloads is known to the last bit."""

from __future__ import annotations

import math
import random
import struct
from pathlib import Path

from qdrant_client import models

from m3qdrant.edge import QdrantEdge
from m3qdrant.floats import as_read, ends


def numbers(rng: random.Random) -> list[float]:
    found = [rng.random() for _ in range(600)]
    found += [rng.uniform(-1e6, 1e6) for _ in range(300)]
    found += [rng.random() * 10.0 ** rng.randint(-300, 300) for _ in range(300)]
    bits = (struct.unpack("d", rng.randbytes(8))[0] for _ in range(400))
    found += [number for number in bits if math.isfinite(number)]
    return [*found, 0.0, 0.1, -1.5, 2020.0, 1e22, 1e16, 1e300, 1.7e308, 5e-324, 2.0**53]


def stored(client: QdrantEdge, payloads: list[float]) -> list[float]:
    client.create_collection("c", models.VectorParams(size=1, distance=models.Distance.DOT))
    client.upsert(
        "c",
        [
            models.PointStruct(id=i, vector=[1.0], payload={"x": number})
            for i, number in enumerate(payloads)
        ],
    )
    records, _ = client.scroll("c", limit=len(payloads))
    return [(record.payload or {})["x"] for record in records]


def test_floats_are_read_as_we_know(tmp_path: Path) -> None:
    written = numbers(random.Random())
    with QdrantEdge(tmp_path / "floats") as client:
        read = stored(client, written)
    assert [as_read(number) for number in written] == read
    assert any(a != b for a, b in zip(written, read, strict=True))


def test_neighbours_are_told_apart_unless_they_read_the_same(tmp_path: Path) -> None:
    rng = random.Random()
    centres = [rng.random() for _ in range(150)]
    near = [
        x for c in centres for x in (math.nextafter(c, -math.inf), c, math.nextafter(c, math.inf))
    ]
    with QdrantEdge(tmp_path / "floats") as client:
        read = stored(client, near)

        def found(bounds: models.Range) -> set[int]:
            inside = models.FieldCondition(key="x", range=bounds)
            records, _ = client.scroll("c", models.Filter(must=[inside]), limit=len(near))
            return {int(record.id) for record in records}

        for i in range(1, len(near), 3):
            least, greatest = ends(near[i])
            same = {j for j, number in enumerate(read) if least <= number <= greatest}
            assert i in same
            assert found(models.Range(gte=near[i], lte=near[i])) == same
            assert found(models.Range(gt=near[i])).isdisjoint(same)
            assert found(models.Range(lt=near[i])).isdisjoint(same)
            assert found(models.Range(gte=near[i])) >= same
            if as_read(near[i]) == near[i]:
                assert least == greatest == near[i]
