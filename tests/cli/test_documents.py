"""ingest, export, delete."""

from __future__ import annotations

import json
import os
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from m3qdrant.cli.common import _schema
from m3qdrant.collection import MEANT, QDRANTS_NAMES, M3Schema
from tests.cli.command import Terminal, documents, fails, ok, run


def test_ingest_from_stdin_and_again(tmp_path: Path, checkpoint: Path) -> None:
    place = ("--location", tmp_path / "data", "--collection", "lines", "--json")
    report = json.loads(ok("ingest", "-", *place, "--model", checkpoint, stdin="one\ntwo\n"))
    assert report["stored"] == 2
    # the second time the collection itself says which model
    report = json.loads(ok("ingest", "-", *place, stdin='{"id": "x", "text": "three"}\n'))
    assert report["stored"] == 1
    facts = json.loads(ok("info", *place))
    assert (facts["documents"], facts["model"]) == (3, str(checkpoint))


def test_nothing_is_made_where_there_is_nothing_to_store(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"body": "a"}\n' * 600 + "{")
    place = tmp_path / "data"
    message = fails("ingest", tmp_path / "bad.jsonl", "--location", place, "--model", checkpoint)
    assert "600: no field 'text'; the fields are 'body' (choose one with --text-field)" in message
    assert "bad.jsonl:1, " in message
    assert "broken JSON" in message
    assert len(message) < 2_000
    assert not place.exists()


