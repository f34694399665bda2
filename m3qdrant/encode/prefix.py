"""The first token ids of a text that is far too long, without tokenising all of it.

A tokenizer of BGE-M3's kind splits at whitespace and then segments each word by itself, so a text
that is cut in front of whitespace is two texts. They are tokenised a stretch at a time until there
are ids enough.

A word longer than a stretch (a page of Chinese, a blob of base64) is no such case: what comes
later may change how its end is segmented. But the segmentation (Viterbi's, over a unigram model)
has a border within any L characters, L being the longest piece's length, and up to a border it is
that of the text that ends there. So where the texts that end at L characters in a row begin with
the same ids, the whole one does too. Where they don't, the stretch is doubled, up to the end of
the text.

A tokenizer whose parts are not known to work so is given the whole text.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

__all__ = ["PrefixTokenizer"]

_LEAST = 2_048  # characters: shorter texts are tokenised whole
_PER_TOKEN = 8  # characters: likewise, as many for each token that is asked for

# Normalisers and pre-tokenisers that look at no character across whitespace.
_LOCAL_NORMALIZERS = {
    "Precompiled", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase", "StripAccents", "Strip",
}  # fmt: skip
_LOCAL_PATTERNS = {
    r"\s+",
    " {2,}",
    "(?<=[a-z0-9])(?=[A-Z])",
}
_LOCAL_SPLITTERS = {"Metaspace", "Punctuation", "Digits", "UnicodeScripts", "WhitespaceSplit"}
_SPACES = " \t\n\r\u3000\xa0"
# these join the character after them, whitespace too, in Unicode's clusters
_PREPENDED = set("\u0d4e\U000111c2\U000111c3\U0001193f\U00011941\U00011a3a\U00011d46\U00011f02")


class PrefixTokenizer:
    """Token ids of long texts from as few of their characters as will do.

    Attributes:
        backend: a `tokenizers.Tokenizer`, which is asked and never changed.
    """

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        parts = _parts(backend)
        self._added = [token["content"] for token in parts.get("added_tokens") or ()]
        self._added_ids = {token["id"] for token in parts.get("added_tokens") or ()}
        self._margin = max(map(len, self._added), default=0) + 4
        self._unigram = parts["model"].get("type") == "Unigram"
        self._longest: int | None = None
        self._splits = (
            _is_local(parts.get("normalizer"))
            and _splits_at_whitespace(parts.get("pre_tokenizer"))
            and not any(token["single_word"] for token in parts.get("added_tokens") or ())
            and not any(re.search(r"\s", content) for content in self._added)
        )
        spaces = "".join(space for space in _SPACES if self._splits and self._is_border(space))
        self._spaces = spaces
        self._border = re.compile(f"[{re.escape(spaces)}]") if spaces else None
        self._run = re.compile(f"[{re.escape(spaces)}]+") if spaces else None

    def is_long(self, text: str, n: int) -> bool:
        """Whether a text is so long that its first `n` ids are found sooner by `first`."""
        return self._border is not None and len(text) > _LEAST + _PER_TOKEN * n

    def first(self, text: str, n: int) -> tuple[list[int], bool]:
        """The first `n` ids of a text, without CLS and EOS, and whether there are more.

        As the whole text's, of which only what is needed is looked at.
        """
        ids, _ = self._scan(text, n)
        return ids[:n], len(ids) > n

    def extent(self, text: str, n: int) -> int:
        """How many of a text's characters give its first `n` ids."""
        return self._scan(text, n)[1]

    def _scan(self, text: str, n: int) -> tuple[list[int], int]:
        """Ids of a text, more than `n` where there are as many, and where they end."""
        assert self._run is not None
        ids: list[int] = []
        start = 0
        while len(ids) <= n and start < len(text):
            if run := self._run.match(text, start):
                # whitespace gives no ids; the last of it may begin a cluster with what follows
                start = max(start, run.end() - 1)
            some, start = self._stretch(text, start, n + 1 - len(ids))
            ids += some
        return ids, start

    def _stretch(self, text: str, start: int, n: int) -> tuple[list[int], int]:
        """Ids of what follows `start`, and where they end: `n` of them, or up to a border."""
        size = _LEAST // 2 + _PER_TOKEN // 2 * n
        while True:
            stop = start + size
            if stop >= len(text):
                return self._ids(text[start:]), len(text)
            border = self._last_border(text, start + 1, stop)
            if border is not None:
                return self._ids(text[start:border]), border
            ids = self._word(text, start, stop, n)
            if ids is not None:
                return ids, stop  # there are n, so nobody goes on from here
            size *= 2

    def _last_border(self, text: str, start: int, stop: int) -> int | None:
        """The last place in (start, stop] at which whitespace follows what it parts from."""
        for place in range(stop, start, -1):
            if text[place] in self._spaces and _ends(text[place - 1]):
                return place
        return None

    def _word(self, text: str, start: int, stop: int, n: int) -> list[int] | None:
        """The first `n` ids of what begins at `start` and has no border before `stop`.

        None where they aren't certain, or not as many.
        """
        found = self.backend.encode(text[start:stop], add_special_tokens=False)
        if len(found.ids) < n:
            return None
        if self._certain(found, stop - start) >= n:
            return list(found.ids[:n])
        if not self._unigram or not self._is_plain(text, stop):
            return None
        ends = range(stop - self._window + 1, stop)
        if ends.start <= start:
            return None
        others = self.backend.encode_batch(
            [text[start:end] for end in ends], add_special_tokens=False
        )
        if any(other.ids[:n] != found.ids[:n] for other in others):
            return None
        return list(found.ids[:n])

    def _certain(self, found: Any, size: int) -> int:
        """How many ids don't depend on what follows: up to the last literal special token."""
        last = 0
        for place, (token, (_, end)) in enumerate(zip(found.ids, found.offsets, strict=True), 1):
            if token in self._added_ids and 0 < end <= size - self._margin - self._window:
                last = place
        return last

    @property
    def _window(self) -> int:
        """Characters among which a segmentation has a border: the longest piece's length."""
        if self._longest is None:
            self._longest = max(map(len, self.backend.get_vocab()), default=1)
        return self._longest + 1

    def _is_plain(self, text: str, stop: int) -> bool:
        """Whether the texts that end at any of the places before `stop` end as the whole does.

        Each character there is normalised to one, by itself, save for whitespace between them; and
        no literal special token begins or ends there.
        """
        region = text[max(0, stop - self._window - self._margin) : stop + self._margin]
        whole = self._normalized(region)
        if any(content in form for content in self._added for form in (region, whole)):
            return False
        if any(unicodedata.category(character)[0] in "MC" for character in region):
            return False
        letters = _letters(whole)
        if len(letters) != len(region):
            return False
        return all(
            _letters(self._normalized(region[:cut])) == letters[:cut]
            and _letters(self._normalized(region[cut:])) == letters[cut:]
            for cut in range(1, len(region))
        )

    def _normalized(self, text: str) -> str:
        normalizer = self.backend.normalizer
        return text if normalizer is None else str(normalizer.normalize_str(text))

    def _is_border(self, space: str) -> bool:
        """Whether this character parts words, alone and in a row."""
        splitter = self.backend.pre_tokenizer
        return all(
            len(splitter.pre_tokenize_str(self._normalized(f"a{space * times}b"))) == 2
            and not self._ids(space * times)
            for times in (1, 2)
        )

    def _ids(self, text: str) -> list[int]:
        return list(self.backend.encode(text, add_special_tokens=False).ids)


