"""The store suite: build every choice, verify it, then time the choices beside the default."""

from __future__ import annotations

import datetime
import json
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch

from benchmarks import machine
from benchmarks.store import choice_tables, peers
from benchmarks.store import server as server_suite
from benchmarks.store.agreement import Found, judge, same_lists
from benchmarks.store.choices import DEFAULT, Choice, Engine, choose
from benchmarks.store.oracle import CANDIDATES, LIMIT, Oracle
from benchmarks.store.serving import (
    COMPONENTS,
    ONE_REQUEST,
    Failed,
    Task,
    TooSlow,
    Worker,
)
from benchmarks.store.texts import MODEL, WIDTH, draw, encoded, lift
from benchmarks.timing import quantile
from m3qdrant import M3Embeddings
from m3qdrant.demo import stdlib_docstrings
from m3qdrant.encode.pooling import pool_tokens
from m3qdrant.limits import MULTIVECTOR_LIMIT
from m3qdrant.names import MODES

Result = dict[str, Any]
Row = dict[str, Any]
Pair: TypeAlias = tuple[Task, Row]

TIMED = (*MODES, COMPONENTS, ONE_REQUEST)
"""What is timed: the modes without component scores, one with them, and the other form of it."""

_PACKAGES = ("qdrant-client", "qdrant-edge-py", "numpy")

# Choices that are served, and timed in turn, at a time, the default included: each of them holds
# its collection in memory.
_TOGETHER = 4
_BLOCK = 5  # queries between two turns


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    documents: int
    queries: int
    memory_queries: int  # in-memory mode takes a second a query
    rounds: int


FULL = Size(documents=1_000_000, queries=32, memory_queries=8, rounds=2)
QUICK = Size(documents=300, queries=10, memory_queries=4, rounds=1)


def run(
    *,
    quick: bool,
    documents: int | None = None,
    engine: Engine | None = None,
    patterns: list[str] | None = None,
    seed: int | None = None,
    revision: str | None = None,
    width: int = WIDTH,
    folder: Path | None = None,
    every_choice: bool = True,
    server: str | None = None,
    beside_peers: bool = False,
    say: Callable[[str], None] = print,
) -> Result:
    """Measure and return the JSON document.

    Args:
        quick: few documents and queries: does everything run and agree?
        documents: how many docstrings; all of them by default.
        engine: measure the choices of this engine only, beside the default.
        patterns: measure the choices whose names match only, beside the default.
        seed: of the draw of documents and queries.
        revision: the commit, for a copy without its history.
        width: numbers a vector.
        folder: where the collections lie while they are measured; a temporary one by default.
        every_choice: measure the choices; else only what comes behind them.
        server: a server's URL, to be written to and read from beside qdrant-client.
        beside_peers: measure the embedded store beside what is installed of other stores.
        say: told what is going on, and the tables.

    Raises:
        ValueError: no choice matches, or nothing is to be measured.
    """
    chosen = choose(engine, patterns) if every_choice else []
    if not (chosen or server or beside_peers):
        raise ValueError("nothing to measure: set QDRANT_URL, or give --peers")
    size = QUICK if quick else FULL
    most = size.documents if every_choice else min(size.documents, peers.DOCUMENTS)
    size = replace(size, documents=documents or most)
    seed = secrets.randbelow(2**31) if seed is None else seed
    started = time.monotonic()
    texts = draw(stdlib_docstrings(), size.documents, size.queries, seed)
    result: Result = {
        "suite": "store",
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "quick": quick,
        "seed": seed,
        "commit": machine.commit(revision),
        "load": machine.load(),
        "machine": machine.describe(torch.device("cpu")),
        "versions": machine.versions(*_PACKAGES),
        "model": MODEL,
        "width": width,
        "documents": len(texts.documents),
        "queries": len(texts.queries),
        "limit": LIMIT,
        "candidates": CANDIDATES,
    }
    with (
        tempfile.TemporaryDirectory(prefix="m3qdrant-benchmark-", dir=folder) as place,
        encoded(texts) as (files, views, queries),
    ):
        tokens = views.colbert
        assert tokens is not None
        result["tokens"] = len(tokens.vectors)
        say(choice_tables.header(result))
        tasks = [
            Task(choice, texts, files, Path(place) / str(i), width, LIMIT, CANDIDATES)
            for i, choice in enumerate(chosen)
        ]
        oracles = _Oracles(queries, views, width)
        result["choices"] = _measure(tasks, size, oracles, say) if tasks else []
        if beside_peers:
            wide = lift(views, width), lift(queries, width)
            result["peers"] = peers.measure(texts, *wide, folder, say)
    if server:
        result["server"] = server_suite.measure(server, quick=quick, seed=seed)
    result["load_after"] = machine.load()
    result["seconds"] = round(time.monotonic() - started, 1)
    say(choice_tables.tables(result))
    if beside_peers:
        say(peers.table(result["peers"]))
    if server:
        say(server_suite.table(result["server"]))
    return result


