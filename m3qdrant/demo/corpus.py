"""The demo's corpus: the docstrings of the running Python's standard library.

Thousands of real texts that every machine has. Python modules are read as source and never
imported; of the compiled ones, which have no source, those that are public are imported.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from m3qdrant.collection import Document

__all__ = ["stdlib_docstrings"]

# what is no library, or no longer one
_SKIP = {"test", "tests", "idlelib", "lib2to3", "turtledemo", "ensurepip", "site-packages"}
_SKIP |= {"antigravity", "this", "pydoc_data", "__phello__", "dist-packages", "distutils"}
_KNOWN_AS = {"posix": "os", "nt": "os"}
_SHORTEST = 40  # characters of a docstring that says something


def stdlib_docstrings() -> list[Document]:
    """One document for each public module, class, function and method with a docstring.

    Its id is the qualified name ("gzip.open"); its text the name, the signature and the docstring;
    its payload the module and the kind: "module", "class" or "function".
    """
    documents: dict[str, Document] = {}
    for document in (*_from_sources(), *_from_compiled()):
        documents.setdefault(document.id, document)
    return [documents[name] for name in sorted(documents)]


def _document(
    name: str, signature: str, doc: str | None, module: str, kind: str
) -> list[Document]:
    doc = inspect.cleandoc(doc or "")
    if len(doc) < _SHORTEST:
        return []
    text = f"{name}{signature}: {doc}".encode("utf-8", "replace").decode()
    return [Document(name, text, {"module": module, "kind": kind})]


def _public(name: str) -> bool:
    return not name.startswith("_")


def _from_sources() -> Iterator[Document]:
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if (
            not parts
            or parts[0] not in sys.stdlib_module_names
            or not all(map(_public, parts))
            or _SKIP & set(parts)
        ):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # invalid escapes in old modules
                tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, OSError):
            continue  # a template or a broken file among them is no loss to a demo
        module = ".".join(parts)
        yield from _document(module, "", ast.get_docstring(tree), module, "module")
        yield from _definitions(tree, module, module)


def _definitions(tree: ast.Module | ast.ClassDef, prefix: str, module: str) -> Iterator[Document]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and _public(node.name):
            name = f"{prefix}.{node.name}"
            yield from _document(name, "", ast.get_docstring(node), module, "class")
            yield from _definitions(node, name, module)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _public(node.name):
            name = f"{prefix}.{node.name}"
            signature = f"({ast.unparse(node.args)})"
            yield from _document(name, signature, ast.get_docstring(node), module, "function")


def _from_compiled() -> Iterator[Document]:
    for module_name in sorted(filter(_public, sys.stdlib_module_names - _SKIP)):
        if not _is_compiled(module_name):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # some are deprecated, and still documented
                module = importlib.import_module(module_name)
        except ImportError:
            continue  # not built on this machine
        name = _KNOWN_AS.get(module_name, module_name)
        yield from _document(name, "", module.__doc__, name, "module")
        yield from _members(module, name, name)


def _is_compiled(module_name: str) -> bool:
    if module_name in sys.builtin_module_names:
        return True
    try:
        spec = importlib.util.find_spec(module_name)
    except (ImportError, ValueError):
        return False
    origin = spec.origin if spec else None
    return bool(origin) and not str(origin).endswith(".py") and origin != "frozen"


def _members(owner: ModuleType | type, prefix: str, module: str) -> Iterator[Document]:
    for name, member in sorted(vars(owner).items()):
        if not _public(name) or isinstance(member, ModuleType):
            continue
        qualified = f"{prefix}.{name}"
        if isinstance(member, type):
            yield from _document(qualified, "", member.__doc__, module, "class")
            if isinstance(owner, ModuleType):
                yield from _members(member, qualified, module)
        elif inspect.isroutine(member):
            try:
                signature = str(inspect.signature(member))
            except (ValueError, TypeError):
                signature = ""
            yield from _document(qualified, signature, member.__doc__, module, "function")
