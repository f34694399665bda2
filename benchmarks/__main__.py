"""``python -m benchmarks``: run a suite, or draw the plots of its results."""

from __future__ import annotations

import argparse
import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import ROOT

__all__ = ["main"]

_RESULTS = ROOT / "benchmarks" / "results"

_PLOTS = {
    "kernels": "benchmarks.kernels.floor_plots",
    "store": "benchmarks.store.cost_plots",
    "ingest": "benchmarks.ingest.memory_plot",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status, 1 where ours was wrong or didn't run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    kernels = commands.add_parser("kernels", help="maxsim, sparse_max and lexical_scores")
    kernels.add_argument(
        "--device", choices=("cuda", "cpu"), help="default: cuda where there is one"
    )
    _add_common(kernels, "small shapes, few repeats: does everything run?")
    kernels.add_argument(
        "--case", action="append", metavar="GLOB", help="such as 'maxsim/*'; may stand twice"
    )
    kernels.add_argument("--threads", type=int, help="torch's threads (default: torch's own)")
    kernels.set_defaults(run=_kernels)
    store = commands.add_parser("store", help="what each storage choice costs and gains")
    _add_common(store, "few documents and queries: does everything run and agree?")
    store.add_argument("--documents", type=int, metavar="N", help="docstrings (default: all)")
    store.add_argument(
        "--engine", choices=("embedded", "memory"), help="beside the default (default: both)"
    )
    store.add_argument(
        "--choice", action="append", metavar="GLOB", help="such as 'colbert_*'; may stand twice"
    )
    store.add_argument(
        "--location", type=Path, metavar="DIR", help="where the collections lie meanwhile"
    )
    store.add_argument(
        "--peers", action="store_true", help="beside other stores, whichever are installed"
    )
    store.add_argument(
        "--no-choices",
        action="store_true",
        help="only what comes beside them: a server (QDRANT_URL), --peers",
    )
    store.set_defaults(run=_store)
    ingest = commands.add_parser(
        "ingest", help="a long ingest, interrupted and killed, comes out complete"
    )
    _add_common(ingest, "2,000 documents")
    ingest.add_argument("--documents", type=int, metavar="N", help="default: 100,000")
    ingest.add_argument(
        "--location", type=Path, metavar="DIR", help="where the collection lies meanwhile"
    )
    ingest.set_defaults(run=_ingest)
    rerank = commands.add_parser(
        "rerank", help="late interaction after a search, and over a whole corpus that is resident"
    )
    _add_common(rerank, "few and small documents: does everything run and agree?")
    rerank.add_argument(
        "--documents", type=int, action="append", metavar="N", help="a corpus; may stand twice"
    )
    rerank.add_argument(
        "--location", type=Path, metavar="DIR", help="where the collections lie meanwhile"
    )
    rerank.set_defaults(run=_rerank)
    gpu = commands.add_parser(
        "gpu", help="all that only a card can tell, part by part, taken up where it ended"
    )
    gpu.add_argument("--dry", action="store_true", help="rehearse on the CPU, in the interpreter")
    gpu.add_argument(
        "--part", action="append", metavar="NAME", help="only this part; may stand twice"
    )
    gpu.add_argument("--again", action="store_true", help="parts that have an outcome too")
    gpu.add_argument(
        "--out",
        type=Path,
        default=_RESULTS,
        help="folder of the JSON file (default: benchmarks/results)",
    )
    gpu.add_argument(
        "--commit", metavar="HASH", help="what is measured, where there is no git to ask"
    )
    gpu.set_defaults(run=_gpu)
    plot = commands.add_parser("plot", help="draw the plots of results, of any suite")
    plot.add_argument(
        "files",
        type=Path,
        nargs="*",
        metavar="FILE.json",
        help="default: benchmarks/results/*.json",
    )
    plot.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the plots (default: each file's own)"
    )
    options = parser.parse_args(arguments)
    if options.command == "plot":
        return _plot(options.files or sorted(_RESULTS.glob("*.json")), options.out)
    try:
        path, wrong = options.run(parser, options)
    except ValueError as error:
        parser.error(str(error))
    print(f"wrote {path}")
    for line in wrong:
        print(f"FAILED {line}", file=sys.stderr)
    return 1 if wrong else 0


def _add_common(suite: argparse.ArgumentParser, quick: str) -> None:
    suite.add_argument("--quick", action="store_true", help=quick)
    suite.add_argument(
        "--out",
        type=Path,
        default=_RESULTS,
        help="folder of the JSON file (default: benchmarks/results)",
    )
    suite.add_argument("--seed", type=int, help="of the inputs (default: a fresh one)")
    suite.add_argument(
        "--commit", metavar="HASH", help="what was measured, for a copy without its history"
    )


def _kernels(
    parser: argparse.ArgumentParser, options: argparse.Namespace
) -> tuple[Path, list[str]]:
    import torch

    from benchmarks.kernels.runner import failures, run, write

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device here; use --device cpu")
    result = run(
        device,
        quick=options.quick,
        patterns=options.case,
        seed=options.seed,
        threads=options.threads,
        revision=options.commit,
    )
    return write(result, options.out), failures(result)


def _store(parser: argparse.ArgumentParser, options: argparse.Namespace) -> tuple[Path, list[str]]:
    from benchmarks.store.suite import failures, run, write

    result = run(
        quick=options.quick,
        documents=options.documents,
        engine=options.engine,
        patterns=options.choice,
        seed=options.seed,
        revision=options.commit,
        folder=options.location,
        every_choice=not options.no_choices,
        server=os.environ.get("QDRANT_URL"),
        beside_peers=options.peers,
    )
    return write(result, options.out), failures(result)


def _ingest(
    parser: argparse.ArgumentParser, options: argparse.Namespace
) -> tuple[Path, list[str]]:
    from benchmarks.ingest.proof import DOCUMENTS, QUICK, failures, run, write

    result = run(
        options.documents or (QUICK if options.quick else DOCUMENTS),
        quick=options.quick,
        location=options.location,
        seed=options.seed,
        revision=options.commit,
    )
    return write(result, options.out), failures(result)


def _rerank(
    parser: argparse.ArgumentParser, options: argparse.Namespace
) -> tuple[Path, list[str]]:
    from benchmarks.rerank.suite import failures, run, write

    result = run(
        quick=options.quick,
        sizes=options.documents,
        seed=options.seed,
        revision=options.commit,
        folder=options.location,
    )
    return write(result, options.out), failures(result)


def _gpu(parser: argparse.ArgumentParser, options: argparse.Namespace) -> tuple[Path, list[str]]:
    from benchmarks.gpu.session import failures, run

    path, result = run(
        options.out,
        dry=options.dry,
        parts=options.part,
        again=options.again,
        revision=options.commit,
    )
    return path, failures(result)


def _plot(paths: list[Path], out: Path | None) -> int:
    """Draw the plots of JSON files; return the exit status."""
    status = 0
    for path in paths:
        try:
            result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if result["suite"] == "gpu":
                result = result["parts"]["speed"]["result"]
            module = _PLOTS[result["suite"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            print(f"{path}: no suite's result: {error!r}", file=sys.stderr)
            status = 1
            continue
        try:
            draw = import_module(module).draw
        except ImportError as error:
            print(f"no plots: {error}; `pip install matplotlib`", file=sys.stderr)
            return 1
        folder = out or path.parent
        folder.mkdir(parents=True, exist_ok=True)
        for written in draw(result, folder / path.stem):
            print(f"wrote {written}")
    return status


if __name__ == "__main__":
    sys.exit(main())
