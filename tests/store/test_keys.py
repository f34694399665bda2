"""Keys with fewer rights than a program needs, on a real server: each says what is missing."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from m3qdrant import M3Encoder, M3Store
from m3qdrant.errors import AccessDeniedError, IngestError
from m3qdrant.upkeep import examine
from tests.servers.node import Node, node

ADMIN, READER = "an admin's key, long enough to sign with 0123456789", "a reader's key"
ROWS = [{"id": f"doc {i}", "text": f"the text of {i}"} for i in range(20)]
LEEWAY_S = 30
"""A server takes a token for so long after it has expired: clocks differ."""

Using = Callable[[str | None], None]


def token(**claims: Any) -> str:
    """A JSON web token signed with the admin's key."""

    def encoded(part: bytes) -> bytes:
        return base64.urlsafe_b64encode(part).rstrip(b"=")

    header = encoded(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
    signed = header + b"." + encoded(json.dumps(claims).encode())
    signature = hmac.new(ADMIN.encode(), signed, hashlib.sha256).digest()
    return (signed + b"." + encoded(signature)).decode()


def limited(right: str) -> str:
    """A token for the collection "docs" alone."""
    return token(access=[{"collection": "docs", "access": right}])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with node(
        tmp_path_factory.mktemp("server"),
        QDRANT__SERVICE__API_KEY=ADMIN,
        QDRANT__SERVICE__READ_ONLY_API_KEY=READER,
        QDRANT__SERVICE__JWT_RBAC="true",
    ) as made:
        yield made


@pytest.fixture(params=["gRPC", "REST"])
def using(
    server: Node,
    encoder: M3Encoder,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Using:
    """Sets the key; the collection "docs" is there, with all rows."""

    def use(key: str | None) -> None:
        if key is None:
            monkeypatch.delenv("QDRANT_API_KEY", raising=False)
        else:
            monkeypatch.setenv("QDRANT_API_KEY", key)

    port = server.grpc_port if request.param == "gRPC" else 1
    monkeypatch.setenv("QDRANT_GRPC_PORT", str(port))
    use(ADMIN)
    with M3Store(server.url, "docs", encoder) as store:
        assert str(store.info().protocol).startswith(request.param)
        store.add(ROWS)
    return use


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (None, "set QDRANT_API_KEY to one of its keys"),
        ("wrong", "QDRANT_API_KEY holds no key of this server's"),
        (token(access="r", exp=1), "has expired: set a new one"),
        (f"{limited('r')[:-6]}AAAAAA", "is not signed with this server's key"),
    ],
    ids=["none", "wrong", "expired", "forged"],
)
def test_no_key_of_the_servers(
    using: Using, server: Node, encoder: M3Encoder, key: str | None, words: str
) -> None:
    using(key)
    with pytest.raises(AccessDeniedError) as caught:
        M3Store(server.url, "docs", encoder)
    assert words in str(caught.value)
    assert key is None or key not in str(caught.value)


@pytest.mark.parametrize("key", [READER, token(access="r"), limited("r")])
def test_a_key_that_may_only_read(
    using: Using, server: Node, encoder: M3Encoder, key: str
) -> None:
    using(key)
    with M3Store(server.url, "docs", encoder) as store:
        assert len(store.search("the text", limit=5)) == 5
        assert store.count() == len(list(store.documents())) == len(ROWS)
        assert store.add(ROWS).unchanged == len(ROWS)  # nothing to write
        denied = r"the key in QDRANT_API_KEY (may only read|has no right)"
        with pytest.raises(IngestError, match=denied) as caught:
            store.add([{"id": "new", "text": "new"}])
        assert isinstance(caught.value.__cause__, AccessDeniedError)
        assert "0 of 1 documents stored" in str(caught.value)
        for write in (
            lambda: store.delete(["doc 1"]),
            lambda: store.index({"kind": "keyword"}),
        ):
            with pytest.raises(AccessDeniedError, match=denied):
                write()
        assert store.count() == len(ROWS)
    findings = examine(server.url, "docs")
    assert not [finding for finding in findings if finding.severity == "error"]


def test_a_token_for_one_collection(using: Using, server: Node, encoder: M3Encoder) -> None:
    using(limited("rw"))
    with M3Store(server.url, "docs", encoder) as store:
        assert store.add([{"id": "new", "text": "new"}]).added == 1
        assert store.delete(["new"]) == 1
    with pytest.raises(AccessDeniedError, match="Access to collection other is required"):
        M3Store(server.url, "other", encoder)


def test_a_token_that_expires_in_the_middle_of_an_ingest(
    using: Using, server: Node, encoder: M3Encoder
) -> None:
    ends = time.time() - LEEWAY_S + 3
    using(token(access="m", exp=int(ends)))

    def rows() -> Iterator[dict[str, str]]:
        for i in range(400):
            if i == 300:
                time.sleep(max(0.0, ends + LEEWAY_S + 1.5 - time.time()))
            yield {"id": f"late {i}", "text": f"the text of {i}"}

    with (
        M3Store(server.url, "docs", encoder) as store,
        pytest.raises(IngestError, match="has expired: set a new one, and run it again") as caught,
    ):
        store.add(rows())
    stored = caught.value.report.added + caught.value.report.replaced
    using(ADMIN)
    with M3Store(server.url, "docs", encoder) as store:
        assert store.count() >= len(ROWS) + stored
        assert stored
        left = store.add(rows())  # goes on where it ended
        assert left.unchanged >= stored
        assert store.delete([f"late {i}" for i in range(400)]) == 400


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.chdir(tmp_path)
