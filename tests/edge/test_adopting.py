"""A collection of another directory that takes the place of one's own."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from m3qdrant.edge import AsyncQdrantEdge, QdrantEdge
from m3qdrant.errors import StoreDamagedError, StoreLockedError
from tests.edge.small import NAME, create, points


def made(root: Path, count: int) -> Path:
    with QdrantEdge(root) as client:
        create(client)
        client.upsert(NAME, points(0, count))
    return root / NAME


def test_it_is_there_in_place_of_the_old_one(tmp_path: Path) -> None:
    made(tmp_path / "own", 3)
    other = made(tmp_path / "other", 5)
    with QdrantEdge(tmp_path / "own") as client:
        assert client.count(NAME).count == 3  # and it is open
        assert client.adopt(NAME, other)
        assert client.count(NAME).count == 5
        client.upsert(NAME, points(0, 7))
    assert not other.exists()
    with QdrantEdge(tmp_path / "own") as client:
        assert client.count(NAME).count == 7
    assert sorted(path.name for path in (tmp_path / "own").iterdir()) == [NAME, "meta.json"]


def test_it_may_be_new_and_named_otherwise(tmp_path: Path) -> None:
    other = made(tmp_path / "other", 4)

    async def adopted() -> int:
        async with AsyncQdrantEdge(tmp_path / "own") as client:
            await client.adopt("new", other)
            return (await client.count("new")).count

    assert asyncio.run(adopted()) == 4


def test_what_is_open_or_damaged_is_refused_and_the_old_one_stays(tmp_path: Path) -> None:
    made(tmp_path / "own", 3)
    other = made(tmp_path / "other", 5)
    with QdrantEdge(tmp_path / "other") as holder:
        holder.count(NAME)
        with QdrantEdge(tmp_path / "own") as client, pytest.raises(StoreLockedError):
            client.adopt(NAME, other)
    with QdrantEdge(tmp_path / "own") as holder:
        holder.count(NAME)
        with QdrantEdge(tmp_path / "own") as client, pytest.raises(StoreLockedError):
            client.adopt(NAME, other)
    next((other / "shard" / "segments").glob("*/segment.json")).write_text("{}")
    with QdrantEdge(tmp_path / "own") as client:
        with pytest.raises(StoreDamagedError):
            client.adopt(NAME, other)
        with pytest.raises(StoreDamagedError):
            client.adopt(NAME, tmp_path / "nothing")
        assert client.count(NAME).count == 3
