"""The cases of the kernel suite, as data, and the work that each of them cannot do without.

Nothing here imports torch: the process that reports doesn't need it.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch
from typing import ClassVar, TypeAlias

SIZES = {
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "int8": 1,
    "float8_e4m3fn": 1,
}

VOCABULARY = 250_002  # XLM-RoBERTa's


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
class Work:
    """The fewest bytes that a case moves (inputs once, outputs once), and its operations."""

    bytes: int
    flops: int

    def floor(self, bandwidth: float, rate: float) -> tuple[float, str]:
        """Return the shortest time there can be, in seconds, and the bound that sets it."""
        memory, compute = self.bytes / bandwidth, self.flops / rate
        return (memory, "memory") if memory >= compute else (compute, "compute")


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
            f"{_count(self.queries, 'query', 'queries')} of {self.query_tokens:,} tokens x "
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


@dataclass(frozen=True)
class SparseMax:
    """Token states of equally long sequences to lexical weights."""

    name: str
    sequences: int
    tokens: int
    dim: int
    dtype: str
    op: ClassVar[str] = "sparse_max"

    def __str__(self) -> str:
        return (
            f"{_count(self.sequences, 'sequence', 'sequences')} of {self.tokens:,} tokens, "
            f"d = {self.dim}, {self.dtype}"
        )

    def work(self, nnz: int) -> Work:
        """States and int64 ids are read once; (int32, float32) a term and indptr are written."""
        tokens = self.sequences * self.tokens
        return Work(
            bytes=tokens * (self.dim * SIZES[self.dtype] + 8) + 8 * nnz + 8 * self.sequences,
            flops=2 * tokens * self.dim,
        )


@dataclass(frozen=True)
class Lexical:
    """Every query's sparse weights against every document's."""

    name: str
    queries: int
    documents: int
    query_terms: int
    document_terms: int
    dtype: str = "float32"
    op: ClassVar[str] = "lexical_scores"

    def __str__(self) -> str:
        return (
            f"{_count(self.queries, 'query', 'queries')} of about {self.query_terms} terms x "
            f"{self.documents:,} documents of about {self.document_terms}, {self.dtype}"
        )

    def work(self, nnz: int, matches: int) -> Work:
        """An int32 and a float32 a term are read once; one float32 a score is written.

        `matches` counts the (query term, document term) with the same id: one multiplication and
        one addition each.
        """
        rows = self.queries + self.documents
        return Work(
            bytes=8 * nnz + 8 * rows + 4 * self.queries * self.documents, flops=2 * matches
        )


Case: TypeAlias = MaxSim | SparseMax | Lexical


def key(case: Case) -> str:
    """Return the name that ``--case`` matches, such as "maxsim/ragged"."""
    return f"{case.op}/{case.name}"


def cases(device: str, *, quick: bool, patterns: list[str] | None = None) -> list[Case]:
    """Return the cases for "cuda" or "cpu" whose key matches one of `patterns`, or all."""
    found = _quick(device) if quick else _cuda() if device == "cuda" else _cpu()
    if not patterns:
        return found
    return [case for case in found if any(fnmatch(key(case), pattern) for pattern in patterns)]


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
        *_heads(dtype),
        *_lexical(),
    ]


def _cpu() -> list[Case]:
    """The same cases with fewer documents, in float32, and one in bfloat16."""
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
        MaxSim("bfloat16", 1, 32, 200, fixed, d, "bfloat16"),
        MaxSim("int8", 1, 32, 200, fixed, d, dtype, "int8"),
        MaxSim("fp8", 1, 32, 200, fixed, d, dtype, "float8_e4m3fn"),
        MaxSim("short-documents", 1, 32, 10_000, Lengths("uniform", 8, 64), d, dtype),
        *_heads(dtype),
        *_lexical(),
    ]


def _heads(dtype: str) -> list[Case]:
    shapes = [(1, 64), (64, 512), (8, 8192), (512, 128)]
    return [SparseMax(f"{n}x{tokens}", n, tokens, 1024, dtype) for n, tokens in shapes]


def _lexical() -> list[Case]:
    return [Lexical("1x1000", 1, 1000, 12, 200), Lexical("32x10000", 32, 10_000, 12, 200)]


def _quick(device: str) -> list[Case]:
    """One small case of each kind: does everything run and agree? Its times mean little."""
    dtype = "bfloat16" if device == "cuda" else "float32"
    return [
        MaxSim("base", 1, 32, 20, Lengths("fixed", 64, 64), 1024, dtype),
        MaxSim("ragged", 3, 32, 20, Lengths("log-normal", 8, 512, median=64), 128, dtype),
        MaxSim("int8", 1, 32, 20, Lengths("fixed", 64, 64), 256, dtype, "int8"),
        MaxSim("fp8", 1, 32, 20, Lengths("fixed", 64, 64), 256, dtype, "float8_e4m3fn"),
        SparseMax("4x64", 4, 64, 1024, dtype),
        Lexical("2x100", 2, 100, 12, 50),
    ]


def _count(n: int, one: str, many: str) -> str:
    return f"{n:,} {one if n == 1 else many}"
