"""Checkpoints as people have them: in shards, as adapters, as pointers, one folder deeper."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from m3qdrant import M3Encoder
from m3qdrant.errors import CheckpointError
from tests.encode.test_checkpoint import change_json
from tests.views import assert_identical

SPARSE, COLBERT, BODY = "sparse_linear.pt", "colbert_linear.pt", "model.safetensors"
TEXTS = ["What is BGE M3?", "", "Straßenbahnhaltestelle 😀"]


def shard(directory: Path, pickled: bool = False, n: int = 3) -> list[str]:
    """Split the body into `n` files with an index; their names."""
    stem, suffix = ("pytorch_model", ".bin") if pickled else ("model", ".safetensors")
    tensors = load_file(directory / BODY)
    (directory / BODY).unlink()
    keys = sorted(tensors)
    names = [f"{stem}-{i + 1:05}-of-{n:05}{suffix}" for i in range(n)]
    for i, name in enumerate(names):
        part = {key: tensors[key] for key in keys[i::n]}
        if pickled:
            torch.save(part, directory / name)
        else:
            save_file(part, directory / name, metadata={"format": "pt"})
    index = {
        "metadata": {"total_size": 1},
        "weight_map": {key: names[i % n] for i, key in enumerate(keys)},
    }
    (directory / f"{stem}{suffix}.index.json").write_text(json.dumps(index))
    return names


def heads_as_safetensors(directory: Path) -> None:
    for name in (SPARSE, COLBERT):
        path = directory / name
        save_file(torch.load(path, weights_only=True), path.with_suffix(".safetensors"))
        path.unlink()


def sentence_transformers(directory: Path) -> None:
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {
            "idx": 1,
            "name": "1",
            "path": "1_Pooling",
            "type": "sentence_transformers.models.Pooling",
        },
        {"idx": 2, "name": "2", "path": "2_N", "type": "sentence_transformers.models.Normalize"},
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1_Pooling").mkdir()
    pooling = {
        "word_embedding_dimension": 48,
        "pooling_mode_cls_token": True,
        "pooling_mode_mean_tokens": False,
    }
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


@pytest.mark.parametrize(
    "change",
    [
        shard,
        lambda directory: shard(directory, pickled=True),
        heads_as_safetensors,
        sentence_transformers,
    ],
    ids=["shards", "pickled shards", "heads as safetensors", "sentence-transformers"],
)
def test_it_is_the_same_model(
    encoder: M3Encoder, copy: Path, change: Callable[[Path], object]
) -> None:
    change(copy)
    other = M3Encoder.from_pretrained(copy, dtype=torch.float32)
    assert other.fingerprint == encoder.fingerprint
    assert other.former_fingerprint == encoder.former_fingerprint
    assert_identical(other.encode(TEXTS), encoder.encode(TEXTS))


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 2271064456\n"


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", BODY, SPARSE, COLBERT])
def test_a_pointer_of_git_lfs_is_named_as_one(copy: Path, name: str) -> None:
    (copy / name).write_text(POINTER)
    with pytest.raises(CheckpointError, match=r"Git LFS pointer.*git lfs pull") as caught:
        M3Encoder.from_pretrained(copy)
    assert str(caught.value).startswith(f"{copy / name}: ")


def test_a_pointer_in_the_place_of_a_shard(copy: Path) -> None:
    name = shard(copy)[1]
    (copy / name).write_text(POINTER)
    with pytest.raises(CheckpointError, match=f"{name}: a Git LFS pointer"):
        M3Encoder.from_pretrained(copy)


def adapter(directory: Path) -> None:
    content = {"peft_type": "LORA", "base_model_name_or_path": "acme/base"}
    (directory / "adapter_config.json").write_text(json.dumps(content))
    save_file({"a": torch.zeros(1)}, directory / "adapter_model.safetensors")


def without_body(directory: Path) -> None:
    (directory / BODY).unlink()


def only_onnx(directory: Path) -> None:
    without_body(directory)
    (directory / "onnx").mkdir()
    (directory / "onnx" / "model.onnx").write_bytes(b"")


def only_gguf(directory: Path) -> None:
    without_body(directory)
    (directory / "bge-m3-q8_0.gguf").write_bytes(b"GGUF")


def cut_off(directory: Path) -> None:
    without_body(directory)
    (directory / f"{BODY}.incomplete").write_bytes(b"")


def cut_off_by_the_hub(directory: Path) -> None:
    without_body(directory)
    folder = directory / ".cache" / "huggingface" / "download"
    folder.mkdir(parents=True)
    (folder / "abc.123.incomplete").write_bytes(b"")


def one_deeper(directory: Path) -> None:
    inner = directory / "bge-m3"
    inner.mkdir()
    for path in list(directory.iterdir()):
        if path != inner:
            path.rename(inner / path.name)


def a_cache_of_the_hub(directory: Path) -> None:
    commit = directory / "snapshots" / "0123abcd"
    commit.mkdir(parents=True)
    for path in list(directory.iterdir()):
        if path.is_file():
            path.rename(commit / path.name)


def missing_shard(directory: Path) -> None:
    (directory / shard(directory)[1]).unlink()


def index_elsewhere(directory: Path) -> None:
    shard(directory)
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../../secrets.safetensors"}}))


def dense_alone(directory: Path) -> None:
    sentence_transformers(directory)
    for name in (SPARSE, COLBERT):
        (directory / name).unlink()


def mean_pooling(directory: Path) -> None:
    sentence_transformers(directory)
    path = directory / "1_Pooling" / "config.json"
    change_json(path, pooling_mode_cls_token=False, pooling_mode_mean_tokens=True)


def mean_pooling_in_the_newer_form(directory: Path) -> None:
    sentence_transformers(directory)
    (directory / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')


def dense_layer(directory: Path) -> None:
    sentence_transformers(directory)
    path = directory / "modules.json"
    modules = json.loads(path.read_text())
    modules.append(
        {"idx": 3, "name": "3", "path": "3", "type": "sentence_transformers.models.Dense"}
    )
    path.write_text(json.dumps(modules))


def beside_an_adapter(directory: Path) -> None:
    adapter(directory)


def adapter_alone(directory: Path) -> None:
    without_body(directory)
    adapter(directory)


def adapter_and_nothing_else(directory: Path) -> None:
    adapter(directory)
    for path in list(directory.iterdir()):
        if not path.name.startswith("adapter"):
            path.unlink()


def quantized(method: str) -> Callable[[Path], None]:
    return lambda directory: change_json(
        directory / "config.json", quantization_config={"quant_method": method, "bits": 4}
    )


def setting(key: str, value: object) -> Callable[[Path], None]:
    return lambda directory: change_json(directory / "config.json", **{key: value})


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "adapter alone": (adapter_alone, r"adapter \(LoRA\) alone.*acme/base.*merge_and_unload"),
    "adapter and nothing else": (adapter_and_nothing_else, r"config.json: missing.*adapter"),
    "beside an adapter": (beside_an_adapter, r"adapter lies beside.*merge"),
    "ONNX": (only_onnx, r"model\.safetensors: missing.*ONNX alone"),
    "GGUF": (only_gguf, r"model\.safetensors: missing.*GGUF alone"),
    "cut off": (cut_off, r"missing.*download was cut off \(model.safetensors.incomplete\)"),
    "cut off by the hub": (cut_off_by_the_hub, r"missing.*download was cut off"),
    "one deeper": (one_deeper, r"config.json: missing.*is in .*bge-m3: give that directory"),
    "the hub's cache": (a_cache_of_the_hub, r"snapshots/0123abcd: give that directory"),
    "missing shard": (missing_shard, r"model-00002-of-00003.safetensors: missing.*names it"),
    "index elsewhere": (index_elsewhere, r"index.json: no weight_map that names files beside"),
    "dense alone": (dense_alone, r"sparse_linear.pt: missing.*sentence-transformers saves the"),
    "no ColBERT head": (
        lambda directory: (directory / COLBERT).unlink(),
        r"colbert_linear.pt: missing, and colbert_linear.safetensors too; without it.*random",
    ),
    "mean pooling": (mean_pooling, r"1_Pooling/config.json: pools by mean"),
    "mean pooling, newer": (mean_pooling_in_the_newer_form, r"pools by mean"),
    "a Dense layer": (dense_layer, r"modules.json: a Dense layer"),
    "bitsandbytes": (quantized("bitsandbytes"), r"config.json: .*quantized \(bitsandbytes\)"),
    "gptq": (quantized("gptq"), r"quantized \(gptq\).*float16"),
    "relative positions": (
        setting("position_embedding_type", "relative_key"),
        r"config.json: position_embedding_type is 'relative_key'",
    ),
    "decoder": (setting("is_decoder", True), r"config.json: is_decoder"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_named_with_the_remedy(copy: Path, case: str) -> None:
    change, says = REFUSED[case]
    change(copy)
    with pytest.raises(CheckpointError, match=f"(?s){says}") as caught:
        M3Encoder.from_pretrained(copy)
    assert str(caught.value).startswith(str(copy))


def test_a_damaged_head_in_safetensors(copy: Path) -> None:
    heads_as_safetensors(copy)
    path = copy / "sparse_linear.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match=r"sparse_linear\.safetensors: can't be read"):
        M3Encoder.from_pretrained(copy)


def test_a_head_in_both_forms_is_read_from_safetensors(copy: Path, encoder: M3Encoder) -> None:
    """As the body is."""
    shutil.copy(copy / SPARSE, copy / "kept.pt")
    heads_as_safetensors(copy)
    (copy / SPARSE).write_bytes(b"not to be read")
    assert M3Encoder.from_pretrained(copy).fingerprint == encoder.fingerprint
