"""One open collection: its lock, its process, and the engine's failures as our errors.

The engine reports most failures as a bare `Exception` and the worst as a panic, which isn't even
an `Exception`. It bears no second process, and hangs in a forked child, whose copy lacks the
engine's threads. `Shard` turns each of these into an error that says what to do.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import qdrant_edge as edge
from qdrant_client import models

from m3qdrant.edge.disk import closed, configuration, leftovers, space
from m3qdrant.edge.disk.copies import Copy
from m3qdrant.edge.disk.directory import SHARD
from m3qdrant.edge.disk.lock import DirectoryLock, foreign_lock_error
from m3qdrant.edge.translate.changes import concerns_the_engine
from m3qdrant.edge.translate.configuration import NO_VECTORS, shard_config
from m3qdrant.edge.translate.vector_specs import layout_of, named_vectors
from m3qdrant.errors import (
    EngineError,
    InputError,
    M3QdrantError,
    StoreClosedError,
    StoreDamagedError,
    UnsupportedError,
)
from m3qdrant.files import write_whole

__all__ = ["Shard", "check_process", "check_shard", "create_shard", "engine_errors"]


class Shard:
    """An open collection. Every use goes through `use`, one thread at a time.

    Attributes:
        directory: the collection's directory.
        config: its configuration.
        layout: its vectors by name.
    """

    def __init__(self, directory: Path, *, read_only: bool = False) -> None:
        """Open the collection at `directory`, or with `read_only` a copy of it: see copies.py.

        Raises:
            StoreLockedError: it is open elsewhere, in another process or in this one.
            StoreDamagedError: its files can't be read, or aren't those that were closed.
            EngineError: it wasn't closed in good order, and the disk is too full to recover it;
                or too full for a copy.
            UnsupportedError: it is too large for a copy.
        """
        self.directory = directory
        self.config = configuration.read(directory)
        self._turn = threading.RLock()
        self._pid = os.getpid()
        self._panic: BaseException | None = None
        self._log_continues = self._log_lost = False  # known after the first write
        self._number = 0
        self._before: closed.Record | None = None  # what its files were like at the last closing
        self._engine: edge.EdgeShard | None = None  # the first to go when this is dropped
        self._copy = Copy(directory) if read_only else None
        self._hold = self._copy or DirectoryLock(directory)
        files = directory if self._copy is None else self._copy.directory
        try:
            self.config = _settled(directory, files)
            if self._copy is not None:
                self._engine = _open_copy(self._copy, directory, self.config)
            else:
                leftovers.sweep(directory)
                self._engine, self._before = _open(directory, self.config)
            self.config = self._finish_change(files)
            self.layout = layout_of(self.config)
        except BaseException:
            self._hold.release()
            raise
        _open_here.add(self)

    @contextlib.contextmanager
    def use(self, operation: str) -> Iterator[edge.EdgeShard]:
        """The engine, for one operation, with its failures turned into our errors.

        After a panic nothing is known about the engine's state in memory, so it isn't used again.
        """
        check_process(self._pid, self.directory)
        with self._turn:
            if self._engine is None:
                raise StoreClosedError(f"the collection at {self.directory} is closed")
            if self._panic is not None:
                raise EngineError(
                    f"could not {operation} the collection {self.directory.name!r}: the engine "
                    "panicked during an earlier call: close this store and open it again"
                ) from self._panic
            try:
                with engine_errors(operation, self.directory.name):
                    yield self._engine
            except EngineError as error:
                if error.__cause__ is not None and _is_panic(error.__cause__):
                    self._panic = error.__cause__
                raise

    def _finish_change(self, files: Path) -> models.CreateCollection:
        """The configuration where a crash cut a change off, which replaying may have done."""
        if configuration.read_next(self.directory) is None:
            return self.config
        config = _settled(self.directory, files)
        if self._copy is None:
            configuration.write(self.directory, config)
        return config

    def write(self, operation: str, build: Callable[[], edge.UpdateOperation]) -> int:
        """Build an update, apply it, and flush it.

        Returns:
            The operation's number, which grows with each.

        The engine's log alone would keep it, but a crash shall never find more than one operation
        to replay: see `_open`.

        Raises:
            EngineError: the disk is nearly full; nothing was written.
            UnsupportedError: the collection is opened for reading.
            StoreDamagedError: the log was lost, so that the engine would pass over writes.
        """
        with self.use(operation) as engine:
            if self._copy is not None:
                raise UnsupportedError(
                    f"could not {operation} the collection at {self.directory}: it is opened for "
                    "reading; open it without read_only"
                )
            update = build()
            space.need(self.directory, operation)
            if self._log_continues:
                engine.update(update)
                engine.flush()
                self._number += 1
            else:
                self._write_first(engine, update)
            return self._number

    def _write_first(self, engine: edge.EdgeShard, update: edge.UpdateOperation) -> None:
        """Apply and flush an update, and see that its number is above those before it.

        Where the log was lost or damaged, the engine begins to number anew, and then passes over
        updates to points that exist, which it takes for older than what it has.
        """
        last = None if self._log_lost else _last_number(self.directory)
        if last == 0 and engine.count(edge.CountRequest(exact=True)) == 0:
            last = None  # it is also 0 where there was none
        if not self._log_lost:
            engine.update(update)
            engine.flush()
            number = _last_number(self.directory)
            self._log_lost = last is not None and number is not None and number <= last
            self._log_continues = not self._log_lost
            self._number = self._number + 1 if number is None else number
        if self._log_lost:
            raise StoreDamagedError(
                f"{self.directory} has lost its log, {SHARD}/wal, and the engine passes over "
                "writes to points that it holds: this one may be done in part. What it holds can "
                "be read: copy the points to another collection with scroll and upsert, or "
                "recover a snapshot"
            )

    def optimize(self) -> bool:
        """Build indexes and merge segments; returns whether there was anything to do.

        Raises:
            EngineError: the disk lacks room for a second copy of the collection.
        """
        with self.use("optimize") as engine:
            self._need_a_second_copy("optimize")
            done = engine.optimize()
            # the segments that were replaced are removed by the next flush, not before
            engine.flush()
            return done

    @contextlib.contextmanager
    def at_rest(self, operation: str) -> Iterator[closed.Record]:
        """Keep everybody from changing the files, which are as whole as after closing.

        Yields:
            What the files are like.
        """
        with self.use(operation) as engine:
            engine.flush()
            self._need_a_second_copy(operation)
            yield closed.survey(self.directory, *_content(engine), self._before)

    def _need_a_second_copy(self, operation: str) -> None:
        size = sum(space.bytes_on_disk(self.directory).values())
        space.need(self.directory, operation, size)

    def need_vectors(self) -> None:
        """See that the vectors are there to be read, or searched.

        Raises:
            UnsupportedError: it is a copy without them.
        """
        if self._copy is not None and self._copy.without_vectors:
            raise UnsupportedError(self._copy.without_vectors)

    def unindexed(self) -> int:
        """How many points lie in segments without an index of the main dense vector.

        That vector is the first dense one that has an index at all (HNSW with m above 0); 0 where
        there is none. Points that were replaced or deleted since count until the next `optimize`.
        """
        name = _main_vector(self.config)
        if name is None:
            return 0
        with self.use("inspect") as engine:
            waiting = 0
            files = self.directory if self._copy is None else self._copy.directory
            for segment in (files / SHARD / "segments").glob("*/segment.json"):
                # the engine counts indexed vectors of all names together, replaced ones included,
                # so its figure can't answer this; its files can
                config = json.loads(segment.read_text(encoding="utf-8"))["config"]
                if config["vector_data"][name]["index"]["type"] == "plain":
                    for file in segment.parent.glob("*id_tracker.versions"):
                        waiting += file.stat().st_size // 8  # one u64 a point
            return min(waiting, engine.count(edge.CountRequest(exact=True)))

    @property
    def number(self) -> int:
        """The number of the last operation since this was opened; 0 where there is none."""
        return self._number

    def change(
        self,
        make: Callable[[models.CreateCollection], models.CreateCollection],
        operations: Callable[[models.CreateCollection], Sequence[edge.UpdateOperation]]
        | None = None,
    ) -> None:
        """Change the configuration: all of it, or nothing, also through a crash.

        Without operations the engine gets its part of the new configuration at once, and applies
        it to what it stores when it is next optimised.

        Args:
            make: the new configuration from the old.
            operations: the engine's updates that bring the old one to the new.

        Raises:
            UnsupportedError: the engine can't change this of the data that it has.
        """
        with self.use("update the configuration of") as engine:
            new = make(self.config)
            if operations is not None and new == self.config:
                return
            if operations is None and not concerns_the_engine(self.config, new):
                configuration.write(self.directory, new)
                self.config = new
                return
            space.need(self.directory, "update the configuration of")
            steps = [] if operations is None else operations(self.config)
            configuration.write(self.directory, self.config, new)
            try:
                for step in steps:
                    self._write_step(step)
                if operations is None:
                    self._reload(engine, new)
            except BaseException:
                with contextlib.suppress(Exception):
                    self.config = self._finish_change(self.directory)
                raise
            configuration.write(self.directory, new)
            self.config, self.layout = new, layout_of(new)

    def _write_step(self, step: edge.UpdateOperation) -> None:
        self.write("update the configuration of", lambda: step)

    def _reload(self, engine: edge.EdgeShard, config: models.CreateCollection) -> None:
        """Load the data anew, under another configuration."""
        engine.flush()
        self._engine = None
        engine.close()
        try:
            if config.quantization_config is None:
                _drop_quantization(self.directory)
            self._engine = _load(self.directory, config)
        except StoreDamagedError as error:
            self._engine = _load(self.directory, self.config)
            raise UnsupportedError(
                "the embedded engine can't make this change to the data that it has: create "
                "another collection and copy the points with scroll and upsert"
            ) from error

    def close(self) -> None:
        """Flush, and let go of the files. Closing twice is fine."""
        if os.getpid() != self._pid:
            return  # the files belong to the parent, and closing would wait for threads left there
        with self._turn:
            engine, self._engine = self._engine, None
            if engine is None:
                return
            _open_here.discard(self)
            try:
                with engine_errors("close", self.directory.name):
                    if self._panic is None and self._copy is None:
                        _close_in_order(engine, self.directory, self._before)
                    else:
                        engine.close()
            finally:
                self._hold.release()


_open_here: weakref.WeakSet[Shard] = weakref.WeakSet()


def _forget_in_child() -> None:
    """Keep a forked child from destroying its copies of the parent's engines.

    At the child's normal end Python would destroy them, and the engine's destructor flushes: old
    data over the parent's newer files, or a wait for threads that the child doesn't have.
    """
    for shard in _open_here:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(shard._engine))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


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
    space.need(directory, "create")
    edge.EdgeShard.create(str(directory / SHARD), shard_config(config)).close()


def check_shard(directory: Path) -> None:
    """Open the collection in `directory`, which is nobody else's yet, and close it.

    Raises:
        StoreDamagedError: it isn't whole.
    """
    engine, before = _open(directory, configuration.read(directory))
    _close_in_order(engine, directory, before)


def _open(
    directory: Path, config: models.CreateCollection
) -> tuple[edge.EdgeShard, closed.Record | None]:
    """The engine, and what the files were like at the last closing."""
    record = closed.read(directory)
    if record is None:
        # the engine replays its log, which fills holes in its files
        space.need(directory, "recover")
        engine = _load(directory, config)
        with engine_errors("recover", directory.name):
            # before anybody sees it: replaying several operations over what an interrupted flush
            # left of the last one has lost payloads that were there after the crash before
            engine.flush()
        return engine, None
    closed.check(directory, record)
    closed.remove(directory)
    try:
        engine = _load(directory, config)
        try:
            with engine_errors("open", directory.name):
                closed.check_content(directory, record, *_content(engine))
        except BaseException:
            engine.close()
            raise
    except BaseException:
        # the next opening shall not find it in order; a file or two may have been written anew
        with contextlib.suppress(OSError):
            found = closed.survey(directory, record.points, record.indexes, record)
            closed.write(directory, found)
        raise
    return engine, record


def _open_copy(copy: Copy, directory: Path, config: models.CreateCollection) -> edge.EdgeShard:
    engine = _load(copy.directory, config, directory)
    try:
        if copy.record is None:
            with engine_errors("recover", directory.name):
                engine.flush()
        else:
            with engine_errors("open", directory.name):
                closed.check_content(directory, copy.record, *_content(engine))
    except BaseException:
        engine.close()
        raise
    return engine


def _close_in_order(engine: edge.EdgeShard, directory: Path, before: closed.Record | None) -> None:
    try:
        content = _content(engine)
    finally:
        engine.close()
    with contextlib.suppress(OSError):  # without the record the next opening just compares less
        closed.write(directory, closed.survey(directory, *content, before))


def _content(engine: edge.EdgeShard) -> tuple[int, list[str]]:
    """The number of points, and the indexed payload fields."""
    return engine.count(edge.CountRequest(exact=True)), sorted(engine.info().payload_schema)


def _last_number(directory: Path) -> int | None:
    """The number of the last update that was flushed, by the engine's log; None: it can't say."""
    try:
        content = json.loads((directory / SHARD / "wal/first-index").read_text("utf-8"))
        return int(content["ack_index"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _settled(directory: Path, files: Path) -> models.CreateCollection:
    """The configuration, or the one that follows where the engine's data has its vectors."""
    config, following = configuration.read(directory), configuration.read_next(directory)
    if following is None:
        return config
    names = _engine_names(files)
    return following if names == _names(following) != _names(config) else config


