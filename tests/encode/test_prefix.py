"""The first ids of a long text are those of the whole one, and whether there are more is exact."""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3qdrant.encode.checkpoint import BUNDLED
from m3qdrant.encode.prefix import PrefixTokenizer

LAYOUTS = ("m3-tiny", "safetensors-fp32-heads", "bin-fp16-heads")


@pytest.fixture(scope="module", params=LAYOUTS)
def backend(request: pytest.FixtureRequest, checkpoint: Path) -> Any:
    """A tokenizer as the checkpoint has it."""
    from tokenizers import Tokenizer

    directory = BUNDLED.get(request.param, checkpoint.with_name(request.param))
    return Tokenizer.from_file(str(directory / "tokenizer.json"))


def whole(backend: Any, text: str, n: int) -> tuple[list[int], bool]:
    ids = backend.encode(text, add_special_tokens=False).ids
    return ids[:n], len(ids) > n


def words(seed: int, letters: str, longest: int, n: int) -> str:
    rng = random.Random(seed)
    return " ".join("".join(rng.choices(letters, k=rng.randint(1, longest))) for _ in range(n))


# what breaks careless cuts: whitespace of all kinds, marks, controls, wide and decomposed forms,
# literal special tokens, camel case, unknown characters, several characters out of one
ODD = [
    " ", "  ", "\n", "\t", "\r\n", "\x0b", "\x85", "\u00a0", "\u2009", "\u3000", "\u200b",
    "\u0301", "e\u0301", "\u0600", "\u0d4e", "\u1100\u1161\u11a8", "\x00", "\x01", "\ufeff",
    "\u00ad", "ﬁ", "①", "ﷺ", "Ａ", "ｱﾞ", "<mask>", "<s>", "</s>", "<pad>", "<unk>", "<ma", "sk>",
    "aB", "aBcD", "x" * 9, "lorem", "ipsum,", "don't", "東京都", "に", "。", "한국어", "😀", "𒀀𒀀",
    "👨‍👩‍👧", "ß", "1234567890", "%", "▁", "_",
]  # fmt: skip

pieces = st.lists(
    st.one_of(st.sampled_from(ODD), st.text(max_size=6), st.sampled_from(string.ascii_letters)),
    max_size=60,
).map("".join)


@given(text=pieces, n=st.integers(0, 12))
@settings(max_examples=400)
def test_it_is_as_if_all_was_tokenised(
    backend: Any, small_of: Callable[[Any], PrefixTokenizer], text: str, n: int
) -> None:
    assert small_of(backend).first(text, n) == whole(backend, text, n)


@given(
    text=st.lists(st.sampled_from("abcdeABC東京都に住んでいる"), min_size=40, max_size=400).map(
        "".join
    ),
    n=st.integers(1, 40),
)
@settings(max_examples=200)
def test_words_longer_than_a_stretch(
    backend: Any, small_of: Callable[[Any], PrefixTokenizer], text: str, n: int
) -> None:
    assert small_of(backend).first(text, n) == whole(backend, text, n)


@pytest.fixture(scope="module")
def small_of() -> Any:
    """`small` for hypothesis, which can't have it anew for each example."""
    made: dict[int, PrefixTokenizer] = {}
    patch = pytest.MonkeyPatch()
    patch.setattr("m3qdrant.encode.prefix._LEAST", 16)
    patch.setattr("m3qdrant.encode.prefix._PER_TOKEN", 4)

    def of(backend: Any) -> PrefixTokenizer:
        return made.setdefault(id(backend), PrefixTokenizer(backend))

    yield of
    patch.undo()


BIG = 300_000
LONG: dict[str, str] = {
    "prose": "lorem ipsum dolor sit amet, consectetur. " * (BIG // 41),
    "words": words(1, string.ascii_lowercase, 12, BIG // 8),
    "no whitespace": "東京都に住んでいる友達から手紙が届きました。" * (BIG // 22),
    "random letters": "".join(random.Random(2).choices(string.ascii_letters, k=BIG)),
    "base64": "".join(random.Random(3).choices(string.ascii_letters + "0123456789+/", k=BIG)),
    "one character": "a" * BIG,
    "one wide character": "Ａ" * BIG,
    "an unknown character": "𒀀" * BIG,
    "spaces": "one" + " " * BIG + "two",
    "spaces before": "\n" * BIG + "one two",
    "lines": "\r\n" * (BIG // 2),
    "dropped": "\x01" * BIG + "word",
    "ligatures": "ﬁ" * BIG,
    "marks": "e\u0301" * (BIG // 2),
    "special tokens": "</s>" * (BIG // 4),
    "masks apart": "<mask>  " * (BIG // 8),
    "many out of one": "ﷺ" * (BIG // 20),
    "long words": words(4, string.ascii_lowercase, 20_000, 30),
}


@pytest.mark.thinned(6)
@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("n", [30, 510])
def test_long_texts(backend: Any, name: str, n: int) -> None:
    tokenizer = PrefixTokenizer(backend)
    assert tokenizer.is_long(LONG[name], n)
    assert tokenizer.first(LONG[name], n) == whole(backend, LONG[name], n)


class Counting:
    """A tokenizer that adds up the characters that it is given."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.characters = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def encode(self, text: str, **options: Any) -> Any:
        self.characters += len(text)
        return self._backend.encode(text, **options)

    def encode_batch(self, texts: list[str], **options: Any) -> Any:
        self.characters += sum(map(len, texts))
        return self._backend.encode_batch(texts, **options)


BOUNDED = ("prose", "words", "no whitespace", "random letters", "base64", "one character",
           "one wide character", "spaces", "spaces before", "lines", "special tokens",
           "masks apart")  # fmt: skip


@pytest.mark.parametrize("name", BOUNDED)
def test_no_more_is_looked_at_for_a_longer_text(backend: Any, name: str) -> None:
    seen = []
    for times in (1, 8):
        counting = Counting(backend)
        tokenizer = PrefixTokenizer(counting)
        longer = {"spaces": "one" + " " * BIG * times, "spaces before": "\n" * BIG * times + "one"}
        tokenizer.first(longer.get(name, LONG[name] * times), 100)
        seen.append(counting.characters)
    assert seen[1] <= seen[0] + 10
    assert seen[0] <= 100_000


class OfOnesOwn:
    """A pre-tokeniser in Python, of which nobody knows what it does."""

    def pre_tokenize(self, text: Any) -> None:
        text.split(lambda _, piece: [piece])


def test_an_unknown_kind_of_tokenizer_is_given_the_whole_text(backend: Any) -> None:
    from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

    plain = backend.to_str()
    for change in (
        lambda t: setattr(t, "pre_tokenizer", pre_tokenizers.ByteLevel()),
        lambda t: setattr(t, "normalizer", normalizers.Replace(Regex("a.*b"), "c")),
        lambda t: setattr(t, "pre_tokenizer", pre_tokenizers.PreTokenizer.custom(OfOnesOwn())),
        lambda t: t.add_tokens(["two words"]),
    ):
        other = Tokenizer.from_str(plain)
        change(other)
        assert not PrefixTokenizer(other).is_long("lorem ipsum " * BIG, 10)
    assert PrefixTokenizer(backend).is_long("lorem ipsum " * BIG, 10)
