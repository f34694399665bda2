"""What lies in a checkpoint's directory, and which of it is read; what can't be used, by its name.

    config.json
    the body      model.safetensors or pytorch_model.bin, whole or in shards with an index
    the heads     sparse_linear and colbert_linear, as .safetensors or .pt: {"weight", "bias"}
    the tokenizer tokenizer.json, or sentencepiece.bpe.model

Where there are two, safetensors go first.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m3qdrant.errors import CheckpointError

__all__ = [
    "ADAPTER",
    "BODY_FILES",
    "COLBERT_HEAD",
    "SENTENCE_TRANSFORMERS",
    "SPARSE_HEAD",
    "TOKENIZER_FILES",
    "Files",
    "find_files",
    "head_files",
    "read_json",
    "shards_of",
]

SPARSE_HEAD = "sparse_linear"
COLBERT_HEAD = "colbert_linear"
BODY_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
TOKENIZER_FILES = ("tokenizer.json", "sentencepiece.bpe.model")
ADAPTER = "adapter_config.json"
SENTENCE_TRANSFORMERS = ("modules.json", "1_Pooling/config.json")

_POINTER = b"version https://git-lfs"
_OTHER_FORMATS = {
    "*.onnx": "ONNX",
    "onnx/*.onnx": "ONNX",
    "*.gguf": "GGUF",
    "openvino/*.xml": "OpenVINO",
    "openvino_*.xml": "OpenVINO",
    "tf_model.h5": "TensorFlow",
    "flax_model.msgpack": "Flax",
}


@dataclass(frozen=True)
class Files:
    """The files of a checkpoint that are read.

    Attributes:
        config: config.json.
        body: the body, or the index of its shards.
        shards: the files that hold the body.
        sparse_head: of the lexical weights.
        colbert_head: of the ColBERT vectors.
    """

    config: Path
    body: Path
    shards: tuple[Path, ...]
    sparse_head: Path
    colbert_head: Path

    @property
    def all(self) -> list[Path]:
        """Everything that the model is made of."""
        return [self.config, self.body, *self.shards, self.sparse_head, self.colbert_head]


def head_files(stem: str) -> tuple[str, str]:
    """The names that a head's file may have, the first one first."""
    return f"{stem}.safetensors", f"{stem}.pt"


def find_files(directory: Path) -> Files:
    """The files to read.

    Raises:
        CheckpointError: names what is missing, or what is there in its place, and the remedy.
    """
    config = directory / "config.json"
    if not config.exists():
        raise CheckpointError(
            f"{config}: missing; a BGE-M3 checkpoint has one{_elsewhere(directory)}"
        )
    _refuse_pointer(config)
    heads = [_head(directory, stem) for stem in (SPARSE_HEAD, COLBERT_HEAD)]
    if not any((directory / name).exists() for name in TOKENIZER_FILES):
        raise CheckpointError(
            f"{directory / TOKENIZER_FILES[0]}: missing, and {TOKENIZER_FILES[1]} too"
            f"{_unfinished(directory)}"
        )
    for name in TOKENIZER_FILES:
        _refuse_pointer(directory / name)
    body = next((directory / name for name in BODY_FILES if (directory / name).exists()), None)
    adapter = directory / ADAPTER
    if body is None:
        raise CheckpointError(
            f"{directory / BODY_FILES[0]}: missing, and {BODY_FILES[2]} too"
            f"{_instead(directory)}{_unfinished(directory)}"
        )
    if adapter.exists():
        raise CheckpointError(
            f"{adapter}: an adapter lies beside the body: merge it into the body "
            "(peft: merge_and_unload(), then save_pretrained), or remove it where that is done"
        )
    shards = shards_of(body) if body.suffix == ".json" else (body,)
    for path in shards:
        if not path.exists():
            raise CheckpointError(
                f"{path}: missing, but {body.name} names it{_unfinished(directory)}"
            )
    for path in (body, *shards, *heads):
        _refuse_pointer(path)
    _refuse_other_pooling(directory)
    return Files(config, body, shards, heads[0], heads[1])


def shards_of(index: Path) -> tuple[Path, ...]:
    """The files that an index of shards names, each once.

    Raises:
        CheckpointError: it can't be read, or names files elsewhere.
    """
    found = read_json(index)
    weights = found.get("weight_map") if isinstance(found, dict) else None
    names = set(weights.values()) if isinstance(weights, dict) else set()
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise CheckpointError(f"{index}: no weight_map that names files beside it")
    return tuple(index.with_name(name) for name in sorted(names))


