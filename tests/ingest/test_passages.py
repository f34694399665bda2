"""Passages: nothing is lost, nothing is too long, by characters or by a model's tokens."""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3qdrant import M3Encoder
from m3qdrant.ingest.cutting import passages, splitter


@given(st.text(st.sampled_from("ab .\n#"), max_size=300), st.integers(1, 40))
def test_passages_lose_no_word_and_keep_the_limit(text: str, limit: int) -> None:
    parts = list(passages(text, limit))
    assert all(0 < len(part) <= limit and part.strip() for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())


def test_passages_are_cut_between_sentences_then_words() -> None:
    assert list(passages("One two. Three four five. Six.", 20)) == [
        "One two. Three four",
        "five. Six.",
    ]
    assert list(passages("One two three. Four five.", 20)) == ["One two three.", "Four five."]
    assert list(passages("a\n\nb\n\n" + "c" * 10, 6)) == ["a\n\nb", "c" * 6, "cccc"]

    assert list(passages("Pi is about 3.14159 or so", 15)) == ["Pi is about", "3.14159 or so"]
    assert list(passages("e\u0301" * 6, 5)) == ["e\u0301" * 2] * 3


def test_a_text_of_any_length_is_measured_a_few_times() -> None:
    measured = 0

    def sizes(texts: Sequence[str]) -> list[int]:
        nonlocal measured
        measured += sum(map(len, texts))
        return [2 + len(text) // 3 for text in texts]

    for text in ("x" * 200_000, "word " * 40_000, "word " * 12 + "\n\n" * 3_000):
        measured = 0
        parts = list(passages(text, 100, sizes))
        assert "".join("".join(parts).split()) == "".join(text.split())
        assert max(sizes(parts)) <= 100
        assert measured <= 12 * len(text)


@pytest.fixture(scope="module")
def tiny() -> M3Encoder:
    return M3Encoder.from_pretrained("m3-tiny")


def page(seed: int, words: int, space: str = " ") -> str:
    """Text of many scripts, with and without spaces, with what takes many tokens."""
    chance = random.Random(seed)
    alphabets = ["abcdefghij", "äöüßé", "жзийкл", "漢字仮名交", "0123456789", "{}[]<>/=;", "😀🎉"]
    out = []
    for _ in range(words):
        letters = chance.choice(alphabets)
        out.append("".join(chance.choices(letters, k=chance.randint(1, 14))))
        out.append(chance.choice([space] * 12 + [". ", "\n", "\n\n", "\n# "]))
    return "".join(out)


@pytest.mark.parametrize("text", [
    page(1, 900), page(2, 900, ""), "x" * 5_000, "word " * 3_000, "漢字。" * 1_500, " \n" * 5_000,
    "</s>" * 300, "\u200b" * 3_000,
])  # fmt: skip
@pytest.mark.parametrize("max_length", [8192, 40])
def test_no_passage_is_cut_by_the_model(tiny: M3Encoder, text: str, max_length: int) -> None:
    parts = list(splitter(tiny, max_length)(text))
    assert "".join("".join(parts).split()) == "".join(text.split())
    limit = min(max_length, tiny.max_length)
    assert all(count <= limit for count in tiny.count_tokens(parts))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if parts:
            embeddings = tiny.encode(parts[:20], max_length, colbert=False)
            assert embeddings.truncated is not None
            assert not embeddings.truncated.any()
    # nor are they needlessly many
    assert len(parts) <= 3 + 3 * sum(tiny.count_tokens([text])) / limit + text.count("\n")


@pytest.mark.parametrize("text", [page(5, 900), page(6, 900, ""), "word " * 6_000], ids=len)
def test_a_change_further_down_leaves_the_passages_before_it(tiny: M3Encoder, text: str) -> None:
    split = splitter(tiny, 8192)
    parts = list(split(text))
    for end in (len(text) // 2, len(text) // 3):
        before = list(split(text[:end]))
        assert len(before) > 5
        assert before[:-1] == parts[: len(before) - 1]


def test_counts_are_those_of_the_model(tiny: M3Encoder) -> None:
    texts = ["", "one", page(3, 10)]
    vectors = tiny.encode(texts).colbert
    assert vectors is not None
    # a ColBERT vector for each token but CLS
    assert tiny.count_tokens(texts) == [n + 1 for n in vectors.lengths.tolist()]
    assert tiny.count_tokens([]) == []


def test_an_encoder_that_counts_no_tokens() -> None:
    class Plain:
        max_length = 100

    assert splitter(Plain(), 8192) is passages  # type: ignore[arg-type]
    assert splitter(None, 8192) is passages
