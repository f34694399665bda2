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

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from m3qdrant.collection.documents import Document
from m3qdrant.names import OURS, TEXT

__all__ = ["Provenance", "digest"]

_DIGEST_BYTES = 16


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
        payload = json.dumps(
            document.payload, sort_keys=True, ensure_ascii=False, separators=(",", ":")
        )
        return cls(document.id, digest(options, document.text), _digest(payload), model)

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

    def payload_of(self, document: Document) -> dict[str, Any]:
        """The whole payload of the document's point."""
        return {**document.payload, TEXT: document.text, OURS: vars(self).copy()}


def digest(options: str, text: str) -> str:
    """Of a text and the options that shape its vectors."""
    return _digest(f"{options}\0{text}")


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest()
