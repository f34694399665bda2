"""ingest, export, delete: documents into a collection, out of it, and away."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from m3qdrant.cli.common import (
    CaFile,
    Collection,
    Filter,
    Json,
    Location,
    Model,
    RetryFor,
    interruptible,
    open_documents,
    open_store,
    parse_filter,
    parse_object,
    print_json,
    typed,
)
from m3qdrant.cli.program import app
from m3qdrant.errors import IngestError, IngestInterrupted, InputError
from m3qdrant.names import LongDocuments

if TYPE_CHECKING:
    from qdrant_client import models

    from m3qdrant.ingest import Format
    from m3qdrant.store import M3Store

TextField = Annotated[str, typer.Option(help="The field that holds the text.")]
IdField = Annotated[str, typer.Option(help="The field that holds the id.")]


@app.command()
def ingest(
    paths: Annotated[
        list[str],
        typer.Argument(
            help="JSONL, JSON, CSV, TSV, .txt or .md files, folders of them, or - for stdin."
        ),
    ],
    location: Location,
    collection: Collection = "documents",
    model: Model = None,
    text_field: TextField = "text",
    id_field: IdField = "id",
    format: Annotated[
        str | None,
        typer.Option(
            help="jsonl, json, text, csv or tsv, of the files named and of stdin (default: by a "
            "file's ending; on stdin by its first lines). text is a document a line on stdin."
        ),
    ] = None,
    max_length: Annotated[int, typer.Option(help="Tokens a text is cut to.", min=2)] = 8192,
    split_records: Annotated[
        bool,
        typer.Option(
            "--split",
            help="Cut records too (JSONL, JSON, tables, lines) into passages ID#1, ID#2, ...; "
            "without it a record is one document, and what is beyond --max-length is cut.",
        ),
    ] = False,
    long_documents: Annotated[
        LongDocuments,
        typer.Option(
            parser=str,
            help="Where a text has more ColBERT vectors than Qdrant takes: pool (merge similar "
            "vectors), truncate (keep the first) or error (leave the document out).",
        ),
    ] = "pool",
    schema: Annotated[
        str | None,
        typer.Option(
            help="Storage options of a new collection, M3Schema's, as JSON, e.g. "
            '\'{"colbert_datatype": "float32", "payload_indexes": {"year": "integer"}}\'; missing '
            "payload indexes are made in an existing one too."
        ),
    ] = None,
    prune: Annotated[
        bool,
        typer.Option("--prune", help="Remove the documents that these files no longer have."),
    ] = False,
    optimize: Annotated[
        bool | None,
        typer.Option(
            "--optimize/--no-optimize",
            help="Build the embedded engine's indexes afterwards (default: where it is time).",
        ),
    ] = None,
    retry_for: RetryFor = 60,
    ca_file: CaFile = None,
    as_json: Json = False,
) -> None:
    """Encode files and store them; documents that are there as they are stay untouched.

    A document whose id is there with another text is replaced, so running the same command again
    goes on where the last run was cut off. The model is the collection's own; for a new collection
    it is m3-tiny unless --model says.

    JSONL has an object a line, CSV and TSV a header; all fields but text and id become payload. A
    TSV may have no header and two columns, id and text. Records as BEIR has them ("_id", "title",
    "text") have "_id" for their id, and the title is set before the text. .txt and .md are cut
    into passages of some 400 of the model's tokens, which are never longer than --max-length; all
    others are one document each, and what is longer is cut, and said; --split cuts them into
    passages too. All is read as UTF-8. A file's ids are made of its path as it is given here, so
    give it the same way again.

    What can't be read or stored is named, with the reason, the rest is stored, and the exit status
    is 1; --prune removes nothing then. A folder's files of other kinds, and hidden ones, are
    passed over, and counted.
    """
    from m3qdrant.ingest import (
        STDIN,
        check_long_documents,
        open_sources,
        split_documents,
        splitter,
    )
    from m3qdrant.transport import Retries

    handling = check_long_documents(long_documents)
    options = parse_object("--schema", schema)
    stdin = sys.stdin if STDIN in paths else None
    source = open_sources(
        paths,
        text_field=typed(text_field),
        id_field=typed(id_field),
        format=cast("Format | None", format),
        stdin=stdin,
    )
    source.check()
    with (
        interruptible("what was stored stays, run it again for the rest"),
        open_store(
            location,
            collection,
            model,
            create=True,
            schema=options,
            ca_file=ca_file,
            retries=Retries.lasting(retry_for),
        ) as store,
    ):
        # files' documents with the lines that couldn't be read, which the report takes too
        split = splitter(store.encoder, max_length)
        items: Iterable[Any] = source.items(split)
        if split_records and store.encoder is not None:
            items = split_documents(items, store.encoder, max_length)
        try:
            report = store.add(
                items,
                max_length=max_length,
                long_documents=handling,
                prune=prune,
                optimize=optimize,
                progress=not as_json,
                total=source.total(split) if not split_records else None,
            )
        except (IngestError, IngestInterrupted) as stop:
            if as_json:
                print_json(stop.report.to_dict())
            for line in stop.report.remarks:
                print(line, file=sys.stderr)
            raise
    if as_json:
        print_json(report.to_dict())
        for line in report.remarks:
            print(line, file=sys.stderr)
    else:
        print(report)
    if report.failed:
        raise typer.Exit(1)


@app.command()
def export(
    location: Location,
    collection: Collection = "documents",
    filter: Filter = None,
    output: Annotated[
        Path | None,
        typer.Option(help="A file, which appears when it is whole (default: standard output)."),
    ] = None,
    text_field: TextField = "text",
    id_field: IdField = "id",
    ca_file: CaFile = None,
    as_json: Json = False,
) -> None:
    """Write documents as JSONL, one a line, as `ingest` reads them.

    With --json and --output what was done is printed as JSON; on standard output the documents are
    JSON anyway.
    """
    condition = parse_filter(filter)
    text_field, id_field = typed(text_field), typed(id_field)
    with interruptible("run it again"), open_documents(location, collection, ca_file) as store:
        if output is None:
            _export(store, condition, None, text_field, id_field, False)
            return
        count = _export(store, condition, output, text_field, id_field, not as_json)
    if as_json:
        print_json({"documents": count, "output": str(output)})
    else:
        print(f"{count} documents written to {output}")


def _export(
    store: M3Store,
    condition: models.Filter | None,
    output: Path | None,
    text_field: str,
    id_field: str,
    progress: bool,
) -> int:
    from m3qdrant.ingest import jsonl_line, written
    from m3qdrant.progress import progress_bar

    count = 0
    total = store.count(condition) if progress else None
    with (
        contextlib.nullcontext(sys.stdout) if output is None else written(output) as file,
        progress_bar("exporting", total, progress) as advance,
    ):
        for count, document in enumerate(store.documents(condition), 1):
            file.write(jsonl_line(document, text_field=text_field, id_field=id_field))
            advance(count)
    return count


@app.command()
def delete(
    location: Location,
    ids: Annotated[list[str] | None, typer.Argument(help="Documents to delete.")] = None,
    collection: Collection = "documents",
    filter: Filter = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Don't ask; needed with --filter in a script.")
    ] = False,
    ca_file: CaFile = None,
    as_json: Json = False,
) -> None:
    """Delete documents by id, or all that satisfy a filter, and say how many there were."""
    condition = parse_filter(filter)
    ids = [typed(id) for id in ids or ()]
    if bool(ids) == (condition is not None):
        raise InputError("give either ids or a --filter that says something")
    with open_documents(location, collection, ca_file) as store:
        if condition is not None and not yes:
            _confirm(store.count(condition), store.count())
        count = store.delete(ids or None, filter=condition)
    if as_json:
        print_json({"deleted": count})
    elif ids:
        print(f"{count} of {len(set(ids))} documents deleted")
    else:
        print(f"{count} documents deleted")


def _confirm(count: int, total: int) -> None:
    if not sys.stdin.isatty():
        raise InputError(
            f"the filter would delete {count} of {total} documents: say --yes if that is meant"
        )
    if not typer.confirm(f"Delete {count} of {total} documents?", err=True):
        raise typer.Exit(1)
