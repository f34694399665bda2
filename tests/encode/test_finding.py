"""How a checkpoint is found: a directory, or a repository of a hub."""

from __future__ import annotations

import re
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from m3qdrant import M3Encoder
from m3qdrant.errors import CheckpointError

from .hub import Answer, Hub, Wanted, load
from .test_layouts import heads_as_safetensors, shard

SPARSE, COLBERT = "sparse_linear.pt", "colbert_linear.pt"


# -- directories


@pytest.mark.parametrize("name", ["./nope", "../nope", "nope/deeper/still", "{tmp_path}/nope"])
def test_a_missing_directory_is_not_looked_up_at_the_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def snapshot_download(repo_id: str, **options: Any) -> str:
        asked.append(repo_id)
        raise OSError("the hub was asked")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    name = name.format(tmp_path=tmp_path)
    with pytest.raises(CheckpointError) as caught:
        M3Encoder.from_pretrained(name)
    assert asked == []
    assert name in str(caught.value)
    assert "no such directory" in str(caught.value)


def test_a_directory_goes_before_a_hub_id(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(checkpoint, tmp_path / "acme" / "m3")
    monkeypatch.chdir(tmp_path)
    assert M3Encoder.from_pretrained("acme/m3").name == "acme/m3"


# -- the hub

NEEDED = [
    COLBERT,
    "config.json",
    SPARSE,
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
]
FULL, PICKLED, OLD = "acme/m3", "acme/m3-pickled", ("acme/m3", "v1")
SHARDS, PICKLED_SHARDS = "acme/m3-shards", "acme/m3-pickled-shards"
REFUSED: dict[str, tuple[Wanted, str]] = {
    # the checkpoint, and what the message must say beside its name and a remedy
    "unknown": ("acme/unknown", "(?i)not found"),
    "unknown-revision": (("acme/m3", "v9"), "v9"),
    "private": ("acme/private", "(?i)not found|token|log in"),
    "gated": ("acme/locked", "(?i)gated"),
    "gated-forbidden": ("acme/locked-away", "(?i)gated"),
    "down": ("acme/down", "500"),
    "captive-portal": ("acme/portal", ""),
    "hangs-up": ("acme/hangs-up", ""),
}


class Loads:
    """What one process got from a hub, and the hub."""

    def __init__(self, hub: Hub, cache: Path) -> None:
        wanted: list[Wanted] = [FULL, PICKLED, OLD, SHARDS, PICKLED_SHARDS]
        wanted += [name for name, _ in REFUSED.values()]
        self.hub = hub
        self.cache = cache
        self.answers = dict(zip(wanted, hub.load(wanted, cache), strict=True))


@pytest.fixture(scope="module")
def loads(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loads]:
    full = shutil.copytree(checkpoint, tmp_path_factory.mktemp("hub") / "full")
    for name in ("pytorch_model.bin", "README.md", "imgs/m3.jpg", "onnx/model.onnx_data"):
        path = full / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"not needed")
    shutil.copy(full / "tokenizer.json", full / "onnx" / "tokenizer.json")
    parts = tmp_path_factory.mktemp("shards")
    shards = shutil.copytree(checkpoint, parts / "safetensors")
    shard(shards, n=2)
    heads_as_safetensors(shards)
    pickled_shards = shutil.copytree(checkpoint, parts / "pickled")
    shard(pickled_shards, pickled=True, n=2)
    with Hub() as hub:
        hub.add(SHARDS, shards)
        hub.add(PICKLED_SHARDS, pickled_shards)
        hub.add(FULL, full)
        hub.add(FULL, checkpoint.with_name("fp16-body-colbert-24"), revision="v1")
        hub.add(PICKLED, checkpoint.with_name("bin-fp16-heads"))
        hub.refuse("acme/private", HTTPStatus.UNAUTHORIZED, "RepoNotFound")
        hub.add("acme/locked", full)
        hub.refuse("acme/locked", HTTPStatus.UNAUTHORIZED, "GatedRepo", where="/resolve/")
        hub.add("acme/locked-away", full)
        hub.refuse("acme/locked-away", HTTPStatus.FORBIDDEN, "GatedRepo", where="/resolve/")
        hub.refuse("acme/down", HTTPStatus.INTERNAL_SERVER_ERROR)
        hub.refuse("acme/portal", HTTPStatus.OK)
        hub.refuse("acme/hangs-up", None)
        yield Loads(hub, tmp_path_factory.mktemp("cache"))


