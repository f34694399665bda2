"""The suite from end to end, with small shapes, on the CPU."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.kernels import runner
from benchmarks.kernels.cases import cases, key
from benchmarks.kernels.measuring import Plan


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    out = tmp_path_factory.mktemp("results")
    arguments = ["kernels", "--quick", "--device", "cpu", "--threads", "1", "--seed", "7"]
    return main([*arguments, "--out", str(out)]), out


@pytest.fixture(scope="module")
def result(finished: tuple[int, Path]) -> dict[str, Any]:
    (path,) = finished[1].glob("kernels-quick-cpu-*.json")
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def test_ours_agrees_everywhere(finished: tuple[int, Path], result: dict[str, Any]) -> None:
    for case in result["cases"]:
        (ours,) = (row for row in case["contenders"] if row["name"] == "m3kernels")
        assert ours["status"] == "ok", (case["name"], ours)
    assert finished[0] == 0


def test_the_suite_writes_json_alone(finished: tuple[int, Path]) -> None:
    (path,) = finished[1].iterdir()
    assert path.suffix == ".json"


def test_plain_peers_agree(result: dict[str, Any]) -> None:
    plain = {"FlagEmbedding", "plain torch", "dense torch", "torch.sparse"}
    for case in result["cases"]:
        for row in case["contenders"]:
            if row["family"] in plain:
                assert row["status"] in ("ok", "unsupported"), (case["name"], row)


def test_what_the_file_says(result: dict[str, Any]) -> None:
    assert result["seed"] == 7
    assert result["machine"]["device"] == "cpu"
    assert result["machine"]["threads"] == 1
    assert {"python", "torch", "numpy"} <= result["versions"].keys()
    assert result["ceilings"]["copy_bytes_per_s"] > 0
    assert result["ceilings"]["matmul_flops_per_s"]["float32"] > 0
    assert [case["name"] for case in result["cases"]] == [
        key(case) for case in cases("cpu", quick=True)
    ]
    for case in result["cases"]:
        assert case["floor_s"] > 0
        for row in case["contenders"]:
            assert ("median_s" in row) == (row["status"] == "ok")
            assert (row.get("reason") is None) == (row["status"] == "ok")
    text = json.dumps(result)
    for private in (str(Path.home()), os.uname().nodename):
        assert private not in text


def test_plots_are_the_same_every_time(
    result: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    drawn = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        path = folder / "small.json"
        path.write_text(json.dumps(result))
        assert main(["plot", str(path)]) == 0
        drawn.append({file.name: file.read_bytes() for file in folder.iterdir()})
    assert drawn[0] == drawn[1]
    assert set(drawn[0]) == {
        "small.json",
        "small-floor.png",
        "small-roofline.png",
    }
    assert "small-floor.png" in capsys.readouterr().out


def test_an_unknown_case_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["kernels", "--device", "cpu", "--case", "nothing/*"])
    assert "maxsim/base" in capsys.readouterr().err


def test_a_worker_that_dies_costs_one_contender(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "work", _dies_at_a_peer)
    plan = cases("cpu", quick=True, patterns=["maxsim/base", "maxsim/ragged"])
    messages = list(runner._messages(Plan("cpu", plan, seed=1, quick=True)))
    assert [message[:2] for message in messages] == [
        ("machine", {}),
        ("ceilings", {"copy_bytes_per_s": 1.0}),
        ("result", "maxsim/base"),
        ("result", "maxsim/ragged"),
    ]
    excluded = messages[2][2]["excluded"]
    assert list(excluded) == [("maxsim/base", "peer")]
    assert "signal" in excluded["maxsim/base", "peer"]


def test_a_hang_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    class Process:
        killed = False

        def kill(self) -> None:
            self.killed = True

    monkeypatch.setattr(runner, "_PATIENCE", 0.05)
    receiver, sender = multiprocessing.Pipe(duplex=False)
    sender.send(("trying", "maxsim/base", "peer"))
    process: Any = Process()
    messages = list(runner._received(receiver, process))
    assert [message[0] for message in messages] == ["trying", "died"]
    assert "no sign of life" in messages[1][1]
    assert process.killed


def test_a_case_without_inputs_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_worker(plan: Plan) -> Iterator[tuple[Any, ...]]:
        yield ("ceilings", {})
        yield ("case", key(plan.cases[0]))
        yield ("died", "ran out of memory")

    monkeypatch.setattr(runner, "_one_worker", one_worker)
    chosen = cases("cpu", quick=True, patterns=["maxsim/base"])
    (_, lost) = runner._messages(Plan("cpu", chosen, seed=1, quick=True))
    assert lost[:2] == ("result", "maxsim/base")
    (failure,) = runner.failures({"cases": [lost[2]]})
    assert "ran out of memory" in failure


def _dies_at_a_peer(connection: Any, plan: Plan) -> None:
    if plan.ceilings is None:
        connection.send(("machine", {}))
        connection.send(("ceilings", {"copy_bytes_per_s": 1.0}))
    for case in plan.cases:
        name = f"{case.op}/{case.name}"
        connection.send(("case", name))
        connection.send(("trying", name, "peer"))
        if name == "maxsim/base" and not plan.excluded:
            os.kill(os.getpid(), signal.SIGKILL)
        connection.send(("result", name, {"excluded": plan.excluded}))
    connection.send(("done",))
