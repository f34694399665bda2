"""Paths into a payload: what they lead to, and that the engine reads the same paths."""

from __future__ import annotations

import sys
import unicodedata
from typing import Any

import pytest
import qdrant_edge as edge
from hypothesis import example, given, settings
from hypothesis import strategies as st

from m3qdrant.errors import InputError
from m3qdrant.jsonpath import EVERY, as_path, check_depth, first_key, parse, values_at

PAYLOAD = {
    "a": 1,
    "l": ["x", "y"],
    "d": {"e": 2, "f": [{"g": 3}, {"g": [4, 5]}, 9]},
    "o.d d": {"z": 6},
    "": {"": 7},
    "größe": 8,
    "हि": 9,
    "n": [[1, 2], [3]],
}


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("a", [1]),
        ("l", ["x", "y"]),
        ("l[]", ["x", "y"]),
        ("l[1]", ["y"]),
        ("l[7]", []),
        ("d.e", [2]),
        ("d.f[].g", [3, 4, 5]),
        ("d.f[1].g", [4, 5]),
        ('"o.d d".z', [6]),
        ("a.b", []),
        ("l.a", []),
        ("none", []),
        ('"".""', [7]),
        ("größe", [8]),
        ("हि", [9]),
        ("n[][]", [1, 2, 3]),
        ("n[0][1]", [2]),
        ("n[1]", [3]),
        ('"a"', [1]),
    ],
)
def test_values(path: str, values: list[Any]) -> None:
    assert values_at(PAYLOAD, path) == values
    assert values_at(None, path) == []
    assert path.startswith(first_key(path))


def test_lists_as_they_are() -> None:
    assert values_at(PAYLOAD, "l", flat=False) == [["x", "y"]]
    assert values_at(PAYLOAD, "d.f[].g", flat=False) == [3, [4, 5]]


def test_steps() -> None:
    assert parse('a."b.c"[].d[3]') == ["a", "b.c", EVERY, "d", 3]
    assert [first_key(p) for p in ("a.b", "a[0].b", '"x.y".z', '""', "é.b")] == [
        "a",
        "a",
        '"x.y"',
        '""',
        "é",
    ]


@pytest.mark.parametrize(
    "path", ["", "a..b", "a.", ".a", "[]", "a b", "a[b]", 'a"b', "é\N{MULTIPLICATION SIGN}"]
)
def test_what_is_no_path(path: str) -> None:
    with pytest.raises(InputError, match="is no path into a payload"):
        parse(path)
    with pytest.raises(InputError, match="is no path into a payload"):
        values_at({}, path)


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("a", "a"),
        ("a.b[0]", "a.b[0]"),
        ('"a b"', '"a b"'),
        ('a."b c"', 'a."b c"'),
        ("my key", '"my key"'),
        ("rdfs:sub", '"rdfs:sub"'),
        ("@id", '"@id"'),
        ("a/b", '"a/b"'),
        ("a..b", '"a..b"'),
        ("[x]", '"[x]"'),
        (".", '"."'),
        ("größe in m²", '"größe in m²"'),
    ],
)
def test_a_key_as_it_is_spelt(key: str, path: str) -> None:
    assert as_path(key) == path
    assert engine_takes(path)


@pytest.mark.parametrize("key", ["", None, 3, 'a"b', '"a', "a\\b c"])
def test_keys_that_have_no_path(key: Any) -> None:
    with pytest.raises(InputError, match=r"is no payload key|have no way to write"):
        as_path(key)


def test_a_path_that_is_no_string() -> None:
    with pytest.raises(InputError, match="None is no path"):
        parse(None)


def test_depth() -> None:
    assert check_depth(".".join("a" * 33)) == ".".join("a" * 33)
    with pytest.raises(InputError, match="more than 32 steps"):
        check_depth(".".join("a" * 34))
    with pytest.raises(InputError, match="more than 32 steps"):
        parse("a" + "[]" * 40)


# the engine's own grammar


def engine_takes(path: str) -> bool:
    """As in a filter."""
    try:
        edge.IsEmptyCondition(path)
    except ValueError:
        return False
    return True


def we_take(path: str) -> bool:
    try:
        parse(path)
    except InputError as error:
        return "steps" in str(error)  # the engine has no such limit
    return True


def the_engine_decides(character: str) -> bool:
    """Marks, and characters newer than this Python: see `jsonpath._in_names`."""
    return unicodedata.category(character) in ("Mn", "Mc", "Cn")


def assert_agreement(path: str) -> None:
    if engine_takes(path) != we_take(path):
        assert we_take(path), f"only the engine takes {path!r}"
        assert any(map(the_engine_decides, path)), f"the engine doesn't take {path!r}"


KEYS = [
    "a",
    "B7",
    "_",
    "-",
    "é",
    "²",
    "日本",
    "\u0301",
    '"a b"',
    '"x.y"',
    '"[]"',
    '""',
    "\0",
    "\n",
]
REST = [
    "²",
    ".",
    "..",
    "[]",
    "[0]",
    "[12]",
    "[",
    "]",
    '"',
    "\\",
    " ",
    "[-1]",
    "[18446744073709551615]",
]
PIECES = st.sampled_from([*KEYS, *REST])
PATHS = st.lists(PIECES | st.characters(exclude_categories=["Cs"]), max_size=8).map("".join)


@settings(max_examples=1000)
@given(PATHS)
@example('"a\\nb"')
@example("a[18446744073709551616]")
@example("a[0000000000000000000000001]")
@example("ͅ")
@example("Ⓐ")
@example("a\n")
@example("٣[٣]")
@example(f"a[{'9' * 5000}]")
@example(f"a[{'0' * 5000}]")
def test_the_engine_takes_the_same_paths(path: str) -> None:
    assert_agreement(path)


def test_every_character() -> None:
    """Each of the basic plane, and some of the others, where scripts come in blocks."""
    for code in [*range(0x10000), *range(0x10000, sys.maxunicode + 1, 11)]:
        character = chr(code)
        if unicodedata.category(character) != "Cs":  # half of one, which no payload can hold
            assert_agreement(character)
            if code < 0x300:
                assert_agreement(f'"{character}"')


@given(
    st.lists(
        st.sampled_from(["a", "b-c", '"d e"', '""', "é"]).map(lambda key: (key, key.strip('"')))
        | st.sampled_from([("[]", EVERY), ("[0]", 0), ("[2]", 2)]),
        max_size=6,
    )
)
def test_a_path_comes_apart_into_its_steps(steps: list[tuple[str, Any]]) -> None:
    path, expected = "a", ["a", *(step for _, step in steps)]
    for text, step in steps:
        path += text if not isinstance(step, str) else f".{text}"
    assert parse(path) == expected
    assert engine_takes(path)
