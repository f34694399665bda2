"""Which implementation of an op runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def choose(op: str, backend: str | None, implementations: Mapping[str, T]) -> T:
    """Return the implementation that `backend` names, or the default one.

    Args:
        op: the op's name, for the error.
        backend: a key of `implementations`, or None for the best one there is.
        implementations: the op's implementations by backend.

    Raises:
        NotImplementedError: `backend` is "triton" and the op has no Triton kernel.
        ValueError: `backend` is not a backend's name.
    """
    name = "torch" if backend is None else backend
    if name in implementations:
        return implementations[name]
    if name == "triton":
        raise NotImplementedError(
            f"{op} has no Triton kernel in this version; use backend='torch'"
        )
    known = ", ".join(repr(known) for known in sorted(implementations))
    raise ValueError(f"backend is {backend!r}; expected None or one of {known}")
