"""A checkpoint: found or fetched, its files read and checked against each other.

`layouts.py` says which files these are. Checkpoints are untrusted: nothing is unpickled beyond
tensors, no remote code runs.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from m3qdrant.encode.identity import recalled, remembered, weights_identity
from m3qdrant.encode.layouts import (
    ADAPTER,
    BODY_FILES,
    COLBERT_HEAD,
    SENTENCE_TRANSFORMERS,
    SPARSE_HEAD,
    TOKENIZER_FILES,
    Files,
    find_files,
    head_files,
    read_json,
    shards_of,
)
from m3qdrant.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, XLMRobertaModel

__all__ = [
    "BUNDLED",
    "Checkpoint",
    "Location",
    "find_checkpoint",
    "load_tokenizer",
    "locate_checkpoint",
    "read_checkpoint",
]

BUNDLED = {"m3-tiny": files("m3qdrant") / "data" / "m3-tiny"}
"""Checkpoints that ship inside the package, by name."""

# the hub repository of BAAI/bge-m3 also holds gigabytes of ONNX: fetch by name
SMALL_FILES = (
    "config.json",
    *head_files(SPARSE_HEAD),
    *head_files(COLBERT_HEAD),
    *TOKENIZER_FILES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    *SENTENCE_TRANSFORMERS,
    ADAPTER,
)

_UNSAFE = (
    "damaged, or a pickle that holds more than tensors, which could run code; refused: get the "
    "checkpoint from its publisher, as safetensors where there is a choice"
)


# -- finding


@dataclass(frozen=True)
class Location:
    """Where a checkpoint was found, and how another process finds it again.

    Attributes:
        directory: it holds the files.
        bundled: its name in `BUNDLED`, where it is one of these.
        repo_id: of the hub repository that it was fetched from.
        commit: of that repository.
    """

    directory: Path
    bundled: str | None = None
    repo_id: str | None = None
    commit: str | None = None

    def resolved(self) -> Location:
        """The same place, from whatever working directory."""
        return replace(self, directory=self.directory.resolve())

    def again(self) -> Location:
        """The checkpoint, where it is now: another machine keeps its packages and cache elsewhere.

        The hub is asked only where what was fetched from it isn't there any more.

        Raises:
            CheckpointError: it is nowhere.
        """
        if self.bundled is not None:
            return replace(self, directory=Path(str(BUNDLED[self.bundled])))
        if self.directory.is_dir():
            return self
        if self.repo_id is not None:
            return _fetch(self.repo_id, self.commit)
        raise CheckpointError(
            f"{self.directory}: no such directory any more; the encoder was loaded from it, and "
            "is loaded from it again where it is copied or unpickled"
        )


def locate_checkpoint(name: str | Path, revision: str | None = None) -> Path:
    """The directory of a checkpoint: bundled by name, a directory, or a hub id that is fetched.

    Only the files that are used are fetched, and kept in the hub's own cache.

    Raises:
        CheckpointError: there is no such directory, and the hub can't give it either.
        InputError: a revision of what is no repository of the hub.
    """
    return find_checkpoint(name, revision).directory


def find_checkpoint(name: str | Path, revision: str | None = None) -> Location:
    """As `locate_checkpoint`, with how it was found."""
    if not str(name):
        raise CheckpointError("the model's name is empty; the bundled one is m3-tiny")
    if revision is not None and (not isinstance(revision, str) or not revision):
        raise InputError(f"revision is {revision!r}: give a branch, a tag or a commit")
    if isinstance(name, str) and name in BUNDLED:  # "./m3-tiny" is a folder of the user's
        _refuse_revision(revision, f"{name} is bundled with this package")
        return Location(Path(str(BUNDLED[name])), bundled=name)
    path = Path(name).expanduser()
    if path.is_dir():
        _refuse_revision(revision, f"{name} is a directory")
        return Location(path)
    # "org/model" may be a hub id; what looks like a path is not asked of the hub
    looks_so = str(name).startswith((".", "/", "~", "\\")) or len(path.parts) > 2
    if isinstance(name, Path) or path.exists() or looks_so:
        raise CheckpointError(f"{name}: no such directory")
    return _fetch(str(name), revision)


def _refuse_revision(revision: str | None, what: str) -> None:
    if revision is not None:
        raise InputError(
            f"revision is {revision!r}, but {what}, and only a repository of the hub has "
            "revisions: leave it out"
        )


def _fetch(repo_id: str, revision: str | None) -> Location:
    from huggingface_hub import snapshot_download

    def download(*patterns: str) -> Path:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=list(patterns)))

    try:
        directory = download(*SMALL_FILES, *BODY_FILES[:2])
        if not any((directory / name).exists() for name in BODY_FILES[:2]):
            directory = download(*BODY_FILES[2:])
        body = next((path for name in BODY_FILES if (path := directory / name).exists()), None)
        if body is not None and body.suffix == ".json":
            directory = download(*(path.name for path in shards_of(body)))
    except CheckpointError:
        raise
    except Exception as error:  # the hub's library passes on whatever its HTTP client raises
        raise CheckpointError(
            f"{repo_id}: not a directory here, and the model hub can't give it: "
            f"{_why_refused(error, revision)} (give a checkpoint directory, or m3-tiny, which is "
            "bundled)"
        ) from error
    return Location(directory, repo_id=repo_id, commit=directory.name)


def _why_refused(error: Exception, revision: str | None) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "it is gated: accept its terms there, and log in (HF_TOKEN)"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"it has no revision {revision!r}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "not found, or private: check the id, or log in (HF_TOKEN)"
    # the library's own error may hide the hub's answer behind a guess about the connection
    causes = [str(part) for part in (error, error.__cause__) if part is not None and str(part)]
    return " ".join(": ".join(causes).split()) or type(error).__name__


# -- reading


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What the model's files hold, checked against each other, on the CPU.

    Attributes:
        body: in the dtype asked for.
        sparse_head: "weight" (1, hidden) and "bias" (1,), in the file's dtype.
        colbert_head: "weight" (colbert_dim, hidden) and "bias" (colbert_dim,), likewise.
        identity: of weights and settings, see identity.py.
        former_identity: 16 hex digits: what earlier versions called it, by its heads alone.
    """

    body: XLMRobertaModel
    sparse_head: dict[str, Tensor]
    colbert_head: dict[str, Tensor]
    identity: str
    former_identity: str


