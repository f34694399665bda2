"""Snippets are the passage that matched; the page shows text and never interprets it."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3qdrant.errors import InputError
from m3qdrant.rank import (
    Alignment,
    Component,
    DocumentVector,
    Explanation,
    Match,
    Term,
    Token,
    escaped,
    page,
)
from m3qdrant.rank.places import is_place

COMPONENTS = (
    Component("dense", 0.5, 0.4, 0.2),
    Component("sparse", 0.1, 0.2, 0.02),
    Component("colbert", 0.7, 0.4, 0.28),
)


def explained(
    text: str, spans: dict[tuple[int, int], float], *, id: str = "d", query: str = "q"
) -> Explanation:
    """An explanation with a ColBERT token a span, and what it contributes."""
    tokens = [Token(i, text[a:b] or "▁", a, b) for i, (a, b) in enumerate(spans)]
    vectors = tuple(
        DocumentVector(token.index, (token,), contribution)
        for token, contribution in zip(tokens, spans.values(), strict=True)
    )
    matches = tuple(
        Match(i, (Token(i, text[:9], 0, 9),), i, v.tokens, v.contribution, v.contribution)
        for i, v in enumerate(vectors)
    )
    n = len(vectors)
    cells = tuple(tuple(0.1 * (i + j) for j in range(n)) for i in range(n))
    aligned = Alignment(tuple(range(n)), tuple(range(n)), cells) if n else None
    terms = (Term(7, text[:9] or None, 0.5, 0.2, 0.1),)
    return Explanation(
        id, text, query, "weighted", 1, 0.5, COMPONENTS, terms, matches, vectors, aligned, (text,)
    )


def test_a_snippet_is_what_matched() -> None:
    text = "nothing here " * 80 + "the needle in the hay " + "and more of it " * 80
    start = text.index("needle")
    found = explained(text, {(start, start + 6): 0.3, (0, 7): 0.001}).snippet(80)
    assert "needle" in found.text
    assert text[found.start : found.end] == found.text
    assert found.cut == (True, True)
    assert [found.text[h.start : h.end] for h in found.highlights] == ["needle"]
    assert str(found).startswith("… ")
    assert str(found).endswith(" …")
    # in the middle of it, with whole words at its ends
    at = found.text.index("needle")
    assert 20 < at < 55
    assert text[found.start - 1].isspace()
    assert text[found.end].isspace()


def test_the_passage_with_most_wins() -> None:
    text = "x" * 10 + " one " + "y " * 300 + "two three " + "z " * 300
    one, two, three = (text.index(word) for word in ("one", "two", "three"))
    spans = {(one, one + 3): 0.4, (two, two + 3): 0.3, (three, three + 5): 0.2}
    assert "two three" in explained(text, spans).snippet(60).text
    assert "one" in explained(text, {**spans, (one, one + 3): 0.9}).snippet(60).text


@pytest.mark.parametrize("text", ["", "short", " spaces around "])
def test_a_short_text_is_given_whole(text: str) -> None:
    found = explained(text, {}).snippet(40)
    assert (found.text, found.cut) == (text, (False, False))


def test_without_matches_it_is_the_beginning() -> None:
    found = explained("word " * 100, {}).snippet(40)
    assert found.start == 0
    assert found.cut == (False, True)


@pytest.mark.parametrize("width", [0, -1, 1.5, True, "9"])
def test_widths_are_checked(width: object) -> None:
    with pytest.raises(InputError, match="width"):
        explained("a", {}).snippet(width)  # type: ignore[arg-type]


pieces = st.lists(
    st.sampled_from(
        [
            "a",
            "word",
            " ",
            "\r\n",
            "e\u0301",
            "ｶﾞ",
            "👨\u200d👩\u200d👧",
            "🇩🇪",
            "ที่",
            "ضَغْ",
            "東",
            "\u3000",
        ]
    ),
    max_size=60,
).map("".join)


@given(text=pieces, width=st.integers(1, 40), data=st.data())
def test_a_passage_parts_no_character(text: str, width: int, data: st.DataObject) -> None:
    bounds = st.integers(0, len(text))
    spans = data.draw(
        st.dictionaries(
            st.tuples(bounds, bounds).map(lambda each: (min(each), max(each))),
            st.floats(-0.2, 1.0),
            max_size=6,
        )
    )
    e = explained(text, spans)
    ends = 0
    for h in e.highlights:
        assert ends <= h.start < h.end <= len(text)
        assert is_place(text, h.start)
        assert is_place(text, h.end)
        ends = h.end
    found = e.snippet(width)
    assert text[found.start : found.end] == found.text
    assert is_place(text, found.start)
    assert is_place(text, found.end)
    # the widest character here has five parts
    assert len(found.text) <= width + 2 * 5
    for h in found.highlights:
        assert 0 <= h.start < h.end <= len(found.text)
    assert found.text or not text


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style><script>alert(1)</script>",
    "<!-- --> ]]> &lt; &#0; &amp;amp;",
    "</title></textarea><svg/onload=alert(1)>",
    "\x00\x1b[31m\x07\u202e\u2066abc",
    "javascript:alert(1)",
    "{{7*7}} ${alert(1)} <%= 1 %>",
]


class Seen(HTMLParser):
    """The elements, attributes and texts of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.values: list[str] = []
        self.texts: list[str] = []
        self.style = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.values += [value for _, value in attrs if value is not None]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.style += data
        else:
            self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")


