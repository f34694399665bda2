"""Damage to any file of a collection gives our error, and never wrong data, a crash or a hang.

Each case damages one file of a real collection and uses the copy in a process of its own, since
the engine is known to spin for ever over one flipped bit. `M3QDRANT_DAMAGE=all` tries every file
with every damage; a run takes a sample of them otherwise.
"""

from __future__ import annotations

import filecmp
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import models

from m3qdrant.edge import QdrantEdge
from m3qdrant.edge.disk import closed
from m3qdrant.edge.disk.holes import copy
from m3qdrant.errors import EngineError, M3QdrantError, StoreDamagedError
from tests.edge.histories import Operation, State, after, call, compare, create, matches
from tests.edge.small import copy_directory, processes

NAME = "docs"
EVERYTHING = os.environ.get("M3QDRANT_DAMAGE") == "all"

isolated = pytest.mark.skipif(
    "forkserver" not in multiprocessing.get_all_start_methods(),
    reason="this system has no fork server",
)


# a collection, and what it should hold


def fill(client: QdrantEdge, kind: str) -> State:
    create(client, NAME)
    state = State({}, None, False, {})
    names = ["upsert", "index", "upsert", "delete", "set", "upsert"]
    if kind == "optimized":
        names += ["optimize", "upsert", "delete", "set"]
    for operation in (Operation(k, name) for k, name in enumerate(names)):
        call(client, operation, state)
        state = after(state, operation)
    return state


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, State]]:
    found = {}
    for kind in ("plain", "optimized"):
        path = tmp_path_factory.mktemp(kind)
        with QdrantEdge(path) as client:
            found[kind] = path, fill(client, kind)
    return found


# the damage


def flip(file: Path) -> None:
    """A few bits, where the file has data: near its beginning."""
    size = min(file.stat().st_size, 4096)
    with file.open("r+b") as stream:
        for at in random.sample(range(size), min(8, size)):
            stream.seek(at)
            (byte,) = stream.read(1)
            stream.seek(at)
            stream.write(bytes([byte ^ (1 << random.randrange(8))]))


def zero(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.write(bytes(min(file.stat().st_size, 1 << 16)))


def to_directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


IN_PLACE: dict[str, Callable[[Path], Any]] = {"flipped": flip, "zeroed": zero}
WHOLE: dict[str, Callable[[Path], Any]] = {
    "emptied": lambda file: os.truncate(file, 0),
    "halved": lambda file: os.truncate(file, file.stat().st_size // 2),
    "longer": lambda file: os.truncate(file, file.stat().st_size + 1),
    "deleted": Path.unlink,
    "directory": to_directory,
}


def use(path: Path, state: State, answer: Connection) -> None:
    """The process of one case: open, read everything, write, optimise, and read again."""
    os.environ["RUST_BACKTRACE"] = "0"  # panics are loud, and slow where they look for lines
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        client = QdrantEdge(path)
        wrong, later = compare(client, state), ""
        if not wrong:
            operation = Operation(77, "upsert")
            call(client, operation, state)
            client.optimize(NAME)
            client.close()
            with QdrantEdge(path) as again:
                later = compare(again, after(state, operation))
        answer.send(f"wrong: {wrong}" if wrong else f"later: {later}" if later else "right")
    except M3QdrantError as error:
        answer.send(f"ours: {type(error).__name__}: {error}")
    except BaseException as error:
        answer.send(f"foreign: {type(error).__name__}: {error}")


def outcome(path: Path, state: State) -> str:
    context = processes()
    from_child, to_parent = context.Pipe(duplex=False)
    child = context.Process(target=use, args=(path, state, to_parent))
    child.start()
    to_parent.close()
    try:
        answer = str(from_child.recv()) if from_child.poll(60) else "hangs"
    except EOFError:
        answer = "died"
    finally:
        child.kill()
        child.join()
        from_child.close()
    if answer == "died":
        answer = f"died of {signal.Signals(-(child.exitcode or 0)).name}"
    return answer


def damaged(original: Path, target: Path, file: str, how: Callable[[Path], Any]) -> Path:
    copy_directory(original, target)
    how(target / NAME / file)
    return target


def silently(damage: Callable[[Path], Any], path: Path, original: Path) -> Callable[[Path], Any]:
    """As a failing disk does it: no write that would show in the file's time."""

    def damage_it(file: Path) -> None:
        damage(file)
        times = (original / file.relative_to(path)).stat()
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))

    return damage_it


