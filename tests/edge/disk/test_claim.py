"""qdrant-client's local mode opens no directory of ours, and what it left in one does no harm."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient

from m3qdrant.edge import QdrantEdge
from m3qdrant.edge.disk.claim import claim
from m3qdrant.errors import StoreDamagedError
from tests.edge.small import NAME, VECTORS, create


def contents(root: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(file): (file.stat().st_mtime_ns, file.read_bytes())
        for file in sorted(root.rglob("*"))
        if file.is_file()
    }


@pytest.mark.parametrize("kind", [QdrantClient, AsyncQdrantClient])
def test_local_mode_refuses_a_directory_of_ours(
    client: QdrantEdge, path: Path, kind: type
) -> None:
    for _ in range(2):
        before = contents(path)
        with pytest.raises(ValueError, match=r"open this directory with m3qdrant\.QdrantEdge"):
            kind(path=str(path))
        assert contents(path) == before
        client.close()


def test_a_directory_that_was_made_without_it_gets_it(client: QdrantEdge, path: Path) -> None:
    client.close()
    (path / "meta.json").unlink()
    QdrantEdge(path, read_only=True).close()
    assert sorted(os.listdir(path)) == [NAME]
    with QdrantEdge(path) as again:
        assert again.count(NAME).count == 20
    with pytest.raises(ValueError, match="m3qdrant"):
        QdrantClient(path=str(path))


def test_a_directory_that_local_mode_opened_before(client: QdrantEdge, path: Path) -> None:
    client.close()
    (path / "meta.json").unlink()
    QdrantClient(path=str(path)).close()
    with QdrantEdge(path) as again:
        assert again.count(NAME).count == 20
    with pytest.raises(ValueError, match="m3qdrant"):
        QdrantClient(path=str(path))


def test_an_empty_directory_of_local_mode_becomes_ours(path: Path) -> None:
    QdrantClient(path=str(path)).close()
    with QdrantEdge(path) as client:
        create(client)
    with pytest.raises(ValueError, match="m3qdrant"):
        QdrantClient(path=str(path))


def test_what_local_mode_holds_stays_its_own(path: Path) -> None:
    local = QdrantClient(path=str(path))
    local.create_collection(NAME, VECTORS["colbert"])
    local.close()
    before = contents(path)
    for _ in range(2):
        with pytest.raises(StoreDamagedError, match=r"written by QdrantClient\(path="):
            QdrantEdge(path)
        claim(path)
        assert contents(path) == before
    assert QdrantClient(path=str(path)).collection_exists(NAME)


@pytest.mark.parametrize("name", ["collection", "m3qdrant"])
def test_a_collection_may_have_any_name(path: Path, name: str) -> None:
    for there in (False, True):
        with QdrantEdge(path) as client:
            assert client.collection_exists(name) == there
            if not there:
                create(client, name)
    (path / "meta.json").unlink()
    with QdrantEdge(path) as client:
        assert client.collection_exists(name)
