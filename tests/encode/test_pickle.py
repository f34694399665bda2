"""An encoder that is pickled or copied loads its checkpoint again."""

from __future__ import annotations

import copy as copies
import multiprocessing
import os
import pickle
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from m3qdrant import M3Embeddings, M3Encoder
from m3qdrant.encode.checkpoint import Location
from m3qdrant.errors import CheckpointError, InputError
from tests.views import assert_identical

TEXTS = ["What is BGE M3?", "", "Straßenbahnhaltestelle <pad> 😀", "東京都に住んでいる友達" * 4]
OTHER = "fp16-body-colbert-24"

Again = Callable[[M3Encoder], M3Encoder]


def pickled(encoder: M3Encoder) -> M3Encoder:
    again = pickle.loads(pickle.dumps(encoder))
    assert isinstance(again, M3Encoder)
    return again


WAYS: dict[str, Again] = {"pickle": pickled, "copy": copies.copy, "deepcopy": copies.deepcopy}


@pytest.fixture(params=WAYS)
def again(request: pytest.FixtureRequest) -> Again:
    return WAYS[request.param]


@pytest.mark.parametrize("layout", ["bin-fp16-heads", OTHER, "safetensors-fp32-heads"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_it_gives_the_same_to_the_last_bit(
    checkpoint: Path, again: Again, layout: str, dtype: torch.dtype
) -> None:
    first = M3Encoder.from_pretrained(checkpoint.with_name(layout), device="cpu", dtype=dtype)
    second = again(first)
    assert second is not first
    assert repr(second) == repr(first)
    assert second.fingerprint == first.fingerprint
    assert_identical(second.encode(TEXTS), first.encode(TEXTS))


def test_it_is_an_encoder_of_its_own(encoder: M3Encoder, again: Again) -> None:
    """With a lock and a tokenizer of its own: a tokenizer keeps its truncation as state."""
    other = again(encoder)
    assert other.tokenizer is not encoder.tokenizer
    ours = {parameter.data_ptr() for parameter in encoder.model.parameters()}
    assert not ours & {parameter.data_ptr() for parameter in other.model.parameters()}
    done = threading.Event()

    def encode() -> None:
        other.encode("text")
        done.set()

    with encoder._lock:
        thread = threading.Thread(target=encode)
        thread.start()
        assert done.wait(60)
    thread.join()


def test_a_pickle_is_small(encoder: M3Encoder) -> None:
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert len(pickle.dumps(encoder, protocol)) < 2_000


def test_what_was_set_is_kept(checkpoint: Path, again: Again) -> None:
    first = M3Encoder.from_pretrained(checkpoint)
    first.token_budget = 77
    first.name = "as it is called in the collection"
    second = again(first)
    assert (second.token_budget, second.name) == (77, "as it is called in the collection")
    second.token_budget = 5
    assert first.token_budget == 77


class Prefixed(M3Encoder):
    """An encoder of a user's, with a setting of its own."""

    prefix = ""

    def encode_queries(self, texts: Any, *arguments: Any, **options: Any) -> M3Embeddings:
        return self.encode([self.prefix + text for text in texts], *arguments, **options)


def test_a_subclass_keeps_its_class_and_its_settings(checkpoint: Path, again: Again) -> None:
    first = Prefixed.from_pretrained(checkpoint)
    first.prefix = "query: "
    second = again(first)
    assert type(second) is Prefixed
    assert_identical(second.encode_queries(["a"]), first.encode("query: a"))


# -- from elsewhere


def test_a_relative_directory_is_found_from_another(
    copy: Path, again: Again, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = M3Encoder.from_pretrained(copy.name)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    second = again(first)
    assert second.name == first.name == copy.name
    monkeypatch.chdir(tmp_path)
    assert again(second).fingerprint == first.fingerprint  # and a copy's copy


def test_the_bundled_checkpoint_is_where_the_package_is() -> None:
    """Another machine has the package at another place."""
    here = M3Encoder.from_pretrained("m3-tiny")._location
    assert here is not None
    assert here.bundled == "m3-tiny"
    there = Location(Path("/nowhere/site-packages/m3qdrant/data/m3-tiny"), bundled="m3-tiny")
    assert there.again() == here


def encode_elsewhere(encoder: M3Encoder, directory: Path, results: Any) -> None:
    """In a spawned process: say where it is, what it got, and what it computes."""
    os.chdir(directory)
    torch.set_num_threads(1)  # as in the tests' own process
    try:
        second: M3Encoder | None = pickle.loads(pickle.dumps(encoder))
        assert second is not None
        second.encode(TEXTS).save("embeddings")
        results.put((os.getpid(), repr(encoder), second.token_budget))
    except BaseException as error:
        results.put(repr(error))


@pytest.mark.slow
def test_a_spawned_process_gets_it(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    encoder = M3Encoder.from_pretrained(copy.name, device="cpu", dtype=torch.float32)
    encoder.token_budget = 99
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)  # the new process begins here
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=encode_elsewhere, args=(encoder, elsewhere, results))
    process.start()
    pid, shown, budget = results.get(timeout=120)
    process.join(60)
    assert process.exitcode == 0
    assert pid != os.getpid()
    assert (shown, budget) == (repr(encoder), 99)
    assert_identical(M3Embeddings.load(elsewhere / "embeddings"), encoder.encode(TEXTS))


# -- from a hub


class FakeHub:
    """Stands in for `huggingface_hub.snapshot_download`: a cache, and what was asked of it."""

    def __init__(self, checkpoint: Path, cache: Path) -> None:
        self.checkpoint = checkpoint
        self.cache = cache
        self.commit = "0123456789abcdef0123456789abcdef01234567"
        self.asked: list[tuple[str, str | None]] = []

    def __call__(self, repo_id: str, *, revision: str | None, **options: Any) -> str:
        self.asked.append((repo_id, revision))
        assert revision in (None, "main", self.commit)
        snapshot = self.cache / "models--acme--m3" / "snapshots" / self.commit
        shutil.copytree(self.checkpoint, snapshot, dirs_exist_ok=True)
        return str(snapshot)


@pytest.fixture
def hub(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    hub = FakeHub(checkpoint, tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub)
    return hub


def test_a_hubs_model_is_loaded_from_the_cache(hub: FakeHub, again: Again) -> None:
    first = M3Encoder.from_pretrained("acme/m3", revision="main")
    asked = list(hub.asked)
    assert asked
    second = again(first)
    assert hub.asked == asked
    assert second.name == "acme/m3"
    assert_identical(second.encode(TEXTS), first.encode(TEXTS))


def test_what_is_not_in_the_cache_is_fetched_as_it_was(
    hub: FakeHub, again: Again, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its commit: the branch may have moved on. A folder of that name is not the hub's."""
    first = M3Encoder.from_pretrained("acme/m3")
    hub.cache.rename(tmp_path / "of-another-machine")
    shutil.copytree(checkpoint.with_name(OTHER), tmp_path / "acme" / "m3")
    monkeypatch.chdir(tmp_path)
    hub.asked.clear()
    second = again(first)
    assert set(hub.asked) == {("acme/m3", hub.commit)}
    assert second.name == "acme/m3"
    assert second.fingerprint == first.fingerprint


# -- what can't be loaded again


def test_a_changed_checkpoint_is_refused(copy: Path, again: Again, checkpoint: Path) -> None:
    encoder = M3Encoder.from_pretrained(copy)
    shutil.rmtree(copy)  # and not written over: the first one reads its weights from the files
    shutil.copytree(checkpoint.with_name(OTHER), copy)
    with pytest.raises(CheckpointError, match="another than when the encoder was") as caught:
        again(encoder)
    assert str(copy) in str(caught.value)
    assert encoder.fingerprint in str(caught.value)
    encoder.encode(TEXTS)  # the first one is as it was


def test_a_checkpoint_that_is_gone_is_refused(copy: Path, again: Again) -> None:
    encoder = M3Encoder.from_pretrained(copy)
    shutil.rmtree(copy)
    with pytest.raises(CheckpointError, match="no such directory any more") as caught:
        again(encoder)
    assert str(copy) in str(caught.value)


def test_a_file_that_is_gone_is_named(copy: Path, again: Again) -> None:
    encoder = M3Encoder.from_pretrained(copy)
    (copy / "sparse_linear.pt").unlink()
    with pytest.raises(CheckpointError, match="missing") as caught:
        again(encoder)
    assert str(copy / "sparse_linear.pt") in str(caught.value)


def test_a_device_that_is_not_there(encoder: M3Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(M3Encoder, "device", torch.device("cuda", 99))
        written = pickle.dumps(encoder)
    with pytest.raises(InputError, match=r"device cuda:99 is not there; CUDA devices: \d"):
        pickle.loads(written)


def test_an_encoder_from_memory_says_that_it_has_no_checkpoint(
    encoder: M3Encoder, again: Again
) -> None:
    put_together = M3Encoder(encoder.model, encoder.tokenizer, "mine", 64)
    with pytest.raises(InputError, match=r"'mine' was put together.*from_pretrained"):
        again(put_together)
