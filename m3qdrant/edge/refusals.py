"""Refusals as a server sends them: our errors that are qdrant-client's `UnexpectedResponse` too.

Programs written for a server catch `UnexpectedResponse` and look at its status code. Whatever
refuses something in these rooms raises one of `errors.py`, which knows nothing of qdrant-client
(importing that takes the better part of a second); where the error leaves, `as_response` gives it
a class of the same name that is both. Its text, its attributes and its traceback stay as they are.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from http import HTTPStatus
from typing import ClassVar, ParamSpec, TypeVar

import httpx
from qdrant_client.http.exceptions import UnexpectedResponse

from m3qdrant import errors

__all__ = [
    "CollectionExistsError",
    "CollectionNotFoundError",
    "InputError",
    "PointError",
    "RequestRejectedError",
    "as_a_server_refuses",
    "as_response",
    "invalid",
    "refusing_as_a_server",
]


class _Response(UnexpectedResponse):
    """What `UnexpectedResponse` holds, made of the error's own text."""

    _CODE: ClassVar[int] = 400

    def __str__(self) -> str:
        return BaseException.__str__(self)

    @property
    def status_code(self) -> int:  # type: ignore[override]
        """Of the answer that a server would have sent."""
        return self.__dict__.get("_status_code", self._CODE)  # type: ignore[no-any-return]

    @property
    def reason_phrase(self) -> str:  # type: ignore[override]
        """The status code in words."""
        return HTTPStatus(self.status_code).phrase

    @property
    def content(self) -> bytes:  # type: ignore[override]
        """The answer's body, as JSON; `structured()` reads it."""
        status = {"error": str(self)}
        return json.dumps({"status": status, "time": 0.0}, ensure_ascii=False).encode()

    @property
    def headers(self) -> httpx.Headers:  # type: ignore[override]
        """None: there was no answer."""
        return httpx.Headers()


class CollectionNotFoundError(errors.CollectionNotFoundError, _Response):
    """The collection does not exist: 404."""

    _CODE = 404
    __str__ = _Response.__str__


class CollectionExistsError(errors.CollectionExistsError, _Response):
    """A collection of this name exists already: 409."""

    _CODE = 409
    __str__ = _Response.__str__


class InputError(errors.InputError, _Response):
    """An argument is wrong: 400."""

    __str__ = _Response.__str__


class PointError(errors.PointError, _Response):
    """One point is wrong, so that nothing was written: 400."""

    __str__ = _Response.__str__


class RequestRejectedError(errors.RequestRejectedError, _Response):
    """A server refused a request: 400, or what it said."""

    __str__ = _Response.__str__


_RESPONSES: dict[type[errors.M3QdrantError], type[errors.M3QdrantError]] = {
    kind.__mro__[1]: kind
    for kind in (
        CollectionNotFoundError,
        CollectionExistsError,
        InputError,
        PointError,
        RequestRejectedError,
    )
}


def as_response(
    error: errors.M3QdrantError, status_code: int | None = None
) -> errors.M3QdrantError:
    """The same error, as an `UnexpectedResponse` too where a server would send one.

    Args:
        error: the error; it gets its new class in place, so that nothing of it is lost.
        status_code: what a server did send.
    """
    kind = _RESPONSES.get(type(error))
    if kind is not None:
        error.__class__ = kind
        if status_code is not None:
            error.__dict__["_status_code"] = status_code
    return error


def invalid(words: str, status_code: int = 422) -> errors.M3QdrantError:
    """The refusal of a value that is out of its range, or of a wish for another reason."""
    return as_response(errors.InputError(words), status_code)


_C = TypeVar("_C", bound=type)
_P = ParamSpec("_P")
_R = TypeVar("_R")


def refusing_as_a_server(kind: _C) -> _C:
    """Let the errors of all public methods of a class leave it as responses."""
    for name, method in inspect.getmembers(kind, inspect.isfunction):
        if name[0] != "_":
            setattr(kind, name, as_a_server_refuses(method))
    return kind


def as_a_server_refuses(method: Callable[_P, _R]) -> Callable[_P, _R]:
    """The method, whose errors leave it as responses."""

    @functools.wraps(method)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return method(*args, **kwargs)
        except errors.M3QdrantError as error:
            as_response(error)
            raise

    return call
