"""What a checkpoint's files may look like, and what is refused."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from m3qdrant import M3Encoder
from m3qdrant.encode.network import M3Model
from m3qdrant.errors import CheckpointError
from tests.views import assert_identical, views

TEXTS = ["What is BGE M3?", "", "Straßenbahnhaltestelle <pad> 😀", "東京都に住んでいる友達" * 4]
HIDDEN = 48  # of the fixture `checkpoint`
SPARSE, COLBERT = "sparse_linear.pt", "colbert_linear.pt"


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
    assert len(prints.pop()) == 32


def test_a_narrower_colbert_head(checkpoint: Path) -> None:
    encoder = M3Encoder.from_pretrained(checkpoint.with_name("fp16-body-colbert-24"))
    assert (encoder.dim, encoder.colbert_dim) == (64, 24)
    dense, _, colbert = views(encoder.encode(["a", "b"]))
    assert dense.shape == (2, 64)
    assert colbert.vectors.shape[1] == 24


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


def without_cls_and_eos(directory: Path) -> None:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        change_json(directory / name, bos_token=..., cls_token=..., eos_token=..., sep_token=...)


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
        without_cls_and_eos,
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
