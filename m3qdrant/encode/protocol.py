"""What an encoder is: whatever has these seven members. The store takes any.

Two more are optional. `count_tokens(texts: Sequence[str]) -> list[int]`, the tokens of each text,
specials included and nothing cut, as `max_length` counts them. With it the command line cuts text
files into passages that fit; without it passages are measured in characters.
`token_spans(texts: Sequence[str], max_length: int) -> list[list[TokenSpan]]`, for each text what
each of its ColBERT vectors stands for (see `M3Encoder.token_spans`). With it an explanation of a
hit names the words that matched; without it it numbers their vectors.

`M3Encoder` is one. Another may spread texts over several devices, or ask a machine elsewhere; it
needs to inherit from nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, cast

from m3qdrant.errors import InputError

if TYPE_CHECKING:
    from m3qdrant.encode.embeddings import M3Embeddings

__all__ = ["Encoder", "TruncationWarning", "check_encoder"]

_STRINGS = ("name", "fingerprint")
_COUNTS = ("dim", "colbert_dim", "max_length")
_METHODS = ("encode_queries", "encode_documents")


class TruncationWarning(UserWarning):
    """Some texts were longer than max_length and were cut; the message counts them."""


class Encoder(Protocol):
    """Texts to BGE-M3's three views of them.

    The members that say what it is stay the same for as long as it lives. Several stores and
    threads may share it: a call that it can't serve beside another has to wait inside.
    """

    @property
    def name(self) -> str:
        """The model's name, as people know it ("BAAI/bge-m3"). Not empty."""

    @property
    def fingerprint(self) -> str:
        """What tells this model from others: two encoders that may write into one collection have
        the same, all others have another. Not empty.
        """

    @property
    def dim(self) -> int:
        """Width of the dense vector."""

    @property
    def colbert_dim(self) -> int:
        """Width of each ColBERT vector."""

    @property
    def max_length(self) -> int:
        """The most tokens a text can have, specials included; longer ones are cut."""

    def encode_queries(self, texts: Sequence[str], max_length: int = ...) -> M3Embeddings:
        """The three views of each text, in the order given; see `encode_documents`."""

    def encode_documents(self, texts: Sequence[str], max_length: int = ...) -> M3Embeddings:
        """The three views of each text, in the order given.

        Args:
            texts: any number of them, none and empty ones included.
            max_length: tokens a text is cut to, specials included; the encoder's own limit holds
                where it is lower. The default may be the encoder's own.

        Returns:
            Embeddings of len(texts) texts with all three views: dense (n, dim), L2-normalised;
            sparse, with ids ascending in each text and positive weights; colbert with rows of
            `colbert_dim`, L2-normalised. A text that is too long is cut and never refused, and
            `truncated` says which ones were; where it is None, the store takes none for cut.

        Raises:
            InputError: an item is no text, or `max_length` is too small.
            EncodeError: the model pass failed. The store passes on whatever else is raised.

        Warns:
            TruncationWarning: where texts were cut, if the encoder warns at all. While it ingests
                the store silences it, and counts from `truncated`.
        """


def check_encoder(value: object) -> Encoder:
    """`value`, if it has what `Encoder` asks for.

    Raises:
        InputError: names the first member that is missing or of another type.
    """
    for member in (*_STRINGS, *_COUNTS, *_METHODS):
        if wrong := _fault(value, member):
            raise InputError(
                f"encoder is {type(value).__name__}: make one with M3Encoder.from_pretrained "
                f"(an encoder of your own needs {member}: {wrong})"
            )
    return cast("Encoder", value)


def _fault(value: object, member: str) -> str | None:
    """What is wrong with that member, else None."""
    try:
        found = getattr(value, member)
    except AttributeError:
        return "it has none"
    if member in _STRINGS:
        if not isinstance(found, str) or not found:
            return f"it is {found!r:.80}, not a string that says something"
    elif member in _COUNTS:
        if not isinstance(found, int) or isinstance(found, bool) or found < 1:
            return f"it is {found!r:.80}, not a whole number from 1"
    elif not callable(found):
        return f"it is {found!r:.80}, not a method"
    return None
