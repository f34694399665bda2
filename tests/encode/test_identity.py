"""A model's identity: everything that shapes a vector, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from m3qdrant import M3Encoder
from m3qdrant.encode import identity
from m3qdrant.errors import CheckpointError
from tests.encode.test_checkpoint import change_body, change_json

Tensors = dict[str, Tensor]
HEADS = ("sparse_linear.pt", "colbert_linear.pt")


def fingerprint(directory: Path, dtype: torch.dtype = torch.float32) -> str:
    return M3Encoder.from_pretrained(directory, device="cpu", dtype=dtype).fingerprint


def body_names(checkpoint: Path) -> list[str]:
    return sorted(load_file(checkpoint / "model.safetensors"))


# -- what belongs to it


def test_every_tensor_of_the_body_counts(checkpoint: Path, copy: Path) -> None:
    """One number of each, moved by more than a rounding."""
    seen = {fingerprint(checkpoint)}
    whole = load_file(checkpoint / "model.safetensors")
    used = [name for name in whole if "pooler" not in name and "position_ids" not in name]
    assert len(used) > 40
    for name in used:
        changed = {key: tensor.clone() for key, tensor in whole.items()}
        flat = changed[name].view(-1)
        flat[len(flat) // 2] += 0.01
        save_file(changed, copy / "model.safetensors", metadata={"format": "pt"})
        seen.add(fingerprint(copy))
    assert len(seen) == 1 + len(used)


def test_two_tensors_in_each_others_place(checkpoint: Path, copy: Path) -> None:
    def swapped(tensors: Tensors) -> Tensors:
        query, key = (f"encoder.layer.0.attention.self.{name}.weight" for name in ("query", "key"))
        return {**tensors, query: tensors[key], key: tensors[query]}

    change_body(copy, swapped)
    assert fingerprint(copy) != fingerprint(checkpoint)


@pytest.mark.parametrize(
    ("key", "value"),
    [("layer_norm_eps", 1e-3), ("num_attention_heads", 2), ("hidden_act", "relu")],
)
def test_settings_that_matter(checkpoint: Path, copy: Path, key: str, value: object) -> None:
    before = json.loads((copy / "config.json").read_text("utf-8"))[key]
    assert before != value
    change_json(copy / "config.json", **{key: value})
    assert fingerprint(copy) != fingerprint(checkpoint)


def change_tokenizer(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = directory / "tokenizer.json"
    tokenizer = json.loads(path.read_text("utf-8"))
    change(tokenizer)
    path.write_text(json.dumps(tokenizer), "utf-8")


def another_score(tokenizer: dict[str, Any]) -> None:
    tokenizer["model"]["vocab"][500][1] -= 0.25


def another_piece(tokenizer: dict[str, Any]) -> None:
    tokenizer["model"]["vocab"][500][0] = "▁zyzzyva"


def lower_case(tokenizer: dict[str, Any]) -> None:
    tokenizer["normalizer"]["normalizers"].append({"type": "Lowercase"})


def split_digits(tokenizer: dict[str, Any]) -> None:
    digits = {"type": "Digits", "individual_digits": True}
    tokenizer["pre_tokenizer"]["pretokenizers"].insert(1, digits)


def special_twice(tokenizer: dict[str, Any]) -> None:
    steps = tokenizer["post_processor"]["pair"]
    steps.append(steps[-1])


@pytest.mark.parametrize(
    "change", [another_score, another_piece, lower_case, split_digits, special_twice]
)
def test_what_the_tokenizer_does(
    checkpoint: Path, copy: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    change_tokenizer(copy, change)
    assert fingerprint(copy) != fingerprint(checkpoint)


def test_a_special_token_that_is_named_otherwise(checkpoint: Path, copy: Path) -> None:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        change_json(copy / name, unk_token="<mask>")
    assert fingerprint(copy) != fingerprint(checkpoint)


# -- what doesn't


def as_half(directory: Path) -> None:
    change_body(directory, lambda tensors: {key: t.half() for key, t in tensors.items()})
    for name in HEADS:
        head = torch.load(directory / name, weights_only=True)
        torch.save({key: tensor.half() for key, tensor in head.items()}, directory / name)
    change_json(directory / "config.json", dtype="float16", transformers_version="4.40.0")


def as_double(directory: Path) -> None:
    change_body(directory, lambda tensors: {key: t.double() for key, t in tensors.items()})


def as_pickle(directory: Path) -> None:
    torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()


def named(prefix: str) -> Callable[[Path], None]:
    def rename(directory: Path) -> None:
        change_body(directory, lambda tensors: {prefix + key: t for key, t in tensors.items()})

    return rename


def named_in_a_pickle(directory: Path) -> None:
    named("model.")(directory)
    as_pickle(directory)


def with_other_tensors(directory: Path) -> None:
    """A pooler, a head of masked language modelling, positions: nothing that is used."""
    extra = {
        "pooler.dense.weight": torch.ones(48, 48),
        "lm_head.bias": torch.ones(950),
        "embeddings.position_ids": torch.arange(130)[None],
    }
    change_body(directory, lambda tensors: {**tensors, **extra})


def laid_out_anew(directory: Path) -> None:
    def change(tokenizer: dict[str, Any]) -> None:
        tokenizer["truncation"] = {
            "max_length": 64, "strategy": "LongestFirst", "stride": 0, "direction": "Right",
        }  # fmt: skip
        tokenizer["model"].pop("byte_fallback")
        space = tokenizer["pre_tokenizer"]["pretokenizers"][1]
        assert space["type"] == "Metaspace"
        del space["prepend_scheme"], space["split"]
        space["add_prefix_space"] = True

    change_tokenizer(directory, change)
    change_json(directory / "tokenizer_config.json", model_max_length=64, padding_side="left")


def saved_by_transformers(directory: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer(["a", "b c"], padding=True, truncation=True, max_length=5)
    tokenizer.save_pretrained(directory)


@pytest.mark.parametrize(
    "change",
    [
        as_half,
        as_double,
        as_pickle,
        named("roberta."),
        named("model."),
        named_in_a_pickle,
        with_other_tensors,
        laid_out_anew,
        saved_by_transformers,
    ],
)
def test_how_it_is_stored_does_not_matter(
    checkpoint: Path, copy: Path, change: Callable[[Path], None]
) -> None:
    change(copy)
    encoder = M3Encoder.from_pretrained(copy, dtype=torch.float32)
    assert encoder.fingerprint == fingerprint(checkpoint)


def test_half_precision_of_tiny_and_of_huge_numbers(checkpoint: Path, copy: Path) -> None:
    """Numbers below float16's least, at its edges, and halfway between two."""

    def odd(tensors: Tensors) -> Tensors:
        weight = tensors["encoder.layer.1.output.dense.weight"]
        generator = torch.Generator().manual_seed(5)
        scales = torch.randint(-30, 3, weight.shape, generator=generator)
        weight *= 2.0 ** scales.float()
        weight.view(-1)[:4] = torch.tensor([65_504.0, -65_503.9, 1 + 2.0**-11, -0.0])
        return tensors

    change_body(copy, odd)
    single = fingerprint(copy)
    assert single != fingerprint(checkpoint)
    as_half(copy)
    assert {fingerprint(copy, dtype) for dtype in (torch.float32, torch.float16)} == {single}


