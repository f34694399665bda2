"""Whatever has the protocol's members encodes for a store: one that knows nothing of M3Encoder."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from qdrant_client import QdrantClient

from m3qdrant import M3Embeddings, M3Store, SparseVectors, TokenVectors, TruncationWarning
from m3qdrant.encode import Encoder
from m3qdrant.errors import EncodeError, InputError, NotFiniteError, SchemaMismatchError

MEMBERS = (
    "name", "fingerprint", "dim", "colbert_dim", "max_length", "encode_queries",
    "encode_documents",
)  # fmt: skip


class Hashed:
    """Vectors of the words' hashes: no model, no tokenizer, eight dimensions."""

    name = "tests/hashed"
    fingerprint = "1"
    dim = 8
    colbert_dim = 8
    max_length = 6

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str], int]] = []

    def encode_queries(self, texts: Sequence[str], max_length: int = 6) -> M3Embeddings:
        return self._encode("queries", texts, max_length)

    def encode_documents(self, texts: Sequence[str], max_length: int = 6) -> M3Embeddings:
        return self._encode("documents", texts, max_length)

    def _encode(self, kind: str, texts: Sequence[str], max_length: int) -> M3Embeddings:
        self.asked.append((kind, list(texts), max_length))
        words = [text.lower().split() or [""] for text in texts]
        limit = min(max_length, self.max_length)
        if cut := sum(len(each) > limit for each in words):
            warnings.warn(f"{cut} texts were cut", TruncationWarning, stacklevel=3)
        kept = [each[:limit] for each in words]
        tokens = [self._word(word) for each in kept for word in each]
        terms = [sorted({len(word) for word in each}) for each in kept]
        return M3Embeddings(
            dense=torch.stack([self._unit(sum(map(self._word, each))) for each in kept]),
            sparse=SparseVectors(
                torch.tensor([0, *map(len, terms)]).cumsum(0),
                torch.tensor([term for each in terms for term in each], dtype=torch.int32),
                torch.full((sum(map(len, terms)),), 0.5),
            ),
            colbert=TokenVectors(
                torch.stack(tokens), torch.tensor([0, *map(len, kept)]).cumsum(0)
            ),
            truncated=torch.tensor([len(each) > limit for each in words]),
        )

    def _word(self, word: str) -> torch.Tensor:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")
        rng = np.random.default_rng(seed)
        return self._unit(torch.from_numpy(rng.standard_normal(self.dim)).float())

    def _unit(self, vector: Any) -> torch.Tensor:
        return torch.nn.functional.normalize(vector, dim=-1)


TEXTS = ["a red kite", "a blue whale", "seven green bottles on one wall tonight"]


def test_it_fills_and_searches_a_collection() -> None:
    encoder = Hashed()
    as_protocol: Encoder = encoder  # as mypy sees it too
    with M3Store(":memory:", "c", as_protocol) as store:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # which the report counts instead
            report = store.add(TEXTS)
        assert (report.added, report.truncated, report.failed) == (3, 1, [])
        hits = store.search("a blue whale")
        assert hits[0].text == "a blue whale"
        assert len(hits) == 3
        assert hits[0].scores == pytest.approx(
            {"dense": 1, "sparse": 0.75, "colbert": 1}, abs=1e-3
        )
        (batch,) = store.search_batch(["kite red"], limit=1)
        assert batch[0].text == "a red kite"
        info = store.info()
        assert (info.dim, info.colbert_dim, info.model) == (8, 8, "tests/hashed")
    kinds = [kind for kind, _, _ in encoder.asked]
    assert kinds == ["documents", "queries", "queries"]


