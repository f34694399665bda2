"""A cluster of real Qdrant servers, started from QDRANT_BIN; its nodes can be killed."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import pytest

from tests.servers.node import Node, free_ports

__all__ = ["NEEDS_BINARY", "NEEDS_URL", "Cluster"]

NEEDS_URL = pytest.mark.skipif(
    not os.environ.get("QDRANT_URL"), reason="QDRANT_URL names no Qdrant server"
)
NEEDS_BINARY = pytest.mark.skipif(
    not os.environ.get("QDRANT_BIN"), reason="QDRANT_BIN names no program of a Qdrant server"
)


class Cluster:
    """Several nodes, started, at one port of several addresses. A context manager."""

    def __init__(self, folder: Path, count: int = 3) -> None:
        rest, self.grpc, peers = free_ports(3)
        first = f"http://127.0.0.1:{peers}"
        self.nodes: list[Node] = []
        for i in range(count):
            host, directory = f"127.0.0.{i + 1}", folder / str(i)
            directory.mkdir(parents=True)
            settings = {
                "QDRANT__CLUSTER__ENABLED": "true",
                "QDRANT__CLUSTER__P2P__PORT": str(peers),
                "QDRANT__LOG_LEVEL": "WARN",
            }
            options = ["--uri", f"http://{host}:{peers}", *(["--bootstrap", first] if i else [])]
            node = Node(directory, settings, host=host, ports=(rest, self.grpc), options=options)
            self.nodes.append(node)

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
        return len(_ask(node, "cluster")["peers"]) == len(self.nodes)

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
            for shard in _ask(node, f"collections/{collection}/cluster")["local_shards"]:
                replicas = found.setdefault(shard["shard_id"], {})
                replicas[i] = (shard["state"], shard["points_count"])
        return found

    def settled(self, collection: str) -> bool:
        """Whether all replicas are active, everywhere, and as large as each other."""
        for node in self.nodes:
            answer = _ask(node, f"collections/{collection}/cluster")
            every = [*answer["local_shards"], *answer["remote_shards"]]
            if answer["shard_transfers"] or any(shard["state"] != "Active" for shard in every):
                return False
        return all(len(set(r.values())) == 1 for r in self.replicas(collection).values())


def _ask(node: Node, path: str) -> Any:
    """What a node answers to a GET."""
    return httpx.get(f"{node.url}/{path}", timeout=20, trust_env=False).json()["result"]