def read_json(path: Path) -> Any:
    """What a JSON file of a checkpoint holds.

    Raises:
        CheckpointError: it can't be read.
    """
    _refuse_pointer(path)
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: can't be read as JSON: {error}") from error


def _head(directory: Path, stem: str) -> Path:
    for name in head_files(stem):
        if (directory / name).exists():
            return directory / name
    missing = directory / f"{stem}.pt"
    why = ""
    if (directory / "modules.json").exists():
        why = "; sentence-transformers saves the dense view alone"
    raise CheckpointError(
        f"{missing}: missing, and {stem}.safetensors too; without it the head would be random (a "
        f"BGE-M3 checkpoint has {SPARSE_HEAD} and {COLBERT_HEAD}{why}). Heads belong to the body "
        f"that they were trained with: take them from where the body comes from"
        f"{_instead(directory)}{_unfinished(directory)}"
    )


def _refuse_pointer(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(len(_POINTER))
    except OSError:
        return  # whoever reads it says what is wrong
    if start == _POINTER:
        raise CheckpointError(
            f"{path}: a Git LFS pointer, not the file itself: run `git lfs install` and "
            "`git lfs pull` in the repository"
        )


def _refuse_other_pooling(directory: Path) -> None:
    """Sentence-transformers may make its dense vector of something else than CLS."""
    modules = directory / SENTENCE_TRANSFORMERS[0]
    if not modules.exists():
        return
    listed = read_json(modules)
    for module in listed if isinstance(listed, list) else ():
        kind = str(module.get("type")) if isinstance(module, dict) else ""
        if kind.endswith(".Dense"):
            raise CheckpointError(
                f"{modules}: a Dense layer follows the pooling; BGE-M3's dense vector is CLS as "
                "it is, so this model's vectors can't be computed here"
            )
        pooling = directory / str(module.get("path")) / "config.json" if kind else modules
        if kind.endswith(".Pooling") and pooling.exists():
            settings = read_json(pooling)
            mode = settings.get("pooling_mode") if isinstance(settings, dict) else None
            modes = [mode] if isinstance(mode, str) else _modes(settings)
            if modes and modes != ["cls"]:
                raise CheckpointError(
                    f"{pooling}: pools by {' and '.join(modes)}; BGE-M3's dense vector is CLS, so "
                    "this model's vectors can't be computed here"
                )


def _modes(settings: Any) -> list[str]:
    """The pooling modes that are on, in sentence-transformers' older form."""
    if not isinstance(settings, dict):
        return []
    return [
        key.removeprefix("pooling_mode_").removesuffix("_token").removesuffix("_tokens")
        for key, value in settings.items()
        if key.startswith("pooling_mode_") and value is True
    ]


def _instead(directory: Path) -> str:
    """What lies there in the place of a body, and the remedy; empty where it is unknown."""
    if (directory / ADAPTER).exists():
        base = _base_of(directory / ADAPTER)
        return (
            f". It holds an adapter (LoRA) alone: load it onto its base{base} with peft, "
            "merge_and_unload(), save_pretrained, and put the heads and the tokenizer beside it"
        )
    formats = sorted(
        {kind for pattern, kind in _OTHER_FORMATS.items() if any(directory.glob(pattern))}
    )
    if formats:
        return (
            f". It holds the model as {' and '.join(formats)} alone: get the one in "
            f"{BODY_FILES[0]} or {BODY_FILES[2]}, with its heads"
        )
    return ""


def _base_of(adapter: Path) -> str:
    try:
        found = json.loads(adapter.read_text("utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        return ""
    return f" {found}" if isinstance(found, str) else ""


def _unfinished(directory: Path) -> str:
    """Whether a download was cut off, as half a sentence."""
    places = (directory, directory / ".cache" / "huggingface" / "download")
    for place in places:
        for path in sorted(place.glob("*.incomplete")):
            return f". A download was cut off ({path.name}): start it again"
    return ""


def _elsewhere(directory: Path) -> str:
    """Which directory was meant: one that lies in this one."""
    snapshots = sorted(directory.glob("snapshots/*/config.json"))
    nested = [*snapshots, *sorted(directory.glob("*/config.json"))]
    for config in nested:
        try:
            content = json.loads(config.read_text("utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(content, dict) and content.get("model_type") == "xlm-roberta":
            return f". The checkpoint is in {config.parent}: give that directory"
    return f"{_instead(directory)}{_unfinished(directory)}"