def read_checkpoint(directory: Path, dtype: torch.dtype) -> Checkpoint:
    """Read the model of a checkpoint directory.

    Raises:
        CheckpointError: names the file that is missing, damaged, misshapen or of another model.
    """
    found = find_files(directory)
    config = _read_config(found.config)
    hidden = int(config["hidden_size"])
    sparse = _read_head(found.sparse_head, hidden, 1)
    colbert = _read_head(found.colbert_head, hidden, None)
    # an identity is of the numbers as float16, which bfloat16 rounds away
    known = recalled(found.all, "model") is not None
    exact = dtype if known or dtype is not torch.bfloat16 else torch.float32
    body = _read_body(directory, found, exact)

    def identity() -> str:
        tensors = {f"body.{name}": tensor for name, tensor in body.named_parameters()}
        for head, parts in ((SPARSE_HEAD, sparse), (COLBERT_HEAD, colbert)):
            tensors |= {f"{head}.{part}": tensor for part, tensor in parts.items()}
        return weights_identity(body.config, tensors, found.body)

    return Checkpoint(
        body,
        sparse,
        colbert,
        remembered(found.all, "model", identity),
        _former_identity(config, {"sparse_linear.pt": sparse, "colbert_linear.pt": colbert}),
    )


def _read_config(path: Path) -> dict[str, Any]:
    config = read_json(path)
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if model_type != "xlm-roberta":
        raise CheckpointError(
            f"{path}: model_type is {model_type!r}, but BGE-M3's body is 'xlm-roberta'"
        )
    for key in ("hidden_size", "num_hidden_layers", "vocab_size", "max_position_embeddings"):
        if not isinstance(config.get(key), int) or config[key] < 1:
            raise CheckpointError(
                f"{path}: {key} is {config.get(key)!r}, not a positive whole number"
            )
    if quantized := config.get("quantization_config"):
        method = quantized.get("quant_method") if isinstance(quantized, dict) else None
        raise CheckpointError(
            f"{path}: the weights are quantized ({method or 'quantization_config'}); they can't "
            "be read here: get the model in float16 or float32 (dtype=torch.float16 halves its "
            "memory)"
        )
    # what our own walk over the layers doesn't do
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise CheckpointError(
            f"{path}: position_embedding_type is {config['position_embedding_type']!r}, but "
            "BGE-M3's positions are 'absolute'"
        )
    if config.get("is_decoder"):
        raise CheckpointError(f"{path}: is_decoder is true, but BGE-M3's body is an encoder")
    return dict(config)


def _read_head(path: Path, hidden: int, rows: int | None) -> dict[str, Tensor]:
    """One head: weight (rows, hidden), bias (rows,); `rows` None leaves the width free."""
    try:
        if path.suffix == ".safetensors":
            head: Any = load_file(path)
        else:
            head = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own message advises to run the pickle
        raise CheckpointError(f"{path}: {_UNSAFE}") from error
    except Exception as error:  # torch raises many kinds for a damaged file
        raise CheckpointError(f"{path}: can't be read as tensors: {_first_line(error)}") from error
    if not isinstance(head, dict) or set(head) != {"weight", "bias"}:
        found = sorted(map(str, head)) if isinstance(head, dict) else type(head).__name__
        raise CheckpointError(f"{path}: expected the tensors weight and bias, found {found}")
    for name, value in head.items():
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        if not (isinstance(value, Tensor) and value.is_floating_point()):
            raise CheckpointError(f"{path}: {name} is {kind}, not a floating-point tensor")
        if value.layout is not torch.strided:
            raise CheckpointError(f"{path}: {name} is a {value.layout} tensor, not a dense one")
    shapes = {name: list(tensor.shape) for name, tensor in head.items()}
    rows = rows or max(1, head["bias"].numel())
    expected = {"weight": [rows, hidden], "bias": [rows]}
    if shapes != expected:
        raise CheckpointError(f"{path}: shapes are {shapes}, expected {expected}")
    if not all(bool(tensor.isfinite().all()) for tensor in head.values()):
        raise CheckpointError(f"{path}: holds NaN or infinity")
    return head


