from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from m3kernels import packing

CSR = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

CPU = torch.device("cpu")
KERNELS = Path(packing.__file__).parents[1]


@given(st.lists(st.integers(0, 20), max_size=12))
def test_lengths_and_back(sizes: list[int]) -> None:
    cu = packing.from_lengths(sizes)
    assert cu.dtype == torch.int64
    assert cu.tolist() == [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    assert packing.lengths(cu).tolist() == sizes
    assert packing.lengths(cu.int()).dtype == torch.int64
    ids = [i for i, size in enumerate(sizes) for _ in range(size)]
    assert packing.segment_ids(cu).tolist() == ids
    assert packing.segment_ids(cu, sum(sizes)).tolist() == ids


def test_offsets_beyond_int32() -> None:
    cu = packing.from_lengths(torch.tensor([2**31, 5], dtype=torch.int64))
    assert cu.tolist() == [0, 2**31, 2**31 + 5]


def check_cu_seqlens(value: Any) -> torch.Tensor:
    cu = packing.check_cu_seqlens("cu", value, device=CPU)
    packing.check_cu_seqlens_values("cu", cu, rows=3)
    return cu


def check_pairs(value: Any) -> torch.Tensor:
    pairs = packing.check_pairs(value, device=CPU)
    packing.check_pairs_values(pairs, n_queries=2, n_documents=3)
    return pairs


def check_csr(value: Any, **options: Any) -> CSR:
    csr = packing.check_csr("csr", value, **options)
    packing.check_csr_values("csr", csr)
    return csr


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32], ids=str)
def test_checks_pass_what_is_right(dtype: torch.dtype) -> None:
    offsets = torch.tensor([0, 0, 2, 3], dtype=dtype)
    cu = check_cu_seqlens(offsets)
    assert cu.dtype == torch.int64
    assert cu.tolist() == [0, 0, 2, 3]
    pairs = check_pairs(torch.tensor([[1, 2], [0, 0], [1, 2]], dtype=dtype))
    assert pairs.dtype == torch.int64
    assert pairs.tolist() == [[1, 2], [0, 0], [1, 2]]
    assert check_pairs(torch.empty(0, 2, dtype=dtype)).shape == (0, 2)
    # The indices stay as they are: a kernel reads either.
    csr = (offsets, torch.tensor([7, 8, 0], dtype=dtype), torch.ones(3).half())
    indptr, indices, values = check_csr(csr)
    assert indptr.dtype == torch.int64
    assert indices is csr[1]
    assert values is csr[2]
    none = (torch.zeros(1, dtype=dtype), torch.empty(0, dtype=dtype), torch.empty(0))
    assert check_csr(list(none), device=CPU)[0].tolist() == [0]


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ([0, 3], TypeError, "cu is a list; expected a torch.Tensor"),
        (
            torch.tensor([0.0, 3.0]),
            TypeError,
            "cu has dtype float32; expected one of int64, int32",
        ),
        (torch.tensor([[0, 3]]), ValueError, r"cu has shape \(1, 2\); expected 1 dimension"),
        (torch.empty(0, dtype=torch.int64), ValueError, "cu is empty"),
        (
            torch.zeros(2, dtype=torch.int64, device="meta"),
            ValueError,
            "cu is on meta; expected cpu",
        ),
    ],
    ids=lambda value: None if isinstance(value, (type, str)) else "",
)
def test_check_cu_seqlens_names_the_argument(
    value: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        packing.check_cu_seqlens("cu", value, device=CPU)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 3], "cu starts with 1; expected 0"),
        ([-1, 3], "cu starts with -1; expected 0"),
        ([0, 2, 1, 3], "cu decreases from 2 to 1 at entry 2"),
        ([0, 2], "cu ends with 2; expected 3"),
        ([0], "cu ends with 0; expected 3"),
    ],
    ids=str,
)
def test_check_cu_seqlens_values_names_the_argument(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_cu_seqlens(torch.tensor(value))


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ([(0, 0)], TypeError, "pairs is a list"),
        (torch.zeros(1, 2), TypeError, "pairs has dtype float32"),
        (torch.zeros(1, 3, dtype=torch.int64), ValueError, r"pairs has shape \(1, 3\)"),
        (torch.zeros(2, dtype=torch.int64), ValueError, r"pairs has shape \(2,\)"),
        (torch.zeros(1, 2, dtype=torch.int64, device="meta"), ValueError, "pairs is on meta"),
    ],
)
def test_check_pairs_names_the_argument(value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        packing.check_pairs(value, device=CPU)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[0, 0], [2, 0]], "the query index 2; expected 0 <= index < 2"),
        ([[0, 3]], "the document index 3; expected 0 <= index < 3"),
        ([[0, -1]], "the document index -1"),
        ([[1, 1], [-7, 1]], "the query index -7"),
    ],
)
def test_check_pairs_values_names_the_argument(value: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_pairs(torch.tensor(value))


def test_check_csr_lets_a_row_start_below_the_last_one() -> None:
    csr = (torch.tensor([0, 2, 2, 4]), torch.tensor([3, 9, 1, 9]), torch.ones(4))
    assert check_csr(csr)[1].tolist() == [3, 9, 1, 9]


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (torch.ones(3), TypeError, "csr is no triple"),
        ((torch.tensor([0]), torch.tensor([1])), TypeError, "csr is no triple"),
        ((torch.tensor([0, 1]), torch.tensor([1.0]), torch.ones(1)), TypeError, "csr's indices"),
        ((torch.tensor([0, 1]), torch.tensor([1]), torch.tensor([1])), TypeError, "csr's values"),
        ((torch.tensor([0.0]), torch.tensor([1]), torch.ones(1)), TypeError, "csr's indptr"),
        (
            (torch.tensor([0, 1]), torch.tensor([1]), torch.ones(2)),
            ValueError,
            "csr's values has 2",
        ),
        (
            (torch.tensor([0, 1]), torch.tensor([1]), torch.ones(1, device="meta")),
            ValueError,
            "csr's values is on meta; expected cpu",
        ),
        (
            (torch.empty(0).long(), torch.tensor([1]), torch.ones(1)),
            ValueError,
            "csr's indptr is empty",
        ),
    ],
)
def test_check_csr_names_the_argument(value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        packing.check_csr("csr", value)


def test_check_csr_names_the_device() -> None:
    csr = (torch.tensor([0, 1]), torch.tensor([1]), torch.ones(1))
    with pytest.raises(ValueError, match="csr's indices is on cpu; expected meta"):
        packing.check_csr("csr", csr, device=torch.device("meta"))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32], ids=str)
