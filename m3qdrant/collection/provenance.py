"""What a stored point says of its making, so that a second ingest can tell what has changed.

It lies in the point's payload under "_m3":

    {"id": the document's id, "text": digest, "payload": digest, "model": fingerprint}

The vectors depend on the text, the model, and the options of the ingest that shape them; the
text's digest covers the text and the options. The payload has a digest of its own, so that a
document whose payload alone changed is not encoded again. An application may add to a point's
payload (`set_payload`) without disturbing this: what the source said is compared, not what the
point holds.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from m3qdrant.collection.documents import Document
from m3qdrant.names import LONG_DOCUMENTS, OURS, TEXT, LongDocuments

__all__ = ["LONGEST", "Provenance", "digest", "vector_options"]

LONGEST = 8192
"""Tokens that a text is cut to: no ingest can ask for more."""

_DIGEST_BYTES = 16
_MOST_DIGITS = 15
"""Of a number that comes back from every engine as it went in; more may be off in the last one."""


@dataclass(frozen=True)
class Provenance:
    """Where a point's vectors and payload come from.

    Attributes:
        id: the document's id.
        text: digest of the text and the options that shape its vectors.
        payload: digest of the document's payload.
        model: the encoder's fingerprint; None for embeddings that were brought along.
    """

    id: str
    text: str
    payload: str
    model: str | None

    @classmethod
    def of(cls, document: Document, model: str | None, options: str) -> Provenance:
        """Of a document about to be stored.

        Args:
            document: checked, so its payload is plain JSON.
            model: the encoder's fingerprint.
            options: whatever else shapes the vectors, as text.
        """
        text = digest(options, document.text)
        return cls(document.id, text, _payload_digest(document.payload), model)

    @classmethod
    def read(cls, payload: Mapping[str, Any] | None) -> Provenance | None:
        """Of a stored point; None where it is not ours, or from a version that kept no digests."""
        ours = (payload or {}).get(OURS)
        try:
            return cls(**ours)  # type: ignore[arg-type]
        except TypeError:
            return None

    def same_vectors(self, other: Provenance, former: str | None = None) -> bool:
        """Whether both lead to the same vectors.

        Args:
            other: what a point says.
            former: what our model was called when the collection was made; None where that is no
                other name (see adoption.py).
        """
        if self.model is None or other.model is None or self.text != other.text:
            return False
        return other.model in (self.model, former)

    def cut_to(self, text: str, likely: Iterable[int], *, others: bool = True) -> int | None:
        """The tokens that a text was cut to, from the digest of both; None for another text.

        Args:
            text: what a point holds.
            likely: lengths to try first.
            others: try all others up to `LONGEST` too.
        """
        made = self.made_with(text, likely, others=others)
        return None if made is None else made[0]

    def made_with(
        self, text: str, likely: Iterable[int], *, others: bool = True
    ) -> tuple[int, LongDocuments] | None:
        """The tokens that a text was cut to, and what was done with too many ColBERT vectors.

        The arguments are those of `cut_to`; None for another text.
        """
        for length in itertools.chain(likely, range(2, LONGEST + 1) if others else ()):
            for how in LONG_DOCUMENTS:
                if digest(vector_options(length, how), text) == self.text:
                    return length, how
        return None

    def is_payload(self, stored: Mapping[str, Any]) -> bool | None:
        """Whether a point's payload is the document's; None where numbers don't allow to say.

        Args:
            stored: the whole payload of the point.
        """
        payload = {key: value for key, value in stored.items() if key not in (TEXT, OURS)}
        if _payload_digest(payload) == self.payload:
            return True
        return None if _has_long_floats(payload) else False

    def payload_of(self, document: Document) -> dict[str, Any]:
        """The whole payload of the document's point."""
        return {**document.payload, TEXT: document.text, OURS: vars(self).copy()}


def vector_options(max_length: int, long_documents: LongDocuments) -> str:
    """The options that shape a text's vectors, as its digest holds them."""
    return f"{max_length} {long_documents}"


def digest(options: str, text: str) -> str:
    """Of a text and the options that shape its vectors."""
    return _digest(f"{options}\0{text}")


def _payload_digest(payload: Mapping[str, Any]) -> str:
    return _digest(json.dumps(payload, sort_keys=True, ensure_ascii=False, separators=(",", ":")))


def _has_long_floats(value: Any) -> bool:
    if isinstance(value, float):
        return float(f"{value:.{_MOST_DIGITS}g}") != value
    if isinstance(value, Mapping):
        return any(map(_has_long_floats, value.values()))
    return isinstance(value, list) and any(map(_has_long_floats, value))


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest()
