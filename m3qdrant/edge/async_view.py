"""`AsyncQdrantEdgeView`: an open `QdrantEdge`, to await, for what needs both at once.

A collection is open in one place. A library that holds a synchronous and an asynchronous client
on the same collection can't have a `QdrantEdge` and an `AsyncQdrantEdge` (its engine is in another
process), but a `QdrantEdge` and a view of it. The view is an `AsyncQdrantEdge` that has a thread
where that has a process.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from m3qdrant.edge.async_client import AsyncQdrantEdge
from m3qdrant.edge.client import QdrantEdge
from m3qdrant.edge.refusals import InputError
from m3qdrant.edge.shard import check_process
from m3qdrant.errors import StoreClosedError

__all__ = ["AsyncQdrantEdgeView"]


class AsyncQdrantEdgeView(AsyncQdrantEdge):
    """The methods of an open `QdrantEdge`, to await; both may be used at once.

        with QdrantEdge("data") as edge:
            view = AsyncQdrantEdgeView(edge)
            edge.upsert("docs", points)
            hits = await view.query_points("docs", query, using="dense", limit=10)

    The calls run in one thread, one by one, in the order in which they were made. Those of the
    `QdrantEdge` itself come between them as they may. The engine holds the GIL while it works, so
    the event loop waits where a call takes long. Where nothing else needs the `QdrantEdge`, take
    `AsyncQdrantEdge(path)`, whose engine has a process of its own and never stalls the loop.

    Cancelling the wait for a call drops its answer; the call is done if it had begun. One view may
    serve several event loops, and one `QdrantEdge` may have several views.

    Closing the view waits for its calls and ends its thread; the `QdrantEdge` stays open, for its
    owner to close. Once that is closed, the view's calls raise `StoreClosedError`.

    Args:
        edge: the engine.

    Raises:
        InputError: something else.
    """

    def __init__(self, edge: QdrantEdge) -> None:
        if not isinstance(edge, QdrantEdge):
            raise InputError(f"a view is one of a QdrantEdge, not of {type(edge).__name__}")
        super().__init__(edge.path, auto_index=edge.auto_index, read_only=edge.read_only)
        self.edge = edge
        self._thread = ThreadPoolExecutor(1, "AsyncQdrantEdgeView")

    def __repr__(self) -> str:
        """The class and its engine."""
        return f"AsyncQdrantEdgeView({self.edge!r})"

    async def close(self, grpc_grace: float | None = None, **kwargs: Any) -> None:
        """Wait for the view's calls and end its thread; the `QdrantEdge` stays open.

        Closing twice is fine.
        """
        if os.getpid() != self._pid:
            return  # the thread is in the process that this is a fork of
        with self._lock:
            first, self._closed = not self._closed, True
            last = self._thread.submit(lambda: None) if first else None
            self._thread.shutdown(wait=False)
        if last is not None:
            await asyncio.wrap_future(last)

    def _submit(self, method: str, /, *args: Any, **kwargs: Any) -> Future[Any]:
        check_process(self._pid, self.path)
        with self._lock:
            if self._closed:
                raise StoreClosedError(f"{self!r} is closed: make a new one")
            return self._thread.submit(getattr(self.edge, method), *args, **kwargs)
