"""M3Model and how a checkpoint is found, fetched and checked."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from m3qdrant import M3Embeddings, M3Encoder
from m3qdrant.encode.network import M3Model, Packing
from m3qdrant.errors import CheckpointError

from .hub import Answer, Hub, load

LAYOUTS = ("bin-fp16-heads", "fp16-body-colbert-24", "safetensors-fp32-heads")
TEXTS = ["What is BGE M3?", "", "Straßenbahnhaltestelle <pad> 😀", "東京都に住んでいる友達" * 4]
HIDDEN = 48  # of the fixture `checkpoint`
SPARSE, COLBERT = "sparse_linear.pt", "colbert_linear.pt"


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint of one's own, to damage."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def change_json(path: Path, **changes: Any) -> None:
    """Set these keys of a JSON file; ... removes one."""
    value = {**json.loads(path.read_text("utf-8")), **changes}
    kept = {key: part for key, part in value.items() if part is not ...}
    path.write_text(json.dumps(kept), "utf-8")


def change_body(directory: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    path = directory / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def head(rows: int = 1, hidden: int = HIDDEN, value: float = 0.5) -> dict[str, Tensor]:
    return {"weight": torch.full((rows, hidden), value), "bias": torch.zeros(rows)}


def assert_identical(a: M3Embeddings, b: M3Embeddings) -> None:
    for left, right in (
        (a.dense, b.dense),
        (a.sparse.indptr, b.sparse.indptr),
        (a.sparse.indices, b.sparse.indices),
        (a.sparse.values, b.sparse.values),
        (a.colbert.vectors, b.colbert.vectors),
        (a.colbert.cu_seqlens, b.colbert.cu_seqlens),
    ):
        torch.testing.assert_close(left, right, rtol=0, atol=0)


# -- the forward pass, against transformers' own


@pytest.fixture(scope="module", params=LAYOUTS)
def pair(request: pytest.FixtureRequest, checkpoint: Path) -> tuple[M3Model, Any]:
    """Our model of a checkpoint, and transformers' with its plainest attention."""
    from transformers import XLMRobertaModel

    directory = checkpoint.with_name(request.param)
    theirs = XLMRobertaModel.from_pretrained(
        directory,
        add_pooling_layer=False,
        attn_implementation="eager",
        dtype=torch.float64,  # so that what is measured is our error alone
        use_safetensors=(directory / "model.safetensors").exists(),
    )
    return M3Model.load(directory, torch.float32), theirs.eval().requires_grad_(False)


def assert_forward_agrees(ours: M3Model, theirs: Any, rows: list[list[int]]) -> None:
    """The packed pass over `rows` against a padded batch with an attention mask."""
    padded = torch.full((len(rows), max(map(len, rows))), ours.pad_id)
    mask = torch.zeros_like(padded)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    expected = theirs(input_ids=padded, attention_mask=mask).last_hidden_state
    positions = [place for row in rows for place in ours.position_ids(row)]
    packing = Packing.of([len(row) for row in rows], torch.device("cpu"))
    flat = torch.tensor([token for row in rows for token in row])
    actual = ours(flat, torch.tensor(positions), packing)
    # at 128 tokens transformers' own float32 is 1.4e-5 off as well
    torch.testing.assert_close(actual.double(), expected[mask.bool()], rtol=0, atol=2e-5)


# any ids of the vocabularies; pads (1) are common enough to stand inside many rows
token_rows = st.lists(st.one_of(st.just(1), st.integers(0, 899)), min_size=1, max_size=24)


@given(st.lists(token_rows, min_size=1, max_size=6))
@settings(max_examples=15)
def test_packed_forward_is_transformers_padded_one(
    pair: tuple[M3Model, Any], rows: list[list[int]]
) -> None:
    assert_forward_agrees(*pair, rows)


