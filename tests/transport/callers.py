"""A client of either world, with one way to use it."""

from __future__ import annotations

import asyncio
from typing import Any

from m3qdrant import transport

__all__ = ["Caller", "Callers"]


class Caller:
    """A client of either world, with one way to use it."""

    def __init__(self, kind: str, location: Any, **options: Any) -> None:
        self.kind = kind
        self.loop = None if kind == "sync" else asyncio.new_event_loop()
        self.client: Any
        options.setdefault("timeout_s", 20)
        if self.loop is None:
            self.client, self.owned = transport.connect(location, **options)
        else:

            async def connect() -> tuple[Any, bool]:
                return await transport.aconnect(location, **options)

            self.client, self.owned = self.loop.run_until_complete(connect())

    def run(self, steps: Any, *, where: str = "collection 'x'", **options: Any) -> Any:
        if self.loop is None:
            return transport.run(self.client, steps, where=where, **options)
        return self.loop.run_until_complete(
            transport.arun(self.client, steps, where=where, **options)
        )

    def close(self) -> None:
        if self.loop is None:
            self.client.close()
        else:
            self.loop.run_until_complete(self.client.close())
            self.loop.close()


class Callers:
    """Makes `Caller`s of one kind, and closes them."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.made: list[Caller] = []

    def __call__(self, location: Any, **options: Any) -> Caller:
        caller = Caller(self.kind, location, **options)
        self.made.append(caller)
        return caller
