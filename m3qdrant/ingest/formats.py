"""What each kind of file holds: JSON, tables, texts; and what can't be read of it, by line.

A line that can't be read does not stop the others. Bytes that are no UTF-8 arrive here as
surrogates, which Unicode text never has, so that each fault is found in its line.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Literal, TypeAlias

from m3qdrant.errors import SourceError
from m3qdrant.ingest.chunks import Found, Sourced
from m3qdrant.ingest.cutting import Split
from m3qdrant.ingest.report import PassedOver
from m3qdrant.names import TEXT

__all__ = ["FORMATS", "Fields", "Format", "read_json", "read_lines", "read_passages"]

Format: TypeAlias = Literal["jsonl", "json", "text", "csv", "tsv"]
FORMATS: tuple[Format, ...] = ("jsonl", "json", "text", "csv", "tsv")

Lines: TypeAlias = Iterator[tuple[int, str]]

_OTHER_TEXT = f"{TEXT}_"
"""What a field "text" becomes, where the text is in another one."""

_IDS = {"id", "_id", "pid", "qid", "docid", "doc_id", "docno"}
"""What a first line of two cells has in its first one where it is a header."""

_SAMPLE = 10  # lines of a stream that are looked at to tell a table from texts

_UTF16 = ("\udcff\udcfe", "\udcfe\udcff")  # its marks, read as bytes that are no UTF-8
_ARRAY = re.compile(r"\[\s*(\{|$)")
_SPACE = re.compile(r"[ \t\r\n]*")
_NO_UTF8 = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Fields:
    """Where a record's text and id are.

    Attributes:
        text: the field with the text.
        id: the field with the id.
    """

    text: str = TEXT
    id: str = "id"


def read_lines(
    lines: Iterable[str], name: str, format: Format | None, fields: Fields
) -> Iterator[Found]:
    """Documents of a file or stream that is read by lines.

    Args:
        lines: with their ends, `newline=""`.
        name: the file's, for messages.
        format: None tells by the first lines.
        fields: where a record's text and id are.
    """
    lines = iter(lines)
    numbered = enumerate(lines, 1)
    filled = ((number, line) for number, line in numbered if line.strip("\ufeff \t\r\n"))
    first = next(filled, None)
    if first is None:
        return
    start = first[1].lstrip("\ufeff")
    if start.startswith(_UTF16):
        yield SourceError(name, "UTF-16 text: save it as UTF-8")
        return
    rest: Lines = chain([(first[0], start)], filled)
    if format is None and start.lstrip().startswith("{"):
        format = "jsonl"
    elif format is None and _ARRAY.match(start.strip()):
        format = "json"
    elif format is None and "\t" in start.strip():
        sample = [(first[0], start), *islice(filled, _SAMPLE - 1)]
        rest = chain(sample, filled)
        if fields.text in _cells(start) or all(_has_id(line) for _, line in sample):
            format = "tsv"  # else texts with tabs in them
    if format == "jsonl":
        yield from _read_jsonl(rest, name, fields)
    elif format == "json":
        yield from read_json("".join(chain([start], lines)), name, fields)
    elif format == "csv":
        # blank lines too may stand in a quoted cell
        yield from _read_csv(chain([start], lines), first[0], name, fields)
    elif format == "tsv":
        yield from _read_tsv(rest, name, fields)
    else:
        for number, line in rest:
            place = f"{name}:{number}"
            yield _undecodable(line, place) or Sourced(line.strip(" \t\r\n"), place)


def read_passages(text: str, name: str, split: Split) -> Iterator[Found]:
    """The passages of a text file; each one's id is "name#number"."""
    if text.startswith(_UTF16):
        yield SourceError(name, "UTF-16 text: save it as UTF-8")
    elif bad := _NO_UTF8.search(text):
        line = text.count("\n", 0, bad.start()) + 1
        yield SourceError(name, f"{_bad_byte(bad)} in line {line}; save the file as UTF-8")
    elif "\0" in text:
        yield SourceError(name, "holds NUL characters, so it is no text")
    elif not text.strip():
        yield PassedOver("empty", 1, [name])
    else:
        for number, passage in enumerate(split(text), 1):
            yield Sourced({"id": f"{name}#{number}", TEXT: passage, "path": name}, name)


