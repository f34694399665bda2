"""Addresses as people have them: behind a path, behind TLS of one's own, and wrong ones."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from qdrant_client import QdrantClient
from qdrant_client.http.exceptions import ResponseHandlingException

from m3qdrant import AsyncM3Store, M3Encoder, M3Store, transport
from m3qdrant.collection import calls
from m3qdrant.errors import EngineError, InputError, ServerUnavailableError
from m3qdrant.transport import connecting, protocol_of
from m3qdrant.transport.authorities import Authorities
from m3qdrant.transport.failures import as_ours
from m3qdrant.transport.protocols import probe
from tests.servers import without_environment
from tests.servers.certificates import Certificates, make
from tests.servers.node import Node, node
from tests.servers.rest import RestServer, Status
from tests.servers.rpc import GrpcServer
from tests.transport.callers import Callers
from tests.transport.calls import count, create, upsert


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def tls_server(certificates: Certificates) -> Iterator[RestServer]:
    tls = certificates.certificate, certificates.key
    with RestServer(QdrantClient(":memory:"), tls=tls) as server:
        yield server


# -- a reverse proxy's path


@pytest.mark.parametrize("prefix", ["/qdrant", "/a/b-c"])
@pytest.mark.parametrize("ending", ["", "/"])
def test_a_path_before_qdrants_own(caller: Callers, prefix: str, ending: str) -> None:
    with RestServer(QdrantClient(":memory:"), prefix=prefix) as server:
        asked = caller(server.url + ending)
        asked.run(create())
        asked.run(upsert([1, 2]))
        assert asked.run(count()) == 2
        found = protocol_of(asked.client)
        assert found is not None
        assert found.name == "REST"
        assert "behind a path" in found.why


def test_a_wrong_path_is_told_in_the_proxys_words(caller: Callers) -> None:
    with RestServer(QdrantClient(":memory:"), prefix="/qdrant") as server:
        url = server.url.replace("/qdrant", "/other")
        with pytest.raises(EngineError, match=r"check that the URL.*its path") as caught:
            caller(url)
    message = str(caught.value)
    assert url in message
    assert "(404): 404 Not Found, proxy/1.0:" in message
    assert "<" not in message
    assert "color" not in message


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("http://h", 6333),
        ("https://h/", 6333),
        ("http://h/qdrant", 80),
        ("https://h/qdrant", 443),
        ("https://h:6333/qdrant", 6333),
    ],
)
def test_the_port_where_none_is_named(url: str, port: int) -> None:
    assert connecting._read_url(url)[2] == port


def test_behind_a_path_grpcs_port_is_not_guessed() -> None:
    assert connecting._grpc_port(6333, "/qdrant") is None


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (
            "<!DOCTYPE html><html><body><p>Not &amp; <b>found</b></p></body></html>",
            "Not &, found",
        ),
        ("<h1>502 Bad Gateway</h1>", "502 Bad Gateway"),
        ("the filter a<b>c is empty", "the filter a<b>c is empty"),
    ],
)
def test_a_refusal_in_html_is_told_without_its_tags(
    caller: Callers, rest_server: RestServer, page: str, words: str
) -> None:
    rest_server.script("GET", "^/$", Status(400, page))
    with pytest.raises(EngineError) as caught:
        caller(rest_server.url)
    assert str(caught.value).endswith(f"(400): {words}")


# -- TLS


def test_http_where_https_is_spoken_is_told_at_once(
    caller: Callers, tls_server: RestServer
) -> None:
    url = tls_server.url.replace("https", "http")
    with pytest.raises(ServerUnavailableError) as caught:
        caller(url)
    assert str(caught.value) == f"{url} speaks https, not http: give {tls_server.url}"


@pytest.mark.parametrize("line", ["illegal request line", "illegal status line: b'x'"])
def test_an_answer_that_is_no_http_asks_for_https(line: str) -> None:
    error = ResponseHandlingException(httpx.RemoteProtocolError(line))
    assert "does it speak https?" in str(as_ours(error, "info of x"))


def test_an_authority_of_ones_own_has_to_be_named(
    caller: Callers,
    tls_server: RestServer,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ServerUnavailableError, match=r"not trusted.*QDRANT_CA_FILE") as caught:
        caller(tls_server.url)
    assert "tried" not in str(caught.value)
    asked = caller(tls_server.url, ca_file=certificates.authority)
    asked.run(create())
    for name in ("SSL_CERT_FILE", "QDRANT_CA_FILE"):
        with monkeypatch.context() as environment:
            environment.setenv(name, str(certificates.authority))
            assert caller(tls_server.url).run(count()) == 0
    with M3Store(tls_server.url, "none", ca_file=certificates.authority) as store:
        assert store.count() == 0


@pytest.mark.parametrize("what", ["absent", "no certificates"])
def test_a_file_without_authorities_is_named(caller: Callers, tmp_path: Path, what: str) -> None:
    file = tmp_path / "authorities.pem"
    if what != "absent":
        file.write_text("hello")
    with pytest.raises(InputError, match=r"ca_file is .*authorities\.pem.*give a PEM file"):
        caller("https://127.0.0.1:1", ca_file=file)


# -- which protocol, and why


def test_the_protocol_and_its_reason(
    caller: Callers,
    rest_server: RestServer,
    grpc_server: GrpcServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def found() -> str:
        return str(protocol_of(caller(rest_server.url).client))

    assert found() == f"gRPC (it answers at port {grpc_server.port})"
    grpc_server.version = "1.19.0"
    assert found().startswith("REST (gRPC, at port")
    assert "another server answers there, of version 1.19.0" in found()
    monkeypatch.setenv("QDRANT_GRPC_PORT", str(rest_server.port))
    assert "speaks no gRPC" in found()
    monkeypatch.setenv("QDRANT_GRPC_PORT", "1")
    assert "nothing answers (Connection refused)" in found()
    monkeypatch.delenv("QDRANT_GRPC_PORT")
    assert f"no gRPC port is known beside port {rest_server.port}: set QDRANT_GRPC_PORT" in found()


def test_a_store_says_its_protocol(
    rest_server: RestServer, encoder: M3Encoder, tmp_path: Path
) -> None:
    with M3Store(rest_server.url, "docs", encoder) as store:
        store.add(["one"])
        told = store.info().to_dict()["protocol"]
        assert told.startswith("REST (no gRPC port is known")
    with M3Store(tmp_path, "docs", encoder) as store:
        assert store.info().protocol is None


def test_the_protocol_of_a_client_that_is_passed(rest_server: RestServer, tmp_path: Path) -> None:
    client = QdrantClient(url=rest_server.url, prefer_grpc=True, check_compatibility=False)
    assert str(protocol_of(client)).startswith("gRPC (so the client was made")
    client.close()
    for place in (":memory:", tmp_path):
        asked, _ = transport.connect(place)
        assert protocol_of(asked) is None
        asked.close()


# -- a real server


@pytest.fixture
def tls_node(tmp_path: Path, certificates: Certificates) -> Iterator[Node]:
    with node(tmp_path, tls=certificates) as made:
        yield made


def test_a_real_server_with_tls_over_grpc_and_rest(
    caller: Callers,
    tls_node: Node,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    without_environment(monkeypatch)
    with pytest.raises(ServerUnavailableError, match="speaks https, not http: give https:"):
        caller(tls_node.url.replace("https", "http"))
    for port, name in ((str(tls_node.grpc_port), "gRPC"), ("1", "REST")):
        monkeypatch.setenv("QDRANT_GRPC_PORT", port)
        with pytest.raises(ServerUnavailableError, match="not trusted"):
            caller(tls_node.url)
        asked = caller(tls_node.url, ca_file=certificates.authority)
        assert protocol_of(asked.client) is not None
        assert str(protocol_of(asked.client)).startswith(name)
        asked.run(calls.get_collections())
    out, err = capfd.readouterr()
    assert out == err == ""  # gRPC's library writes by itself


def test_a_certificate_that_grpc_would_not_trust_is_not_tried(
    certificates: Certificates, tls_node: Node, capfd: pytest.CaptureFixture[str]
) -> None:
    version, why = probe("127.0.0.1", tls_node.grpc_port, True, {}, Authorities())
    assert version is None
    assert "not trusted" in why
    trusted = Authorities.of(certificates.authority)
    assert probe("127.0.0.1", tls_node.grpc_port, True, {}, trusted)[0] is not None
    assert capfd.readouterr().err == ""


async def _count(url: str, authority: Path) -> int:
    async with AsyncM3Store(url, "none", ca_file=authority) as store:
        return await store.count()


def test_the_asynchronous_store_too(tls_server: RestServer, certificates: Certificates) -> None:
    assert asyncio.run(_count(tls_server.url, certificates.authority)) == 0
