"""A real Qdrant server, started for a test from the binary that QDRANT_BIN names."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from tests.servers.certificates import Certificates

__all__ = ["Node", "free_port", "node"]

_PATIENCE_S = 60.0


def free_port() -> int:
    """A port of this machine that nobody uses, for now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Node:
    """A server's process, which may be killed and started again.

    Attributes:
        url: of REST.
        grpc_port: of gRPC.
        tls: its certificate and its authority; None where it speaks http.
    """

    def __init__(
        self, directory: Path, settings: Mapping[str, str], tls: Certificates | None
    ) -> None:
        """Describe it; `start` starts it.

        Args:
            directory: an empty one, which it works in.
            settings: of the environment, such as QDRANT__SERVICE__API_KEY.
            tls: files to speak TLS with.
        """
        binary = os.environ.get("QDRANT_BIN")
        if not binary:
            pytest.skip("no server to start: set QDRANT_BIN to Qdrant's binary")
        self.tls = tls
        self.port, self.grpc_port = free_port(), free_port()
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.port}"
        self._binary = binary
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("QDRANT")},
            "QDRANT__SERVICE__HOST": "127.0.0.1",
            "QDRANT__SERVICE__HTTP_PORT": str(self.port),
            "QDRANT__SERVICE__GRPC_PORT": str(self.grpc_port),
            "QDRANT__TELEMETRY_DISABLED": "true",
            **settings,
        }
        if tls is not None:
            self._environment |= {
                "QDRANT__SERVICE__ENABLE_TLS": "true",
                "QDRANT__TLS__CERT": str(tls.certificate),
                "QDRANT__TLS__KEY": str(tls.key),
            }

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with open(self._directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                [self._binary, "--disable-telemetry"],
                cwd=self._directory,
                env=self._environment,
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + _PATIENCE_S
        while not self._answers():
            assert self._process.poll() is None, (self._directory / "log").read_text()[-2000:]
            assert time.monotonic() < until, "the server does not answer"
            time.sleep(0.05)

    def kill(self) -> None:
        """End it at once, as a power cut does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError, OSError):
            answer = httpx.get(f"{self.url}/readyz", verify=False, timeout=1, trust_env=False)
            if answer.is_success:
                with socket.create_connection(("127.0.0.1", self.grpc_port), 1):
                    return True
        return False


@contextlib.contextmanager
def node(directory: Path, *, tls: Certificates | None = None, **settings: str) -> Iterator[Node]:
    """A node that answers, killed at the end."""
    made = Node(directory, settings, tls)
    made.start()
    try:
        yield made
    finally:
        made.kill()
