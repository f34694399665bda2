"""What M3Store does at the same time: in a thread. async_work.py has its twins."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from qdrant_client.client_base import QdrantBase

from m3qdrant.collection import Capabilities, Collection, Steps
from m3qdrant.ingest import read as chunks
from m3qdrant.transport import Retries, run

if TYPE_CHECKING:
    from typing_extensions import Self


__all__ = ["ITERABLES", "Background", "Lock", "Runner", "chunks", "in_thread"]

P = ParamSpec("P")
T = TypeVar("T")

ITERABLES = (Iterable,)
"""What documents may come as."""

Lock = threading.Lock


class Runner:
    """Carries operations out with a client."""

    def __init__(self, client: QdrantBase, collection: Collection, retries: Retries) -> None:
        self._client = client
        self._collection = collection
        self._retries = retries
        self._stop = threading.Event()

    def run(self, steps: Steps[T]) -> T:
        """What the operation returns, kept to the collection's strict mode."""
        where = str(self._collection)
        steps = self._collection.kept(steps)
        return run(self._client, steps, where=where, retries=self._retries, stop=self._stop)

    def background(self, capabilities: Capabilities) -> Background:
        """Something to run operations behind the back of whoever goes on."""
        return Background(self.run, capabilities.threads, self._stop)


class Background:
    """One operation at a time, in a thread; at once where the engine bears no other thread."""

    def __init__(
        self, run: Callable[[Steps[Any]], Any], threaded: bool, stop: threading.Event
    ) -> None:
        """`stop` ends the waiting of what is under way, after Ctrl-C."""
        self._run = run
        self._executor = ThreadPoolExecutor(1, "m3qdrant-writer") if threaded else None
        self._pending: Future[Any] | None = None
        self._stop = stop

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let what is under way end, also after an error or Ctrl-C."""
        if self._executor is None:
            return
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._stop.set()
        self._executor.shutdown(wait=True)
        self._stop.clear()

    def start(self, steps: Steps[Any]) -> None:
        """Begin an operation; the one before has ended."""
        if self._executor is None:
            self._run(steps)
        else:
            self._pending = self._executor.submit(self._run, steps)

    def wait(self) -> None:
        """Wait for what was started, and raise its error."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()


def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What a function returns: here nobody else waits for the thread."""
    return function(*args, **kwargs)
