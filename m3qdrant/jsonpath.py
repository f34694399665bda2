"""Paths into a payload, by Qdrant's grammar: `year`, `author.name`, `tags[].name`, `a[0]`, and in
double quotes any other key, `"year of birth"`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from m3qdrant.errors import InputError
from m3qdrant.limits import MAX_NESTING

__all__ = ["EVERY", "as_path", "check_depth", "first_key", "groups_at", "parse", "values_at"]

EVERY = slice(None)
"""The step `[]`: every item of a list."""

_NAME = r"[\w\x80-\U0010ffff-]+"  # beyond ASCII, `_in_names` says which
_QUOTED = r'"[^"\\]*"'
_STEP = re.compile(rf"(?:(?P<key>{_NAME})|(?P<quoted>{_QUOTED}))|\[(?P<index>[0-9]*)\]")
_KEY = rf"(?:{_NAME}|{_QUOTED})(?:\[[0-9]*\])*"
_PATH = re.compile(rf"{_KEY}(?:\.{_KEY})*")

_CIRCLED = "[\u24b6-\u24e9\U0001f130-\U0001f149\U0001f150-\U0001f169\U0001f170-\U0001f189]"
_LETTERS = re.compile(rf"[\w-]|{_CIRCLED}")
"""What Unicode calls letters or numbers, besides marks; the circled ones among its symbols are."""

_MOST_INDEX = 2**64 - 1
_MOST_STEPS = MAX_NESTING // 2


def parse(path: object) -> list[str | int | slice]:
    """A path's steps: a key, the index of an item, or `EVERY`.

    Raises:
        InputError: it is no path, or has more steps than a payload can have levels.
    """
    if not isinstance(path, str) or not _is_path(path):
        raise InputError(
            f"{path!r} is no path into a payload: give a key such as 'year', 'author.name' or, "
            "with double quotes around it, '\"year of birth\"'"
        )
    return [_step(match) for match in _STEP.finditer(check_depth(path))]


def as_path(key: object) -> str:
    """The path to a payload's key as it is spelt: a path is itself, any other key is quoted.

    Raises:
        InputError: the key is no string, is empty, or holds double quotes or a backslash, for
            which Qdrant's paths have no way of being written.
    """
    if not isinstance(key, str) or not key:
        raise InputError(f"{key!r} is no payload key; keys are strings")
    key = str.__str__(key)
    if not _is_path(key):
        if '"' in key or "\\" in key:
            raise InputError(
                f"{key!r} can't be filtered by: Qdrant's paths have no way to write a key with "
                "double quotes or backslashes; store it under another name"
            )
        key = f'"{key}"'
    parse(key)
    return key


def _is_path(text: str) -> bool:
    return _PATH.fullmatch(text) is not None and _names_hold(text)


def _names_hold(path: str) -> bool:
    return path.isascii() or all(
        _in_names(character) for match in _STEP.finditer(path) for character in match["key"] or ""
    )


def _in_names(character: str) -> bool:
    """Whether a key without quotes may hold it: letters and numbers of every script.

    Which of the marks in a script are letters, and which characters are newer than this Python's
    tables, isn't asked here: the engine knows.
    """
    if _LETTERS.match(character):
        return True
    category = unicodedata.category(character)
    return category in ("Mn", "Mc") or (category == "Cn" and not _is_no_character(character))


def _is_no_character(character: str) -> bool:
    return ord(character) & 0xFFFE == 0xFFFE or "\ufdd0" <= character <= "\ufdef"


def check_depth(path: str) -> str:
    """`path`, where it has no more steps than a payload can have levels.

    The engine checks a path's syntax by itself, but would follow one of any length.

    Raises:
        InputError: it has more.
    """
    if len(_STEP.findall(path)) > _MOST_STEPS + 1:
        raise InputError(f"the key {path[:40]!r}... has more than {_MOST_STEPS} steps")
    return path


def _step(match: re.Match[str]) -> str | int | slice:
    if match["index"] is None:
        return match["key"] if match["quoted"] is None else match["quoted"][1:-1]
    if not match["index"]:
        return EVERY
    digits = match["index"].lstrip("0") or "0"
    if len(digits) > 20 or int(digits) > _MOST_INDEX:
        raise InputError(f"the index [{digits[:40]}] in a path is beyond 64 bits")
    return int(digits)


def values_at(payload: Mapping[str, Any] | None, path: str, *, flat: bool = True) -> list[Any]:
    """The values that a path leads to; with `flat`, a list among them counts as its items.

    Raises:
        InputError: see `parse`.
    """
    found: list[Any] = [payload]
    for step in parse(path):
        if isinstance(step, str):
            found = [v[step] for v in found if isinstance(v, Mapping) and step in v]
        elif isinstance(step, slice):
            found = [item for v in found if isinstance(v, list) for item in v]
        else:
            found = [v[step] for v in found if isinstance(v, list) and step < len(v)]
    if not flat:
        return found
    return [item for v in found for item in (v if isinstance(v, list) else [v])]


def groups_at(payload: Mapping[str, Any] | None, path: str) -> list[str | int]:
    """The groups that a point is in by a field: its strings and integers, each once.

    As in Qdrant, one value that can name no group keeps the point out of all of them.

    Raises:
        InputError: see `parse`.
    """
    values = values_at(payload, path)
    if not all(type(value) in (int, str) for value in values):
        return []
    return list(dict.fromkeys(values))


def first_key(path: str) -> str:
    """The field of the payload that a path starts at, as a path of its own."""
    step = _STEP.match(path)
    return path if step is None else step[0]
