"""``python -m benchmarks``: run a suite, or draw its plots again."""

from __future__ import annotations

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import ROOT

_PLOTS = {
    "kernels": "benchmarks.plots",
    "store": "benchmarks.store.plots",
    "ingest": "benchmarks.ingest.plots",
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
    plot = commands.add_parser("plot", help="draw the plots of a JSON file again")
    plot.add_argument("file", type=Path)
    options = parser.parse_args(arguments)
    if options.command == "plot":
        _plot(options.file)
        return 0
    try:
        path, wrong = options.run(parser, options)
    except ValueError as error:
        parser.error(str(error))
    print(f"wrote {path}")
    if not options.no_plots:
        _plot(path)
    for line in wrong:
        print(f"FAILED {line}", file=sys.stderr)
    return 1 if wrong else 0


def _add_common(suite: argparse.ArgumentParser, quick: str) -> None:
    suite.add_argument("--quick", action="store_true", help=quick)
    suite.add_argument(
        "--out",
        type=Path,
        default=ROOT / "benchmarks" / "results",
        help="folder of the JSON file and the plots (default: benchmarks/results)",
    )
    suite.add_argument("--seed", type=int, help="of the inputs (default: a fresh one)")
    suite.add_argument(
        "--commit", metavar="HASH", help="what was measured, where there is no git to ask"
    )
    suite.add_argument("--no-plots", action="store_true", help="write the JSON file alone")


def _kernels(
    parser: argparse.ArgumentParser, options: argparse.Namespace
) -> tuple[Path, list[str]]:
    import torch

    from benchmarks.kernels import failures, run, write

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


def _plot(path: Path) -> None:
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    try:
        draw = import_module(_PLOTS[result["suite"]]).draw
    except ImportError as error:
        print(f"no plots: {error}; `pip install matplotlib`, then `python -m benchmarks plot`")
        return
    for written in draw(result, path.with_suffix("")):
        print(f"wrote {written}")


if __name__ == "__main__":
    sys.exit(main())
