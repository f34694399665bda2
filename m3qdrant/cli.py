"""The command `m3qdrant`. Each command loads what it needs, so that `--help` is immediate."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m3qdrant import __version__
from m3qdrant.errors import InputError, M3QdrantError

if TYPE_CHECKING:
    from m3qdrant.encoder import M3Encoder
    from m3qdrant.store import Hit, M3Store

__all__ = ["app", "main"]

app = typer.Typer(
    name="m3qdrant",
    help="BGE-M3's dense, sparse and ColBERT vectors in Qdrant: hybrid search over all three.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

Location = Annotated[
    str,
    typer.Option(
        help="A directory (embedded engine), or a server's http(s)://host:port; its API key is "
        "read from QDRANT_API_KEY.",
        envvar="M3QDRANT_LOCATION",
    ),
]
Collection = Annotated[
    str, typer.Option(help="The collection's name.", envvar="M3QDRANT_COLLECTION")
]
Model = Annotated[
    str | None,
    typer.Option(help="BAAI/bge-m3 or another hub id, m3-tiny (bundled), or a directory."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else.")]
ModeOption = Annotated[str, typer.Option(help="dense, sparse, colbert, rrf, dbsf or weighted.")]
Limit = Annotated[int, typer.Option(help="The most hits to show.", min=1)]


def main() -> None:
    """Run the command line; any error of ours is one line on stderr and exit status 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a character is no reason
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = _show_warning
    # read when torch loads: threads that spin for work cost a busy machine half its speed
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except M3QdrantError as error:
        _fail(str(error))
    except BrokenPipeError:  # the reader, `head` for one, has gone
        sys.stderr.close()
        sys.exit(141)
    except OSError as error:  # a full disk behind stdout, for one
        _fail(str(error))


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
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


