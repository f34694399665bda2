"""One cluster by several of its nodes: where the one that is asked fails, the next one is.

Each node of a cluster answers for all of it, so a client needs one at a time. `Nodes` has the
methods of that one's client. `turn` goes on to the next that answers; whoever carries calls out
does it where a call fails as if its node were down, and makes the call again as it would anyway.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from qdrant_client.async_client_base import AsyncQdrantBase
from qdrant_client.client_base import QdrantBase

from m3qdrant.errors import InputError, M3QdrantError, ServerUnavailableError

__all__ = ["AsyncNodes", "Nodes", "node_of", "urls_of"]

log = logging.getLogger(__name__)


def urls_of(location: object) -> list[str] | None:
    """The URLs of a location that names several nodes of one cluster; None of any other.

    Raises:
        InputError: one of them is no URL.
    """
    if isinstance(location, str) and "," in location and _is_url(location):
        urls = [part.strip() for part in location.split(",")]
    elif isinstance(location, list | tuple):
        urls = [part.strip() if isinstance(part, str) else part for part in location]
    else:
        return None
    if not urls or not all(isinstance(url, str) and _is_url(url) for url in urls):
        raise InputError(
            "several locations are nodes of one cluster, so that each begins with http:// or "
            "https://"
        )
    return list(dict.fromkeys(urls))


def _is_url(text: str) -> bool:
    return text.lower().startswith(("http://", "https://"))


def node_of(client: Any) -> Any:
    """The client that is asked: of several nodes the one whose turn it is."""
    return client.node if isinstance(client, Nodes | AsyncNodes) else client


_OWN = frozenset({"close", "node", "open", "turn"})


class _Turns:
    """Whose turn it is, and the clients that were made."""

    def __init__(self, urls: Sequence[str]) -> None:
        self.urls = list(urls)
        self.at = 0
        self.made: dict[str, Any] = {}

    @property
    def node(self) -> Any:
        return self.made[self.urls[self.at]]

    def others(self) -> list[int]:
        """The other nodes, those behind this one first."""
        count = len(self.urls)
        return [(self.at + step) % count for step in range(1, count)]

    def take(self, at: int) -> None:
        log.info("%s does not answer: asking %s", self.urls[self.at], self.urls[at])
        self.at = at

    def fits(self, client: Any) -> bool:
        """Whether a node is asked in the same way: what is sent depends on it."""
        return not self.made or type(client) is type(self.node)


def _none(urls: Sequence[str], errors: Sequence[M3QdrantError]) -> ServerUnavailableError:
    return ServerUnavailableError(
        f"none of the nodes {', '.join(urls)} answers: {'; '.join(map(str, errors))}"
    )


class _Asked:
    """What has the methods of the client of the node that is asked."""

    _turns: _Turns

    def __getattribute__(self, name: str) -> Any:
        # the interface's methods are there, and raise: they are the node's to answer
        if name[0] == "_" or name in _OWN:
            return object.__getattribute__(self, name)
        return getattr(self.node, name)

    def __getattr__(self, name: str) -> Any:
        if name == "_turns":  # not made yet
            raise AttributeError(name)
        return getattr(self.node, name)

    @property
    def node(self) -> Any:
        """The client of the node whose turn it is."""
        return self._turns.node


class Nodes(_Asked, QdrantBase):
    """The nodes of one cluster, with the methods of the client of the one that is asked.

    Attributes:
        node: that client.
    """

    def __init__(self, urls: Sequence[str], connect: Callable[[str], QdrantBase]) -> None:
        """Connect to the first that answers.

        Args:
            urls: the nodes'.
            connect: makes the client of one, and tries once.

        Raises:
            ServerUnavailableError: none answers.
        """
        super().__init__()
        self._connect = connect
        self._lock = threading.Lock()
        self._turns = _Turns(urls)
        errors = []
        for at, url in enumerate(self._turns.urls):
            try:
                self._turns.made[url] = connect(url)
                self._turns.at = at
                return
            except ServerUnavailableError as error:
                errors.append(error)
        raise _none(urls, errors) from errors[-1]

    def turn(self, failed: Any) -> None:
        """Go on to the next node that answers, unless somebody has; stay where none does."""
        with self._lock:
            turns = self._turns
            if failed is not turns.node:
                return
            for at in turns.others():
                url = turns.urls[at]
                try:
                    client = turns.made.get(url) or self._connect(url)
                    client.info()  # it may have gone since
                except Exception:
                    continue
                if turns.fits(client):
                    turns.made[url] = client
                    turns.take(at)
                    return
                client.close()

    def close(self, *args: Any, **kwargs: Any) -> None:
        """Close all clients."""
        for client in self._turns.made.values():
            client.close(*args, **kwargs)


class AsyncNodes(_Asked, AsyncQdrantBase):
    """`Nodes` for asyncio; `open` makes one.

    Attributes:
        node: the client of the node that is asked.
    """

    def __init__(
        self, urls: Sequence[str], connect: Callable[[str], Awaitable[AsyncQdrantBase]]
    ) -> None:
        super().__init__()
        self._connect = connect
        self._lock: asyncio.Lock | None = None
        self._turns = _Turns(urls)

    async def open(self) -> AsyncNodes:
        """Connect to the first node that answers.

        Raises:
            ServerUnavailableError: none does.
        """
        errors = []
        for at, url in enumerate(self._turns.urls):
            try:
                self._turns.made[url] = await self._connect(url)
                self._turns.at = at
                return self
            except ServerUnavailableError as error:
                errors.append(error)
        raise _none(self._turns.urls, errors) from errors[-1]

    async def turn(self, failed: Any) -> None:
        """`Nodes.turn`."""
        if self._lock is None:
            self._lock = asyncio.Lock()
        async with self._lock:
            turns = self._turns
            if failed is not turns.node:
                return
            for at in turns.others():
                url = turns.urls[at]
                try:
                    client = turns.made.get(url) or await self._connect(url)
                    await client.info()
                except Exception:
                    continue
                if turns.fits(client):
                    turns.made[url] = client
                    turns.take(at)
                    return
                await client.close()

    async def close(self, *args: Any, **kwargs: Any) -> None:
        """Close all clients."""
        for client in self._turns.made.values():
            await client.close(*args, **kwargs)
