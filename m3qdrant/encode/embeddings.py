"""BGE-M3's three views of n texts, as plain data: tensors and their row offsets, nothing else.

Ragged views are packed, not padded: rows lie one after another, and an offsets tensor of n + 1
entries says where each text's rows begin (CSR's `indptr`, attention's `cu_seqlens`).

Indexing is the same for all three classes. A slice of step 1 is a view of the same storage; a
list, array or tensor of positions copies, in the order asked for (repeats allowed).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar, overload

import numpy as np
import torch
from m3kernels.packing import from_lengths
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from m3qdrant.errors import InputError
from m3qdrant.files import replacing
from m3qdrant.names import COLBERT, DENSE, SPARSE

__all__ = [
    "Index",
    "M3Embeddings",
    "Rows",
    "SparseRow",
    "SparseVectors",
    "TokenVectors",
    "gather_rows",
]

Index: TypeAlias = int | np.integer[Any]
"""What selects one text; a negative one counts from the end."""

Rows: TypeAlias = slice | Sequence[int] | NDArray[np.integer[Any]] | Tensor
"""What selects several texts: a slice, or positions as a sequence, an array or a tensor."""

_FORMAT = "m3qdrant-embeddings/1"


def gather_rows(offsets: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Where the packed rows of the texts `order` lie, and their new offsets.

    Args:
        offsets: (n + 1,) int64, ascending from 0.
        order: (m,) int64 positions in [0, n).

    Returns:
        rows: (k,) int64, the packed rows to take, in order; new_offsets: (m + 1,) int64.
    """
    lengths = offsets.diff()[order]
    new_offsets = from_lengths(lengths)
    shift = offsets[:-1][order] - new_offsets[:-1]
    rows = torch.repeat_interleave(shift, lengths)
    rows += torch.arange(len(rows), device=offsets.device)
    return rows, new_offsets


def _positions(rows: Rows, n: int, device: torch.device) -> Tensor:
    """`rows` as an int64 tensor of positions in [0, n); negative positions count from the end."""
    if isinstance(rows, slice):
        picked = range(n)[rows]
        step = max(-n - 1, min(picked.step, n + 1))  # a longer one picks no more
        return picked.start + step * torch.arange(len(picked), device=device)
    order = torch.as_tensor(rows, device=device)
    if order.numel() == 0:
        return order.new_zeros(0, dtype=torch.int64)
    if order.dtype.is_floating_point or order.dtype is torch.bool or order.dim() != 1:
        raise TypeError(f"positions must be integers in one dimension, not {rows!r}")
    order = torch.where(order < 0, order + n, order).long()
    if bool(((order < 0) | (order >= n)).any()):
        raise IndexError(f"position out of range for {n} texts: {rows!r}")
    return order


def _contiguous_span(rows: Rows, n: int) -> tuple[int, int] | None:
    """(start, stop) where `rows` is a slice of step 1, else None."""
    if isinstance(rows, slice):
        start, stop, step = rows.indices(n)
        if step == 1:
            return start, max(start, stop)
    return None


def _concat_offsets(parts: Sequence[Tensor]) -> Tensor:
    return from_lengths(torch.cat([part.diff() for part in parts]))


class SparseRow(NamedTuple):
    """One text's lexical weights."""

    indices: Tensor
    """(nnz,) int32 token ids, ascending."""
    values: Tensor
    """(nnz,) float32 weights, positive."""


@dataclass(frozen=True, eq=False, repr=False)
class SparseVectors:
    """Lexical weights of n texts in CSR form.

    Attributes:
        indptr: (n + 1,) int64; text i owns entries indptr[i]:indptr[i + 1].
        indices: (nnz,) int32 token ids, ascending and unique within a text.
        values: (nnz,) float32 weights, positive.
    """

    indptr: Tensor
    indices: Tensor
    values: Tensor

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def __repr__(self) -> str:
        return f"SparseVectors({len(self)} texts, {len(self.values)} weights)"

    @overload
    def __getitem__(self, rows: Index) -> SparseRow: ...
    @overload
    def __getitem__(self, rows: Rows) -> SparseVectors: ...
    def __getitem__(self, rows: Index | Rows) -> SparseRow | SparseVectors:
        if isinstance(rows, int | np.integer):
            rows = range(len(self))[int(rows)]
            start, stop = self.indptr[rows : rows + 2].tolist()
            return SparseRow(self.indices[start:stop], self.values[start:stop])
        if (span := _contiguous_span(rows, len(self))) is not None:
            indptr = self.indptr[span[0] : span[1] + 1]
            start, stop = int(indptr[0]), int(indptr[-1])
            return SparseVectors(indptr - start, self.indices[start:stop], self.values[start:stop])
        order = _positions(rows, len(self), self.indptr.device)
        entries, indptr = gather_rows(self.indptr, order)
        return SparseVectors(indptr, self.indices[entries], self.values[entries])

    def __iter__(self) -> Iterator[SparseRow]:
        return (self[i] for i in range(len(self)))

    @classmethod
    def concat(cls, parts: Sequence[SparseVectors]) -> SparseVectors:
        """The texts of all `parts`, one after another."""
        return cls(
            _concat_offsets([part.indptr for part in parts]),
            torch.cat([part.indices for part in parts]),
            torch.cat([part.values for part in parts]),
        )

    def to(self, device: torch.device | str) -> SparseVectors:
        """The same weights on another device."""
        return self._map(lambda tensor: tensor.to(device))

    def _map(self, function: Callable[[Tensor], Tensor]) -> SparseVectors:
        return SparseVectors(function(self.indptr), function(self.indices), function(self.values))


