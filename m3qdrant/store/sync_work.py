"""What M3Store does at the same time: in a thread. async_work.py has its twins."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from qdrant_client.client_base import QdrantBase

from m3qdrant.collection import Capabilities, Collection, Steps
from m3qdrant.ingest import BYTES_BEHIND, chunks_behind
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
        most = chunks_behind(capabilities)
        return Background(self.run, capabilities.threads, most, self._stop)


class Background:
    """Operations one after another, in their order, in a thread.

    At once where the engine bears no other thread.
    """

    def __init__(
        self, run: Callable[[Steps[Any]], Any], threaded: bool, most: int, stop: threading.Event
    ) -> None:
        """At most `most` of them have begun, or wait for it; `stop` ends them, after Ctrl-C."""
        self._run = run
        self._executor = ThreadPoolExecutor(1, "m3qdrant-writer") if threaded else None
        self._most = most
        self._failed = False
        self._pending: deque[tuple[Future[Any], int]] = deque()
        self._stop = stop

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let what is under way end, also after an error.

        After Ctrl-C no more than its calls where several may wait: a server may take long. The
        embedded engine has one, and finishes it.
        """
        if self._executor is None:
            return
        if kind is not None and issubclass(kind, KeyboardInterrupt) and self._most > 1:
            self._stop.set()
        self._executor.shutdown(wait=True)
        self._stop.clear()

    def start(self, steps: Steps[Any], bytes: int = 0) -> None:
        """Begin an operation behind those before it, once these are few and small enough.

        Raises:
            M3QdrantError: the error of one before it; then none of those behind that began.
        """
        if self._executor is None:
            self._run(steps)
            return
        while self._pending and (
            len(self._pending) >= self._most
            or bytes + sum(held for _, held in self._pending) > BYTES_BEHIND
        ):
            self._end_first()
        self._pending.append((self._executor.submit(self._in_turn, steps), bytes))

    def wait(self) -> None:
        """Wait for all that was started, and raise its error."""
        while self._pending:
            self._end_first()

    def _end_first(self) -> None:
        self._pending[0][0].result()
        self._pending.popleft()

    def _in_turn(self, steps: Steps[Any]) -> None:
        if self._failed or self._stop.is_set():
            steps.close()
            return
        try:
            self._run(steps)
        except BaseException:
            self._failed = True
            raise


def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What a function returns: here nobody else waits for the thread."""
    return function(*args, **kwargs)
