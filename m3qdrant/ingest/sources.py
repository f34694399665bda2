"""Documents from files: JSON lines, tables, plain text, Markdown, folders of these, and streams.

What can't be read, a file or a line of one, does not stop the others: it is given out where its
documents would have been, and ends in the report. So do the files of a folder that are not read.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO, TypeAlias

from m3qdrant.collection import Document
from m3qdrant.edge import is_claim
from m3qdrant.errors import DocumentError, InputError, SourceError
from m3qdrant.ingest.chunks import Found
from m3qdrant.ingest.cutting import Split, passages
from m3qdrant.ingest.formats import (
    FORMATS,
    Fields,
    Format,
    read_json,
    read_lines,
    read_passages,
)
from m3qdrant.ingest.report import IngestReport, PassedOver
from m3qdrant.names import TEXT

__all__ = ["STDIN", "Source", "open_sources"]

STDIN = "-"
"""The path that stands for standard input."""

_SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".txt": "text",
    ".md": "text",
    ".markdown": "text",
    ".csv": "csv",
    ".tsv": "tsv",
}
_NAMED: dict[str, Format] = {".json": "json"}
"""Of the files in a folder, most of these are no documents: they are read where they are named."""

_PACKED = ".gz"

_COLLECTION = "collection.json"  # in the directory of each embedded collection

_Reader: TypeAlias = Callable[[Split], Iterator[Found]]


@dataclass(frozen=True)
class Source:
    """Documents to ingest.

    Attributes:
        readers: one a file.
        once: whether a stream is among them, which can't be read again.
    """

    readers: list[_Reader]
    once: bool

    def items(self, split: Split = passages) -> Iterator[Found]:
        """Documents, and what could not be read, one after another, as they are asked for.

        Args:
            split: cuts text files into passages.
        """
        for reader in self.readers:
            yield from reader(split)

    def total(self, split: Split = passages) -> int | None:
        """How many there will be; None where it isn't known, as for standard input and pipes."""
        if self.once:
            return None
        return sum(not isinstance(item, PassedOver) for item in self.items(split))

    def check(self) -> None:
        """Find out whether there is anything to store, before anything is made for it.

        Raises:
            InputError: there is not, with the reasons.
        """
        if self.once:
            return
        report = IngestReport()
        for item in self.items():
            if isinstance(item, PassedOver):
                report.pass_over(item)
                continue
            try:
                if isinstance(item, SourceError):
                    raise item
                Document.of(item.item)
            except DocumentError as error:
                report.failed.append(error)
            else:
                return
        if report.failed or any(group.reason != "empty" for group in report.passed_over):
            raise InputError("; ".join(["there is nothing to store", *report.remarks]))


def open_sources(
    paths: Sequence[str | Path],
    *,
    text_field: str = TEXT,
    id_field: str = "id",
    format: Format | None = None,
    stdin: TextIO | None = None,
) -> Source:
    """Find files to read.

    - `.jsonl`: an object a line; the two fields are its text and its id, all others its payload.
      Where the text is in another field than "text", a field of that name becomes "text_", for
      "text" is what the document's own text is stored under. Where there is no "id" but "_id", as
      in BEIR's corpora, that is the id, and a "title" is set before the text (and kept).
    - `.csv`, `.tsv`: a record a row, with a header that names the fields; all values are strings.
      A TSV without a header may have two columns, id and text. In a CSV, semicolons or tabs may
      stand for the commas.
    - `.json`: an array of such objects, or one or more of them in a row.
    - `.txt`, `.md`: cut into passages at blank lines and headings (see `passages`); a passage's id
      is "path#number" and its payload {"path": path}.
    - one of these endings and `.gz`: the same, compressed.
    - a folder: all of these in it but `.json`, at any depth; hidden ones, links to folders and
      embedded collections are left out, and said.
    - "-": standard input, as JSONL where its first line begins with "{", as JSON with "[{", as
      TSV where all of the first lines have as many tabs, else a document a line; a named pipe
      without one of these endings is read likewise.

    All are UTF-8, whatever the locale.

    Args:
        paths: what to read, in this order.
        text_field: the field that holds the text.
        id_field: the field that holds the id; where a record has none, the text decides.
        format: of the files named and of streams, whatever their endings; "text" is a document a
            line on streams. In folders the endings decide.
        stdin: standard input, where "-" is among the paths.

    Raises:
        InputError: a path does not exist, or the format is unknown.
    """
    if format is not None and format not in FORMATS:
        raise InputError(f"format is {format!r}: give {', '.join(map(repr, FORMATS))}")
    fields = Fields(text_field, id_field)
    readers: list[_Reader] = []
    once = False
    for given in paths:
        path = Path(given)
        if str(given) == STDIN:
            if stdin is None:
                raise InputError("'-' is standard input, but there is none")
            readers.append(partial(_read_stdin, stdin, format, fields))
            once = True
        elif path.is_dir():
            readers.append(partial(_read_folder, path, fields))
        elif path.is_file():
            readers.append(partial(_read_named, path, format, fields))
        elif path.exists():  # a pipe
            found = format or _format_of(path, named=True)
            readers.append(partial(_read_file, path, found, fields))
            once = True
        elif path.is_symlink():
            readers.append(partial(_read_named, path, format, fields))
        else:
            raise InputError(f"{_name(path)}: no such file or folder")
    return Source(readers, once)