Case = tuple[str, str, str]
"""The kind of the collection, the file, and the damage."""


def cases(
    originals: dict[str, tuple[Path, State]], damages: Iterable[str], *, unseen: bool
) -> list[Case]:
    """Those that the record of the closing shows, or those that it doesn't."""
    return [
        (kind, file, damage)
        for kind, (path, _) in originals.items()
        for file in [*closed.files(path / NAME), closed.FILE]
        for damage in damages
        if (path / NAME / file).stat().st_size or damage not in IN_PLACE
        if goes_unseen(path / NAME / file, damage) == unseen
    ]


def sample(every: list[Case], n: int) -> list[Case]:
    return every if EVERYTHING else random.sample(every, min(n, len(every)))


def goes_unseen(file: Path, damage: str) -> bool:
    """Whether the record of the closing doesn't show a damage that left the file's time alone.

    It has each file's size, and its checksum; those of large files are compared where something
    wrote to them, and that of the engine's configuration never: the engine itself compares it with
    ours. Nor can a record that is gone show anything.
    """
    if file.name == closed.FILE:
        return damage == "deleted"
    compared = file.stat().st_size <= closed.SMALL and file.name != "edge_config.json"
    return damage in IN_PLACE and not compared


PARTS = {
    r"shard/segments/[^/]*/vector_(storage|index)-(\w+)/": r"docs: ({0} of \d+ (isn't|finds)|"
    r"\d+ has the vectors|the sparse vector of \d+ finds)",
    r"shard/segments/[^/]*/payload_storage/": r"docs: (the payload of|\d+ points match group)",
    r"shard/segments/[^/]*/payload_index/": r"docs: \d+ points match group|the indexes are",
    # without one of these the engine passes over the segment, or over points in it
    r"shard/segments/[^/]*/(segment\.json|version\.info|\w*id_tracker\.\w+)$": r"the indexes are|"
    r"docs: (\d+ points;|count gives|the payload of|\w+ of \d+ isn't)",
    r"collection\.json$": r"the collections are \[\], not \['docs'\]",
}
"""Of what a part of the files, alone, can make the answers wrong without an error."""


def allowed(file: str) -> str:
    """What may be wrong when this file is damaged and there is nothing to compare it with."""
    for pattern, differences in PARTS.items():
        if part := re.match(pattern, file):
            return differences.format(part[part.lastindex or 0])
    return "(?!)"  # nothing


def assert_harm_is_bounded(case: Case, answer: str) -> None:
    """Right, or refused, or wrong in nothing but what the damaged file holds."""
    if answer == "right" or answer.startswith("ours: "):
        return
    when, _, difference = answer.partition(": ")
    assert when in ("wrong", "later"), f"{case}: {answer}"
    assert re.match(allowed(case[1]), difference), f"{case}: {answer}"


def test_damage_that_is_seen(originals: dict[str, tuple[Path, State]]) -> None:
    """Refused before the engine sees the files, however often; and nothing changes by that."""
    for kind, file, damage in sample(cases(originals, WHOLE | IN_PLACE, unseen=False), 200):
        directory = originals[kind][0] / NAME
        kept = directory.parent / "kept"
        (directory / file).rename(kept)
        copy(kept, directory / file)
        (WHOLE | IN_PLACE)[damage](directory / file)
        try:
            if same(kept, directory / file):
                continue  # there were zeros before
            if file == closed.FILE and of_another_version(directory / file):
                continue
            before = states(directory)
            for _ in range(2):
                with QdrantEdge(directory.parent) as client:
                    try:
                        found = str(client.count(NAME))
                    except StoreDamagedError:
                        continue
                    pytest.fail(f"{kind}, {file} {damage}: {found}")
            assert states(directory) == before, (kind, file, damage)
        finally:
            if (directory / file).is_dir():
                (directory / file).rmdir()
            kept.replace(directory / file)


