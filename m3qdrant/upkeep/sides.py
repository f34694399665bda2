"""Work on one place or several: calls that say where they go, and who answers them.

An operation here yields `Asked`, a call and the side it is for, so that it can read at one place
and write at another, at the same time where it likes (`together`), and is still written once:
`drive` and `adrive` carry it out.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import AsyncIterator, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

from qdrant_client.async_client_base import AsyncQdrantBase
from qdrant_client.client_base import QdrantBase

from m3qdrant import transport
from m3qdrant.collection import (
    Call,
    Capabilities,
    Compute,
    Steps,
    StrictMode,
    Together,
    kept_to,
    through,
)
from m3qdrant.edge import AsyncQdrantEdge, QdrantEdge
from m3qdrant.errors import M3QdrantError
from m3qdrant.transport import Retries, capabilities_of

__all__ = ["Asked", "Directed", "Side", "adrive", "aside", "drive", "side", "together"]

T = TypeVar("T")


@dataclass(frozen=True)
class Side:
    """A collection, or a whole location, and the client that reaches it.

    Attributes:
        client: what answers.
        location: where it is, in words.
        collection: its name; None for the location as a whole.
        retries: how long to go on where a server fails for a while.
        strict: what the collection's strict mode allows.
    """

    client: QdrantBase | AsyncQdrantBase
    location: str
    collection: str | None
    retries: Retries
    strict: StrictMode = field(default_factory=StrictMode)

    def __str__(self) -> str:
        """The side in messages."""
        if self.collection is None:
            return self.location
        return f"collection {self.collection!r} at {self.location}"

    @property
    def name(self) -> str:
        """The collection's name, where the side is a collection."""
        assert self.collection is not None
        return self.collection

    @property
    def capabilities(self) -> Capabilities:
        """What can be asked of it."""
        return capabilities_of(self.client)

    @property
    def directory(self) -> Path | None:
        """Where an engine that has one keeps its collections."""
        client = self.client
        return client.path if isinstance(client, QdrantEdge | AsyncQdrantEdge) else None

    @property
    def place(self) -> str | int:
        """What tells two places apart."""
        if self.directory is not None:
            return os.path.realpath(self.directory)
        if self.capabilities.remote and self.location.lower().startswith("http"):
            return self.location.rstrip("/").lower()
        return id(self.client)

    def ask(self, steps: Call[T] | Steps[T]) -> Directed[T]:
        """A call, or an operation of calls, directed here; its answer."""

        def directed(call: Call[Any] | Together[Call[Any]] | Compute[Any]) -> Directed[Any]:
            if isinstance(call, Compute):
                return call.function()
            if isinstance(call, Together):
                return (yield Together(tuple(Asked(self, one) for one in call.questions)))
            return (yield Asked(self, call))

        return (yield from through(kept_to(lambda: self.strict, steps), directed))


class Asked(NamedTuple):
    """A call and the side it is for."""

    side: Side
    call: Call[Any]


Directed: TypeAlias = Generator[Asked | Together[Asked], Any, T]
"""An operation over several sides; see `collection.calls.Steps`."""


def together(asked: Iterable[Asked]) -> Directed[list[Any]]:
    """Calls whose order doesn't matter, at whatever sides; their answers.

    Raises:
        M3QdrantError: the first one's that failed, when all of them have ended.
    """
    outcomes: list[Any] = yield Together(tuple(asked))
    for outcome in outcomes:
        if isinstance(outcome, M3QdrantError):
            raise outcome
    return outcomes


def _at_once(asked: Sequence[Asked]) -> bool:
    """Whether one side can be asked while another one works."""
    sides = [each.side.capabilities for each in asked]
    return all(side.threads for side in sides) and any(side.remote for side in sides)


def drive(steps: Directed[T]) -> T:
    """Carry an operation out whose sides have synchronous clients."""

    def ask(asked: Asked) -> object:
        side = asked.side
        assert isinstance(side.client, QdrantBase)
        return transport.ask(side.client, asked.call, str(side), side.retries, stop)

    stop = threading.Event()
    try:
        return transport.drive(steps, ask, _at_once)
    except BaseException:
        stop.set()  # what is under way in other threads tries nothing again
        raise


async def adrive(steps: Directed[T]) -> T:
    """Carry an operation out whose sides have asynchronous clients."""

    async def ask(asked: Asked) -> object:
        side = asked.side
        assert isinstance(side.client, AsyncQdrantBase)
        return await transport.aask(side.client, asked.call, str(side), side.retries)

    return await transport.adrive(steps, ask, _at_once)


@contextlib.contextmanager
def side(
    location: str | os.PathLike[str] | Sequence[str] | QdrantBase,
    collection: str | None,
    retries: Retries | None,
    *,
    read_only: bool = False,
    ca_file: str | os.PathLike[str] | None = None,
) -> Iterator[Side]:
    """A side, whose client is closed at the end where it was made here.

    With `read_only` a directory is looked at, and nothing under it changes.
    """
    client, owned = transport.connect(
        location, read_only=read_only, retries=retries, ca_file=ca_file
    )
    try:
        yield Side(client, transport.describe(location), collection, retries or Retries())
    finally:
        if owned:
            client.close()


@contextlib.asynccontextmanager
async def aside(
    location: str | os.PathLike[str] | Sequence[str] | AsyncQdrantBase,
    collection: str | None,
    retries: Retries | None,
    *,
    read_only: bool = False,
    ca_file: str | os.PathLike[str] | None = None,
) -> AsyncIterator[Side]:
    """`side` for asyncio."""
    client, owned = await transport.aconnect(
        location, read_only=read_only, retries=retries, ca_file=ca_file
    )
    try:
        yield Side(client, transport.describe(location), collection, retries or Retries())
    finally:
        if owned:
            await client.close()
