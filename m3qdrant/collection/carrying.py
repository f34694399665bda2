"""An operation whose calls are carried out another way: by operations of the same kind or another.

`strict.py` keeps calls to what a server allows so, and `upkeep/sides.py` says where they go.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, TypeVar

from m3qdrant.collection.calls import Call, Steps
from m3qdrant.errors import M3QdrantError

__all__ = ["through"]

Q = TypeVar("Q")
T = TypeVar("T")


def through(
    steps: Call[T] | Steps[T], carry: Callable[[Any], Generator[Q, Any, Any]]
) -> Generator[Q, Any, T]:
    """An operation each of whose calls is carried out by another one.

    Args:
        steps: the operation. It is closed at the end, whatever happens.
        carry: makes of a call, or of several at once (`Together`), what is yielded in its place,
            and returns the answer; its errors are thrown into the operation.
    """
    inner = iter(steps)
    answer: Any = None
    failure: M3QdrantError | None = None
    try:
        while True:
            call = inner.send(answer) if failure is None else inner.throw(failure)
            answer = failure = None
            try:
                answer = yield from carry(call)
            except M3QdrantError as error:
                failure = error
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        inner.close()
