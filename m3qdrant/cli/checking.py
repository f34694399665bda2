"""verify: whether a model computes what was published."""

from __future__ import annotations

import typer

from m3qdrant.cli.common import Json, Model, load, print_json
from m3qdrant.cli.program import app


@app.command()
def verify(model: Model = "BAAI/bge-m3", as_json: Json = False) -> None:
    """Compute the BGE-M3 tutorial's figures beside the published ones; pass or fail."""
    from m3qdrant.demo import TOLERANCE
    from m3qdrant.demo import verify as run

    result = run(load(model or "BAAI/bge-m3"))
    if as_json:
        print_json(result.to_dict())
    else:
        from m3qdrant.cli.tables import print_verification

        print_verification(result)
        if result.passed is None:
            print(f"{result.model} is not BAAI/bge-m3: the published figures do not apply to it.")
        else:
            word = "pass" if result.passed else "FAIL"
            print(f"{word}: {result.model} against the published figures, within {TOLERANCE}")
    if result.passed is False:
        raise typer.Exit(1)
