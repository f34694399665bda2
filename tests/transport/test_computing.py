"""What an operation computes: at once, or where an event loop waits, in a thread."""

from __future__ import annotations

import asyncio
import threading

import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient

from m3qdrant.collection import Compute, Steps, calls
from m3qdrant.errors import InputError
from m3qdrant.transport import arun, run


def thread_and_collections() -> Steps[tuple[int, int]]:
    """The thread that computes, and how many collections there are: calls go on beside it."""
    thread = yield from Compute(threading.get_ident)
    found = yield from calls.get_collections()
    return thread, len(found.collections)


def handled() -> Steps[str]:
    def fail() -> None:
        raise InputError("no")

    try:
        yield from Compute(fail)
    except InputError as error:
        return f"handled {error}"
    return "nothing"


def unknown() -> Steps[None]:
    yield from Compute(lambda: 1 // 0)


def test_at_once() -> None:
    client = QdrantClient(":memory:")
    assert run(client, thread_and_collections(), where="here") == (threading.get_ident(), 0)
    assert run(client, handled(), where="here") == "handled no"
    with pytest.raises(ZeroDivisionError):
        run(client, unknown(), where="here")


def test_in_a_thread() -> None:
    async def use() -> None:
        client = AsyncQdrantClient(":memory:")
        thread, found = await arun(client, thread_and_collections(), where="here")
        assert thread != threading.get_ident()
        assert found == 0
        assert await arun(client, handled(), where="here") == "handled no"
        with pytest.raises(ZeroDivisionError):
            await arun(client, unknown(), where="here")

    asyncio.run(use())
