"""What the failures of Qdrant's clients mean: our error for each, and whether to try again. Pure.

qdrant-client lets through what its transports raise: its own two classes for REST, with httpx's
inside, gRPC's, and bare ValueErrors from its in-memory mode. The codes are those of Qdrant's
source (`StorageError` to HTTP and to gRPC).
"""

from __future__ import annotations

import json
import re
import shlex
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from html.parser import HTMLParser
from typing import Literal, TypeAlias

import httpx
from grpc import RpcError, StatusCode  # type: ignore[import-untyped]
from pydantic import ValidationError
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from m3qdrant.edge import as_response
from m3qdrant.errors import (
    AccessDeniedError,
    CollectionExistsError,
    CollectionNotFoundError,
    EngineError,
    M3QdrantError,
    RequestRejectedError,
    ServerUnavailableError,
    UnsupportedError,
)
from m3qdrant.limits import BODY_BYTES

__all__ = ["Failure", "as_ours"]

Again: TypeAlias = Literal["never", "repeatable", "always"]

_WORDS_SHOWN = 300


def as_ours(error: Exception, what: str, tried: str = "") -> M3QdrantError:
    """A failure of a client of Qdrant as one of our errors.

    Args:
        error: what the client raised.
        what: the call and its place, e.g. "upsert of collection 'x' at http://localhost:6333".
        tried: how often it was tried, where more than once.
    """
    if isinstance(error, M3QdrantError):
        return error
    failure = Failure.of(error)
    ours = failure.kind(f"{what} failed{tried}: {failure.reason}")
    return as_response(ours, getattr(error, "status_code", None))


@dataclass(frozen=True)
class Failure:
    """What became of a call.

    Attributes:
        kind: our error.
        reason: what went wrong, and the remedy.
        again: whether another try may help: "never"; "always", where the call was surely not
            carried out; "repeatable", where it may have been and only the answer got lost.
        after_s: seconds that the server asks to wait before.
    """

    kind: type[M3QdrantError]
    reason: str
    again: Again = "never"
    after_s: float | None = None

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """Read what a client raised."""
        if isinstance(error, UnexpectedResponse):
            return _of_response(error)
        if isinstance(error, ResponseHandlingException):
            return _of_connection(error.source)
        if isinstance(error, ResourceExhaustedResponse):
            return replace(_BUSY, reason=_busy(str(error)), after_s=float(error.retry_after_s))
        if isinstance(error, QdrantException):  # a Retry-After that is no whole number
            return replace(_BUSY, reason=_busy(str(error)))
        if isinstance(error, RpcError):
            return _of_grpc(error)
        if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
            return cls(
                ServerUnavailableError,
                f"the answer is no JSON ({error}): does a Qdrant server answer there?",
                "repeatable",
            )
        return _of_local(error)


_BUSY = Failure(ServerUnavailableError, "", "always")


def _busy(words: str) -> str:
    return f"the server takes no more requests for now (429){_quote(words)}"


def _quote(words: str) -> str:
    words = " ".join((_Page.text(words) if _HTML.search(words) else words).split())
    if not words:
        return ""
    return f": {words if len(words) <= _WORDS_SHOWN else words[:_WORDS_SHOWN] + ' ...'}"


_HTML = re.compile(r"<(!doctype|html|head|body|title|h1|p|div)\b", re.IGNORECASE)


