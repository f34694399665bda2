"""The JSONL that documents are written to, as `sources` reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from m3qdrant.collection import Document
from m3qdrant.errors import InputError
from m3qdrant.files import replacing
from m3qdrant.names import TEXT

__all__ = ["jsonl_line", "written"]


def jsonl_line(document: Document, *, text_field: str = TEXT, id_field: str = "id") -> str:
    """The line that `open_sources`, with the same two fields, reads as this document.

    Raises:
        InputError: the document's payload has one of the two fields itself.
    """
    if text_field == id_field:
        raise InputError(f"the text and the id can't both be in the field {text_field!r}")
    for name, option in ((id_field, "--id-field"), (text_field, "--text-field")):
        if name in document.payload:
            raise InputError(
                f"document {document.id!r}: its payload has a field {name!r} too: choose another "
                f"name with {option}, here and where you ingest it"
            )
    fields = {id_field: document.id, text_field: document.text}
    return json.dumps({**fields, **document.payload}, ensure_ascii=False) + "\n"


@contextmanager
def written(path: Path) -> Iterator[TextIO]:
    """A file for writing, which appears under its name when the block ends, and only if it does.

    What is there and is no file, such as a pipe, is written to as it is.
    """
    if path.exists() and not path.is_file():
        with path.open("w", encoding="utf-8") as file:
            yield file
        return
    with replacing(path) as temporary, temporary.open("x", encoding="utf-8") as file:
        yield file
