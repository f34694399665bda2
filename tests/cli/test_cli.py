"""The command line: what it prints, and how it fails."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from m3qdrant.cli import main


@dataclass
class Done:
    """What a finished command left."""

    returncode: int
    stdout: str
    stderr: str


class Terminal(io.StringIO):
    """Somebody who types."""

    def isatty(self) -> bool:
        return True


def run(*arguments: str | Path, stdin: str | io.StringIO = "", **environment: str) -> Done:
    """The command in this process: a process of its own would import torch once a test."""
    typed = io.StringIO(stdin) if isinstance(stdin, str) else stdin
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["m3qdrant", *map(str, arguments)]),
        mock.patch.object(sys, "stdin", typed),
        mock.patch.dict(os.environ, {"COLUMNS": "120", **environment}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as stop,
    ):
        main()
    code = stop.value.code
    return Done(0 if code is None else int(code), out.getvalue(), err.getvalue())


def ok(*arguments: str | Path, **options: object) -> str:
    done = run(*arguments, **options)  # type: ignore[arg-type]
    assert done.returncode == 0, done.stderr
    return done.stdout


def fails(*arguments: str | Path, **options: object) -> str:
    """The error of a command that must fail: exactly one line on stderr, nothing on stdout."""
    done = run(*arguments, **options)  # type: ignore[arg-type]
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.fixture(scope="module")
def location(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    """A collection of three documents, ingested by the command."""
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


def test_search_finds_the_collections_own_model(location: Path) -> None:
    answer = json.loads(ok("search", "compress a file", "--location", location, "--json"))
    assert answer["query"] == "compress a file"
    assert answer["mode"] == "weighted"
    assert {hit["id"] for hit in answer["hits"]} >= {"gz", "tar"}
    hit = answer["hits"][0]
    assert set(hit) == {"id", "text", "payload", "score", "scores"}
    dense, sparse, colbert = (hit["scores"][name] for name in ("dense", "sparse", "colbert"))
    assert hit["score"] == pytest.approx(0.4 * dense + 0.2 * sparse + 0.4 * colbert, abs=1e-5)


def test_search_options(location: Path) -> None:
    def ids(*options: str) -> list[str]:
        output = ok("search", "compress", "a", "file", "--location", location, "--json", *options)
        return [hit["id"] for hit in json.loads(output)["hits"]]

    assert ids("--filter", '{"lang": "de", "year": {"gte": 2020}}') == ["tar"]
    assert len(ids("--limit", "2", "--mode", "dense")) == 2
    assert len(ids("--mode", "rrf", "--candidates", "3")) == 3
    assert len(ids("--weights", "0,0,1")) == 3


def test_a_table_shows_text_and_never_interprets_it(location: Path) -> None:
    output = ok("search", "compress a file", "--location", location)
    assert "[bold]file[/bold]" in output
    assert "\x1b[31m" not in output
    for word in ("score", "dense", "sparse", "colbert", "gz", "tar"):
        assert word in output


def test_info(location: Path, checkpoint: Path) -> None:
    facts = json.loads(ok("info", "--location", location, "--json"))
    assert facts["documents"] == 3
    assert facts["model"] == str(checkpoint)
    assert facts["engine"] == "embedded"
    assert "documents  3" in ok("info", "--location", location)


def test_the_location_may_come_from_the_environment(location: Path) -> None:
    assert json.loads(ok("info", "--json", M3QDRANT_LOCATION=str(location)))["documents"] == 3


def test_ingest_from_stdin_and_again(tmp_path: Path, checkpoint: Path) -> None:
    place = ("--location", tmp_path / "data", "--collection", "lines", "--json")
    report = json.loads(ok("ingest", "-", *place, "--model", checkpoint, stdin="one\ntwo\n"))
    assert report["stored"] == 2
    # the second time the collection itself says which model
    report = json.loads(ok("ingest", "-", *place, stdin='{"id": "x", "text": "three"}\n'))
    assert report["stored"] == 1
    facts = json.loads(ok("info", *place))
    assert (facts["documents"], facts["model"]) == (3, str(checkpoint))


def test_verify_says_that_the_figures_do_not_apply(checkpoint: Path) -> None:
    assert "do not apply" in ok("verify", "--model", checkpoint)
    result = json.loads(ok("verify", "--model", checkpoint, "--json"))
    assert (result["applies"], result["passed"]) == (False, None)
    assert len(result["figures"]) == 17


def test_bad_input_is_one_clear_line(location: Path, tmp_path: Path) -> None:
    here = ("--location", location)
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text": \n')
    for expected, arguments in (
        ("no such file or folder", ("ingest", tmp_path / "nope.txt", *here)),
        ("bad.jsonl, line 2: broken JSON", ("ingest", tmp_path / "bad.jsonl", *here)),
        ("unknown mode 'fuzzy'; the modes are", ("search", "x", "--mode", "fuzzy", *here)),
        ("no collection 'nope'", ("search", "x", "--collection", "nope", *here)),
        ("there are none", ("search", "x", "--location", tmp_path / "empty")),
        ("the query is empty", ("search", " ", *here)),
        ("--filter is no JSON", ("search", "x", "--filter", "{lang: de}", *here)),
        ("filter: lang: can't read", ("search", "x", "--filter", '{"lang": {"is": 1}}', *here)),
        ("--weights must be three numbers", ("search", "x", "--weights", "a,b,c", *here)),
        ("no such directory", ("search", "x", "--model", "./no/model", *here)),
        ("ends with the command", ("ingest", "-", "--location", ":memory:")),
        ("begins with http://", ("search", "x", "--location", "localhost:6333")),
        ("unknown mode", ("demo", "x", "--mode", "fuzzy")),
        ("fingerprint", ("search", "x", "--model", "m3-tiny", *here)),
    ):
        assert expected in fails(*arguments)
    assert not (tmp_path / "empty").exists()


def test_nothing_is_stored_from_a_broken_file(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n' * 600 + "{")
    place = tmp_path / "data"
    fails("ingest", tmp_path / "bad.jsonl", "--location", place, "--model", checkpoint)
    assert not place.exists()


def test_help_and_version_load_no_torch() -> None:
    for option in ("--help", "--version"):
        code = (
            "import sys\n"
            "from m3qdrant.cli import app\n"
            f"try: app([{option!r}])\n"
            "except SystemExit as stop: assert not stop.code\n"
            "heavy = {'torch', 'transformers', 'qdrant_client', 'numpy'} & set(sys.modules)\n"
            "assert not heavy, heavy"
        )
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert ok("--version").startswith("m3qdrant 0.")
    for command in (
        "demo", "ingest", "search", "info", "verify", "export", "delete", "doctor", "optimize",
        "migrate",
    ):  # fmt: skip
        assert command in ok("--help")
        assert "--json" in ok(command, "--help")


def test_a_long_query_is_cut_with_a_plain_warning(location: Path) -> None:
    done = run("search", "word " * 400, "--location", location)
    assert done.returncode == 0
    assert done.stderr.startswith("warning: 1 of 1 texts are longer than 128 tokens")
    assert len(done.stdout.splitlines()) < 40


def test_a_terminal_without_unicode(location: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "m3qdrant", "search", "für", "--location", location, "--json"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.replace(b"\\x", b"\\u00"))["query"] == "für"


def test_the_installed_way(location: Path) -> None:
    """`python -m m3qdrant` in a process of its own, into a pipe whose reader goes away."""
    command = [sys.executable, "-m", "m3qdrant", "search", "x", "--location", str(location)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.wait(timeout=120)
    process.stderr.close()


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


def documents(location: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in ok("export", "--location", location).splitlines()]
    return sorted(rows, key=lambda row: str(row["id"]))


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
        ('{"colbert_datatype": "int3"}', "colbert_datatype is 'int3': give one of"),
        ('{"payload_indexes": {"year": "date"}}', "payload_indexes: 'year' is 'date'"),
        ('{"hnsw_m": 3}', "hnsw_m is 16 here, 3 wanted"),
    ):
        assert complaint in fails("ingest", "-", *new, "--schema", wrong, "--json", stdin="x\n")
    bad = ("--long-documents", "shorten", "--location", tmp_path / "no")
    assert "long_documents is 'shorten'" in fails("ingest", "-", *bad, stdin="x\n")
    assert not (tmp_path / "no").exists()


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


def test_the_rarer_options_of_search(shop: Path) -> None:
    def ids(*options: str) -> list[str]:
        output = ok("search", "Artikel", "--location", shop, "--json", *options)
        return [hit["id"] for hit in json.loads(output)["hits"]]

    ranked = ids("--limit", "12")
    assert ids("--limit", "3", "--offset", "4") == ranked[4:7]
    assert ids("--exact", "--mode", "dense") == ids("--ef", "64", "--mode", "dense")
    assert ids("--score-threshold", "1e9") == []
    assert len(ids("--diversity", "0.5", "--limit", "4")) == 4
    grouped = json.loads(
        ok("search", "Artikel", "--location", shop, "--json", "--group-by", "year", "--limit", "2")
    )["hits"]
    assert [hit["group"] for hit in grouped] == [hit["payload"]["year"] for hit in grouped]
    table = ok("search", "Artikel", "--location", shop, "--group-by", "year", "--offset", "2")
    assert "group" in table
    assert " 3 " in table
    for option, value, complaint in (
        ("--diversity", "2", "diversity must be a number from 0 to 1"),
        ("--group-size", "2", "group_size needs group_by"),
    ):
        assert complaint in fails("search", "x", "--location", shop, option, value)


def test_optimize_says_what_it_changed(shop: Path) -> None:
    output = ok("optimize", "--location", shop)
    for word in ("unindexed", "segments", "bytes", "before", "after"):
        assert word in output
    facts = json.loads(ok("optimize", "--location", shop, "--json"))
    assert set(facts) == {"optimized", "before", "after"}
    assert set(facts["before"]) == set(facts["after"]) == {"unindexed", "segments", "bytes"}


def test_migrate(shop: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    output = ok("migrate", shop, there, "--target-collection", "copy", "--batch", "5")
    assert "12 points copied, 0 there already" in output
    assert "verified: 12 points, each the same at both sides" in output
    ok("delete", "doc 3", "--location", shop)
    done = run("migrate", shop, there, "--target-collection", "copy", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["verified"], len(report["extra"])) == (1, False, 1)
    assert "both source and target" in fails("migrate", shop, shop, "--json")
    assert "':memory:' ends" in fails("migrate", ":memory:", there)


def test_ctrl_c_during_a_migration(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from m3qdrant import QdrantEdge

    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(QdrantEdge, "upsert", interrupted)
        done = run("migrate", shop, tmp_path / "there", "--json")
        assert (done.returncode, done.stdout) == (130, "")
        assert done.stderr.endswith("what was copied stays, run it again for the rest\n")
        findings = run("doctor", "--location", tmp_path / "there")
        assert findings.returncode == 1
        assert "was cut off" in findings.stdout
    assert json.loads(ok("migrate", shop, tmp_path / "there", "--json"))["verified"]
    ok("doctor", "--location", tmp_path / "there")


def test_doctor(shop: Path) -> None:
    output = ok("doctor", "--location", shop)
    assert "12 points" in output
    assert "payload_indexes" in output
    findings = json.loads(ok("doctor", "--location", shop, "--collection", "documents", "--json"))
    assert {finding["severity"] for finding in findings} == {"ok", "note"}
    assert set(findings[0]) == {"severity", "what", "remedy", "collection"}
    broken = run("doctor", "--location", shop, "--collection", "nope")
    assert broken.returncode == 1
    assert "no collection 'nope'" in broken.stdout