def test_a_second_run_encodes_nothing() -> None:
    client = QdrantClient(":memory:")
    encoder = Hashed()
    with M3Store(client, "c", encoder) as store, warnings.catch_warnings():
        warnings.simplefilter("error")
        store.add(TEXTS)
        again = store.add([*TEXTS, "one more"])
    assert (again.unchanged, again.added, again.replaced) == (3, 1, 0)
    assert [texts for _, texts, _ in encoder.asked] == [TEXTS, ["one more"]]
    # another one of the same name and fingerprint is the same model
    other = Hashed()
    with M3Store(client, "c", other) as store:
        assert store.add(TEXTS).unchanged == 3
    assert other.asked == []
    other.fingerprint = "2"
    with pytest.raises(SchemaMismatchError, match="fingerprint"):
        M3Store(client, "c", other)
    client.close()


def test_the_length_is_passed_on() -> None:
    encoder = Hashed()
    with M3Store(":memory:", "c", encoder) as store:
        assert store.add(TEXTS, max_length=2).truncated == 3
    assert encoder.asked[0][2] == 2


def test_a_warning_at_a_query_is_its_callers() -> None:
    with M3Store(":memory:", "c", Hashed()) as store:
        store.add("one")
        with pytest.warns(TruncationWarning, match="1 texts were cut"):
            store.search("1 2 3 4 5 6 7")


class Missing:
    """An encoder without one of its members."""

    def __init__(self, member: str) -> None:
        self._member, self._whole = member, Hashed()

    def __getattr__(self, name: str) -> Any:
        if name == self._member or name not in MEMBERS:
            raise AttributeError(name)
        return getattr(self._whole, name)


@pytest.mark.parametrize("member", MEMBERS)
def test_a_member_that_is_missing_is_named(member: str) -> None:
    encoder: Any = Missing(member)
    message = rf"^encoder is Missing: .* needs {member}: it has none\)$"
    with pytest.raises(InputError, match=message):
        M3Store(":memory:", "c", encoder)
    whole: Any = Missing("nothing")
    M3Store(":memory:", "c", whole).close()


@pytest.mark.parametrize(
    ("member", "value", "complaint"),
    [
        ("name", "", "name: it is '', not a string"),
        ("fingerprint", None, "fingerprint: it is None, not a string"),
        ("dim", 8.0, r"dim: it is 8\.0, not a whole number from 1"),
        ("colbert_dim", math.nan, "colbert_dim: it is nan, not a whole number"),
        ("max_length", 0, "max_length: it is 0, not a whole number from 1"),
        ("encode_queries", "x", "encode_queries: it is 'x', not a method"),
    ],
)
def test_a_member_of_another_type_is_named(member: str, value: Any, complaint: str) -> None:
    encoder = Hashed()
    setattr(encoder, member, value)
    with pytest.raises(InputError, match=complaint):
        M3Store(":memory:", "c", encoder)


class Overflowing(Hashed):
    """Has no numbers for some texts, and finds them two at a time."""

    def _encode(self, kind: str, texts: Sequence[str], max_length: int) -> M3Embeddings:
        bad = [i for i, text in enumerate(texts) if "overflows" in text][:2]
        if bad:
            raise NotFiniteError(f"texts {bad} have NaN", bad, "take float32")
        return super()._encode(kind, texts, max_length)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_a_text_without_numbers_is_left_out_and_the_others_are_stored(n: int) -> None:
    wrong: list[Any] = [{"id": f"w{i}", "text": f"this overflows {i}"} for i in range(n)]
    documents: list[Any] = [wrong[0], *TEXTS[:2], *wrong[1:], TEXTS[2]] if n else TEXTS
    with M3Store(":memory:", "c", Overflowing()) as store:
        report = store.add(documents)
        assert (report.added, len(report.failed), report.truncated) == (3, n, 1)
        assert {error.id for error in report.failed} == {each["id"] for each in wrong}
        for error in report.failed:
            assert error.field == "text"
            assert "NaN or infinity: take float32" in error.reason
        assert [hit.text for hit in store.search("a blue whale", limit=1)] == ["a blue whale"]
        assert store.add(documents).unchanged == 3
        with pytest.raises(EncodeError, match="have NaN"):
            store.search("a query that overflows")
        assert len(store.add(wrong).failed) == n
