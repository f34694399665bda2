"""What holds for every op of `m3kernels.ops`, so that a new one is held to it too.

An op's own test file has `examples(seed, device)`: positional arguments of calls of the public
function, ragged ones and such without rows, of numbers that every backend computes exactly.
"""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import m3kernels
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from m3kernels.dispatch import BACKENDS
from m3kernels.ops import OPS, Op
from m3kernels.target import TARGETS
from torch.utils._pytree import tree_leaves

from tests.kernels.conftest import HAS_TRITON, Dispatched, Kernel

FOLDER = Path(m3kernels.__file__).parent

EXAMPLES = {op: import_module(f"tests.kernels.test_{op.folder}").examples for op in OPS}

every_op = pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed")


def examples(op: Op, seed: int, device: torch.device) -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = EXAMPLES[op](seed, device)
    empty = [any(part.numel() == 0 for part in tree_leaves(call)) for call in calls]
    assert not empty[0], "the first example has rows"
    assert any(empty), "an example has none"
    return calls


def test_every_folder_is_an_op() -> None:
    assert {op.folder for op in OPS} == {path.parent.name for path in FOLDER.glob("*/kernels.py")}
    assert len({op.name for op in OPS}) == len(OPS)


def test_the_list_imports_no_kernels() -> None:
    code = (
        "import m3kernels.ops, sys\n"
        "assert not [name for name in sys.modules if name.endswith(('.kernels', '.launch'))]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=FOLDER.parent)


@every_op
def test_it_is_public(op: Op) -> None:
    assert op.name in m3kernels.__all__
    assert getattr(m3kernels, op.name) is op.function


@every_op
@pytest.mark.parametrize("backend", BACKENDS)
def test_it_has_every_backend(op: Op, backend: str) -> None:
    if backend == "triton" and not HAS_TRITON:
        pytest.skip("triton is not installed")
    assert op.implementation(backend).__module__.startswith(f"m3kernels.{op.folder}.")


@every_op
def test_no_other_backend(op: Op) -> None:
    with pytest.raises(ValueError, match="backend is 'cuda'"):
        op.implementation("cuda")


@pytest.mark.thinned(3)
@every_op
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_the_backends_agree(module_kernel: Kernel, op: Op, seed: int) -> None:
    for arguments in examples(op, seed, module_kernel.device):
        want = op.function(*arguments, backend="reference")
        got = op.function(*arguments, backend=module_kernel.backend)
        torch.testing.assert_close(got, want, equal_nan=True)


@pytest.mark.thinned(4)
@every_op
def test_torch_knows_it(kernel: Kernel, op: Op) -> None:
    """Its schema, its fake and that it traces."""
    checked: list[tuple[Any, ...]] = []

    def saw(function: Any, args: tuple[Any, ...], made: Any) -> None:
        if function is op.overload:
            checked.append(args)

    calls = examples(op, 0, kernel.device)
    with Dispatched(saw):
        for arguments in calls:
            op.function(*arguments, backend=kernel.backend)
    assert len(checked) == len(calls)
    for arguments in checked:
        torch.library.opcheck(op.overload, arguments)


@needs_triton
@every_op
def test_every_kernel_is_compiled_ahead_of_time(op: Op) -> None:
    kernels = {name for name in op.module("kernels").__all__ if name.endswith("_kernel")}
    for target in TARGETS.values():
        variants = list(op.variants(target))
        assert {variant.kernel.fn.__name__ for variant in variants} == kernels
        for variant in variants:
            assert variant.name.startswith(f"{op.folder} ")
            given, constant = set(variant.signature), set(variant.constants)
            assert given | constant == set(variant.kernel.arg_names), variant.name
            assert not given & constant, variant.name
            assert set(variant.aligned) <= given, variant.name


@needs_triton
def test_names_of_variants_are_unique() -> None:
    for target in TARGETS.values():
        names = [variant.name for op in OPS for variant in op.variants(target)]
        assert len(names) == len(set(names))
