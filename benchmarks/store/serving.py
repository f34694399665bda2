"""A process for one choice: it builds the collection, or opens and serves it, and measures itself.

Apart from the others, so that its memory is its own. One process builds and another serves, but
for in-memory mode, whose collection dies with its process.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import time
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.store.choices import PATIENCE, Choice
from benchmarks.store.texts import Files, Texts

_COLLECTION = "measured"
_SLICE = 256  # documents that are lifted, and then written, at a time

COMPONENTS = "weighted, components"
ONE_REQUEST = "weighted, one request"


@dataclass(frozen=True)
class Task:
    """What a worker works on."""

    choice: Choice
    texts: Texts
    files: Files
    directory: Path
    width: int
    limit: int
    candidates: int


class Side:
    """The worker's side: each public method is a step that the suite may ask for."""

    def __init__(self, task: Task) -> None:
        """Load everything that isn't to be measured."""
        # imported here: the suite's process needs none of it
        from benchmarks.store.texts import lift
        from m3qdrant import M3Embeddings, M3Schema
        from m3qdrant.store import M3Store

        self._task = task
        self._lift = lift
        self._store_class = M3Store
        self._schema = M3Schema(**task.choice.options)
        queries = lift(M3Embeddings.load(task.files.queries), task.width)
        self._queries = [queries[i] for i in range(len(queries))]
        self._positions = {item.id: i for i, item in enumerate(task.texts.documents)}
        self._store: Any = None
        self._layout: Any = None
        self._before = 0

    @property
    def _location(self) -> str | Path:
        return ":memory:" if self._task.choice.engine == "memory" else self._task.directory

    def _open(self) -> float:
        gc.collect()
        self._before = _own_bytes()
        start = time.perf_counter()
        self._store = self._store_class(self._location, _COLLECTION, schema=self._schema)
        return time.perf_counter() - start

    def build(self) -> dict[str, Any]:
        """Write all documents and build the indexes; close what can be opened again."""
        from m3qdrant import IngestReport, M3Embeddings

        documents = self._task.texts.documents
        embeddings = M3Embeddings.load(self._task.files.documents)
        self._open()
        store = self._store
        seconds, stored, tokens = 0.0, 0, 0
        for start in range(0, len(documents), _SLICE):
            lifted = self._lift(embeddings[start : start + _SLICE], self._task.width)
            begun = time.perf_counter()
            report: IngestReport = store.add(
                documents[start : start + _SLICE], embeddings=lifted, optimize=False
            )
            seconds += time.perf_counter() - begun
            report.raise_for_failed()
            stored += report.stored
            tokens += report.tokens
        begun = time.perf_counter()
        store.optimize()
        optimize = time.perf_counter() - begun
        built: dict[str, Any] = {
            "documents": stored,
            "tokens": tokens,
            "write_s": seconds,
            "optimize_s": optimize,
        }
        if self._task.choice.engine == "embedded":
            store.close()
            built["disk_bytes"] = _disk_bytes(self._task.directory, "**/*")
            built["log_bytes"] = _disk_bytes(self._task.directory, "*/shard/wal/*")
        return built

    def open(self) -> dict[str, Any]:
        """Open the collection with cold files; the seconds until it answers, and until it found.

        In-memory mode has been built in this process and stays as it is.
        """
        from m3qdrant.collection import Layout

        opened: dict[str, Any] = {}
        if self._task.choice.engine == "embedded":
            _evict(self._task.directory)
            opened["reopen_s"] = self._open()
        self._layout = Layout.read(self._store.client.get_collection(_COLLECTION))
        (opened["first_search_s"],) = self.time("weighted", [0])
        return opened

    def memory(self) -> dict[str, int]:
        """Bytes of memory that the collection takes.

        "own" is what the process has grown by since before it was opened; "mapped" is what lies in
        memory of the collection's files, their log left out, which the kernel can take back and
        read again.
        """
        gc.collect()
        return {
            "own": _own_bytes() - self._before,
            "mapped": _mapped_bytes(self._task.directory),
        }

    def find(self, mode: str, queries: list[int]) -> list[list[tuple[int, float, Any]]]:
        """For each query its hits: the document's position, the score, the component scores."""
        return [
            [(self._positions[hit.id], hit.score, dict(hit.scores)) for hit in self._ask(mode, i)]
            for i in queries
        ]

    def time(self, mode: str, queries: list[int]) -> list[float]:
        """The seconds of each query."""
        seconds = []
        for i in queries:
            start = time.perf_counter()
            self._ask(mode, i)
            seconds.append(time.perf_counter() - start)
        return seconds

    def _ask(self, mode: str, query: int) -> Any:
        task, embedded = self._task, self._queries[query]
        if mode == ONE_REQUEST:
            from benchmarks.store.forms import one_request

            return one_request(
                self._store.client,
                _COLLECTION,
                self._layout,
                embedded,
                limit=task.limit,
                candidates=task.candidates,
            )
        name, _, components = mode.partition(", ")
        return self._store.search(
            embedded, name, task.limit, task.candidates, components=bool(components)
        )

    def close(self) -> None:
        """Close the collection."""
        if self._store is not None:
            self._store.close()


