"""A server's collection taken over by a directory: its shards' files, not its points one by one.

    fetch     each shard's snapshot, made by the server, loaded in pieces that a later run goes on
              with; or, where the directory's segments are as they were pulled, only what changed
    assemble  the shards as one collection, beside the directory's own
    verify    its points' number, some of them, and searches in every mode, at both sides
    adopt     put it in the place of what the directory holds of that name

Until the last step, which is a rename, the directory holds what it held. Where the files don't fit
the embedded engine, nothing of them is kept, and the points are copied (migration.py).

    DIRECTORY/.pulling-NAME/    what is loaded, and assembled, until it is adopted
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qdrant_client import QdrantClient, models

from m3qdrant import transport
from m3qdrant.collection import StrictMode, calls
from m3qdrant.edge import (
    DirectoryLock,
    Origin,
    Part,
    QdrantEdge,
    follow,
    merge,
    need_room,
    origin_of,
    unpacked,
    unpacked_copy,
)
from m3qdrant.errors import (
    AccessDeniedError,
    CollectionNotFoundError,
    EngineError,
    InputError,
    M3QdrantError,
    ServerUnavailableError,
    StoreLockedError,
    UnsupportedError,
)
from m3qdrant.files import write_whole
from m3qdrant.progress import progress_bar
from m3qdrant.transport import Retries, ServerFiles
from m3qdrant.upkeep.likeness import settings_of
from m3qdrant.upkeep.outcome import PullReport
from m3qdrant.upkeep.sampling import compare
from m3qdrant.upkeep.sides import Side, drive

__all__ = ["UnfitError", "pull_files"]

FOLDER = ".pulling-"
_STATE = "state.json"

NEWEST_SERVER = (1, 19)
"""The newest servers whose segments qdrant-edge-py 0.9 is known to read; it is newer than them."""

_ROUNDS = 3
"""How often a source that is written to in the meantime is followed."""
_MB = 1_000_000


class UnfitError(Exception):
    """Why a collection's files can't be taken over, so that its points are to be copied."""


def pull_files(
    urls: Sequence[str],
    directory: Path,
    collection: str,
    target_collection: str,
    *,
    full: bool = False,
    progress: bool = False,
    retries: Retries | None = None,
    ca_file: str | os.PathLike[str] | None = None,
) -> PullReport:
    """Take a collection's files over.

    Args:
        urls: of one node or of several of one cluster.
        directory: where to.
        collection: its name at the server.
        target_collection: its name in the directory.
        full: load all of it, also where the directory has most of it already.
        progress: show progress bars on stderr.
        retries: how long to go on where the server fails for a while.
        ca_file: certificate authorities of the server; see `M3Store`.

    Raises:
        UnfitError: says why the points are to be copied in place of that.
        CollectionNotFoundError: there is no such collection at the server.
        EngineError: the server failed; what was loaded stays for the next run.
        StoreLockedError: somebody has the directory's collection open.
    """
    with contextlib.ExitStack() as stack:
        nodes = [_Node(url, stack, retries or Retries(), ca_file) for url in urls]
        pulling = _Pulling(nodes, directory, collection, target_collection, progress)
        return pulling.run(full)


class _Node:
    """One node: who answers its calls, and its files."""

    def __init__(
        self,
        url: str,
        stack: contextlib.ExitStack,
        retries: Retries,
        ca_file: str | os.PathLike[str] | None,
    ) -> None:
        client, _ = transport.connect(url, ca_file=ca_file)
        stack.callback(client.close)
        if not isinstance(client, QdrantClient):
            raise InputError(f"{transport.describe(url)} is no server's URL")
        self.url = transport.describe(url).rstrip("/")
        self.client = client
        self.retries = retries
        self.files = stack.enter_context(ServerFiles(client, self.url, retries))

    def side(self, collection: str) -> Side:
        return Side(self.client, self.url, collection, self.retries)


@dataclass
class _Shard:
    """A shard, and the node that it is loaded from.

    Attributes:
        number: as text.
        node: the node.
        peer: the node's number in its cluster.
    """

    number: str
    node: _Node = field(repr=False)
    peer: str


class _Pulling:
    """One run."""

    def __init__(
        self, nodes: list[_Node], root: Path, collection: str, target: str, progress: bool
    ) -> None:
        self._nodes = nodes
        self._root = root
        self._collection = collection
        self._target = target
        self._progress = progress
        self._folder = root / f"{FOLDER}{target}"
        self._report = PullReport(str(self._source), str(root / target))

    @property
    def _source(self) -> Side:
        return self._nodes[0].side(self._collection)

    def run(self, full: bool) -> PullReport:
        """All of it."""
        report = self._report
        info, shards = self._look()
        report.shards = len(shards)
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = DirectoryLock(self._folder)
        try:
            staged = self._stage(info, shards, full)
            if staged is not None:
                with QdrantEdge(self._root) as client:
                    client.adopt(self._target, staged)
        except UnfitError:
            self._discard(shards)
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        finally:
            lock.release()
        shutil.rmtree(self._folder, ignore_errors=True)
        return report

    def _stage(self, info: models.CollectionInfo, shards: list[_Shard], full: bool) -> Path | None:
        """The collection, verified; None where the one that is there is up to date."""
        report, here = self._report, self._root / self._target
        base: Path | None = None if full else here
        for number in range(_ROUNDS):
            ready = self._folder / f"ready-{number}"
            shutil.rmtree(ready, ignore_errors=True)
            if self._assemble(ready, info, shards, base):
                base = ready / self._target
            assert base is not None
            self._compare(base, info)
            if not report.fault:
                break
            origin = origin_of(base)
            if origin is None or not self._moved(shards, origin):
                raise UnfitError(f"the embedded engine reads the files otherwise: {report.fault}")
        return None if base == here else base

    def _compare(self, collection: Path, info: models.CollectionInfo) -> None:
        """Whether a collection is what the server has."""
        report = self._report
        source = replace(self._source, strict=StrictMode.of(info))
        with QdrantEdge(collection.parent, auto_index=False) as client:
            two = Side(client, str(collection.parent), collection.name, source.retries)
            sample = drive(compare(source, two, info))
            report.points = drive(two.ask(calls.count(two.name))).count
        report.compared, report.searches = sample.points, sample.searches
        report.fault = sample.fault

    # -- what there is

    def _look(self) -> tuple[models.CollectionInfo, list[_Shard]]:
        source = self._source
        if not drive(source.ask(calls.collection_exists(source.name))):
            raise CollectionNotFoundError(f"no {source}: there is nothing to pull")
        info = drive(source.ask(calls.get_collection(source.name)))
        if info.config.params.sharding_method is models.ShardingMethod.CUSTOM:
            raise UnsupportedError(
                f"{source} has shard keys of its own, which a directory doesn't have: use "
                "Qdrant's snapshots"
            )
        if not StrictMode.of(info).exact:
            raise UnfitError(
                f"{source} is in strict mode, which allows no exact search to compare it by"
            )
        version = drive(source.ask(calls.info())).version
        if _numbers(version) > NEWEST_SERVER:
            raise UnfitError(f"server {version} is newer than what the embedded engine reads")
        return info, self._shards()

    def _shards(self) -> list[_Shard]:
        found: dict[str, _Shard] = {}
        elsewhere: set[str] = set()
        for node in self._nodes:
            answer = self._ask(node, "GET", "cluster")
            if answer.get("resharding_operations"):
                raise UnfitError("the server is moving its points between shards")
            for shard in answer["local_shards"]:
                number = str(shard["shard_id"])
                if shard["state"] == "Active":
                    found.setdefault(number, _Shard(number, node, str(answer["peer_id"])))
            elsewhere |= {str(shard["shard_id"]) for shard in answer["remote_shards"]}
        if missing := sorted(elsewhere - set(found), key=int):
            raise UnfitError(
                f"shards {', '.join(missing)} lie on other nodes than those named: give a URL of "
                "each node, separated by commas"
            )
        return [found[number] for number in sorted(found, key=int)]

    def _ask(self, node: _Node, method: str, *path: str, body: Any = None) -> Any:
        try:
            return node.files.ask(method, "collections", self._collection, *path, body=body)
        except AccessDeniedError as error:
            raise UnfitError(f"the key doesn't allow it: {error}") from error
        except ServerUnavailableError:
            raise
        except EngineError as error:
            raise UnfitError(f"the server gives out no files: {error}") from error

    # -- fetch and assemble

    def _assemble(
        self, ready: Path, info: models.CollectionInfo, shards: list[_Shard], base: Path | None
    ) -> bool:
        """Make the collection anew; False where the one that is there is up to date."""
        work = self._folder / "shards"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            parts = self._follow(work, shards, base)
            if parts == {}:
                self._report.way = "unchanged"
                return False
            if parts is None:
                parts = self._load(work, shards)
            origin = Origin(self._place, self._collection, parts)
            with QdrantEdge(ready) as client:
                client.create_collection(self._target, **settings_of(info))
            directories = {shard.number: work / shard.number for shard in shards}
            merge(ready / self._target, directories, origin)
            self._index(ready, info)
        except (StoreLockedError, ServerUnavailableError):
            raise
        except (EngineError, UnsupportedError) as error:
            raise UnfitError(str(error)) from error
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return True

    @property
    def _place(self) -> str:
        return ",".join(sorted(node.url for node in self._nodes))

    def _follow(
        self, work: Path, shards: list[_Shard], base: Path | None
    ) -> dict[str, Part] | None:
        """Bring a copy of what is there up to date; {} where it is, None where that can't be."""
        origin = None if base is None else origin_of(base)
        nodes = {shard.number: shard.peer for shard in shards}
        if base is None or origin is None or origin.collection != self._collection:
            return None
        if {number: part.node for number, part in origin.parts.items()} != nodes:
            return None
        parts: dict[str, Part] = {}
        with unpacked_copy(base, work, origin) as untouched:
            if not untouched:
                shutil.rmtree(work)
                work.mkdir()
                return None
            try:
                for shard in shards:
                    before = origin.parts[shard.number]
                    file = work / f"{shard.number}.tar"
                    if self._partial(shard, before, file):
                        self._report.bytes += file.stat().st_size
                        parts[shard.number] = follow(work / shard.number, file, before)
                        file.unlink()
            except (ServerUnavailableError, AccessDeniedError):
                raise
            except (EngineError, UnsupportedError, OSError):
                shutil.rmtree(work)
                work.mkdir()
                return None
        self._report.way = "partial"
        return parts and {**origin.parts, **parts}

    def _partial(self, shard: _Shard, before: Part, file: Path) -> bool:
        path = ("collections", self._collection, "shards", shard.number, *_PARTIAL)
        return shard.node.files.receive(file, *path, body=before.manifest)

    def _moved(self, shards: list[_Shard], origin: Origin) -> bool:
        """Whether the source has changed since."""
        file = self._folder / "changed.tar"
        try:
            return any(self._partial(shard, origin.parts[shard.number], file) for shard in shards)
        finally:
            file.unlink(missing_ok=True)

    def _load(self, work: Path, shards: list[_Shard]) -> dict[str, Part]:
        """Load all shards, and unpack them."""
        self._report.way = "whole"
        state = self._made(shards)
        total = sum(made["size"] for made in state.values())
        need_room(self._folder, 2 * total)
        done = 0

        def tell(here: int) -> None:
            advance((done + here) // _MB)

        with progress_bar("pulling", total // _MB, self._progress, "MB") as advance:
            for shard in shards:
                made = state[shard.number]
                shard.node.files.download(
                    self._archive(shard),
                    *("collections", self._collection, "shards", shard.number),
                    *("snapshots", made["name"]),
                    size=made["size"],
                    checksum=made["checksum"],
                    advance=tell,
                )
                done += made["size"]
        self._report.bytes += total
        parts = {
            shard.number: unpacked(self._archive(shard), work / shard.number, shard.peer)
            for shard in shards
        }
        self._discard(shards)
        return parts

    def _archive(self, shard: _Shard) -> Path:
        return self._folder / f"{shard.number}.tar"

    def _made(self, shards: list[_Shard]) -> dict[str, Any]:
        """The shards' snapshots: those of a run that was cut off, or new ones."""
        before = self._read_state()
        state: dict[str, Any] = {}
        for shard in shards:
            known = before.get(shard.number)
            if known and known["peer"] == shard.peer and self._is_there(shard, known["name"]):
                self._report.resumed = True
                state[shard.number] = known
                continue
            self._archive(shard).unlink(missing_ok=True)
            made = self._ask(shard.node, "POST", "shards", shard.number, "snapshots")
            state[shard.number] = {
                "name": made["name"],
                "size": made["size"],
                "checksum": made.get("checksum"),
                "peer": shard.peer,
            }
            content = {"collection": self._collection, "shards": {**before, **state}}
            write_whole(self._folder / _STATE, json.dumps(content).encode())
        return state

    def _read_state(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads((self._folder / _STATE).read_text(encoding="utf-8"))
            if content["collection"] == self._collection:
                shards: dict[str, Any] = content["shards"]
                return shards
        return {}

    def _is_there(self, shard: _Shard, name: str) -> bool:
        made = self._ask(shard.node, "GET", "shards", shard.number, "snapshots")
        return any(each["name"] == name for each in made)

    def _index(self, ready: Path, info: models.CollectionInfo) -> None:
        """Payload indexes that the segments don't bring along."""
        with QdrantEdge(ready) as client:
            there = client.get_collection(self._target).payload_schema
            for name, index in info.payload_schema.items():
                if name not in there:
                    kind: Any = index.params or index.data_type
                    client.create_payload_index(self._target, name, kind)

    def _discard(self, shards: list[_Shard]) -> None:
        """Remove the snapshots at the server, and what was loaded of them."""
        for number, made in self._read_state().items():
            for shard in shards:
                if shard.number == number and shard.peer == made["peer"]:
                    path = ("shards", number, "snapshots", made["name"])
                    with contextlib.suppress(M3QdrantError, UnfitError):
                        self._ask(shard.node, "DELETE", *path)
        for file in (*self._folder.glob("*.tar"), self._folder / _STATE):
            file.unlink(missing_ok=True)


_PARTIAL = ("snapshot", "partial", "create")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