@dataclass(frozen=True, eq=False, repr=False)
class TokenVectors:
    """ColBERT vectors of n texts, one a token, packed.

    Attributes:
        vectors: (sum_tokens, dim) float32, float16 or bfloat16, each row L2-normalised.
        cu_seqlens: (n + 1,) int64; text i owns rows cu_seqlens[i]:cu_seqlens[i + 1].
    """

    vectors: Tensor
    cu_seqlens: Tensor

    def __len__(self) -> int:
        return len(self.cu_seqlens) - 1

    def __repr__(self) -> str:
        return f"TokenVectors({len(self)} texts, {tuple(self.vectors.shape)} {self.vectors.dtype})"

    @overload
    def __getitem__(self, rows: Index) -> Tensor: ...
    @overload
    def __getitem__(self, rows: Rows) -> TokenVectors: ...
    def __getitem__(self, rows: Index | Rows) -> Tensor | TokenVectors:
        if isinstance(rows, int | np.integer):
            rows = range(len(self))[int(rows)]
            start, stop = self.cu_seqlens[rows : rows + 2].tolist()
            return self.vectors[start:stop]
        if (span := _contiguous_span(rows, len(self))) is not None:
            cu_seqlens = self.cu_seqlens[span[0] : span[1] + 1]
            start, stop = int(cu_seqlens[0]), int(cu_seqlens[-1])
            return TokenVectors(self.vectors[start:stop], cu_seqlens - start)
        order = _positions(rows, len(self), self.cu_seqlens.device)
        tokens, cu_seqlens = gather_rows(self.cu_seqlens, order)
        return TokenVectors(self.vectors[tokens], cu_seqlens)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    @property
    def lengths(self) -> Tensor:
        """(n,) int64: the number of vectors of each text."""
        return self.cu_seqlens.diff()

    @classmethod
    def concat(cls, parts: Sequence[TokenVectors]) -> TokenVectors:
        """The texts of all `parts`, one after another."""
        return cls(
            torch.cat([part.vectors for part in parts]),
            _concat_offsets([part.cu_seqlens for part in parts]),
        )

    def to(self, device: torch.device | str) -> TokenVectors:
        """The same vectors on another device."""
        return self._map(lambda tensor: tensor.to(device))

    def _map(self, function: Callable[[Tensor], Tensor]) -> TokenVectors:
        return TokenVectors(function(self.vectors), function(self.cu_seqlens))


View: TypeAlias = Tensor | SparseVectors | TokenVectors
"""One of M3Embeddings' views, or `truncated`."""

_V = TypeVar("_V", Tensor, SparseVectors, TokenVectors)


class _OnView(Protocol):
    def __call__(self, view: _V, /) -> _V: ...


