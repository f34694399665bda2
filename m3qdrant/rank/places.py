"""Where a text may be cut without parting what is seen as one character.

Unicode's extended grapheme clusters (UAX 29) by the properties that Python's own tables have:
marks and what joins, Hangul's syllables, pairs of regional indicators, emoji joined into one.
"""

from __future__ import annotations

import unicodedata

__all__ = ["is_place", "next_place", "place_before"]

_JOINER = "\u200d"
_KANA_MARKS = "\uff9e\uff9f"
_REGIONAL = "".join(map(chr, range(0x1F1E6, 0x1F200)))
_MOST_REGIONAL = 4096  # an even number
_VIRAMA = 9  # canonical combining class


def is_place(text: str, i: int) -> bool:
    """Whether a character, as it is seen, begins at `i`; the text's end is such a place too."""
    if i <= 0 or i >= len(text):
        return True
    before, after = text[i - 1], text[i]
    if before == "\r" and after == "\n":
        return False
    if before in "\r\n" or after in "\r\n":
        return True
    if unicodedata.category(after)[0] == "M" or after in _KANA_MARKS or after == _JOINER:
        return False
    if "\U0001f3fb" <= after <= "\U0001f3ff" or "\U000e0020" <= after <= "\U000e007f":
        return False  # an emoji's colour of skin, and a flag's tag
    if before == _JOINER and unicodedata.category(after) == "So":
        return False
    if unicodedata.combining(before) == _VIRAMA and _is_conjunct(before, after):
        return False
    if after in _REGIONAL:
        some = text[max(0, i - _MOST_REGIONAL) : i]
        return (len(some) - len(some.rstrip(_REGIONAL))) % 2 == 0
    return not _joins_hangul(before, after)


def next_place(text: str, i: int) -> int:
    """The first place from `i` on."""
    while not is_place(text, i):
        i += 1
    return i


def place_before(text: str, i: int) -> int:
    """The last place up to `i`."""
    while not is_place(text, i):
        i -= 1
    return i


def _is_conjunct(virama: str, after: str) -> bool:
    """Whether both are of one script whose virama joins the consonants on its two sides."""
    block = ord(virama) & ~0x7F
    return (
        block in (0x0900, 0x0980, 0x0A80, 0x0B00, 0x0C00, 0x0D00)
        and ord(after) & ~0x7F == block
        and unicodedata.category(after) == "Lo"
    )


def _joins_hangul(before: str, after: str) -> bool:
    """Leading consonants, vowels and trailing consonants, composed or not."""
    if "\u1160" <= after <= "\u11a7":  # a vowel
        return "\u1100" <= before <= "\u11a7" or _is_open(before)
    if "\u11a8" <= after <= "\u11ff":  # a trailing consonant
        return "\u1160" <= before <= "\u11ff" or "\uac00" <= before <= "\ud7a3"
    return "\u1100" <= after <= "\u115f" and "\u1100" <= before <= "\u115f"


def _is_open(character: str) -> bool:
    """Whether it is a composed syllable without a trailing consonant."""
    return "\uac00" <= character <= "\ud7a3" and (ord(character) - 0xAC00) % 28 == 0
