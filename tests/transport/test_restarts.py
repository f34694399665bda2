"""A server that is started again in the middle of long work, and what is told meanwhile."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import QdrantClient

from m3qdrant import M3Encoder, M3Store, progress
from m3qdrant.errors import InputError, ServerUnavailableError
from m3qdrant.transport import Retries
from m3qdrant.upkeep import migrate
from tests.servers.node import free_port, node
from tests.servers.rest import RestServer, Status
from tests.transport.callers import Callers
from tests.transport.calls import count, create

N = 400
AWAY_S = 3.0
"""So many seconds a server is away; several tries fail meanwhile."""


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is told where no bar is shown."""
    lines: list[str] = []
    monkeypatch.setattr(progress, "_listeners", [lines.append])
    return lines


def rows(away: Any, back: Any) -> Iterator[dict[str, str]]:
    for i in range(N):
        if i == N // 2:
            away()
            threading.Timer(AWAY_S, back).start()
        yield {"id": f"doc {i}", "text": f"the text of {i}"}


def test_an_ingest_outlives_a_restart(encoder: M3Encoder, told: list[str]) -> None:
    with RestServer(QdrantClient(":memory:")) as server:
        retries = Retries.lasting(60)
        with M3Store(server.url, "docs", encoder, retries=retries) as store:
            report = store.add(rows(server.stop, server.start))
            assert report.added == N
            assert store.count() == N
    assert told
    # which of them comes first is the network's affair
    why = "(nothing answers|the connection broke) .+"
    assert re.match(rf".+ of collection 'docs' at http.+ waits: {why}; trying for \d+ s", told[0])


def test_an_ingest_outlives_a_real_servers_death(
    encoder: M3Encoder, tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with node(tmp_path) as server:
        for protocol in ("gRPC", "REST"):
            port = server.grpc_port if protocol == "gRPC" else 1
            monkeypatch.setenv("QDRANT_GRPC_PORT", str(port))
            retries = Retries.lasting(60)
            with M3Store(server.url, protocol, encoder, retries=retries) as store:
                assert str(store.info().protocol).startswith(protocol)
                report = store.add(rows(server.kill, server.start))
                assert report.added == N
                assert store.count() == N
            assert told.pop()
            told.clear()


def test_a_copy_outlives_a_restart(encoder: M3Encoder, tmp_path: Path, told: list[str]) -> None:
    with M3Store(tmp_path, "docs", encoder) as store:
        store.add([{"id": str(i), "text": f"text {i}"} for i in range(50)])
    with RestServer(QdrantClient(":memory:")) as server:
        server.stop()
        threading.Timer(AWAY_S, server.start).start()
        report = migrate(tmp_path, server.url, "docs", retries=Retries.lasting(60))
        assert report.verified
    assert told


def test_the_time_is_kept(caller: Callers, told: list[str]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ServerUnavailableError, match=r"tried \d+ times"):
        caller(url, retries=Retries.lasting(1))
    assert told
    assert "trying for 1 s more" in told[0]
    told.clear()
    with pytest.raises(ServerUnavailableError, match="failed: nothing answers"):
        caller(url, retries=Retries.lasting(0))
    assert not told


def test_a_server_that_says_when_to_come_back_is_come_back_to(
    caller: Callers, rest_server: RestServer, told: list[str]
) -> None:
    asked = caller(rest_server.url)
    asked.run(create())
    rest_server.script("POST", "count$", Status(429, headers={"Retry-After": "1"}))
    assert asked.run(count(), retries=Retries.lasting(0.5)) == 0
    assert "waits: the server takes no more requests for now" in told[0]
    rest_server.script("POST", "count$", Status(429, headers={"Retry-After": "1"}))
    with pytest.raises(ServerUnavailableError):
        asked.run(count(), retries=Retries(budget_s=0.5))


@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan"), "60"])
def test_what_is_no_time(seconds: Any) -> None:
    with pytest.raises(InputError, match="retry_for is"):
        Retries.lasting(seconds)


def test_others_are_not_told(caller: Callers, rest_server: RestServer, told: list[str]) -> None:
    asked = caller(rest_server.url)
    asked.run(create())
    rest_server.stop()
    with pytest.raises(ServerUnavailableError):
        asked.run(count(), retries=Retries(attempts=2, first_wait_s=0.01))
    assert not told


# -- the progress bar


@pytest.mark.parametrize("terminal", [True, False])
def test_the_bar_tells_it(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    for name, value in (("FORCE_COLOR", "1" if terminal else ""), ("COLUMNS", "150")):
        monkeypatch.setenv(name, value)
    with progress.progress_bar("storing", 10, True) as advance:
        advance(1)
        progress.tell("upsert waits; trying for 59 s more")
        progress.tell("upsert waits; trying for 31 s more", again=True)
    shown = screen.getvalue()
    assert "upsert waits; trying for 31 s more" in shown if terminal else "59 s more" in shown
    assert terminal or "31 s more" not in shown


# -- the command


def command(*arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "m3qdrant", *map(str, arguments)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "NO_PROXY": "*", "PYTHONUNBUFFERED": "1"},
    )


@pytest.mark.parametrize("what", ["ingest", "migrate"])
def test_ctrl_c_ends_the_wait_at_once(what: str, tmp_path: Path, encoder: M3Encoder) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    if what == "ingest":
        (tmp_path / "a.jsonl").write_text(json.dumps({"id": "1", "text": "one"}))
        arguments: list[str | Path] = ["ingest", tmp_path / "a.jsonl", "--location", url]
    else:
        with M3Store(tmp_path, "documents", encoder) as store:
            store.add(["one"])
        arguments = ["migrate", tmp_path, url]
    with command(*arguments, "--retry-for", "600") as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "waits: nothing answers" in line
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in err
