"""The command `m3qdrant`: a file a group of commands, on top of `program` and `common`.

The files:

    documents     ingest, export, delete
    searching     search, explain, demo
    collections   info, doctor, index, optimize, migrate, pull
    checking      verify
"""

from __future__ import annotations

from m3qdrant.cli.program import app, main

# a command is there once its file is imported; help lists them in this order
from m3qdrant.cli import documents, searching, collections, checking  # isort: skip  # noqa: F401

__all__ = ["app", "main"]
