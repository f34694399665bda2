"""Documents in eight bits, with what the rounding left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from m3kernels.packing import (
    FLOAT_DTYPES,
    check_cu_seqlens,
    check_cu_seqlens_values,
    check_tensor,
)
from m3kernels.quantize import quantize_tokens

__all__ = ["CertifiedDocuments", "certify"]

Rows: TypeAlias = Any
"""A torch.Tensor, or what numpy reads rows from: an array, or a memmap of a file."""

_NUMPY_DTYPES = ("float32", "float16")

# Numbers of the float64 copies at a time: 2 MB each, which the cache holds.
_BLOCK = 1 << 18


@dataclass(frozen=True, eq=False)
class CertifiedDocuments:
    """Packed documents for `certified_topk`, as `certify` makes them.

    With d_j a document's vectors, s_j n_j their int8 form:

    Attributes:
        rows: (sum_d, d) int8, the n_j.
        scales: (sum_d,) float32, the s_j.
        residuals: (n_d,) float32, no less than a document's largest |d_j - s_j n_j|; inf where it
            has a NaN or an infinity. Unit vectors of 224 to 1024 dimensions leave about 0.008.
        norms: (n_d,) float32, no less than a document's largest |d_j|; inf likewise.
        cu_seqlens: (n_d + 1,) int64.
        exact: (sum_d, d), the vectors as they were given, where they lie.
    """

    rows: Tensor
    scales: Tensor
    residuals: Tensor
    norms: Tensor
    cu_seqlens: Tensor
    exact: Rows

    @property
    def at_hand(self) -> bool:
        """Whether the exact rows lie in the memory that the others lie in."""
        return isinstance(self.exact, Tensor) and self.exact.device == self.rows.device

    def exact_rows(self, places: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the vectors at places (n,) int64 as float32 (n, d) on the device of `rows`.

        In `out` where it is given.
        """
        if out is not None:
            if self.at_hand and self.exact.dtype == torch.float32:
                return torch.index_select(self.exact, 0, places, out=out)
            return out.copy_(self.exact_rows(places))
        if isinstance(self.exact, Tensor):
            found = self.exact.index_select(0, places.to(self.exact.device))
        else:
            found = torch.from_numpy(self.exact[places.cpu().numpy()])
        return found.to(self.rows.device).float()


def certify(
    documents: Rows, cu_seqlens_d: Tensor, *, device: torch.device | str | None = None
) -> CertifiedDocuments:
    """Quantize documents for `certified_topk`: int8, and a bound on what each rounding left out.

    The vectors are read once, some rows at a time, and kept where they are: `exact` is `documents`
    itself. They may lie on the card, on the host or, as a `numpy.memmap`, in a file; only the
    int8 form (d + 4 bytes a row) is on `device`. Don't change them afterwards: the proof is of the
    numbers that were read here.

    Args:
        documents: (sum_d, d) float32, float16 or bfloat16 tensor, or a float32 or float16 numpy
            array or memmap.
        cu_seqlens_d: (n_d + 1,) int64 or int32; document i has the rows cu_seqlens_d[i] up to
            cu_seqlens_d[i + 1].
        device: where to search; None is where `documents` is, the CPU for numpy's.

    Returns:
        The documents, quantized as `quantize_tokens` does.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: an argument has another shape or value.
    """
    if isinstance(documents, Tensor):
        check_tensor("documents", documents, ndim=2, dtypes=FLOAT_DTYPES)
        device = documents.device if device is None else torch.device(device)
    else:
        _check_array(documents)
        device = torch.device("cpu" if device is None else device)
    if not isinstance(cu_seqlens_d, Tensor):
        raise TypeError(
            f"cu_seqlens_d is a {type(cu_seqlens_d).__name__}; expected a torch.Tensor"
        )
    cu = check_cu_seqlens("cu_seqlens_d", cu_seqlens_d, device=cu_seqlens_d.device).to(device)
    n, dim = documents.shape
    if dim == 0:
        raise ValueError("documents has no columns; expected at least one")
    check_cu_seqlens_values("cu_seqlens_d", cu, rows=n)
    with torch.no_grad():
        rows = torch.empty((n, dim), dtype=torch.int8, device=device)
        scales = torch.empty(n, dtype=torch.float32, device=device)
        # Of each row how much its rounding left out, and how long it is.
        of_rows = torch.empty((2, n), dtype=torch.float64, device=device)
        step = max(_BLOCK // dim, 1)
        for first in range(0, n, step):
            part = slice(first, min(first + step, n))
            block = documents[part]
            if not isinstance(block, Tensor):
                block = torch.from_numpy(block.copy())  # a memmap may be read-only
            block = block.to(device).float()
            rows[part], scales[part] = quantize_tokens(block)
            wide = block.double()
            left = wide - rows[part].double() * scales[part, None].double()
            of_rows[0, part] = torch.linalg.vector_norm(left, dim=1)
            of_rows[1, part] = torch.linalg.vector_norm(wide, dim=1)
        # A NaN in either says that the row has no bound.
        of_rows.nan_to_num_(nan=torch.inf, posinf=torch.inf)
        residuals, norms = _largest(of_rows, cu)
    return CertifiedDocuments(rows, scales, residuals, norms, cu, documents)


def _largest(of_rows: Tensor, cu_seqlens: Tensor) -> Tensor:
    """The largest of each document, (2, n_d) float32, rounded up; 0 without rows."""
    n = cu_seqlens.shape[0] - 1
    segments = torch.repeat_interleave(
        torch.arange(n, device=cu_seqlens.device), cu_seqlens.diff()
    )
    largest = of_rows.new_zeros(2, n)
    largest.scatter_reduce_(1, segments.expand_as(of_rows), of_rows, "amax")
    # Above the float64 sums' own rounding, and no less in float32.
    narrow = (largest * (1 + 1e-9)).float()
    up = torch.nextafter(narrow, torch.full_like(narrow, torch.inf))
    return torch.where(largest == 0, 0.0, up)


def _check_array(documents: Any) -> None:
    shape, dtype = getattr(documents, "shape", None), getattr(documents, "dtype", None)
    if shape is None or dtype is None:
        raise TypeError(
            f"documents is a {type(documents).__name__}; expected a torch.Tensor, "
            "a numpy array or a numpy.memmap"
        )
    if str(dtype) not in _NUMPY_DTYPES:
        raise TypeError(f"documents has dtype {dtype}; expected one of {', '.join(_NUMPY_DTYPES)}")
    if len(shape) != 2:
        raise ValueError(f"documents has shape {tuple(shape)}; expected 2 dimension(s)")