def test_only_what_is_needed_is_fetched(loads: Loads, checkpoint: Path) -> None:
    answer = loads.answers[FULL]
    assert answer.error is None, answer.message
    assert list(answer.files) == sorted([*NEEDED, "model.safetensors"])
    assert set(loads.hub.fetched(FULL)) == {*NEEDED, "model.safetensors"}
    assert answer.fingerprint == M3Encoder.from_pretrained(checkpoint).fingerprint


def test_a_pickled_body_is_fetched_where_there_is_no_other(loads: Loads, checkpoint: Path) -> None:
    answer = loads.answers[PICKLED]
    assert answer.error is None, answer.message
    assert loads.hub.fetched(PICKLED) == sorted([*NEEDED, "pytorch_model.bin"])  # each once
    local = M3Encoder.from_pretrained(checkpoint.with_name("bin-fp16-heads"))
    assert answer.fingerprint == local.fingerprint


def test_shards_are_fetched_with_their_index(loads: Loads, checkpoint: Path) -> None:
    local = M3Encoder.from_pretrained(checkpoint)
    heads = [f"{name.removesuffix('.pt')}.safetensors" for name in (SPARSE, COLBERT)]
    files = {*NEEDED, *heads} - {SPARSE, COLBERT}
    for repo, body in (
        (SHARDS, {*files, *(f"model-0000{i}-of-00002.safetensors" for i in (1, 2))}),
        (PICKLED_SHARDS, {*NEEDED, *(f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2))}),
    ):
        answer = loads.answers[repo]
        assert answer.error is None, answer.message
        index = (
            "model.safetensors.index.json" if repo == SHARDS else "pytorch_model.bin.index.json"
        )
        assert loads.hub.fetched(repo) == sorted({*body, index})
        assert answer.fingerprint == local.fingerprint


def test_the_hub_is_asked_for_nothing_but_the_checkpoint(loads: Loads) -> None:
    """No adapters, no chat templates, no conversion to another format."""
    known = {*NEEDED, "model.safetensors", "pytorch_model.bin"}
    for repo in (FULL, PICKLED):
        asked = loads.hub.asked_about(repo)
        assert asked
        assert {path.rsplit("/", 1)[1] for path in asked if "/resolve/" in path} <= known


def test_the_revision_is_passed_on(loads: Loads, checkpoint: Path) -> None:
    local = M3Encoder.from_pretrained(checkpoint.with_name("fp16-body-colbert-24"))
    assert loads.answers[OLD].fingerprint == local.fingerprint
    assert loads.answers[OLD].fingerprint != loads.answers[FULL].fingerprint


def test_a_second_load_needs_no_hub(loads: Loads) -> None:
    before = len(loads.hub.requests)
    names: list[Wanted] = [FULL, PICKLED, OLD, "acme/never-seen"]
    *again, missing = loads.hub.load(names, loads.cache, HF_HUB_OFFLINE="1")
    assert again == [loads.answers[name] for name in (FULL, PICKLED, OLD)]
    assert len(loads.hub.requests) == before
    assert_refused(missing, "acme/never-seen")
    assert "HF_HUB_OFFLINE" in missing.message  # why there was no download


def assert_refused(answer: Answer, name: str) -> None:
    assert answer.error == "CheckpointError", f"{answer.error}: {answer.message}"
    assert name in answer.message
    assert "give a checkpoint directory" in answer.message
    assert answer.cause != "NoneType"


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_hub_refuses_is_a_checkpoint_error(loads: Loads, case: str) -> None:
    wanted, _ = REFUSED[case]
    assert_refused(loads.answers[wanted], wanted if isinstance(wanted, str) else wanted[0])


@pytest.mark.parametrize("case", [case for case, (_, says) in REFUSED.items() if says])
def test_the_error_says_why_the_hub_refused(loads: Loads, case: str) -> None:
    wanted, says = REFUSED[case]
    assert re.search(says, loads.answers[wanted].message), loads.answers[wanted].message


@contextmanager
def refusing_proxy() -> Iterator[str]:
    """A proxy that lets nobody through."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:  # closed: the test is over
                    return
                with client:
                    client.recv(4096)
                    client.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


def test_a_hub_that_is_not_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    (answer,) = load(["acme/m3"], tmp_path, f"http://127.0.0.1:{port}")  # nobody listens there
    assert_refused(answer, "acme/m3")


def test_a_proxy_that_refuses(tmp_path: Path) -> None:
    with refusing_proxy() as proxy:
        (answer,) = load(["acme/m3"], tmp_path, "https://hub.invalid", HTTPS_PROXY=proxy)
    assert_refused(answer, "acme/m3")
