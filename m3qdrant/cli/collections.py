"""info, doctor, index, optimize, migrate, pull: collections as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from m3qdrant.cli.common import (
    CaFile,
    Collection,
    Json,
    Location,
    RetryFor,
    interruptible,
    open_documents,
    print_json,
    typed,
)
from m3qdrant.cli.program import app
from m3qdrant.errors import InputError

if TYPE_CHECKING:
    from m3qdrant.store import M3Store


@app.command()
def info(
    location: Location,
    collection: Collection = "documents",
    ca_file: CaFile = None,
    as_json: Json = False,
) -> None:
    """Show what a collection is and holds."""
    with open_documents(location, collection, ca_file) as store:
        facts = store.info().to_dict()
    if as_json:
        print_json(facts)
        return
    schema = facts.pop("schema")
    for name, value in {**facts, **schema}.items():
        print(f"{name.replace('_', ' '):>20}  {value if value not in (None, {}) else '-'}")


@app.command()
def doctor(
    location: Location,
    collection: Annotated[
        str | None, typer.Option(help="One collection's name (default: all there are).")
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Read a sample of the points instead of all, and no files."),
    ] = False,
    ca_file: CaFile = None,
    as_json: Json = False,
) -> None:
    """Look for what is wrong, or soon will be, and say what to do about it.

    Reads every file and every point, and changes nothing. The exit status is 1 where there is an
    error.
    """
    from m3qdrant.upkeep import examine

    findings = examine(location, collection, quick=quick, progress=not as_json, ca_file=ca_file)
    if as_json:
        print_json([vars(finding) for finding in findings])
    else:
        from m3qdrant.cli.tables import print_findings

        print_findings(findings)
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(1)


@app.command()
def index(
    fields: Annotated[
        list[str],
        typer.Argument(
            help="FIELD=TYPE, one or several; TYPE is keyword, integer, float, bool, datetime, "
            "uuid, text or geo, as the field's values are."
        ),
    ],
    location: Location,
    collection: Collection = "documents",
    ca_file: CaFile = None,
    as_json: Json = False,
) -> None:
    """Index payload fields of a collection that is there, for filters by them.

    A filter on a field without an index looks at every payload, and a server in strict mode
    refuses it. `ingest --schema` makes indexes too.
    """
    wanted = dict(_field_and_kind(typed(each)) for each in fields)
    with open_documents(location, collection, ca_file) as store:
        made = store.index(wanted)  # type: ignore[arg-type]  # which says what is no kind
        there = dict(store.schema.payload_indexes) if store.schema is not None else {}
    if as_json:
        print_json({"made": made, "payload_indexes": there})
        return
    for field, kind in wanted.items():
        print(f"{field}: {'indexed as' if field in made else 'was indexed already as'} {kind}")


def _field_and_kind(text: str) -> tuple[str, str]:
    field, equals, kind = text.rpartition("=")
    if not (field and equals and kind):
        raise InputError(f"{text!r}: give FIELD=TYPE, such as year=integer")
    return field, kind


@app.command()
def optimize(
    location: Location,
    collection: Collection = "documents",
    ca_file: CaFile = None,
    as_json: Json = False,
) -> None:
    """Merge segments and build the indexes now, on the embedded engine.

    A server does so by itself. Needs the collection's size on the disk once more.
    """
    from m3qdrant.transport import capabilities_of

    with (
        interruptible("nothing was lost, run it again"),
        open_documents(location, collection, ca_file) as store,
    ):
        builds = capabilities_of(store.client).optimizes
        before = _index_facts(store) if builds else {}
        done = store.optimize()
        after = _index_facts(store) if builds else {}
    if builds:
        after["bytes"] = _bytes(store)  # what was merged away goes when the store closes
    if as_json:
        print_json({"optimized": done, "before": before, "after": after})
    elif not builds:
        print("a server builds its indexes by itself: nothing was done")
    else:
        print("optimized" if done else "there was nothing to do")
        for name in before:
            print(f"{name:>10}  {before[name]:,} before, {after[name]:,} after")


def _index_facts(store: M3Store) -> dict[str, int]:
    """What `optimize` changes of an embedded collection."""
    engine: Any = store.client
    return {
        "unindexed": engine.unindexed(store.collection),
        "segments": engine.get_collection(store.collection).segments_count,
        "bytes": _bytes(store),
    }


def _bytes(store: M3Store) -> int:
    from m3qdrant.upkeep import size_on_disk

    engine: Any = store.client
    return size_on_disk(engine.path / store.collection)


@app.command()
def migrate(
    source: Annotated[str, typer.Argument(help="A directory or a server's URL.")],
    target: Annotated[str, typer.Argument(help="A directory or a server's URL.")],
    collection: Collection = "documents",
    target_collection: Annotated[
        str | None, typer.Option(help="Its name at the target (default: the same).")
    ] = None,
    batch: Annotated[int, typer.Option(help="The most points held at once.", min=1)] = 256,
    retry_for: RetryFor = 60,
    ca_file: CaFile = None,
    as_json: Json = False,
) -> None:
    """Copy a collection to another place, and verify each point there.

    From a server to a directory its files are taken, as `pull` does, where they fit.

    Run again, it goes on where it was cut off, and catches up with a source that has changed.
    """
    from m3qdrant.transport import Retries
    from m3qdrant.upkeep import migrate as run

    with interruptible("what was copied stays, run it again for the rest"):
        report = run(
            source,
            target,
            collection,
            target_collection,
            batch=batch,
            progress=not as_json,
            retries=Retries.lasting(retry_for),
            ca_file=ca_file,
        )
    if as_json:
        print_json(report.to_dict())
    else:
        print(report)
    if not report.verified:
        raise typer.Exit(1)


@app.command()
def pull(
    source: Annotated[
        str,
        typer.Argument(help="A server's URL; of a cluster those of its nodes, with commas."),
    ],
    directory: Annotated[str, typer.Argument(help="Where to, for the embedded engine.")],
    collection: Collection = "documents",
    target_collection: Annotated[
        str | None, typer.Option(help="Its name in the directory (default: the same).")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Load all of it, also where only some has changed.")
    ] = False,
    ca_file: CaFile = None,
    as_json: Json = False,
) -> None:
    """Take a server's collection into a directory, by its files, and verify a sample there.

    Run again, it goes on where it was cut off, or loads what has changed. Until all is there and
    verified, the directory holds what it held. Where the files don't fit, points are copied.
    """
    from m3qdrant.upkeep import pull as run

    with interruptible("what was loaded stays, run it again for the rest"):
        report = run(
            source,
            directory,
            collection,
            target_collection,
            full=full,
            progress=not as_json,
            ca_file=ca_file,
        )
    if as_json:
        print_json(report.to_dict())
    else:
        print(report)
    if not report.verified:
        raise typer.Exit(1)