def states(directory: Path) -> dict[str, tuple[int, int]]:
    """Each file's size and date."""
    found = {file: (directory / file).stat() for file in [*closed.files(directory), "."]}
    return {file: (status.st_size, status.st_mtime_ns) for file, status in found.items()}


def of_another_version(record: Path) -> bool:
    """Whether the flipped bits are those of its format: then it isn't ours to read."""
    try:
        return bool(json.loads(record.read_text("utf-8"))["format"] != 2)
    except (OSError, ValueError, KeyError, TypeError):
        return False


@isolated
@pytest.mark.slow
def test_damage_that_is_unseen(originals: dict[str, tuple[Path, State]], tmp_path: Path) -> None:
    """Bytes inside large files that nothing wrote, and a record that is gone."""
    for number, case in enumerate(sample(cases(originals, WHOLE | IN_PLACE, unseen=True), 12)):
        kind, file, damage = case
        original, state = originals[kind]
        path, how = tmp_path / str(number), (WHOLE | IN_PLACE)[damage]
        damaged(original, path, file, silently(how, path, original) if damage in IN_PLACE else how)
        answer = outcome(path, state)
        if file == closed.FILE or same(original / NAME / file, path / NAME / file):
            assert answer == "right", case
        assert_harm_is_bounded(case, answer)
        shutil.rmtree(path)


@pytest.mark.parametrize("kind", ["plain", "optimized"])
@pytest.mark.parametrize("damage", ["deleted", "directory", "flipped"])
def test_a_log_that_was_lost_swallows_no_write(
    originals: dict[str, tuple[Path, State]], tmp_path: Path, kind: str, damage: str
) -> None:
    """The engine would number updates from 0 again, and pass over those to points it holds."""
    original, state = originals[kind]
    path = damaged(original, tmp_path / "copy", "shard/wal/open-1", (WHOLE | IN_PLACE)[damage])
    (path / NAME / closed.FILE).unlink()
    with QdrantEdge(path) as client:
        assert compare(client, state) == "", "what it held is still right"
    for _ in range(2):  # the second opening finds it, too
        with QdrantEdge(path) as client:
            for _ in range(2):
                with pytest.raises(StoreDamagedError, match=r"has lost its log.*copy the points"):
                    client.set_payload(NAME, {"set": 77}, list(state.main))
            records, _ = client.scroll(NAME, limit=10_000, with_vectors=True)
            assert [record.id for record in records] == sorted(state.main), "to be copied"


def same(one: Path, other: Path) -> bool:
    return one.is_file() and other.is_file() and filecmp.cmp(one, other, shallow=False)


@isolated
@pytest.mark.slow
def test_damage_after_a_crash(originals: dict[str, tuple[Path, State]], tmp_path: Path) -> None:
    """Without the record of a closing less can be told, but the process comes to no harm.

    What is lost or wrong is then of the part that was damaged, never of another.
    """
    every = cases(originals, WHOLE, unseen=True) + cases(originals, WHOLE, unseen=False)
    for number, case in enumerate(sample(every, 12)):
        kind, file, damage = case
        original, state = originals[kind]
        path = damaged(original, tmp_path / str(number), file, WHOLE[damage])
        record = path / NAME / closed.FILE
        if record.is_dir():
            record.rmdir()
        record.unlink(missing_ok=True)
        answer = outcome(path, state)
        if file == closed.FILE:
            assert answer == "right", case
        assert_harm_is_bounded(case, answer)
        shutil.rmtree(path)


def large_files(directory: Path) -> list[str]:
    """Those of a collection that an opening doesn't read."""
    record = closed.read(directory)
    assert record is not None
    return sorted(record.contents)


