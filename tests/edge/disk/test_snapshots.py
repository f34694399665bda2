"""A collection as one file, and back: whole, in place of another, and never half."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import models

from m3qdrant.edge import QdrantEdge
from m3qdrant.edge.disk import directory
from m3qdrant.errors import (
    CollectionNotFoundError,
    EngineError,
    InputError,
    StoreDamagedError,
    StoreLockedError,
    UnsupportedError,
)
from tests.edge.small import METADATA, NAME, create, points


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def client(path: Path) -> Iterator[QdrantEdge]:
    with QdrantEdge(path) as client:
        create(client, metadata=METADATA)
        client.create_payload_index(NAME, "n", models.PayloadSchemaType.INTEGER)
        client.upsert(NAME, points(0, 40))
        client.delete(NAME, [3, 5])
        yield client


def everything(client: QdrantEdge, name: str = NAME) -> Any:
    info = client.get_collection(name)  # its count of indexed vectors changes with each opening
    records, _ = client.scroll(name, limit=9999, with_vectors=True)
    return records, info.points_count, info.payload_schema, info.config


def file_of(client: QdrantEdge, snapshot: models.SnapshotDescription, name: str = NAME) -> Path:
    return client.path / ".snapshots" / name / snapshot.name


@pytest.mark.parametrize("optimized", [False, True], ids=["plain", "optimized"])
def test_there_and_back(client: QdrantEdge, optimized: bool) -> None:
    if optimized:
        client.upsert(NAME, points(40, 2000))
        client.optimize(NAME)
        client.delete(NAME, [50])
    before = everything(client)
    made = client.create_snapshot(NAME, wait=True)
    client.delete(NAME, list(range(20)))
    client.upsert(NAME, points(5000, 5010))
    client.update_collection(NAME, metadata={"model": "another"})
    assert client.recover_snapshot(NAME, str(file_of(client, made)), checksum=made.checksum)
    assert everything(client) == before
    client.upsert(NAME, points(7000, 7010))
    assert client.count(NAME).count == len(before[0]) + 10
    assert sorted(os.listdir(client.path)) == [".snapshots", NAME, "meta.json"]


def test_into_another_name_and_directory(client: QdrantEdge, tmp_path: Path) -> None:
    before = everything(client)
    file = file_of(client, client.create_snapshot(NAME))
    client.recover_snapshot("copy", file.as_uri())
    assert everything(client, "copy") == before
    moved = shutil.copy(file, tmp_path / "with space.tar")
    with QdrantEdge(tmp_path / "elsewhere") as other:
        other.recover_snapshot("日本 語", Path(moved).as_uri())
        assert everything(other, "日本 語") == before
    query = np.ones(8)
    assert (
        client.query_points("copy", query, using="dense").points
        == client.query_points(NAME, query, using="dense").points
    )


def test_the_list(client: QdrantEdge) -> None:
    assert client.list_snapshots(NAME) == []
    first = client.create_snapshot(NAME)
    client.upsert(NAME, points(100, 110))
    second = client.create_snapshot(NAME)
    assert first.name != second.name
    assert {s.name for s in client.list_snapshots(NAME)} == {first.name, second.name}
    for made in (first, second):
        file = file_of(client, made)
        assert made.size == file.stat().st_size
        assert made.checksum == hashlib.sha256(file.read_bytes()).hexdigest()
        line = file.with_name(file.name + ".sha256").read_text()
        assert line == f"{made.checksum}  {made.name}\n"
        assert made in client.list_snapshots(NAME)
    assert client.delete_collection(NAME)
    assert len(client.list_snapshots(NAME)) == 2, "they outlive the collection"
    assert client.delete_snapshot(NAME, first.name)
    assert not client.delete_snapshot(NAME, first.name)
    assert not client.delete_snapshot(NAME, "../docs/x.tar")
    assert client.list_snapshots(NAME) == [second]
    assert os.listdir(file_of(client, second).parent) != []
    client.recover_snapshot(NAME, str(file_of(client, second)))
    assert client.count(NAME).count == 48
    with pytest.raises(CollectionNotFoundError):
        client.create_snapshot("missing")
    assert [c.name for c in client.get_collections().collections] == [NAME]


def test_it_is_small_and_any_tar_reads_it(client: QdrantEdge, tmp_path: Path) -> None:
    """The files are mostly holes, some 300 MB of them."""
    made = client.create_snapshot(NAME)
    apparent = sum(f.stat().st_size for f in (client.path / NAME).rglob("*") if f.is_file())
    assert made.size < 8 << 20 < apparent
    if (program := shutil.which("tar")) is None:
        pytest.skip("this system has no tar")
    client.close()
    subprocess.run([program, "-xf", file_of(client, made), "-C", tmp_path], check=True)
    for file in (client.path / NAME / "shard").rglob("*"):
        if file.is_file() and "wal" not in file.parts:
            unpacked = tmp_path / file.relative_to(client.path / NAME)
            assert unpacked.read_bytes() == file.read_bytes(), file


def test_what_was_there_stays_until_the_new_one_is_whole(
    client: QdrantEdge, tmp_path: Path
) -> None:
    file = file_of(client, client.create_snapshot(NAME))
    client.upsert(NAME, points(100, 120))
    before = everything(client)
    content = file.read_bytes()
    (tmp_path / "cut").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "garbage").write_bytes(os.urandom(5000))
    for name in ("cut", "empty", "garbage"):
        with pytest.raises(StoreDamagedError, match="can't be unpacked"):
            client.recover_snapshot(NAME, tmp_path / name)
    with pytest.raises(StoreDamagedError, match="hasn't the SHA-256 00ff"):
        client.recover_snapshot(NAME, file, checksum="00ff")
    file.write_bytes(content + b"\0")
    with pytest.raises(StoreDamagedError, match="hasn't the SHA-256"):  # of the file beside it
        client.recover_snapshot(NAME, file)
    with pytest.raises(InputError, match="no snapshot at"):
        client.recover_snapshot(NAME, tmp_path / "missing.tar")
    with pytest.raises(UnsupportedError, match="download it"):
        client.recover_snapshot(NAME, "https://example.com/a.tar")
    assert everything(client) == before
    assert sorted(os.listdir(client.path)) == [".snapshots", NAME, "meta.json"]


def repacked(source: Path, target: Path, change: Callable[[Path], Any]) -> Path:
    """A snapshot whose unpacked content was changed."""
    folder = target.parent / "unpacked"
    with tarfile.open(source) as archive:
        archive.extractall(folder, filter="data")
    change(folder)
    with tarfile.open(target, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.add(file, str(file.relative_to(folder)))
    return target


def test_a_snapshot_that_lacks_a_file(client: QdrantEdge, tmp_path: Path) -> None:
    file = file_of(client, client.create_snapshot(NAME))
    bad = repacked(
        file, tmp_path / "bad.tar", lambda f: next(f.rglob("*.mappings")).write_bytes(b"")
    )
    with pytest.raises(StoreDamagedError, match=r"mappings has 0 bytes"):
        client.recover_snapshot(NAME, bad)
    assert client.count(NAME).count == 38


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "shard/../../evil", "evil"])
def test_an_archive_writes_nothing_outside(client: QdrantEdge, tmp_path: Path, name: str) -> None:
    file = file_of(client, client.create_snapshot(NAME))
    bad = repacked(file, tmp_path / "bad.tar", lambda f: (f / "note").write_text("x"))
    with tarfile.open(bad, "a") as archive:
        archive.add(tmp_path / "unpacked" / "note", name)
    with pytest.raises(StoreDamagedError, match=r"bad\.tar"):
        client.recover_snapshot(NAME, bad)
    assert not [p for p in tmp_path.rglob("evil*") if "unpacked" not in p.parts]
    assert client.count(NAME).count == 38


def test_a_link_in_an_archive(client: QdrantEdge, tmp_path: Path) -> None:
    file = file_of(client, client.create_snapshot(NAME))
    bad = repacked(file, tmp_path / "bad.tar", lambda f: None)
    link = tarfile.TarInfo("shard/link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(bad, "a") as archive:
        archive.addfile(link)
    with pytest.raises(StoreDamagedError, match="holds 'shard/link'"):
        client.recover_snapshot(NAME, bad)


def test_a_snapshot_of_a_server(client: QdrantEdge, tmp_path: Path) -> None:
    for name in ("config.json", "version.info"):
        (tmp_path / name).write_text("{}")
    theirs = tmp_path / "theirs.snapshot"
    with tarfile.open(theirs, "w") as archive:
        for name in ("config.json", "version.info"):
            archive.add(tmp_path / name, name)
    with pytest.raises(UnsupportedError, match="recover it in a server, and copy the points"):
        client.recover_snapshot(NAME, theirs)


def test_it_is_the_way_out_of_damage(client: QdrantEdge) -> None:
    before = everything(client)
    file = file_of(client, client.create_snapshot(NAME))
    client.close()
    shutil.rmtree(client.path / NAME / "shard" / "segments")
    with QdrantEdge(client.path) as again:
        with pytest.raises(StoreDamagedError):
            again.count(NAME)
        again.recover_snapshot(NAME, file)
        assert everything(again) == before
        (again.path / "photos").mkdir()
        with pytest.raises(StoreDamagedError, match="photos is in the way"):
            again.recover_snapshot("photos", file)
        assert os.listdir(again.path / "photos") == []


def test_a_collection_that_another_client_has_open(client: QdrantEdge) -> None:
    file = file_of(client, client.create_snapshot(NAME))
    with QdrantEdge(client.path) as second, pytest.raises(StoreLockedError, match="in this proc"):
        second.recover_snapshot(NAME, file)
    assert client.count(NAME).count == 38
    assert sorted(os.listdir(client.path)) == [".snapshots", NAME, "meta.json"]


def test_a_replacement_that_was_cut_off(client: QdrantEdge) -> None:
    """Killed between two renames: the old collection comes back, or the new one stays."""
    create(client, "new")
    client.close()
    root = client.path
    (root / NAME).rename(root / f".replaced-{NAME}")
    with QdrantEdge(root) as again:
        assert again.count(NAME).count == 38
    (root / NAME).rename(root / f".replaced-{NAME}")
    (root / "new").rename(root / NAME)
    with QdrantEdge(root) as again:
        assert again.count(NAME).count == 0
        assert sorted(os.listdir(root)) == [NAME, "meta.json"]


def test_a_replacement_that_fails_puts_the_old_one_back(client: QdrantEdge) -> None:
    client.close()

    def fail() -> None:
        with directory.replace(client.path / NAME):
            assert sorted(os.listdir(client.path)) == [f".replaced-{NAME}", "meta.json"]
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        fail()
    with QdrantEdge(client.path) as again:
        assert again.count(NAME).count == 38


def test_no_room(client: QdrantEdge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m3qdrant.edge.disk.space.RESERVE", 1 << 60)
    with pytest.raises(EngineError, match=r"the disk has .* MiB left"):
        client.create_snapshot(NAME)
    assert client.list_snapshots(NAME) == []


def test_what_a_crash_left_of_another_goes(client: QdrantEdge) -> None:
    first = file_of(client, client.create_snapshot(NAME))
    for left in (f".{first.name}-0123", ".making-0123"):
        (first.parent / left).write_bytes(b"half")
    assert [s.name for s in client.list_snapshots(NAME)] == [first.name]
    second = file_of(client, client.create_snapshot(NAME))
    names = {f"{file.name}{end}" for file in (first, second) for end in ("", ".sha256")}
    assert set(os.listdir(first.parent)) == names


def test_a_snapshot_that_fails_leaves_nothing(
    client: QdrantEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: Path) -> str:
        raise OSError("the disk is full")

    monkeypatch.setattr("m3qdrant.edge.disk.snapshots._sha256", fail)
    with pytest.raises(EngineError, match="the disk is full"):
        client.create_snapshot(NAME)
    assert os.listdir(client.path / ".snapshots" / NAME) == []
    assert client.count(NAME).count == 38
