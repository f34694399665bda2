"""The BGE-M3 model: XLM-RoBERTa's body and three heads, run over packed token ids.

The body's modules and weights are transformers' own `XLMRobertaModel`; only the walk over its
layers is ours, because it runs over *packed* sequences: every linear layer sees the tokens that
are there and no padding. Attention alone is padded, to the longest text of its batch.

A checkpoint is BAAI/bge-m3's set of files: `config.json`; the body as `model.safetensors` or
`pytorch_model.bin`; the heads as `sparse_linear.pt` and `colbert_linear.pt`, each {"weight",
"bias"}; the tokenizer's files. Checkpoints are untrusted: nothing is unpickled beyond tensors, no
remote code runs.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import m3kernels
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, scaled_dot_product_attention

from m3qdrant.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import XLMRobertaModel

__all__ = ["BUNDLED", "M3Model", "Packing", "locate_checkpoint"]

BUNDLED = {"m3-tiny": files("m3qdrant") / "data" / "m3-tiny"}
"""Checkpoints that ship inside the package, by name."""

SPARSE_HEAD = "sparse_linear.pt"
COLBERT_HEAD = "colbert_linear.pt"
BODY_FILES = ("model.safetensors", "pytorch_model.bin")
TOKENIZER_FILES = ("tokenizer.json", "sentencepiece.bpe.model")
# the hub repository of BAAI/bge-m3 also holds gigabytes of ONNX: fetch by name
SMALL_FILES = (
    "config.json",
    SPARSE_HEAD,
    COLBERT_HEAD,
    *TOKENIZER_FILES,
    "tokenizer_config.json",
    "special_tokens_map.json",
)


_UNSAFE = (
    "damaged, or a pickle that holds more than tensors, which could run code; refused: get the "
    "checkpoint from its publisher, as safetensors where there is a choice"
)


@dataclass(frozen=True, eq=False)
class Packing:
    """Where a batch's packed tokens lie, and how they are padded for attention.

    Attributes:
        cu_seqlens: (n + 1,) int64 offsets of the n sequences among the T packed tokens.
        padded: (n, longest) int64: the packed row of each padded place (any row where there is
            none).
        packed: (T,) int64: the padded place, row-major, of each packed token.
        mask: (n, 1, 1, longest) bool, True at real tokens; None where all have the same length.
    """

    cu_seqlens: Tensor
    padded: Tensor
    packed: Tensor
    mask: Tensor | None

    @classmethod
    def of(cls, lengths: list[int], device: torch.device) -> Packing:
        """The packing of sequences with these lengths, each at least 1."""
        sizes = torch.tensor(lengths, dtype=torch.int64)
        cu_seqlens = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        places = torch.arange(int(sizes.max()))
        real = places < sizes[:, None]
        padded = torch.where(real, cu_seqlens[:-1, None] + places, 0)
        return cls(
            cu_seqlens.to(device),
            padded.to(device),
            real.flatten().nonzero().flatten().to(device),
            None if bool(real.all()) else real[:, None, None, :].to(device),
        )


class M3Model(nn.Module):
    """Body and heads. `forward` gives hidden states; `dense`, `sparse` and `colbert` read them.

    Attributes:
        dim: width of the hidden states and of the dense vector.
        colbert_dim: width of a ColBERT vector (`dim` in BAAI/bge-m3).
        max_length: the longest text in tokens, specials included, that the position table allows.
        fingerprint: 16 hex digits that tell this checkpoint from others, whatever its path and
            dtype.
    """

    def __init__(
        self,
        body: XLMRobertaModel,
        sparse_head: nn.Linear,
        colbert_head: nn.Linear,
        fingerprint: str,
    ) -> None:
        super().__init__()
        self.body = body
        self.sparse_head = sparse_head
        self.colbert_head = colbert_head
        self.dim = int(body.config.hidden_size)
        self.colbert_dim = colbert_head.out_features
        # position ids begin at pad + 1, so the table's first pad + 1 rows never serve a token
        self.pad_id = int(body.config.pad_token_id)
        self.max_length = int(body.config.max_position_embeddings) - self.pad_id - 1
        self.fingerprint = fingerprint

    @classmethod
    def load(cls, directory: Path, dtype: torch.dtype) -> M3Model:
        """Load a checkpoint directory onto the CPU.

        Raises:
            CheckpointError: names the file that is missing, damaged, misshapen or of another
                model.
        """
        config = _read_config(directory)
        hidden = int(config["hidden_size"])
        heads = {}
        for name, rows in ((SPARSE_HEAD, 1), (COLBERT_HEAD, None)):
            heads[name] = _read_head(directory / name, hidden, rows)
        body = _read_body(directory, dtype)
        fingerprint = _fingerprint(config, heads)
        model = cls(body, _linear(heads[SPARSE_HEAD]), _linear(heads[COLBERT_HEAD]), fingerprint)
        return model.to(dtype).eval().requires_grad_(False)

    def position_ids(self, token_ids: list[int]) -> list[int]:
        """XLM-R's positions of one sequence: they count from pad + 1 and pass over pad ids.

        A text may contain a literal "<pad>": as in the reference it stands at the position
        `pad_id`, and what follows moves up.
        """
        positions, last = [], self.pad_id
        for token in token_ids:
            last += token != self.pad_id
            positions.append(self.pad_id if token == self.pad_id else last)
        return positions

    def forward(self, token_ids: Tensor, position_ids: Tensor, packing: Packing) -> Tensor:
        """Hidden states of the last layer.

        Args:
            token_ids: (T,) int64, the sequences packed one after another, specials included.
            position_ids: (T,) int64, see `position_ids`.
            packing: where the sequences lie.

        Returns:
            (T, dim) in the model's dtype.
        """
        hidden: Tensor = self.body.embeddings(
            input_ids=token_ids[None],
            position_ids=position_ids[None],
            token_type_ids=torch.zeros_like(token_ids)[None],
        )[0]
        for layer in self.body.encoder.layer:
            attended = _attention(layer.attention.self, hidden, packing)
            hidden_1 = layer.attention.output(attended, hidden)
            hidden = layer.output(layer.intermediate(hidden_1), hidden_1)
        return hidden

    def dense(self, hidden: Tensor, packing: Packing) -> Tensor:
        """(n, dim) float32: the normalised hidden state of each CLS."""
        return normalize(hidden[packing.cu_seqlens[:-1]].float(), dim=-1)

    def colbert(self, hidden: Tensor, packing: Packing) -> Tensor:
        """(T - n, colbert_dim) in the model's dtype: a normalised vector a token but CLS."""
        tokens = torch.ones(len(hidden), dtype=torch.bool, device=hidden.device)
        tokens[packing.cu_seqlens[:-1]] = False
        return normalize(self.colbert_head(hidden[tokens]).float(), dim=-1).to(hidden.dtype)

    def sparse(
        self, hidden: Tensor, token_ids: Tensor, packing: Packing, ignore_ids: tuple[int, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(indptr, indices, values) of the lexical weights: max over a token's occurrences."""
        return m3kernels.sparse_max(
            hidden,
            self.sparse_head.weight,
            self.sparse_head.bias,
            token_ids,
            packing.cu_seqlens,
            ignore_ids=ignore_ids,
            validate=False,  # the tokenizer's ids and our own offsets
        )


def _attention(module: Any, hidden: Tensor, packing: Packing) -> Tensor:
    """Self-attention within each packed sequence: (T, dim) -> (T, dim)."""
    head_width = hidden.shape[-1] // int(module.num_attention_heads)

    def heads(linear: nn.Module) -> Tensor:
        rows: Tensor = linear(hidden)
        padded = rows[packing.padded]  # [n, longest, dim]
        split = padded.view(*padded.shape[:2], -1, head_width)
        return split.transpose(1, 2)  # [n, heads, longest, head_width]

    attended = scaled_dot_product_attention(
        heads(module.query), heads(module.key), heads(module.value), attn_mask=packing.mask
    )
    return attended.transpose(1, 2).flatten(2).flatten(0, 1)[packing.packed]


# -- finding and reading a checkpoint


def locate_checkpoint(name: str | Path, revision: str | None = None) -> Path:
    """The directory of a checkpoint: bundled by name, a directory, or a hub id that is fetched.

    Only the files that are used are fetched, and kept in the hub's own cache.

    Raises:
        CheckpointError: there is no such directory, and the hub can't give it either.
    """
    if not str(name):
        raise CheckpointError("the model's name is empty; the bundled one is m3-tiny")
    if isinstance(name, str) and name in BUNDLED:  # "./m3-tiny" is a folder of the user's
        return Path(str(BUNDLED[name]))
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    # "org/model" may be a hub id; what looks like a path is not asked of the hub
    looks_so = str(name).startswith((".", "/", "~", "\\")) or len(path.parts) > 2
    if isinstance(name, Path) or path.exists() or looks_so:
        raise CheckpointError(f"{name}: no such directory")
    return _fetch(str(name), revision)


def _fetch(repo_id: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    def download(*patterns: str) -> Path:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=list(patterns)))

    try:
        directory = download(*SMALL_FILES, BODY_FILES[0])
        if not (directory / BODY_FILES[0]).exists():
            directory = download(BODY_FILES[1])
    except Exception as error:  # the hub's library passes on whatever its HTTP client raises
        raise CheckpointError(
            f"{repo_id}: not a directory here, and the model hub can't give it: "
            f"{_why_refused(error, revision)} (give a checkpoint directory, or m3-tiny, which is "
            "bundled)"
        ) from error
    return directory


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


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing; a BGE-M3 checkpoint has one") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: can't be read as JSON: {error}") from error
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
    if not any((directory / name).exists() for name in TOKENIZER_FILES):
        raise CheckpointError(
            f"{directory / TOKENIZER_FILES[0]}: missing, and {TOKENIZER_FILES[1]} too"
        )
    return dict(config)