def _letters(text: str) -> str:
    return "".join(text.split())


def _ends(character: str) -> bool:
    """Whether whitespace after this character is in a cluster of its own."""
    return unicodedata.category(character)[0] not in "CZ" and character not in _PREPENDED


def _parts(backend: Any) -> dict[str, Any]:
    """As tokenizer.json has them, without the vocabulary, which would take a second."""
    model = {"type": type(backend.model).__name__}
    tokens = [
        {
            "id": id,
            "content": token.content,
            "single_word": token.single_word,
        }
        for id, token in backend.get_added_tokens_decoder().items()
    ]
    return {
        "model": model,
        "added_tokens": tokens,
        "normalizer": _state(backend.normalizer),
        "pre_tokenizer": _state(backend.pre_tokenizer),
    }


def _state(part: Any) -> Any:
    """A part of a tokenizer as the mapping that tokenizer.json has of it."""
    try:
        return None if part is None else json.loads(part.__getstate__())
    except Exception:  # written in Python, it has no such form
        return {"type": "unknown"}


def _steps(part: Any, name: str) -> Iterator[dict[str, Any]]:
    if part is None:
        return
    if part.get("type") == "Sequence":
        for step in part[name]:
            yield from _steps(step, name)
    else:
        yield part


def _is_local(normalizer: Any) -> bool:
    for step in _steps(normalizer, "normalizers"):
        if step["type"] == "Replace":
            pattern = step["pattern"]
            if pattern.get("Regex", pattern.get("String")) not in _LOCAL_PATTERNS:
                return False
        elif step["type"] not in _LOCAL_NORMALIZERS:
            return False
    return True


def _splits_at_whitespace(splitter: Any) -> bool:
    steps = list(_steps(splitter, "pretokenizers"))
    return (
        bool(steps)
        and steps[0]["type"] == "WhitespaceSplit"
        and all(
            step["type"] in _LOCAL_SPLITTERS and step.get("prepend_scheme", "always") == "always"
            for step in steps
        )
    )
