"""Packed sequences: the helpers and the checks that the ops share.

A packed batch is one tensor with the rows of all sequences one after another, and `cu_seqlens`
(n + 1,): sequence i owns the rows cu_seqlens[i] up to cu_seqlens[i + 1]. It may own none.

The checks come in two kinds. `check_...` looks at shapes, dtypes and devices: free, and traceable
by torch.compile. `check_..._values` compares numbers, so on a GPU each waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = [
    "FLOAT_DTYPES",
    "INDEX_DTYPES",
    "aligned",
    "check_capturing",
    "check_csr",
    "check_csr_values",
    "check_cu_seqlens",
    "check_cu_seqlens_values",
    "check_no_gradient",
    "check_no_tangent",
    "check_pairs",
    "check_pairs_values",
    "check_tensor",
    "from_lengths",
    "lengths",
    "nearby",
    "segment_ids",
    "wants_gradient",
]

INDEX_DTYPES = (torch.int64, torch.int32)
FLOAT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)

# Numbers of a tensor that is looked at on the CPU wherever it is.
_FEW = 1 << 14


def lengths(cu_seqlens: Tensor) -> Tensor:
    """Return the rows of each sequence: (n + 1,) -> (n,) int64."""
    return cu_seqlens.to(torch.int64).diff()


def from_lengths(lengths: Tensor | Sequence[int]) -> Tensor:
    """Return the cu_seqlens (n + 1,) int64 of sequences of these lengths (n,)."""
    rows = torch.as_tensor(lengths, dtype=torch.int64)
    cu_seqlens = rows.new_zeros(rows.numel() + 1)
    torch.cumsum(rows, 0, out=cu_seqlens[1:])
    return cu_seqlens


def segment_ids(cu_seqlens: Tensor, rows: int | None = None) -> Tensor:
    """Return the sequence that each row belongs to, int64 (rows,).

    `rows` is cu_seqlens[-1] where the caller knows it, which saves a wait for the device.
    """
    sequences = torch.arange(cu_seqlens.numel() - 1, device=cu_seqlens.device)
    return torch.repeat_interleave(sequences, lengths(cu_seqlens), output_size=rows)


def aligned(packed: Tensor) -> Tensor:
    """Return `packed` as kernels read it: without gaps, at an address for 16-byte loads.

    A copy where it isn't.
    """
    # torch calls a single row contiguous whatever its stride is, and a tensor descriptor looks at
    # it: through one dimension and back it is what a matrix of that shape has.
    packed = packed.contiguous().view(-1).view(packed.shape)
    return packed if packed.data_ptr() % 16 == 0 else packed.clone()


def check_tensor(
    name: str,
    value: object,
    *,
    ndim: int,
    dtypes: Sequence[torch.dtype],
    device: torch.device | None = None,
) -> Tensor:
    """Return `value` if it is a tensor of that many dimensions, of these dtypes, on `device`.

    Raises:
        TypeError: not a tensor, or another dtype.
        ValueError: another number of dimensions, or another device.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}; expected a torch.Tensor")
    if value.dtype not in dtypes:
        expected = ", ".join(_short(dtype) for dtype in dtypes)
        raise TypeError(f"{name} has dtype {_short(value.dtype)}; expected one of {expected}")
    if value.ndim != ndim:
        raise ValueError(f"{name} has shape {tuple(value.shape)}; expected {ndim} dimension(s)")
    if device is not None and value.device != device:
        raise ValueError(f"{name} is on {value.device}; expected {device}")
    return value


def check_cu_seqlens(name: str, value: object, *, device: torch.device) -> Tensor:
    """Return `value` as int64 if it can be offsets: (n + 1,) on `device`.

    Raises:
        TypeError: not a tensor of int32 or int64.
        ValueError: not (n + 1,), or another device.
    """
    given = check_tensor(name, value, ndim=1, dtypes=INDEX_DTYPES, device=device)
    if given.shape[0] == 0:
        raise ValueError(f"{name} is empty; expected (n + 1,) entries, at least the single 0")
    return given.to(torch.int64)


def check_cu_seqlens_values(name: str, cu_seqlens: Tensor, *, rows: int) -> None:
    """Pass if offsets that `check_cu_seqlens` returned pack exactly `rows` rows.

    Raises:
        ValueError: a first entry other than 0, a decreasing entry, or a last entry other than
            `rows`.
    """
    cu_seqlens = nearby(cu_seqlens)
    steps = cu_seqlens.diff()
    # One transfer for the three numbers.
    lowest = steps.min() if steps.numel() else steps.new_zeros(())
    first, last, step = torch.stack([cu_seqlens[0], cu_seqlens[-1], lowest]).tolist()
    if first != 0:
        raise ValueError(f"{name} starts with {first}; expected 0")
    if step < 0:
        i = int(steps.lt(0).nonzero()[0])
        before, after = cu_seqlens[i : i + 2].tolist()
        raise ValueError(
            f"{name} decreases from {before} to {after} at entry {i + 1}; "
            "expected entries that never decrease"
        )
    if last != rows:
        raise ValueError(f"{name} ends with {last}; expected {rows}, the rows that it packs")


