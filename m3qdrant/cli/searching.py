"""search, explain, demo: the commands that rank."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m3qdrant.cli.common import (
    CaFile,
    Collection,
    Filter,
    Json,
    Limit,
    Location,
    Mode,
    Model,
    interruptible,
    load,
    open_store,
    parse_filter,
    print_json,
    typed,
)
from m3qdrant.cli.program import app
from m3qdrant.errors import InputError
from m3qdrant.weights import DEFAULT_WEIGHTS

if TYPE_CHECKING:
    from m3qdrant.collection import Hit
    from m3qdrant.rank import M3Reranker

_WEIGHTS = ",".join(map(str, DEFAULT_WEIGHTS))

Candidates = Annotated[
    int, typer.Option(help="Length of the dense and the sparse top list.", min=1)
]
Weights = Annotated[str, typer.Option(help="Dense, lexical and ColBERT weight in mode weighted.")]


@app.command()
def search(
    query: Annotated[list[str], typer.Argument(help="What to look for.")],
    location: Location,
    collection: Collection = "documents",
    mode: Mode = "weighted",
    limit: Limit = 10,
    candidates: Candidates = 100,
    weights: Weights = _WEIGHTS,
    filter: Filter = None,
    offset: Annotated[int, typer.Option(help="Hits to skip, for the next page.", min=0)] = 0,
    score_threshold: Annotated[
        float | None, typer.Option(help="The least score of a hit, on the mode's scale.")
    ] = None,
    group_by: Annotated[
        str | None, typer.Option(help="A payload field: the best hits for each of its values.")
    ] = None,
    group_size: Annotated[int, typer.Option(help="Hits a group.", min=1)] = 1,
    diversity: Annotated[
        float | None,
        typer.Option(help="0 to 1: how much a hit loses by its likeness to those before it."),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Compare with every document, without the index.")
    ] = False,
    ef: Annotated[
        int | None, typer.Option(help="Neighbours that the HNSW search keeps in sight.", min=1)
    ] = None,
    rerank: Annotated[
        bool,
        typer.Option(
            "--rerank",
            help="Score the candidates here, on a GPU where there is one, in place of the engine. "
            "Their vectors are fetched each time: for a server with less to compute with.",
        ),
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show the passage that matched; JSON has it all.")
    ] = False,
    model: Model = None,
    ca_file: CaFile = None,
    as_json: Json = False,
) -> None:
    """Search a collection with the model that its vectors come from."""
    from m3qdrant.collection import Search

    question = _query(query)
    options: Any = {
        "offset": offset,
        "score_threshold": score_threshold,
        "group_by": typed(group_by) if group_by is not None else None,
        "group_size": group_size,
        "diversity": diversity,
        "exact": exact,
        "ef": ef,
        "reranker": _reranker(rerank),
        "explain": explain,
    }
    asked = Search(
        mode, limit, candidates, _parse_weights(weights), parse_filter(filter), **options
    )
    with open_store(location, collection, model, create=False, ca_file=ca_file) as store:
        hits = store.search(
            question, mode, limit, candidates, asked.weights, asked.filter, **options
        )
    if as_json:
        print_json(_answer(question, mode, hits))
        return
    from m3qdrant.cli.tables import print_hits

    print_hits(question, mode, hits, offset)


@app.command()
def explain(
    query: Annotated[list[str], typer.Argument(help="What is looked for.")],
    location: Location,
    collection: Collection = "documents",
    id: Annotated[
        list[str] | None,
        typer.Option("--id", help="A document, found or not; again for others (default: hits)."),
    ] = None,
    mode: Mode = "weighted",
    limit: Limit = 3,
    candidates: Candidates = 100,
    weights: Weights = _WEIGHTS,
    filter: Filter = None,
    html: Annotated[
        Path | None, typer.Option(help="A file for a page that shows it; it needs nothing else.")
    ] = None,
    model: Model = None,
    ca_file: CaFile = None,
    as_json: Json = False,
) -> None:
    """Show why documents rank where they do: scores, shared terms, and words that match."""
    from m3qdrant.collection import Search

    question = _query(query)
    names = [typed(name) for name in id or ()]
    asked = Search(mode, limit, candidates, _parse_weights(weights), parse_filter(filter))
    arguments: Any = (mode, candidates, asked.weights, asked.filter)
    with open_store(location, collection, model, create=False, ca_file=ca_file) as store:
        if names:
            found = [store.explain(question, name, *arguments) for name in names]
        else:
            hits = store.search(question, mode, limit, *arguments[1:], explain=True)
            found = [hit.explanation for hit in hits if hit.explanation is not None]
    if html is not None:
        from m3qdrant.files import write_whole
        from m3qdrant.rank import page

        write_whole(html, page(found, question).encode())
    if as_json:
        explanations = [explanation.to_dict() for explanation in found]
        print_json({"query": question, "mode": mode, "explanations": explanations})
        return
    from m3qdrant.cli.explained import print_explanations

    print_explanations(question, mode, found)
    if html is not None:
        print(f"the page is {html}")


@app.command()
def demo(
    query: Annotated[
        list[str] | None, typer.Argument(help="What to look for (default: a few good queries).")
    ] = None,
    mode: Mode = "weighted",
    limit: Limit = 5,
    rerank: Annotated[
        bool,
        typer.Option(
            "--rerank", help="Score the candidates here, with M3Reranker, in place of the engine."
        ),
    ] = False,
    model: Model = "m3-tiny",
    location: Annotated[
        Path | None, typer.Option(help="Where to keep the collection (default: a cache folder).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Index the docstrings of this Python's standard library, once, and search them."""
    from m3qdrant.collection import Search

    reranker = _reranker(rerank)
    Search(mode, limit, reranker=reranker)
    questions = [_query(query)] if query else None
    encoder = load(model or "m3-tiny")

    from m3qdrant.demo import QUERIES, open_demo

    with (
        interruptible("what was indexed stays, run it again for the rest"),
        open_demo(encoder, location, progress=not as_json) as store,
    ):
        if not as_json:
            info = store.info()
            print(
                f"{info.documents:,} docstrings of Python's standard library, model {info.model}, "
                f"in {info.location.replace(str(Path.home()), '~')}"
            )
        answers = [
            (question, store.search(question, mode=mode, limit=limit, reranker=reranker))
            for question in questions or QUERIES
        ]
    if as_json:
        print_json([_answer(question, mode, hits) for question, hits in answers])
        return
    from m3qdrant.cli.tables import print_hits

    for question, hits in answers:
        print_hits(question, mode, hits)


def _reranker(wanted: bool) -> M3Reranker | None:
    if not wanted:
        return None
    from m3qdrant.rank import M3Reranker

    return M3Reranker()


def _query(words: list[str]) -> str:
    """The query of a command line: its words, quoted together or not."""
    query = typed(" ".join(words))
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


def _answer(query: str, mode: str, hits: list[Hit]) -> dict[str, Any]:
    return {"query": query, "mode": mode, "hits": [hit.to_dict() for hit in hits]}
