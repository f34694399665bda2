"""Fresh inputs of a case, drawn on its device from a seed."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from itertools import pairwise

import m3kernels
import torch
from torch import Tensor

from benchmarks.cases import VOCABULARY, Case, Lengths, Lexical, MaxSim, SparseMax, key

CSR = tuple[Tensor, Tensor, Tensor]

# Rows of float32 that are drawn at a time.
_ROWS = 1 << 16
_CENTRES = 256
_TOPICS = 16
_NOISE = 0.8


@dataclass(frozen=True)
class MaxSimInputs:
    """Packed queries, all of one length, and packed documents."""

    case: MaxSim
    queries: Tensor  # (n_q * query_tokens, d)
    cu_seqlens_q: Tensor  # (n_q + 1,) int64
    documents: Tensor  # (sum_d, d)
    cu_seqlens_d: Tensor  # (n_d + 1,) int64
    scales: Tensor | None  # (sum_d,) float32, with quantized documents
    lengths: list[int]  # tokens of each document

    @property
    def fixed_length(self) -> int | None:
        """The length of all documents, or None where they differ."""
        return self.lengths[0] if self.case.lengths.kind == "fixed" else None

    def each_document(self) -> list[Tensor]:
        """(n_i, d) of each document, views."""
        starts = self.cu_seqlens_d.tolist()
        return [self.documents[start:end] for start, end in pairwise(starts)]

    def padded_queries(self) -> Tensor:
        """(n_q, query_tokens, d), a view."""
        return self.queries.view(self.case.queries, self.case.query_tokens, self.case.dim)

    def padded_documents(self) -> Tensor:
        """(n_d, longest, d): a view where all are of one length, else a copy with zeros."""
        if self.fixed_length is not None:
            return self.documents.view(len(self.lengths), self.fixed_length, self.case.dim)
        padded = self.documents.new_zeros(len(self.lengths), max(self.lengths), self.case.dim)
        padded[self.mask()] = self.documents
        return padded

    def mask(self) -> Tensor:
        """(n_d, longest) bool, true where a document has a token."""
        places = torch.arange(max(self.lengths), device=self.documents.device)
        return places < self.cu_seqlens_d.diff()[:, None]


@dataclass(frozen=True)
class SparseMaxInputs:
    """Packed token states of equally long sequences, and the head's parameters."""

    case: SparseMax
    hidden: Tensor  # (sum_t, d)
    weight: Tensor  # (d,)
    bias: Tensor  # ()
    token_ids: Tensor  # (sum_t,) int64
    cu_seqlens: Tensor  # (n + 1,) int64


@dataclass(frozen=True)
class LexicalInputs:
    """Two CSR matrices over the vocabulary: indptr int64, indices int32, values float32."""

    case: Lexical
    queries: CSR
    documents: CSR


Inputs = MaxSimInputs | SparseMaxInputs | LexicalInputs


def draw(case: Case, seed: int, device: torch.device) -> Inputs:
    """Draw a case's inputs; the same seed, case and kind of device give the same ones."""
    generator = torch.Generator(device)
    generator.manual_seed(seed ^ zlib.crc32(key(case).encode()))
    if isinstance(case, MaxSim):
        return _maxsim(case, generator)
    if isinstance(case, SparseMax):
        return _sparse_max(case, generator)
    return LexicalInputs(
        case,
        queries=_csr(case.queries, case.query_terms, generator),
        documents=_csr(case.documents, case.document_terms, generator),
    )


def _maxsim(case: MaxSim, generator: torch.Generator) -> MaxSimInputs:
    lengths_d = _lengths(case.documents, case.lengths, generator)
    lengths_q = torch.full((case.queries,), case.query_tokens, device=generator.device)
    centres = _normal((_CENTRES, case.dim), generator)
    dtype = getattr(torch, case.dtype)
    quantized = getattr(torch, case.document_dtype) if case.document_dtype else None
    queries, _ = _tokens(lengths_q, centres, dtype, None, generator)
    documents, scales = _tokens(lengths_d, centres, dtype, quantized, generator)
    return MaxSimInputs(
        case, queries, _offsets(lengths_q), documents, _offsets(lengths_d), scales,
        lengths_d.tolist(),
    )  # fmt: skip


