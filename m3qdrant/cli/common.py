"""What commands share: options, the reading of their values, and the opening of stores."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import gc
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m3qdrant import names
from m3qdrant.errors import CollectionNotFoundError, InputError

if TYPE_CHECKING:
    from qdrant_client import models

    from m3qdrant.collection import M3Schema
    from m3qdrant.encode import M3Encoder
    from m3qdrant.store import M3Store
    from m3qdrant.transport import Retries

__all__ = [
    "CaFile",
    "Collection",
    "Filter",
    "Json",
    "Limit",
    "Location",
    "Mode",
    "Model",
    "RetryFor",
    "interruptible",
    "load",
    "open_documents",
    "open_store",
    "parse_filter",
    "parse_object",
    "print_json",
    "typed",
]

Location = Annotated[
    str,
    typer.Option(
        help="A directory (embedded engine), or a server's http(s)://host:port, with a reverse "
        "proxy's path where there is one, and of a cluster several nodes' with commas between; "
        "its API key is read from QDRANT_API_KEY.",
        envvar="M3QDRANT_LOCATION",
    ),
]
CaFile = Annotated[
    Path | None,
    typer.Option(
        help="A server's own certificate authorities, in PEM, for REST and gRPC.",
        envvar="QDRANT_CA_FILE",
    ),
]
Collection = Annotated[
    str, typer.Option(help="The collection's name.", envvar="M3QDRANT_COLLECTION")
]
Model = Annotated[
    str | None,
    typer.Option(help="BAAI/bge-m3 or another hub id, m3-tiny (bundled), or a directory."),
]
RetryFor = Annotated[
    float,
    typer.Option(
        help="Seconds to go on trying where a server does not answer, such as for a restart.",
        min=0,
    ),
]
Filter = Annotated[
    str | None, typer.Option(help='JSON, e.g. \'{"lang": "de", "year": {"gte": 2020}}\'.')
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else.")]
Mode = Annotated[
    names.Mode,
    # `Search` refuses what is none of them, in the words that every other way of asking gets
    typer.Option(parser=str, help=f"{', '.join(names.MODES[:-1])} or {names.MODES[-1]}."),
]
Limit = Annotated[int, typer.Option(help="The most hits to show.", min=1)]


def typed(text: str) -> str:
    """An argument as UTF-8, as all else is: where the locale has no such characters, as in C's,
    Python hands on its bytes as surrogates.

    Raises:
        InputError: it is no UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        try:
            return os.fsencode(text).decode()
        except UnicodeError as error:
            raise InputError(f"{text!a} is no UTF-8 text") from error
    return text


def parse_object(option: str, text: str | None) -> dict[str, Any] | None:
    """The JSON object that an option's value is; None without one.

    Raises:
        InputError: names the option.
    """
    if not text:
        return None
    text = typed(text)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{option} is no JSON: {error}: {text}") from error
    if not isinstance(value, dict):
        raise InputError(f"{option} must be a JSON object, such as {{...}}, not {text}")
    return value


def parse_filter(text: str | None) -> models.Filter | None:
    """A filter from `--filter`, checked; None without one."""
    from m3qdrant.collection import as_filter

    return as_filter(parse_object("--filter", text))


def load(model: str) -> M3Encoder:
    """The encoder of a model's name or directory."""
    from m3qdrant.encode import M3Encoder

    return M3Encoder.from_pretrained(model)


@contextlib.contextmanager
def interruptible(remains: str) -> Iterator[None]:
    """Ctrl-C during long work is no accident to be reported at length.

    Args:
        remains: what is left of it, and how to go on.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        report = f": {stop.report.summary}" if hasattr(stop, "report") else ""
        print(f"interrupted{report}; {remains}", file=sys.stderr)
        raise typer.Exit(130) from None


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Imports in this block are a fifth faster: what modules make stays, and is no garbage."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def open_documents(location: str, collection: str, ca_file: Path | None = None) -> M3Store:
    """A store of a collection that is there, for what needs no model."""
    with loading():
        from m3qdrant.store import M3Store

    _check_location(location)
    return M3Store(location, collection, create=False, ca_file=ca_file)


@contextlib.contextmanager
def open_store(
    location: str,
    collection: str,
    model: str | None,
    *,
    create: bool,
    schema: dict[str, Any] | None = None,
    ca_file: Path | None = None,
    retries: Retries | None = None,
) -> Iterator[M3Store]:
    """The store, with the encoder its vectors come from, or the one the user names.

    Args:
        location: where it is.
        collection: its name.
        model: what the user names; m3-tiny for a new collection without one.
        create: make it where there is none.
        schema: storage options of a new collection, by name; of an existing one they must be as
            they are, but for payload indexes.
        ca_file: certificate authorities of a server.
        retries: how long to go on where a server does not answer.
    """
    with loading():
        from m3qdrant.collection import M3Schema
        from m3qdrant.store import M3Store

    _check_location(location)
    wanted = _schema(M3Schema(), schema)
    if model is None or wanted is not None:
        try:
            with M3Store(
                location, collection, create=False, ca_file=ca_file, retries=retries
            ) as store:
                there, stored_with = store.schema, store.model
        except CollectionNotFoundError:
            if not create:
                raise
            model = model or "m3-tiny"
        else:
            wanted = _schema(there or M3Schema(), schema)
            model = model or stored_with
        if model is None:
            raise InputError(
                f"collection {collection!r} does not say which model its vectors come from: "
                "give it with --model"
            )
    with M3Store(
        location,
        collection,
        load(model),
        wanted,
        create=create,
        ca_file=ca_file,
        retries=retries,
    ) as store:
        yield store


def _check_location(location: str) -> None:
    if location == ":memory:":
        raise InputError("':memory:' ends with the command: give a directory or a server's URL")


def _schema(base: M3Schema, options: dict[str, Any] | None) -> M3Schema | None:
    """`base` with the options that the user names; None where there are none.

    Qdrant's own names are taken too, where one option of ours is the same thing.
    """
    from m3qdrant.collection import MEANT, QDRANTS_NAMES

    if options is None:
        return None
    known = [field.name for field in dataclasses.fields(base)]
    ours: dict[str, Any] = {}
    named: dict[str, str] = {}
    for name, value in options.items():
        meant = QDRANTS_NAMES.get(name, name)
        if meant in named:
            both = f"{named[meant]!r} and {name!r}"
            raise InputError(f"--schema: {both} are one option: give one of them")
        if meant not in known:
            instead = MEANT.get(name) or difflib.get_close_matches(name, known, 1, 0.8)
            hint = f"do you mean {' or '.join(instead)}? " if instead else ""
            raise InputError(f"--schema: there is no {name!r}; {hint}there are {', '.join(known)}")
        ours[meant], named[meant] = value, name
    return dataclasses.replace(base, **ours)


def print_json(value: object) -> None:
    """The only thing that a command with `--json` prints on stdout."""
    print(json.dumps(value, ensure_ascii=False, indent=2))
