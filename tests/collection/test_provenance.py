"""What decides whether a document is encoded again."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from m3qdrant import Document
from m3qdrant.collection.provenance import Provenance
from m3qdrant.names import OURS, TEXT

values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=6,
)
payloads = st.dictionaries(st.text(min_size=1, max_size=3), values, max_size=3)


@given(st.text(), payloads, st.text(max_size=5))
def test_survives_the_payload_and_knows_itself(
    text: str, payload: dict[str, Any], model: str
) -> None:
    document = Document("a", text.encode("utf-8", "replace").decode(), payload)
    made = Provenance.of(document, model, "8192 pool")
    stored = made.payload_of(document)
    assert stored[TEXT] == document.text
    assert Provenance.read(stored) == made
    assert made.same_vectors(Provenance.of(document, model, "8192 pool"))
    assert set(stored) == {*payload, TEXT, OURS}


def test_each_of_text_model_and_options_changes_the_vectors_and_the_payload_does_not() -> None:
    base = Provenance.of(Document("a", "text", {"x": 1}), "m", "o")
    for other in (
        Provenance.of(Document("a", "texts", {"x": 1}), "m", "o"),
        Provenance.of(Document("a", "text", {"x": 1}), "n", "o"),
        Provenance.of(Document("a", "text", {"x": 1}), "m", "p"),
    ):
        assert not base.same_vectors(other)
    same = Provenance.of(Document("a", "text", {"x": 2}), "m", "o")
    assert base.same_vectors(same)
    assert base.payload != same.payload
    ordered = Document("a", "text", {"x": 1, "y": 2})
    turned = Document("a", "text", {"y": 2, "x": 1})
    assert Provenance.of(ordered, "m", "o") == Provenance.of(turned, "m", "o")


def test_vectors_that_were_brought_along_are_never_the_same() -> None:
    made = Provenance.of(Document("a", "text"), None, "o")
    assert not made.same_vectors(made)


def test_points_of_others_and_of_older_versions_have_none() -> None:
    for payload in (None, {}, {OURS: 3}, {OURS: {"id": "a"}}, {OURS: None}, {"x": 1}):
        assert Provenance.read(payload) is None
