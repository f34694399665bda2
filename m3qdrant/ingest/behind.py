"""How far the writing of chunks may fall behind their encoding, so that no encoder waits for it.

A chunk's vectors are held until they are written. A server may be slower than the encoder for a
while (it merges segments, a network is slow), so several chunks may wait for it, as many as their
memory allows. An engine in this machine writes on the processor that encodes: there, one chunk is
written while the next is encoded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from m3qdrant.collection import Capabilities

if TYPE_CHECKING:  # a store that is only read needs no torch
    from m3qdrant.encode import M3Embeddings

__all__ = ["BYTES_BEHIND", "bytes_of", "chunks_behind"]

BYTES_BEHIND = 2**29
"""The most bytes that chunks may hold together while they wait; one chunk may hold more."""

_CHUNKS_BEHIND = 4


def chunks_behind(capabilities: Capabilities) -> int:
    """How many chunks may be written, or wait for that, at a time."""
    return _CHUNKS_BEHIND if capabilities.remote else 1


def bytes_of(views: M3Embeddings | None) -> int:
    """What a chunk's embeddings take."""
    if views is None or views.colbert is None:
        return 0
    vectors = views.colbert.vectors
    return vectors.numel() * vectors.element_size()
