"""info, doctor, index, optimize, migrate."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.command import fails, ok, run


def test_info(location: Path, checkpoint: Path) -> None:
    facts = json.loads(ok("info", "--location", location, "--json"))
    assert facts["documents"] == 3
    assert facts["model"] == str(checkpoint)
    assert facts["engine"] == "embedded"
    assert "documents  3" in ok("info", "--location", location)


def test_info_loads_no_model(location: Path) -> None:
    code = (
        "import sys\n"
        "from m3qdrant.cli import app\n"
        f"try: app(['info', '--location', {str(location)!r}, '--json'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = {'torch', 'transformers', 'm3kernels'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_doctor(shop: Path) -> None:
    output = ok("doctor", "--location", shop)
    assert "12 points" in output
    assert "payload_indexes" in output
    findings = json.loads(ok("doctor", "--location", shop, "--collection", "documents", "--json"))
    assert {finding["severity"] for finding in findings} == {"ok", "note"}
    assert set(findings[0]) == {"severity", "what", "remedy", "collection"}
    broken = run("doctor", "--location", shop, "--collection", "nope", "--json")
    assert broken.returncode == 1
    assert any("no collection 'nope'" in finding["what"] for finding in json.loads(broken.stdout))


def test_a_quick_doctor_reads_a_sample(shop: Path) -> None:
    whole, quick = (
        json.loads(ok("doctor", "--location", shop, *quick, "--json"))
        for quick in ([], ["--quick"])
    )
    files = [finding for finding in whole if "hold what they held" in finding["what"]]
    assert [finding["collection"] for finding in files] == ["documents"]
    assert [finding for finding in whole if finding not in files] == [
        finding for finding in quick if finding["severity"] != "disk"
    ]


def test_index(shop: Path) -> None:
    output = ok("index", "year=integer", "n=integer", "--location", shop)
    assert output == "year: indexed as integer\nn: indexed as integer\n"
    output = ok("index", "year=integer", "--location", shop)
    assert output == "year: was indexed already as integer\n"
    answer = json.loads(ok("index", "a b=keyword", "year=integer", "--location", shop, "--json"))
    assert answer == {
        "made": ['"a b"'],
        "payload_indexes": {"year": "integer", "n": "integer", '"a b"': "keyword"},
    }
    facts = json.loads(ok("info", "--location", shop, "--json"))
    assert facts["schema"]["payload_indexes"] == answer["payload_indexes"]


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("year", "give FIELD=TYPE, such as year=integer"),
        ("=integer", "give FIELD=TYPE"),
        ("year=number", "'year' is 'number': give one of 'keyword'"),
    ],
)
def test_what_is_no_index(shop: Path, field: str, words: str) -> None:
    assert words in fails("index", field, "--location", shop)


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
        examined = run("doctor", "--location", tmp_path / "there", "--json")
        assert examined.returncode == 1
        assert any("was cut off" in finding["what"] for finding in json.loads(examined.stdout))
    assert json.loads(ok("migrate", shop, tmp_path / "there", "--json"))["verified"]
    ok("doctor", "--location", tmp_path / "there")
