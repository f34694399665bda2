"""Explanation: why a document ranks where it does, as data and as people see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from m3qdrant.errors import InputError
from m3qdrant.rank.html_page import article, styled
from m3qdrant.rank.parts import Highlight, Parts, plain
from m3qdrant.rank.places import is_place, next_place, place_before

__all__ = ["Explanation", "Snippet"]

_WORD = 16
"""Characters, at either end of a snippet, that are kept for the rest of a word that begins or ends
there."""


@dataclass(frozen=True)
class Snippet:
    """The passage of a text that matched.

    Attributes:
        text: the passage.
        start: its first character in the document's text.
        end: the character behind its last one.
        highlights: what matched in it, by characters of the passage.
        cut: whether the document's text goes on before it, and behind it.
    """

    text: str
    start: int
    end: int
    highlights: tuple[Highlight, ...]
    cut: tuple[bool, bool]

    def __str__(self) -> str:
        """The passage on one line, with an ellipsis where the text goes on."""
        before, behind = self.cut
        line = " ".join(self.text.split())
        return f"{'… ' if before else ''}{line}{' …' if behind else ''}"


class Explanation(Parts):
    """Why a document ranks where it does: the fields are those of `Parts`.

    - The components' shares add up to `score`.
    - The terms' products add up to the lexical score, but for its `unexplained`.
    - The matches' contributions, and the document vectors', add up to the ColBERT score, likewise.

    A dense vector says nothing of words, so its share has no parts. In a notebook an explanation
    shows itself.
    """

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return {**plain(self), "snippet": str(self.snippet())}

    def snippet(self, width: int = 200) -> Snippet:
        """The passage of at most `width` characters that adds most to the score.

        The text's beginning where nothing is known to match. It begins and ends at spaces where
        there are some, and never within what is seen as one character, be that wider.

        Raises:
            InputError: `width` is less than 1.
        """
        if not isinstance(width, int) or isinstance(width, bool) or width < 1:
            raise InputError(f"width is {width!r}: give a whole number of characters from 1")
        text = self.text
        start, end = _passage(text, self.highlights, width)
        inside = tuple(
            Highlight(max(h.start, start) - start, min(h.end, end) - start, h.contribution)
            for h in self.highlights
            if h.start < end and h.end > start
        )
        cut = bool(text[:start].strip()), bool(text[end:].strip())
        return Snippet(text[start:end], start, end, inside, cut)

    def _repr_html_(self) -> str:
        return styled(article(self, level=3))


_LITTLE = 0.1


def _window(highlights: tuple[Highlight, ...], width: int, length: int) -> tuple[int, int]:
    """The place of the `width` characters that hold most, with what they hold in their middle."""
    positive = [h for h in highlights if h.contribution > 0]
    best, first, last = 0.0, 0, -1
    held, j = 0.0, 0
    for i, highlight in enumerate(positive):
        while j < len(positive) and (j <= i or positive[j].end <= highlight.start + width):
            held += positive[j].contribution
            j += 1
        if held > best * (1 + 1e-9):
            best, first, last = held, i, j - 1
        held -= highlight.contribution
    if last < 0:
        return 0, min(width, length)
    # what adds next to nothing, the small words, doesn't draw the passage to its side
    least = _LITTLE * max(h.contribution for h in positive[first : last + 1])
    while positive[first].contribution < least:
        first += 1
    while positive[last].contribution < least:
        last -= 1
    low, high = positive[first].start, min(positive[last].end, positive[first].start + width)
    start = max(0, low - (width - (high - low)) // 2)
    end = min(length, start + width)
    return max(0, end - width), end


def _passage(text: str, highlights: tuple[Highlight, ...], width: int) -> tuple[int, int]:
    """A window that begins and ends where a word does, or a character."""
    if len(text) <= width:
        return 0, len(text)
    spare = min(_WORD, width // 8)
    start, end = _window(highlights, width - 2 * spare, len(text))
    return _word_start(text, start, spare), _word_end(text, end, spare)


def _word_start(text: str, start: int, spare: int) -> int:
    if start == 0:
        return 0
    for i in range(start, max(start - spare, 0) - 1, -1):
        if i == 0 or (text[i - 1].isspace() and is_place(text, i)):
            return i
    return place_before(text, start)


def _word_end(text: str, end: int, spare: int) -> int:
    for i in range(end, min(end + spare, len(text)) + 1):
        if i == len(text) or (text[i].isspace() and is_place(text, i)):
            return i
    return next_place(text, end)
