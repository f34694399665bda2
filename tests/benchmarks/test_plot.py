"""The command that draws plots, on the results that are kept here, and which pictures are kept."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import ROOT
from benchmarks.__main__ import main

RESULTS = ROOT / "benchmarks" / "results"
PLOTS: dict[str, set[str]] = {
    "kernels": {"floor", "roofline"},
    "gpu": {"floor", "roofline"},  # its part of the kernels
    "store": {"costs", "engines"},
    "ingest": {"memory"},
    "beside": set(),  # other stores are compared in tables
}


def test_every_kept_result_can_be_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    before = set(RESULTS.iterdir())
    assert main(["plot", "--out", str(tmp_path / "plots")]) == 0
    assert set(RESULTS.iterdir()) == before
    kept = sorted(path.stem for path in RESULTS.glob("*.json"))
    assert {stem.partition("-")[0] for stem in kept} | {"beside"} == PLOTS.keys()
    drawn = {path.name: path for path in (tmp_path / "plots").iterdir()}
    assert drawn.keys() == {
        f"{stem}-{plot}.png" for stem in kept for plot in PLOTS[stem.partition("-")[0]]
    }
    for path in drawn.values():
        assert path.read_bytes().startswith(b"\x89PNG")


def test_one_file_is_drawn_beside_itself(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "mine.json"
    path.write_bytes(next(RESULTS.glob("ingest-*.json")).read_bytes())
    assert main(["plot", str(path)]) == 0
    assert {file.name for file in tmp_path.iterdir()} == {"mine.json", "mine-memory.png"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"suite": "other"}'])
def test_what_is_no_result_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    assert main(["plot", str(path), str(tmp_path / "none.json")]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"{path}: no suite's result")
    assert second.startswith(f"{tmp_path / 'none.json'}: no suite's result")


def test_a_picture_is_kept_where_a_page_shows_it() -> None:
    pages = [ROOT / "README.md", *ROOT.glob("*/README.md")]
    shown = {
        (page.parent / target).resolve()
        for page in pages
        for target in re.findall(r"!\[[^\]]*\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
        if "://" not in target
    }
    assert all(path.is_file() for path in shown)
    pictures = [path for path in RESULTS.iterdir() if path.suffix != ".json"]
    assert {path.resolve() for path in pictures} <= shown