def _read_head(path: Path, hidden: int, rows: int | None) -> dict[str, Tensor]:
    """One head: weight (rows, hidden), bias (rows,); `rows` None leaves the width free."""
    try:
        head = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path}: missing; without it the head would be random (a BGE-M3 checkpoint has "
            f"{SPARSE_HEAD} and {COLBERT_HEAD})"
        ) from error
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


def _read_body(directory: Path, dtype: torch.dtype) -> XLMRobertaModel:
    from transformers import XLMRobertaModel
    from transformers.utils import logging

    path = next((directory / name for name in BODY_FILES if (directory / name).exists()), None)
    if path is None:
        raise CheckpointError(f"{directory / BODY_FILES[0]}: missing, and {BODY_FILES[1]} too")
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
            use_safetensors=path.suffix == ".safetensors",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report then, and refused below
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


def _linear(head: dict[str, Tensor]) -> nn.Linear:
    rows, width = head["weight"].shape
    linear = nn.Linear(width, rows, device="meta")
    linear.load_state_dict(head, assign=True)
    return linear


def _fingerprint(config: dict[str, Any], heads: dict[str, dict[str, Tensor]]) -> str:
    """A digest of the shape of the body and of the heads' weights, read as float32.

    The heads are trained with the body, so they tell two checkpoints apart at a fraction of its
    size.
    """
    keys = ("hidden_size", "num_hidden_layers", "vocab_size", "max_position_embeddings")
    digest = hashlib.sha256(json.dumps({key: config.get(key) for key in keys}).encode())
    for name in sorted(heads):
        for part in ("weight", "bias"):
            digest.update(heads[name][part].float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
