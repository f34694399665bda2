"""JSON that is not a line an object: arrays, single objects, several in a row; and what breaks."""

from __future__ import annotations

import gzip
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest

from m3qdrant import Document, IngestReport
from m3qdrant.ingest import chunks, open_sources


def read(*paths: Path | str, **options: Any) -> tuple[list[Document], list[str]]:
    """The documents that are read, and what is said of the others."""
    report = IngestReport()
    found = chunks.read(open_sources(paths, **options).items(), chunks.Chunker(report))
    documents = [document for chunk in found for document in chunk.documents]
    return documents, [error.args[0] for error in report.failed]


def some(n: int) -> list[dict[str, Any]]:
    chance = random.Random(n)
    return [
        {"id": str(i), "text": f"{chance.random()} ]}} {{[ \n\u2028 ß", "deep": [{"k": [i]}]}
        for i in range(n)
    ]


def written(rows: list[dict[str, Any]], form: str) -> str:
    return {
        "array": lambda: json.dumps(rows),
        "pretty": lambda: json.dumps(rows, indent=2, ensure_ascii=False),
        "lines": lambda: "".join(json.dumps(row) + "\n" for row in rows),
        "in a row": lambda: "".join(json.dumps(row, indent=1) + "\n" for row in rows),
    }[form]()


@pytest.mark.parametrize("form", ["array", "pretty", "lines", "in a row"])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_every_form_gives_the_same_documents(tmp_path: Path, form: str, n: int) -> None:
    rows = some(n)
    path = tmp_path / "a.json"
    path.write_text("\ufeff" + written(rows, form), "utf-8")
    expected = [Document.of(row) for row in rows]
    assert read(path) == (expected, [])
    packed = tmp_path / "b.json.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read(packed) == (expected, [])
    if form in ("array", "pretty"):
        assert read("-", stdin=io.StringIO(written(rows, form))) == (expected, [])
    assert read("-", stdin=io.StringIO(written(rows, form)), format="json") == (expected, [])


@pytest.mark.parametrize(
    ("content", "ids", "complaints"),
    [
        ('[{"id": 1, "text": "a"}, 3, {"id": 2, "text": "b"}]', "12", ["object 2: a JSON object"]),
        ('[{"id": 1, "text": "a"}, {"id": 2, "te', "1", ["object 2: broken JSON, and the rest"]),
        ('[{"id": 1, "text": "a"}', "1", ["the array does not end"]),
        ('[{"id": 1, "text": "a"}] x', "1", ["something follows the array"]),
        ('{"data": [{"text": "a"}]}', "", ["no field 'text'; the fields are 'data'"]),
        (
            '[{"id": 1, "text": "a", "id": 2}, {"id": 3, "text": "c"}]',
            "3",
            ["the key 'id' stands"],
        ),
        ('[{"text": "a", "n": {"k": 1, "k": 1}}]', "", ["the key 'k' stands twice"]),
        ('[{"id": 1, "text": "a", "n": NaN}]', "", ["NaN is no JSON value"]),
        ('{"id": 1, "text": "a"}\n{"id":\n{"id": 3, "text": "c"}\n', "13", ["a.json:2: broken"]),
        ("[" * 100_000, "", ["broken JSON"]),
    ],
)
def test_what_breaks_is_named_and_the_rest_is_read(
    tmp_path: Path, content: str, ids: str, complaints: list[str]
) -> None:
    (tmp_path / "a.json").write_text(content)
    documents, said = read(tmp_path / "a.json")
    assert "".join(document.id for document in documents) == ids
    assert len(said) == len(complaints)
    for complaint, line in zip(complaints, said, strict=True):
        assert complaint in line


def test_a_key_that_stands_twice_is_no_quiet_loss(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "a", "text": "one", "text": "two"}\n{"id": "b", "text": "x"}\n')
    documents, said = read(path)
    assert [document.id for document in documents] == ["b"]
    assert "a.jsonl:1: " in said[0]
    assert "the key 'text' stands twice" in said[0]


def test_a_packed_file_that_breaks_off(tmp_path: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in some(500)).encode()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines)[:-200])
    documents, said = read(tmp_path / "a.jsonl.gz")
    assert 0 < len(documents) < 500
    assert "can't be unpacked further than this" in said[-1]
    (tmp_path / "b.txt.gz").write_bytes(b"not packed")
    assert "can't be read" in read(tmp_path / "b.txt.gz")[1][0]


def test_a_folder_says_what_it_does_not_read(tmp_path: Path) -> None:
    store = tmp_path / "data" / "documents"
    (store / "shard" / "segments").mkdir(parents=True)
    for name in ("collection.json", "shard/notes.txt"):
        (store / name).write_text("{}")
    (tmp_path / "package.json").write_text("{}")
    (tmp_path / "a.tar.gz").write_bytes(b"x")
    (tmp_path / "b.md.gz").write_bytes(gzip.compress(b"# read"))
    report = IngestReport()
    for _ in chunks.read(open_sources([tmp_path]).items(), chunks.Chunker(report)):
        pass
    assert report.received == 1
    assert {(group.reason, group.files) for group in report.passed_over} == {
        ("a collection of the embedded engine", 1),
        (".json files are read where they are named", 1),
        (".gz files are not read", 1),
    }


@pytest.mark.parametrize(
    ("lines", "ids", "texts"),
    [
        ("1\thello world\n", ["1"], ["hello world"]),
        ("a\tone\nb\ttwo\tmore\n", ["a"], ["one"]),
        ("id\ttitle\ttext\n7\tT\tx y\n", ["7"], ["x y"]),
        ("two words\tand a tab\n", [None], ["two words\tand a tab"]),
        ("a\tb\nplain\n", [None, None], ["a\tb", "plain"]),
    ],
)
def test_tabs_on_standard_input(lines: str, ids: list[str | None], texts: list[str]) -> None:
    documents, _ = read("-", stdin=io.StringIO(lines))
    assert [document.text for document in documents] == texts
    for document, id in zip(documents, ids, strict=True):
        assert document.id == (Document.of(document.text).id if id is None else id)