def test_packed_forward_up_to_the_last_position(pair: tuple[M3Model, Any]) -> None:
    ours, theirs = pair
    generator = torch.Generator().manual_seed(3)
    lengths = (ours.max_length, 1, ours.max_length - 1, 17)
    rows = [torch.randint(4, 900, (n,), generator=generator).tolist() for n in lengths]
    assert_forward_agrees(ours, theirs, rows)
    assert ours.position_ids(rows[0])[-1] == theirs.config.max_position_embeddings - 1


@given(token_rows)
@settings(max_examples=50)
def test_position_ids_are_transformers_own(pair: tuple[M3Model, Any], row: list[int]) -> None:
    ours, theirs = pair
    seen: list[Tensor] = []
    table = theirs.embeddings.position_embeddings
    hook = table.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    theirs.embeddings(input_ids=torch.tensor([row]))
    hook.remove()
    assert ours.position_ids(row) == seen[0].flatten().tolist()


# -- what a checkpoint may look like


def test_safetensors_and_pickled_bodies_give_the_same(copy: Path) -> None:
    expected = M3Encoder.from_pretrained(copy, dtype=torch.float32)
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    actual = M3Encoder.from_pretrained(copy, dtype=torch.float32)
    assert actual.fingerprint == expected.fingerprint
    assert_identical(actual.encode(TEXTS), expected.encode(TEXTS))


def test_safetensors_go_before_a_pickle(copy: Path) -> None:
    (copy / "pytorch_model.bin").write_bytes(b"not to be read")
    M3Encoder.from_pretrained(copy)


def test_heads_in_half_precision_are_the_same_as_in_single(
    checkpoint: Path, tmp_path: Path
) -> None:
    half = checkpoint.with_name("bin-fp16-heads")
    single = Path(shutil.copytree(half, tmp_path / "single"))
    for name in (SPARSE, COLBERT):
        tensors = torch.load(half / name, weights_only=True)
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
        torch.save({part: tensor.float() for part, tensor in tensors.items()}, single / name)
    a, b = (M3Encoder.from_pretrained(path, dtype=torch.float32) for path in (half, single))
    assert a.fingerprint == b.fingerprint
    assert a.dtype == b.dtype == torch.float32
    assert_identical(a.encode(TEXTS), b.encode(TEXTS))


@pytest.mark.parametrize("name", [SPARSE, COLBERT])
@pytest.mark.parametrize("part", ["weight", "bias"])
def test_other_heads_have_another_fingerprint(copy: Path, name: str, part: str) -> None:
    before = M3Model.load(copy, torch.float32).fingerprint
    tensors = torch.load(copy / name, weights_only=True)
    tensors[part].view(-1)[0] += 1e-3
    torch.save(tensors, copy / name)
    assert M3Model.load(copy, torch.float32).fingerprint != before


def test_the_fingerprint_depends_on_neither_dtype_nor_path(checkpoint: Path, copy: Path) -> None:
    dtypes = (torch.float32, torch.float16, torch.bfloat16)
    prints = {M3Encoder.from_pretrained(copy, dtype=dtype).fingerprint for dtype in dtypes}
    prints.add(M3Encoder.from_pretrained(checkpoint).fingerprint)
    assert len(prints) == 1
    assert len(prints.pop()) == 16


def test_a_narrower_colbert_head(checkpoint: Path) -> None:
    encoder = M3Encoder.from_pretrained(checkpoint.with_name("fp16-body-colbert-24"))
    assert (encoder.dim, encoder.colbert_dim) == (64, 24)
    embeddings = encoder.encode(["a", "b"])
    assert embeddings.dense.shape == (2, 64)
    assert embeddings.colbert.vectors.shape[1] == 24


def test_loading_leaves_transformers_logging_as_it_was(checkpoint: Path, copy: Path) -> None:
    from transformers.utils import logging

    (copy / "model.safetensors").write_bytes(b"")
    before = logging.get_verbosity()
    logging.set_verbosity_info()
    try:
        M3Model.load(checkpoint, torch.float32)
        assert logging.get_verbosity() == logging.INFO
        with pytest.raises(CheckpointError):
            M3Model.load(copy, torch.float32)
        assert logging.get_verbosity() == logging.INFO
        assert logging.is_progress_bar_enabled()
    finally:
        logging.set_verbosity(before)


