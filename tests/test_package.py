"""The distribution: the wheel holds both packages and the model, and importing them is light."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import m3qdrant

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from what is checked out, with the build tools that are installed."""
    out = tmp_path_factory.mktemp("wheel")
    source = out / "source"  # a copy: a build leaves folders behind, and takes from those it finds
    litter = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=litter)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source],
        check=True,
        capture_output=True,
    )
    (wheel,) = out.glob("*.whl")
    return wheel


def test_what_the_wheel_holds(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for package, folder in (("m3qdrant", ROOT), ("m3kernels", ROOT / "kernels")):
        sources = {str(path.relative_to(folder)) for path in (folder / package).rglob("*.py")}
        stubs = {str(path.relative_to(folder)) for path in (folder / package).rglob("*.pyi")}
        assert sources | stubs <= names
        assert f"{package}/py.typed" in names
    for file in ("config.json", "model.safetensors", "sparse_linear.pt", "colbert_linear.pt"):
        assert f"m3qdrant/data/m3-tiny/{file}" in names
    assert {name.partition("/")[0] for name in names} == {
        "m3qdrant",
        "m3kernels",
        f"m3qdrant-{m3qdrant.__version__}.dist-info",
    }
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert wheel.stat().st_size < 12e6


def test_both_packages_and_the_model_work_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import m3qdrant, m3kernels, torch\n"
        f"assert m3qdrant.__file__.startswith({str(tmp_path)!r}), m3qdrant.__file__\n"
        f"assert m3kernels.__file__.startswith({str(tmp_path)!r}), m3kernels.__file__\n"
        "from m3qdrant import M3Encoder, scoring\n"
        "e = M3Encoder.from_pretrained('m3-tiny', dtype=torch.float32)\n"
        "q, d = e.encode('send an email'), e.encode(['mail a message', 'the sine of x'])\n"
        "s = scoring.weighted(q, d)[0]\n"
        "assert s[0] > s[1], s\n"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site"), "HF_HUB_OFFLINE": "1", "PATH": ""},
    )


def test_importing_m3qdrant_loads_nothing_heavy() -> None:
    code = (
        "import sys, m3qdrant\n"
        "heavy = {'torch', 'transformers', 'qdrant_client', 'qdrant_edge', 'm3kernels'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_encoder_and_kernels_need_no_qdrant() -> None:
    code = (
        "import sys\n"
        "sys.modules['qdrant_client'] = sys.modules['qdrant_edge'] = None\n"
        "import m3kernels, m3qdrant.encode.encoder, m3qdrant.scoring\n"
        "assert 'numpy' not in str(m3kernels.__dict__.keys())\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_version_is_stated_once() -> None:
    assert f'version = "{m3qdrant.__version__}"' in (ROOT / "pyproject.toml").read_text()
