"""The Hub's form of m3kernels: built as kernel-builder builds it, loaded under other names."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from types import ModuleType

import m3kernels
import pytest
import torch
from m3kernels.ops import OPS
from m3kernels.packing import from_lengths

from tools.hub_kernel import PROJECT, make, portable

OPS_FILE = """
import torch

ops = getattr(torch.ops, "{name}")


def add_op_namespace_prefix(op_name: str) -> str:
    return f"{name}::{{op_name}}"
"""
"""What the builder writes beside a kernel's sources, in its words."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "project"
    make(folder)
    return folder


@pytest.fixture
def versions(project: Path, tmp_path: Path) -> Iterator[list[ModuleType]]:
    """Two builds in one process, from folders off the path, under names of their own."""
    found = []
    for name in ("m3kernels_one", "m3kernels_two"):
        variant = tmp_path / name
        shutil.copytree(project / "torch-ext" / "m3kernels", variant)
        (variant / "_ops.py").write_text(OPS_FILE.format(name=f"_{name}"))
        spec = importlib.util.spec_from_file_location(name, variant / "__init__.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found.append(module)
    yield found
    for name in [n for n in sys.modules if n.partition(".")[0].startswith("m3kernels_")]:
        del sys.modules[name]


def test_the_project_is_whole(project: Path) -> None:
    assert {path.name for path in project.iterdir()} == {"torch-ext", *PROJECT}
    assert not (project / "torch-ext" / "m3kernels" / "_ops.py").exists(), "the builder's own"
    with pytest.raises(FileExistsError, match="give a new folder"):
        make(project)


def test_two_versions_and_the_package_side_by_side(versions: list[ModuleType]) -> None:
    rng = torch.Generator().manual_seed(11)
    queries, documents = torch.randn(9, 64, generator=rng), torch.randn(40, 64, generator=rng)
    cu_q, cu_d = from_lengths([4, 5]), from_lengths([10, 0, 30])
    want = m3kernels.maxsim(queries, cu_q, documents, cu_d)
    for one in versions:
        assert sorted(one.__all__) == sorted(m3kernels.__all__)
        for backend in ("torch", "reference"):
            torch.testing.assert_close(
                one.maxsim(queries, cu_q, documents, cu_d, backend=backend), want
            )
    for one, op in product(versions, OPS):
        theirs = getattr(getattr(torch.ops, f"_{one.__name__}"), op.name)
        assert theirs.default is not op.overload
    loaded = {name for name in sys.modules if name.startswith("m3kernels_one.")}
    assert "m3kernels_one.maxsim.cpu" in loaded
    for name in loaded:
        for value in vars(sys.modules[name]).values():
            origin = getattr(value, "__module__", "") or ""
            assert origin.partition(".")[0] not in ("m3kernels", "m3kernels_two"), (name, value)


def test_what_becomes_of_a_module() -> None:
    source = (
        '"""m3kernels::a stays in words, über alles."""\n'
        "from __future__ import annotations\n"
        "import torch\n"
        'ä = "ü"; from m3kernels.maxsim.cpu import (\n    a,\n)\n'
        "from m3kernels import b\n"
        'op = torch.library.custom_op("m3kernels::maxsim", mutates_args=())\n'
        "found = torch.ops.m3kernels.maxsim\n"
    )
    assert portable(source, 2) == (
        '"""m3kernels::a stays in words, über alles."""\n'
        "from __future__ import annotations\n"
        "from .._ops import add_op_namespace_prefix, ops\n"
        "import torch\n"
        'ä = "ü"; from ..maxsim.cpu import (\n    a,\n)\n'
        "from .. import b\n"
        'op = torch.library.custom_op(add_op_namespace_prefix("maxsim"), mutates_args=())\n'
        "found = ops.maxsim\n"
    )
    with pytest.raises(ValueError, match="line 1 imports m3kernels by name"):
        portable("import m3kernels.maxsim\n", 1)


@pytest.mark.skipif(shutil.which("kernel-builder") is None, reason="kernel-builder isn't here")
def test_the_builder_takes_it(project: Path, tmp_path: Path) -> None:
    """Its own checks, and the build of a kernel that needs no compiler; then the Hub's loader."""
    kernels = pytest.importorskip("kernels")
    shutil.copytree(project, tmp_path / "project")
    for command in (
        ["kernel-builder", "check-config", "."],
        ["kernel-builder", "create-pyproject", "--unique-id", "test", "."],
        [sys.executable, "setup.py", "build_kernel"],
        ["kernel-builder", "check-builds", "."],
    ):
        subprocess.run(command, cwd=tmp_path / "project", check=True)
    loaded = kernels.get_local_kernel(tmp_path / "project", backend="cpu")
    assert sorted(loaded.__all__) == sorted(m3kernels.__all__)