def _read_stdin(
    stdin: TextIO, format: Format | None, fields: Fields, split: Split
) -> Iterator[Found]:
    if isinstance(stdin, io.TextIOWrapper):
        with suppress(io.UnsupportedOperation):  # of a caller who has read from it
            stdin.reconfigure(encoding="utf-8", errors="surrogateescape", newline="")
    yield from read_lines(stdin, "standard input", format, fields)


def _read_named(
    path: Path, format: Format | None, fields: Fields, split: Split
) -> Iterator[Found]:
    """A file that was named, so that it is a fault if it can't be read."""
    format = format or _format_of(path, named=True)
    if format is None:
        endings = ", ".join([*_SUFFIXES, *_NAMED])
        yield SourceError(
            _name(path),
            f"can't tell what this is; readable are {endings} (each also with {_PACKED}), folders "
            "of them, and what --format says",
        )
        return
    yield from _read_file(path, format, fields, split)


def _read_folder(folder: Path, fields: Fields, split: Split) -> Iterator[Found]:
    for found in _walk(folder):
        if isinstance(found, Path):
            yield from _read_file(found, _format_of(found), fields, split)
        else:
            yield found


def _walk(folder: Path) -> Iterator[Path | PassedOver | SourceError]:
    """The files of a folder, in the order of their names, and why others are none to read."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        yield SourceError(_name(folder), f"can't be read: {error.strerror}")
        return
    for entry in entries:
        path = folder / entry.name
        name, suffix = _name(path), path.suffix.lower()
        if entry.name.startswith("."):
            yield PassedOver("hidden", 1, [name])
        elif entry.is_dir(follow_symlinks=False):
            if (path / _COLLECTION).is_file() and (path / "shard").is_dir():
                yield PassedOver("a collection of the embedded engine", 1, [name])
            else:
                yield from _walk(path)
        elif _kind(path) == stat.S_IFDIR:
            yield PassedOver("links to folders are not followed", 1, [name])
        elif suffix in _NAMED and is_claim(path):
            continue  # a part of the embedded engine's collections, which are named themselves
        elif suffix in _NAMED:
            yield PassedOver(f"{suffix} files are read where they are named", 1, [name])
        elif _format_of(path) is None:
            what = f"{suffix} files" if suffix else "files without an ending"
            yield PassedOver(f"{what} are not read", 1, [name])
        elif _kind(path) in (None, stat.S_IFREG):  # what can't be asked fails where it is read
            yield path
        else:
            yield PassedOver("no regular file", 1, [name])


def _format_of(path: Path, *, named: bool = False) -> Format | None:
    """What a file's ending says that it is; None where it says nothing."""
    name = Path(path.name.lower())
    suffix = Path(name.stem).suffix if name.suffix == _PACKED else name.suffix
    return _SUFFIXES.get(suffix) or (_NAMED.get(suffix) if named else None)


def _kind(path: Path) -> int | None:
    try:
        return stat.S_IFMT(path.stat().st_mode)
    except OSError:
        return None


def _read_file(path: Path, format: Format | None, fields: Fields, split: Split) -> Iterator[Found]:
    name = _name(path)
    whole = format in ("text", "json") and path.is_file()
    try:
        with _opened(path, None if whole else "") as file:
            if whole:
                text = file.read()
                if format == "text":
                    yield from read_passages(text, name, split)
                elif text.strip("\ufeff \t\r\n"):
                    yield from read_json(text, name, fields)
                else:
                    yield PassedOver("empty", 1, [name])
                return
            nothing = True
            for part in read_lines(file, name, format, fields):
                nothing = False
                yield part
            if nothing:
                yield PassedOver("empty", 1, [name])
    except OSError as error:
        yield SourceError(name, f"can't be read: {error.strerror or error}")
    except (EOFError, zlib.error) as error:
        yield SourceError(name, f"can't be unpacked further than this: {error}")


def _opened(path: Path, newline: str | None) -> TextIO:
    """A file for reading; what is no UTF-8 is found where the lines are looked at."""
    how: Any = {"encoding": "utf-8-sig", "errors": "surrogateescape", "newline": newline}
    packed = path.suffix.lower() == _PACKED
    opened: Any = (gzip.open if packed else open)(path, "rt", **how)
    found: TextIO = opened
    return found


def _name(path: Path) -> str:
    """The path as text, whatever bytes it is made of."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
