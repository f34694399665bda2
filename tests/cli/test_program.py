"""How the program starts, and what every failure looks like."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.command import fails, ok


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


def test_bad_input_is_one_clear_line(location: Path, tmp_path: Path) -> None:
    here = ("--location", location)
    (tmp_path / "bad.jsonl").write_text('{"text": \n')
    for expected, arguments in (
        ("no such file or folder", ("ingest", tmp_path / "nope.txt", *here)),
        (
            "there is nothing to store; not stored: 1: broken JSON",
            ("ingest", tmp_path / "bad.jsonl", *here),
        ),
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


def test_the_location_may_come_from_the_environment(location: Path) -> None:
    assert json.loads(ok("info", "--json", M3QDRANT_LOCATION=str(location)))["documents"] == 3


@pytest.mark.parametrize(
    "locale",
    [
        {"PYTHONIOENCODING": "ascii:strict", "LC_ALL": "C"},
        pytest.param({"PYTHONIOENCODING": "cp1252"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_pipes_are_utf8_whatever_the_locale(
    tmp_path: Path, checkpoint: Path, locale: dict[str, str]
) -> None:
    texts = ["Café \u4f60\u597d", "smile \U0001f600\r\ufeff", "\u0416"]
    rows = [{"id": f"ключ {i}", "text": text, "ß": text} for i, text in enumerate(texts)]
    lines = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    here = ("--location", tmp_path / "data")

    def run(*arguments: str | Path, stdin: bytes = b"") -> str:
        done = subprocess.run(
            [sys.executable, "-m", "m3qdrant", *arguments, *here],
            input=stdin,
            capture_output=True,
            env={**os.environ, **locale},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.decode("utf-8")

    run("ingest", "-", "--model", checkpoint, stdin=b"\xef\xbb\xbf" + lines.encode())
    exported = sorted(map(json.loads, run("export").splitlines()), key=lambda row: row["id"])
    assert exported == rows
    answer = json.loads(run("search", "Ж ü \U0001f600", "--json"))
    assert answer["query"] == "Ж ü \U0001f600"
    assert {hit["text"] for hit in answer["hits"]} == set(texts)
    assert "\u0416" in run("search", "x")


def test_errors_are_utf8_too(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "m3qdrant", "ingest", "Жü.txt", "--location", tmp_path],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "cp1252"},
    )
    assert done.returncode == 1
    assert done.stderr.decode("utf-8").startswith("error: Жü.txt: no such file")


def test_the_installed_way(location: Path) -> None:
    """`python -m m3qdrant` in a process of its own, into a pipe whose reader goes away."""
    command = [sys.executable, "-m", "m3qdrant", "search", "x", "--location", str(location)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    assert "Traceback" not in said
    assert "BrokenPipe" not in said
    process.wait(timeout=120)
    process.stderr.close()
