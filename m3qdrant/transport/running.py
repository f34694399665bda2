"""Operations carried out: their calls, one after the other, each tried again where that helps.

A server's call that fails for a passing reason is made again after a while. Other failures arrive
as ours (failures.py says which), thrown into the operation where it asked, so that it may handle
them.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import tenacity
from qdrant_client.async_client_base import AsyncQdrantBase
from qdrant_client.client_base import QdrantBase

from m3qdrant.collection import Call, Compute, Outcomes, Steps, Together
from m3qdrant.errors import (
    EngineError,
    M3QdrantError,
    ServerUnavailableError,
)
from m3qdrant.transport.engines import capabilities_of
from m3qdrant.transport.failures import Failure
from m3qdrant.transport.nodes import AsyncNodes, Nodes, node_of
from m3qdrant.transport.retries import DEFAULT, Retries, Tries

__all__ = ["aask", "adrive", "arun", "ask", "drive", "run"]

Q = TypeVar("Q")
T = TypeVar("T")

_AT_ONCE = 4
"""Requests under way at a time. Three keep a server busy; each has at most a batch of points, so
that all of them together come to less than 100 MB."""


def run(
    client: QdrantBase,
    steps: Call[T] | Steps[T],
    *,
    where: str,
    retries: Retries = DEFAULT,
    stop: threading.Event | None = None,
) -> T:
    """Carry an operation out, or a single call.

    Args:
        client: what answers its calls.
        steps: the operation. It is closed at the end, whatever happens.
        where: the collection and its place, for messages.
        retries: how long to go on; only a server's failures pass, so only it is asked again.
        stop: once set, nothing waits, and no call begins or is tried again.

    Returns:
        What the operation returns.

    Raises:
        M3QdrantError: the failure of a call that the operation did not handle, with its cause, or
            the operation's own.
    """
    return drive(
        iter(steps),
        lambda call: ask(client, call, where, retries, stop),
        lambda calls: capabilities_of(client).remote,
    )


async def arun(
    client: AsyncQdrantBase,
    steps: Call[T] | Steps[T],
    *,
    where: str,
    retries: Retries = DEFAULT,
) -> T:
    """`run` for asyncio. Cancelled, it stops at once: a request under way is given up."""
    return await adrive(
        iter(steps),
        lambda call: aask(client, call, where, retries),
        lambda calls: capabilities_of(client).remote,
    )


def drive(
    steps: Generator[Q | Together[Q] | Compute[Any], Any, T],
    ask: Callable[[Q], object],
    at_once: Callable[[Sequence[Q]], bool],
) -> T:
    """Give a generator the answers that it asks for; what it returns.

    Args:
        steps: yields questions of whatever kind, and is closed at the end.
        ask: answers one, in whatever thread. Errors of ours are thrown into the generator.
        at_once: whether several are better answered at once, of a `Together`.
    """
    answer: Any = None
    failure: M3QdrantError | None = None
    try:
        while True:
            question = steps.send(answer) if failure is None else steps.throw(failure)
            answer = failure = None
            try:
                if isinstance(question, Together):
                    several = at_once(question.questions)
                    answer = _ask_all(question.questions, ask, _AT_ONCE if several else 1)
                elif isinstance(question, Compute):
                    answer = question.function()
                else:
                    answer = ask(question)
            except M3QdrantError as error:
                failure = error
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        steps.close()


async def adrive(
    steps: Generator[Q | Together[Q] | Compute[Any], Any, T],
    ask: Callable[[Q], Awaitable[object]],
    at_once: Callable[[Sequence[Q]], bool],
) -> T:
    """`drive` for asyncio; what is computed is computed in a thread."""
    answer: Any = None
    failure: M3QdrantError | None = None
    try:
        while True:
            question = steps.send(answer) if failure is None else steps.throw(failure)
            answer = failure = None
            try:
                if isinstance(question, Together):
                    several = at_once(question.questions)
                    answer = await _aask_all(question.questions, ask, _AT_ONCE if several else 1)
                elif isinstance(question, Compute):
                    answer = await asyncio.to_thread(question.function)
                else:
                    answer = await ask(question)
            except M3QdrantError as error:
                failure = error
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        steps.close()


def _ask_all(questions: Sequence[Q], ask: Callable[[Q], object], at_once: int) -> list[object]:
    outcomes = Outcomes()

    def one(question: Q) -> object:
        if (end := outcomes.before()) is not None:
            return end
        try:
            return ask(question)
        except M3QdrantError as error:
            return outcomes.error(error)

    if at_once == 1 or len(questions) < 2:
        return [one(question) for question in questions]
    pool = ThreadPoolExecutor(min(at_once, len(questions)), "m3qdrant-call")
    try:
        found = list(pool.map(one, questions))
    except BaseException:  # Ctrl-C: whoever owns the client closes it, which ends those under way
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
    return found


async def _aask_all(
    questions: Sequence[Q], ask: Callable[[Q], Awaitable[object]], at_once: int
) -> list[object]:
    outcomes, turns = Outcomes(), asyncio.Semaphore(at_once)

    async def one(question: Q) -> object:
        async with turns:
            if (end := outcomes.before()) is not None:
                return end
            try:
                return await ask(question)
            except M3QdrantError as error:
                return outcomes.error(error)

    tasks = [asyncio.ensure_future(one(question)) for question in questions]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def ask(
    client: QdrantBase,
    call: Call[T],
    where: str,
    retries: Retries,
    stop: threading.Event | None = None,
) -> T:
    """One call's answer; see `run`."""
    tries = _tries(client, call, where, retries)
    if stop is not None and stop.is_set():
        raise EngineError(f"{call.method} of {where} was not begun: interrupted")

    def sleep(seconds: float) -> None:
        if stop is None:
            time.sleep(seconds)
        elif stop.wait(seconds):
            raise _StoppedError

    try:
        answer: T = tenacity.Retrying(sleep=sleep, **tries.policy())(_asked, client, call)
        return answer
    except M3QdrantError:
        raise
    except Exception:
        raise tries.failure() from tries.last


