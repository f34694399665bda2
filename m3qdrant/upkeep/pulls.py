"""`pull`: a server's collection in a directory, by its files where they fit, else by points."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from m3qdrant.errors import InputError
from m3qdrant.transport import Retries
from m3qdrant.upkeep.migration import migrate
from m3qdrant.upkeep.outcome import PullReport
from m3qdrant.upkeep.pulling import UnfitError, pull_files

__all__ = ["apull", "pull"]


def pull(
    source: str,
    directory: str | os.PathLike[str],
    collection: str,
    target_collection: str | None = None,
    *,
    full: bool = False,
    progress: bool = False,
    retries: Retries | None = None,
    ca_file: str | os.PathLike[str] | None = None,
) -> PullReport:
    """Take a server's collection into a directory, for the embedded engine.

    Its shards' files are loaded as they are, indexes included, which takes a fraction of what
    copying points does. Until all of it is there and verified, by the number of points, some of
    them, and searches in every mode, the directory holds what it held. A pull that was cut off
    goes on where it was. Where the directory's collection is as an earlier pull left it, only what
    changed is loaded. Where the files don't fit the embedded engine, points are copied, by
    `migrate`, and the report says why.

    The server makes a snapshot of each shard for it, on its own disk, and is told to remove it at
    the end; after a pull that was cut off it is there for the next run, which removes it.

    Args:
        source: a server's URL; of a cluster those of its nodes, separated by commas: a shard's
            files are had from a node that holds it.
        directory: where to.
        collection: its name at the server.
        target_collection: its name in the directory; the same by default.
        full: load all of it, also where only some has changed: after a server was restored from a
            backup, for instance, which makes it older than it was.
        progress: show progress bars on stderr.
        retries: how long to go on where the server fails for a while.
        ca_file: certificate authorities of the server; see `M3Store`.

    Raises:
        InputError: the source is no server.
        CollectionNotFoundError: there is no such collection at the server.
        UnsupportedError: its points lie under shard keys of the user's own.
        StoreLockedError: somebody has the directory's collection open.
        EngineError: the server failed. What was loaded stays; run it again.
    """
    urls = [url.strip() for url in source.split(",")] if isinstance(source, str) else []
    if not urls or not all(url.lower().startswith(("http://", "https://")) for url in urls):
        raise InputError(f"{source!r} is no server: give http(s)://host[:port]")
    root, name = Path(directory).expanduser().absolute(), target_collection or collection
    how: dict[str, Any] = {"progress": progress, "retries": retries, "ca_file": ca_file}
    try:
        return pull_files(urls, root, collection, name, full=full, **how)
    except UnfitError as error:
        # the directory's own may have been written to since: its points are compared
        report = migrate(urls[0], root, collection, name, files=False, **how)
        fault = "" if report.verified else str(report).partition("\n")[2]
        return PullReport(
            report.source,
            report.target,
            "points",
            str(error),
            points=report.target_points,
            compared=report.target_points,
            fault=fault,
        )


async def apull(
    source: str,
    directory: str | os.PathLike[str],
    collection: str,
    target_collection: str | None = None,
    *,
    full: bool = False,
    progress: bool = False,
    retries: Retries | None = None,
    ca_file: str | os.PathLike[str] | None = None,
) -> PullReport:
    """`pull` for asyncio, in a thread."""
    return await asyncio.to_thread(
        pull,
        source,
        directory,
        collection,
        target_collection,
        full=full,
        progress=progress,
        retries=retries,
        ca_file=ca_file,
    )
