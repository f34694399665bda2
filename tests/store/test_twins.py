"""M3Store and AsyncM3Store: one is made of the other, and only the waiting differs."""

from __future__ import annotations

import asyncio
import copy as copying
import importlib.util
import inspect
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from m3qdrant import AsyncM3Store, M3Store
from m3qdrant.errors import InputError, StoreClosedError
from tests.views import documents, random_views

ROOT = Path(__file__).parent.parent.parent
ASYNC, SYNC = "m3qdrant/store/async_store.py", "m3qdrant/store/sync_store.py"


with_ruff = pytest.mark.skipif(
    importlib.util.find_spec("ruff") is None, reason="ruff formats what is made: not installed"
)


def check(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(root / "tools" / "unasync.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The tool and the two stores, in a repository of their own."""
    # ruff tells our imports from others' by the package's first file
    others = [name.replace("_store", "_resident") for name in (ASYNC, SYNC)]
    for name in (
        "tools/unasync.py",
        "pyproject.toml",
        "m3qdrant/__init__.py",
        ASYNC,
        SYNC,
        *others,
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


@with_ruff
def test_the_synchronous_store_is_made_of_the_other() -> None:
    done = check(ROOT)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@with_ruff
@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        (SYNC, "self._closed = True", "self._closed = False"),
        (ASYNC, "return job.report", "return job.report  # noted"),
        (ASYNC, "DEFAULT_WEIGHTS,\n", "(1, 1, 1),\n"),
    ],
)
def test_a_store_that_was_changed_alone_shows(copy: Path, name: str, old: str, new: str) -> None:
    unchanged = check(copy)
    assert (unchanged.returncode, unchanged.stdout) == (0, ""), unchanged.stderr
    text = (copy / name).read_text("utf-8")
    assert old in text
    (copy / name).write_text(text.replace(old, new, 1), "utf-8")
    before = (copy / SYNC).read_text("utf-8")
    changed = check(copy)
    assert (changed.returncode, changed.stdout) == (1, f"{SYNC} is out of date\n")
    assert (copy / SYNC).read_text("utf-8") == before  # it was to look, and not to write


# -- the two classes

ALONE = {"__aenter__": "__enter__", "__aexit__": "__exit__"}
WAITED_FOR = {
    "add", "close", "count", "delete", "documents", "get", "index", "info", "open", "optimize",
    "explain", "search", "search_batch",
}  # fmt: skip


def methods(store: type[Any]) -> dict[str, Callable[..., Any]]:
    """A store's public methods, by their names in M3Store, and how it is entered and left."""
    return {
        ALONE.get(name, name): function
        for name, function in inspect.getmembers(store, inspect.isfunction)
        if not name.startswith("_") or name in {"__init__", *ALONE, *ALONE.values()}
    }


def plainly(annotation: Any) -> Any:
    """An annotation without what is there for asyncio."""
    if not isinstance(annotation, str):
        return annotation
    return re.sub(r"\bAsync(?=[A-Z])", "", annotation.replace(" | AsyncIterable[Item]", ""))


def test_the_two_have_the_same_methods_with_the_same_signatures() -> None:
    one, two = methods(M3Store), methods(AsyncM3Store)
    assert one.keys() == two.keys() == {*WAITED_FOR, "__init__", "__enter__", "__exit__"}
    for name in one:
        left, right = inspect.signature(one[name]), inspect.signature(two[name])
        plain = [
            parameter.replace(annotation=plainly(parameter.annotation))
            for parameter in right.parameters.values()
        ]
        assert list(left.parameters.values()) == plain, name
        assert left.return_annotation == plainly(right.return_annotation), name


@pytest.mark.parametrize("name", [*sorted(WAITED_FOR), "__enter__", "__exit__"])
def test_one_is_waited_for_and_the_other_is_not(name: str) -> None:
    blocking, other = methods(M3Store)[name], methods(AsyncM3Store)[name]
    assert inspect.iscoroutinefunction(other) or inspect.isasyncgenfunction(other)
    assert not inspect.iscoroutinefunction(blocking)
    assert not inspect.isasyncgenfunction(blocking)
    assert inspect.isgeneratorfunction(blocking) == inspect.isasyncgenfunction(other)


# -- closed


def test_a_closed_store_is_not_entered_again() -> None:
    store = M3Store(":memory:", "c")
    store.close()
    with pytest.raises(StoreClosedError, match="the store of 'c' is closed; open a new one"):
        store.__enter__()
    with pytest.raises(StoreClosedError, match="the store of 'c' is closed"):
        store.open()


def test_a_closed_store_is_not_entered_again_with_asyncio() -> None:
    async def main(opened: bool) -> None:
        store = AsyncM3Store(":memory:", "c")
        if opened:
            await store.open()
        await store.close()
        await store.close()
        with pytest.raises(StoreClosedError, match="the store of 'c' is closed; open a new one"):
            await store.__aenter__()
        for use in (store.open, store.count, store.info, store.optimize):
            with pytest.raises(StoreClosedError, match="the store of 'c' is closed"):
                await use()
        with pytest.raises(StoreClosedError, match="the store of 'c' is closed"):
            await store.add("x", embeddings=random_views(1, 1))
        with pytest.raises(StoreClosedError, match="the store of 'c' is closed"):
            await store.search(random_views(1, 1))

    asyncio.run(main(opened=True))
    asyncio.run(main(opened=False))


# -- a TypeError names the method that the user called


class MyStore(M3Store):
    """A store of a user's own."""


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"bad": 1}, r"{}\(\) got an unexpected keyword argument 'bad'"),
    ({"limit": 3, "offest": 1}, r"{}\(\) got an unexpected keyword argument 'offest'"),
]


@pytest.mark.parametrize("method", ["search", "search_batch"])
@pytest.mark.parametrize("kind", [M3Store, MyStore])
@pytest.mark.parametrize(("options", "message"), WRONG)
def test_a_wrong_option_is_named_with_the_method(
    kind: type[M3Store], method: str, options: dict[str, Any], message: str
) -> None:
    query = random_views(1, 1)
    with kind(":memory:", "c") as store:
        store.add(documents(3), embeddings=random_views(3, 2))
        ask: Callable[..., Any] = getattr(store, method)
        with pytest.raises(TypeError, match=f"^{message.format(f'{kind.__name__}.{method}')}"):
            ask(query, **options)
        assert ask(query, limit=1)


@pytest.mark.parametrize("method", ["search", "search_batch"])
@pytest.mark.parametrize(("options", "message"), WRONG)
def test_a_wrong_option_is_named_with_the_asynchronous_method(
    method: str, options: dict[str, Any], message: str
) -> None:
    async def main() -> None:
        query = random_views(1, 1)
        async with AsyncM3Store(":memory:", "c") as store:
            await store.add(documents(3), embeddings=random_views(3, 2))
            ask: Callable[..., Any] = getattr(store, method)
            with pytest.raises(TypeError, match=f"^{message.format(f'AsyncM3Store.{method}')}"):
                await ask(query, **options)
            assert await ask(query, limit=1)

    asyncio.run(main())


def test_a_store_is_not_pickled_or_copied() -> None:
    with M3Store(":memory:", "x") as store:
        for act in (pickle.dumps, copying.deepcopy, copying.copy):
            with pytest.raises(InputError, match=r"M3Store\(':memory:', 'x'\).*open one where"):
                act(store)
    other = AsyncM3Store(":memory:", "x")
    with pytest.raises(InputError, match="can't be pickled or copied"):
        pickle.dumps(other)
