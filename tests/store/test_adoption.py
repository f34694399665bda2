"""Collections of an earlier version, which knew a model by its heads alone."""

from __future__ import annotations

import asyncio
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from qdrant_client import QdrantClient
from safetensors.torch import load_file, save_file

from m3qdrant import AsyncM3Store, IngestReport, M3Encoder, M3Schema, M3Store, QdrantEdge
from m3qdrant.errors import InputError, SchemaMismatchError
from m3qdrant.upkeep import examine, migrate

TEXTS = [
    "The quick brown fox jumps over the lazy dog",
    "Les moteurs de recherche comparent la requête à chacun des documents.",
    "東京都に住んでいる友達から手紙が届きました。",
    "a", "", "word " * 60, "Straßenbahnhaltestelle", "one two three four five six seven",
]  # fmt: skip
DOCUMENTS = [{"id": f"d{i}", "text": text, "n": i} for i, text in enumerate(TEXTS)]


class Former(M3Encoder):
    """As an earlier version's encoder: what it calls the model covers the heads alone."""

    @property
    def fingerprint(self) -> str:
        return self.former_fingerprint


@pytest.fixture(scope="module")
def former(checkpoint: Path) -> M3Encoder:
    return Former.from_pretrained(checkpoint, dtype=torch.float32)


