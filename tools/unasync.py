"""Makes the synchronous twin of an asynchronous module, so that it is written once.

    python tools/unasync.py            # writes what is out of date
    python tools/unasync.py --check    # exit status 1 where something is

The words that differ stand in `WORDS`. A line that only the synchronous twin has is written as a
comment, `# sync: self.open()`. A test runs the check.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

TWINS = {
    "m3qdrant/store/async_store.py": "m3qdrant/store/sync_store.py",
    "m3qdrant/store/async_resident.py": "m3qdrant/store/sync_resident.py",
}
"""The asynchronous modules, and what is made of them."""

MADE_OF = "# made of {source} by tools/unasync.py: change that file, and run it again\n"

WORDS = [
    # whole sentences of docstrings first
    (
        r'"""AsyncResidentCorpus: a collection.*?\n"""',
        '"""ResidentCorpus: a collection\'s token vectors on a device, searched exactly."""',
    ),
    (
        r'"""AsyncM3Store: a collection .*?\n"""',
        '"""M3Store: a collection of documents with BGE-M3\'s three vectors, searched with all of '
        "them.\n\nThin: the room `collection` says what is asked of Qdrant, `transport` asks it.\n"
        '"""',
    ),
    (r'"""Describe the store; `open` opens it\.', '"""Open or create a collection.'),
    (
        r"        Raises:\n            InputError: an argument is wrong\.\n",
        "        Raises:\n"
        "            InputError: an argument is wrong.\n"
        "            CollectionNotFoundError: there is no such collection and `create` is False.\n"
        "            SchemaMismatchError: there is one, laid out differently. Says what differs.\n"
        "            StoreLockedError: another process has the directory open.\n"
        "            ServerUnavailableError, AccessDeniedError: the server doesn't answer, or "
        "refuses.\n",
    ),
    (
        r'"""Open or create the collection, if that hasn\'t been done\..*?"""',
        '"""Open or create the collection; it has been done when the store was made."""',
    ),
    (
        r"asyncio\.CancelledError: what was written stays, and running it again resumes\.",
        "IngestInterrupted: Ctrl-C (a KeyboardInterrupt). What was under way has been finished.",
    ),
    (r" on the embedded engine; searches wait\.", " on the embedded engine."),
    (
        r"the AsyncQdrantClient, or the AsyncQdrantEdge, underneath; there once opened",
        "the Qdrant client or embedded engine underneath",
    ),
    # code
    (r" \| AsyncIterable\[Item\]", ""),
    (r"AsyncIterable, ", ""),
    (r"\ban Async(?=Qdrant)", "a "),
    (r"AsyncIterator", "Iterator"),
    (r"Async(?=M3Store|Qdrant|ResidentCorpus)", ""),
    (r"async_client_base", "client_base"),
    (r"async_work", "sync_work"),
    (r"async_(?=store|resident)", "sync_"),
    (r"\baconnect\b", "connect"),
    (r"__aenter__", "__enter__"),
    (r"__aexit__", "__exit__"),
    (r"\basync (?=def|with|for)", ""),
    (r"\bawait ", ""),
    (r"^( *)# sync: ", r"\1"),
]
"""Patterns of what differs, and what stands in its place, in this order."""


def synchronous(source: str) -> str:
    """The synchronous twin of a module's text, not formatted."""
    for pattern, replacement in WORDS:
        source = re.sub(pattern, replacement, source, flags=re.DOTALL | re.MULTILINE)
    return source


def formatted(source: str) -> str:
    """A module's text as ruff leaves it: imports sorted, then formatted."""
    name = ["--stdin-filename", str(ROOT / "m3qdrant" / "module.py")]
    for command in (["check", "--select", "I", "--fix", "--quiet"], ["format", "--quiet"]):
        run = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *name, "-"],
            input=source,
            capture_output=True,
            text=True,
            check=True,
        )
        source = run.stdout
    return source


def main() -> None:
    """Write the twins, or check them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    stale = []
    for source, target in TWINS.items():
        made = synchronous((ROOT / source).read_text(encoding="utf-8"))
        text = formatted(MADE_OF.format(source=source) + made)
        path = ROOT / target
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(target)
            if not check:
                path.write_text(text, encoding="utf-8")
    for target in stale:
        print(f"{target} {'is out of date' if check else 'written'}")
    if check and stale:
        sys.exit(1)


if __name__ == "__main__":
    main()
