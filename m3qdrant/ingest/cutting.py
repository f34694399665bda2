"""A long text in passages that are each encoded whole, measured as the model measures them.

A passage ends between paragraphs where it can, else after a sentence, a line or a word, else
anywhere. Paragraphs are measured many at a time, and one of any length a stretch at a time.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from m3qdrant.encode import Encoder

__all__ = ["Split", "passages", "splitter"]

Split: TypeAlias = Callable[[str], Iterator[str]]
Sizes: TypeAlias = Callable[[Sequence[str]], Sequence[int]]

_TOKENS = 400  # a length that one dense vector still tells apart
_CHARACTERS = 1_500  # likewise, where nobody counts tokens
_LEAST = 16  # tokens: shorter ones would say nothing
_LONGEST = 32  # characters: a text of more for each token is not even measured
_USUAL = 4  # characters that a token has, mostly
_TOGETHER = 64  # paragraphs that are measured at once

_PARAGRAPHS = re.compile(r"\n\s*\n|\n(?=#{1,6} )")
_HEADING = re.compile(r"#{1,6} ")
_ENDS = tuple(
    map(
        re.compile,
        (r"""[.!?]["')\]]*(?=\s)|[。！？…]["'”’」』）]*""", r"(?=\n)", r"(?=\s)"),
    )
)
"""Where sentences, lines and words end."""


def splitter(encoder: Encoder | None, max_length: int) -> Split:
    """What cuts a text into passages of which the encoder cuts none.

    Args:
        encoder: one without the optional `count_tokens` has its texts measured in characters.
        max_length: tokens a text is cut to, specials included.
    """
    count = getattr(encoder, "count_tokens", None)
    if encoder is None or count is None:
        return passages
    limit = max(_LEAST, min(_TOKENS, max_length, encoder.max_length))
    return partial(passages, limit=limit, sizes=count)


def passages(text: str, limit: int = _CHARACTERS, sizes: Sizes | None = None) -> Iterator[str]:
    """`text` in passages of at most `limit`, cut between paragraphs where possible.

    A Markdown heading begins a new passage. A paragraph longer than `limit` is cut between
    sentences, else between lines, else between words, else anywhere.

    Args:
        text: of any length.
        limit: the most that a passage measures.
        sizes: measures texts in a model's tokens, specials included; None in characters.
    """
    return _Cutter(limit, sizes).passages(text)


class _Cutter:
    """Cuts texts by one measure."""

    def __init__(self, limit: int, sizes: Sizes | None) -> None:
        self._limit = limit
        self._longest = limit * _LONGEST
        self._sizes: Sizes = sizes if sizes is not None else lambda texts: list(map(len, texts))
        self._nothing = self._size("")  # the special tokens
        self._joint = self._size("\n\n") - self._nothing

    def passages(self, text: str) -> Iterator[str]:
        passage, size = "", 0
        for paragraph, its_size in self._measured(_paragraphs(text)):
            joined = size + self._joint + its_size - self._nothing
            if passage and (joined > self._limit or _HEADING.match(paragraph)):
                yield from self._checked(passage)
                passage = ""
            if its_size > self._limit:
                *full, paragraph = self._split(paragraph)
                yield from full
                its_size = self._size(paragraph)
            size = joined if passage else its_size
            passage = f"{passage}\n\n{paragraph}" if passage else paragraph
        if passage:
            yield from self._checked(passage)

    def _measured(self, paragraphs: Iterator[str]) -> Iterator[tuple[str, int]]:
        """Paragraphs and their sizes; of those with too many characters, these."""
        while some := list(islice(paragraphs, _TOGETHER)):
            short = [text if len(text) <= self._longest else "" for text in some]
            for text, size in zip(some, self._sizes(short), strict=True):
                yield text, size if len(text) <= self._longest else len(text)

    def _checked(self, passage: str) -> Iterator[str]:
        """A passage; cut where its paragraphs together are more than they are alone."""
        if "\n\n" in passage and self._size(passage) > self._limit:
            yield from self._split(passage)
        else:
            yield passage

    def _split(self, text: str) -> Iterator[str]:
        """A text that is too long, in passages as long as they may be."""
        start = 0
        while start < len(text):
            stretch = text[start : start + self._longest]
            reach = self._reach(stretch)
            if start + reach == len(text):
                yield stretch
                return
            cut = _end(stretch, reach)
            # alone, a text may have a token more than as the beginning of another
            while cut > 1 and self._size(stretch[:cut].rstrip()) > self._limit:
                cut = _end(stretch, max(cut * 15 // 16, 1))
            yield stretch[:cut].rstrip()
            start += cut
            while start < len(text) and text[start].isspace():
                start += 1

    def _reach(self, text: str) -> int:
        """How many characters of `text` measure the limit, or up to a twentieth less."""
        fits, over = 0, len(text) + 1
        guess = min(len(text), self._limit * _USUAL)
        while over - fits > 1:
            size = self._size(text[:guess])
            if size > self._limit:
                over = guess
            else:
                fits = guess
                if guess == len(text) or size >= self._limit * 0.95:
                    break
            guess = min(guess * self._limit // max(size, 1), len(text))
            if not fits < guess < over:
                guess = (fits + over) // 2
        return max(fits, 1)

    def _size(self, text: str) -> int:
        return int(self._sizes([text])[0])


def _paragraphs(text: str) -> Iterator[str]:
    start = 0
    for border in _PARAGRAPHS.finditer(text):
        if paragraph := text[start : border.start()].strip():
            yield paragraph
        start = border.end()
    if paragraph := text[start:].strip():
        yield paragraph


def _end(text: str, reach: int) -> int:
    """Where to cut `text` at or before `reach`, at least half way there if something ends."""
    for end in _ENDS:
        found = [match.end() for match in end.finditer(text, reach // 2, reach + 1)]
        found = [place for place in found if reach // 2 < place <= reach]
        if found:
            return found[-1]
    cut = reach
    while 1 < cut < len(text) and unicodedata.category(text[cut])[0] == "M":
        cut -= 1  # a letter keeps its marks
    return cut