# -- JSON lines


def _read_jsonl(lines: Lines, name: str, fields: Fields) -> Iterator[Found]:
    for number, line in lines:
        place = f"{name}:{number}"
        if fault := _undecodable(line, place):
            yield fault
            continue
        try:
            record = _JSON.decode(line.strip())
        except (ValueError, RecursionError) as error:
            yield SourceError(place, f"broken JSON (an object a line is expected): {error}")
            continue
        if isinstance(record, dict):
            yield _document(record, place, fields)
        else:
            yield SourceError(place, f"a JSON object is expected, not {type(record).__name__}")


def read_json(text: str, name: str, fields: Fields) -> Iterator[Found]:
    """Documents of a file of JSON: an array of objects, one object, or several in a row.

    Where it breaks, nobody knows where the next object begins: what is before is read.
    """
    text = text.lstrip("\ufeff")
    if text.startswith(_UTF16):
        yield SourceError(name, "UTF-16 text: save it as UTF-8")
        return
    begin = _skip_space(text, 0)
    if _is_lines(text, begin):
        numbered = enumerate(text.split("\n"), 1)
        yield from _read_jsonl(((n, line) for n, line in numbered if line.strip()), name, fields)
        return
    array = text.startswith("[", begin)
    place = _skip_space(text, begin + array)
    number = 0
    while place < len(text) and not (array and text[place] == "]"):
        number += 1
        which = f"{name}, object {number}"
        try:
            record, end = _JSON.raw_decode(text, place)
        except _TwiceError as error:
            yield SourceError(which, f"broken JSON: {error}")
            _, place = json.JSONDecoder().raw_decode(text, place)
            place = _next(text, place, array)
            continue
        except (ValueError, RecursionError) as error:
            yield SourceError(which, f"broken JSON, and the rest of the file is not read: {error}")
            return
        if fault := _undecodable(text[place:end], which):
            yield fault
        elif isinstance(record, dict):
            yield _document(record, which, fields)
        else:
            yield SourceError(which, f"a JSON object is expected, not {type(record).__name__}")
        place = _next(text, end, array)
    if array and (place >= len(text) or _skip_space(text, place + 1) < len(text)):
        what = "the array does not end" if place >= len(text) else "something follows the array"
        yield SourceError(name, f"broken JSON: {what}; what comes before was read")


def _next(text: str, end: int, array: bool) -> int:
    """Where the next object begins after one that ends at `end`."""
    place = _skip_space(text, end)
    if array and text.startswith(",", place):
        place = _skip_space(text, place + 1)
    return place


def _is_lines(text: str, begin: int) -> bool:
    """Whether an object ends with the first line, and another one begins after it."""
    line, _, rest = text[begin:].partition("\n")
    if not (line.startswith("{") and rest.lstrip().startswith("{")):
        return False
    try:
        _JSON.decode(line.strip())
    except (ValueError, RecursionError):
        return False
    return True


def _skip_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    assert found is not None  # none is a match too
    return found.end()