# -- damaged checkpoints


def config(**changes: Any) -> Callable[[Path], None]:
    return lambda d: change_json(d / "config.json", **changes)


def config_text(text: str) -> Callable[[Path], object]:
    return lambda d: (d / "config.json").write_text(text, "utf-8")


def heads(name: str, value: object) -> Callable[[Path], None]:
    return lambda d: torch.save(value, d / name)


def without(*names: str) -> Callable[[Path], None]:
    def remove(directory: Path) -> None:
        for name in names:
            (directory / name).unlink()

    return remove


def without_layer_1(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if ".layer.1." not in name}


def as_integers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.long() for name, tensor in tensors.items()}


def one_more_id(directory: Path) -> None:
    path = directory / "tokenizer.json"
    tokenizer = json.loads(path.read_text("utf-8"))
    tokenizer["model"]["vocab"].append(["another", -9.0])
    path.write_text(json.dumps(tokenizer), "utf-8")


DAMAGES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    # what is done, the file that the error must name, and what it must say of it
    "no config": (without("config.json"), "config.json", "missing"),
    "config of another model": (config(model_type="bert"), "config.json", "'bert'.*xlm-roberta"),
    "config is no JSON": (config_text("{"), "config.json", "JSON"),
    "config is a list": (config_text("[]"), "config.json", "model_type"),
    "config is not UTF-8": (
        lambda d: (d / "config.json").write_bytes(b'{"model_type": "\xff"}'),
        "config.json",
        "utf-8",
    ),
    "config without hidden_size": (config(hidden_size=...), "config.json", "hidden_size"),
    "config with a bad hidden_size": (config(hidden_size="wide"), "config.json", "hidden_size"),
    "no sparse head": (without(SPARSE), SPARSE, "missing"),
    "no ColBERT head": (without(COLBERT), COLBERT, "missing"),
    "head is empty": (lambda d: (d / SPARSE).write_bytes(b""), SPARSE, "can't be read"),
    "head is cut": (lambda d: cut(d / COLBERT, 900), COLBERT, "can't be read"),
    "sparse head with two rows": (heads(SPARSE, head(rows=2)), SPARSE, r"\[2, 48\].*\[1, 48\]"),
    "head of another width": (heads(SPARSE, head(hidden=47)), SPARSE, r"\[1, 47\].*\[1, 48\]"),
    "ColBERT head of another width": (
        heads(COLBERT, head(HIDDEN, 47)),
        COLBERT,
        r"\[48, 47\].*\[48, 48\]",
    ),
    "ColBERT head with a short bias": (
        heads(COLBERT, {**head(HIDDEN), "bias": torch.zeros(7)}),
        COLBERT,
        "shapes",
    ),
    "ColBERT head without rows": (heads(COLBERT, head(rows=0)), COLBERT, r"\[0, 48\]"),
    "head without bias": (heads(SPARSE, {"weight": torch.ones(1, HIDDEN)}), SPARSE, "bias"),
    "head with a third tensor": (
        heads(SPARSE, {**head(), "scale": torch.ones(1)}),
        SPARSE,
        "scale",
    ),
    "head is a bare tensor": (heads(SPARSE, torch.ones(1, HIDDEN)), SPARSE, "Tensor"),
    "head of lists": (heads(SPARSE, {"weight": [[0.5]], "bias": [0.0]}), SPARSE, "tensor"),
    "head of integers": (heads(SPARSE, as_integers(head())), SPARSE, "int64"),
    "head with NaN": (heads(SPARSE, head(value=float("nan"))), SPARSE, "NaN"),
    "head with infinity": (heads(COLBERT, head(HIDDEN, value=-torch.inf)), COLBERT, "infinity"),
    "no body": (without("model.safetensors"), "model.safetensors", "missing.*pytorch_model.bin"),
    "body is empty": (
        lambda d: (d / "model.safetensors").write_bytes(b""),
        "model.safetensors",
        "can't be loaded",
    ),
    "body is cut": (
        lambda d: cut(d / "model.safetensors", 300_000),
        "model.safetensors",
        "can't be loaded",
    ),
    "body lacks a layer": (
        lambda d: change_body(d, without_layer_1),
        "model.safetensors",
        "missing.*encoder.layer.1",
    ),
    "body has fewer layers": (config(num_hidden_layers=4), "model.safetensors", "layer.3"),
    "body of another shape": (
        config(intermediate_size=80),
        "model.safetensors",
        "intermediate.dense",
    ),
    "body of another vocabulary": (
        config(vocab_size=960),
        "model.safetensors",
        "word_embeddings",
    ),
    "no tokenizer": (without("tokenizer.json"), "tokenizer.json", "missing"),
    "tokenizer is no JSON": (lambda d: cut(d / "tokenizer.json", 5_000), "tokenizer.json", "load"),
    "tokenizer is empty": (
        lambda d: (d / "tokenizer.json").write_text("{}"),
        "tokenizer.json",
        "load",
    ),
    "tokenizer with more ids than rows": (one_more_id, "", "951 ids.*vocab_size is 950"),
    "tokenizer with another pad": (
        config(pad_token_id=5),
        "",
        "pad id is 1, but.*pad_token_id is 5",
    ),
    "tokenizer without CLS and EOS": (
        lambda d: [
            change_json(d / name, bos_token=..., cls_token=..., eos_token=..., sep_token=...)
            for name in ("tokenizer_config.json", "special_tokens_map.json")
        ],
        "",
        "cls|eos",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_by_the_files_name(copy: Path, damage: str) -> None:
    do, name, says = DAMAGES[damage]
    do(copy)
    with pytest.raises(CheckpointError, match=f"(?is){says}") as caught:
        M3Encoder.from_pretrained(copy)
    assert str(copy / name) in str(caught.value)


class Payload:
    """Pickled, it is an order to make a directory."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("name", [SPARSE, COLBERT, "pytorch_model.bin"])
def test_code_in_a_pickle_does_not_run(copy: Path, tmp_path: Path, name: str) -> None:
    marker = tmp_path / "it-ran"
    (copy / "model.safetensors").unlink()
    torch.save({"weight": Payload(marker), "bias": torch.zeros(1)}, copy / name)
    if name != "pytorch_model.bin":
        (copy / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError) as caught:
        M3Encoder.from_pretrained(copy)
    assert str(copy / name) in str(caught.value)
    assert not marker.exists()
    torch.load(copy / name, weights_only=False)  # the trap was a real one
    assert marker.exists()


@pytest.mark.parametrize("name", [SPARSE, "pytorch_model.bin"])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "bare-pickle"])
def test_nobody_is_advised_to_run_a_pickles_code(
    copy: Path, tmp_path: Path, name: str, legacy: bool
) -> None:
    """Torch's own message is such an advice: load it with weights_only=False."""
    (copy / "model.safetensors").unlink()
    payload = {"weight": Payload(tmp_path / "it-ran"), "bias": 0}
    if legacy:
        (copy / name).write_bytes(pickle.dumps(payload, protocol=2))
    else:
        torch.save(payload, copy / name)
    (copy / "pytorch_model.bin").touch()
    with pytest.raises(CheckpointError) as caught:
        M3Encoder.from_pretrained(copy)
    assert str(copy / name) in str(caught.value)
    assert not re.search("weights_only|only if you", str(caught.value))


# -- finding one


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
REFUSED: dict[str, tuple[str | tuple[str, str], str]] = {
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
        wanted = [FULL, PICKLED, OLD, *(name for name, _ in REFUSED.values())]
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
    with Hub() as hub:
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
    names = [FULL, PICKLED, OLD, "acme/never-seen"]
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