@pytest.mark.parametrize(
    ("indptr", "indices", "message"),
    [
        ([0, 2], [1], "csr's indptr ends with 2; expected 1"),
        ([0, 1], [1, 4], "csr's indptr ends with 1; expected 2"),
        ([1, 2], [1, 4], "csr's indptr starts with 1"),
        ([0, 1], [-1], "indices has -1; expected 0 or above"),
        ([0, 0, 2], [5, 5], "indices has 5 after 5 in row 1"),
        ([0, 2], [5, 4], "indices has 4 after 5 in row 0"),
    ],
    ids=str,
)
def test_check_csr_values_names_the_argument(
    indptr: list[int], indices: list[int], message: str, dtype: torch.dtype
) -> None:
    csr = (
        torch.tensor(indptr),
        torch.tensor(indices, dtype=dtype),
        torch.ones(len(indices)),
    )
    with pytest.raises(ValueError, match=message):
        check_csr(csr)


def test_values_are_not_read_before_they_are_checked() -> None:
    """The free checks run on tensors that have no values."""
    offsets = torch.zeros(3, dtype=torch.int64, device="meta")
    pairs = torch.zeros(2, 2, dtype=torch.int32, device="meta")
    floats = torch.zeros(3, device="meta")
    packing.check_cu_seqlens("cu", offsets, device=offsets.device)
    packing.check_pairs(pairs, device=pairs.device)
    packing.check_csr("csr", (offsets, offsets, floats))


def test_values_are_not_read_while_a_cuda_graph_records(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    for recording in (True, False):
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda it=recording: it)
        packing.check_capturing(CPU)
        if recording:
            with pytest.raises(ValueError, match="pass validate=False"):
                packing.check_capturing(cuda)
        else:
            packing.check_capturing(cuda)


@pytest.mark.parametrize(
    "lines",
    [
        "import m3kernels",
        "import m3kernels.maxsim.reference; import m3kernels",
        "from m3kernels.maxsim import maxsim; from m3kernels.maxsim.cpu import maxsim_torch",
        "from m3kernels.sparse_max import cpu; import importlib, m3kernels; "
        "importlib.import_module('m3kernels.maxsim.reference'); importlib.reload(m3kernels)",
    ],
)
def test_the_public_names_are_no_modules_in_any_import_order(lines: str) -> None:
    check = (
        "import sys, types, m3kernels\n"
        "for name in m3kernels.__all__:\n"
        "    kind = type if name[0].isupper() else types.FunctionType\n"
        "    assert isinstance(getattr(m3kernels, name), kind), name\n"
        "assert isinstance(sys.modules['m3kernels.maxsim'], types.ModuleType)\n"
        "assert not {'m3qdrant', 'qdrant_client'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{lines}\n{check}"],
        cwd=KERNELS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
