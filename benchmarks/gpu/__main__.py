"""One part of a session: ``python -m benchmarks.gpu PART OUTCOME.json [--dry]``."""

from __future__ import annotations

import argparse
import json
from importlib import import_module
from pathlib import Path

from benchmarks.gpu.session import PARTS


def main() -> None:
    """Run a part and write what it returns."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("outcome", type=Path)
    parser.add_argument("--dry", action="store_true", help="on the CPU, with small shapes")
    options = parser.parse_args()
    outcome = import_module(f"benchmarks.gpu.{options.part}").run(dry=options.dry)
    options.outcome.write_text(json.dumps(outcome), encoding="utf-8")


if __name__ == "__main__":
    main()
