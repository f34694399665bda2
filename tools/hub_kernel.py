"""Makes a project of m3kernels that Hugging Face's kernel-builder takes, for the Kernel Hub.

    python tools/hub_kernel.py FOLDER
    kernel-builder build-and-copy FOLDER

A kernel of the Hub is loaded under a name of its own, and several versions of it into one process:
all its imports must be relative, and its ops in a namespace that the builder chooses, which it
gives in `_ops`. That is what is changed here; kernels/hub/ has the rest of the project.
"""

from __future__ import annotations

import argparse
import ast
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = "m3kernels"
_OP = re.compile(rf"{PACKAGE}::(\w+)")

PROJECT = ("build.toml", "flake.nix", "CARD.md")


def make(folder: Path) -> None:
    """Write the project into a folder that isn't there yet, or is empty.

    Raises:
        FileExistsError: it holds something.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} holds something: give a new folder")
    sources = ROOT / "kernels" / PACKAGE
    for source in sorted(sources.rglob("*.py")):
        path = source.relative_to(sources)
        target = folder / "torch-ext" / PACKAGE / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(portable(source.read_text("utf-8"), len(path.parts)), "utf-8")
    for name in PROJECT:
        shutil.copy(ROOT / "kernels" / "hub" / name, folder)


def portable(source: str, depth: int) -> str:
    """A module's source with relative imports, and ops in the builder's namespace.

    Args:
        source: of a module of the package.
        depth: how many dots lead from it to the package: 1 in the package's own folder.
    """
    tree = ast.parse(source)
    changes = [*_changes(tree, "." * depth)]
    if needed := sorted({name for _, _, name in changes if name}):
        first = next(n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom))
        if isinstance(first, ast.ImportFrom) and first.module == "__future__":
            first = tree.body[tree.body.index(first) + 1]  # type: ignore[assignment]
        imported = f"from {'.' * depth}_ops import {', '.join(needed)}\n"
        changes.append(((first.lineno, 0, first.lineno, 0), imported, ""))
    lines = source.encode().splitlines(keepends=True)
    starts = [0]
    for each in lines:
        starts.append(starts[-1] + len(each))
    made = source.encode()
    for (line, column, end, end_column), text, _ in sorted(changes, reverse=True):
        start, stop = starts[line - 1] + column, starts[end - 1] + end_column
        made = made[:start] + text.encode() + made[stop:]
    return made.decode()


Change = tuple[tuple[int, int, int, int], str, str]
"""Where it is (line, column, last line, its column), what comes there, what of `_ops` it needs."""


def _changes(tree: ast.Module, dots: str) -> Iterator[Change]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            package, _, rest = node.module.partition(".")
            if package == PACKAGE and node.level == 0:
                start = node.col_offset + len("from ")
                place = (node.lineno, start, node.lineno, start + len(node.module))
                yield place, dots + rest, ""
        elif isinstance(node, ast.Import):
            if any(alias.name.partition(".")[0] == PACKAGE for alias in node.names):
                raise ValueError(f"line {node.lineno} imports {PACKAGE} by name: use `from`")
        elif isinstance(node, ast.Constant) and (op := _OP.fullmatch(str(node.value))):
            yield _place(node), f'add_op_namespace_prefix("{op[1]}")', "add_op_namespace_prefix"
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == f"torch.ops.{PACKAGE}":
            yield _place(node), "ops", "ops"


def _place(node: ast.expr) -> tuple[int, int, int, int]:
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    return node.lineno, node.col_offset, node.end_lineno, node.end_col_offset


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where to write it")
    make(parser.parse_args().folder)
