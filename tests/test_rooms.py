"""The house: who may import whom, through which door, and what stands at the front door.

The layers themselves are contracts in pyproject.toml, which `lint-imports` reads. Here they are
run, and shown to fail where they should; the rest is what such a contract can't say.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import shutil
import subprocess
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import m3qdrant

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "m3qdrant"
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
STUBS = ["m3qdrant", *(f"m3qdrant.{path.parent.name}" for path in PACKAGE.glob("*/__init__.pyi"))]

PUBLIC = {
    "encode": [
        "M3Embeddings",
        "Encoder",
        "M3Encoder",
        "SparseRow",
        "SparseVectors",
        "TokenSpan",
        "TokenVectors",
        "TruncationWarning",
    ],
    "edge": ["AsyncQdrantEdge", "AsyncQdrantEdgeView", "QdrantEdge", "as_qdrant_client"],
    "collection": ["Document", "Hit", "M3Schema", "SearchOptions", "StoreInfo"],
    "transport": ["Retries"],
    "ingest": ["IngestReport", "PassedOver"],
    "rank": [
        "Alignment",
        "Cascade",
        "Component",
        "DocumentVector",
        "Explanation",
        "Highlight",
        "M3Reranker",
        "Match",
        "Recall",
        "Snippet",
        "Term",
        "Token",
    ],
    "store": [
        "AsyncM3Store",
        "AsyncResidentCorpus",
        "CorpusChanges",
        "M3Store",
        "ResidentCorpus",
        "arerank_points",
        "rerank_points",
    ],
}
MODULES = ["errors", "scoring"]
OFFERED: list[str] = vars(m3qdrant)["__all__"]  # which the stub leaves out


LINT = "from importlinter.cli import lint_imports_command as lint; lint()"


def broken(root: Path) -> list[str]:
    """The names of the contracts that the packages in `root` break."""
    done = subprocess.run(
        [sys.executable, "-c", LINT, "--no-logo", "--no-cache"],
        cwd=root,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(root), str(root / "kernels")]),
            "COLUMNS": "200",  # a name stands on one line
        },
        capture_output=True,
        text=True,
    )
    assert "Contracts: " in done.stdout, done.stdout + done.stderr
    names = [
        line.removesuffix(" BROKEN")
        for line in done.stdout.splitlines()
        if line.endswith(" BROKEN")
    ]
    assert bool(names) == bool(done.returncode), done.stdout
    return names


def test_every_import_runs_downward() -> None:
    assert broken(ROOT) == []


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both packages' sources and the contracts, to be spoilt."""
    root = tmp_path_factory.mktemp("house")
    litter = shutil.ignore_patterns("__pycache__", "data")
    shutil.copytree(PACKAGE, root / "m3qdrant", ignore=litter)
    shutil.copytree(ROOT / "kernels" / "m3kernels", root / "kernels/m3kernels", ignore=litter)
    shutil.copy(ROOT / "pyproject.toml", root)
    assert broken(root) == []
    return root


LAYERS = "imports run downward, and every module has its layer"
EDGE = "the embedded engine knows nothing of BGE-M3"
ENCODE = "the encoder, scores and ranks know nothing of Qdrant"
KERNELS = "the kernels stand alone"
COLLECTION = "what is asked of Qdrant is data: no I/O"
GROUND = "the ground is light: nothing on it needs a model or an engine"
CYCLES = "no two files, and no two rooms, import each other"
CLI = "a command stands on the program and on what commands share, not on another command"


@pytest.mark.parametrize(
    ("file", "line", "contracts"),
    [
        ("m3qdrant/edge/planted.py", "from m3qdrant.encode import M3Encoder", {EDGE}),
        ("m3qdrant/edge/planted.py", "from m3qdrant.names import DENSE", {EDGE}),
        ("m3qdrant/edge/planted.py", "from m3qdrant.collection import Hit", {EDGE, LAYERS}),
        ("m3qdrant/edge/planted.py", "from m3qdrant.rank import Held", {EDGE}),
        ("m3qdrant/rank/planted.py", "from qdrant_client import models", {ENCODE}),
        ("m3qdrant/rank/planted.py", "from m3qdrant.collection import Hit", {LAYERS}),
        ("m3qdrant/encode/planted.py", "from qdrant_client import models", {ENCODE}),
        ("m3qdrant/encode/planted.py", "from m3qdrant.store import M3Store", {LAYERS}),
        ("m3qdrant/scoring.py", "import qdrant_edge", {ENCODE}),
        ("kernels/m3kernels/planted.py", "from m3qdrant import limits", {KERNELS}),
        ("kernels/m3kernels/planted.py", "import numpy", {KERNELS}),
        ("m3qdrant/collection/planted.py", "import httpx", {COLLECTION}),
        ("m3qdrant/collection/planted.py", "from m3qdrant.edge import QdrantEdge", {LAYERS}),
        ("m3qdrant/limits.py", "import torch", {GROUND}),
        ("m3qdrant/ingest/planted.py", "from m3qdrant.transport import Retries", {LAYERS}),
        ("m3qdrant/cli/searching.py", "from m3qdrant.cli import documents", {CLI}),
        ("m3qdrant/store/base.py", "from m3qdrant.store import sync_store", {CYCLES}),
        ("m3qdrant/attic.py", "", {LAYERS}),
        ("m3qdrant/cellar/__init__.py", "", {LAYERS}),
    ],
)
def test_a_wrong_import_breaks_its_contract(
    copy: Path, file: str, line: str, contracts: set[str]
) -> None:
    spoilt = copy / file
    before = spoilt.read_text() if spoilt.exists() else None
    spoilt.parent.mkdir(exist_ok=True)
    spoilt.write_text(f"{before or ''}\n{line}\n")
    try:
        # others may break too: what is upward closes a circle, what is heavy weighs on all above
        assert contracts <= set(broken(copy))
    finally:
        if before is not None:
            spoilt.write_text(before)
        else:
            spoilt.unlink()
            if not list(spoilt.parent.iterdir()):
                spoilt.parent.rmdir()


