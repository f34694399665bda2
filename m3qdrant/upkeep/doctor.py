"""Looks at a location for what is wrong, or soon will be. It reads, and writes nothing.

`examine` opens the location, reads its files, asks for each collection, and looks at what lies
around them: versions, locks, space. `facts` is an operation (see `collection/calls.py`) that
collects what Qdrant says of one collection, for the rules of findings.py to judge.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib import metadata
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

from qdrant_client import models
from qdrant_client.async_client_base import AsyncQdrantBase
from qdrant_client.client_base import QdrantBase
from rich.filesize import decimal

from m3qdrant import transport
from m3qdrant.collection import (
    FEATURES,
    Capabilities,
    Layout,
    Steps,
    StrictMode,
    calls,
    kept_to,
    supports,
)
from m3qdrant.edge import collection_names, verify_files
from m3qdrant.errors import (
    CollectionNotFoundError,
    EngineError,
    InputError,
    M3QdrantError,
    StoreLockedError,
    UnsupportedError,
)
from m3qdrant.progress import Advance, progress_bar
from m3qdrant.transport import protocol_of
from m3qdrant.upkeep.damage import look
from m3qdrant.upkeep.findings import Facts, Finding, judge
from m3qdrant.upkeep.replicas import shards
from m3qdrant.upkeep.sides import Directed, Side, adrive, aside, drive, side

__all__ = ["aexamine", "disk_space", "examine", "facts", "server_version", "size_on_disk"]

_SAMPLE = 200
"""Points whose payload is looked at, the first in the order of their ids, which are hashes."""
_LONG_SAMPLE = 16
"""Points whose multivectors are looked at: up to a megabyte each over gRPC, five over REST."""

_MB = 1_000_000
_LARGE_LEFTOVER = 100_000_000  # bytes
_LITTLE_SPACE = 200_000_000


def examine(
    location: str | os.PathLike[str] | Sequence[str] | QdrantBase,
    collection: str | None = None,
    *,
    quick: bool = False,
    progress: bool = False,
    ca_file: str | os.PathLike[str] | None = None,
) -> list[Finding]:
    """Look at a location and its collections.

    What can't be opened is a finding too.

    Args:
        location: a directory, a server's URL, or a client; of a cluster the URLs of all nodes, of
            which each is asked for its shards.
        collection: one collection's name; None looks at all of them.
        quick: read a sample of each collection's points instead of all, and no files.
        progress: show progress bars on stderr.
        ca_file: certificate authorities of a server; see `M3Store`.

    Raises:
        InputError: it is no location, or an in-memory one.
    """
    _refuse_memory(location)
    findings = [*_versions()]
    try:
        with contextlib.ExitStack() as stack:
            place = stack.enter_context(
                side(location, None, None, read_only=True, ca_file=ca_file)
            )
            nodes = []
            for url in transport.urls_of(location) or ():
                try:
                    nodes.append(stack.enter_context(side(url, None, None, ca_file=ca_file)))
                except M3QdrantError as error:
                    findings.append(_away(url, error))
            look = _Look(place, collection, quick, progress, nodes)
            findings += drive(look.names())
            findings += look.directory()
            return findings + drive(look.steps())
    except InputError:
        raise
    except M3QdrantError as error:
        return [*findings, _failure(error)]


async def aexamine(
    location: str | os.PathLike[str] | Sequence[str] | AsyncQdrantBase,
    collection: str | None = None,
    *,
    quick: bool = False,
    progress: bool = False,
    ca_file: str | os.PathLike[str] | None = None,
) -> list[Finding]:
    """`examine` for asyncio."""
    _refuse_memory(location)
    findings = [*_versions()]
    try:
        async with contextlib.AsyncExitStack() as stack:
            looked_at = aside(location, None, None, read_only=True, ca_file=ca_file)
            place = await stack.enter_async_context(looked_at)
            nodes = []
            for url in transport.urls_of(location) or ():
                try:
                    nodes.append(
                        await stack.enter_async_context(aside(url, None, None, ca_file=ca_file))
                    )
                except M3QdrantError as error:
                    findings.append(_away(url, error))
            look = _Look(place, collection, quick, progress, nodes)
            findings += await adrive(look.names())
            findings += await asyncio.to_thread(look.directory)
            return findings + await adrive(look.steps())
    except InputError:
        raise
    except M3QdrantError as error:
        return [*findings, _failure(error)]


def _refuse_memory(location: object) -> None:
    if location == ":memory:":
        raise InputError("':memory:' is empty when it is opened: give a directory or a URL")


def _away(url: str, error: M3QdrantError) -> Finding:
    """A node of a cluster that doesn't answer, while others do."""
    remedy = "start it: the others fill it again with what it missed"
    return Finding("error", f"node {transport.describe(url)} is away: {error}", remedy)


