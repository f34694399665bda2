"""One process, and one client in it, at a time: a lock on a collection's directory.

The engine has a lock of its own, on its write-ahead log, but takes it too late: a second process
that tries to open a collection rewrites files under the first one's feet before it is turned away,
and the first one's next write fails. So the engine isn't called at all without this lock.
"""

from __future__ import annotations

import os
from io import TextIOWrapper
from pathlib import Path

from m3qdrant.errors import EngineError, StoreLockedError, UnsupportedError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["DirectoryLock"]

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
        self._file: TextIOWrapper | None = None
        if fcntl is None:
            raise UnsupportedError(
                "the embedded engine needs file locks (flock), which this system lacks: "
                "run a Qdrant server"
            )
        self._key = os.path.realpath(directory)
        try:
            file = (directory / FILE).open("a", encoding="ascii")
        except OSError as error:
            raise EngineError(
                f"{directory} can't be written ({error}): check its rights"
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            if self._key in _held_here:
                raise StoreLockedError(
                    f"{directory} is open in this process already: use that client, or close it"
                ) from error
            raise StoreLockedError(
                f"{directory} is open in another process: close it there, or run a Qdrant server "
                "for several processes"
            ) from error
        except OSError as error:
            file.close()
            raise EngineError(
                f"{directory} can't be locked ({error}): use a disk of this machine"
            ) from error
        self._file = file
        _held_here.add(self._key)

    def release(self) -> None:
        """Let go. Releasing twice is fine."""
        file, self._file = self._file, None
        if file is None:
            return
        _held_here.discard(self._key)
        # by name, not just by closing: a forked child holds the same open file
        fcntl.flock(file, fcntl.LOCK_UN)
        file.close()

    def __del__(self) -> None:
        """Let go of a lock whose owner was dropped; not in a forked child, where it isn't ours."""
        if self._file is not None:
            _held_here.discard(self._key)
            self._file.close()
