"""How sequences may lie in memory beside one after another, and what the ops make of it.

Inside the ops a side is a matrix of rows and where its sequences are in it: `cu_seqlens` (n + 1,)
for packed ones, or `spans` (n, 2), the first row of each and the row after its last. Spans may
leave rows out, overlap and come in any order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from m3kernels.packing import (
    INDEX_DTYPES,
    check_cu_seqlens,
    check_cu_seqlens_values,
    check_tensor,
    from_lengths,
    segment_ids,
)

__all__ = [
    "Padded",
    "Side",
    "Slices",
    "all_pairs",
    "as_packed",
    "check_numbers",
    "check_side",
    "check_where_values",
    "one_after_another",
    "sequences",
    "settle",
    "spans",
]


@dataclass(frozen=True)
class Padded:
    """Sequences of one padded tensor; give `lengths`, or `mask`, or neither where none is padded.

    Attributes:
        vectors: (n, longest, d). A view that leaves tokens out, as `hidden[:, 1:]`, is read where
            it lies.
        lengths: (n,) int64 or int32: sequence i has the tokens before lengths[i]. Padded tokens
            are never looked at, whatever they hold.
        mask: (n, longest) bool, True where a token counts: on the left, on the right, or with
            holes. Finding out which waits for a GPU; with `validate=False` nothing waits, and the
            rows that count are copied.
    """

    vectors: Tensor
    lengths: Tensor | None = None
    mask: Tensor | None = None


@dataclass(frozen=True)
class Slices:
    """Sequences that are slices of one resident matrix, in any order; they may overlap.

    Attributes:
        vectors: (rows, d), the matrix.
        offsets: (n,) int64 or int32, the first row of each sequence.
        lengths: (n,) int64 or int32, how many rows it has.
    """

    vectors: Tensor
    offsets: Tensor
    lengths: Tensor


@dataclass(frozen=True)
class Side:
    """One side of a call, checked.

    Attributes:
        rows: (rows, d).
        where: (n + 1,) cu_seqlens or (n, 2) spans, int64.
        mask: (n, longest) bool, which rows of the spans count, or None for all.
        longest: how many tokens a sequence has room for, None where there is no such limit. Then
            the spans come in order and don't overlap.
        pitch: rows from the beginning of one padded sequence to that of the next, else 0.
    """

    rows: Tensor
    where: Tensor
    mask: Tensor | None = None
    longest: int | None = None
    pitch: int = 0


def check_side(
    name: str,
    given: object,
    cu_seqlens: object,
    *,
    dtypes: tuple[torch.dtype, ...],
    device: torch.device | None = None,
) -> Side:
    """Return one side of a call: a packed matrix and its offsets, or one of the layouts.

    Raises:
        TypeError: not a tensor, or of another dtype.
        ValueError: another shape or device, offsets beside a layout, or none beside a matrix.
    """
    offsets_name = f"cu_seqlens_{name[0]}"
    if not isinstance(given, (Padded, Slices)):
        rows = check_tensor(name, given, ndim=2, dtypes=dtypes, device=device)
        if cu_seqlens is None:
            raise ValueError(f"{offsets_name} is None; expected the offsets of packed {name}")
        return Side(rows, check_cu_seqlens(offsets_name, cu_seqlens, device=rows.device))
    if cu_seqlens is not None:
        kind = type(given).__name__
        raise ValueError(f"{offsets_name} is given with {kind} {name}; expected None")
    if isinstance(given, Slices):
        rows = check_tensor(f"{name}.vectors", given.vectors, ndim=2, dtypes=dtypes, device=device)
        offsets = check_tensor(
            f"{name}.offsets", given.offsets, ndim=1, dtypes=INDEX_DTYPES, device=rows.device
        )
        lengths = _check_lengths(f"{name}.lengths", given.lengths, offsets.shape[0], rows.device)
        start = offsets.to(torch.int64)
        return Side(rows, torch.stack([start, start + lengths], 1))
    return _check_padded(name, given, dtypes, device)


def _check_padded(
    name: str, given: Padded, dtypes: tuple[torch.dtype, ...], device: torch.device | None
) -> Side:
    vectors = check_tensor(f"{name}.vectors", given.vectors, ndim=3, dtypes=dtypes, device=device)
    n, longest, _ = vectors.shape
    device = vectors.device
    rows, pitch = _rows_of(vectors)
    if given.lengths is not None and given.mask is not None:
        raise ValueError(f"{name} has lengths and a mask; expected one of them")
    start = torch.arange(n, device=device) * pitch
    if given.lengths is not None:
        lengths = _check_lengths(f"{name}.lengths", given.lengths, n, device)
        return Side(rows, torch.stack([start, start + lengths], 1), None, longest, pitch)
    mask = given.mask
    if mask is not None:
        mask = check_tensor(f"{name}.mask", mask, ndim=2, dtypes=(torch.bool,), device=device)
        if mask.shape != vectors.shape[:2]:
            raise ValueError(
                f"{name}.mask has shape {tuple(mask.shape)}; expected {tuple(vectors.shape[:2])}"
            )
    return Side(rows, torch.stack([start, start + longest], 1), mask, longest, pitch)


def _check_lengths(name: str, value: object, n: int, device: torch.device) -> Tensor:
    lengths = check_tensor(name, value, ndim=1, dtypes=INDEX_DTYPES, device=device)
    if lengths.shape[0] != n:
        raise ValueError(f"{name} has {lengths.shape[0]} entries; expected {n}")
    return lengths.to(torch.int64)


def _rows_of(vectors: Tensor) -> tuple[Tensor, int]:
    """Return padded vectors as the rows of a matrix, and the rows from sequence to sequence.

    Without a copy where the sequences lie a whole number of rows apart, as in `hidden[:, 1:]`.
    """
    n, longest, dim = vectors.shape
    if vectors.is_contiguous() or vectors.numel() == 0:
        return vectors.reshape(n * longest, dim), longest
    apart, row, column = vectors.stride()
    if row > 0 and apart % row == 0 and apart >= longest * row:
        pitch = apart // row
        shape = ((n - 1) * pitch + longest, dim)
        return vectors.as_strided(shape, (row, column)), pitch
    return vectors.flatten(0, 1), longest


def check_numbers(
    name: str, value: object, side: Side, *, dtypes: tuple[torch.dtype, ...]
) -> Tensor:
    """Return a number for each of a side's rows, (rows,) float32.

    Given as (rows,), or as (n, longest) for padded ones.

    Raises:
        TypeError: not a tensor, or of another dtype.
        ValueError: another shape or device.
    """
    padded = side.longest is not None
    numbers = check_tensor(
        name, value, ndim=2 if padded else 1, dtypes=dtypes, device=side.rows.device
    )
    if side.longest is None:
        if numbers.shape[0] != side.rows.shape[0]:
            of = "documents" if name[0] == "d" else "queries"
            raise ValueError(
                f"{name} has {numbers.shape[0]} entries; "
                f"expected {side.rows.shape[0]}, one a row of {of}"
            )
        return numbers.to(torch.float32)
    shape = (side.where.shape[0], side.longest)
    if numbers.shape != shape:
        raise ValueError(f"{name} has shape {tuple(numbers.shape)}; expected {shape}")
    numbers = numbers.to(torch.float32)
    if side.pitch != side.longest:
        numbers = torch.nn.functional.pad(numbers, (0, side.pitch - side.longest))
    return numbers.flatten()[: side.rows.shape[0]]


def check_where_values(name: str, where: Tensor, *, rows: int, longest: int | None) -> None:
    """Pass if all sequences lie within the rows, and padded ones within their room.

    Raises:
        ValueError: offsets or lengths that don't.
    """
    if where.ndim == 1:
        check_cu_seqlens_values(f"cu_seqlens_{name[0]}", where, rows=rows)
        return
    if not where.shape[0]:
        return
    most = rows if longest is None else longest
    lengths = where.diff(dim=1)[:, 0]
    wrong = (lengths < 0) | (lengths > most)
    if longest is None:
        wrong |= (where[:, 0] < 0) | (where[:, 1] > rows)
    if not bool(wrong.any()):
        return
    i = int(wrong.nonzero()[0])
    start, length = int(where[i, 0]), int(lengths[i])
    if longest is not None:
        raise ValueError(f"{name}.lengths has {length}; expected 0 <= length <= {longest}")
    raise ValueError(
        f"{name} has a slice of {length} rows from row {start} on; expected slices within the "
        f"{rows} rows of the matrix"
    )


def sequences(where: Tensor) -> int:
    """Return how many sequences there are."""
    return where.shape[0] - 1 if where.ndim == 1 else where.shape[0]


def spans(where: Tensor) -> Tensor:
    """Return where sequences are as spans, (n, 2)."""
    return torch.stack([where[:-1], where[1:]], 1) if where.ndim == 1 else where


def as_packed(where: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """Return spans and pairs in the form of packed documents, for what reads pairs alone.

    Document i of the spans (n, 2) is number 2 i of 2 n - 1: it begins at one offset and ends at
    the next, as a packed one does, whatever the order of the spans.
    """
    if not where.shape[0]:
        return where.new_zeros(1), pairs
    return where.flatten(), pairs * pairs.new_tensor([1, 2])


def all_pairs(n_queries: int, n_documents: int, device: torch.device) -> Tensor:
    """Return every (query, document), (n_queries * n_documents, 2), by query."""
    return torch.cartesian_prod(
        torch.arange(n_queries, device=device), torch.arange(n_documents, device=device)
    ).view(-1, 2)


def settle(
    rows: Tensor, where: Tensor, mask: Tensor | None, *, look: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Do away with a mask.

    Where each sequence's tokens are one run, spans are all that it takes. Else the rows that count
    are copied to the front, and `order` (rows of the copy,) says where each came from.

    Args:
        rows: (rows, d).
        where: as of a `Side`.
        mask: as of a `Side`.
        look: whether the mask's values may be looked at, which waits for a GPU.

    Returns:
        rows, where and order, None where there is no copy.
    """
    if mask is None:
        return rows, where, None
    lengths = mask.sum(1)
    places = torch.arange(mask.shape[1], device=mask.device)
    if look:
        first = mask.to(torch.uint8).argmax(1) if mask.shape[1] else lengths
        run = (places >= first[:, None]) & (places < (first + lengths)[:, None])
        if torch.equal(run, mask):
            start = where[:, 0] + first
            return rows, torch.stack([start, start + lengths], 1), None
    order = (where[:, :1] + places).flatten()
    order = order[mask.flatten().logical_not().to(torch.uint8).argsort(stable=True)]
    return rows[order], from_lengths(lengths), order


def one_after_another(where: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of all sequences in their order (rows,), and their cu_seqlens (n + 1,).

    Waits for a GPU.
    """
    start = where[:, 0]
    cu_seqlens = from_lengths(where[:, 1] - start)
    n_rows = int(cu_seqlens[-1])
    shift = (start - cu_seqlens[:-1])[segment_ids(cu_seqlens, n_rows)]
    return torch.arange(n_rows, device=where.device) + shift, cu_seqlens
