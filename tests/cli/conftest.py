"""Two collections that the command itself made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.command import ok


@pytest.fixture(scope="session")
def location(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    """A collection of three documents, which no test changes."""
    root = tmp_path_factory.mktemp("cli")
    rows = [
        {"id": "gz", "text": "compress a [bold]file[/bold] with gzip\x1b[31m", "lang": "en"},
        {"id": "tar", "text": "Dateien in ein Archiv packen", "lang": "de", "year": 2020},
    ]
    (root / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "b.txt").write_text("a temporary directory")
    output = ok(
        "ingest", root / "a.jsonl", root / "b.txt", "--location", root / "data",
        "--model", checkpoint,
    )  # fmt: skip
    assert output.startswith("3 of 3 documents stored")
    return root / "data"


@pytest.fixture
def shop(tmp_path: Path, checkpoint: Path) -> Path:
    """A collection of its own for each test, of twelve documents with payload."""
    rows = [
        {
            "id": f"doc {i}",
            "text": f"Artikel {i} für\n\ud83d\udc08",
            "year": 2010 + i,
            "n": [i, None],
        }
        for i in range(12)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ok("ingest", tmp_path / "rows.jsonl", "--location", tmp_path / "data", "--model", checkpoint)
    return tmp_path / "data"
