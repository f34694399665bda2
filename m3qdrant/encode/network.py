"""The BGE-M3 model: XLM-RoBERTa's body and three heads, run over packed token ids.

The body's modules and weights are transformers' own `XLMRobertaModel`; only the walk over its
layers is ours, because it runs over *packed* sequences: every linear layer sees the tokens that
are there and no padding. Attention alone is padded, to the longest text of its batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import m3kernels
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, scaled_dot_product_attention

from m3qdrant.encode.checkpoint import read_checkpoint

if TYPE_CHECKING:
    from transformers import XLMRobertaModel

__all__ = ["M3Model", "Packing"]


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
        fingerprint: 32 hex digits of all weights and settings, whatever files and dtype they come
            in; that of an encoder covers its tokenizer too.
        former_fingerprint: 16 hex digits: what earlier versions called it, by its heads alone.
    """

    def __init__(
        self,
        body: XLMRobertaModel,
        sparse_head: nn.Linear,
        colbert_head: nn.Linear,
        fingerprint: str,
        former_fingerprint: str,
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
        self.former_fingerprint = former_fingerprint

    @classmethod
    def load(cls, directory: Path, dtype: torch.dtype) -> M3Model:
        """Load a checkpoint directory onto the CPU.

        Raises:
            CheckpointError: names the file that is missing, damaged, misshapen or of another
                model.
        """
        read = read_checkpoint(directory, dtype)
        heads = _linear(read.sparse_head), _linear(read.colbert_head)
        model = cls(read.body, *heads, read.identity, read.former_identity)
        return model.to(dtype).eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.sparse_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' floating-point type."""
        return self.sparse_head.weight.dtype

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


def _linear(head: dict[str, Tensor]) -> nn.Linear:
    rows, width = head["weight"].shape
    linear = nn.Linear(width, rows, device="meta")
    linear.load_state_dict(head, assign=True)
    return linear
