"""Any number of short documents, all different: pairs of sentences from the docstrings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b

from m3qdrant import Document

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n\s*\n")
_SHORTEST, _LONGEST = 20, 80  # characters of a sentence


def documents(n: int, found: Sequence[str]) -> Iterator[Document]:
    """The first `n` pairs of the `found` sentences, the same ones every time.

    Raises:
        ValueError: there are not so many pairs.
    """
    if n > len(found) * (len(found) - 1):
        raise ValueError(f"{len(found)} sentences make no {n} pairs")
    for i in range(n):
        # the second sentence is another one each time the first ones are through
        rounds, first = divmod(i, len(found))
        second = (first + 1 + rounds) % len(found)
        yield Document(f"pair-{i}", f"{found[first]} {found[second]}", {"round": rounds})


def sentences(docstrings: Iterable[Document]) -> list[str]:
    """All short sentences of the docstrings, each once, in a fixed order."""
    found = set()
    for document in docstrings:
        _, _, docstring = document.text.partition(": ")
        for sentence in _SENTENCE_END.split(docstring):
            line = " ".join(sentence.split())
            if _SHORTEST <= len(line) <= _LONGEST:
                found.add(line)
    return sorted(found, key=_scattered)


def checksum(items: Iterable[Document]) -> str:
    """A digest of ids, texts and payloads that does not depend on their order."""
    total = 0
    for item in items:
        content = f"{item.id}\0{item.text}\0{sorted(item.payload.items())}"
        total += int.from_bytes(blake2b(content.encode(), digest_size=16).digest(), "big")
    return f"{total % 2**128:032x}"


def _scattered(text: str) -> bytes:
    """Sorts neighbours in the alphabet apart, so that each chunk has sentences of all lengths."""
    return blake2b(text.encode(), digest_size=8).digest()