class _Page(HTMLParser):
    """The words of a page, such as a reverse proxy's, each line once."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: dict[str, None] = {}
        self._hidden = 0

    @classmethod
    def text(cls, html: str) -> str:
        page = cls()
        page.feed(html)
        return ", ".join(page._lines)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._hidden += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._hidden and (line := " ".join(data.split())):
            self._lines[line] = None


# -- REST

_DENIED = "the server denies access ({code}){words}; {key}"
_REFUSED = "the server refuses the request ({code}){words}"
_TROUBLED = "the server is in trouble ({code}){words}"
_TOO_LARGE = (
    "the request is too large ({code}){words}; send fewer points at once, or use gRPC, which has "
    "no limit (a server's default over REST is 32 MB)"
)

_UNINDEXED = re.compile(
    r'Index required but not found for "(?P<field>.+)"(?: of one of the following types: '
    r"\[(?P<kinds>[^\]]*)\])?"
)
_KINDS = ("keyword", "integer", "float", "datetime", "bool", "uuid", "text", "geo")
"""Of indexes, the one to be told of first where several would do."""


def _index_remedy(words: str) -> str:
    """What to do about a filter that strict mode refuses; empty of other refusals."""
    found = _UNINDEXED.search(words)
    if found is None:
        return ""
    field, named = found["field"], re.findall(r"\w+", found["kinds"] or "keyword, integer")
    kinds = [kind for kind in _KINDS if kind in named] or ["keyword"]
    schema = json.dumps({"payload_indexes": {field: kinds[0]}}, ensure_ascii=False)
    others = f" (or {', '.join(kinds[1:])}, as its values are)" if kinds[1:] else ""
    return (
        f"; the collection is in strict mode: index the field first, by m3qdrant index "
        f"{shlex.quote(f'{field}={kinds[0]}')}{others} with this --location and --collection, or "
        f"by ingest --schema '{schema}'"
    )


_RESPONSES: dict[int, Failure] = {
    400: Failure(RequestRejectedError, _REFUSED),
    401: Failure(AccessDeniedError, _DENIED),
    403: Failure(AccessDeniedError, _DENIED),
    408: Failure(
        ServerUnavailableError, "the server ran out of time ({code}){words}", "repeatable"
    ),
    409: Failure(CollectionExistsError, "it exists already ({code}){words}"),
    413: Failure(RequestRejectedError, _TOO_LARGE),
    422: Failure(RequestRejectedError, _REFUSED),
    429: Failure(ServerUnavailableError, "the server is busy ({code}){words}", "always"),
    503: Failure(ServerUnavailableError, _TROUBLED, "always"),
    507: Failure(EngineError, "the server's disk or memory is full ({code}){words}"),
}


def _of_response(error: UnexpectedResponse) -> Failure:
    code = error.status_code or 0
    words = _words(error.content)
    found = _RESPONSES.get(code)
    if code == 404:
        found = (
            Failure(CollectionNotFoundError, "it does not exist ({code}){words}")
            if re.search("collection", words, re.IGNORECASE)
            else Failure(
                EngineError,
                "the server does not know this request ({code}){words}: check that the URL is a "
                "Qdrant server's, its path too, and that the server is not too old",
            )
        )
    elif code == 400 and "larger than allowed" in words:  # actix has no 413 for JSON
        found = _RESPONSES[413]
    elif code == 400 and re.search("collection .*already exists", words, re.IGNORECASE):
        found = _RESPONSES[409]  # servers before 1.8
    elif found is None and 300 <= code < 400:
        target = error.headers.get("location", "elsewhere")
        found = Failure(EngineError, f"the server sends us to {target} ({{code}}): use that URL")
    elif found is None and code >= 500:
        found = Failure(ServerUnavailableError, _TROUBLED, "repeatable")
    elif found is None:
        found = Failure(RequestRejectedError, _REFUSED)
    after = _retry_after(error.headers) if found.again != "never" else None
    reason = _fill(found.reason, code, words) + _index_remedy(words)
    return replace(found, reason=reason, after_s=after)


def _fill(reason: str, code: object, words: str) -> str:
    reason = reason.replace("{key}", _key_remedy(words))
    return reason.replace("{code}", str(code)).replace("{words}", _quote(words))


def _key_remedy(words: str) -> str:
    """What to do about a key, by the server's words."""
    for found, remedy in _KEY_REMEDIES.items():
        if found in words:
            return remedy
    return "QDRANT_API_KEY must hold a key with this right"


_KEY_REMEDIES = {
    "ExpiredSignature": "the token in QDRANT_API_KEY has expired: set a new one, and run it again",
    "InvalidSignature": "the token in QDRANT_API_KEY is not signed with this server's key",
    "Must provide": "set QDRANT_API_KEY to one of its keys",
    "Invalid API key": "QDRANT_API_KEY holds no key of this server's: set one that is",
    "Global manage": "the key in QDRANT_API_KEY has no right to change this (it may only read, or "
    "is for some collections): set one that has",
    "Write access": "the key in QDRANT_API_KEY may only read this: set one that may write",
}