@dataclass(frozen=True, eq=False, repr=False)
class M3Embeddings:
    """The three views of n texts, each None where it was not asked for.

    Attributes:
        dense: (n, dim) float32, L2-normalised.
        sparse: lexical weights of the n texts.
        colbert: ColBERT vectors of the n texts; a text of T token ids has T - 1 (CLS is left out).
        truncated: (n,) bool, True where the text was longer than max_length and was cut.
        fingerprint: of the encoder that they come from; None where that isn't known. A store takes
            no embeddings of another model than its collection's.
    """

    dense: Tensor | None = None
    sparse: SparseVectors | None = None
    colbert: TokenVectors | None = None
    truncated: Tensor | None = None
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        lengths = {name: len(view) for name, view in self._views().items()}
        if not lengths:
            raise InputError("M3Embeddings needs at least one of dense, sparse, colbert")
        if len(set(lengths.values())) > 1:
            raise InputError(f"the views disagree on the number of texts: {lengths}")

    def _views(self) -> dict[str, View]:
        """Those that are there, and `truncated`, by name."""
        views: dict[str, View | None] = {
            DENSE: self.dense,
            SPARSE: self.sparse,
            COLBERT: self.colbert,
            "truncated": self.truncated,
        }
        return {name: view for name, view in views.items() if view is not None}

    def _map(self, function: _OnView) -> M3Embeddings:
        """`function` over each view that is there."""

        def mapped(view: _V | None) -> _V | None:
            return None if view is None else function(view)

        return M3Embeddings(
            dense=mapped(self.dense),
            sparse=mapped(self.sparse),
            colbert=mapped(self.colbert),
            truncated=mapped(self.truncated),
            fingerprint=self.fingerprint,
        )

    def __len__(self) -> int:
        return len(next(iter(self._views().values())))

    def __repr__(self) -> str:
        return f"M3Embeddings({len(self)} texts: {', '.join(self._views())})"

    def __getitem__(self, rows: Index | Rows) -> M3Embeddings:
        """Some of the texts; `emb[i]` keeps the axis, so it is an M3Embeddings of one text."""
        if isinstance(rows, int | np.integer):
            i = range(len(self))[int(rows)]
            rows = slice(i, i + 1)
        picked: Rows = rows
        if _contiguous_span(rows, len(self)) is None:
            picked = _positions(rows, len(self), torch.device("cpu"))

        def take(view: _V) -> _V:
            if isinstance(view, Tensor) and isinstance(picked, Tensor):
                return view[picked.to(view.device)]
            return view[picked]

        return self._map(take)

    def __iter__(self) -> Iterator[M3Embeddings]:
        return (self[i] for i in range(len(self)))

    @classmethod
    def concat(cls, parts: Sequence[M3Embeddings]) -> M3Embeddings:
        """The texts of all `parts`, one after another.

        Raises:
            InputError: they don't hold the same views, or come from different models.
        """
        parts = list(parts)
        if not parts:
            raise InputError("nothing to concatenate: parts is empty")
        names = list(parts[0]._views())
        for position, part in enumerate(parts):
            if list(part._views()) != names:
                raise InputError(
                    f"part {position} does not hold the same views as part 0: {names}"
                )

        models = {part.fingerprint for part in parts}
        if len(models - {None}) > 1:
            found = ", ".join(sorted(filter(None, models)))
            raise InputError(f"the parts come from different models (fingerprints {found})")

        def joined(views: list[_V | None], join: Callable[[list[_V]], _V]) -> _V | None:
            return join(there) if (there := [view for view in views if view is not None]) else None

        return cls(
            dense=joined([part.dense for part in parts], torch.cat),
            sparse=joined([part.sparse for part in parts], SparseVectors.concat),
            colbert=joined([part.colbert for part in parts], TokenVectors.concat),
            truncated=joined([part.truncated for part in parts], torch.cat),
            fingerprint=parts[0].fingerprint if len(models) == 1 else None,
        )

    def to(self, device: torch.device | str) -> M3Embeddings:
        """The same embeddings on another device."""

        def moved(view: _V) -> _V:
            return view.to(device)

        return self._map(moved)

    def lexical_weights(self) -> list[dict[str, float]]:
        """FlagEmbedding's form of the lexical weights: for each text {"token id": weight}.

        Plain Python floats, so unlike FlagEmbedding's own they pass `json.dumps`. For readable
        terms in place of ids use `M3Encoder.tokens`.
        """
        if self.sparse is None:
            raise InputError("these embeddings hold no sparse view: encode with sparse=True")
        return [
            dict(zip(map(str, row.indices.tolist()), row.values.tolist(), strict=True))
            for row in self.sparse.to("cpu")
        ]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one safetensors file; an interrupted save leaves no half file.

        Raises:
            OSError: it can't be written: there is no such directory, or the disk is full.
        """
        tensors: dict[str, Tensor] = {}
        for name, view in self._views().items():
            if isinstance(view, Tensor):
                tensors[name] = view
            else:
                tensors |= {f"{name}.{field}": tensor for field, tensor in vars(view).items()}
        # clone: a slice shares storage with its source, which safetensors refuses to write
        tensors = {name: tensor.cpu().clone().contiguous() for name, tensor in tensors.items()}
        metadata = {"format": _FORMAT, "n": str(len(self))}
        if self.fingerprint is not None:
            metadata["fingerprint"] = self.fingerprint
        with replacing(Path(path)) as partial:
            try:
                save_file(tensors, partial, metadata=metadata)
            except SafetensorError as error:
                raise OSError(f"{path}: can't write embeddings: {error}") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> M3Embeddings:
        """Read what `save` wrote, onto the CPU.

        Raises:
            InputError: the file is missing, damaged, or holds something else.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                found = metadata.get("format")
                if found != _FORMAT:
                    raise InputError(
                        f"{path}: not embeddings saved by m3qdrant (format {json.dumps(found)}, "
                        f"expected {json.dumps(_FORMAT)})"
                    )
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: can't read embeddings: {error}") from error

        def group(prefix: str) -> dict[str, Tensor]:
            return {
                name.removeprefix(f"{prefix}."): tensor
                for name, tensor in tensors.items()
                if name.startswith(f"{prefix}.")
            }

        sparse, colbert = group(SPARSE), group(COLBERT)
        try:
            return cls(
                dense=tensors.get(DENSE),
                sparse=SparseVectors(**sparse) if sparse else None,
                colbert=TokenVectors(**colbert) if colbert else None,
                truncated=tensors.get("truncated"),
                fingerprint=metadata.get("fingerprint"),
            )
        except TypeError as error:
            raise InputError(f"{path}: tensors are missing or unknown: {error}") from error
