"""A token's characters are what a reader takes for it, whatever normalisation made of them."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m3qdrant import M3Encoder
from m3qdrant.encode import TokenSpan, clusters, pool_query, pool_tokens
from m3qdrant.errors import InputError
from tests.views import views

TINY, OTHER = "m3-tiny", "bin-fp16-heads"


@pytest.fixture(scope="module", params=[TINY, OTHER])
def each_encoder(request: pytest.FixtureRequest, checkpoint: Path) -> M3Encoder:
    """One whose normaliser is NFKC, and one with sentencepiece's own table, as BGE-M3 has it."""
    place = request.param if request.param == TINY else checkpoint.with_name(request.param)
    return M3Encoder.from_pretrained(place)


def seen(text: str, tokens: list[TokenSpan]) -> list[str]:
    """What a reader sees of each token but the last, EOS."""
    assert (tokens[-1].start, tokens[-1].end) == (None, None)
    return [text[token.start : token.end] for token in tokens[:-1]]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("ｶﾞ", {"ｶﾞ"}),
        ("cafe\u0301 e\u0301", {"e\u0301"}),
        ("\u1112\u1161\u11ab", {"\u1112\u1161\u11ab"}),
        ("Ｆｕｌｌ　Ｗｉｄｔｈ", None),
        ("ﬃ", {"ﬃ"}),
        ("a <mask> b", {"<mask>"}),
        ("a</s>b", {"</s>"}),
        ("one\r\n\r\ntwo", None),
        ("   leading\ttabs  ", None),
        ("ภาษาไทยง่าย", None),
        ("السَّلامُ عَلَيْكُمْ", None),
        ("東京都に行きます。", None),
        ("👨\u200d👩\u200d👧 👍🏽 🇩🇪", None),
    ],
)
def test_all_that_can_be_seen_is_some_tokens(
    each_encoder: M3Encoder, text: str, pieces: set[str] | None
) -> None:
    (tokens,) = each_encoder.token_spans(text)
    covered = set()
    for part, token in zip(seen(text, tokens), tokens, strict=False):
        assert part == part.strip()
        assert token.start is not None
        assert token.end is not None
        covered |= set(range(token.start, token.end))
    assert covered == {i for i, c in enumerate(text) if not c.isspace()}
    assert pieces is None or pieces <= set(seen(text, tokens))


def test_characters_that_became_several_are_each_of_them(each_encoder: M3Encoder) -> None:
    text = "½ ﬃ"
    (tokens,) = each_encoder.token_spans(text)
    parts = seen(text, tokens)
    assert parts.count("½") == 3
    assert next(t.text for t, part in zip(tokens, parts, strict=False) if part == "½") == "1"


# letters and marks of many scripts, and what normalisers change, join or drop
texts = st.lists(
    st.one_of(
        st.sampled_from(["ｶﾞ", "e\u0301", "ﷺ", "①", " ", "\r\n", "\u3000", "\u200b", "👩\u200d🔬"]),
        st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cn"]), max_size=4),
        st.sampled_from(["<mask>", "</s>", "<pad>", "▁", "\x00", "\ufeff", "ำ", "َّ"]),
    ),
    max_size=12,
).map("".join)


@given(text=texts, limit=st.integers(2, 20))
@settings(max_examples=150)
def test_spans_are_in_order_and_one_a_vector(
    each_encoder: M3Encoder, text: str, limit: int
) -> None:
    (tokens,) = each_encoder.token_spans(text, limit)
    ids, _ = each_encoder._tokenize([text], limit)
    assert [token.id for token in tokens] == ids[0][1:]
    bounds = [(token.start, token.end) for token in tokens[:-1]]
    assert all(0 <= a <= b <= len(text) for a, b in bounds)  # type: ignore[operator]
    starts = [start for start, _ in bounds]
    assert starts == sorted(starts)  # type: ignore[type-var]
    assert all(token.text for token in tokens)


@given(text=texts)
@settings(max_examples=100)
def test_a_token_reads_as_its_characters(each_encoder: M3Encoder, text: str) -> None:
    """Where one character gives one token, both are the same after normalisation."""
    (tokens,) = each_encoder.token_spans(text)
    parts = [part for part in seen(text, tokens) if part]
    if len("".join(parts)) != len(parts) or any(map(unicodedata.combining, text)):
        return
    for part, token in zip(seen(text, tokens), tokens, strict=False):
        if part and part.isalnum() and unicodedata.normalize("NFKC", part) == part:
            assert token.text.casefold() == part.casefold()


@pytest.mark.parametrize("word", ["lorem ipsum, ", "東京都に行", "ﬁ ①e\u0301 ", "x" * 97 + " "])
def test_a_long_text_has_the_spans_of_all_of_it(each_encoder: M3Encoder, word: str) -> None:
    text = word * (9_000 // len(word))
    (tokens,) = each_encoder.token_spans(text, 40)
    assert len(tokens) == 39
    backend: Any = each_encoder.tokenizer.backend_tokenizer
    whole = backend.encode(text, add_special_tokens=False)
    assert [token.id for token in tokens[:-1]] == whole.ids[:38]
    for token, (start, end) in zip(tokens[:38], whole.offsets, strict=False):
        assert token.start is not None
        assert token.end is not None
        assert start <= token.start <= token.end
        assert token.end in (token.start, end) or token.end <= end + 1


def test_texts_are_checked_as_encode_checks_them(encoder: M3Encoder) -> None:
    with pytest.raises(InputError):
        encoder.token_spans([3])  # type: ignore[list-item]
    with pytest.raises(InputError):
        encoder.token_spans(["a"], 1)
    assert encoder.token_spans([]) == []
    assert len(encoder.token_spans("")[0]) == 1


def test_clusters_are_what_pooling_merges(encoder: M3Encoder) -> None:
    _, _, colbert = views(encoder.encode("a b c a b c one two three one two three a b"))
    vectors = colbert[0]
    for limit in (1, 2, 5, len(vectors) - 1, len(vectors), len(vectors) + 3):
        members = clusters(vectors, limit)
        assert sorted(i for each in members for i in each) == list(range(len(vectors)))
        assert members == sorted(members)
        sums = torch.stack([vectors[each].sum(0) for each in members])
        assert torch.allclose(sums, pool_query(vectors, limit), atol=1e-5)
        means = torch.nn.functional.normalize(sums, dim=-1)
        assert torch.allclose(means, pool_tokens(colbert, limit=limit)[0], atol=1e-4)
