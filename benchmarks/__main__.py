"""``python -m benchmarks``: run a suite, or draw its plots again."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks import ROOT


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status, 1 where ours was wrong or didn't run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    kernels = commands.add_parser("kernels", help="maxsim, sparse_max and lexical_scores")
    kernels.add_argument(
        "--device", choices=("cuda", "cpu"), help="default: cuda where there is one"
    )
    kernels.add_argument(
        "--quick", action="store_true", help="small shapes, few repeats: does everything run?"
    )
    kernels.add_argument(
        "--case", action="append", metavar="GLOB", help="such as 'maxsim/*'; may stand twice"
    )
    kernels.add_argument(
        "--out",
        type=Path,
        default=ROOT / "benchmarks" / "results",
        help="folder of the JSON file and the plots (default: benchmarks/results)",
    )
    kernels.add_argument("--seed", type=int, help="of the inputs (default: a fresh one)")
    kernels.add_argument("--threads", type=int, help="torch's threads (default: torch's own)")
    kernels.add_argument(
        "--commit", metavar="HASH", help="what was measured, where there is no git to ask"
    )
    kernels.add_argument("--no-plots", action="store_true", help="write the JSON file alone")
    plot = commands.add_parser("plot", help="draw the plots of a JSON file again")
    plot.add_argument("file", type=Path)
    options = parser.parse_args(arguments)
    if options.command == "plot":
        _plot(options.file)
        return 0
    return _kernels(parser, options)


def _kernels(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    import torch

    from benchmarks.kernels import failures, run, write

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device here; use --device cpu")
    try:
        result = run(
            device,
            quick=options.quick,
            patterns=options.case,
            seed=options.seed,
            threads=options.threads,
            revision=options.commit,
        )
    except ValueError as error:
        parser.error(str(error))
    path = write(result, options.out)
    print(f"wrote {path}")
    if not options.no_plots:
        _plot(path)
    wrong = failures(result)
    for line in wrong:
        print(f"FAILED {line}", file=sys.stderr)
    return 1 if wrong else 0


def _plot(path: Path) -> None:
    try:
        from benchmarks.plots import draw
    except ImportError as error:
        print(f"no plots: {error}; `pip install matplotlib`, then `python -m benchmarks plot`")
        return
    for written in draw(json.loads(path.read_text(encoding="utf-8")), path.with_suffix("")):
        print(f"wrote {written}")


if __name__ == "__main__":
    sys.exit(main())
