"""Looks at a location for what is wrong, or soon will be. It reads, and writes nothing.

`ask` is an operation (see calls.py) that collects what Qdrant says of one collection, for the
rules of findings.py to judge. `examine` opens the location, asks for each collection, and looks at
what lies around them: versions, locks, files, space.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from qdrant_client import models
from qdrant_client.client_base import QdrantBase
from rich.filesize import decimal

from m3qdrant.collection.calls import Call, Steps
from m3qdrant.collection.versions import FEATURES, supports
from m3qdrant.errors import (
    CollectionNotFoundError,
    InputError,
    M3QdrantError,
    StoreLockedError,
)
from m3qdrant.names import MODES
from m3qdrant.transport import run as transport
from m3qdrant.upkeep.findings import Facts, Finding, judge

__all__ = ["ask", "disk_space", "examine", "server_version", "size_on_disk"]

_SAMPLE = 200
"""Points whose payload is looked at, the first in the order of their ids, which are hashes."""
_LONG_SAMPLE = 16
"""Points whose multivectors are looked at: up to a megabyte each over gRPC, five over REST."""

_LARGE_LEFTOVER = 100_000_000  # bytes
_LITTLE_SPACE = 200_000_000


def examine(
    location: str | os.PathLike[str] | QdrantBase, collection: str | None = None
) -> list[Finding]:
    """Look at a location and its collections.

    What can't be opened is a finding too.

    Args:
        location: a directory, a server's URL, or a client.
        collection: one collection's name; None looks at all of them.

    Raises:
        InputError: it is no location, or an in-memory one.
    """
    if location == ":memory:":
        raise InputError("':memory:' is empty when it is opened: give a directory or a URL")
    findings = [*_versions()]
    try:
        client, owned = transport.connect(location)
    except InputError:
        raise
    except M3QdrantError as error:
        return [*findings, _failure(error)]
    try:
        return [*findings, *_location(client, location), *_collections(client, collection)]
    finally:
        if owned:
            client.close()


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


def _location(client: QdrantBase, location: object) -> Iterator[Finding]:
    engine = transport.engine_of(client)
    if engine == "embedded":
        yield from _directory(client.path)  # type: ignore[attr-defined]
    elif engine == "server":
        yield from _key(str(location), os.environ)
        info = transport.run(client, _once("info"), where=transport.describe(location))
        yield from server_version(str(info.version))


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
    """Which search modes a server of this version is too old for."""
    lacks = [name for name in ("multivectors", "metadata", *MODES) if not supports(name, version)]
    if not lacks:
        yield Finding("ok", f"server {version} knows every search mode")
        return
    needed = max(FEATURES[name].since for name in lacks)
    yield Finding(
        "error" if "multivectors" in lacks else "warning",
        f"server {version} is too old for {', '.join(lacks)}",
        f"upgrade it to {needed[0]}.{needed[1]} or later",
    )


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


# -- a collection


def _once(method: str, **arguments: Any) -> Steps[Any]:
    return (yield Call(method, arguments))


def _collections(client: QdrantBase, wanted: str | None) -> Iterator[Finding]:
    engine, where = transport.engine_of(client), "the location"
    try:
        answer = transport.run(client, _once("get_collections"), where=where)
        names = sorted(found.name for found in answer.collections)
        if wanted is not None and wanted not in names:
            there = f"those there are {', '.join(names)}" if names else "there are none"
            raise CollectionNotFoundError(f"no collection {wanted!r}; {there}")
    except M3QdrantError as error:
        yield _failure(error, wanted)
        return
    if not names:
        yield Finding("note", "there are no collections", "make one with m3qdrant ingest")
    for name in names if wanted is None else [wanted]:
        try:
            facts = transport.run(client, ask(name, engine), where=f"collection {name!r}")
        except StoreLockedError as error:
            yield Finding(
                "warning",
                str(error),
                "look again when it is closed there; nothing of it could be looked at",
                name,
            )
        except M3QdrantError as error:
            yield _failure(error, name)
        else:
            yield from judge(facts)


def ask(name: str, engine: str) -> Steps[Facts]:
    """What Qdrant says of a collection, in a few calls."""

    def call(method: str, **arguments: Any) -> Call:
        return Call(method, {"collection_name": name, **arguments})

    info = yield call("get_collection")
    count = yield call("count", exact=True)
    sample, _ = yield call("scroll", limit=_SAMPLE, with_payload=True, with_vectors=False)
    facts = Facts(name, engine, info, int(count.count), sample)
    long_sample: Sequence[models.Record] = ()
    if facts.multivectors:
        long_sample, _ = yield call(
            "scroll",
            limit=_LONG_SAMPLE,
            with_payload=False,
            with_vectors=True if "" in facts.multivectors else list(facts.multivectors),
        )
    unindexed, nodes = 0, None
    if engine == "embedded":
        unindexed = yield call("unindexed")
    if engine == "server":
        nodes = yield from _nodes()
    return Facts(name, engine, info, int(count.count), sample, long_sample, int(unindexed), nodes)


def _nodes() -> Steps[int | None]:
    try:
        status = yield Call("cluster_status")
    except M3QdrantError:  # a key for one collection only may not ask
        return None
    peers = getattr(status, "peers", None)
    return len(peers) if peers is not None else None
