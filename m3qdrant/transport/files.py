"""Files that a server hands out over REST: snapshots of shards, which qdrant-client doesn't load.

A download that breaks off goes on from where it was, in this run or in a later one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import httpx
import tenacity
from qdrant_client import QdrantClient
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from m3qdrant.errors import EngineError, M3QdrantError
from m3qdrant.transport.retries import DEFAULT, Retries, Tries

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ServerFiles"]

T = TypeVar("T")

_PIECE = 1 << 20
_MAKING_S = 600.0
"""Seconds that a server may take to make a snapshot, before its first byte is there."""
_STALLED_S = 30.0
"""Seconds without a byte of a file that is there, after which it is asked for again."""
_NOT_MODIFIED = 304
_PARTIAL = 206


class ServerFiles:
    """What of a server's REST interface has to do with files. A context manager.

    Args:
        client: the server's; its address, key, certificates and timeouts are taken.
        where: the server in messages.
        retries: how long to go on where it fails for a while.
    """

    def __init__(self, client: QdrantClient, where: str, retries: Retries = DEFAULT) -> None:
        remote: Any = client._client
        self._where = where
        self._retries = retries
        settings = dict(remote._rest_args)
        settings["timeout"] = httpx.Timeout(None, connect=5.0, read=_MAKING_S)
        headers = {**settings.pop("headers", {}), "accept-encoding": "identity"}
        self._base = str(remote.rest_uri).rstrip("/")
        self._http = httpx.Client(headers=headers, **settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def ask(self, method: str, *path: str, body: Any = None) -> Any:
        """The "result" of a request's answer.

        Args:
            method: e.g. "GET".
            path: its parts, which are quoted.
            body: sent as JSON.

        Raises:
            EngineError: the server refused, or did not answer.
        """

        def once() -> Any:
            response = self._http.request(method, self._url(path), json=body)
            _check(response)
            return response.json()["result"]

        return self._again(f"{method} {'/'.join(path)}", once)

    def download(
        self,
        file: Path,
        *path: str,
        size: int,
        checksum: str | None,
        advance: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Load a file that the server keeps; go on where an earlier try broke off.

        Args:
            file: where to; what it holds already is the file's beginning.
            path: of the server's file.
            size: its bytes.
            checksum: its SHA-256, where the server says it.
            advance: is told how many bytes are there.

        Raises:
            EngineError: it can't be had, or isn't what the server says.
        """

        def rest() -> None:
            have = file.stat().st_size if file.exists() else 0
            if have >= size:
                return
            headers = {"range": f"bytes={have}-"} if have else {}
            with self._http.stream(
                "GET", self._url(path), headers=headers, timeout=_STALLED_S
            ) as response:
                _check(response)
                if have and response.status_code != _PARTIAL:
                    have = 0  # it can't begin in the middle
                with file.open("r+b" if have else "wb") as target:
                    target.seek(have)
                    for piece in response.iter_raw():
                        target.write(piece)
                        have += len(piece)
                        advance(have)
            if have < size:
                raise httpx.RemoteProtocolError(f"the file ends after {have} of {size} bytes")

        self._again(f"download of {path[-1]}", rest)
        if file.stat().st_size != size or (checksum and _sha256(file) != checksum.lower()):
            file.unlink()
            raise EngineError(
                f"{path[-1]} from {self._where} isn't what the server says that it is (its size "
                "or its SHA-256): run it again, and look at the network between"
            )

    def receive(self, file: Path, *path: str, body: Any) -> bool:
        """Load what the server makes of a request, whole; False where there is nothing new.

        Args:
            file: where to; it is overwritten.
            path: of the request, a POST.
            body: sent as JSON.

        Raises:
            EngineError: the server refused, or did not answer.
        """

        def once() -> bool:
            with self._http.stream("POST", self._url(path), json=body) as response:
                if response.status_code == _NOT_MODIFIED:
                    return False
                _check(response)
                with file.open("wb") as target:
                    for piece in response.iter_raw():
                        target.write(piece)
            return True

        return self._again(f"POST {'/'.join(path)}", once)

    def _url(self, path: tuple[str, ...]) -> str:
        return "/".join([self._base, *(quote(part, safe="") for part in path)])

    def _again(self, what: str, once: Callable[[], T]) -> T:
        tries = Tries(
            f"{what} of {self._where}", passing=True, idempotent=True, retries=self._retries
        )

        def guarded() -> T:
            try:
                return once()
            except httpx.HTTPError as error:
                raise ResponseHandlingException(error) from error  # as qdrant-client has it

        try:
            return tenacity.Retrying(**tries.policy())(guarded)
        except (M3QdrantError, OSError):
            raise
        except Exception:
            raise tries.failure() from tries.last


def _check(response: httpx.Response) -> None:
    if response.is_success:
        return
    response.read()
    headers: Mapping[str, str] = response.headers
    raise UnexpectedResponse(
        status_code=response.status_code,
        reason_phrase=response.reason_phrase,
        content=response.content,
        headers=httpx.Headers(headers),
    )


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()
