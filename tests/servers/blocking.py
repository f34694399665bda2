"""Every place a collection can be, each as something with M3Store's methods.

The asynchronous stores are driven from outside their event loop, so that the same plain function
uses them too.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from m3qdrant import AsyncM3Store, M3Store

__all__ = ["Blocking", "Loop", "opener", "waited"]


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(120)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()


class Blocking:
    """An AsyncM3Store whose methods wait."""

    def __init__(self, store: AsyncM3Store, loop: Loop) -> None:
        self._store, self._loop = store, loop

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._store, name)
        if not callable(value):
            return value

        def method(*args: Any, **kwargs: Any) -> Any:
            answer = value(*args, **kwargs)
            if inspect.isasyncgen(answer):
                return self._iterate(answer)
            return self._loop.run(answer)

        return method

    def wait(self, answer: Any) -> Any:
        """The answer of the client underneath."""
        return self._loop.run(answer)

    def _iterate(self, items: AsyncIterator[Any]) -> Iterator[Any]:
        while True:
            try:
                yield self._loop.run(anext(items))
            except StopAsyncIteration:
                return


def waited(store: Any, answer: Any) -> Any:
    """What a method of the store's client answers, in either world."""
    return store.wait(answer) if isinstance(store, Blocking) else answer


def opener(place: Any, loop: Loop | None, collection: str | None = None) -> Callable[..., Any]:
    """What opens stores at one place, synchronous ones without a loop."""
    name = collection or f"contract-{uuid.uuid4().hex}"

    def open_one(encoder: Any = None, schema: Any = None, **options: Any) -> Any:
        if loop is None:
            return M3Store(place, name, encoder, schema, **options)

        async def opened() -> AsyncM3Store:
            return await AsyncM3Store(place, name, encoder, schema, **options).open()

        return Blocking(loop.run(opened()), loop)

    return open_one
