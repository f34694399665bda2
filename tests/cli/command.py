"""The command, run in this process, and what it left."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from m3qdrant.cli import main

__all__ = ["Done", "Terminal", "documents", "fails", "ok", "run"]


@dataclass
class Done:
    """What a finished command left."""

    returncode: int
    stdout: str
    stderr: str


class Terminal(io.StringIO):
    """Somebody who types."""

    def isatty(self) -> bool:
        return True


def run(*arguments: str | Path, stdin: str | io.StringIO = "", **environment: str) -> Done:
    """The command in this process: a process of its own would import torch once a test."""
    typed = io.StringIO(stdin) if isinstance(stdin, str) else stdin
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["m3qdrant", *map(str, arguments)]),
        mock.patch.object(sys, "stdin", typed),
        mock.patch.dict(os.environ, {"COLUMNS": "120", **environment}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as stop,
    ):
        main()
    code = stop.value.code
    return Done(0 if code is None else int(code), out.getvalue(), err.getvalue())


def ok(*arguments: str | Path, stdin: str = "", **environment: str) -> str:
    """What a command that must succeed prints."""
    done = run(*arguments, stdin=stdin, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fails(*arguments: str | Path, stdin: str = "", **environment: str) -> str:
    """The error of a command that must fail: exactly one line on stderr, nothing on stdout."""
    done = run(*arguments, stdin=stdin, **environment)
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def documents(location: Path) -> list[dict[str, Any]]:
    """What `export` writes of a collection, by id."""
    rows = [json.loads(line) for line in ok("export", "--location", location).splitlines()]
    return sorted(rows, key=lambda row: str(row["id"]))
