"""MaxSim's cases: every query against every document."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import m3kernels
import torch
from torch import Tensor

from benchmarks.kernels.bench import Case, Prepared
from benchmarks.kernels.draws import ROWS, normal, offsets
from benchmarks.kernels.expected import SIZES, TOLERANCE, Expected, Work
from benchmarks.tables import count

__all__ = ["Lengths", "MaxSim", "MaxSimInputs", "cases", "exact"]

_CENTRES = 256
_TOPICS = 16
_NOISE = 0.8
_SCRATCH_BYTES = 256 << 20


@dataclass(frozen=True)
class Lengths:
    """How many tokens a document has: "fixed", "uniform" (both ends in) or "log-normal"."""

    kind: str
    low: int
    high: int
    median: int = 0

    def __str__(self) -> str:
        if self.kind == "fixed":
            return f"{self.low:,} tokens"
        span = f"{self.low:,} to {self.high:,} tokens"
        return span if self.kind == "uniform" else f"{span} (log-normal, median {self.median:,})"


@dataclass(frozen=True)
class MaxSim:
    """Every query against every document."""

    name: str
    queries: int
    query_tokens: int
    documents: int
    lengths: Lengths
    dim: int
    dtype: str
    document_dtype: str | None = None  # a quantized one; None is the queries'
    op: ClassVar[str] = "maxsim"

    def __str__(self) -> str:
        dtype = f"{self.dtype} queries, {self.document_dtype} documents"
        return (
            f"{count(self.queries, 'query', 'queries')} of {self.query_tokens:,} tokens x "
            f"{self.documents:,} documents of {self.lengths}, d = {self.dim}, "
            f"{dtype if self.document_dtype else self.dtype}"
        )

    def work(self, document_tokens: int) -> Work:
        """Documents, their scales and the queries are read once; one float32 a score is written.

        One multiplication and one addition for each component of each pair of tokens.
        """
        query_tokens = self.queries * self.query_tokens
        scales = 4 * document_tokens if self.document_dtype else 0
        return Work(
            bytes=query_tokens * self.dim * SIZES[self.dtype]
            + document_tokens * self.dim * SIZES[self.document_dtype or self.dtype]
            + scales
            + 4 * self.queries * self.documents,
            flops=2 * query_tokens * document_tokens * self.dim,
        )

    def draw(self, generator: torch.Generator) -> MaxSimInputs:
        """Draw queries of one length, and documents."""
        lengths_d = _lengths(self.documents, self.lengths, generator)
        lengths_q = torch.full((self.queries,), self.query_tokens, device=generator.device)
        centres = normal((_CENTRES, self.dim), generator)
        dtype = getattr(torch, self.dtype)
        quantized = getattr(torch, self.document_dtype) if self.document_dtype else None
        queries, _ = _tokens(lengths_q, centres, dtype, None, generator)
        documents, scales = _tokens(lengths_d, centres, dtype, quantized, generator)
        return MaxSimInputs(
            self, queries, offsets(lengths_q), documents, offsets(lengths_d), scales,
            lengths_d.tolist(),
        )  # fmt: skip


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

    def expected(self) -> Expected:
        """The scores in float64."""
        work = self.case.work(self.documents.shape[0])
        tolerance = TOLERANCE[self.case.document_dtype or self.case.dtype]
        return Expected(work, tolerance, exact(self))

    def ours(self, backend: str | None) -> Prepared:
        """m3kernels.maxsim."""
        return Prepared(
            lambda: m3kernels.maxsim(
                self.queries,
                self.cu_seqlens_q,
                self.documents,
                self.cu_seqlens_d,
                document_scales=self.scales,
                backend=backend,
                validate=False,
            )
        )


def cases(device: str, quick: bool) -> list[Case]:
    """Return the cases for a device."""
    if quick:
        return _quick("bfloat16" if device == "cuda" else "float32")
    return _cuda() if device == "cuda" else _cpu()


def _cuda() -> list[Case]:
    fixed = Lengths("fixed", 512, 512)
    ragged = Lengths("log-normal", 8, 2048, median=256)
    d, dtype = 1024, "bfloat16"
    return [
        MaxSim("base", 1, 32, 1000, fixed, d, dtype),
        MaxSim("ragged", 1, 32, 1000, ragged, d, dtype),
        MaxSim("16-queries", 16, 32, 1000, fixed, d, dtype),
        MaxSim("128-queries", 128, 32, 1000, fixed, d, dtype),
        MaxSim("long-query", 1, 2000, 1000, fixed, d, dtype),
        MaxSim("d128", 1, 32, 4000, fixed, 128, dtype),
        MaxSim("d256", 1, 32, 2000, fixed, 256, dtype),
        MaxSim("int8", 1, 32, 1000, fixed, d, dtype, "int8"),
        MaxSim("fp8", 1, 32, 1000, fixed, d, dtype, "float8_e4m3fn"),
        MaxSim("short-documents", 1, 32, 100_000, Lengths("uniform", 8, 64), d, dtype),
    ]


def _cpu() -> list[Case]:
    """The same cases with fewer documents, most in float32, and each dtype at 128 dimensions."""
    fixed = Lengths("fixed", 512, 512)
    ragged = Lengths("log-normal", 8, 2048, median=256)
    d, dtype = 1024, "float32"
    return [
        MaxSim("base", 1, 32, 200, fixed, d, dtype),
        MaxSim("ragged", 1, 32, 200, ragged, d, dtype),
        MaxSim("16-queries", 16, 32, 50, fixed, d, dtype),
        MaxSim("128-queries", 128, 32, 20, fixed, d, dtype),
        MaxSim("long-query", 1, 2000, 20, fixed, d, dtype),
        MaxSim("d128", 1, 32, 1000, fixed, 128, dtype),
        MaxSim("d256", 1, 32, 500, fixed, 256, dtype),
        MaxSim("d128-ragged", 1, 32, 1000, ragged, 128, dtype),
        MaxSim("bfloat16", 1, 32, 200, fixed, d, "bfloat16"),
        MaxSim("d128-bfloat16", 1, 32, 1000, fixed, 128, "bfloat16"),
        MaxSim("int8", 1, 32, 200, fixed, d, dtype, "int8"),
        MaxSim("d128-int8", 1, 32, 1000, fixed, 128, dtype, "int8"),
        MaxSim("fp8", 1, 32, 200, fixed, d, dtype, "float8_e4m3fn"),
        MaxSim("short-documents", 1, 32, 10_000, Lengths("uniform", 8, 64), d, dtype),
    ]


def _quick(dtype: str) -> list[Case]:
    """Small ones: their times mean little."""
    return [
        MaxSim("base", 1, 32, 20, Lengths("fixed", 64, 64), 1024, dtype),
        MaxSim("ragged", 3, 32, 20, Lengths("log-normal", 8, 512, median=64), 128, dtype),
        MaxSim("int8", 1, 32, 20, Lengths("fixed", 64, 64), 256, dtype, "int8"),
        MaxSim("fp8", 1, 32, 20, Lengths("fixed", 64, 64), 256, dtype, "float8_e4m3fn"),
    ]


def exact(inputs: MaxSimInputs) -> Tensor:
    """Return the mean over query tokens of the best product, (n_q, n_d) float64.

    Places past a document's end repeat its last token, which leaves the maximum alone.
    """
    case, device = inputs.case, inputs.documents.device
    lengths = inputs.cu_seqlens_d.diff()
    order = lengths.argsort()  # neighbours are of like length, so little is repeated
    queries = inputs.queries.double()
    out = torch.zeros(case.queries, case.documents, dtype=torch.float64, device=device)
    first = 0
    while first < case.documents:
        last = _fits(case.dim + queries.shape[0], lengths, order, first)
        block = order[first:last]
        first = last
        longest = max(int(lengths[block].max()), 1)
        places = torch.arange(longest, device=device)
        places = torch.minimum(places, lengths[block, None] - 1).clamp_(min=0)
        rows = inputs.cu_seqlens_d[block, None] + places  # (documents, longest)
        rows.clamp_(max=inputs.documents.shape[0] - 1)
        tokens = _gather(inputs.documents, rows).double()
        if inputs.scales is not None:
            tokens *= inputs.scales[rows].double()[..., None]
        best = (tokens @ queries.T).amax(1)  # (documents, query tokens)
        best = best.view(block.numel(), case.queries, case.query_tokens).mean(2)
        out[:, block] = best.T.masked_fill(lengths[block] == 0, 0.0)
    return out


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
    for first in range(0, texts.numel(), ROWS):
        rows = slice(first, min(first + ROWS, texts.numel()))
        text = texts[rows]
        topic = torch.randint(_TOPICS, (text.numel(),), device=device, generator=generator)
        block = normal((text.numel(), dim), generator).mul_(_NOISE)
        block += centres[topics[text, topic]]
        block = torch.nn.functional.normalize(block, dim=1)
        if quantized and scales is not None:
            vectors[rows], scales[rows] = m3kernels.quantize_tokens(block.to(dtype), quantized)
        else:
            vectors[rows] = block.to(dtype)
    return vectors, scales


def _lengths(n: int, lengths: Lengths, generator: torch.Generator) -> Tensor:
    device = generator.device
    if lengths.kind == "fixed":
        return torch.full((n,), lengths.low, device=device)
    if lengths.kind == "uniform":
        return torch.randint(
            lengths.low, lengths.high + 1, (n,), device=device, generator=generator
        )
    drawn = torch.randn(n, device=device, generator=generator)
    return (drawn * 0.7).exp_().mul_(lengths.median).long().clamp_(lengths.low, lengths.high)


def _gather(vectors: Tensor, rows: Tensor) -> Tensor:
    """Rows of vectors; float8 goes as bytes, since not every torch can index it."""
    if vectors.dtype == torch.float8_e4m3fn:
        return vectors.view(torch.uint8)[rows].view(vectors.dtype)
    return vectors[rows]


def _fits(floats: int, lengths: Tensor, order: Tensor, first: int) -> int:
    """Return the end of a run of documents that the scratch holds, one at least."""
    # 2,048 documents at most, and `order` ascends, so the last of them bounds the rows.
    last = min(first + 2048, order.numel())
    longest = max(int(lengths[order[last - 1]]), 1)
    return first + max(min(last - first, _SCRATCH_BYTES // (8 * floats * longest)), 1)