def nearby(numbers: Tensor) -> Tensor:
    """A tensor on the CPU if it is small: one transfer costs less than some launches and one."""
    return numbers.cpu() if numbers.numel() <= _FEW else numbers


def check_pairs(value: object, *, device: torch.device) -> Tensor:
    """Return `pairs` as int64 if it is (n_pairs, 2) on `device`.

    Raises:
        TypeError: not a tensor of int32 or int64.
        ValueError: not (n_pairs, 2), or another device.
    """
    pairs = check_tensor("pairs", value, ndim=2, dtypes=INDEX_DTYPES, device=device)
    if pairs.shape[1] != 2:
        raise ValueError(f"pairs has shape {tuple(pairs.shape)}; expected (n_pairs, 2)")
    return pairs.to(torch.int64)


def check_pairs_values(pairs: Tensor, *, n_queries: int, n_documents: int) -> None:
    """Pass if each row of `pairs` is a (query, document) that there is.

    Raises:
        ValueError: an index out of range.
    """
    if pairs.shape[0] == 0:
        return
    pairs = nearby(pairs)
    lowest, highest = torch.stack([pairs.amin(0), pairs.amax(0)]).tolist()
    columns = (("query", "queries", n_queries), ("document", "documents", n_documents))
    for low, high, (one, many, n) in zip(lowest, highest, columns, strict=True):
        if low < 0 or high >= n:
            raise ValueError(
                f"pairs has the {one} index {low if low < 0 else high}; "
                f"expected 0 <= index < {n}, the number of {many}"
            )


def check_csr(
    name: str, value: object, *, device: torch.device | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a CSR triple with int64 indptr and indices if its parts go together.

    Raises:
        TypeError: not a triple (indptr, indices, values) of tensors of the right dtypes.
        ValueError: shapes or devices that disagree.
    """
    if not isinstance(value, (tuple, list)) or len(value) != 3:
        raise TypeError(f"{name} is no triple; expected (indptr, indices, values)")
    indptr, indices, values = value
    check_tensor(f"{name}'s indices", indices, ndim=1, dtypes=INDEX_DTYPES, device=device)
    device = indices.device
    check_tensor(f"{name}'s values", values, ndim=1, dtypes=FLOAT_DTYPES, device=device)
    if values.shape[0] != indices.shape[0]:
        raise ValueError(
            f"{name}'s values has {values.shape[0]} entries; expected {indices.shape[0]}"
        )
    indptr = check_cu_seqlens(f"{name}'s indptr", indptr, device=device)
    return indptr, indices, values


def check_csr_values(name: str, csr: tuple[Tensor, Tensor, Tensor]) -> None:
    """Pass if the rows of a triple that `check_csr` returned ascend without duplicates.

    Raises:
        ValueError: an indptr that does not fit, a negative index, or indices that do not ascend
            in their row.
    """
    indptr, indices, _ = csr
    nnz = indices.shape[0]
    check_cu_seqlens_values(f"{name}'s indptr", indptr, rows=nnz)
    if not nnz:
        return
    lowest = int(indices.min())
    if lowest < 0:
        raise ValueError(f"{name}'s indices has {lowest}; expected 0 or above")
    rows = segment_ids(indptr, nnz)
    wrong = (indices.diff() <= 0) & (rows.diff() == 0)
    if bool(wrong.any()):
        i = int(wrong.nonzero()[0])
        before, after = indices[i : i + 2].tolist()
        raise ValueError(
            f"{name}'s indices has {after} after {before} in row {int(rows[i])}; "
            "expected ascending indices, none twice"
        )


def wants_gradient(*tensors: Tensor | None) -> bool:
    """Whether torch is asked for a gradient by one of these."""
    return torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in tensors
    )


def check_no_gradient(name: str, value: Tensor) -> None:
    """Pass if no gradient is asked for by a tensor that has none.

    Raises:
        ValueError: it requires one.
    """
    if wants_gradient(value):
        raise ValueError(
            f"{name} requires a gradient, and there is none by it; pass {name}.detach()"
        )


def check_no_tangent(op: str, *tensors: Tensor | None) -> None:
    """Pass if no derivative is asked for in forward mode, which no op here has.

    Raises:
        ValueError: a tensor has a tangent.
    """
    if torch.compiler.is_compiling() or forward_ad._current_level < 0:
        return
    for tensor in tensors:
        dual = None if tensor is None else forward_ad.unpack_dual(tensor)  # type: ignore[no-untyped-call]
        if dual is not None and dual.tangent is not None:
            raise ValueError(
                f"{op} has no derivative in forward mode; use torch.autograd.grad, or detach"
            )


def check_capturing(device: torch.device) -> None:
    """Pass if values may be read now: not while a CUDA graph records.

    Raises:
        ValueError: the device's current stream records a graph.
    """
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise ValueError(
            "validate is True while a CUDA graph records, and the checks wait for the device; "
            "pass validate=False"
        )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