def _failure(error: M3QdrantError, collection: str | None = None) -> Finding:
    """An error of ours as a finding: its message says the remedy, after a colon or in brackets."""
    return Finding("error", str(error), None, collection)


# -- around the collections


def _versions() -> Iterator[Finding]:
    names = ("m3qdrant", "torch", "qdrant-client", "qdrant-edge-py")
    found = [f"python {platform.python_version()}"]
    for name in names:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"{name} (not installed as a package)")
    yield Finding("ok", ", ".join(found))


def _directory(root: Path) -> Iterator[Finding]:
    if not root.exists():
        yield Finding("note", f"{root} is not there yet: the first ingest makes it")
        return
    for entry in sorted(root.glob(".making-*")) + sorted(root.glob(".deleting-*")):
        what = "creation" if entry.name.startswith(".making") else "deletion"
        yield Finding(
            "warning" if size_on_disk(entry) >= _LARGE_LEFTOVER else "note",
            f"{entry} is left from a {what} that was cut off ({decimal(size_on_disk(entry))})",
            "remove it, when no program is at work here",
        )
    for entry in sorted(root.glob(".pulling-*")):
        yield Finding(
            "note",
            f"{entry} is left from a pull that was cut off ({decimal(size_on_disk(entry))})",
            "run the same m3qdrant pull again, which goes on from there, or remove it",
        )
    for entry in sorted(root.iterdir()):
        if entry.is_dir() and entry.name[0] != "." and not (entry / "collection.json").is_file():
            yield Finding(
                "warning",
                f"{entry} is no collection: it has no collection.json",
                "restore that file from a copy, or move the directory away",
            )
    size, free = size_on_disk(root), shutil.disk_usage(root).free
    yield disk_space(size, free)


def disk_space(size: int, free: int) -> Finding:
    """Whether a directory of `size` bytes can be optimised on a disk with `free` bytes left."""
    what = f"{decimal(size)} on disk, {decimal(free)} free"
    if free < _LITTLE_SPACE:
        return Finding(
            "error", what, "make room: a full disk kills the process in the middle of a write"
        )
    if free < size:
        return Finding(
            "warning", what, "make room: optimize needs the collection's size once more"
        )
    return Finding("ok", what)


def _key(location: str, environment: Mapping[str, str]) -> Iterator[Finding]:
    parts = urlsplit(location)
    local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if parts.scheme == "http" and environment.get("QDRANT_API_KEY") and not local:
        yield Finding(
            "warning",
            "the API key goes over plain http, where anyone on the way can read it",
            "use https:// (a reverse proxy, or the server's own TLS)",
        )


def server_version(version: str) -> Iterator[Finding]:
    """What a server of this version is too old for; every mode needs multivectors alone."""
    lacks = [
        name for name in ("multivectors", "groups", "metadata") if not supports(name, version)
    ]
    if not lacks:
        yield Finding("ok", f"server {version} knows every search mode")
        return
    needed = max(FEATURES[name].since for name in lacks)
    yield Finding(
        "error" if "multivectors" in lacks else "warning",
        f"server {version} is too old for {', '.join(lacks)}",
        f"upgrade it to {needed[0]}.{needed[1]} or later",
    )


