"""One process, and one client in it, at a time: a lock on a collection's directory.

The engine has a lock of its own, on its write-ahead log, but takes it too late: a second process
that tries to open a collection rewrites files under the first one's feet before it is turned away,
and the first one's next write fails. So the engine isn't called at all without this lock.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from m3qdrant.errors import EngineError, StoreLockedError, UnsupportedError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["DirectoryLock", "foreign_lock_error", "locked", "nobody_has"]

FILE = "lock"

_held_here: set[str] = set()
"""The locks that this process holds, by real path, to tell them from another process's."""


class DirectoryLock:
    """Holds `directory` until `release`, or until the process ends, however it ends."""

    def __init__(self, directory: Path) -> None:
        """Take the lock.

        Raises:
            StoreLockedError: it is taken, in another process or in this one.
            EngineError: the directory can't be written.
        """
        self._handle: int | None = None
        _need_locks()
        self._key = os.path.realpath(directory)
        try:
            handle = os.open(
                directory / FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666
            )
        except OSError as error:
            raise EngineError(
                f"{directory} can't be written ({error}): check its rights"
            ) from error
        try:
            _lock(handle, fcntl.LOCK_EX, directory, _locked_error(directory))
        except BaseException:
            os.close(handle)
            raise
        self._handle = handle
        _held_here.add(self._key)

    def release(self) -> None:
        """Let go. Releasing twice is fine."""
        handle, self._handle = self._handle, None
        if handle is None:
            return
        _held_here.discard(self._key)
        # by name, not just by closing: a forked child holds the same open file
        fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)

    def __del__(self) -> None:
        """Let go of a lock whose owner was dropped; not in a forked child, where it isn't ours."""
        if self._handle is not None:
            _held_here.discard(self._key)
            os.close(self._handle)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Wait for a lock on the directory itself, and hold it while the block runs; makes no file.

    Raises:
        EngineError: the directory can't be locked.
    """
    _need_locks()
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise EngineError(f"{directory} can't be read ({error}): check its rights") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            raise EngineError(
                f"{directory} can't be locked ({error}): use a disk of this machine"
            ) from error
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def nobody_has(directory: Path, log: Path) -> Iterator[None]:
    """Keep the collection at `directory` from being opened while the block runs; creates no file.

    Several may do so at once. Whoever wants to open the collection meanwhile is told that it is
    open in another process.

    Args:
        directory: the collection's.
        log: the directory of its write-ahead log, on which the engine has a lock of its own.

    Raises:
        StoreLockedError: somebody has it open.
        EngineError: a lock can't be read.
    """
    _need_locks()
    with contextlib.ExitStack() as handles:
        # the log's last: where the file of our own lock isn't there, it is the only one
        for place in (directory / FILE, log):
            try:
                handle = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise EngineError(f"{place} can't be read ({error}): check its rights") from error
            handles.callback(os.close, handle)
            taken = foreign_lock_error if place == log else _locked_error
            _lock(handle, fcntl.LOCK_SH, directory, taken(directory))
        yield


def _need_locks() -> None:
    if fcntl is None:
        raise UnsupportedError(
            "the embedded engine needs file locks (flock), which this system lacks: "
            "run a Qdrant server"
        )


def _lock(handle: int, kind: int, directory: Path, taken: StoreLockedError) -> None:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise taken from error
    except OSError as error:
        raise EngineError(
            f"{directory} can't be locked ({error}): use a disk of this machine"
        ) from error


def _locked_error(directory: Path) -> StoreLockedError:
    if os.path.realpath(directory) in _held_here:
        return StoreLockedError(
            f"{directory} is open in this process already: use that client, or close it"
        )
    return StoreLockedError(
        f"{directory} is open in another process: close it there, or run a Qdrant server "
        "for several processes"
    )


def foreign_lock_error(directory: Path) -> StoreLockedError:
    """What to say where the engine's own lock is taken, and ours isn't."""
    return StoreLockedError(
        f"{directory} is open in a program that uses the engine without m3qdrant, or in a "
        "process forked from one that had it open: end it"
    )