def test_a_number_beyond_float16_is_refused_in_float16_alone(copy: Path) -> None:
    def large(tensors: Tensors) -> Tensors:
        tensors["embeddings.LayerNorm.weight"][3] = 1e5
        return tensors

    change_body(copy, large)
    assert len(fingerprint(copy)) == 32
    with pytest.raises(CheckpointError, match=r"LayerNorm.weight .* as float16.*torch.float32"):
        fingerprint(copy, torch.float16)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_body_with_nan_is_refused(copy: Path, value: float, dtype: torch.dtype) -> None:
    def damaged(tensors: Tensors) -> Tensors:
        tensors["encoder.layer.1.attention.self.key.bias"][7] = value
        return tensors

    change_body(copy, damaged)
    with pytest.raises(CheckpointError, match=r"attention\.self\.key\.bias holds NaN or infinity"):
        fingerprint(copy, dtype)


def test_a_rounded_copy_is_another_model(checkpoint: Path, copy: Path) -> None:
    change_body(copy, lambda tensors: {key: t.bfloat16() for key, t in tensors.items()})
    assert fingerprint(copy) != fingerprint(checkpoint)
    assert fingerprint(copy, torch.bfloat16) == fingerprint(copy)


def test_an_encoder_from_memory_is_the_same(encoder: M3Encoder) -> None:
    again = M3Encoder(encoder.model, encoder.tokenizer, "mine", 64)
    assert again.fingerprint == encoder.fingerprint


