"""Benchmarks: ``python -m benchmarks SUITE`` in the repository root; README.md says which."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

__all__ = ["ROOT"]

ROOT = Path(__file__).parent.parent

# A fresh clone runs without an installation.
if find_spec("m3kernels") is None:
    sys.path.insert(0, str(ROOT / "kernels"))