def imports(file: Path) -> Iterator[tuple[int, str, list[str]]]:
    """(line, module, names) of a file's imports; no names for a plain `import`."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield node.lineno, module, [alias.name for alias in node.names]


def past_the_door(file: Path, package: Path = PACKAGE) -> Iterator[str]:
    """What a file of the package imports from a room other than through its door.

    What a room offers stands in its `__all__`; everything behind it may move.
    """
    here = file.relative_to(package).parts[0]
    for line, module, names in imports(file):
        where = f"{file.relative_to(package.parent)}:{line}"
        top, _, inner = module.partition(".")
        room = inner.partition(".")[0]
        if module.startswith("."):
            yield f"{where} imports {module}: write it in full"
        elif top == "m3kernels" and inner not in ("", "packing"):  # packing: what cu_seqlens are
            yield f"{where} imports {module}: only what m3kernels offers"
        elif top != "m3qdrant" or (room and room == here):
            continue
        elif not inner:
            # the front door is for users: behind it any room may stand, which no contract sees
            for name in {*names} - {"__version__", *ROOMS}:
                if not (package / f"{name}.py").exists():
                    yield f"{where} imports {name} from m3qdrant: name its room"
        elif room in ROOMS:
            if inner != room:
                yield f"{where} imports {module}: only what m3qdrant.{room} offers"
            else:
                offered = importlib.import_module(module).__all__
                for name in set(names) - set(offered):
                    yield f"{where} imports {name}, which {module} does not offer"


def test_rooms_are_entered_by_their_doors() -> None:
    found = [wrong for file in sorted(PACKAGE.rglob("*.py")) for wrong in past_the_door(file)]
    assert found == []


def test_what_is_past_a_door(tmp_path: Path) -> None:
    file = tmp_path / "m3qdrant" / "store" / "a.py"
    file.parent.mkdir(parents=True)
    (tmp_path / "m3qdrant" / "scoring.py").touch()
    lines = {
        "from m3qdrant.encode.embeddings import M3Embeddings": "only what m3qdrant.encode offers",
        "import m3qdrant.encode.embeddings": "only what m3qdrant.encode offers",
        "from m3qdrant.encode import gather_rows": "m3qdrant.encode does not offer",
        "if 1:\n    from m3qdrant import M3Encoder": "name its room",
        "from ..encode import M3Encoder": "write it in full",
        "from m3kernels.dispatch import pick": "only what m3kernels offers",
        "from m3qdrant.encode import M3Encoder": None,
        "from m3qdrant.store.base import StoreBase": None,
        "from m3qdrant import __version__, encode, scoring": None,
        "import m3kernels\nimport os.path\nfrom m3kernels.packing import from_lengths": None,
    }
    for line, complaint in lines.items():
        file.write_text(line)
        found = list(past_the_door(file, tmp_path / "m3qdrant"))
        assert len(found) == (complaint is not None), line
        assert complaint is None or complaint in found[0]


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_says_what_is_in_it(name: str) -> None:
    room = importlib.import_module(f"m3qdrant.{name}")
    assert room.__doc__
    assert room.__all__


@pytest.mark.parametrize("name", STUBS)
def test_a_stub_says_what_its_room_offers(name: str) -> None:
    """Type checkers read the stub, and so does lazy_loader: what it says is what there is."""
    room = importlib.import_module(name)
    homes = {}
    for _, module, names in imports(Path(str(room.__file__)).with_suffix(".pyi")):
        home = importlib.import_module(module, name) if module.strip(".") else room
        for thing in names:
            homes[thing] = getattr(home, thing)
    assert sorted(homes) == sorted(room.__all__)
    for thing, value in homes.items():
        assert getattr(room, thing) is value
    assert set(homes) <= set(dir(room))


def test_the_public_names() -> None:
    assert sorted(OFFERED) == sorted([*MODULES, *(n for ns in PUBLIC.values() for n in ns)])
    for room, names in PUBLIC.items():
        for name in names:
            value = getattr(m3qdrant, name)
            assert value is getattr(importlib.import_module(f"m3qdrant.{room}"), name)
            assert inspect.isclass(value) or inspect.isfunction(value)
            assert value.__name__ == name
            assert value.__module__.startswith(f"m3qdrant.{room}.")
    for name in MODULES:
        assert getattr(m3qdrant, name) is sys.modules[f"m3qdrant.{name}"]
    assert set(OFFERED) <= set(dir(m3qdrant))
    with pytest.raises(AttributeError, match="no attribute 'M3Stoer'"):
        getattr(m3qdrant, "M3Stoer")  # noqa: B009


def for_type_checkers(module: types.ModuleType) -> dict[str, Any]:
    """What a module imports for its annotations only."""
    namespace: dict[str, Any] = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            exec(compile(ast.Module(node.body, []), "<annotations>", "exec"), namespace)
    return namespace


def classes_in(annotation: Any) -> Iterator[type]:
    """The classes that an annotation is made of, through unions, containers and aliases."""
    if isinstance(annotation, type) and not typing.get_origin(annotation):
        yield annotation
    for part in typing.get_args(annotation):
        yield from classes_in(part)
        if isinstance(part, list):  # a callable's arguments
            for argument in part:
                yield from classes_in(argument)


def mentioned(kind: type) -> dict[str, set[str]]:
    """Our classes in the signatures of a class's public methods, and the methods they are in."""
    public = {"__getitem__", "__iter__"}
    if not hasattr(kind, "from_pretrained"):  # else that is how users make one
        public.add("__init__")
    found: dict[str, set[str]] = {}
    for name, member in inspect.getmembers(kind):
        if name.startswith("_") and name not in public:
            continue
        function = member.fget if isinstance(member, property) else inspect.unwrap(member)
        if not inspect.isroutine(function) or not hasattr(function, "__annotations__"):
            continue
        if not function.__module__.startswith("m3qdrant"):
            continue
        names = for_type_checkers(sys.modules[function.__module__])
        for annotation in typing.get_type_hints(function, localns=names).values():
            for part in classes_in(annotation):
                if part.__module__.partition(".")[0] in ("m3qdrant", "m3kernels"):
                    found.setdefault(part.__name__, set()).add(name)
    return found


