"""search: what it prints. The demo has its own room."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.command import fails, ok, run


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


def test_reranked_here_it_is_the_engines_answer(location: Path) -> None:
    def hits(*options: str) -> dict[str, float]:
        output = ok("search", "compress a file", "--location", location, "--json", *options)
        return {hit["id"]: hit["score"] for hit in json.loads(output)["hits"]}

    for mode in ("weighted", "colbert", "rrf", "dbsf"):
        engines = hits("--mode", mode)
        here = hits("--mode", mode, "--rerank")
        assert list(here) == list(engines)
        assert here == pytest.approx(engines, abs=1e-5)
    complaint = fails("search", "x", "--location", location, "--mode", "dense", "--rerank")
    assert "a reranker goes with modes colbert, rrf, dbsf, weighted" in complaint


def test_a_table_shows_text_and_never_interprets_it(location: Path) -> None:
    output = ok("search", "compress a file", "--location", location)
    assert "[bold]file[/bold]" in output
    assert "\x1b[31m" not in output
    for word in ("score", "dense", "sparse", "colbert", "gz", "tar"):
        assert word in output


def test_a_snippet_shows_the_whole_beginning(tmp_path: Path, checkpoint: Path) -> None:
    rows = [
        {"id": "compress", "text": "compress files fast"},
        {"id": "a", "text": "a - b: c"},
        {"id": "whole", "text": "whole"},
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    here = ("--location", tmp_path)
    ok("ingest", "-", *here, "--model", checkpoint, stdin=lines)
    table = ok("search", "files", *here)
    for row in rows:
        assert row["text"] in table
    assert table.count("whole") == 2, "the id, and the text"


def test_a_long_query_is_cut_with_a_plain_warning(location: Path) -> None:
    done = run("search", "word " * 400, "--location", location)
    assert done.returncode == 0
    assert done.stderr.startswith("warning: 1 of 1 texts are longer than 128 tokens")
    assert len(done.stdout.splitlines()) < 40


def test_explain_shows_text_and_never_interprets_it(location: Path) -> None:
    output = ok("explain", "compress a [red]file[/red]", "--location", location)
    assert "[bold]file[/bold]" in output
    assert "compress a [red]file[/red]" in output
    assert "\x1b[31m" not in output
    for word in ("dense", "lexical", "colbert", "weight", "best document token", "gz", "tar"):
        assert word in output
    assert "note: " not in output


def test_explain_as_json(location: Path) -> None:
    asked = ("explain", "compress", "a", "file", "--location", location, "--json")
    hits = json.loads(ok("search", *asked[1:], "--explain"))["hits"]
    answer = json.loads(ok(*asked, "--limit", "2"))
    assert (answer["query"], answer["mode"]) == ("compress a file", "weighted")
    assert answer["explanations"] == [hit["explanation"] for hit in hits][:2]
    for explained, hit in zip(answer["explanations"], hits, strict=False):
        assert sum(c["share"] for c in explained["components"]) == pytest.approx(
            hit["score"], abs=1e-6
        )
    # a document that is named, found or not
    chosen = json.loads(ok(*asked, "--id", "tar", "--id", "gz", "--mode", "rrf"))["explanations"]
    assert [explained["id"] for explained in chosen] == ["tar", "gz"]
    ranks = {explained["id"]: explained["rank"] for explained in chosen}
    ranked = json.loads(ok("search", *asked[1:], "--mode", "rrf"))["hits"]
    assert [ranked[rank - 1]["id"] for rank in ranks.values()] == ["tar", "gz"]
    alone = json.loads(ok(*asked, "--id", "gz", "--filter", '{"lang": "de"}'))["explanations"]
    assert alone[0]["rank"] is None


def test_explain_as_a_page(location: Path, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    output = ok("explain", "compress a <b>", "--location", location, "--html", file)
    assert f"the page is {file}" in output
    page = file.read_text("utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "compress a &lt;b&gt;" in page
    assert "<b>" not in page
    assert "[bold]file[/bold]" in re.sub("<[^>]*>", "", page)
    assert "\x1b" not in page
    quiet = ok("explain", "file", "--location", location, "--html", file, "--json")
    assert json.loads(quiet)["query"] == "file"
    assert file.read_text("utf-8") != page


def test_a_passage_is_what_matched(tmp_path: Path) -> None:
    text = "It is far away. " * 20 + "Compress a file. " + "And further on. " * 5
    here = ("--location", tmp_path)
    row = json.dumps({"id": "a", "text": text}) + "\n"
    ok("ingest", "-", *here, "--model", "m3-tiny", stdin=row)
    assert "Compress" not in ok("search", "compress", *here)
    assert "Compress" in ok("search", "compress", *here, "--explain")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["x", "--id", "nowhere"], "there is no document 'nowhere'"),
        ([" "], "the query is empty"),
        (["x", "--mode", "best"], "unknown mode 'best'"),
        (["x", "--weights", "1,2"], "weights must be three numbers"),
        (["x", "--collection", "none"], "no collection 'none'"),
        (["x", "--html", "no-such-folder/page.html"], "no-such-folder"),
    ],
)
def test_explain_refuses(location: Path, arguments: list[str], complaint: str) -> None:
    assert complaint in fails("explain", *arguments, "--location", location)