class Failed(Exception):  # noqa: N818  (a step of a choice, not of the run)
    """A step failed; the message says why."""


class TooSlow(Failed):
    """A step took longer than it may."""


class Worker:
    """The suite's side. A context manager; leaving it ends the process."""

    def __init__(self, task: Task) -> None:
        """Start the process."""
        # A fresh process: the engine doesn't survive a fork, nor do torch's threads.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, task), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Worker:
        """The worker itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the collection, and end the process."""
        if self._process.is_alive():
            with contextlib.suppress(OSError):
                self._connection.send(("close", ()))
        self._process.join(60)
        self._end()

    def ask(self, step: str, *arguments: Any, patience: float = PATIENCE) -> Any:
        """The answer of a step of `Side`.

        Raises:
            TooSlow: it took more than `patience` seconds; the process is gone.
            Failed: it failed, or the process died.
        """
        try:
            self._connection.send((step, arguments))
            if not self._connection.poll(patience):
                self._end()
                raise TooSlow(f"{step}: not done in {patience:g} s")
            kind, answer = self._connection.recv()
        except (EOFError, OSError):
            self._process.join(20)
            raise Failed(f"{step}: the process ended ({self._process.exitcode})") from None
        if kind == "failed":
            raise Failed(f"{step}: {answer}")
        return answer

    def _end(self) -> None:
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._connection.close()


def _work(connection: Connection, task: Task) -> None:
    side: Side | None = None
    while True:
        try:
            step, arguments = connection.recv()
        except EOFError:
            return
        try:
            side = side or Side(task)
            answer = ("ok", getattr(side, step)(*arguments))
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            answer = ("failed", f"{type(error).__name__}: {error} ({last.name})")
        if step == "close":
            return
        connection.send(answer)


def _own_bytes() -> int:
    """Resident bytes of this process that belong to no file."""
    (line,) = (
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("RssAnon:")
    )
    return int(line.split()[1]) * 1024


def _mapped_bytes(directory: Path) -> int:
    """Resident bytes of this process that are pages of a collection's files in `directory`."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *rest = line.split(maxsplit=5)
        if not first.endswith(":"):  # a mapping's first line: addresses, flags, ..., the path
            path = rest[4] if len(rest) == 5 else ""
            ours = path.startswith(f"{directory}{os.sep}") and "/wal/" not in path
        elif ours and first == "Rss:":
            total += int(rest[0]) * 1024
    return total


def _disk_bytes(directory: Path, pattern: str) -> int:
    """Bytes that the matching files occupy; the holes in them occupy none."""
    return sum(path.stat().st_blocks * 512 for path in directory.glob(pattern) if path.is_file())


def _evict(directory: Path) -> None:
    """Write the files out and drop them from the page cache, as if they had not been used."""
    for path in directory.rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            try:
                os.fsync(file)
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(file)