@pytest.mark.parametrize("name", [n for names in PUBLIC.values() for n in names])
def test_what_public_signatures_mention_is_public(name: str) -> None:
    kind = getattr(m3qdrant, name)
    found = mentioned(kind)
    if name in ("M3Store", "AsyncM3Store"):  # or this test reads nothing
        assert {"Document", "Hit", "IngestReport", "M3Schema", "Retries", "StoreInfo"} <= set(
            found
        )
    parents = inspect.getmro(kind) if inspect.isclass(kind) else ()
    bases = [parent.__name__ for parent in parents]
    known = {*OFFERED, *m3qdrant.errors.__all__, *bases}
    assert {n: methods for n, methods in found.items() if n not in known} == {}


@pytest.mark.parametrize(
    ("package", "without"),
    [
        ("m3kernels", ["m3qdrant", "qdrant_client", "qdrant_edge", "transformers"]),
        ("m3qdrant.encode", ["qdrant_client", "qdrant_edge", "grpc"]),
        ("m3qdrant.rank", ["qdrant_client", "qdrant_edge", "grpc", "m3qdrant.collection"]),
        ("m3qdrant.edge", ["torch", "transformers", "m3kernels", "m3qdrant.encode"]),
    ],
)
def test_what_a_package_does_without(package: str, without: list[str]) -> None:
    """Each of its modules comes up where the rest is missing, whatever is imported lazily."""
    code = (
        "import importlib, pkgutil, sys\n"
        f"sys.modules.update(dict.fromkeys({without}))\n"
        f"package = importlib.import_module({package!r})\n"
        "for name in package.__all__: getattr(package, name)\n"
        f"for module in pkgutil.walk_packages(package.__path__, {package + '.'!r}):\n"
        "    if not module.name.endswith('.triton'): importlib.import_module(module.name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_the_front_door_lists() -> None:
    listed = dir(m3qdrant)
    assert {*OFFERED, "__version__", "__doc__", "__file__"} <= {*listed}
    assert listed == sorted(listed)


@pytest.mark.parametrize("room", ROOMS)
def test_no_name_at_a_door_is_a_module_too(room: str) -> None:
    """Whichever was imported last would be found under it."""
    module = importlib.import_module(f"m3qdrant.{room}")
    modules = {path.stem for path in (PACKAGE / room).iterdir()}
    same = {
        name
        for name in set(getattr(module, "__all__", ())) & modules
        if not isinstance(getattr(module, name), types.ModuleType)
    }
    assert not same