@pytest.mark.parametrize("kind", ["plain", "optimized"])
def test_a_write_into_a_large_file_is_seen(
    originals: dict[str, tuple[Path, State]], tmp_path: Path, kind: str
) -> None:
    original, state = originals[kind]
    files = large_files(original / NAME)
    assert any("vector_storage" in file for file in files)
    for file in files:
        path = damaged(original, tmp_path / "copy", file, flip)
        if not same(original / NAME / file, path / NAME / file):
            for _ in range(2):
                with (
                    QdrantEdge(path) as client,
                    pytest.raises(StoreDamagedError, match=re.escape(f"{file} have changed")),
                ):
                    client.count(NAME)
        shutil.rmtree(path)
    copy_directory(original, tmp_path / "whole")  # with other times, and filled holes
    with QdrantEdge(tmp_path / "whole") as client:
        assert compare(client, state) == ""


@pytest.mark.parametrize("kind", ["plain", "optimized"])
def test_all_files_are_verified_where_that_is_asked(
    originals: dict[str, tuple[Path, State]], tmp_path: Path, kind: str
) -> None:
    original, _ = originals[kind]
    files = large_files(original / NAME)
    record = closed.read(original / NAME)
    assert record is not None
    shutil.copytree(original, tmp_path / "copy")  # holes become zeros
    assert dict(closed.verify(tmp_path / "copy" / NAME, record)) == dict.fromkeys(files, True)
    for file in files:
        silently(flip, tmp_path / "copy", original)(tmp_path / "copy" / NAME / file)
    wrong = [file for file, whole in closed.verify(tmp_path / "copy" / NAME, record) if not whole]
    assert wrong == [
        f for f in files if not same(original / NAME / f, tmp_path / "copy" / NAME / f)
    ]


def test_large_files_that_are_emptied_are_named(
    originals: dict[str, tuple[Path, State]], tmp_path: Path
) -> None:
    """What the engine alone would not notice: points without their vectors, or no points."""
    original, _ = originals["plain"]
    shard = original / NAME / "shard"
    for pattern in ("*tracker.mappings", "*tracker.versions", "*-dense/vectors/chunk_0.mmap"):
        (file,) = shard.rglob(pattern)
        name = str(file.relative_to(original / NAME))
        path = damaged(original, tmp_path / file.name, name, WHOLE["emptied"])
        for _ in range(2):  # the second opening finds no other state than the first
            with (
                QdrantEdge(path) as client,
                pytest.raises(StoreDamagedError, match=re.escape(f"{name} has 0 bytes and had")),
            ):
                client.count(NAME)
        with QdrantEdge(path) as client:
            assert client.delete_collection(NAME)


def test_points_that_are_missing_are_noticed(
    originals: dict[str, tuple[Path, State]], tmp_path: Path
) -> None:
    """As if the files agreed with the record, and the engine yet found something else in them."""
    original, state = originals["plain"]
    copy_directory(original, tmp_path / "copy")
    directory = tmp_path / "copy" / NAME
    record = closed.read(directory)
    assert record is not None
    assert record.points == len(state.main)
    assert record.indexes == ["group"]
    for points, indexes, message in [
        (record.points + 1, record.indexes, f"has {record.points} points and had"),
        (record.points, ["n"], r"indexes on \['group'\], not \['n'\]"),
    ]:
        closed.write(directory, closed.survey(directory, points, indexes))
        for _ in range(2):
            with (
                QdrantEdge(tmp_path / "copy") as client,
                pytest.raises(StoreDamagedError, match=message),
            ):
                client.count(NAME)
    (directory / closed.FILE).unlink()
    with QdrantEdge(tmp_path / "copy") as client:
        assert compare(client, state) == "", "the way out that the message names"


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every file"
)
def test_files_without_rights(originals: dict[str, tuple[Path, State]], tmp_path: Path) -> None:
    original, _ = originals["optimized"]
    for number, file in enumerate(closed.files(original / NAME)):
        path = damaged(original, tmp_path / str(number), file, lambda f: f.chmod(0))
        with QdrantEdge(path) as client, pytest.raises(EngineError):
            client.count(NAME)


