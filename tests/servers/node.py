"""A real Qdrant server, started for a test from the binary that QDRANT_BIN names."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx
import pytest

from tests.servers.certificates import Certificates

__all__ = ["Node", "free_port", "free_ports", "node"]

_PATIENCE_S = 60.0


def free_port() -> int:
    """A port of this machine that nobody uses, for now."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody uses, for now, each another one."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


class Node:
    """A server's process, which may be killed and started again.

    Attributes:
        url: of REST.
        grpc_port: of gRPC.
        tls: its certificate and its authority; None where it speaks http.
    """

    def __init__(
        self,
        directory: Path,
        settings: Mapping[str, str],
        tls: Certificates | None = None,
        *,
        host: str = "127.0.0.1",
        ports: Sequence[int] = (),
        options: Sequence[str] = (),
    ) -> None:
        """Describe it; `start` starts it.

        Args:
            directory: an empty one, which it works in.
            settings: of the environment, such as QDRANT__SERVICE__API_KEY.
            tls: files to speak TLS with.
            host: its address.
            ports: of REST and gRPC; free ones by default.
            options: of its command line.
        """
        binary = os.environ.get("QDRANT_BIN")
        if not binary:
            pytest.skip("no server to start: set QDRANT_BIN to Qdrant's binary")
        self.tls = tls
        self.port, self.grpc_port = ports or free_ports(2)
        self.url = f"{'http' if tls is None else 'https'}://{host}:{self.port}"
        self._host = host
        self._command = [binary, "--disable-telemetry", *options]
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("QDRANT")},
            "QDRANT__SERVICE__HOST": host,
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
                self._command,
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
                with socket.create_connection((self._host, self.grpc_port), 1):
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