def _tokens(
    lengths: Tensor,
    centres: Tensor,
    dtype: torch.dtype,
    quantized: torch.dtype | None,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor | None]:
    """Unit vectors of packed texts, (sum, d), and their scales where they are quantized.

    A text's tokens scatter around a few of the centres, as a trained model's do. Pure noise in
    1,024 dimensions would have no near neighbours: every maximum would be about the same.
    """
    device, dim = centres.device, centres.shape[1]
    texts = torch.repeat_interleave(torch.arange(lengths.numel(), device=device), lengths)
    topics = torch.randint(
        _CENTRES, (lengths.numel(), _TOPICS), device=device, generator=generator
    )
    vectors = torch.empty(texts.numel(), dim, dtype=quantized or dtype, device=device)
    scales = torch.empty(texts.numel(), device=device) if quantized else None
    for first in range(0, texts.numel(), _ROWS):
        rows = slice(first, min(first + _ROWS, texts.numel()))
        text = texts[rows]
        topic = torch.randint(_TOPICS, (text.numel(),), device=device, generator=generator)
        block = _normal((text.numel(), dim), generator).mul_(_NOISE)
        block += centres[topics[text, topic]]
        block = torch.nn.functional.normalize(block, dim=1)
        if quantized and scales is not None:
            vectors[rows], scales[rows] = m3kernels.quantize_tokens(block.to(dtype), quantized)
        else:
            vectors[rows] = block.to(dtype)
    return vectors, scales


def _sparse_max(case: SparseMax, generator: torch.Generator) -> SparseMaxInputs:
    """States, and ids as a tokenizer gives them: <s> ... </s>, few ids often, most rarely."""
    device, dtype = generator.device, getattr(torch, case.dtype)
    rows = case.sequences * case.tokens
    hidden = torch.empty(rows, case.dim, dtype=dtype, device=device)
    for first in range(0, rows, _ROWS):
        block = hidden[first : first + _ROWS]
        block.copy_(torch.randn(block.shape, device=device, generator=generator))
    # Weights of about 0.05 +- 0.1: seven tokens in ten keep one.
    weight = _normal((case.dim,), generator).mul_(0.1).to(dtype)
    bias = torch.tensor(0.05, dtype=dtype, device=device)
    token_ids = _zipf((case.sequences, case.tokens), generator)
    token_ids[:, 0], token_ids[:, -1] = 0, 2
    lengths = torch.full((case.sequences,), case.tokens, device=device)
    return SparseMaxInputs(case, hidden, weight, bias, token_ids.view(-1), _offsets(lengths))


def _csr(rows: int, terms: int, generator: torch.Generator) -> CSR:
    """Rows of about `terms` ids, frequent ids in many rows, with weights up to 0.3."""
    device = generator.device
    # Half as many draws again, because an id that is drawn twice counts once.
    draws = _zipf((rows, terms + terms // 2), generator)
    keys = draws + torch.arange(rows, device=device)[:, None] * VOCABULARY
    keys = torch.unique(keys)
    owners = keys // VOCABULARY
    indices = (keys % VOCABULARY).int()
    values = torch.rand(keys.numel(), device=device, generator=generator).mul_(0.29).add_(0.01)
    return _offsets(torch.bincount(owners, minlength=rows)), indices, values


def _zipf(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Ids from 4 up to the vocabulary's last, int64, the k-th with a chance of about 1 / k."""
    uniform = torch.rand(shape, device=generator.device, generator=generator)
    last = VOCABULARY - 4
    return (last ** uniform.double()).long().clamp_(max=last) + 3


def _lengths(n: int, lengths: Lengths, generator: torch.Generator) -> Tensor:
    device = generator.device
    if lengths.kind == "fixed":
        return torch.full((n,), lengths.low, device=device)
    if lengths.kind == "uniform":
        return torch.randint(
            lengths.low, lengths.high + 1, (n,), device=device, generator=generator
        )
    normal = torch.randn(n, device=device, generator=generator)
    return (normal * 0.7).exp_().mul_(lengths.median).long().clamp_(lengths.low, lengths.high)


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Normal numbers whose rows have a length of about 1."""
    drawn = torch.randn(shape, device=generator.device, generator=generator)
    return drawn.mul_(shape[-1] ** -0.5)


def _offsets(lengths: Tensor) -> Tensor:
    offsets = lengths.new_zeros(lengths.numel() + 1, dtype=torch.int64)
    torch.cumsum(lengths, 0, out=offsets[1:])
    return offsets
