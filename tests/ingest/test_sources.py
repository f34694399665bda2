"""Every kind of file, and every way in which one can be broken; and what is written of it."""

from __future__ import annotations

import io
import json
import os
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3qdrant import Document, IngestReport
from m3qdrant.errors import InputError
from m3qdrant.ingest import chunks
from m3qdrant.ingest.exports import jsonl_line, written
from m3qdrant.ingest.sources import open_sources


def write_jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def report_of(*paths: Path | str, **options: Any) -> tuple[list[Document], IngestReport]:
    """The documents that can be read, and the report of those that can't."""
    source = open_sources(paths, **options)
    report = IngestReport()
    total = source.total()
    found = list(chunks.read(source.items(), chunks.Chunker(report)))
    assert total in (None, report.received)
    return [document for chunk in found for document in chunk.documents], report


def read(*paths: Path | str, **options: Any) -> list[Document]:
    documents, report = report_of(*paths, **options)
    assert report.failed == []
    return documents


def faults(*paths: Path | str, **options: Any) -> list[str]:
    return list(map(str, report_of(*paths, **options)[1].failed))


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
    ("line", "complaint"),
    [
        (b'{"text": ', "a.jsonl:3: broken JSON"),
        (b"[1]", "a.jsonl:3: a JSON object is expected, not list"),
        (b'{"body": "a", "n": 1}', "a.jsonl:3: no field 'text'; the fields are 'body', 'n'"),
        (b'{"text": null}', "a.jsonl:3: document #1: text: missing"),
        (b'{"text": "a", "n": ' + b"[" * 100_000, "a.jsonl:3: broken JSON"),
        (b'{"text": "a", "n": NaN}', "a.jsonl:3: broken JSON .*NaN is no JSON value"),
        (b'{"text": "a", "_m3": 1}', "a.jsonl:3: document #1: payload: .*rename"),
        (b'{"text": "a", "id": ""}', "a.jsonl:3: document '': id: empty"),
        (b'{"text": "\\ud800"}', "a.jsonl:3: document #1: text: character 0"),
        (b'{"text": "caf\xe9"}', "a.jsonl:3: not UTF-8 text: byte 0xe9 at character 14"),
        (b'{"text": "a\0"}', "a.jsonl:3: broken JSON"),
    ],
)
def test_a_broken_line_is_named_and_the_others_are_read(
    tmp_path: Path, line: bytes, complaint: str
) -> None:
    content = b'{"text": "before"}\n\n' + line + b'\n{"text": "after"}\n'
    (tmp_path / "a.jsonl").write_bytes(content)
    good = write_jsonl(tmp_path / "good.jsonl", {"text": "fine"})
    stream = io.TextIOWrapper(io.BytesIO(content), "cp1252")
    for paths, stdin in (([tmp_path / "a.jsonl", good], None), (["-", good], stream)):
        documents, report = report_of(*paths, stdin=stdin)
        assert [document.text for document in documents] == ["before", "after", "fine"]
        (error,) = report.failed
        assert error.source is not None
        assert error.source.endswith(":3")
        if stdin is None:
            assert re.search(complaint, str(error))


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


def test_what_is_passed_over_in_a_folder_is_counted_by_reason(tmp_path: Path) -> None:
    folder = tmp_path / "mix"
    (folder / "sub").mkdir(parents=True)
    (folder / ".git").mkdir()
    for name in ("a.html", "sub/b.HTML", "c.pdf", "README", ".hidden.txt", ".git/x.txt"):
        (folder / name).write_text("x")
    (folder / "empty.md").write_text(" \n")
    (folder / "empty.jsonl").write_text("\n")
    (folder / "empty.csv").write_text("")
    (folder / "loop").symlink_to(folder)
    (folder / "gone.html").symlink_to("nowhere")
    (folder / "good.txt").write_text("read")
    os.mkfifo(folder / "pipe.txt")
    documents, report = report_of(folder)
    assert [document.text for document in documents] == ["read"]
    assert report.failed == []
    found = {group.reason: group.files for group in report.passed_over}
    assert found == {
        ".html files are not read": 3,
        ".pdf files are not read": 1,
        "files without an ending are not read": 1,
        "hidden": 2,
        "empty": 3,
        "links to folders are not followed": 1,
        "no regular file": 1,
    }


