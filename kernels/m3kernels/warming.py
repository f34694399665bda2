"""What compiles the kernels before they are needed, by launching each one once on next to nothing.

A kernel is compiled where it is first launched: for a second or so in the middle of a request, or
while a CUDA graph records, which the load of a kernel can break. Nothing is keyed on lengths, so a
few launches cover all later calls of the same dimension and dtypes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from m3kernels.dispatch import no_triton, target_of
from m3kernels.packing import FLOAT_DTYPES
from m3kernels.target import Target, processors
from m3kernels.token_vectors import QUANTIZED_DTYPES, unsupported

__all__ = ["warmup"]

Pair = tuple[torch.dtype, torch.dtype]


def warmup(
    dim: int,
    dtypes: Sequence[torch.dtype | Pair] = (torch.bfloat16,),
    device: torch.device | str | int | None = None,
    *,
    ignore_ids: Sequence[int] = (0, 1, 2, 3),
) -> tuple[str, ...]:
    """Compile what later calls on a device need: `maxsim`, its top-k and alignment, and the rest.

    It covers vectors of `dim` dimensions and these dtypes, in tensors as torch allocates them, any
    lengths, both reductions and pair lists; `sparse_max` of states of the queries' dtypes with a
    head of the same; and `lexical_scores` of what `sparse_max` returns. On a card that is a
    hundred kernels or so for each pair of dtypes, a second each the first time; Triton keeps them
    on disk. After it a CUDA graph can record a first call.

    Args:
        dim: dimensions of a vector.
        dtypes: for each a dtype that queries and documents share, or a pair (queries, documents).
        device: where calls will be; None is the current GPU, or the CPU where there is none.
        ignore_ids: as `sparse_max` will be called.

    Returns:
        What was compiled, a name for each op and pair of dtypes, or () where nothing is to be
        compiled: calls there run in torch alone. What the device can't do is left out.

    Raises:
        TypeError: a dtype that no op takes, such as int8 without the queries' dtype.
        ValueError: `dim` is below 1.
    """
    if dim < 1:
        raise ValueError(f"dim is {dim}; expected 1 or more")
    pairs = [_pair(given) for given in dtypes]
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.zeros((), device=torch.device(device)).device  # with its index
    target = target_of(where)
    if target is None or no_triton(where):
        return ()
    done = []
    with torch.no_grad():
        for queries, documents in pairs:
            q = torch.zeros(1, dim, dtype=queries, device=where)
            d = torch.zeros(1, dim, device=where).to(documents)
            if unsupported(q, d):
                continue
            name = f"{_short(queries)} x {_short(documents)}"
            _maxsim(target, q, d)
            done.append(f"maxsim {name}")
            _alignment(q, d)
            done.append(f"maxsim_alignment {name}")
        for dtype in dict.fromkeys(queries for queries, _ in pairs):
            _sparse_max(torch.zeros(1, dim, dtype=dtype, device=where), tuple(ignore_ids))
            done.append(f"sparse_max {_short(dtype)}")
        _lexical(where)
        done.append("lexical_scores")
    if where.type == "cuda":
        torch.cuda.synchronize(where)
    return tuple(done)


def _pair(given: torch.dtype | Pair) -> Pair:
    queries, documents = given if isinstance(given, tuple) else (given, given)
    if queries not in FLOAT_DTYPES or documents not in (*FLOAT_DTYPES, *QUANTIZED_DTYPES):
        raise TypeError(
            f"dtypes has {given!r}; expected float32, float16 or bfloat16, or a pair (queries, "
            "documents), whose documents may be int8 or float8_e4m3fn"
        )
    return queries, documents


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _offsets(rows: int, like: Tensor) -> Tensor:
    return torch.tensor([0, rows], device=like.device)


def _numbers_of_pairs(device: torch.device, programs: int) -> list[int]:
    """Return how many pairs there are for each number of parts that documents are cut into."""
    wanted = processors(device) * programs
    return sorted({-(-wanted // 2**power) for power in range(7)})


def _maxsim(target: Target, q: Tensor, d: Tensor) -> None:
    """Every tile, with and without pairs."""
    from m3kernels.maxsim.launch import PROGRAMS_WANTED, maxsim_triton, tile_of

    scales = None
    if d.dtype in QUANTIZED_DTYPES:
        scales = torch.ones(1, device=d.device)
    cu_d = _offsets(1, d)
    for as_pairs in (False, True):
        # So many query rows, for each tile that some number of them picks.
        rows_of = {
            tile_of(target, q.dtype, d.dtype, q.shape[1], rows, pairs=as_pairs): rows
            for rows in range(1024, 0, -1)
        }
        for rows in rows_of.values():
            queries, cu_q = q.expand(rows, -1).contiguous(), _offsets(rows, q)
            numbers: list[int | None] = [None]
            if as_pairs:
                numbers = [*_numbers_of_pairs(q.device, PROGRAMS_WANTED)]
            for n in numbers:
                pairs = None if n is None else cu_d.new_zeros(n, 2)
                for reduction in ("mean", "sum"):
                    maxsim_triton(queries, cu_q, d, cu_d, pairs, scales, reduction)


def _alignment(q: Tensor, d: Tensor) -> None:
    from m3kernels.maxsim_alignment.launch import MOST_SPLITS, maxsim_alignment_triton

    scales = torch.ones(1, device=d.device) if d.dtype in QUANTIZED_DTYPES else None
    splits = 1
    while splits <= MOST_SPLITS:
        pairs = torch.zeros(1, 2, dtype=torch.int64, device=q.device)
        maxsim_alignment_triton(q, _offsets(1, q), d, _offsets(1, d), pairs, scales, splits)
        splits *= 2


def _sparse_max(hidden: Tensor, ignore_ids: tuple[int, ...]) -> None:
    from m3kernels.sparse_max.launch import RUNS, sparse_max_triton

    weight, bias = hidden[0].clone(), hidden[0, 0].clone()
    ids = torch.ones(1, dtype=torch.int64, device=hidden.device)
    for run in RUNS:
        sparse_max_triton(hidden, weight, bias, ids, _offsets(1, hidden), ignore_ids, run)


def _lexical(device: torch.device) -> None:
    from m3kernels.lexical.launch import lexical_scores_triton

    values = torch.ones(1, device=device)
    csr = _offsets(1, values), values.int(), values
    lexical_scores_triton(csr, csr)
