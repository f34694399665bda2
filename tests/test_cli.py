"""The command line: what it prints, and how it fails."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest

from m3qdrant.cli import main


@dataclass
class Done:
    """What a finished command left."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments: str | Path, stdin: str = "", **environment: str) -> Done:
    """The command in this process: a process of its own would import torch once a test."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["m3qdrant", *map(str, arguments)]),
        mock.patch.object(sys, "stdin", io.StringIO(stdin)),
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
    for command in ("demo", "ingest", "search", "info", "verify"):
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


def test_ctrl_c_says_that_what_was_stored_stays(
    location: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from m3qdrant import M3Store

    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(M3Store, "add", interrupted)
    done = run("ingest", "-", "--location", location, stdin="x\n")
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "interrupted; what was stored stays, run it again for the rest\n"