def _words(content: bytes) -> str:
    """What the server says: Qdrant's own field, else the text."""
    try:
        status = json.loads(content)["status"]
        return str(status["error"] if isinstance(status, dict) else status)
    except (ValueError, KeyError, TypeError):
        return content[: 20 * _WORDS_SHOWN].decode("utf-8", "replace")


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds: the header holds them, or a date."""
    value = headers.get("retry-after", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (date - datetime.now(timezone.utc)).total_seconds())


def _of_connection(source: Exception) -> Failure:
    """What httpx, or the reading of an answer, raised."""
    text = str(source).strip() or type(source).__name__
    if isinstance(source, ValidationError):
        return Failure(
            EngineError,
            "qdrant-client does not understand the answer: their versions are too far apart, or "
            f"it is no Qdrant server ({source.error_count()} fields of {source.title} don't fit)",
        )
    if _is_tls(source) and "CERTIFICATE_VERIFY_FAILED" in text:
        return Failure(
            ServerUnavailableError,
            f"its certificate is not trusted ({text}): where an authority of your own made it, "
            "give that one's PEM file: ca_file= (--ca-file), or QDRANT_CA_FILE",
        )
    if _is_tls(source):
        return Failure(
            ServerUnavailableError,
            f"no encrypted connection ({text}): check the certificate, or whether the server "
            "speaks http:// only",
        )
    if isinstance(source, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
        return Failure(
            ServerUnavailableError,
            f"nothing answers ({text}): check that the server runs and that the URL is right",
            "always",
        )
    if isinstance(source, httpx.RemoteProtocolError) and _OTHER_PROTOCOL.search(text):
        return Failure(
            ServerUnavailableError,
            f"what answers there speaks no plain HTTP ({text}): does it speak https? then give "
            "https://...; or is it the port for gRPC? give the one for REST",
        )
    if isinstance(source, httpx.TimeoutException):
        return Failure(ServerUnavailableError, f"no answer in time ({text})", "repeatable")
    if isinstance(source, httpx.TransportError | httpx.DecodingError | OSError):
        return Failure(
            ServerUnavailableError,
            f"the connection broke ({text}){_size_hint(source)}",
            "repeatable",
        )
    return Failure(EngineError, text)


_OTHER_PROTOCOL = re.compile("illegal (request|status) line")
"""What h11 says of an answer that is no HTTP/1, such as TLS's, or HTTP/2's."""


def _is_tls(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _size_hint(source: Exception) -> str:
    """A server that refuses a body for its size may hang up before we have read that."""
    if not isinstance(source, httpx.RequestError):
        return ""
    try:
        size = int(source.request.headers.get("content-length", 0))
    except RuntimeError:  # it knows of no request
        return ""
    if size <= BODY_BYTES:
        return ""
    return f"; its body has {size / 2**20:.0f} MB, and a server's default limit is 32 MB"


# -- gRPC

_CODES: dict[StatusCode, Failure] = {
    StatusCode.ABORTED: Failure(ServerUnavailableError, _TROUBLED, "repeatable"),
    StatusCode.ALREADY_EXISTS: _RESPONSES[409],
    StatusCode.CANCELLED: Failure(
        ServerUnavailableError, "the server dropped the request ({code}){words}", "repeatable"
    ),
    StatusCode.DEADLINE_EXCEEDED: Failure(
        ServerUnavailableError, "no answer in time ({code}){words}", "repeatable"
    ),
    StatusCode.FAILED_PRECONDITION: Failure(RequestRejectedError, _REFUSED),
    StatusCode.INTERNAL: Failure(ServerUnavailableError, _TROUBLED, "repeatable"),
    StatusCode.INVALID_ARGUMENT: _RESPONSES[400],
    StatusCode.NOT_FOUND: Failure(CollectionNotFoundError, "it does not exist ({code}){words}"),
    StatusCode.OUT_OF_RANGE: Failure(RequestRejectedError, _TOO_LARGE),
    StatusCode.PERMISSION_DENIED: _RESPONSES[403],
    StatusCode.RESOURCE_EXHAUSTED: _RESPONSES[429],
    StatusCode.UNAUTHENTICATED: _RESPONSES[401],
    StatusCode.UNAVAILABLE: Failure(
        ServerUnavailableError, "the server can't be reached ({code}){words}", "repeatable"
    ),
    StatusCode.UNIMPLEMENTED: Failure(
        UnsupportedError,
        "the server does not know this request ({code}){words}: it is too old, or no Qdrant",
    ),
}


def _of_grpc(error: RpcError) -> Failure:
    code: StatusCode = error.code()
    words: str = error.details() or ""
    found = _CODES.get(code, Failure(EngineError, "{code}{words}"))
    if code is StatusCode.UNAVAILABLE and words.startswith("failed to connect"):
        found = replace(found, again="always")
    return replace(found, reason=_fill(found.reason, code.name, words) + _index_remedy(words))


# -- in-memory mode, and mistakes that a client finds itself


def _of_local(error: Exception) -> Failure:
    text = str(error).strip() or type(error).__name__
    if isinstance(error, ValueError) and re.match("Collection .* not found", text):
        return Failure(CollectionNotFoundError, f"it does not exist: {text}")
    if isinstance(error, ValueError) and re.match("Collection .* already exists", text):
        return Failure(CollectionExistsError, f"it exists already: {text}")
    return Failure(EngineError, text)