# the record of a closing


def test_it_is_there_only_while_closed(tmp_path: Path) -> None:
    record = tmp_path / NAME / closed.FILE
    with QdrantEdge(tmp_path) as client:
        fill(client, "plain")
        assert not record.exists()
    assert record.exists()
    with QdrantEdge(tmp_path) as client:
        assert record.exists(), "nobody has opened it yet"
        client.count(NAME)
        assert not record.exists()
    assert record.exists()


def test_closing_in_good_order_is_never_taken_for_damage(tmp_path: Path) -> None:
    """Whatever happens between opening and closing, the next opening finds it in order."""
    names = ["upsert", "delete", "set", "clear", "optimize", "index", "drop_index", "metadata"]
    names += ["delete_where", "toggle", "upsert_side"]
    state, number = State({}, None, False, {}), 0
    with QdrantEdge(tmp_path) as client:
        create(client, NAME)
    for _ in range(25):
        with QdrantEdge(tmp_path) as client:
            assert compare(client, state) == ""
            for name in random.choices(names, k=random.randrange(6)):
                operation = Operation(number, name)
                call(client, operation, state)
                state, number = after(state, operation), number + 1
        assert (tmp_path / NAME / closed.FILE).exists()


def test_a_foreign_file_among_them_is_no_matter(
    originals: dict[str, tuple[Path, State]], tmp_path: Path
) -> None:
    original, state = originals["optimized"]
    copy_directory(original, tmp_path / "copy")
    (tmp_path / "copy" / NAME / "shard" / ".DS_Store").write_text("x")
    (tmp_path / "copy" / NAME / "notes.txt").write_text("x")
    with QdrantEdge(tmp_path / "copy") as client:
        assert compare(client, state) == ""


# what a crash leaves behind


def test_leftovers_are_swept_away(
    originals: dict[str, tuple[Path, State]], tmp_path: Path
) -> None:
    original, state = originals["plain"]
    root = tmp_path / "copy"
    copy_directory(original, root)
    for folder in (
        f"{NAME}/shard/temp_segments/segment_builder_x",
        f"{NAME}/shard/wal/.atomicwriteX",
        ".making-0123",
        ".deleting-0123",
    ):
        (root / folder).mkdir(parents=True)
        (root / folder / "file").write_text("x")
    (root / NAME / ".collection.json-0123").write_text("{")
    (root / ".making-young").mkdir()
    for name in (".making-0123", ".deleting-0123"):
        os.utime(root / name, (1, 1))
    with QdrantEdge(root) as client:
        assert compare(client, state) == ""
        assert sorted(os.listdir(root)) == [".making-young", NAME, "meta.json"]
        assert not list(root.rglob(".atomicwrite*"))
        assert not list(root.rglob("temp_segments"))
        assert not list(root.rglob(".collection*"))


# a panic, and a full disk


