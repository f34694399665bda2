"""open_sources: every kind of file, and every way in which one can be broken."""

from __future__ import annotations

import io
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3qdrant import Document
from m3qdrant.errors import InputError
from m3qdrant.ingest.sources import jsonl_line, open_sources, passages, written


def write_jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def read(*paths: Path | str, **options: Any) -> list[Document]:
    source = open_sources(paths, **options)
    documents = list(source.documents)
    assert source.total in (None, len(documents))
    return documents


def test_jsonl(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "a.jsonl",
        {"id": "x", "text": "one", "lang": "de", "n": [1]},
        {"text": "two"},
        {"id": 3, "text": "three", "payload": {"deep": 1}},
    )
    assert read(path) == [
        Document("x", "one", {"lang": "de", "n": [1]}),
        Document.of("two"),
        Document("3", "three", {"payload": {"deep": 1}}),
    ]


def test_jsonl_with_other_fields_blank_lines_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_text('\ufeff{"key": 1, "body": "x", "id": "y"}\r\n\r\n  \n', "utf-8")
    assert read(path, text_field="body", id_field="key") == [Document("1", "x", {"id": "y"})]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"text": "a"}\n{"text": \n', "a.jsonl, line 2: broken JSON"),
        ('{"text": "a"}\n\n[1]\n', "line 3: a JSON object is expected, not list"),
        ('{"body": "a", "n": 1}\n', "line 1: no field 'text'; the fields are 'body', 'n'"),
        ('{"text": null}\n', "line 1: text: missing"),
        ('{"text": "a", "n": ' + "[" * 100_000 + "\n", "line 1: broken JSON"),
        ('{"text": "a", "n": NaN}\n', "line 1: broken JSON: NaN is no JSON value"),
        ('{"text": "a", "_m3": 1}\n', "line 1: payload: .*rename"),
        ('{"text": "a", "id": ""}\n', "line 1: id: empty"),
        ('{"text": "\\ud800"}\n', "line 1: text: character 0"),
    ],
)
def test_broken_jsonl_is_found_before_anything_is_given_out(
    tmp_path: Path, content: str, complaint: str
) -> None:
    good = write_jsonl(tmp_path / "good.jsonl", {"text": "fine"})
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(InputError, match=complaint):
        open_sources([good, tmp_path / "a.jsonl"])


def test_text_and_markdown(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# One\n\nfirst\n## Two\nsecond\n\nmore\n", "utf-8")
    (tmp_path / "b.txt").write_text("just a line", "utf-8")
    (tmp_path / "empty.txt").write_text(" \n\n")
    documents = read(tmp_path / "a.md", tmp_path / "b.txt", tmp_path / "empty.txt")
    assert [document.text for document in documents] == [
        "# One\n\nfirst",
        "## Two\nsecond\n\nmore",
        "just a line",
    ]
    assert documents[1].id == f"{tmp_path / 'a.md'}#2"
    assert documents[2].payload == {"path": str(tmp_path / "b.txt")}


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    write_jsonl(tmp_path / "deep" / "a.jsonl", {"text": "json"})
    (tmp_path / "deep" / "er" / "B.TXT").write_text("text")
    (tmp_path / ".git" / "c.txt").write_text("hidden")
    (tmp_path / "deep" / "d.py").write_text("not read")
    assert [document.text for document in read(tmp_path)] == ["json", "text"]
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match=r"no \.jsonl, \.txt or \.md files"):
        open_sources([tmp_path / "nothing"])


def test_stdin_as_jsonl_and_as_lines() -> None:
    documents = read("-", stdin=io.StringIO('\n{"text": "a", "k": 1}\n{"text": "b"}\n'))
    assert documents == [Document.of({"text": "a", "k": 1}), Document.of("b")]
    assert read("-", stdin=io.StringIO(" one \n\ntwo\n")) == list(map(Document.of, ("one", "two")))
    assert read("-", stdin=io.StringIO("\n \n")) == []
    source = open_sources(["-"], stdin=io.StringIO('{"text": "a"}\n{"te'))
    assert next(source.documents).text == "a"
    with pytest.raises(InputError, match="standard input, line 2: broken JSON"):
        next(source.documents)


