"""A real Qdrant server: the one at QDRANT_URL, or nodes that are started from QDRANT_BIN.

Nodes run on free loopback ports, in folders of their own, and can be killed and started again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import pytest

__all__ = ["NEEDS_BINARY", "NEEDS_URL", "Cluster", "Node"]

NEEDS_URL = pytest.mark.skipif(
    not os.environ.get("QDRANT_URL"), reason="QDRANT_URL names no Qdrant server"
)
NEEDS_BINARY = pytest.mark.skipif(
    not os.environ.get("QDRANT_BIN"), reason="QDRANT_BIN names no program of a Qdrant server"
)

_START_S = 60


class Node:
    """One server, not started yet.

    Args:
        folder: its own.
        bootstrap: the address of a node of the cluster that it joins; "" makes a new one, None
            none.
        host: its own.
        ports: for REST, gRPC, and the other nodes; free ones by default.
        settings: Qdrant's, by their paths, e.g. {"SERVICE__API_KEY": "secret"}.
    """

    def __init__(
        self,
        folder: Path,
        bootstrap: str | None = None,
        host: str = "127.0.0.1",
        ports: Sequence[int] = (),
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._host = host
        self.rest, self.grpc, self._peers = ports or _free_ports(3)
        self._folder = folder
        self._bootstrap = bootstrap
        self._settings = settings or {}
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True)

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self.rest}"

    @property
    def address(self) -> str:
        """Where the cluster's other nodes find it."""
        return f"http://{self._host}:{self._peers}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        settings = {
            "SERVICE__HOST": self._host,
            "SERVICE__HTTP_PORT": str(self.rest),
            "SERVICE__GRPC_PORT": str(self.grpc),
            "TELEMETRY_DISABLED": "true",
            "LOG_LEVEL": "WARN",
            **self._settings,
        }
        command = [os.environ["QDRANT_BIN"], "--disable-telemetry"]
        if self._bootstrap is not None:
            settings |= {"CLUSTER__ENABLED": "true", "CLUSTER__P2P__PORT": str(self._peers)}
            command += ["--uri", self.address]
            command += ["--bootstrap", self._bootstrap] if self._bootstrap else []
        environment = {f"QDRANT__{name}": value for name, value in settings.items()}
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self._folder,
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + _START_S
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "log").read_text()[-2000:]
            assert time.monotonic() < until, "the server doesn't come up"
            time.sleep(0.1)

    def _answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/readyz", timeout=2, trust_env=False).status_code == 200
        return False

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def ask(self, path: str) -> Any:
        """What it answers to a GET."""
        return httpx.get(f"{self.url}/{path}", timeout=20, trust_env=False).json()["result"]

    def __enter__(self) -> Node:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()


class Cluster:
    """Several nodes, started, at one port of several addresses. A context manager."""

    def __init__(self, folder: Path, count: int = 3) -> None:
        ports = _free_ports(3)
        self.grpc = ports[1]
        self.nodes = [Node(folder / "0", "", "127.0.0.1", ports)]
        for i in range(1, count):
            host, first = f"127.0.0.{i + 1}", self.nodes[0].address
            self.nodes.append(Node(folder / str(i), first, host, ports))

    @property
    def location(self) -> str:
        """All nodes' URLs."""
        return ",".join(node.url for node in self.nodes)

    def __enter__(self) -> Cluster:
        try:
            for node in self.nodes:
                node.start()
            self.wait(lambda: all(self._sees_all(node) for node in self.nodes))
        except BaseException:
            self._kill()
            raise
        return self

    def _sees_all(self, node: Node) -> bool:
        return len(node.ask("cluster")["peers"]) == len(self.nodes)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._kill()

    def _kill(self) -> None:
        for node in self.nodes:
            node.kill()

    @staticmethod
    def wait(done: Any, seconds: float = 120) -> None:
        """Wait until something is so."""
        until = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < until, "it doesn't come about"
            time.sleep(0.2)

    def replicas(self, collection: str) -> dict[int, dict[int, tuple[str, int]]]:
        """Each shard's replicas: state and points, by the node that answers for them."""
        found: dict[int, dict[int, tuple[str, int]]] = {}
        for i, node in enumerate(self.nodes):
            for shard in node.ask(f"collections/{collection}/cluster")["local_shards"]:
                replicas = found.setdefault(shard["shard_id"], {})
                replicas[i] = (shard["state"], shard["points_count"])
        return found

    def settled(self, collection: str) -> bool:
        """Whether all replicas are active, everywhere, and as large as each other."""
        for node in self.nodes:
            answer = node.ask(f"collections/{collection}/cluster")
            every = [*answer["local_shards"], *answer["remote_shards"]]
            if answer["shard_transfers"] or any(shard["state"] != "Active" for shard in every):
                return False
        return all(len(set(r.values())) == 1 for r in self.replicas(collection).values())


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