def failures(result: Result) -> list[str]:
    """Return which choices were wrong or did not run; one that is too slow to build isn't."""
    return [
        f"{row['name']}: {row['reason']}"
        for row in [*result["choices"], *result.get("peers", ())[:1]]  # of the peers only ours
        if row["status"] not in ("ok", "too slow")
    ]


def write(result: Result, folder: Path) -> Path:
    """Write the JSON file into `folder` and return its path."""
    quick = "-quick" if result["quick"] else ""
    what = "store" if result["choices"] else "beside"
    name = f"{what}{quick}-{machine.slug(result['machine']['name'])}-{result['date']}.json"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path


class _Oracles:
    """Exact scores, of the embeddings as they are, and as `token_pooling` merges them."""

    def __init__(self, queries: M3Embeddings, documents: M3Embeddings, width: int) -> None:
        self._queries = queries
        self._documents = documents
        self._limit = (MULTIVECTOR_LIMIT - 1) // width
        self.exact = Oracle.of(queries, documents)

    def stored(self, choice: Choice) -> Oracle:
        """Exact scores of what a choice stores."""
        factor = choice.options.get("token_pooling", 1)
        if factor == 1:
            return self.exact
        assert self._documents.colbert is not None
        merged = replace(
            self._documents,
            colbert=pool_tokens(self._documents.colbert, factor=factor, limit=self._limit),
        )
        return Oracle.of(self._queries, merged)


def _measure(
    tasks: Sequence[Task], size: Size, oracles: _Oracles, say: Callable[[str], None]
) -> list[Row]:
    """Build, verify and time; a group of choices at a time, so that the disk need not hold all."""
    default, *others = ((task, _row(task.choice)) for task in tasks)
    samples: dict[str, list[float]] = {what: [] for what in TIMED}
    for group in _groups(default, others):
        for task, row in group:
            if "write" not in row and task.choice.engine == "embedded":
                _build(task, row)
                say(choice_tables.built(row))
        _serve([pair for pair in group if pair[1]["status"] == "ok"], size, oracles, samples)
        for task, row in group:
            say(choice_tables.served(row))
            if task.choice != DEFAULT:
                shutil.rmtree(task.directory, ignore_errors=True)
    if default[1]["status"] == "ok":
        default[1]["times"] = {what: _summary(seconds) for what, seconds in samples.items()}
    return [row for _, row in (default, *others)]


def _row(choice: Choice) -> Row:
    return {
        "name": choice.name,
        "engine": choice.engine,
        "options": dict(choice.options),
        "status": "ok",
    }


def _groups(default: Pair, others: Sequence[Pair]) -> Iterator[list[Pair]]:
    """The default with a few others each time; in-memory mode has it for itself."""
    memory = [pair for pair in others if pair[0].choice.engine == "memory"]
    embedded = [pair for pair in others if pair[0].choice.engine != "memory"]
    for start in range(0, len(embedded), _TOGETHER - 1):
        yield [default, *embedded[start : start + _TOGETHER - 1]]
    for pair in memory:
        yield [default, pair]
    if not others:
        yield [default]


