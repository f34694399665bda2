"""Other names for collections: what each method makes of them, on the disk and side by side."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.conversions import common_types as types
from qdrant_client.http.exceptions import UnexpectedResponse

from m3qdrant.edge import AsyncQdrantEdge, QdrantEdge
from m3qdrant.errors import (
    CollectionExistsError,
    CollectionNotFoundError,
    InputError,
    StoreDamagedError,
    UnsupportedError,
)
from tests.edge.small import DIM, MORE, NAME, VECTORS, create, points


def made(alias: str, name: str = NAME) -> models.CreateAliasOperation:
    return models.CreateAliasOperation(
        create_alias=models.CreateAlias(collection_name=name, alias_name=alias)
    )


def deleted(alias: str) -> models.DeleteAliasOperation:
    return models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))


def renamed(old: str, new: str) -> models.RenameAliasOperation:
    return models.RenameAliasOperation(
        rename_alias=models.RenameAlias(old_alias_name=old, new_alias_name=new)
    )


def table(client: Any) -> dict[str, str]:
    return {a.alias_name: a.collection_name for a in client.get_aliases().aliases}


def test_changes_in_their_order_as_in_memory_mode(client: QdrantEdge) -> None:
    memory = QdrantClient(":memory:")
    for each in (client, memory):
        if each is memory:
            create(each)
        create(each, "other")
    batches: list[list[types.AliasOperations]] = [
        [made("a"), made("b"), made("c", "other")],
        [deleted("b"), renamed("c", "d"), deleted("never")],
        [made("a", "other"), renamed("a", "d")],
        [made("x"), deleted("x")],
        [],
    ]
    for batch in batches:
        assert client.update_collection_aliases(batch) is True
        memory.update_collection_aliases(batch)
        assert table(client) == table(memory)
    assert table(client) == {"d": "other"}
    ours = client.get_collection_aliases("other")
    assert ours == memory.get_collection_aliases("other")
    assert client.get_collection_aliases(NAME).aliases == []


def test_an_alias_is_its_collection_everywhere(client: QdrantEdge, path: Path) -> None:
    client.update_collection_aliases([made("alias")])
    vector = points(3, 4)[0].vector
    assert isinstance(vector, dict)
    calls: list[Callable[[str], Any]] = [
        lambda n: client.count(n),
        lambda n: client.scroll(n, limit=30, with_vectors=True),
        lambda n: client.retrieve(n, [3]),
        lambda n: client.get_collection(n),
        lambda n: client.collection_exists(n),
        lambda n: client.facet(n, "n"),
        lambda n: client.query_points(n, vector["dense"], using="dense"),
        lambda n: client.query_points_groups(n, "n", vector["dense"], using="dense"),
        lambda n: client.unindexed(n),
        lambda n: client.list_snapshots(n),
    ]
    for call in calls:
        assert call("alias") == call(NAME)
    elsewhere = models.LookupLocation(collection="alias")
    assert client.query_points(NAME, 3, using="dense", lookup_from=elsewhere).points
    client.upsert("alias", points(50, 52))
    client.set_payload("alias", {"z": 1}, [50])
    client.delete("alias", [51])
    client.create_payload_index("alias", "z", "integer")
    client.create_vector_name("alias", "more", MORE)
    client.update_collection("alias", metadata={"seen": True})
    assert client.count(NAME).count == 21
    assert client.retrieve(NAME, [50])[0].payload == {**points(50, 51)[0].payload, "z": 1}  # type: ignore[dict-item]
    assert "z" in client.get_collection(NAME).payload_schema
    snapshot = client.create_snapshot("alias")
    assert [s.name for s in client.list_snapshots(NAME)] == [snapshot.name]
    assert client.delete_snapshot("alias", snapshot.name)
    client.optimize("alias")
    client.flush("alias")
    client.close()
    with QdrantEdge(path) as again:  # the first use is by the alias
        assert again.count("alias").count == 21
        assert [c.name for c in again.get_collections().collections] == [NAME]


def test_a_name_is_one_or_the_other(client: QdrantEdge) -> None:
    create(client, "other")
    client.update_collection_aliases([made("alias")])
    with pytest.raises(InputError, match="Alias with the same name already exists") as refused:
        client.create_collection("alias", VECTORS)
    assert isinstance(refused.value, UnexpectedResponse)
    assert refused.value.status_code == 400
    with pytest.raises(CollectionExistsError, match="Collection `other` already exists!"):
        client.update_collection_aliases([made("x"), made("other")])
    with pytest.raises(CollectionExistsError, match="Collection `other` already exists!"):
        client.update_collection_aliases([renamed("alias", "other")])
    with pytest.raises(CollectionNotFoundError, match="Collection nope not found"):
        client.update_collection_aliases([made("x"), made("y", "nope")])
    with pytest.raises(CollectionNotFoundError, match="Collection alias not found"):
        client.update_collection_aliases([made("x", "alias")])
    with pytest.raises(InputError, match="Alias nope does not exist"):
        client.update_collection_aliases([made("x"), renamed("nope", "z")])
    with pytest.raises(InputError, match="collection name 'a/b'"):
        client.update_collection_aliases([made("a/b")])
    with pytest.raises(InputError, match="no change of an alias"):
        client.update_collection_aliases([made("x"), "y"])  # type: ignore[list-item]
    assert table(client) == {"alias": NAME}, "a list is applied whole, or not at all"


def test_a_collections_aliases_go_with_it(client: QdrantEdge) -> None:
    create(client, "other")
    client.update_collection_aliases([made("a"), made("b", "other")])
    assert not client.delete_collection("a"), "an alias is no collection to delete"
    assert client.count("a").count == 20
    assert client.delete_collection(NAME)
    assert table(client) == {"b": "other"}
    assert not client.collection_exists("a")
    with pytest.raises(CollectionNotFoundError, match="Collection a not found"):
        client.count("a")
    client.create_collection("a", VECTORS)
    assert client.count("a").count == 0


def test_clients_of_one_directory_share_them(client: QdrantEdge, path: Path) -> None:
    with QdrantEdge(path) as other, QdrantEdge(path, read_only=True) as looking:
        client.update_collection_aliases([made("a")])
        assert table(other) == table(looking) == {"a": NAME}
        assert other.collection_exists("a")
        client.close()
        assert looking.count("a").count == 20
        with pytest.raises(UnsupportedError, match="opened for reading"):
            looking.update_collection_aliases([deleted("a")])

        def change(which: QdrantEdge, letter: str) -> None:
            for i in range(10):
                which.update_collection_aliases([made(f"{letter}{i}")])

        with QdrantEdge(path) as third:
            threads = [
                threading.Thread(target=change, args=(c, x))
                for c, x in zip((other, third), "xy", strict=True)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert len(table(looking)) == 21, "none is lost where two change them at once"


def test_another_process_sees_them(client: QdrantEdge, path: Path) -> None:
    client.update_collection_aliases([made("日本語")])
    client.close()
    program = (
        "import sys; from m3qdrant.edge import QdrantEdge; "
        "print(QdrantEdge(sys.argv[1]).count('日本語').count)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(path)], check=True, capture_output=True, text=True
    )
    assert ended.stdout.strip() == "20"


def test_the_asynchronous_client(path: Path) -> None:
    async def run() -> None:
        async with AsyncQdrantEdge(path) as client:
            await client.create_collection(NAME, VECTORS)
            await client.update_collection_aliases([made("a")])
            assert (await client.get_aliases()).aliases[0].alias_name == "a"
            await client.upsert("a", [models.PointStruct(id=1, vector={"dense": [1.0] * DIM})])
            assert (await client.count("a")).count == 1

    asyncio.run(run())


def test_before_there_is_a_directory(path: Path) -> None:
    with QdrantEdge(path) as client:
        assert table(client) == {}
        assert client.update_collection_aliases([deleted("a")])
        with pytest.raises(CollectionNotFoundError):
            client.update_collection_aliases([made("a")])
        assert not path.exists()


def test_a_damaged_file_is_named(client: QdrantEdge, path: Path) -> None:
    client.update_collection_aliases([made("a")])
    (path / ".aliases.json").write_text('{"format": 1, "alia')
    assert client.count(NAME).count == 20
    for call in (lambda: client.count("a"), client.get_aliases):
        with pytest.raises(StoreDamagedError, match=r"\.aliases\.json can't be read"):
            call()


def test_a_write_that_was_cut_off_is_swept_away(client: QdrantEdge, path: Path) -> None:
    client.update_collection_aliases([made("a")])
    old, new = path / f"..aliases.json-{'0' * 32}", path / f"..aliases.json-{'1' * 32}"
    for file in (old, new):
        file.write_text("{")
    os.utime(old, (1, 1))
    with QdrantEdge(path) as other:
        assert not old.exists()
        assert new.exists(), "somebody may be about to give it its name"
        assert table(other) == {"a": NAME}
