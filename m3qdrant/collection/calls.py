"""One operation, two ways to run it: what is asked of Qdrant, apart from who waits for the answer.

An operation is a generator that yields `Call`s and receives their answers, so it does no I/O of
its own. `transport.run` carries it out with a QdrantClient or a QdrantEdge, `transport.arun` with
their asynchronous twins; both classes have the same methods, so the operation is written once.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

__all__ = ["Call", "Steps"]

T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """A method of qdrant-client's interface and its arguments.

    Attributes:
        method: e.g. "query_batch_points".
        arguments: by keyword.
        idempotent: whether doing it twice is the same as once, so that it may be repeated when an
            answer got lost. False only for what fails the second time, such as a creation.
    """

    method: str
    arguments: dict[str, Any] = field(default_factory=dict)
    idempotent: bool = True


Steps: TypeAlias = Generator[Call, Any, T]
"""An operation: it yields calls, is sent each one's answer (or thrown its error), returns T."""
