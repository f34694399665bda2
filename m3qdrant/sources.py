"""Documents from files: JSONL, plain text, Markdown, folders of these, and standard input.

Every file is checked before the first document is given out, so that a fault in line 90,000 does
not leave half a collection behind. Standard input can only be checked as it comes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from m3qdrant.documents import TEXT, Document
from m3qdrant.errors import DocumentError, InputError

__all__ = ["STDIN", "Source", "open_sources", "passages"]

STDIN = "-"
"""The path that stands for standard input."""

_PASSAGE = 1_500  # characters: some 400 tokens, a length that one dense vector still tells apart
_TEXT_SUFFIXES = {".txt", ".md", ".markdown"}
_JSONL_SUFFIXES = {".jsonl", ".ndjson"}


@dataclass(frozen=True)
class Source:
    """Documents to ingest.

    Attributes:
        documents: one after another, read as they are asked for.
        total: how many there are; None where it isn't known, as for standard input.
    """

    documents: Iterator[Document]
    total: int | None


def open_sources(
    paths: Sequence[str | Path],
    *,
    text_field: str = TEXT,
    id_field: str = "id",
    stdin: TextIO | None = None,
) -> Source:
    """Read and check files.

    - `.jsonl`: an object a line; the two fields are its text and its id, all others its payload.
    - `.txt`, `.md`: cut into passages at blank lines and headings (see `passages`); a passage's id
      is "path#number" and its payload {"path": path}.
    - a folder: all of these in it, at any depth, hidden ones left out.
    - "-": standard input, as JSONL where its first line begins with "{", else a document a line.

    Args:
        paths: what to read, in this order.
        text_field: the JSONL field that holds the text.
        id_field: the JSONL field that holds the id; where a line has none, the text decides.
        stdin: standard input, where "-" is among the paths.

    Raises:
        InputError: names the file, and the line, that can't be read.
    """
    readers: list[Callable[[], Iterator[Document]]] = []
    total: int | None = 0
    for path in _expand(paths):
        if path == STDIN:
            if stdin is None:
                raise InputError("'-' is standard input, but there is none")
            readers.append(partial(_read_stdin, stdin, text_field, id_field))
            total = None
            continue
        reader = _reader(Path(path), text_field, id_field)
        count = sum(1 for _ in reader())  # the check: every line is parsed once
        total = None if total is None else total + count
        readers.append(reader)
    return Source(chain.from_iterable(reader() for reader in readers), total)


def passages(text: str, limit: int = _PASSAGE) -> Iterator[str]:
    """`text` in passages of at most `limit` characters, cut between paragraphs where possible.

    A Markdown heading begins a new passage. A paragraph longer than `limit` is cut between
    sentences, else between words, else anywhere.
    """
    passage = ""
    for paragraph in re.split(r"\n\s*\n|\n(?=#{1,6} )", text):
        paragraph = paragraph.strip()
        if not paragraph:
            continue
        fits = len(passage) + 2 + len(paragraph) <= limit
        if passage and (not fits or re.match(r"#{1,6} ", paragraph)):
            yield passage
            passage = ""
        while len(paragraph) > limit:
            cut = _cut(paragraph, limit)
            yield paragraph[:cut].rstrip()
            paragraph = paragraph[cut:].lstrip()
        passage = f"{passage}\n\n{paragraph}" if passage else paragraph
    if passage:
        yield passage


def _cut(text: str, limit: int) -> int:
    """Where to cut `text` at or before `limit`, at least half way there if it is at a boundary."""
    for boundary in (r"[.!?。！？]\s*", r"\s+"):
        ends = [match.end() for match in re.finditer(boundary, text[:limit])]
        if ends and ends[-1] > limit // 2:
            return ends[-1]
    return limit


def _expand(paths: Sequence[str | Path]) -> Iterator[str]:
    """Files and STDIN; folders are replaced by the files in them."""
    for given in paths:
        path = Path(given)
        if str(given) == STDIN:
            yield STDIN
        elif path.is_dir():
            found = [
                file
                for file in sorted(path.rglob("*"))
                if file.suffix.lower() in _JSONL_SUFFIXES | _TEXT_SUFFIXES
                and file.is_file()
                and not any(part.startswith(".") for part in file.relative_to(path).parts)
            ]
            if not found:
                raise InputError(f"{path}: no .jsonl, .txt or .md files in this folder")
            yield from map(str, found)
        elif path.exists():
            yield str(path)
        else:
            raise InputError(f"{path}: no such file or folder")


def _reader(path: Path, text_field: str, id_field: str) -> Callable[[], Iterator[Document]]:
    suffix = path.suffix.lower()
    if suffix in _JSONL_SUFFIXES:
        return partial(_read_jsonl, path, text_field, id_field)
    if suffix in _TEXT_SUFFIXES:
        return partial(_read_text, path)
    raise InputError(
        f"{path}: can't tell what this is; readable are "
        f"{', '.join(sorted(_JSONL_SUFFIXES | _TEXT_SUFFIXES))} and folders of them"
    )


def _read_jsonl(path: Path, text_field: str, id_field: str) -> Iterator[Document]:
    with _opened(path) as lines:
        yield from _parse_jsonl(lines, str(path), text_field, id_field)


def _read_text(path: Path) -> Iterator[Document]:
    with _opened(path) as file:
        text = file.read()
    for number, passage in enumerate(passages(text), 1):
        yield Document.of({"id": f"{path}#{number}", TEXT: passage, "path": str(path)})


def _read_stdin(lines: TextIO, text_field: str, id_field: str) -> Iterator[Document]:
    filled = (line for line in lines if line.strip())
    first = next(filled, None)
    if first is None:
        return
    rest = chain([first], filled)
    if first.lstrip().startswith("{"):
        yield from _parse_jsonl(rest, "standard input", text_field, id_field)
    else:
        yield from (Document.of(line.strip()) for line in rest)


def _parse_jsonl(
    lines: Iterable[str], name: str, text_field: str, id_field: str
) -> Iterator[Document]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{name}, line {number}"
        try:
            fields = json.loads(line, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{place}: broken JSON: {error}") from error
        if not isinstance(fields, dict):
            raise InputError(f"{place}: a JSON object is expected, not {type(fields).__name__}")
        if text_field not in fields:
            raise InputError(
                f"{place}: no field {text_field!r}; the fields are {', '.join(map(repr, fields))} "
                "(choose one with --text-field)"
            )
        item: dict[str, Any] = {TEXT: fields.pop(text_field), "id": fields.pop(id_field, None)}
        try:
            yield Document.of({**item, "payload": fields})
        except DocumentError as error:
            raise InputError(f"{place}: {error.field}: {error.reason}") from error


def _no_constant(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON value")


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """A file for reading as UTF-8 text; whatever goes wrong names the file."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield file
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}") from error