async def aask(client: AsyncQdrantBase, call: Call[T], where: str, retries: Retries) -> T:
    """`ask` for asyncio."""
    tries = _tries(client, call, where, retries)
    try:
        return await tenacity.AsyncRetrying(**tries.policy())(_aasked, client, call)
    except M3QdrantError:
        raise
    except Exception:
        raise tries.failure() from tries.last


class _StoppedError(Exception):
    """The wait for the next try was ended."""


def _asked(client: Any, call: Call[Any]) -> Any:
    """A call's answer, once; where its node fails as if it were down, the next one is up."""
    node = node_of(client)
    try:
        return _bound(node, call)()
    except Exception as error:
        if isinstance(client, Nodes) and _is_down(error):
            client.turn(node)
        raise


async def _aasked(client: Any, call: Call[Any]) -> Any:
    """`_asked` for asyncio."""
    node = node_of(client)
    try:
        return await _bound(node, call)()
    except Exception as error:
        if isinstance(client, AsyncNodes) and _is_down(error):
            await client.turn(node)
        raise


def _is_down(error: Exception) -> bool:
    return (
        not isinstance(error, M3QdrantError) and Failure.of(error).kind is ServerUnavailableError
    )


def _bound(client: QdrantBase | AsyncQdrantBase, call: Call[Any]) -> Callable[[], Any]:
    method = getattr(client, f"{call.method}_arrays", None) if call.arrays else None
    return functools.partial(method or getattr(client, call.method), **call.arguments)


def _tries(
    client: QdrantBase | AsyncQdrantBase, call: Call[Any], where: str, retries: Retries
) -> Tries:
    return Tries(
        f"{call.method} of {where}",
        passing=capabilities_of(client).remote,
        idempotent=call.idempotent,
        retries=retries,
    )