def test_embeddings_say_where_they_come_from(encoder: M3Encoder) -> None:
    assert encoder.encode(["a", ""]).fingerprint == encoder.fingerprint
    assert encoder.encode([]).fingerprint == encoder.fingerprint


# -- the cache


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of one's own, which small files are worth too."""
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / "home" / name)
    monkeypatch.setattr(identity, "_LARGE", 1)
    return tmp_path / "home" / "m3qdrant" / "identities"


def age(directory: Path, seconds: float = 3_600) -> None:
    """Let the files be older than the cache's caution."""
    for path in directory.iterdir():
        found = path.stat()
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns - int(seconds * 1e9)))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The models whose bytes were read."""
    seen: list[Path] = []
    compute = identity.weights_identity

    def watched(settings: Any, tensors: Any, where: Path) -> str:
        seen.append(where)
        return compute(settings, tensors, where)

    monkeypatch.setattr("m3qdrant.encode.checkpoint.weights_identity", watched)
    return seen


def test_bytes_are_read_once(copy: Path, cache: Path, reads: list[Path]) -> None:
    age(copy)
    first = fingerprint(copy)
    assert len(reads) == 1
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert fingerprint(copy, dtype) == first
    assert len(reads) == 1
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("name", ["config.json", *HEADS, "model.safetensors"])
def test_a_changed_file_is_read_again(
    copy: Path, cache: Path, reads: list[Path], name: str
) -> None:
    age(copy)
    first = fingerprint(copy)
    (copy / name).write_bytes((copy / name).read_bytes())
    age(copy)
    assert fingerprint(copy) == first
    assert len(reads) == 2


def test_other_bytes_of_the_same_size_and_time(copy: Path, cache: Path, reads: list[Path]) -> None:
    age(copy)
    first, path = fingerprint(copy), copy / "model.safetensors"
    before = path.stat()
    change_body(copy, lambda tensors: {key: t * 1.5 for key, t in tensors.items()})
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert fingerprint(copy) != first


def test_what_was_just_written_is_not_kept(copy: Path, cache: Path, reads: list[Path]) -> None:
    for path in copy.iterdir():
        path.touch()
    assert fingerprint(copy) == fingerprint(copy)
    assert len(reads) == 2


def in_a_directorys_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "no JSON": lambda path: path.write_bytes(b"\xff{"),
    "a list": lambda path: path.write_text("[1]"),
    "null": lambda path: path.write_text("null"),
    "another identity": lambda path: change_json(path, identity="0" * 32),
    "no identity": lambda path: change_json(path, identity=None),
    "no check": lambda path: change_json(path, check=...),
    "a directory": in_a_directorys_place,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_no_entry(
    copy: Path, cache: Path, reads: list[Path], damage: str
) -> None:
    age(copy)
    first = fingerprint(copy)
    (entry,) = cache.iterdir()
    DAMAGES[damage](entry)
    assert fingerprint(copy) == first
    assert len(reads) == 2


def test_a_cache_that_cannot_be_written(copy: Path, cache: Path, reads: list[Path]) -> None:
    cache.parent.parent.write_text("a file in the place of a directory")
    age(copy)
    assert fingerprint(copy) == fingerprint(copy)
    assert len(reads) == 2


def test_a_user_without_a_home(copy: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("platformdirs.user_cache_path", none)
    age(copy)
    assert len(fingerprint(copy)) == 32


def test_two_checkpoints_in_one_place(checkpoint: Path, copy: Path, cache: Path) -> None:
    age(copy)
    first = fingerprint(copy)
    shutil.rmtree(copy)
    shutil.copytree(checkpoint.with_name("fp16-body-colbert-24"), copy)
    age(copy)
    assert fingerprint(copy) != first