def _names(config: models.CreateCollection) -> set[str]:
    return {*named_vectors(config.vectors), *(config.sparse_vectors or {})}


def _engine_names(files: Path) -> set[str]:
    content = _engine_content(files)
    vectors, sparse = content.get("vectors") or {}, content.get("sparse_vectors") or {}
    return {*vectors, *sparse} - {NO_VECTORS}


def _engine_content(files: Path) -> dict[str, Any]:
    """The engine's own file of its configuration; empty where it can't be read."""
    try:
        content = json.loads((files / SHARD / "edge_config.json").read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}
    except (OSError, ValueError):
        return {}


def _drop_quantization(files: Path) -> None:
    """The engine keeps what its file says where it is told of none."""
    content = _engine_content(files)
    if content.pop("quantization_config", None) is not None:
        write_whole(files / SHARD / "edge_config.json", json.dumps(content).encode())


def _main_vector(config: models.CreateCollection) -> str | None:
    vectors = config.vectors if isinstance(config.vectors, dict) else {"": config.vectors}
    for name, vector in vectors.items():
        if vector is None or vector.multivector_config is not None:
            continue
        m = next(
            (
                hnsw.m
                for hnsw in (vector.hnsw_config, config.hnsw_config)
                if hnsw is not None and hnsw.m is not None
            ),
            None,
        )
        if m != 0:
            return name
    return None


def _load(
    files: Path, config: models.CreateCollection, directory: Path | None = None
) -> edge.EdgeShard:
    """Load the data among `files`, which are a copy of those in `directory`, or its own."""
    directory = files if directory is None else directory
    shard = files / SHARD
    # without its segments the engine would open an empty collection, and say nothing
    if not (shard / "edge_config.json").is_file() or not any(shard.glob("segments/*")):
        raise StoreDamagedError(
            f"{directory / SHARD} holds no data of the embedded engine: restore the files"
        )
    try:
        # Naming the configuration makes the engine compare it with the data. A configuration of
        # other data would let through what the checks are there to stop.
        without = NO_VECTORS in (_engine_content(files).get("sparse_vectors") or {})
        return edge.EdgeShard.load(str(shard), shard_config(config, no_vectors=without))
    except BaseException as error:
        if not _from_engine(error):
            raise
        if "WouldBlock" in str(error):
            raise foreign_lock_error(directory) from error
        reason = _first_line(error).replace(str(files), str(directory))
        raise StoreDamagedError(
            f"{directory} can't be opened ({reason}): its files are damaged, or of "
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
            advice = (
                " (the engine panicked, over a damaged file or a fault of its own: close this "
                "store and open it again)"
            )
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
