"""What counts as an encoder, and what an error says of what doesn't."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from m3qdrant import M3Embeddings, M3Encoder, TruncationWarning
from m3qdrant.encode import Encoder, check_encoder
from m3qdrant.errors import InputError
from tests.views import random_views


@dataclass
class Remote:
    """An encoder that inherits from nothing, as one that asks another machine would."""

    name: str = "remote"
    fingerprint: str = "0f"
    dim: int = 24
    colbert_dim: int = 16
    max_length: int = 100

    def encode_queries(self, texts: Sequence[str], max_length: int = 100) -> M3Embeddings:
        return random_views(len(texts), seed=max_length)

    def encode_documents(self, texts: Sequence[str], max_length: int = 100) -> M3Embeddings:
        return self.encode_queries(texts, max_length)


if TYPE_CHECKING:  # that both are encoders is checked by mypy

    def of_each_kind(encoder: M3Encoder, remote: Remote) -> list[Encoder]:
        return [encoder, remote]

    KINDS: list[type[Encoder]] = [M3Encoder, Remote]


def test_an_encoder_comes_back_as_it_is(encoder: M3Encoder) -> None:
    remote = Remote()
    assert check_encoder(remote) is remote
    assert check_encoder(encoder) is encoder


@pytest.mark.parametrize(
    ("value", "kind"),
    [("m3-tiny", "str"), (None, "NoneType"), (M3Encoder, "type"), (object(), "object")],
    ids=["name", "None", "class", "object"],
)
def test_what_is_no_encoder(value: object, kind: str) -> None:
    with pytest.raises(InputError, match=rf"^encoder is {kind}: make one with M3Encoder\.from_p"):
        check_encoder(value)


MEMBERS = [
    "name",
    "fingerprint",
    "dim",
    "colbert_dim",
    "max_length",
    "encode_queries",
    "encode_documents",
]


@pytest.mark.parametrize("member", MEMBERS)
def test_a_member_that_is_missing_is_named(member: str) -> None:
    class Less:
        def __getattr__(self, name: str) -> Any:
            if name in MEMBERS and name != member:
                return getattr(Remote(), name)
            raise AttributeError(name)

    with pytest.raises(InputError, match=f"^encoder is Less: .* needs {member}: it has none"):
        check_encoder(Less())


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("name", ""),
        ("name", None),
        ("fingerprint", 12),
        ("dim", "24"),
        ("dim", True),
        ("colbert_dim", 0),
        ("max_length", 8192.0),
        ("encode_queries", "no method"),
        ("encode_documents", None),
    ],
)
def test_a_member_of_another_type_is_named(member: str, value: object) -> None:
    remote = Remote()
    setattr(remote, member, value)
    with pytest.raises(InputError, match=f"^encoder is Remote: .* needs {member}: it is ") as no:
        check_encoder(remote)
    assert repr(value) in str(no.value)


def test_the_first_member_that_is_wrong_is_named() -> None:
    with pytest.raises(InputError, match="needs dim: "):
        check_encoder(Remote(dim=0, max_length=0))


def test_what_a_member_raises_is_passed_on() -> None:
    class Down(Remote):
        def __getattribute__(self, name: str) -> Any:
            if name == "fingerprint":
                raise ConnectionError("the other machine is down")
            return super().__getattribute__(name)

    with pytest.raises(ConnectionError, match="is down"):
        check_encoder(Down())


def test_our_own_keeps_what_the_protocol_says(encoder: M3Encoder) -> None:
    """Of texts that are too long: cut, marked in `truncated`, and warned of."""
    ours: Encoder = encoder
    for encode in (ours.encode_queries, ours.encode_documents):
        with pytest.warns(TruncationWarning, match="1 of 2 texts"):
            cut = encode(["short", "word " * 300], 16)
        assert cut.truncated is not None
        assert cut.truncated.tolist() == [False, True]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            whole = encode(["short"])
            assert len(encode([])) == 0
        assert whole.truncated is not None
        assert whole.truncated.tolist() == [False]
