"""The program around the commands: how it starts, and how every failure looks.

Each command loads what it needs, so that `--help` is immediate.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import warnings
from typing import Annotated

import typer

from m3qdrant import __version__, progress
from m3qdrant.errors import M3QdrantError

__all__ = ["app", "main"]

app = typer.Typer(
    name="m3qdrant",
    help="BGE-M3's dense, sparse and ColBERT vectors in Qdrant: hybrid search over all three.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def main() -> None:
    """Run the command line; any error of ours is one line on stderr and exit status 1."""
    _speak_utf8()
    warnings.showwarning = _show_warning
    progress.listen(lambda text: print(text, file=sys.stderr, flush=True))
    # read when torch loads: threads that spin for work cost a busy machine half its speed
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # what goes wrong with a server is told by us: its library writes to stderr too
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # here, where what goes wrong is still told
    except M3QdrantError as error:
        _fail(str(error))
    except BrokenPipeError:  # the reader, `head` for one, has gone
        _abandon_stdout()
        sys.exit(141)
    except OSError as error:  # a full disk behind stdout, for one
        _abandon_stdout()
        _fail(str(error))


def _abandon_stdout() -> None:
    """Nothing more goes to stdout: Python would try again when it ends, and complain."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _speak_utf8() -> None:
    """Pipes and files are UTF-8, whatever the locale; only a terminal is asked what it shows.

    Standard input is where it is read (`ingest/sources.py`).
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            if not stream.isatty():
                stream.reconfigure(encoding="utf-8")
            # a character that can't be shown is no reason to stop
            stream.reconfigure(errors="backslashreplace")


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """A warning without the line of code that it comes from, which says nothing to a user."""
    print(f"warning: {message}", file=sys.stderr)


def _fail(message: str) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(1)


def _print_version(show: bool) -> None:
    if show:
        print(f"m3qdrant {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it."),
    ] = False,
) -> None:
    pass
