"""The proof: run 1 gets SIGINT, run 2 SIGKILL, run 3 ends, run 4 finds nothing to do."""

from __future__ import annotations

import contextlib
import datetime
import json
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks import ROOT, machine
from benchmarks.ingest import run_lines
from benchmarks.ingest.child import COLLECTION, EVERY, MODEL
from benchmarks.ingest.documents import checksum, documents, sentences
from benchmarks.ingest.runs import Run, Sample
from m3qdrant import M3Encoder, M3Store
from m3qdrant.demo import stdlib_docstrings

Result = dict[str, Any]

DOCUMENTS = 100_000
QUICK = 2_000

_PACKAGES = ("qdrant-client", "qdrant-edge-py", "transformers")
_SENTENCES, _STORE = "sentences.json", "store"
_PERIOD = 0.2  # seconds between two looks at a process's memory
_SAMPLES = 200  # that the JSON file keeps of a run
_SEARCHED = 25  # documents that are searched by their own texts at the end
_EXACT = 2e-3  # of a document's score with itself: float16


def run(
    n: int,
    *,
    quick: bool,
    location: Path | None = None,
    seed: int | None = None,
    revision: str | None = None,
    say: Callable[[str], None] = print,
) -> Result:
    """Ingest `n` documents in four runs and return the JSON document.

    Args:
        n: how many.
        quick: noted in the result.
        location: an existing directory for the collection; a temporary one by default.
        seed: of the draw of documents that are searched at the end.
        revision: the commit, for a copy without its history.
        say: told what is going on.

    Raises:
        ValueError: so few that a process would be done before it is stopped.
    """
    if n < 12 * EVERY:
        raise ValueError(f"{n} documents are written before anything can stop it; {12 * EVERY}")
    seed = secrets.randbelow(2**31) if seed is None else seed
    started = time.monotonic()
    result: Result = {
        "suite": "ingest",
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "quick": quick,
        "seed": seed,
        "commit": machine.commit(revision),
        "load": machine.load(),
        "machine": machine.describe(torch.device("cpu")),
        "versions": machine.versions(*_PACKAGES),
        "model": MODEL,
        "documents": n,
    }
    say(run_lines.header(result))
    with tempfile.TemporaryDirectory(prefix="m3qdrant-benchmark-", dir=location) as place:
        found = sentences(stdlib_docstrings())
        (Path(place) / _SENTENCES).write_text(json.dumps(found))
        runs = []
        for stop, at in (
            (signal.SIGINT, n // 3),
            (signal.SIGKILL, 2 * n // 3),
            (None, 0),
            (None, 0),
        ):
            runs.append(ingest(n, Path(place), stop, at))
            say(run_lines.line(runs[-1], n))
        result["runs"] = [_as_row(item) for item in runs]
        result["outcome"] = _look(n, found, Path(place), seed)
        result["wrong"] = [*_unaccounted(n, runs), *_incomplete(n, result["outcome"])]
    result["load_after"] = machine.load()
    result["seconds"] = round(time.monotonic() - started, 1)
    say(run_lines.outcome(result))
    return result


def failures(result: Result) -> list[str]:
    """Return what did not come out as it should."""
    wrong: list[str] = result["wrong"]
    return wrong


def write(result: Result, folder: Path) -> Path:
    """Write the JSON file into `folder` and return its path."""
    quick = "-quick" if result["quick"] else ""
    name = f"ingest{quick}-{machine.slug(result['machine']['name'])}-{result['date']}.json"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path


def ingest(n: int, place: Path, stop: signal.Signals | None, at: int) -> Run:
    """Run the child in `place`; send it `stop` when it has read `at` documents."""
    done = Run("by itself" if stop is None else f"by {stop.name}")
    started = ingesting = time.perf_counter()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "benchmarks.ingest.child",
            str(n),
            place / _SENTENCES,
            place / _STORE,
        ],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    over = threading.Event()
    sampler = threading.Thread(target=_sample, args=(process.pid, done, started, over))
    sampler.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            told = json.loads(line)
            if "opened" in told:
                done.opened_s, done.found = told["opened"], told["count"]
                ingesting = time.perf_counter()
            elif "read" in told:
                done.read = told["read"]
                if stop is not None and done.read >= at:
                    done.seconds = time.perf_counter() - ingesting
                    process.send_signal(stop)
                    stop = None
            else:
                done.report, done.seconds = told["report"], told["seconds"]
        done.exit = process.wait()
    finally:
        over.set()
        sampler.join()
        if process.poll() is None:
            process.kill()
            process.wait()
    return done


def _sample(pid: int, into: Run, started: float, over: threading.Event) -> None:
    while not over.wait(_PERIOD):
        # a process that has just ended has no memory to look at
        with contextlib.suppress(OSError, KeyError):
            status = dict(
                line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            )
            own, mapped, peak = (
                int(status[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile", "VmHWM")
            )
            into.peak = max(into.peak, peak)
            into.samples.append(
                Sample(round(time.perf_counter() - started, 2), into.read, own, mapped)
            )


def _look(n: int, found: list[str], place: Path, seed: int) -> dict[str, Any]:
    """What the collection holds at the end."""
    encoder = M3Encoder.from_pretrained(MODEL, device="cpu")
    rng = random.Random(seed)
    chosen = set(rng.sample(range(n), _SEARCHED))
    asked = [item for i, item in enumerate(documents(n, found)) if i in chosen]
    started = time.perf_counter()
    with M3Store(place / _STORE, COLLECTION, encoder, create=False) as store:
        opened = time.perf_counter() - started
        return {
            "opened_s": opened,
            "count": store.count(),
            "checksum": checksum(store.documents()),
            "expected_checksum": checksum(documents(n, found)),
            "searched": len(asked),
            "not_found": [item.id for item in asked if not _finds(store, encoder, item)],
            "disk_bytes": _disk_bytes(place / _STORE),
        }


def _finds(store: M3Store, encoder: M3Encoder, item: Any) -> bool:
    """Whether a document is the best for its own text, with the scores of a text with itself."""
    from m3qdrant import scoring

    own = encoder.encode_queries([item.text])
    (hit,) = store.search(own, "dense", limit=1, exact=True)
    expected = {
        "dense": float(scoring.dense(own, own)),
        "sparse": float(scoring.lexical(own, own)),
        "colbert": float(scoring.colbert(own, own)),
    }
    return hit.id == item.id and all(
        abs(hit.scores[name] - score) <= _EXACT for name, score in expected.items()
    )


def _unaccounted(n: int, runs: list[Run]) -> list[str]:
    """What the four runs' reports don't explain."""
    interrupted, killed, finished, again = runs
    wrong = []
    if interrupted.exit != 130 or interrupted.report is None:
        wrong.append(f"SIGINT: exit status {interrupted.exit} instead of 130 and a report")
    elif killed.found != interrupted.report["added"]:
        wrong.append(
            f"SIGINT: the report has {interrupted.report['added']} added, {killed.found} are there"
        )
    if killed.exit != -signal.SIGKILL:
        wrong.append(f"SIGKILL: exit status {killed.exit}; it was not killed in time")
    if finished.found < killed.acknowledged:
        wrong.append(
            f"SIGKILL: {killed.acknowledged} documents were written, {finished.found} are there"
        )
    for name, item, added in (
        ("run 3", finished, n - finished.found),
        ("run 4", again, 0),
    ):
        if item.exit != 0 or item.report is None:
            wrong.append(f"{name}: exit status {item.exit}")
            continue
        told = {key: item.report[key] for key in ("received", "added", "unchanged", "replaced")}
        expected = {"received": n, "added": added, "unchanged": n - added, "replaced": 0}
        if told != expected or item.report["failed"]:
            wrong.append(f"{name}: its report has {told}, expected {expected}")
    return wrong


def _incomplete(n: int, outcome: dict[str, Any]) -> list[str]:
    wrong = []
    if outcome["count"] != n:
        wrong.append(f"{outcome['count']} documents are there, not {n}")
    if outcome["checksum"] != outcome["expected_checksum"]:
        wrong.append("the documents are not those that were given: their checksum differs")
    if outcome["not_found"]:
        wrong.append(f"not found by their own texts: {', '.join(outcome['not_found'])}")
    return wrong


def _as_row(item: Run) -> dict[str, Any]:
    """A run for the JSON file, with fewer samples, the highest among them."""
    row = asdict(item)
    step = max(1, -(-len(item.samples) // _SAMPLES))
    kept = [
        max(item.samples[i : i + step], key=lambda sample: sample.own)
        for i in range(0, len(item.samples), step)
    ]
    row["peak_own"] = max((sample.own for sample in item.samples), default=0)
    row["samples"] = [asdict(sample) for sample in kept]
    return row


def _disk_bytes(directory: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*") if path.is_file())