@pytest.fixture(scope="module")
def tuned(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> M3Encoder:
    """A body that was trained further, with the heads of its base."""
    directory = tmp_path_factory.mktemp("tuned") / "checkpoint"
    shutil.copytree(checkpoint, directory)
    path = directory / "model.safetensors"
    generator = torch.Generator().manual_seed(3)
    moved = {
        name: tensor + 0.01 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in load_file(path).items()
    }
    save_file(moved, path, metadata={"format": "pt"})
    return M3Encoder.from_pretrained(directory, dtype=torch.float32)


Fill = Callable[..., str]


@pytest.fixture
def fill(former: M3Encoder, tmp_path: Path) -> Fill:
    """Make a collection "c" as an earlier version would; its directory."""

    def make(documents: Any = DOCUMENTS, schema: M3Schema | None = None, **options: Any) -> str:
        with M3Store(tmp_path / "store", "c", former, schema) as store:
            report = store.add(documents, **options)
            assert report.failed == []
        return str(tmp_path / "store")

    return make


def metadata(location: str) -> dict[str, Any]:
    with QdrantEdge(location, read_only=True) as client:
        found = client.get_collection("c").config.metadata
        assert found is not None
        return dict(found["m3qdrant"])


Reopen = Callable[[str, M3Encoder], IngestReport]


def reopen(location: str, encoder: M3Encoder) -> IngestReport:
    with M3Store(location, "c", encoder) as store:
        return store.add(DOCUMENTS)


def areopen(location: str, encoder: M3Encoder) -> IngestReport:
    async def go() -> IngestReport:
        async with AsyncM3Store(location, "c", encoder) as store:
            return await store.add(DOCUMENTS)

    return asyncio.run(go())


both = pytest.mark.parametrize("opened", [reopen, areopen], ids=["sync", "async"])


@both
def test_the_true_model_adopts_it_and_says_so_once(
    fill: Fill, encoder: M3Encoder, opened: Reopen
) -> None:
    location = fill()
    before = metadata(location)
    with pytest.warns(UserWarning, match="made by an earlier version") as caught:
        report = opened(location, encoder)
    assert len([w for w in caught if "earlier version" in str(w.message)]) == 1
    assert report.unchanged == len(DOCUMENTS)
    changed = {"fingerprint": encoder.fingerprint, "former": encoder.former_fingerprint}
    assert metadata(location) == {**before, **changed}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert opened(location, encoder).unchanged == len(DOCUMENTS)


@both
def test_a_tuned_body_with_the_same_heads_is_refused(
    fill: Fill, encoder: M3Encoder, tuned: M3Encoder, opened: Reopen
) -> None:
    assert tuned.former_fingerprint == encoder.former_fingerprint
    assert tuned.fingerprint != encoder.fingerprint
    location = fill()
    before = metadata(location)
    with pytest.raises(SchemaMismatchError, match=r"\d of 7 documents .* other vectors") as caught:
        opened(location, tuned)
    assert "another collection" in str(caught.value)
    assert len(caught.value.differences) == 1
    assert metadata(location) == before
    with pytest.warns(UserWarning, match="made by an earlier version"):
        opened(location, encoder)
    with pytest.raises(SchemaMismatchError, match="does not fit: the vectors come from"):
        opened(location, tuned)


def test_a_new_collection_keeps_two_models_apart(
    encoder: M3Encoder, tuned: M3Encoder, tmp_path: Path
) -> None:
    with M3Store(tmp_path, "c", encoder) as store:
        store.add(DOCUMENTS)
    with pytest.raises(SchemaMismatchError, match="does not fit: the vectors come from"):
        M3Store(tmp_path, "c", tuned)


@pytest.mark.parametrize("max_length", [4, 40, 8192])
@pytest.mark.parametrize("long_documents", ["pool", "truncate", "error"])
def test_texts_are_cut_as_they_were(
    fill: Fill, encoder: M3Encoder, max_length: int, long_documents: str
) -> None:
    location = fill(max_length=max_length, long_documents=long_documents)
    with pytest.warns(UserWarning, match="made by an earlier version"):
        M3Store(location, "c", encoder).close()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_another_dtype_is_the_same_model(fill: Fill, checkpoint: Path, dtype: torch.dtype) -> None:
    location = fill(schema=M3Schema(dense_datatype="float16"))
    half = M3Encoder.from_pretrained(checkpoint, dtype=dtype)
    with pytest.warns(UserWarning, match="made by an earlier version"):
        M3Store(location, "c", half).close()


def test_an_empty_one_is_adopted(fill: Fill, tuned: M3Encoder) -> None:
    location = fill([])
    with pytest.warns(UserWarning, match="earlier version.* it is empty"):
        M3Store(location, "c", tuned).close()
    assert metadata(location)["fingerprint"] == tuned.fingerprint


def test_without_a_text_there_is_nothing_to_tell_by(fill: Fill, encoder: M3Encoder) -> None:
    location = fill()
    with QdrantEdge(location) as client:
        points, _ = client.scroll("c", limit=100)
        client.delete_payload("c", ["text"], [point.id for point in points])
    with pytest.raises(SchemaMismatchError, match="none of its documents holds a text"):
        M3Store(location, "c", encoder)


def test_a_text_that_was_changed_since_is_no_evidence(fill: Fill, encoder: M3Encoder) -> None:
    """An application may write into payloads; the digest tells."""
    location = fill()
    with QdrantEdge(location) as client:
        points, _ = client.scroll("c", limit=100)
        client.set_payload("c", {"text": "something else"}, [p.id for p in points[:4]])
    with pytest.warns(UserWarning, match="earlier version.* documents, encoded again"):
        M3Store(location, "c", encoder).close()


def test_where_nothing_may_be_written_it_is_compared_each_time(
    fill: Fill, encoder: M3Encoder, tuned: M3Encoder
) -> None:
    location = fill()
    before = metadata(location)
    for _ in range(2):
        with QdrantEdge(location, read_only=True) as client:
            with pytest.warns(UserWarning, match="can't be written down here"):
                store = M3Store(client, "c", encoder)
            assert store.search(TEXTS[0], mode="dense", limit=1)[0].id == "d0"
            with pytest.raises(SchemaMismatchError, match="other vectors"):
                M3Store(client, "c", tuned)
    assert metadata(location) == before


def test_in_memory(former: M3Encoder, encoder: M3Encoder, tuned: M3Encoder) -> None:
    client = QdrantClient(":memory:")
    with M3Store(client, "c", former) as store:
        store.add(DOCUMENTS)
    with pytest.raises(SchemaMismatchError, match="other vectors"):
        M3Store(client, "c", tuned)
    with (
        pytest.warns(UserWarning, match="earlier version"),
        M3Store(client, "c", encoder) as store,
    ):
        assert store.add(DOCUMENTS).unchanged == len(DOCUMENTS)
    client.close()


def test_what_needs_no_encoder_goes_on(fill: Fill, encoder: M3Encoder, tmp_path: Path) -> None:
    location = fill()
    with M3Store(location, "c") as store:
        assert store.count() == len(DOCUMENTS)
        found = store.get("d1")
        assert found is not None
        assert found.text == TEXTS[1]
        with pytest.raises(InputError, match="opening it once with its encoder"):
            store.search(encoder.encode("a"))
    assert migrate(location, str(tmp_path / "target"), "c").copied == len(DOCUMENTS)
    with pytest.warns(UserWarning, match="earlier version"):
        M3Store(str(tmp_path / "target"), "c", encoder).close()
    assert not [f for f in examine(str(tmp_path / "target"), "c") if f.severity == "error"]


def test_embeddings_of_another_model_are_refused(
    encoder: M3Encoder, tuned: M3Encoder, tmp_path: Path
) -> None:
    theirs = tuned.encode(["a", "b"])
    theirs.save(tmp_path / "theirs")
    for opened in (encoder, None):
        with M3Store(tmp_path / "store", "c", opened) as store:
            for embeddings in (theirs, theirs[:2], type(theirs).load(tmp_path / "theirs")):
                with pytest.raises(InputError, match="come from another model"):
                    store.add(["a", "b"], embeddings=embeddings)
                with pytest.raises(InputError, match="come from another model"):
                    store.search_batch(embeddings)
            assert store.add(["a", "b"], embeddings=encoder.encode(["a", "b"])).failed == []


def test_parts_of_two_models_are_not_joined(encoder: M3Encoder, tuned: M3Encoder) -> None:
    ours, theirs = encoder.encode("a"), tuned.encode("a")
    with pytest.raises(InputError, match="different models"):
        type(ours).concat([ours, theirs])
    assert type(ours).concat([ours, ours]).fingerprint == encoder.fingerprint