def test_a_stream_that_is_not_utf8() -> None:
    source = open_sources(["-"], stdin=io.TextIOWrapper(io.BytesIO(b"fine\ncaf\xe9\n"), "utf-8"))
    with pytest.raises(InputError, match="standard input: not UTF-8 text"):
        list(source.documents)
    marked = io.TextIOWrapper(io.BytesIO(b'\xef\xbb\xbf{"text": "a"}\n'), "utf-8")
    assert read("-", stdin=marked) == [Document.of("a")]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", '{"text": "a", "k": 1}\n', [Document.of({"text": "a", "k": 1})]),
        ("pipe", '{"text": "a"}\n{"text": "b"}\n', [Document.of("a"), Document.of("b")]),
        ("pipe", "one\n\ntwo\n", [Document.of("one"), Document.of("two")]),
        ("pipe", "", []),
    ],
)
def test_a_named_pipe_is_read_once(
    tmp_path: Path, name: str, content: str, expected: list[Document]
) -> None:
    os.mkfifo(tmp_path / name)
    writer = threading.Thread(target=lambda: (tmp_path / name).write_text(content))
    writer.start()
    source = open_sources([tmp_path / name])
    assert source.total is None
    assert list(source.documents) == expected
    writer.join()


def test_a_text_in_another_field_leaves_text_beside_it(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", {"body": "x", "text": "short", "n": 1})
    assert read(path, text_field="body") == [Document.of({"text": "x", "text_": "short", "n": 1})]
    write_jsonl(path, {"body": "x", "text": "short", "text_": 1})
    with pytest.raises(InputError, match=r"line 1: beside 'body', fields 'text' and 'text_'"):
        open_sources([path], text_field="body")


payloads = st.dictionaries(
    st.text().filter(lambda key: key not in ("id", "text", "_m3")),
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text() | st.lists(st.text()),
    max_size=4,
)


@given(st.text().filter(str.strip), st.text(), payloads)
def test_a_written_document_is_read_as_it_was(id: str, text: str, payload: dict[str, Any]) -> None:
    document = Document(id, text, payload)
    line = jsonl_line(document)
    assert line.count("\n") == 1
    assert read("-", stdin=io.StringIO(line)) == [document]


def test_a_written_file_is_whole_or_not_there(tmp_path: Path) -> None:
    with written(tmp_path / "a") as file:
        file.write("x")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a").read_text() == "x"

    def half() -> None:
        with written(tmp_path / "a") as file:
            file.write("y")
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        half()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "x"


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("nope.txt", None, "nope.txt: no such file or folder"),
        ("a.pdf", b"x", r"a\.pdf: can't tell what this is; readable are \.jsonl"),
        ("a.txt", b"caf\xe9", r"a\.txt: not UTF-8 text"),
        ("a.jsonl", b'{"text": "caf\xe9"}', r"a\.jsonl: not UTF-8 text"),
    ],
)
def test_unreadable_files(
    tmp_path: Path, name: str, content: bytes | None, complaint: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=complaint):
        open_sources([tmp_path / name])


@given(st.text(st.sampled_from("ab .\n#"), max_size=300), st.integers(1, 40))
def test_passages_lose_no_word_and_keep_the_limit(text: str, limit: int) -> None:
    parts = list(passages(text, limit))
    assert all(0 < len(part) <= limit and part.strip() for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())


def test_passages_are_cut_between_sentences_then_words() -> None:
    assert list(passages("One two. Three four five. Six.", 20)) == [
        "One two. Three four",
        "five. Six.",
    ]
    assert list(passages("One two three. Four five.", 20)) == ["One two three.", "Four five."]
    assert list(passages("a\n\nb\n\n" + "c" * 10, 6)) == ["a\n\nb", "c" * 6, "cccc"]
