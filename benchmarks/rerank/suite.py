"""``python -m benchmarks rerank``: candidates scored, and corpora searched whole."""

from __future__ import annotations

import datetime
import json
import secrets
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine
from benchmarks.rerank import corpus, draws
from benchmarks.rerank.draws import COLLECTION, Shape
from benchmarks.rerank.exact import disagreement, maxsim
from benchmarks.rerank.scorers import scorers
from benchmarks.tables import aligned, digits
from benchmarks.timing import clock_for, in_turn, quantile
from m3qdrant import M3Store

__all__ = ["CANDIDATES", "QUERIES", "failures", "run", "write"]

Result = dict[str, Any]

CANDIDATES = (100, 1_000, 10_000)
QUERIES = (1, 16, 128)
_QUICK = (30,), (1, 4), Shape(64, 12, 6)
_SIZES = (1_000, 5_000, 20_000)
_PAIRS = 200_000
"""More pairs of a query and a candidate than this take minutes a call on a CPU: left out there."""
_BUDGET_S = {True: 0.3, False: 20.0}  # by whether it is quick
_PACKAGES = ("qdrant-client", "qdrant-edge-py", "numpy", "sentence-transformers")


def run(
    *,
    quick: bool,
    sizes: Sequence[int] | None = None,
    seed: int | None = None,
    revision: str | None = None,
    folder: Path | None = None,
    say: Callable[[str], None] = print,
) -> Result:
    """Measure, and return the JSON document.

    Args:
        quick: few and small documents: does everything run and agree?
        sizes: documents of the resident corpora.
        seed: of the draws.
        revision: the commit, for a copy without its history.
        folder: where collections lie meanwhile.
        say: told what is going on.
    """
    seed = secrets.randbelow(2**20) if seed is None else seed
    candidates, batches, shape = _QUICK if quick else (CANDIDATES, QUERIES, Shape())
    sizes = list(sizes or ((40, 80) if quick else _SIZES))
    started = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    result: Result = {
        "suite": "rerank",
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "quick": quick,
        "seed": seed,
        "commit": machine.commit(revision),
        "load": machine.load(),
        "machine": machine.describe(device),
        "versions": machine.versions(*_PACKAGES),
        "shape": vars(shape),
    }
    with tempfile.TemporaryDirectory(prefix="m3qdrant-benchmark-", dir=folder) as place:
        result["candidates"] = _candidates(
            Path(place), shape, candidates, batches, seed, _BUDGET_S[quick], say
        )
        say(_table(result["candidates"]))
        say("A whole corpus, resident")
        repeats = 3 if quick else 20
        result["corpora"] = corpus.measure(Path(place), shape, sizes, batches, repeats, seed, say)
    result["load_after"] = machine.load()
    result["seconds"] = round(time.monotonic() - started, 1)
    return result


def failures(result: Result) -> list[str]:
    """What of ours was wrong."""
    wrong = [
        f"{case['queries']} x {case['candidates']}: {row['name']}: {row['reason']}"
        for case in result["candidates"]
        for row in case["rows"]
        if row["status"] == "wrong" and row["name"].startswith(("m3kernels", "M3"))
    ]
    return wrong + [
        f"a corpus of {row['documents']} as {row['held']}: {row['reason']}"
        for row in result["corpora"]
        if row["status"] != "ok"
    ]


def write(result: Result, folder: Path) -> Path:
    """Write the JSON file into `folder` and return its path."""
    quick = "-quick" if result["quick"] else ""
    name = f"rerank{quick}-{machine.slug(result['machine']['name'])}-{result['date']}.json"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path


def _candidates(
    folder: Path,
    shape: Shape,
    candidates: Sequence[int],
    batches: Sequence[int],
    seed: int,
    budget_s: float,
    say: Callable[[str], None],
) -> list[Result]:
    clock = clock_for(torch.device("cpu"))
    cases = []
    place = folder / "candidates"
    draws.build(place, shape, max(candidates), seed)
    with M3Store(place, COLLECTION) as store:
        for n in candidates:
            embedded = draws.documents(shape, 0, n, seed)
            assert embedded.colbert is not None
            rounded = embedded.colbert.vectors.half().float()
            embedded.colbert.vectors.copy_(rounded)
            ids = [f"d{i:07}" for i in range(n)]
            for m in batches:
                if m * n > _PAIRS:
                    continue
                asked = draws.queries(shape, m, seed)
                assert asked.colbert is not None
                right = maxsim(list(asked.colbert), list(embedded.colbert))
                rows: list[Result] = []
                runs, estimates = {}, {}
                for name, (score, tolerance, note) in scorers(store, asked, embedded, ids).items():
                    row: Result = {"name": name, "status": "ok", "note": note}
                    rows.append(row)
                    if score is None:
                        row |= {"status": "not installed"}
                        continue
                    begun = time.perf_counter()
                    try:
                        wrong = disagreement(score(), right, tolerance)
                    except Exception as error:  # one that fails costs its own row
                        row |= {"status": "fails", "reason": f"{type(error).__name__}: {error}"}
                        continue
                    if wrong is not None:
                        row |= {"status": "wrong", "reason": wrong}
                        continue
                    runs[name], estimates[name] = score, time.perf_counter() - begun
                samples = in_turn(
                    clock,
                    runs,
                    estimates,
                    budget=budget_s,
                    repeats=(3, 30),
                    before=lambda name: None,
                )
                for row in rows:
                    if row["name"] in samples:
                        seconds = sorted(samples[row["name"]])
                        row |= {
                            "p50_s": quantile(seconds, 0.5),
                            "p95_s": quantile(seconds, 0.95),
                            "repeats": len(seconds),
                        }
                cases.append({"candidates": n, "queries": m, "rows": rows})
                say(f"{m} queries, {n} candidates")
    return cases


def _table(cases: Sequence[Result]) -> str:
    lines = ["", "Candidates scored by MaxSim, in ms: p50 (p95)"]
    names = [row["name"] for row in cases[0]["rows"]]
    cells = [("", *(f"{case['queries']} x {case['candidates']}" for case in cases))]
    for i, name in enumerate(names):
        shown = []
        for case in cases:
            row = case["rows"][i]
            shown.append(
                f"{digits(row['p50_s'] * 1e3)} ({digits(row['p95_s'] * 1e3)})"
                if row["status"] == "ok"
                else row["status"]
            )
        cells.append((name, *shown))
    return "\n".join([*lines, *aligned(cells), ""])
