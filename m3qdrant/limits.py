"""What Qdrant takes at most. The embedded engine is held to a server's limits, so that every
collection can move.
"""

from __future__ import annotations

__all__ = ["BODY_BYTES", "MAX_NESTING", "MULTIVECTOR_LIMIT", "most_tokens"]

MULTIVECTOR_LIMIT = 1_048_576
"""A server takes multivectors of fewer numbers than this. The embedded and the in-memory engine
don't ask, but we hold them to it."""

BODY_BYTES = 32 * 2**20
"""The largest body that a server takes over REST, unless it is set up otherwise."""

MAX_NESTING = 64
"""How deep a payload, or a filter, may nest. The embedded engine writes deeper ones to its log,
but reads back at most 128 levels of its own encoding (a payload of about 120), and then can't
open the collection."""


def most_tokens(width: int) -> int:
    """The most vectors of `width` numbers in one multivector: 1,023 at 1024-d."""
    return (MULTIVECTOR_LIMIT - 1) // width