def test_after_a_panic_the_collection_is_of_no_use_until_reopened(
    originals: dict[str, tuple[Path, State]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    original, state = originals["plain"]
    copy_directory(original, tmp_path / "copy")
    directory = tmp_path / "copy" / NAME
    (directory / closed.FILE).unlink()
    (file,) = directory.rglob("*-colbert/offsets/chunk_0.mmap")
    whole = file.read_bytes()
    os.truncate(file, 0)
    with QdrantEdge(tmp_path / "copy") as client:
        assert client.count(NAME).count == len(state.main)
        with pytest.raises(EngineError, match=r"the engine panicked.*open it again") as caught:
            client.scroll(NAME, with_vectors=True)
        assert type(caught.value.__cause__).__name__ == "PanicException"
        for use_it in (
            lambda: client.count(NAME),
            lambda: call(client, Operation(50, "upsert"), state),
            lambda: client.optimize(NAME),
            lambda: client.create_snapshot(NAME),
        ):
            with pytest.raises(EngineError, match="panicked during an earlier call: close this"):
                use_it()
    assert not (directory / closed.FILE).exists(), "nobody knows how the files were left"
    assert client.path.exists()
    file.write_bytes(whole)
    with QdrantEdge(tmp_path / "copy") as client:
        assert compare(client, state) == ""
    assert "panicked" in capfd.readouterr().err


def test_a_full_disk_is_seen_before_it_kills(
    originals: dict[str, tuple[Path, State]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine would fill a hole in a mapped file, and die of SIGBUS."""
    original, state = originals["optimized"]
    copy_directory(original, tmp_path / "copy")
    with QdrantEdge(tmp_path / "copy") as client:
        assert compare(client, state) == ""
        monkeypatch.setattr("m3qdrant.edge.disk.space.RESERVE", 1 << 60)
        for write in (
            lambda: call(client, Operation(50, "upsert"), state),
            lambda: client.optimize(NAME),
            lambda: create(client, "other"),
        ):
            with pytest.raises(EngineError, match=r"the disk has \d+ MiB left and this takes"):
                write()
        assert compare(client, state) == "", "reading needs no room"
    with QdrantEdge(tmp_path / "copy") as client:
        assert client.count(NAME, matches("group", 1)).count, "nor does opening what was closed"
        client.flush()
    (tmp_path / "copy" / NAME / closed.FILE).unlink()
    with QdrantEdge(tmp_path / "copy") as client:
        with pytest.raises(EngineError, match="could not recover"):
            client.count(NAME)
        monkeypatch.undo()
        assert compare(client, state) == ""


def test_how_many_points_await_an_index(tmp_path: Path) -> None:
    rng = np.random.default_rng()

    def points(start: int, stop: int) -> list[models.PointStruct]:
        return [
            models.PointStruct.model_construct(
                id=i,
                vector={"dense": rng.normal(size=16).astype(np.float32)},
                payload=None,
            )
            for i in range(start, stop)
        ]

    def make(client: QdrantEdge, name: str, m: int | None) -> None:
        client.create_collection(
            name,
            {
                "colbert": models.VectorParams(
                    size=4,
                    distance=models.Distance.DOT,
                    multivector_config=models.MultiVectorConfig(
                        comparator=models.MultiVectorComparator.MAX_SIM
                    ),
                    hnsw_config=models.HnswConfigDiff(m=0),
                ),
                "dense": models.VectorParams(
                    size=16,
                    distance=models.Distance.DOT,
                    hnsw_config=models.HnswConfigDiff(m=m),
                ),
            },
            {"sparse": models.SparseVectorParams()},
            optimizers_config=models.OptimizersConfigDiff(indexing_threshold=10),
        )

    with QdrantEdge(tmp_path) as client:
        make(client, NAME, 8)
        assert client.unindexed(NAME) == 0
        client.upsert(NAME, points(0, 100))
        assert client.unindexed(NAME) == 100
        client.upsert(NAME, points(100, 1000))
        assert client.unindexed(NAME) == 1000
        assert client.optimize(NAME)
        assert client.unindexed(NAME) == 0
        client.upsert(NAME, points(1000, 1050))
        client.delete(NAME, [1, 2, 3])
        assert client.unindexed(NAME) == 50
        assert not client.optimize(NAME), "too few for the engine to index"
        make(client, "flat", 0)
        client.upsert("flat", points(0, 100))
        assert client.unindexed("flat") == 0, "no index is wanted"
    with QdrantEdge(tmp_path) as client:
        assert client.unindexed(NAME) == 50


def test_optimize_gives_the_disk_back(tmp_path: Path) -> None:
    """Without waiting for `close`: the segments that it replaced are gone when it returns."""
    with QdrantEdge(tmp_path) as client:
        create(client, NAME)
        state = State({}, None, False, {})
        for k in range(12):
            call(client, Operation(k, "upsert"), state)
        segments = tmp_path / NAME / "shard" / "segments"
        before = set(os.listdir(segments))
        assert client.optimize(NAME)
        assert before.isdisjoint(os.listdir(segments))
