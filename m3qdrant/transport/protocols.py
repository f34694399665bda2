"""Which protocol carries the calls to a server, and why: found out when it is connected to."""

from __future__ import annotations

import os
import socket
import ssl
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import grpc  # type: ignore[import-untyped]
import httpx
from qdrant_client import AsyncQdrantClient, QdrantClient
from qdrant_client import grpc as protocol
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.connection import get_channel

from m3qdrant.transport.authorities import Authorities

__all__ = ["Protocol", "probe", "protocol_of", "remember", "speaks_tls"]

_PROBE_TIMEOUT_S = 2.0
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
"""Where the environment has one of these, gRPC connects through it."""

C = TypeVar("C", QdrantClient, AsyncQdrantClient)


@dataclass(frozen=True)
class Protocol:
    """What carries the calls to a server.

    Attributes:
        name: "gRPC" or "REST".
        why: in words.
    """

    name: Literal["gRPC", "REST"]
    why: str

    def __str__(self) -> str:
        """Both, for people."""
        return f"{self.name} ({self.why})"


_KNOWN: weakref.WeakKeyDictionary[Any, Protocol] = weakref.WeakKeyDictionary()


def remember(client: C, protocol: Protocol) -> C:
    """The client, of which `protocol_of` will say this."""
    _KNOWN[client] = protocol
    return client


def protocol_of(client: object) -> Protocol | None:
    """What carries a client's calls to a server; None of one that asks none."""
    if (found := _KNOWN.get(client)) is not None:
        return found
    options = getattr(client, "init_options", {})
    if options.get("location") == ":memory:" or options.get("path") is not None or not options:
        return None
    name: Literal["gRPC", "REST"] = "gRPC" if options.get("prefer_grpc") else "REST"
    return Protocol(name, "so the client was made that was passed")


def probe(
    host: str, port: int, secure: bool, headers: Mapping[str, str], authorities: Authorities
) -> tuple[str | None, str]:
    """The version of the server that speaks gRPC at a port; or None, and why there is none.

    With TLS, the certificate is looked at before gRPC is: where that doesn't trust it, it writes
    to stderr by itself.
    """
    refusal = _reach(host.strip("[]"), port, secure, authorities)
    if refusal:
        return None, refusal
    options = {"root_certificates": authorities.pem()} if secure else {}
    with get_channel(host, port, secure, list(headers.items()), options) as channel:
        try:
            stub = protocol.QdrantStub(channel)  # type: ignore[no-untyped-call]
            reply = stub.HealthCheck(protocol.HealthCheckRequest(), timeout=_PROBE_TIMEOUT_S)
        except (grpc.RpcError, QdrantException) as error:
            code = getattr(error, "code", lambda: None)()
            return None, f"what answers there speaks no gRPC ({getattr(code, 'name', error)})"
    return str(reply.version), ""


def _reach(host: str, port: int, secure: bool, authorities: Authorities) -> str:
    """Why no connection can be had; empty where it can, or where a proxy is to make it."""
    if any(os.environ.get(name) for name in _PROXIES):
        return ""
    try:
        with socket.create_connection((host, port), _PROBE_TIMEOUT_S) as plain:
            if secure:
                # without a setting gRPC's own authorities, which are httpx's near enough
                context = authorities.context() or httpx.create_ssl_context(trust_env=False)
                context.set_alpn_protocols(["h2"])
                context.wrap_socket(plain, server_hostname=host).close()
    except ssl.SSLCertVerificationError as error:
        return f"its certificate is not trusted ({error.verify_message}): set QDRANT_CA_FILE"
    except ssl.SSLError as error:
        return f"it speaks no TLS ({error.reason})"
    except TimeoutError:
        return "nothing answers in time"
    except OSError as error:
        return f"nothing answers ({error.strerror or error})"
    return ""


def speaks_tls(host: str, port: int) -> bool:
    """Whether whoever listens there takes a TLS handshake, whatever its certificate is."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection((host.strip("[]"), port), _PROBE_TIMEOUT_S) as plain:
            context.wrap_socket(plain).close()
    except OSError:
        return False
    return True
