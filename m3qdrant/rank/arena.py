"""Documents' three views in the rows of one tensor, so that scoring them copies no token vector.

A document is two runs of rows, whatever their dtype:

    | its token vectors |      | its dense vector | its token ids, then their weights |

The token vectors are in the arena's dtype (int8: with a scale a row), the rest is float32 and
int32, in as many rows as it takes, read through another view of the same memory. So two numbers
say where all of a document is, and an arena is exactly as large as it was made. The rest lies
elsewhere, so that token vectors of neighbours are read without a gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import m3kernels
import torch
from m3kernels.packing import from_lengths, segment_ids
from torch import Tensor

from m3qdrant.encode import M3Embeddings, SparseVectors
from m3qdrant.errors import InputError
from m3qdrant.names import COLBERT, DENSE

__all__ = ["DTYPES", "Arena", "Dtype", "Form", "Run"]

Dtype = Literal["float32", "bfloat16", "int8"]
"""What token vectors can be kept as."""

DTYPES: dict[Dtype, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "int8": torch.int8,
}

_ALIGNED = 16
"""A row has a multiple of so many bytes, which kernels load at once and float32 needs in part."""

_PART = 1 << 12
"""Rows that are moved at a time."""


@dataclass(frozen=True)
class Run:
    """Where a document is in an arena.

    Attributes:
        start: the row of its first token vector.
        rest: the first row of what is beside them.
        tokens: how many token vectors it has; 0 where it has no such view.
        terms: how many token ids with a weight.
        dense: whether it has a dense vector.
        rows: how many rows it takes.
    """

    start: int
    rest: int
    tokens: int
    terms: int
    dense: bool
    rows: int


@dataclass(frozen=True)
class Form:
    """What an arena's rows are.

    Attributes:
        dense_dim: width of a dense vector; 0 where documents have none.
        token_dim: width of a token vector; 0 where documents have none.
        dtype: "float32", "bfloat16" or "int8".
        device: where the rows are.
    """

    dense_dim: int
    token_dim: int
    dtype: Dtype
    device: torch.device

    @property
    def width(self) -> int:
        """Numbers a row: a token vector's, and zeros up to a whole number of 16 bytes."""
        each = _ALIGNED // DTYPES[self.dtype].itemsize
        return max(1, -(-self.token_dim // each)) * each

    @property
    def stride(self) -> int:
        """Bytes a row, without its scale."""
        return self.width * DTYPES[self.dtype].itemsize

    @property
    def row_bytes(self) -> int:
        """Bytes a row, with its scale."""
        return self.stride + (4 if self.dtype == "int8" else 0)

    def rows_of(self, tokens: int, terms: int, dense: bool) -> int:
        """How many rows a document takes."""
        return tokens + self._dense_rows * dense + self._rows(8 * terms)

    @property
    def _dense_rows(self) -> int:
        return self._rows(4 * self.dense_dim)

    def _rows(self, n_bytes: int) -> int:
        return -(-n_bytes // self.stride)

    @classmethod
    def of(cls, documents: M3Embeddings, dtype: Dtype, device: torch.device) -> Form:
        """The form that keeps such documents."""
        dense, colbert = documents.dense, documents.colbert
        return cls(
            0 if dense is None else dense.shape[1],
            0 if colbert is None else colbert.vectors.shape[1],
            dtype,
            device,
        )


class Arena:
    """So many rows on a device, and documents in them.

    Attributes:
        form: what the rows are.
        rows: how many there are.
        tokens: (rows, width) of the form's dtype; where a token vector is, its numbers.
        scales: (rows,) float32 with int8, else None.
    """

    def __init__(self, form: Form, rows: int) -> None:
        """Take the memory, without filling it: a CPU gives pages as they are written."""
        self.form = form
        self.rows = rows
        n = rows * form.stride
        self._bytes = torch.empty(n, dtype=torch.uint8, device=form.device)
        self.tokens = self._bytes.view(DTYPES[form.dtype]).view(rows, form.width)
        self._floats = self._bytes.view(torch.float32)
        self._ints = self._bytes.view(torch.int32)
        self.scales: Tensor | None = None
        if form.dtype == "int8":
            self.scales = torch.empty(rows, device=form.device)

    @classmethod
    def holding(
        cls, form: Form, documents: M3Embeddings, has_dense: Sequence[bool] | None = None
    ) -> tuple[Arena, list[Run]]:
        """An arena with just these documents, one after another, and where each is.

        Args:
            form: as wide as the documents' views.
            documents: in the views that the form has.
            has_dense: whose dense vector counts; None for all, where there are any.

        Raises:
            InputError: a view is as wide as another model's.
        """
        found = Form.of(documents, form.dtype, form.device)
        for name, width, wanted in (
            (DENSE, found.dense_dim, form.dense_dim),
            (COLBERT, found.token_dim, form.token_dim),
        ):
            if width != wanted:
                raise InputError(
                    f"{name} vectors of {width} dimensions beside others of {wanted}: they come "
                    "from different models"
                )
        n = len(documents)
        tokens = [0] * n if documents.colbert is None else documents.colbert.lengths.tolist()
        terms = [0] * n if documents.sparse is None else documents.sparse.indptr.diff().tolist()
        dense = [documents.dense is not None] * n if has_dense is None else list(has_dense)
        runs, start, rest = [], 0, sum(tokens)
        for i in range(n):
            rows = form.rows_of(tokens[i], terms[i], dense[i])
            runs.append(Run(start, rest, tokens[i], terms[i], dense[i], rows))
            start += tokens[i]
            rest += rows - tokens[i]
        arena = cls(form, rest)
        arena._fill(documents, runs)
        return arena, runs

    def _fill(self, documents: M3Embeddings, runs: Sequence[Run]) -> None:
        device = self.form.device
        where = self._where(runs)
        if documents.colbert is not None and len(documents.colbert.vectors):
            vectors = documents.colbert.vectors.to(device)
            cu_seqlens = documents.colbert.cu_seqlens.to(device)
            owner = segment_ids(cu_seqlens)
            rows = torch.arange(len(owner), device=device)
            rows += (where[:, 0] - cu_seqlens[:-1])[owner]
            if self.scales is not None:
                vectors, scales = m3kernels.quantize_tokens(vectors.contiguous())
                self.scales[rows] = scales
            missing = self.form.width - vectors.shape[1]
            if missing:
                vectors = torch.nn.functional.pad(vectors, (0, missing))
            self.tokens[rows] = vectors.to(self.tokens.dtype)
        if documents.dense is not None:
            kept = torch.tensor([run.dense for run in runs], device=device)
            places = self._dense_places(where[kept])
            self._floats[places] = documents.dense.to(device).float()[kept]
        if documents.sparse is not None:
            indices, values = self._term_places(where)
            self._ints[indices] = documents.sparse.indices.to(device).to(torch.int32)
            self._floats[values] = documents.sparse.values.to(device).float()

    def _where(self, runs: Sequence[Run]) -> Tensor:
        """Of each run: its two first rows, tokens, terms, whether dense; (n, 5) int64."""
        return torch.tensor(
            [(run.start, run.rest, run.tokens, run.terms, run.dense) for run in runs],
            dtype=torch.int64,
            device=self.form.device,
        ).view(-1, 5)

    def _dense_places(self, where: Tensor) -> Tensor:
        """Where the floats of dense vectors are, (n, dense_dim)."""
        first = where[:, 1] * (self.form.stride // 4)
        return first[:, None] + torch.arange(self.form.dense_dim, device=first.device)

    def _term_places(self, where: Tensor) -> tuple[Tensor, Tensor]:
        """Where token ids and their weights are, (nnz,) each."""
        rows = where[:, 1] + where[:, 4] * self.form._dense_rows
        indptr = from_lengths(where[:, 3])
        owner = segment_ids(indptr)
        ids = torch.arange(len(owner), device=owner.device)
        ids += (rows * (self.form.stride // 4) - indptr[:-1])[owner]
        return ids, ids + where[owner, 3]

    def dense(self, runs: Sequence[Run]) -> Tensor:
        """The dense vectors, (n, dense_dim) float32; zeros where a document has none."""
        where = self._where(runs)
        there = where[:, 4] > 0
        found = self._floats.new_zeros(len(runs), self.form.dense_dim)
        found[there] = self._floats[self._dense_places(where[there])]
        return found

    def sparse(self, runs: Sequence[Run]) -> SparseVectors:
        """The lexical weights of the documents."""
        where = self._where(runs)
        indices, values = self._term_places(where)
        return SparseVectors(from_lengths(where[:, 3]), self._ints[indices], self._floats[values])

    def colbert(self, runs: Sequence[Run]) -> m3kernels.Slices:
        """The token vectors of the documents, where they are."""
        where = self._where(runs)
        return m3kernels.Slices(self.tokens, where[:, 0], where[:, 2])

    def copy(self, source: Arena, moves: Sequence[tuple[int, int, int]]) -> None:
        """Copy rows of another arena of this form, or move them down within this one.

        Args:
            source: where they are.
            moves: (first row there, first row here, how many) each; within one arena ascending,
                and none goes up.
        """
        whole: list[list[int]] = []
        for begin, start, rows in moves:
            last = whole[-1] if whole else None
            if last and last[0] + last[2] == begin and last[1] + last[2] == start:
                last[2] += rows
            elif rows:
                whole.append([begin, start, rows])
        for begin, start, rows in whole:
            # a part at a time, by way of a copy where both overlap
            for i in range(0, rows, _PART):
                ours, theirs = (
                    slice(first + i, first + min(i + _PART, rows)) for first in (start, begin)
                )
                part = source.tokens[theirs]
                self.tokens[ours] = part.clone() if source is self else part
                if self.scales is not None and source.scales is not None:
                    self.scales[ours] = source.scales[theirs].clone()
