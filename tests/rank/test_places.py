"""No accent is parted from its letter, no emoji into its pieces."""

from __future__ import annotations

import pytest

from m3qdrant.rank.places import is_place, next_place, place_before


@pytest.mark.parametrize(
    "text",
    [
        "a|b|c",
        "e\u0301|a\u0308\u0323|x",
        "\r\n|a|\n|\n",
        "ｶﾞ|ｷ",
        "👨\u200d👩\u200d👧\u200d👦|👍🏽|a",
        "🇩🇪|🇯🇵|🇫",
        "❤\ufe0f|1\ufe0f\u20e3",
        "\u1112\u1161\u11ab|한|\uac00\u11a8|\u1100\u1161|\u1100",
        "ที่|นี่|",
        "لِ|ضَ|غْ|طِ",
        "क्ष|नि|க்|ஷ",
        "🏴\U000e0067\U000e0062\U000e007f|x",
    ],
)
def test_places(text: str) -> None:
    parts = text.split("|")
    whole = "".join(parts)
    expected = {0}
    for part in parts:
        expected.add(max(expected) + len(part))
    assert {i for i in range(len(whole) + 1) if is_place(whole, i)} == expected
    for i in range(len(whole) + 1):
        assert next_place(whole, i) == min(p for p in expected if p >= i)
        assert place_before(whole, i) == max(p for p in expected if p <= i)