def _build(task: Task, row: Row) -> None:
    with _noting(row), Worker(task) as worker:
        row["write"] = worker.ask("build", patience=task.choice.patience)


def _serve(
    group: Sequence[Pair], size: Size, oracles: _Oracles, samples: dict[str, list[float]]
) -> None:
    """Open, verify and time the choices of a group, side by side."""
    with ExitStack() as stack:
        workers: list[tuple[Task, Row, Worker]] = []
        slow = any(task.choice.engine == "memory" for task, _ in group)
        queries = list(range(size.memory_queries if slow else size.queries))
        for task, row in group:
            with _noting(row):
                worker = stack.enter_context(Worker(task))
                if task.choice.engine == "memory":
                    row["write"] = worker.ask("build")
                opened = worker.ask("open")
                _verify(worker, task, row, queries, oracles)
                row |= {**opened, **row, "memory_bytes": worker.ask("memory")}
                workers.append((task, row, worker))
        fit = [entry for entry in workers if entry[1]["status"] == "ok"]
        beside = _times([worker for _, _, worker in fit], queries, 1 if slow else size.rounds)
        base: dict[str, list[float]] = {}  # stays so where the default itself is wrong
        for (task, row, _), times in zip(fit, beside, strict=True):
            if task.choice == DEFAULT:
                base = times
                for what, seconds in times.items():
                    samples[what] += seconds
            else:
                row["times"] = {what: _summary(seconds) for what, seconds in times.items()}
                row["default_times"] = {what: _summary(seconds) for what, seconds in base.items()}


def _verify(worker: Worker, task: Task, row: Row, queries: list[int], oracles: _Oracles) -> None:
    """Note errors and recall; a choice that is wrong is not timed."""
    if "recall" in row:
        return  # the default, in a later group
    answers: dict[str, Sequence[Found]] = {
        mode: worker.ask("find", f"{mode}, components", queries) for mode in MODES
    }
    verdict = judge(
        answers,
        queries,
        task.texts.answers,
        oracles.exact,
        oracles.stored(task.choice),
        task.choice.tolerances(),
    )
    difference = same_lists(answers["weighted"], worker.ask("find", ONE_REQUEST, queries))
    if difference is not None:
        verdict.wrong.append(f"weighted in one request and in two: {difference}")
    row |= {"queries": len(queries), **asdict(verdict)}
    if verdict.wrong:
        row |= {"status": "wrong", "reason": verdict.wrong[0]}


def _times(
    workers: Sequence[Worker], queries: list[int], rounds: int
) -> list[dict[str, list[float]]]:
    """The seconds of each query, in each way, of each worker; a block of queries at a time.

    Workers take turns, so that a slow minute of the machine hits all alike; each turn starts with
    another one.
    """
    times: list[dict[str, list[float]]] = [{what: [] for what in TIMED} for _ in workers]
    turn = 0
    for _ in range(rounds):
        for start in range(0, len(queries), _BLOCK):
            for what in TIMED:
                for k in range(len(workers)):
                    i = (turn + k) % len(workers)
                    times[i][what] += workers[i].ask("time", what, queries[start : start + _BLOCK])
                turn += 1
    return times


def _summary(seconds: Sequence[float]) -> dict[str, float | int]:
    ordered = sorted(seconds)
    return {
        "p50_s": quantile(ordered, 0.5),
        "p95_s": quantile(ordered, 0.95),
        "repeats": len(ordered),
    }


@contextmanager
def _noting(row: Row) -> Iterator[None]:
    """A choice that fails costs its own row and nothing else."""
    try:
        yield
    except TooSlow as error:
        row |= {"status": "too slow", "reason": str(error)}
    except Failed as error:
        row |= {"status": "fails", "reason": str(error)}
