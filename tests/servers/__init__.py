"""Stand-ins for Qdrant's server, over REST and over gRPC, and one way to ask from either world."""

from __future__ import annotations

import pytest

__all__ = ["without_environment"]


def without_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take from the environment what sends a client past a stand-in."""
    for name in ("QDRANT_API_KEY", "QDRANT_GRPC_PORT", "QDRANT_CA_FILE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
