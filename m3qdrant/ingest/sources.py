"""Documents from files: JSONL, plain text, Markdown, folders of these, and standard input; and
the JSONL that they are written to.

Every file is checked before the first document is given out, so that a fault in line 90,000 does
not leave half a collection behind. Standard input and named pipes can be read only once: they are
checked as they come.
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

from m3qdrant.collection import Document
from m3qdrant.errors import DocumentError, InputError
from m3qdrant.files import replacing
from m3qdrant.names import TEXT

__all__ = ["STDIN", "Source", "jsonl_line", "open_sources", "passages", "written"]

STDIN = "-"
"""The path that stands for standard input."""

_OTHER_TEXT = f"{TEXT}_"
"""What a field "text" becomes, where the text is in another one."""

_PASSAGE = 1_500  # characters: some 400 tokens, a length that one dense vector still tells apart
_TEXT_SUFFIXES = {".txt", ".md", ".markdown"}
_JSONL_SUFFIXES = {".jsonl", ".ndjson"}


@dataclass(frozen=True)
class Source:
    """Documents to ingest.

    Attributes:
        documents: one after another, read as they are asked for.
        total: how many there are; None where it isn't known, as for standard input and pipes.
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
      Where the text is in another field than "text", a field of that name becomes "text_", for
      "text" is what the document's own text is stored under.
    - `.txt`, `.md`: cut into passages at blank lines and headings (see `passages`); a passage's id
      is "path#number" and its payload {"path": path}.
    - a folder: all of these in it, at any depth, hidden ones left out.
    - "-": standard input, as JSONL where its first line begins with "{", else a document a line;
      a named pipe without one of these endings is read likewise.

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
            readers.append(partial(_read_stream, stdin, "standard input", text_field, id_field))
            total = None
            continue
        reader = _reader(Path(path), text_field, id_field)
        if not Path(path).is_file():  # a pipe: what was read is gone
            readers.append(reader)
            total = None
            continue
        count = sum(1 for _ in reader())  # the check: every line is parsed once
        total = None if total is None else total + count
        readers.append(reader)
    return Source(chain.from_iterable(reader() for reader in readers), total)


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
    if not path.is_file():
        return partial(_read_pipe, path, text_field, id_field)
    raise InputError(
        f"{path}: can't tell what this is; readable are "
        f"{', '.join(sorted(_JSONL_SUFFIXES | _TEXT_SUFFIXES))} and folders of them"
    )


def _read_jsonl(path: Path, text_field: str, id_field: str) -> Iterator[Document]:
    with _opened(path) as lines:
        yield from _parse_jsonl(enumerate(lines, 1), str(path), text_field, id_field)


def _read_text(path: Path) -> Iterator[Document]:
    with _opened(path) as file:
        text = file.read()
    for number, passage in enumerate(passages(text), 1):
        yield Document.of({"id": f"{path}#{number}", TEXT: passage, "path": str(path)})


def _read_pipe(path: Path, text_field: str, id_field: str) -> Iterator[Document]:
    with _opened(path) as lines:
        yield from _read_stream(lines, str(path), text_field, id_field)


def _read_stream(lines: TextIO, name: str, text_field: str, id_field: str) -> Iterator[Document]:
    filled = ((number, line) for number, line in _numbered(lines, name) if line.strip())
    first = next(filled, None)
    if first is None:
        return
    rest = chain([first], filled)
    if first[1].lstrip("\ufeff \t").startswith("{"):
        yield from _parse_jsonl(rest, name, text_field, id_field)
    else:
        yield from (Document.of(line.strip("\ufeff \t\r\n")) for _, line in rest)


def _numbered(lines: TextIO, name: str) -> Iterator[tuple[int, str]]:
    """Lines and their numbers, from 1, of a stream that may hold anything."""
    try:
        yield from enumerate(lines, 1)
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not UTF-8 text: {error}") from error


def _parse_jsonl(
    lines: Iterable[tuple[int, str]], name: str, text_field: str, id_field: str
) -> Iterator[Document]:
    for number, line in lines:
        if not line.strip():
            continue
        place = f"{name}, line {number}"
        try:
            fields = json.loads(line.lstrip("\ufeff"), parse_constant=_no_constant)
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
        if TEXT in fields:
            if _OTHER_TEXT in fields:
                raise InputError(
                    f"{place}: beside {text_field!r}, fields {TEXT!r} and {_OTHER_TEXT!r}: the "
                    "first would be stored as the second, so rename one"
                )
            fields[_OTHER_TEXT] = fields.pop(TEXT)
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
