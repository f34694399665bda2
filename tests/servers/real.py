"""A real server for a test: the one that QDRANT_URL names, or one started from QDRANT_BIN."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.node import node

__all__ = ["real_server"]


@contextlib.contextmanager
def real_server(directory: Path) -> Iterator[str]:
    """Its URL; gRPC is found through the environment, as users' programs find it."""
    url = os.environ.get("QDRANT_URL")
    if url:
        yield url
        return
    if not os.environ.get("QDRANT_BIN"):
        pytest.skip("no server: set QDRANT_URL, or QDRANT_BIN to Qdrant's binary")
    with node(directory) as made, pytest.MonkeyPatch.context() as environment:
        environment.setenv("QDRANT_GRPC_PORT", str(made.grpc_port))
        yield made.url
