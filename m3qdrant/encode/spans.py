"""Which characters of a text each of its tokens stands for.

The tokenizer says it, in characters of the text as it was given, whatever normalisation made of
it. Three things are mended, so that a span holds what a reader takes for the token:

- A piece may begin with the space before its word, and a piece of the space alone is given the
  word's first character. Whitespace belongs to no token: such a piece has an empty span.
- What normalisation joins to the character before it (an accent, the mark of a half-width kana,
  the rest of a Hangul syllable) is in no span: it belongs to the token before.
- A token that stands for no character of the text, the end's, has none.

Several tokens may have one span, where one character became several ("㍿", "ﬃ").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["TokenSpan", "spans"]

_SPACE = "\u2581"
"""What stands for a space in a piece."""


@dataclass(frozen=True)
class TokenSpan:
    """One token of a text, and where it stands.

    Attributes:
        id: the token's id.
        text: the token as people read it: the vocabulary's piece without the mark of a space, or
            what the vocabulary lacks as normalised; "\u2581" for a space alone.
        start: its first character in the text; None where it stands for none.
        end: the character behind its last one; None likewise.
    """

    id: int
    text: str
    start: int | None
    end: int | None


def spans(
    text: str,
    ids: Sequence[int],
    pieces: Sequence[str],
    offsets: Sequence[tuple[int, int]],
    unknown: str | None,
) -> list[TokenSpan]:
    """The tokens of a text, as a tokenizer gives them, with spans as people read them.

    Args:
        text: what was tokenised.
        ids: of its tokens.
        pieces: what the vocabulary has for each.
        offsets: start and end of each in the text, ascending.
        unknown: the piece of what the vocabulary lacks, where a tokenizer says no more of it.
    """
    # an added token's own spaces belong to it in the offsets alone: "<mask>" takes the one before
    bounds = [_trimmed(text, start, end) for start, end in offsets]
    following = len(text)
    ends: dict[int, int] = {}
    for start, end in reversed(bounds):
        if end not in ends:
            ends[end] = _joined(text, end, following) if end > start else end
        following = min(following, start)
    found = []
    for id, piece, (start, end) in zip(ids, pieces, bounds, strict=True):
        if piece == _SPACE:
            found.append(TokenSpan(id, piece, start, start))
            continue
        stop = ends[end]
        readable = piece.replace(_SPACE, " ").strip()
        if piece == unknown or not readable:
            readable = text[start:stop] or piece
        found.append(TokenSpan(id, readable, start, stop))
    return found


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """A span without whitespace at its ends."""
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end


def _joined(text: str, end: int, following: int) -> int:
    """Where a token ends with all that no token has and no space parts from it."""
    while end < following and not text[end].isspace():
        end += 1
    return end