def test_what_cannot_be_read_is_named_and_the_rest_stored(
    tmp_path: Path, checkpoint: Path
) -> None:
    folder = tmp_path / "mix"
    folder.mkdir()
    (folder / "a.md").write_text("# A")
    (folder / "b.txt").write_bytes(b"caf\xe9")
    (folder / "c.html").write_text("<p>c")
    (folder / "d.jsonl").write_text('{"id": "one", "text": "1"}\n{\n{"id": "two", "text": "2"}\n')
    (folder / "e.csv").write_text("id,text\nthree,3\n")
    here = ("--location", folder / "data", "--model", checkpoint)
    done = run("ingest", folder, *here)
    assert done.returncode == 1
    assert done.stdout.startswith("4 of 6 documents stored")
    for part in ("b.txt", "byte 0xe9", "d.jsonl:2", "broken JSON", "c.html", ".html files"):
        assert part in done.stdout
    assert {row["id"] for row in documents(folder / "data")} == {
        f"{folder / 'a.md'}#1", "one", "two", "three",
    }  # fmt: skip
    # what failed may be what was stored before: nothing is removed
    (folder / "a.md").unlink()
    done = run("ingest", folder, *here, "--prune", "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert report["pruned"] == 0
    assert report["not_pruned"] is not None
    assert "nothing removed" in done.stderr
    assert [Path(error["source"]).name for error in report["failed"]] == ["b.txt", "d.jsonl:2"]
    assert [group["reason"] for group in report["passed_over"]] == [
        ".html files are not read",
        "a collection of the embedded engine",
    ]
    assert len(documents(folder / "data")) == 4
    # mended, it is removed
    (folder / "b.txt").write_text("café", "utf-8")
    (folder / "d.jsonl").write_text('{"id": "one", "text": "1"}\n')
    ok("ingest", folder, *here, "--prune")
    assert {row["id"] for row in documents(folder / "data")} == {
        f"{folder / 'b.txt'}#1", "one", "three",
    }  # fmt: skip


def test_a_record_that_cannot_be_stored_but_has_an_id_is_not_gone(
    tmp_path: Path, checkpoint: Path
) -> None:
    here = ("--location", tmp_path, "--model", checkpoint)
    ok("ingest", "-", *here, stdin="".join(f'{{"id": "{i}", "text": "{i}"}}\n' for i in range(3)))
    lines = '{"id": "0", "text": "0"}\n{"id": "1", "text": null}\n'
    report = json.loads(run("ingest", "-", *here, "--prune", "--json", stdin=lines).stdout)
    assert (report["pruned"], report["not_pruned"]) == (1, None)
    assert {row["id"] for row in documents(tmp_path)} == {"0", "1"}


def test_text_files_are_cut_into_passages_that_fit(tmp_path: Path) -> None:
    """By the model's tokens; other documents are one each, and what is cut is said."""
    words = ["lorem", "ipsum", "Δοκιμή", "x86_64", "漢字", "(tuple)", "0.123456789"]
    text = "\n".join(" ".join(words[(i * j) % 7] for j in range(1, 15)) for i in range(400))
    (tmp_path / "page.txt").write_text(text, "utf-8")
    here = ("--location", tmp_path / "data", "--model", "m3-tiny")
    report = json.loads(ok("ingest", tmp_path / "page.txt", *here, "--json"))
    assert report["truncated"] == 0
    assert report["stored"] > 20
    stored = {row["id"]: row["text"] for row in documents(tmp_path / "data")}
    rows = [stored[f"{tmp_path / 'page.txt'}#{i + 1}"] for i in range(len(stored))]
    assert " ".join(rows).split() == text.split()
    # the same passages again; a shorter page has fewer
    assert json.loads(ok("ingest", tmp_path / "page.txt", *here, "--json"))["stored"] == 0
    (tmp_path / "page.txt").write_text(text[: len(text) // 2], "utf-8")
    again = json.loads(ok("ingest", tmp_path / "page.txt", *here, "--json", "--prune"))
    assert again["stored"] <= 1
    assert again["pruned"] >= report["stored"] // 2 - 1
    output = ok("ingest", "-", *here, stdin=json.dumps({"id": "long", "text": text}) + "\n")
    assert "1 cut at max_length" in output
    assert "(long)" in output
    assert "split them into passages" in output


def test_ctrl_c_says_what_was_stored_and_how_to_go_on(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from m3qdrant import M3Encoder

    encode, calls = M3Encoder.encode_documents, iter(range(100))

    def interrupted(self: M3Encoder, *arguments: Any, **options: Any) -> Any:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return encode(self, *arguments, **options)

    lines = "".join(f"line {i}\n" for i in range(300))
    here = ("--location", tmp_path, "--model", checkpoint)
    with monkeypatch.context() as patched:
        patched.setattr(M3Encoder, "encode_documents", interrupted)
        done = run("ingest", "-", *here, stdin=lines)
        assert (done.returncode, done.stdout) == (130, "")
        last = done.stderr.splitlines()[-1]
        assert re.match(r"interrupted: 128 of \d+ documents stored", last)
        assert last.endswith("; what was stored stays, run it again for the rest")
        calls = iter([1])
        done = run("ingest", "-", *here, "--json", stdin=lines)
        assert done.returncode == 130
        assert json.loads(done.stdout)["unchanged"] == 128
    report = json.loads(ok("ingest", "-", *here, "--json", stdin=lines))
    assert (report["unchanged"], report["stored"]) == (128, 172)


def test_a_failure_of_the_engine_says_what_was_stored(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from m3qdrant import QdrantEdge
    from m3qdrant.errors import EngineError

    def full(*arguments: object, **options: object) -> None:
        raise EngineError("no space left on device")

    monkeypatch.setattr(QdrantEdge, "upsert", full)
    done = run("ingest", "-", "--location", tmp_path, "--model", checkpoint, stdin="x\n")
    assert (done.returncode, done.stdout) == (1, "")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: no space left on device; until then 0 of 1 documents stored")


def test_what_is_exported_can_be_ingested_again(
    shop: Path, tmp_path: Path, checkpoint: Path
) -> None:
    rows = (tmp_path / "rows.jsonl").read_text()
    expected = sorted((json.loads(row) for row in rows.splitlines()), key=lambda row: row["id"])
    assert documents(shop) == expected
    file = tmp_path / "out.jsonl"
    assert "12 documents written" in ok("export", "--location", shop, "--output", file)
    report = json.loads(ok("ingest", file, "--location", shop, "--json"))
    assert (report["unchanged"], report["received"]) == (12, 12)
    other = tmp_path / "other"
    ok("ingest", "-", "--location", other, "--model", checkpoint, stdin=file.read_text("utf-8"))
    assert documents(other) == expected
    some = json.loads(
        ok("export", "--location", shop, "--output", file, "--filter", '{"year": 2012}', "--json")
    )
    assert some["documents"] == 1
    assert json.loads(file.read_text("utf-8"))["id"] == "doc 2"


def test_an_export_that_fails_leaves_no_file(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "out.jsonl"
    message = fails("export", "--location", shop, "--output", file, "--id-field", "year", "--json")
    assert "its payload has a field 'year' too" in message
    assert "--id-field" in message
    file.write_text("before")
    fails("export", "--location", shop, "--output", file, "--text-field", "n", "--json")
    assert file.read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out.jsonl", "rows.jsonl"]


def test_a_payload_with_an_id_goes_round_under_another_name(
    tmp_path: Path, checkpoint: Path
) -> None:
    here = ("--location", tmp_path / "data")
    fields = ("--id-field", "key", "--text-field", "body")
    row = {"key": "a", "body": "b", "id": 7, "text": "kept"}
    ok("ingest", "-", *here, *fields, "--model", checkpoint, stdin=json.dumps(row) + "\n")
    line = ok("export", *here, *fields)
    assert json.loads(line) == {"key": "a", "body": "b", "id": 7, "text_": "kept"}
    assert "1 unchanged" in ok("ingest", "-", *here, *fields, stdin=line)
    assert "'id' too" in run("export", *here).stderr


def test_delete_by_id_and_by_filter(shop: Path) -> None:
    here = ("--location", shop)
    assert ok("delete", "doc 1", "doc 2", "nope", *here) == "2 of 3 documents deleted\n"
    early = ("--filter", '{"year": {"lt": 2015}}')
    assert "would delete 3 of 10 documents: say --yes" in fails("delete", *early, *here)
    assert len(documents(shop)) == 10
    assert json.loads(ok("delete", *early, "--yes", *here, "--json")) == {"deleted": 3}
    assert len(documents(shop)) == 7
    for wrong in ((), ("a", *early), ("--filter", "{}"), ("--filter", "{}", "--yes")):
        assert "either ids or a --filter" in fails("delete", *wrong, *here)
    # on a terminal it asks
    late = ("--filter", '{"year": {"gt": 2019}}')
    done = run("delete", *late, *here, stdin=Terminal("n\n"))
    assert done.returncode == 1
    assert "Delete 2 of 7 documents?" in done.stderr
    assert len(documents(shop)) == 7
    assert "2 documents deleted" in run("delete", *late, *here, stdin=Terminal("y\n")).stdout
    assert len(documents(shop)) == 5


def test_ingest_prunes_on_request(shop: Path, tmp_path: Path) -> None:
    kept = (tmp_path / "rows.jsonl").read_text().splitlines(keepends=True)[:9]
    (tmp_path / "rows.jsonl").write_text("".join(kept))
    assert "9 unchanged" in ok("ingest", tmp_path / "rows.jsonl", "--location", shop)
    assert len(documents(shop)) == 12
    output = ok("ingest", tmp_path / "rows.jsonl", "--location", shop, "--prune")
    assert output.strip().endswith("9 unchanged; 3 removed, gone from the source")
    assert len(documents(shop)) == 9


def test_ingest_with_a_schema(shop: Path, tmp_path: Path, checkpoint: Path) -> None:
    new = ("--location", tmp_path / "new", "--model", checkpoint)
    schema = '{"colbert_datatype": "float32", "payload_indexes": {"year": "integer"}}'
    ok("ingest", "-", *new, "--schema", schema, stdin="x\n")
    found = json.loads(ok("info", "--location", tmp_path / "new", "--json"))["schema"]
    assert found["colbert_datatype"] == "float32"
    assert found["payload_indexes"] == {"year": "integer"}
    # an existing collection gets the index, and keeps the rest
    indexes = '{"payload_indexes": {"lang": "keyword"}}'
    ok("ingest", "-", *new, "--schema", indexes, stdin="x\n")
    found = json.loads(ok("info", "--location", tmp_path / "new", "--json"))["schema"]
    assert found["colbert_datatype"] == "float32"
    assert set(found["payload_indexes"]) == {"year", "lang"}
    for wrong, complaint in (
        ("{", "--schema is no JSON"),
        ("[]", "--schema must be a JSON object"),
        ('{"colbert": 1}', "there is no 'colbert'; there are dense_datatype"),
        ('{"payload_index": {}}', "do you mean payload_indexes? there are dense_datatype"),
        ('{"hnsw_config": {"m": 8}}', "do you mean hnsw_m or hnsw_ef_construct? there are"),
        ('{"on_disk": true}', "do you mean dense_on_disk or colbert_on_disk or sparse_on_disk?"),
        ('{"replication_factor": 2, "replicas": 2}', "'replication_factor' and 'replicas' are"),
        ('{"replication_factor": "two"}', "replicas is 'two': give a whole number"),
        ('{"colbert_datatype": "int3"}', "colbert_datatype is 'int3': give one of"),
        ('{"payload_indexes": {"year": "date"}}', "payload_indexes: 'year' is 'date'"),
        ('{"hnsw_m": 3}', "hnsw_m is 16 here, 3 wanted"),
    ):
        assert complaint in fails("ingest", "-", *new, "--schema", wrong, "--json", stdin="x\n")
    assert "format is 'xml'" in fails("ingest", "-", *new, "--format", "xml", stdin="x\n")
    bad = ("--long-documents", "shorten", "--location", tmp_path / "no")
    assert "long_documents is 'shorten'" in fails("ingest", "-", *bad, stdin="x\n")
    assert not (tmp_path / "no").exists()


def test_qdrants_own_names_are_taken(tmp_path: Path, checkpoint: Path) -> None:
    new = ("--location", tmp_path / "new", "--model", checkpoint)
    schema = '{"replication_factor": 2, "shard_number": 1, "m": 8, "ef_construct": 50}'
    ok("ingest", "-", *new, "--schema", schema, stdin="x\n")
    found = json.loads(ok("info", "--location", tmp_path / "new", "--json"))["schema"]
    assert (found["hnsw_m"], found["hnsw_ef_construct"]) == (8, 50)


@pytest.mark.parametrize(("theirs", "ours"), [*QDRANTS_NAMES.items()])
def test_qdrants_names_are_those_of_options(theirs: str, ours: str) -> None:
    schema = _schema(M3Schema(), {theirs: 5})
    assert schema == M3Schema(**{ours: 5})  # type: ignore[arg-type]
    assert {name for names in MEANT.values() for name in names} <= set(vars(M3Schema()))


def test_a_named_pipe_is_read_once(tmp_path: Path, checkpoint: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    writer = threading.Thread(
        target=lambda: (tmp_path / "pipe.jsonl").write_text('{"id": "a", "text": "through"}\n')
    )
    writer.start()
    output = ok(
        "ingest", tmp_path / "pipe.jsonl", "--location", tmp_path / "data", "--model", checkpoint
    )
    writer.join()
    assert output.startswith("1 of 1 documents stored")


def test_records_are_split_on_request(tmp_path: Path, checkpoint: Path) -> None:
    here = ("--location", tmp_path / "data", "--json")
    text = " ".join(f"word{i}" for i in range(4_000))
    rows = [{"id": "long", "text": text, "n": 1}, {"id": "short", "text": "one"}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    report = json.loads(ok("ingest", "-", *here, "--model", checkpoint, stdin=lines))
    assert report["truncated_ids"] == ["long"]
    report = json.loads(ok("ingest", "-", *here, "--split", "--prune", stdin=lines))
    assert (report["truncated"], report["pruned"]) == (0, 1)
    found = documents(tmp_path / "data")
    assert {row["id"] for row in found} == {
        "short",
        *(f"long#{i}" for i in range(1, len(found))),
    }
    parts = sorted(
        (int(row["id"].partition("#")[2]), row) for row in found if row["id"] != "short"
    )
    assert " ".join(row["text"] for _, row in parts).split() == text.split()
    assert all((row["n"], row["part_of"]) == (1, "long") for _, row in parts)


def test_what_is_typed_is_utf8_whatever_the_locale(tmp_path: Path, checkpoint: Path) -> None:
    here = ("--location", tmp_path)
    ok("ingest", "-", *here, "--model", checkpoint, stdin='{"id": "é", "text": "ü", "ö": "ä"}\n')
    # as Python hands on what the locale has no characters for
    typed = [text.encode().decode("ascii", "surrogateescape") for text in ("ü", '{"ö": "ä"}', "é")]
    answer = json.loads(ok("search", typed[0], "--filter", typed[1], *here, "--json"))
    assert (answer["query"], [hit["id"] for hit in answer["hits"]]) == ("ü", ["é"])
    for command in ("search", "delete"):
        assert "is no UTF-8 text" in fails(command, "x\udcff", *here)
    assert ok("delete", typed[2], *here) == "1 of 1 documents deleted\n"
