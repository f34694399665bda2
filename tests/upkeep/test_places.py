"""From place to place in either world: a directory, a memory client, a server, and back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient

from m3qdrant import M3Encoder, M3Schema, M3Store, QdrantEdge
from m3qdrant.errors import CollectionNotFoundError, InputError
from m3qdrant.transport import Retries
from tests.servers.rest import SERVE, Garbage, Reset, RestServer, Status
from tests.upkeep.points import filled, held
from tests.upkeep.worlds import World

FAST = Retries(attempts=3, budget_s=10, first_wait_s=0.01, longest_wait_s=0.05)


def test_a_directory_to_a_directory(
    world: World, tmp_path: Path, rng: np.random.Generator
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    expected = filled(here, rng, 150)
    report = world.migrate(here, there, "c", "d", batch=32)
    assert report.verified
    assert (report.copied, report.unchanged, report.source_points) == (150, 0, 150)
    assert report.source_checksum == report.target_checksum
    assert held(there, "d") == expected
    again = world.migrate(here, there, "c", "d")
    assert (again.verified, again.copied, again.unchanged) == (True, 0, 150)
    assert again.target_checksum == report.target_checksum
    with QdrantEdge(here) as one, QdrantEdge(there) as two:
        assert one.get_collection("c").config == two.get_collection("d").config
        assert list(two.get_collection("d").payload_schema) == ["n"]


def test_through_a_memory_client(world: World, tmp_path: Path, rng: np.random.Generator) -> None:
    expected = filled(tmp_path / "here", rng, 80)
    client = AsyncQdrantClient(":memory:") if world.asynchronous else QdrantClient(":memory:")
    there = world.migrate(tmp_path / "here", client, "c")
    assert (there.verified, there.copied) == (True, 80)
    back = world.migrate(client, tmp_path / "back", "c")
    assert (back.verified, back.copied) == (True, 80)
    assert held(tmp_path / "back") == expected
    if isinstance(client, QdrantClient):
        client.close()
    else:
        asyncio.run(client.close())


def test_to_a_server_and_back_whatever_happens_on_the_way(
    world: World, tmp_path: Path, server: RestServer, rng: np.random.Generator
) -> None:
    expected = filled(tmp_path / "here", rng, 120, datatype="float16")
    server.script("PUT", "/c$", Reset(applied=True))  # made, and nobody knows
    server.script("PUT", "/points$", Status(503), Reset(applied=True), SERVE, Garbage())
    server.script("POST", "/points$", Status(429, headers={"Retry-After": "0"}), Reset())
    there = world.migrate(tmp_path / "here", server.url, "c", batch=20, retries=FAST)
    assert (there.verified, there.copied) == (True, 120)
    assert there.source_checksum == there.target_checksum
    server.script("POST", "/scroll$", Status(500), Garbage(), SERVE, Reset())
    back = world.migrate(server.url, tmp_path / "back", "c", "back", batch=20, retries=FAST)
    assert (back.verified, back.copied) == (True, 120)
    assert back.target_checksum == there.source_checksum
    assert held(tmp_path / "back", "back") == expected
    with QdrantEdge(tmp_path / "back") as target:
        info = target.get_collection("back")
        assert list(info.payload_schema) == ["n"]
        assert info.config.metadata == {"whose": "mine"}


def test_a_store_opens_where_it_was_copied_to(
    world: World, tmp_path: Path, encoder: M3Encoder
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    with M3Store(here, "docs", encoder, M3Schema(payload_indexes={"year": "integer"})) as store:
        store.add([{"id": str(i), "text": f"text {i}", "year": i} for i in range(30)])
        best = store.search("text 7")[0]
    report = world.migrate(here, there, "docs")
    assert (report.verified, report.copied) == (True, 30)
    with M3Store(there, "docs", encoder) as store:
        found = store.search("text 7")[0]
        assert (found.id, found.text, found.payload) == (best.id, best.text, best.payload)
        assert found.scores == pytest.approx(best.scores, abs=1e-6)
        assert store.info().schema.payload_indexes == {"year": "integer"}


def test_what_can_not_be(world: World, tmp_path: Path, rng: np.random.Generator) -> None:
    here = tmp_path / "here"
    filled(here, rng, 5)
    with pytest.raises(CollectionNotFoundError, match="nothing to copy"):
        world.migrate(here, tmp_path / "t", "nope")
    with pytest.raises(InputError, match="both source and target"):
        world.migrate(here, here / ".", "c")
    with pytest.raises(InputError, match="':memory:' ends with the call"):
        world.migrate(here, ":memory:", "c")
    with pytest.raises(InputError, match="batch must be"):
        world.migrate(here, tmp_path / "t", "c", batch=0)
    assert not (tmp_path / "t").exists()
