"""The distribution: the wheel holds both packages and the model, and importing them is light."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import m3qdrant

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources, in a folder that is named like the package, as `git clone` names it."""
    clone = tmp_path_factory.mktemp("beside") / "m3qdrant"
    for folder in ("m3qdrant", "kernels"):
        litter = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, clone / folder, ignore=litter)
    for file in ("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE"):
        shutil.copy(ROOT / file, clone)
    return clone


@pytest.fixture(scope="module")
def wheel(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution, with the build tools that are installed."""
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, clone)
    (wheel,) = out.glob("*.whl")
    assert len(list(out.glob("*.tar.gz"))) == 1
    return wheel


def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    """What a command prints that must succeed, where neither package is on the path already."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=cwd, env={**kept, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def installed(what: str, clone: Path, wheel: Path, folder: Path) -> Path:
    """The interpreter of an environment with m3qdrant, and the packages of this one behind it."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/*/site-packages")
    # a line of a .pth file puts a folder on the path, and reads no .pth file in it
    (site / "others.pth").write_text("\n".join(path for path in sys.path if "packages" in path))
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", python, "install"]
    pip += ["--quiet", "--no-deps", "--no-build-isolation", "--ignore-installed"]
    run(*pip, *(["--editable", clone] if what == "editable" else [wheel]))
    return python


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


@pytest.mark.slow
@pytest.mark.parametrize("what", ["editable", "wheel"])
def test_a_script_finds_both_packages(what: str, clone: Path, wheel: Path, tmp_path: Path) -> None:
    """Beside the clone too, where the clone's own folder is called m3qdrant, and inside it."""
    python = installed(what, clone, wheel, tmp_path / "venv")
    code = (
        "import m3qdrant\n"
        "from importlib.util import find_spec\n"
        "from m3qdrant import M3Store\n"
        "print(m3qdrant.__file__, find_spec('m3kernels').origin, sep='\\n')\n"
    )
    for folder in (clone.parent, clone):
        (folder / "script.py").write_text(code)
        for arguments in (["script.py"], ["-c", code]):
            m3qdrant_file, m3kernels_file = run(python, *arguments, cwd=folder).splitlines()
            here = what == "editable" or folder == clone  # where Python looks first
            assert (m3qdrant_file == f"{clone}/m3qdrant/__init__.py") == here
            editable = what == "editable"
            assert (m3kernels_file == f"{clone}/kernels/m3kernels/__init__.py") == editable
    version = run(python.parent / "m3qdrant", "--version", cwd=clone.parent)
    assert version == f"m3qdrant {m3qdrant.__version__}\n"


@pytest.mark.slow
def test_a_script_is_type_checked(clone: Path, wheel: Path, tmp_path: Path) -> None:
    """From the same places; what can't be found would be Any, and nothing would be wrong."""
    code = (
        "import m3kernels\n"
        "from m3qdrant import M3Store\n"
        "reveal_type(M3Store)\n"
        "reveal_type(m3kernels.maxsim)\n"
        "def find(store: M3Store) -> None:\n"
        "    store.search('a file', limit='ten')\n"
    )
    # what others wrote is left out: it takes minutes, and is not the question here
    others = "torch.*,transformers.*,qdrant_client.*,qdrant_edge.*,numpy.*,huggingface_hub.*"
    (tmp_path / "mypy.ini").write_text(f"[mypy]\n[mypy-{others}]\nfollow_imports = skip\n")
    mypy: list[str | Path] = [sys.executable, "-m", "mypy", "--strict"]
    mypy += ["--config-file", tmp_path / "mypy.ini", "--cache-dir", tmp_path]
    for what in ("editable", "wheel"):
        python = installed(what, clone, wheel, tmp_path / what)
        for folder in (clone.parent, clone):
            (folder / "script.py").write_text(code)
            done = subprocess.run(
                [*mypy, "--python-executable", python, "script.py"],
                cwd=folder,
                env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
                capture_output=True,
                text=True,
            )
            lines = [line for line in done.stdout.splitlines() if "script.py" in line]
            assert len(lines) == 3, done.stdout + done.stderr
            assert 'Revealed type is "def (location: str' in lines[0]
            assert "-> m3qdrant.store." in lines[0]
            assert 'Revealed type is "def (queries: ' in lines[1]
            assert 'Argument "limit" to "search" of "M3Store" has incompatible type' in lines[2]


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
