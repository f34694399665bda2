"""One open collection: its lock, its process, and the engine's failures as our errors.

The engine reports most failures as a bare `Exception` and the worst as a panic, which isn't even
an `Exception`. It bears no second process, and hangs in a forked child, whose copy lacks the
engine's threads. `Shard` turns each of these into an error that says what to do.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import qdrant_edge as edge
from qdrant_client import models

from m3qdrant.edge import sidecar, translate
from m3qdrant.edge.checks import layout_of
from m3qdrant.edge.lock import DirectoryLock
from m3qdrant.errors import (
    EngineError,
    InputError,
    M3QdrantError,
    StoreClosedError,
    StoreDamagedError,
    StoreLockedError,
)

__all__ = ["Shard", "check_process", "create_shard", "engine_errors"]


class Shard:
    """An open collection. Every use goes through `use`, one thread at a time.

    Attributes:
        directory: the collection's directory.
        config: its configuration.
        layout: its vectors by name.
    """

    def __init__(self, directory: Path) -> None:
        """Open the collection at `directory`.

        Raises:
            StoreLockedError: it is open elsewhere, in another process or in this one.
            StoreDamagedError: its files can't be read.
        """
        self.directory = directory
        self.config = sidecar.read(directory)
        self.layout = layout_of(self.config)
        self._turn = threading.RLock()
        self._pid = os.getpid()
        self._directory_lock = DirectoryLock(directory)
        try:
            self._engine: edge.EdgeShard | None = _load(directory, self.config)
        except BaseException:
            self._directory_lock.release()
            raise

    @contextlib.contextmanager
    def use(self, operation: str) -> Iterator[edge.EdgeShard]:
        """The engine, for one operation, with its failures turned into our errors."""
        check_process(self._pid, self.directory)
        with self._turn:
            if self._engine is None:
                raise StoreClosedError(f"the collection at {self.directory} is closed")
            with engine_errors(operation, self.directory.name):
                yield self._engine

    def write(self, operation: str, build: Callable[[], edge.UpdateOperation]) -> None:
        """Build an update, apply it, and flush it, so that a crash finds little to replay."""
        with self.use(operation) as engine:
            engine.update(build())
            engine.flush()

    def replace_config(self, config: models.CreateCollection) -> None:
        """Store other metadata; the engine's own settings must stay as they are."""
        with self.use("update the configuration of"):
            sidecar.write(self.directory, config)
            self.config = config

    def close(self) -> None:
        """Flush, and let go of the files. Closing twice is fine."""
        if os.getpid() != self._pid:
            return  # the files belong to the parent, and closing would wait for threads left there
        with self._turn:
            engine, self._engine = self._engine, None
            if engine is None:
                return
            try:
                with engine_errors("close", self.directory.name):
                    engine.close()
            finally:
                self._directory_lock.release()


def check_process(pid: int, path: Path) -> None:
    """Refuse to work in a child that was forked from the process that opened the engine."""
    if os.getpid() != pid:
        raise EngineError(
            f"{path} was opened in process {pid}, and this is a fork of it: the embedded engine "
            "doesn't survive a fork. Start workers with multiprocessing's 'spawn', and open the "
            "store in one process only"
        )


def create_shard(directory: Path, config: models.CreateCollection) -> None:
    """Make the data of an empty collection in `directory`."""
    shard_config = translate.shard_config(config)
    edge.EdgeShard.create(str(directory / sidecar.SHARD), shard_config).close()


def _load(directory: Path, config: models.CreateCollection) -> edge.EdgeShard:
    shard = directory / sidecar.SHARD
    # without its segments the engine would open an empty collection, and say nothing
    if not (shard / "edge_config.json").is_file() or not any(shard.glob("segments/*")):
        raise StoreDamagedError(f"{shard} holds no data of the embedded engine: restore the files")
    try:
        # Naming the configuration makes the engine compare it with the data. A configuration of
        # other data would let through what the checks are there to stop.
        return edge.EdgeShard.load(str(shard), translate.shard_config(config))
    except BaseException as error:
        if not _from_engine(error):
            raise
        if "WouldBlock" in str(error):
            raise StoreLockedError(
                f"{directory} is open in a program that uses the engine without m3qdrant: close it"
            ) from error
        raise StoreDamagedError(
            f"{directory} can't be opened ({_first_line(error)}): its files are damaged, or of "
            "another version of the engine; restore them from a copy, or delete the collection "
            "and ingest again"
        ) from error


@contextlib.contextmanager
def engine_errors(operation: str, collection: str) -> Iterator[None]:
    """Turn whatever the engine raises in the block into one of our errors."""
    try:
        yield
    except M3QdrantError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        # raised while the engine's bindings read an argument, before anything was done with it
        raise InputError(
            f"could not {operation} the collection {collection!r}: {_first_line(error)}"
        ) from error
    except BaseException as error:
        if not _from_engine(error):
            raise
        advice = ""
        if _is_panic(error):
            advice = " (the engine panicked: close this store and open it again)"
        raise EngineError(
            f"could not {operation} the collection {collection!r}: {_first_line(error)}{advice}"
        ) from error


def _is_panic(error: BaseException) -> bool:
    # a class of its own in each extension module, and not importable: known by name only
    return type(error).__name__ == "PanicException"


def _from_engine(error: BaseException) -> bool:
    return isinstance(error, Exception) or _is_panic(error)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
