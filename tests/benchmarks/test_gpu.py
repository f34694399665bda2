"""The GPU session: its rehearsal runs, a lost part costs itself, and a second run takes it up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from m3kernels.maxsim.tiles import TILES, Tile

from benchmarks.__main__ import main
from benchmarks.gpu import edges, session, tiles


@pytest.mark.slow
def test_a_rehearsal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two parts in processes of their own, in the interpreter."""
    arguments = [
        "gpu",
        "--dry",
        "--out",
        str(tmp_path),
        "--part",
        "folding",
        "--part",
        "sanitizer",
    ]
    assert main(arguments) == 0
    (path,) = tmp_path.glob("gpu-dry-*.json")
    parts = json.loads(path.read_text())["parts"]
    assert {name: part["status"] for name, part in parts.items()} == {
        "environment": "ok",
        "folding": "ok",
        "sanitizer": "skipped",
    }
    assert parts["environment"]["target"] == "sm_90"  # which the interpreter stands for
    assert "folding" in capsys.readouterr().out


class Machine:
    """Stands for the processes of parts: one crashes the first time."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.broken = {"tests"}

    def part(self, name: str, dry: bool) -> dict[str, Any]:
        self.ran.append(name)
        status = "crashed" if name in self.broken else "ok"
        machine = {"machine": {"name": "A Card"}} if name == "environment" else {}
        return {"status": status, "summary": "", "seconds": 0.0, **machine}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(session, "_part", machine.part)
    monkeypatch.setattr(session, "commit", lambda revision: {"hash": "abc", "dirty": False})
    return machine


def test_a_session_is_taken_up_where_it_ended(tmp_path: Path, machine: Machine) -> None:
    path, result = session.run(tmp_path, dry=False)
    assert path.name == "gpu-a-card.json"
    assert session.failures(result) == ["tests: "]
    # what is timed runs by itself, after the rest
    assert machine.ran[0] == "environment"
    assert set(machine.ran[1:4]) == {"edges", "tests", "sanitizer"}
    assert machine.ran[4:] == ["speed", "tiles", "folding"]
    assert list(result["parts"]) == list(session.PARTS)
    # The file has what ran; the part that crashed runs again, and the environment.
    machine.ran, machine.broken = [], set()
    _, result = session.run(tmp_path, dry=False)
    assert machine.ran == ["environment", "tests"]
    assert session.failures(result) == []
    machine.ran = []
    session.run(tmp_path, dry=False, parts=["speed"], again=True)
    assert machine.ran == ["environment", "speed"]


def test_another_commit_begins_anew(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.run(tmp_path, dry=False)
    monkeypatch.setattr(session, "commit", lambda revision: {"hash": "def", "dirty": False})
    machine.ran = []
    session.run(tmp_path, dry=False)
    assert sorted(machine.ran) == sorted(session.PARTS)


def test_a_session_that_ends_early_keeps_its_parts(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(name: str, dry: bool) -> dict[str, Any]:
        if name == "speed":
            raise KeyboardInterrupt
        return machine.part(name, dry)

    monkeypatch.setattr(session, "_part", lost)
    with pytest.raises(KeyboardInterrupt):
        session.run(tmp_path, dry=False)
    parts = json.loads((tmp_path / "gpu-a-card.json").read_text())["parts"]
    assert list(parts) == ["environment", "edges", "tests", "sanitizer"]


def test_no_such_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["gpu", "--dry", "--out", str(tmp_path), "--part", "everything"])
    assert "there is no part 'everything'" in capsys.readouterr().err


def test_a_wrong_check_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def check_of_mine(device: torch.device, dry: bool) -> str:
        raise AssertionError("off by 1")

    def check_of_a_card(device: torch.device, dry: bool) -> str:
        raise edges.Skipped("needs a card")

    monkeypatch.setattr(edges, "CHECKS", (check_of_mine, check_of_a_card))
    outcome = edges.run(dry=True)
    assert outcome["status"] == "wrong"
    assert outcome["checks"]["of mine"]["note"] == "AssertionError: off by 1"
    assert outcome["checks"]["of a card"]["status"] == "skipped"


@pytest.mark.parametrize("pairs", [False, True])
def test_tiles_around_a_row(pairs: bool) -> None:
    for row in TILES["sm_90", 2]:
        tried = list(tiles.around(row, widened=False, pairs=pairs))
        assert tried[0] == row
        assert len(tried) == len(set(tried)) > 5
        assert all(64 <= tile.block_d <= 256 and tile.num_stages > 0 for tile in tried)
    row = Tile(128, 32, 64, 4, 4, 2)
    assert any(tile.q_on_m for tile in tiles.around(row, widened=False, pairs=False))
    assert not any(tile.q_on_m for tile in tiles.around(row, widened=True, pairs=False))