def _protocol(place: Side) -> Iterator[Finding]:
    """How a server is asked, and why so."""
    protocol = protocol_of(place.client)
    if protocol is None:
        return
    rest = protocol.name == "REST"
    slow = ", which takes several times the bytes of gRPC" if rest else ""
    yield Finding("ok", f"it is asked over {protocol}{slow}")


def size_on_disk(path: Path) -> int:
    """Bytes that a directory's files take on the disk; sparse files count as what they take."""
    total = 0
    for parent, _, files in os.walk(path):
        for file in files:
            try:
                stat = os.stat(os.path.join(parent, file), follow_symlinks=False)
            except FileNotFoundError:  # another process is at work
                continue
            total += getattr(stat, "st_blocks", -(-stat.st_size // 512)) * 512
    return total


# -- what is asked

Bar: TypeAlias = Callable[[str, int, str], AbstractContextManager[Advance]]
"""Makes a progress bar, from what is done, how much of it there is, and of what."""


def _no_bar(label: str, total: int, unit: str) -> AbstractContextManager[Advance]:
    return progress_bar(label, total, False, unit)


class _Look:
    """One look: at a location's files, and at its collections."""

    def __init__(
        self,
        place: Side,
        wanted: str | None,
        quick: bool,
        progress: bool,
        nodes: Sequence[Side] = (),
    ) -> None:
        self._place = place
        self._nodes = nodes or [place]
        self._wanted = wanted
        self._quick = quick
        self._progress = progress

    def names(self) -> Directed[list[Finding]]:
        """What collections are called beside their names; an alias stands for its collection."""
        try:
            answer = yield from self._place.ask(calls.get_aliases())
        except M3QdrantError:  # what stands in the way of this stands in the way of all
            return []
        stands_for = {each.alias_name: each.collection_name for each in answer.aliases}
        if self._wanted is None:
            said = [f"{alias!r} for {name!r}" for alias, name in sorted(stands_for.items())]
            return [Finding("ok", f"aliases: {', '.join(said)}")] if said else []
        alias, self._wanted = self._wanted, stands_for.get(self._wanted, self._wanted)
        if alias == self._wanted:
            return []
        what = f"{alias!r} is an alias of {self._wanted!r}, which is looked at"
        return [Finding("ok", what, None, self._wanted)]

    def directory(self) -> list[Finding]:
        """What is found in the directory of an engine that has one."""
        root = self._place.directory
        if root is None:
            return []
        found = [*_directory(root)]
        if self._quick or not root.is_dir():
            return found
        for name in collection_names(root):
            if self._wanted in (None, name):
                found += self._files(root / name)
        return found

    def _files(self, directory: Path) -> Iterator[Finding]:
        total = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file()) // _MB
        try:
            with self._bar(f"reading the files of {directory.name}", total, "MB") as advance:
                verified = verify_files(directory, lambda done: advance(done // _MB))
        except M3QdrantError:  # open, or damaged: opening it says so
            return
        if verified is None:
            yield Finding(
                "note",
                "it was not closed in good order, so nobody knows what its files should hold",
                "none needed: the next program that opens and closes it leaves a record",
                directory.name,
            )
        elif verified.wrong:
            yield Finding(
                "error",
                f"{len(verified.wrong)} of its files were damaged, or changed, since it was "
                f"closed: {', '.join(verified.wrong)}",
                "restore it from a snapshot or a copy; or delete the collection, or what of its "
                "documents is damaged, and ingest again",
                directory.name,
            )
        else:
            what = f"its files, {decimal(verified.size)}, hold what they held when it was closed"
            yield Finding("ok", what, None, directory.name)

    def _bar(self, label: str, total: int, unit: str) -> AbstractContextManager[Advance]:
        return progress_bar(label, total, self._progress, unit)

    def steps(self) -> Directed[list[Finding]]:
        """All that the location's client is asked."""
        place, wanted = self._place, self._wanted
        found: list[Finding] = []
        if place.capabilities.remote:
            found += _key(place.location, os.environ)
            version = yield from place.ask(calls.info())
            found += server_version(version.version)
            found += _protocol(place)
        try:
            answer = yield from place.ask(calls.get_collections())
        except M3QdrantError as error:
            return [*found, _failure(error, wanted)]
        names = sorted(each.name for each in answer.collections)
        if wanted is not None and wanted not in names:
            there = f"those there are {', '.join(names)}" if names else "there are none"
            missing = CollectionNotFoundError(f"no collection {wanted!r}; {there}")
            return [*found, _failure(missing, wanted)]
        if not names:
            found.append(
                Finding("note", "there are no collections", "make one with m3qdrant ingest")
            )
        for name in names if wanted is None else [wanted]:
            found += yield from self._collection(name)
        return found

    def _collection(self, name: str) -> Directed[list[Finding]]:
        try:
            asked = facts(name, self._place.capabilities, self._quick, self._bar)
            found = judge((yield from self._place.ask(asked)))
            if self._place.capabilities.remote:
                found += yield from shards(self._nodes, name)
            return found
        except StoreLockedError as error:
            remedy = "look again when it is closed there; nothing of it could be looked at"
            return [Finding("warning", str(error), remedy, name)]
        except UnsupportedError as error:
            remedy = "to look at it all the same, open the client yourself: examine(client)"
            return [Finding("warning", str(error), remedy, name)]
        except M3QdrantError as error:
            return [_failure(error, name)]


def facts(
    name: str, capabilities: Capabilities, quick: bool = False, bar: Bar = _no_bar
) -> Steps[Facts]:
    """What Qdrant says of a collection, in a few calls; and its points, all or a sample, read."""
    info = yield from calls.get_collection(name)
    strict = StrictMode.of(info)
    return (yield from kept_to(lambda: strict, _facts(name, info, capabilities, quick, bar)))


def _facts(
    name: str, info: models.CollectionInfo, capabilities: Capabilities, quick: bool, bar: Bar
) -> Steps[Facts]:
    points = (yield from calls.count(name)).count
    sample, _ = yield from calls.scroll(name, limit=_SAMPLE, with_payload=True)
    found = Facts(name, capabilities, info, points, sample)
    long_sample: Sequence[models.Record] = ()
    unseen = ""
    if found.multivectors:
        wanted = True if "" in found.multivectors else list(found.multivectors)
        try:
            long_sample, _ = yield from calls.scroll(
                name, limit=_LONG_SAMPLE, with_vectors=wanted, arrays=True
            )
        except UnsupportedError as error:  # a look at a large directory leaves its vectors out
            unseen = str(error)
        except EngineError:  # damaged, perhaps: reading the points one by one says which
            if not isinstance(found.layout, Layout):
                raise
    damage = None
    if isinstance(found.layout, Layout) and not unseen:
        most = _SAMPLE if quick else None
        total = points if most is None else min(points, most)
        with bar(f"reading the points of {name}", total, "points") as advance:
            damage = yield from look(name, found.layout, most, advance)
    unindexed, nodes = 0, None
    if capabilities.optimizes:
        unindexed = yield from calls.unindexed(name)
    if capabilities.remote:
        nodes = yield from _nodes()
    return Facts(
        name, capabilities, info, points, sample, long_sample, unseen, unindexed, nodes, damage
    )


def _nodes() -> Steps[int | None]:
    try:
        status = yield from calls.cluster_status()
    except M3QdrantError:  # a key for one collection only may not ask
        return None
    peers = getattr(status, "peers", None)
    return len(peers) if peers is not None else None