KNOWN = {"html", "head", "meta", "title", "style", "body", "header", "nav", "main", "article",
         "section", "h1", "h2", "h3", "h4", "div", "p", "span", "bdi", "mark", "table", "caption",
         "thead", "tbody", "tfoot", "tr", "th", "td", "ul", "ol", "li", "a", "abbr", "details",
         "summary"}  # fmt: skip


@pytest.mark.parametrize("hostile", HOSTILE)
def test_nothing_hostile_gets_into_the_page(hostile: str) -> None:
    text = f"{hostile} and {hostile}"
    n = len(hostile)
    spans = {(0, 3): 0.2, (n, n): 0.1, (n + 5, 2 * n + 5): -0.1}
    e = explained(text, spans, id=hostile, query=hostile)
    safe = Seen(page([explained("plain", {(0, 5): 0.1}, id="x"), e], hostile))
    assert safe.tags <= KNOWN
    assert not any(name.startswith("on") or name == "src" for name in safe.attributes)
    assert not any("alert" in v for v in safe.values if v.startswith(("--w", "#")))
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", "".join(safe.texts))
    fragment = Seen(e._repr_html_())
    assert fragment.tags <= KNOWN
    for seen in (safe, fragment):
        assert readable(hostile) in readable("".join(seen.texts))


def readable(text: str) -> str:
    return "".join(c for c in text if c.isprintable() and not "\u2400" <= c <= "\u2421")


def test_the_page_needs_nothing_else_and_lets_nothing_run() -> None:
    html = page([explained("some text", {(0, 4): 0.3})], "query")
    seen = Seen(html)
    assert "default-src 'none'" in html
    assert "url(" not in seen.style
    assert "@import" not in seen.style
    assert not {"script", "link", "img", "iframe", "object"} & seen.tags
    assert "http" not in html.replace("http-equiv", "")
    # a screen reader: languages, headers of rows and columns, a name for what scrolls
    assert 'lang="en"' in html
    assert 'scope="col"' in html
    assert 'scope="row"' in html
    assert 'role="region" tabindex="0" aria-label="Alignment with d' in html
    assert html.count("<h1>") == 1


def test_a_long_text_is_shown_around_what_matched() -> None:
    text = "far " * 20_000 + "needle " + "away " * 20_000
    start = text.index("needle")
    html = page([explained(text, {(start, start + 6): 0.5})], "needle")
    assert ">needle</mark>" in html
    assert len(html) < len(text) / 2 + 200_000
    assert f"of {len(text):,} characters" in html


def test_controls_are_shown_by_their_pictures() -> None:
    assert escaped("a\x00b\x1b\x7f\x85\ud800\r\n") == "a\u2400b\u241b\u2421\ufffd\ufffd\n"


def test_a_ligature_and_its_tokens_are_one_highlight() -> None:
    text = "\ufb03 x"
    e = explained(text, {(0, 1): 0.1})
    both = Explanation(
        **{
            **{name: getattr(e, name) for name in e.__dataclass_fields__},
            "vectors": tuple(
                DocumentVector(i, (Token(i, part, 0, 1),), 0.1)
                for i, part in enumerate(["ff", "i"])
            ),
        }
    )
    (highlight,) = both.highlights
    assert (highlight.start, highlight.end) == (0, 1)
    assert highlight.contribution == pytest.approx(0.2 * 0.28 / 0.7)


def test_explanations_are_values() -> None:
    a, b = explained("x y", {(0, 1): 0.1}), explained("x y", {(0, 1): 0.1})
    assert a.highlights
    assert a == b
    assert hash(a) == hash(b)