def _no_constant(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON value")


class _TwiceError(ValueError):
    """An object has a key twice."""


def _whole(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, unless it says something twice, of which JSON would drop the first."""
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _TwiceError(f"the key {twice!r} stands twice in an object")
    return record


_JSON = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_whole)


# -- tables


def _read_csv(lines: Iterator[str], number: int, name: str, fields: Fields) -> Iterator[Found]:
    csv.field_size_limit(2**31 - 1)  # a cell may hold a book
    first = next(lines)
    delimiter = next(
        (d for d in ",;\t" if fields.text in next(csv.reader([first], delimiter=d))), ","
    )
    reader = csv.reader(chain([first], lines), delimiter=delimiter, strict=True)
    yield from _read_table(_csv_rows(reader, number - 1, name), name, fields)


def _csv_rows(reader: Any, skipped: int, name: str) -> Iterator[tuple[int, list[str] | str]]:
    """Rows and the lines they begin in; what is wrong with one as a string."""
    while True:
        number = skipped + reader.line_num + 1
        try:
            yield number, next(reader)
        except csv.Error as error:
            yield number, f"broken CSV: {error}"
        except StopIteration:
            return


def _read_tsv(lines: Lines, name: str, fields: Fields) -> Iterator[Found]:
    rows: Iterator[tuple[int, list[str] | str]]
    rows = ((number, _cells(line)) for number, line in lines)
    first = next(rows)
    header = first[1]
    if len(header) == 2 and fields.text not in header and header[0] not in {*_IDS, fields.id}:
        rows = chain([(first[0], [fields.id, fields.text]), first], rows)
    else:
        rows = chain([first], rows)
    yield from _read_table(rows, name, fields)


def _cells(line: str) -> list[str]:
    """The cells of a line with tabs. Quotes are text, but for those that a table writer adds."""
    return [
        cell[1:-1].replace('""', '"') if re.fullmatch(r'"([^"]|"")*"', cell) else cell
        for cell in line.rstrip("\r\n").split("\t")
    ]


def _has_id(line: str) -> bool:
    """Whether a line begins with a word and a tab."""
    cell, tab, _ = line.partition("\t")
    return bool(tab) and len(cell.split()) == 1


def _read_table(
    rows: Iterator[tuple[int, list[str] | str]], name: str, fields: Fields
) -> Iterator[Found]:
    number, header = next(rows)
    place = f"{name}:{number}"
    if isinstance(header, str):
        yield SourceError(place, header)
        return
    if fault := _undecodable("\t".join(header), place):
        yield fault
        return
    if fields.text not in header:
        yield SourceError(
            place,
            f"no column {fields.text!r} in the header; the columns are {_named(header)} (choose "
            "one with --text-field; lines without a header can be ID, tab, text; --format text "
            "takes lines as they are)",
        )
        return
    if twice := [column for column in header if header.count(column) > 1]:
        yield SourceError(place, f"two columns are called {twice[0]!r}: rename one")
        return
    for number, row in rows:
        place = f"{name}:{number}"
        if isinstance(row, str):
            yield SourceError(place, row)
        elif fault := _undecodable("\t".join(row), place):
            yield fault
        elif len(row) > len(header):
            yield SourceError(
                place,
                f"has {len(row)} cells, the header {len(header)}: quote cells with delimiters in "
                "CSV; in TSV no cell may hold a tab or a line break",
            )
        elif any(row):
            record: dict[str, Any] = dict(zip(header, row, strict=False))
            for column in (fields.id, "_id"):
                if record.get(column) == "":
                    del record[column]
            yield _document(record, place, fields)


# -- records


def _document(record: dict[str, Any], place: str, fields: Fields) -> Sourced | SourceError:
    """The document that a record is."""
    if fields.text not in record:
        return SourceError(
            place,
            f"no field {fields.text!r}; the fields are {_named(record)} (choose one with "
            "--text-field)",
        )
    text, id = record.pop(fields.text), record.pop(fields.id, None)
    beir = record.get("_id")
    if id is None and fields.id == "id" and isinstance(beir, str | int):
        id = record.pop("_id")
        title = record.get("title")
        if isinstance(title, str) and title.strip() and isinstance(text, str):
            text = f"{title}\n{text}"
    if TEXT in record:
        if _OTHER_TEXT in record:
            return SourceError(
                place,
                f"beside {fields.text!r}, fields {TEXT!r} and {_OTHER_TEXT!r}: the first would be "
                "stored as the second, so rename one",
            )
        record[_OTHER_TEXT] = record.pop(TEXT)
    return Sourced({TEXT: text, "id": id, "payload": record}, place)


def _named(names: Iterable[str] | Mapping[str, Any]) -> str:
    listed = [repr(name) for name in names]
    return ", ".join(listed[:20]) + (f" and {len(listed) - 20} more" if len(listed) > 20 else "")


def _undecodable(line: str, place: str) -> SourceError | None:
    if line.isascii() or not (bad := _NO_UTF8.search(line)):
        return None
    return SourceError(place, f"{_bad_byte(bad)} at character {bad.start() + 1}")


def _bad_byte(found: re.Match[str]) -> str:
    return f"not UTF-8 text: byte 0x{ord(found[0]) & 0xFF:02x}"
