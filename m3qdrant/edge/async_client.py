"""`AsyncQdrantEdge`: qdrant-client's asynchronous interface over the embedded engine."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from qdrant_client import AsyncQdrantClient, models
from qdrant_client.async_client_base import AsyncQdrantBase
from qdrant_client.conversions import common_types as types

from m3qdrant.edge import updates
from m3qdrant.edge.absent import add_missing, is_missing, refuse_attribute
from m3qdrant.edge.arguments import accept, at_least
from m3qdrant.edge.client import QdrantEdge
from m3qdrant.edge.disk.directory import check_root
from m3qdrant.edge.refusals import as_a_server_refuses, as_response
from m3qdrant.edge.shard import check_process
from m3qdrant.edge.worker.process import Worker
from m3qdrant.errors import EngineError, M3QdrantError, StoreClosedError

__all__ = ["AsyncQdrantEdge"]


class AsyncQdrantEdge(AsyncQdrantBase):
    """`QdrantEdge` for asyncio: the same methods, arguments, answers and errors, to await.

        async with AsyncQdrantEdge("data") as client:
            hits = await client.query_points("docs", query, using="dense", limit=10)

    The engine holds the GIL while it works, so it runs in a worker process, and the event loop
    never waits for it, but in `upload_points` and `upload_collection`: they are no coroutines in
    `AsyncQdrantClient` either. Call them in `asyncio.to_thread`, or `upsert` in their place. The
    process starts with the first call (which takes about a second more) and ends with `close`. If
    it is killed, waiting and later calls raise `EngineError`; what was acknowledged is safe. If
    this process is killed, the worker finishes the call it is at, closes the collections and ends.

    Calls run one by one, in the order in which they were made: each sees the writes before it,
    and a long one, such as `optimize`, delays those behind it. Cancelling the wait for a call
    drops its answer; a call that was sent runs to its end, so that a cancelled write may be done
    or not. Leave the arrays of a call alone until it returns. One client may serve several event
    loops, at once or one after the other.

    A call costs about 0.1 ms more than with `QdrantEdge`, and 5 to 15 us for each record or hit
    in its answer. Arrays are the fastest here, too: they cross as they are. Answers hold vectors
    as lists, as they do everywhere in qdrant-client, and millions of numbers in lists keep
    Python's garbage collector busy, which stalls every thread: read them a few points at a time,
    or by `retrieve_arrays` and `scroll_arrays`.

    Args:
        path: the directory.
        auto_index: as in `QdrantEdge`.
        read_only: as in `QdrantEdge`.

    Raises:
        StoreDamagedError: the path is a file, or a directory of another program.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        auto_index: bool = True,
        read_only: bool = False,
    ) -> None:
        super().__init__()
        self.path = Path(path).expanduser().absolute()
        self.auto_index = auto_index and not read_only
        self.read_only = read_only
        check_root(self.path)
        self._worker: Worker | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._pid = os.getpid()

    async def __aenter__(self) -> AsyncQdrantEdge:
        """The client itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        await self.close()

    def __repr__(self) -> str:
        """The class and the directory."""
        return f"AsyncQdrantEdge({str(self.path)!r})"

    @property
    def worker_pid(self) -> int | None:
        """The worker process's number, to watch its memory; None while there is none."""
        return None if self._worker is None else self._worker.pid

    if not TYPE_CHECKING:  # which would else take every name for one that is there

        def __getattr__(self, name: str) -> NoReturn:
            """Say what to use in place of something that only a connected client has."""
            refuse_attribute(self, name)

    async def close(self, grpc_grace: float | None = None, **kwargs: Any) -> None:
        """Wait for the calls under way, close the collections, and end the worker process.

        Closing twice is fine.
        """
        if os.getpid() != self._pid:
            return  # the worker belongs to the process that this is a fork of
        with self._lock:
            first, self._closed = not self._closed, True
            worker = self._worker
        if worker is None:
            return
        closing = None
        with contextlib.suppress(EngineError):  # it has ended before
            closing = worker.submit("close") if first else None
        try:
            if closing is not None:
                await asyncio.wrap_future(closing)
        finally:
            worker.stop()
            await asyncio.wrap_future(worker.ended)

    @as_a_server_refuses
    def upload_points(  # type: ignore[override]
        self,
        collection_name: str,
        points: Iterable[models.PointStruct],
        batch_size: int = 64,
        parallel: int = 1,
        method: str | None = None,
        max_retries: int = 3,
        wait: bool = False,
        shard_key_selector: types.ShardKeySelector | None = None,
        update_filter: models.Filter | None = None,
        update_mode: models.UpdateMode | None = None,
        **kwargs: Any,
    ) -> Awaitable[None]:
        """`upsert` in batches, for any iterable. Each batch is all or nothing by itself.

        As in `AsyncQdrantClient`, it is a plain method, which returns when the points are stored:
        the event loop waits, unless `asyncio.to_thread` makes the call. Awaiting what it returns
        changes nothing.
        """
        rest = iter(points)
        at_least("batch_size", batch_size)
        batch = list(islice(rest, batch_size))
        while True:  # once at least, since the engine also checks the other arguments
            self._submit(
                "upload_points",
                collection_name,
                batch,
                batch_size,
                parallel,
                method,
                max_retries,
                wait,
                shard_key_selector,
                update_filter,
                update_mode,
                **kwargs,
            ).result()
            batch = list(islice(rest, batch_size))
            if not batch:
                return _Done()

    @as_a_server_refuses
    def upload_collection(  # type: ignore[override]
        self,
        collection_name: str,
        vectors: Any,
        payload: Iterable[Mapping[str, Any]] | None = None,
        ids: Iterable[Any] | None = None,
        batch_size: int = 64,
        parallel: int = 1,
        method: str | None = None,
        max_retries: int = 3,
        wait: bool = False,
        shard_key_selector: types.ShardKeySelector | None = None,
        update_filter: models.Filter | None = None,
        update_mode: models.UpdateMode | None = None,
        **kwargs: Any,
    ) -> Awaitable[None]:
        """`upload_points`, from columns; see `QdrantEdge.upload_collection`."""
        accept("upload_collection", kwargs)
        points = updates.points_of(vectors, payload, ids)
        return self.upload_points(
            collection_name,
            points,
            batch_size,
            parallel,
            method,
            max_retries,
            wait,
            shard_key_selector,
            update_filter,
            update_mode,
        )

    async def _call(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        try:
            return await asyncio.wrap_future(self._submit(method, *args, **kwargs))
        except M3QdrantError as error:
            as_response(error)  # this side's own: those of the worker are responses already
            raise

    def _submit(self, method: str, /, *args: Any, **kwargs: Any) -> Future[Any]:
        return self._running().submit(method, *args, **kwargs)

    def _running(self) -> Worker:
        check_process(self._pid, self.path)
        with self._lock:
            if self._closed:
                raise StoreClosedError(f"{self!r} is closed: open a new one")
            if self._worker is None:
                self._worker = Worker(
                    self.path, auto_index=self.auto_index, read_only=self.read_only
                )
                # a client that was dropped; at the interpreter's end the worker sees to itself
                weakref.finalize(self, self._worker.stop).atexit = False
            return self._worker

    if TYPE_CHECKING:  # what qdrant-client's interface doesn't have

        async def optimize(self, collection_name: str) -> bool: ...
        async def unindexed(self, collection_name: str) -> int: ...
        async def vector_files(self, collection_name: str, vector: str) -> Any: ...
        async def flush(self, collection_name: str | None = None) -> None: ...
        async def adopt(self, collection_name: str, directory: str | os.PathLike[str]) -> bool: ...
        async def retrieve_arrays(
            self,
            collection_name: str,
            ids: Sequence[Any],
            with_payload: Any = True,
            with_vectors: bool | Sequence[str] = True,
        ) -> list[models.Record]: ...
        async def scroll_arrays(
            self,
            collection_name: str,
            scroll_filter: models.Filter | None = None,
            limit: int = 10,
            offset: Any = None,
            with_payload: Any = True,
            with_vectors: bool | Sequence[str] = True,
        ) -> tuple[list[models.Record], int | str | None]: ...


class _Done:
    """What an upload returns: nothing, for those who await it too."""

    def __await__(self) -> Generator[None, None, None]:
        yield from ()


def _handed_over(name: str, method: Callable[..., Any]) -> Any:
    @functools.wraps(method)
    async def call(self: AsyncQdrantEdge, *args: Any, **kwargs: Any) -> Any:
        return await self._call(name, *args, **kwargs)

    call.__qualname__ = f"AsyncQdrantEdge.{name}"
    call.__module__ = __name__
    return call


_OWN = {*vars(AsyncQdrantEdge), "migrate"}
"""What is written out above, and what can't be done in another process: its other client stays."""

for _name, _method in inspect.getmembers(QdrantEdge, inspect.isfunction):
    if _name[0] != "_" and _name not in _OWN and not is_missing(_method):
        setattr(AsyncQdrantEdge, _name, _handed_over(_name, _method))

add_missing(AsyncQdrantEdge, AsyncQdrantClient)
