from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from m3kernels import packing

CPU = torch.device("cpu")
KERNELS = Path(packing.__file__).parents[1]


@given(st.lists(st.integers(0, 20), max_size=12))
def test_lengths_and_back(sizes):
    cu = packing.from_lengths(sizes)
    assert cu.dtype == torch.int64
    assert cu.tolist() == [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    assert packing.lengths(cu).tolist() == sizes
    assert packing.lengths(cu.int()).dtype == torch.int64
    ids = [i for i, size in enumerate(sizes) for _ in range(size)]
    assert packing.segment_ids(cu).tolist() == ids
    assert packing.segment_ids(cu, sum(sizes)).tolist() == ids


def test_offsets_beyond_int32():
    cu = packing.from_lengths(torch.tensor([2**31, 5], dtype=torch.int64))
    assert cu.tolist() == [0, 2**31, 2**31 + 5]


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
        (torch.tensor([1, 3]), ValueError, "cu starts with 1; expected 0"),
        (torch.tensor([0, 2, 1, 3]), ValueError, "cu decreases from 2 to 1 at entry 2"),
        (torch.tensor([0, 2]), ValueError, "cu ends with 2; expected 3"),
        (torch.tensor([0]), ValueError, "cu ends with 0; expected 3"),
        (
            torch.zeros(2, dtype=torch.int64, device="meta"),
            ValueError,
            "cu is on meta; expected cpu",
        ),
    ],
    ids=lambda value: None if isinstance(value, (type, str)) else "",
)
def test_check_cu_seqlens_names_the_argument(value, error, message):
    with pytest.raises(error, match=message):
        packing.check_cu_seqlens("cu", value, rows=3, device=CPU)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ([(0, 0)], TypeError, "pairs is a list"),
        (torch.zeros(1, 2), TypeError, "pairs has dtype float32"),
        (torch.zeros(1, 3, dtype=torch.int64), ValueError, r"pairs has shape \(1, 3\)"),
        (torch.zeros(2, dtype=torch.int64), ValueError, r"pairs has shape \(2,\)"),
        (torch.tensor([[0, 0], [2, 0]]), ValueError, "the query index 2; expected 0 <= index < 2"),
        (torch.tensor([[0, 3]]), ValueError, "the document index 3; expected 0 <= index < 3"),
        (torch.tensor([[0, -1]]), ValueError, "the document index -1"),
    ],
)
def test_check_pairs_names_the_argument(value, error, message):
    with pytest.raises(error, match=message):
        packing.check_pairs(value, n_queries=2, n_documents=3, device=CPU)


def test_check_csr_lets_a_row_start_below_the_last_one():
    csr = (torch.tensor([0, 2, 2, 4]), torch.tensor([3, 9, 1, 9]), torch.ones(4))
    assert packing.check_csr("csr", csr)[1].tolist() == [3, 9, 1, 9]


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (torch.ones(3), TypeError, "csr is no triple"),
        ((torch.tensor([0]), torch.tensor([1])), TypeError, "csr is no triple"),
        ((torch.tensor([0, 1]), torch.tensor([1.0]), torch.ones(1)), TypeError, "csr's indices"),
        ((torch.tensor([0, 1]), torch.tensor([1]), torch.tensor([1])), TypeError, "csr's values"),
        (
            (torch.tensor([0, 1]), torch.tensor([1]), torch.ones(2)),
            ValueError,
            "csr's values has 2",
        ),
        (
            (torch.tensor([0, 2]), torch.tensor([1]), torch.ones(1)),
            ValueError,
            "csr's indptr ends",
        ),
        ((torch.tensor([0, 1]), torch.tensor([-1]), torch.ones(1)), ValueError, "indices has -1"),
        (
            (torch.tensor([0, 0, 2]), torch.tensor([5, 5]), torch.ones(2)),
            ValueError,
            "indices has 5 after 5 in row 1",
        ),
        (
            (torch.tensor([0, 2]), torch.tensor([5, 4]), torch.ones(2)),
            ValueError,
            "indices has 4 after 5 in row 0",
        ),
    ],
)
def test_check_csr_names_the_argument(value, error, message):
    with pytest.raises(error, match=message):
        packing.check_csr("csr", value)


@pytest.mark.parametrize(
    "lines",
    [
        "import m3kernels",
        "import m3kernels; import m3kernels.maxsim.reference; import m3kernels.maxsim.torch",
        "import m3kernels.maxsim.reference; import m3kernels",
        "import m3kernels.sparse_max; import m3kernels.maxsim; import m3kernels.lexical.torch",
        "from m3kernels.maxsim import maxsim; from m3kernels.maxsim.torch import maxsim_torch",
        "from m3kernels.sparse_max import torch as t; import importlib, m3kernels; "
        "importlib.import_module('m3kernels.maxsim.reference'); importlib.reload(m3kernels)",
    ],
)
def test_the_public_names_are_functions_in_every_import_order(lines):
    check = (
        "import sys, types, m3kernels\n"
        "for name in m3kernels.__all__:\n"
        "    assert isinstance(getattr(m3kernels, name), types.FunctionType), name\n"
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
