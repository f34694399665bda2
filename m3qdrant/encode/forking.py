"""What a forked process can do with an encoder of its parent.

Threads don't survive a fork: a lock that another thread held stays locked for ever, and torch
waits for ever for the workers of its pool. So a child runs torch on one thread, which needs no
pool, and where a thread of the parent was in the middle of a call, the child refuses at once. A
spawned process has neither trouble.
"""

from __future__ import annotations

import os
import threading
import warnings
import weakref
from types import TracebackType

import torch

from m3qdrant.errors import EncodeError

__all__ = ["Turn", "settle"]

_REMEDY = (
    "start processes with the method 'spawn' (multiprocessing.get_context('spawn')), which load "
    "the encoder themselves"
)


class Turn:
    """A lock for calls that run one after another; a forked child has a fresh one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        _turns.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.release()

    def renew(self) -> bool:
        """Begin anew in a child; whether a thread of the parent held it."""
        held = self._lock.locked()
        self._lock = threading.Lock()
        return held


_turns: weakref.WeakSet[Turn] = weakref.WeakSet()


class _Process:
    """What is known of this process.

    Attributes:
        used: torch has worked for us here, so it may have a pool of threads.
        orphan: forked since then.
        cut_off: a thread of the parent was in the middle of a call at that moment.
    """

    used = False
    orphan = False
    cut_off = False


def settle(device: torch.device) -> None:
    """Before torch works: in a forked child, what makes it work, or refuses.

    Args:
        device: that it is going to work on.

    Raises:
        EncodeError: it would not.
    """
    if _Process.cut_off:
        raise EncodeError(
            "this process was forked while another thread was encoding, and what that thread held "
            f"stays locked here: {_REMEDY}, or fork before the first call"
        )
    if _Process.orphan and device.type != "cpu":
        raise EncodeError(f"{device.type} does not work in a forked process: {_REMEDY}")
    if _Process.orphan and torch.get_num_threads() > 1:
        torch.set_num_threads(1)
        warnings.warn(
            "this process was forked after torch had worked: its threads are gone, so it runs on "
            f"one here; for more, {_REMEDY}",
            RuntimeWarning,
            stacklevel=3,
        )
    _Process.used = True


def _after_fork() -> None:
    held = [turn.renew() for turn in list(_turns)]
    _Process.cut_off = _Process.cut_off or any(held)
    _Process.orphan = _Process.orphan or _Process.used


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_after_fork)