@app.command()
def demo(
    query: Annotated[
        list[str] | None, typer.Argument(help="What to look for (default: a few good queries).")
    ] = None,
    mode: ModeOption = "weighted",
    limit: Limit = 5,
    model: Model = "m3-tiny",
    location: Annotated[
        Path | None, typer.Option(help="Where to keep the collection (default: a cache folder).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Index the docstrings of this Python's standard library, once, and search them."""
    from m3qdrant.query import check_search

    check_search(mode, limit, limit)
    questions = [_query(query)] if query else None
    encoder = _load(model or "m3-tiny")

    from m3qdrant.demo import QUERIES, open_demo

    with _interruptible(), open_demo(encoder, location, progress=not as_json) as store:
        if not as_json:
            info = store.info()
            print(
                f"{info.documents:,} docstrings of Python's standard library, model {info.model}, "
                f"in {info.location.replace(str(Path.home()), '~')}"
            )
        answers = [
            (question, store.search(question, mode=mode, limit=limit))
            for question in questions or QUERIES
        ]
    if as_json:
        _print_json([_answer(question, mode, hits) for question, hits in answers])
        return
    from m3qdrant.tables import print_hits

    for question, hits in answers:
        print_hits(question, mode, hits)


@app.command()
def ingest(
    paths: Annotated[
        list[str], typer.Argument(help="JSONL, .txt or .md files, folders, or - for stdin.")
    ],
    location: Location,
    collection: Collection = "documents",
    model: Model = None,
    text_field: Annotated[str, typer.Option(help="JSONL field that holds the text.")] = "text",
    id_field: Annotated[str, typer.Option(help="JSONL field that holds the id.")] = "id",
    max_length: Annotated[int, typer.Option(help="Tokens a text is cut to.", min=2)] = 8192,
    as_json: Json = False,
) -> None:
    """Encode files and store them; a document whose id is there already is replaced.

    The model is the collection's own; for a new collection it is m3-tiny unless --model says.
    """
    from m3qdrant.sources import STDIN, open_sources

    stdin = sys.stdin if STDIN in paths else None
    source = open_sources(paths, text_field=text_field, id_field=id_field, stdin=stdin)
    with _interruptible(), _open(location, collection, model, create=True) as store:
        report = store.add(
            source.documents, max_length=max_length, progress=not as_json, total=source.total
        )
    if as_json:
        _print_json(report.to_dict())
    else:
        print(report)
    for error in report.failed:
        print(f"not stored: {error}", file=sys.stderr)
    if report.failed:
        raise typer.Exit(1)


@app.command()
def search(
    query: Annotated[list[str], typer.Argument(help="What to look for.")],
    location: Location,
    collection: Collection = "documents",
    mode: ModeOption = "weighted",
    limit: Limit = 10,
    candidates: Annotated[
        int, typer.Option(help="Length of the dense and the sparse top list.", min=1)
    ] = 100,
    weights: Annotated[
        str, typer.Option(help="Dense, lexical and ColBERT weight in mode weighted.")
    ] = "0.4,0.2,0.4",
    filter: Annotated[
        str | None, typer.Option(help='JSON, e.g. \'{"lang": "de", "year": {"gte": 2020}}\'.')
    ] = None,
    model: Model = None,
    as_json: Json = False,
) -> None:
    """Search a collection with the model that its vectors come from."""
    from m3qdrant.filters import as_filter
    from m3qdrant.query import check_search
    from m3qdrant.scoring import check_weights

    question = _query(query)
    check_search(mode, limit, candidates)
    numbers = check_weights(_parse_weights(weights))
    condition = as_filter(_parse_filter(filter))
    with _open(location, collection, model, create=False) as store:
        hits = store.search(question, mode, limit, candidates, numbers, condition)
    if as_json:
        _print_json(_answer(question, mode, hits))
        return
    from m3qdrant.tables import print_hits

    print_hits(question, mode, hits)


@app.command()
def info(location: Location, collection: Collection = "documents", as_json: Json = False) -> None:
    """Show what a collection is and holds."""
    from m3qdrant.store import M3Store

    with M3Store(location, collection, create=False) as store:
        facts = store.info().to_dict()
    if as_json:
        _print_json(facts)
    else:
        for name, value in facts.items():
            print(f"{name.replace('_', ' '):>16}  {value if value is not None else '-'}")


@app.command()
def verify(model: Model = "BAAI/bge-m3", as_json: Json = False) -> None:
    """Compute the BGE-M3 tutorial's figures beside the published ones; pass or fail."""
    from m3qdrant.verify import TOLERANCE
    from m3qdrant.verify import verify as run

    result = run(_load(model or "BAAI/bge-m3"))
    if as_json:
        _print_json(result.to_dict())
    else:
        from m3qdrant.tables import print_verification

        print_verification(result)
        if result.passed is None:
            print(f"{result.model} is not BAAI/bge-m3: the published figures do not apply to it.")
        else:
            word = "pass" if result.passed else "FAIL"
            print(f"{word}: {result.model} against the published figures, within {TOLERANCE}")
    if result.passed is False:
        raise typer.Exit(1)


def _query(words: list[str]) -> str:
    """The query of a command line: its words, quoted together or not."""
    query = " ".join(words)
    if not query.strip():
        raise InputError("the query is empty")
    return query


def _parse_weights(text: str) -> list[float]:
    try:
        return [float(weight) for weight in text.split(",")]
    except ValueError as error:
        raise InputError(
            f"--weights must be three numbers like 0.4,0.2,0.4, not {text}"
        ) from error


def _parse_filter(text: str | None) -> Any:
    try:
        return json.loads(text) if text else None
    except ValueError as error:
        raise InputError(f"--filter is no JSON: {error}: {text}") from error


def _load(model: str) -> M3Encoder:
    from m3qdrant.encoder import M3Encoder

    return M3Encoder.from_pretrained(model)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C during long work is no accident to be reported at length."""
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted; what was stored stays, run it again for the rest", file=sys.stderr)
        raise typer.Exit(130) from None


@contextlib.contextmanager
def _open(location: str, collection: str, model: str | None, create: bool) -> Iterator[M3Store]:
    """The store, with the encoder its vectors come from, or the one the user names."""
    from m3qdrant.errors import CollectionNotFoundError
    from m3qdrant.store import M3Store

    if location == ":memory:":
        raise InputError("':memory:' ends with the command: give a directory or a server's URL")
    if model is None:
        try:
            with M3Store(location, collection, create=False) as store:
                model = store.info().model
        except CollectionNotFoundError:
            if not create:
                raise
            model = "m3-tiny"
        if model is None:
            raise InputError(
                f"collection {collection!r} does not say which model its vectors come from: "
                "give it with --model"
            )
    with M3Store(location, collection, _load(model), create=create) as store:
        yield store


def _answer(query: str, mode: str, hits: list[Hit]) -> dict[str, Any]:
    return {"query": query, "mode": mode, "hits": [hit.to_dict() for hit in hits]}


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2))