def _read_body(directory: Path, found: Files, dtype: torch.dtype) -> XLMRobertaModel:
    from transformers import XLMRobertaModel
    from transformers.utils import logging

    path = found.body
    quiet = logging.get_verbosity(), logging.is_progress_bar_enabled()
    try:  # its report of unused heads would only alarm: what is missing is checked below
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        body, report = XLMRobertaModel.from_pretrained(
            directory,
            add_pooling_layer=False,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=found.shards[0].suffix == ".safetensors",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report then, and refused below
            **_renaming(found),
        )
    except pickle.UnpicklingError as error:  # torch's own message advises to run the pickle
        raise CheckpointError(f"{path}: {_UNSAFE}") from error
    except Exception as error:  # transformers raises many kinds for a damaged or misfitting file
        raise CheckpointError(f"{path}: can't be loaded: {_first_line(error)}") from error
    finally:
        logging.set_verbosity(quiet[0])
        if quiet[1]:
            logging.enable_progress_bar()
    surplus = [key for key in report.get("unexpected_keys", ()) if ".layer." in f".{key}"]
    for what, wrong in (
        ("missing", report.get("missing_keys", ())),
        ("of another shape", report.get("mismatched_keys", ())),
        ("of layers that config.json lacks", surplus),
    ):
        if wrong:
            raise CheckpointError(
                f"{path}: {len(wrong)} tensors are {what}, such as {min(map(str, wrong))}: the "
                "weights don't fit config.json"
            )
    return body


_OWN_PREFIXES = ("", "roberta.")
"""What transformers itself takes off the names of a body's tensors."""


def _renaming(found: Files) -> dict[str, Any]:
    """Options by which names such as "model.embeddings..." lose what stands before."""
    first = "embeddings.word_embeddings.weight"
    for path in found.shards:
        for name in _names_in(path):
            prefix = name.removesuffix(first)
            if prefix != name and prefix not in _OWN_PREFIXES:
                return {"key_mapping": {f"^{re.escape(prefix)}": ""}}
    return {}


def _names_in(path: Path) -> list[str]:
    """The names of a file's tensors; none where it can't be read, which shows later."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return list(file.keys())
        return list(torch.load(path, map_location="meta", weights_only=True, mmap=True))
    except Exception:  # torch and safetensors raise many kinds for a damaged file
        return []


def _former_identity(config: Mapping[str, Any], heads: Mapping[str, dict[str, Tensor]]) -> str:
    """What earlier versions took for the model's identity: the body's shape and the heads."""
    keys = ("hidden_size", "num_hidden_layers", "vocab_size", "max_position_embeddings")
    digest = hashlib.sha256(json.dumps({key: config.get(key) for key in keys}).encode())
    for name in sorted(heads):
        for part in ("weight", "bias"):
            digest.update(heads[name][part].float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def load_tokenizer(directory: Path, vocab_size: int, pad_id: int) -> PreTrainedTokenizerFast:
    """The checkpoint's tokenizer, checked against the model.

    Args:
        directory: the checkpoint's.
        vocab_size: rows of the model's word embeddings.
        pad_id: the model's.

    Raises:
        CheckpointError: it can't be read, or its ids don't fit the model.
    """
    from transformers import AutoTokenizer

    path = directory / "tokenizer.json"
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False, use_fast=True
        )
    except Exception as error:  # transformers and tokenizers raise many kinds for a damaged file
        raise CheckpointError(f"{path}: the tokenizer can't be loaded: {error}") from error
    if not getattr(tokenizer, "is_fast", False):
        raise CheckpointError(f"{path}: missing or no fast tokenizer")
    if len(tokenizer) > vocab_size:
        raise CheckpointError(
            f"{path}: {len(tokenizer)} ids, but config.json's vocab_size is {vocab_size}"
        )
    special = {
        name: getattr(tokenizer, f"{name}_token_id") for name in ("cls", "pad", "eos", "unk")
    }
    if None in special.values():
        missing = [name for name, token in special.items() if token is None]
        raise CheckpointError(f"{path}: the tokenizer has no {', '.join(missing)} token")
    if special["pad"] != pad_id:
        raise CheckpointError(
            f"{path}: the tokenizer's pad id is {special['pad']}, but config.json's pad_token_id "
            f"is {pad_id}"
        )
    if (ids := tokenizer("")["input_ids"]) != [special["cls"], special["eos"]]:
        raise CheckpointError(f"{path}: an empty text becomes {ids}, not CLS and EOS")
    body = tokenizer("a b", add_special_tokens=False)["input_ids"]
    if (ids := tokenizer("a b")["input_ids"]) != [special["cls"], *body, special["eos"]]:
        raise CheckpointError(f"{path}: a text becomes {ids}, not {body} between CLS and EOS")
    return tokenizer