def test_what_a_folder_has_and_cannot_be_read_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("read")
    (tmp_path / "gone.txt").symlink_to("nowhere")
    (tmp_path / "latin.txt").write_bytes(b"one\ntwo caf\xe9")
    (tmp_path / "utf16.md").write_bytes("text".encode("utf-16"))
    (tmp_path / "utf16.jsonl").write_bytes('{"text": "x"}'.encode("utf-16"))
    (tmp_path / "binary.txt").write_bytes(b"a\0b")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    documents, report = report_of(tmp_path)
    assert [document.text for document in documents] == ["read"]
    reasons = {Path(str(error.source)).name: error.reason for error in report.failed}
    assert set(reasons) == {
        "binary.txt", "gone.txt", "latin.txt", "other.csv:1", "utf16.jsonl", "utf16.md",
    }  # fmt: skip
    assert "byte 0xe9 in line 2" in reasons["latin.txt"]
    assert "UTF-16" in reasons["utf16.md"]
    assert "UTF-16" in reasons["utf16.jsonl"]
    assert "No such file" in reasons["gone.txt"]
    assert "the columns are 'a', 'b'" in reasons["other.csv:1"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_a_folder_without_the_right_to_read_it(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    (tmp_path / "a.txt").write_text("read")
    documents, report = report_of(tmp_path)
    assert len(documents) == 1
    assert "Permission" in report.failed[0].reason


@pytest.mark.skipif(os.name != "posix", reason="other systems' names are Unicode")
def test_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("read")
    (document,) = read(tmp_path)
    assert document.id.endswith("caf\\xe9.txt#1")


def test_nothing_to_store_is_found_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_text("x")
    (tmp_path / "b.jsonl").write_text("{\n{}\n")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "x.html").write_text("x")
    for paths, complaint in (
        (["a.pdf"], "can't tell what this is; readable are .*a.pdf"),
        (["b.jsonl"], "broken JSON.*no field 'text'"),
        (["nothing"], "html files are not read"),
    ):
        with pytest.raises(InputError, match=f"(?s)there is nothing to store.*{complaint}"):
            open_sources([tmp_path / path for path in paths]).check()
    (tmp_path / "c.txt").write_text("")
    open_sources([tmp_path / "c.txt"]).check()  # an empty file is no mistake
    (tmp_path / "c.txt").write_text("x")
    open_sources([tmp_path]).check()
    with pytest.raises(InputError, match="nope: no such file or folder"):
        open_sources([tmp_path / "c.txt", tmp_path / "nope"])
    with pytest.raises(InputError, match="format is 'xml': give 'jsonl'"):
        open_sources([tmp_path / "c.txt"], format="xml")  # type: ignore[arg-type]


def test_stdin_as_jsonl_and_as_lines() -> None:
    documents = read("-", stdin=io.StringIO('\n{"text": "a", "k": 1}\n{"text": "b"}\n'))
    assert documents == [Document.of({"text": "a", "k": 1}), Document.of("b")]
    assert read("-", stdin=io.StringIO(" one \n\ntwo\n")) == list(map(Document.of, ("one", "two")))
    assert read("-", stdin=io.StringIO("\n \n")) == []


@pytest.mark.parametrize("locale", ["cp1252", "ascii", "utf-8"])
def test_a_stream_is_utf8_whatever_the_locale(locale: str) -> None:
    def stream(content: bytes) -> io.TextIOWrapper:
        return io.TextIOWrapper(io.BytesIO(content), locale)

    marked = stream('\ufeff{"text": "Ж"}\r\n{"text": "\U0001f600"}'.encode())
    assert read("-", stdin=marked) == [Document.of("Ж"), Document.of("\U0001f600")]
    documents, report = report_of("-", stdin=stream(b"fine\r\ncaf\xe9\nclich\xc3\xa9\n"))
    assert [document.text for document in documents] == ["fine", "cliché"]
    assert [str(error) for error in report.failed] == [
        "standard input:2: not UTF-8 text: byte 0xe9 at character 4"
    ]


def test_beir(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "corpus.jsonl",
        {"_id": "d0", "title": "A", "text": "same body", "metadata": {}},
        {"_id": "d1", "title": "B", "text": "same body"},
        {"_id": "d2", "title": "", "text": "same body"},
        {"_id": "x", "id": "d3", "title": "C", "text": "not BEIR's"},
        {"_id": {"$oid": "5f"}, "text": "MongoDB's"},
    )
    documents = read(path)
    assert documents[:3] == [
        Document("d0", "A\nsame body", {"title": "A", "metadata": {}}),
        Document("d1", "B\nsame body", {"title": "B"}),
        Document("d2", "same body", {"title": ""}),
    ]
    assert documents[3] == Document("d3", "not BEIR's", {"_id": "x", "title": "C"})
    assert documents[4].payload == {"_id": {"$oid": "5f"}}
    lines = "".join(map(jsonl_line, documents))
    assert read("-", stdin=io.StringIO(lines)) == documents


def test_the_same_text_with_another_payload_is_another_document(tmp_path: Path) -> None:
    rows = [{"text": "same", "n": n} for n in (1, 2, 1, 3)]
    path = write_jsonl(tmp_path / "a.jsonl", *rows, {"id": "x", "text": "same"})
    documents, report = report_of(path)
    assert sorted(str(document.payload.get("n")) for document in documents) == [
        "1", "2", "3", "None",
    ]  # fmt: skip
    assert report.duplicates == 1
    assert documents[1].id != documents[2].id
    again = report_of(path)[0]
    assert again == documents, "the same ids each time"
    assert Document.of({"text": "same", "n": 1}) in documents


def test_csv(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        '\ufeffid,text,year\r\n1,"two\nlines, ""quoted""",2020\r\n,no id,\r\n,,\r\n3,last\r\n',
        "utf-8",
        newline="",
    )
    assert read(tmp_path / "a.csv") == [
        Document("1", 'two\nlines, "quoted"', {"year": "2020"}),
        Document.of({"text": "no id", "year": ""}),
        Document("3", "last"),
    ]
    (tmp_path / "b.csv").write_text("key;body\n7;" + "long " * 100_000 + "\n")
    (document,) = read(tmp_path / "b.csv", text_field="body", id_field="key")
    assert (document.id, len(document.text)) == ("7", 500_000)
    stream = io.StringIO("id,text\n1,a\n")
    assert read("-", stdin=stream, format="csv") == [Document("1", "a")]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"id,text\n1,a,b\n2,fine\n", ":2: has 3 cells, the header 2"),
        (b'id,text\n2,fine\n1,"a" b\n', ":3: broken CSV"),
        (b'id,text\n2,fine\n1,"never closed\n3,x\n', ":3: broken CSV: unexpected end"),
        (b"id,text\n1,caf\xe9\n2,fine\n", ":2: not UTF-8 text: byte 0xe9"),
        (b"id,text\n2,fine\n1\n", ":3: no field 'text'; the fields are 'id'"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    documents, report = report_of(tmp_path / "a.csv")
    assert documents == [Document("2", "fine")]
    (error,) = report.failed
    assert expected in str(error)


def test_tsv(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('id\ttext\tn\n1\t"said ""a"""\t5\n2\t"open\t6\n')
    assert read(path) == [
        Document("1", 'said "a"', {"n": "5"}),
        Document("2", '"open', {"n": "6"}),
    ]
    path.write_text("0\tThe first\r\n1\tThe second\r\n\r\n2\ta\tb\r\n", newline="")
    documents, report = report_of(path)
    assert documents == [Document("0", "The first"), Document("1", "The second")]
    assert "a.tsv:4: has 3 cells, the header 2" in str(report.failed[0])
    path.write_text("pid\tpassage\n1\ta\n")
    assert "no column 'text' in the header; the columns are 'pid', 'passage'" in faults(path)[0]
    assert read(path, text_field="passage", id_field="pid") == [Document("1", "a")]
    path.write_text("text\tn\ttext\na\t1\tb\n")
    assert "two columns are called 'text'" in faults(path)[0]


def test_lines_with_tabs_on_a_stream() -> None:
    def of(content: str, **options: Any) -> list[Document]:
        return read("-", stdin=io.StringIO(content), **options)

    assert of("1\thello world\n") == [Document("1", "hello world")]
    many = "".join(f"d{i}\ttext {i}\n" for i in range(50))
    assert of(many) == [Document(f"d{i}", f"text {i}") for i in range(50)]
    assert of("text\tid\nhello\t1\n") == [Document("1", "hello")]
    assert of("1\thello\n", format="text") == [Document.of("1\thello")]
    assert of("a\tb\nno tab\n") == [Document.of("a\tb"), Document.of("no tab")]
    assert of("\tindented\nno tab\n") == [Document.of("indented"), Document.of("no tab")]
    # what can't be told apart is refused, and says how
    (fault,) = faults("-", stdin=io.StringIO("1\ta\tb\n2\tc\td\n"))
    assert "no column 'text'" in fault
    (fault,) = faults("-", stdin=io.StringIO(many + "d9\tx\ty\n"))
    assert "standard input:51: has 3 cells" in fault


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
    assert read(tmp_path / name) == expected
    writer.join()


def test_a_text_in_another_field_leaves_text_beside_it(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", {"body": "x", "text": "short", "n": 1})
    assert read(path, text_field="body") == [Document.of({"text": "x", "text_": "short", "n": 1})]
    write_jsonl(path, {"body": "x", "text": "short", "text_": 1})
    (fault,) = faults(path, text_field="body")
    assert "a.jsonl:1: beside 'body', fields 'text' and 'text_'" in fault


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
