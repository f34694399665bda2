"""What users put in: a document, from any of the forms `M3Store.add` accepts, checked."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any

from qdrant_client import models

from m3qdrant.errors import DocumentError, InputError
from m3qdrant.names import OURS, TEXT
from m3qdrant.scalars import plain_json, plain_scalar

__all__ = ["Document", "document_id", "document_id_of", "numbered", "own_point_ids", "point_id"]

_NAMESPACE = uuid.UUID("6b6f2e0a-0f6f-5d0e-9a4e-3f0d6d337164")


@dataclass(frozen=True)
class Document:
    """A text with an id and a payload.

    Attributes:
        id: what names the document; adding the same id again replaces it.
        text: what is encoded and stored.
        payload: JSON values to filter by and to get back (see `scalars.plain_json`); its keys
            must not be "text" or "_m3".
    """

    id: str
    text: str
    payload: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, item: object, position: int = 0) -> Document:
        """A checked document from what a user passed.

        Args:
            item: a `Document`; a string (its id is derived from the text, so adding it again
                changes nothing); or a mapping with "text", optionally "id" and "payload", whose
                other keys become payload too.
            position: where the item stands in the input, to name it in errors.

        Raises:
            DocumentError: names the document, the field and the remedy.
        """
        id: object
        text: object
        payload: object
        if isinstance(item, str):
            id, text, payload = None, item, {}
        elif isinstance(item, Document):
            id, text, payload = item.id, item.text, item.payload
        elif isinstance(item, Mapping):
            rest = {key: item[key] for key in item if key not in ("id", TEXT, "payload")}
            id, text, payload = item.get("id"), item.get(TEXT), item.get("payload") or {}
            if isinstance(payload, Mapping):
                payload = {**rest, **payload}
        else:
            raise DocumentError(
                f"#{position}",
                "text",
                f"expected a Document, a mapping or a string, not {type(item).__name__}",
            )
        name = f"#{position}" if id is None else str(id)
        if not isinstance(text, str):
            found = "missing" if text is None else f"{type(text).__name__}, not a string"
            raise DocumentError(name, TEXT, f"{found}; every document needs a text")
        _check_utf8(name, TEXT, text)
        return cls(_check_id(id, text, name), text, _check_payload(name, payload))

    @classmethod
    def of_point(cls, point: models.ScoredPoint | models.Record) -> Document:
        """The document that a point was made from.

        A point that another program wrote has no id of ours: it goes by its point id.
        """
        payload = dict(point.payload or {})
        payload.pop(OURS, None)
        text = payload.pop(TEXT, "")
        return cls(document_id(point), str(text), payload)

    @property
    def point_id(self) -> str:
        """The Qdrant point's id: a UUID derived from `id` alone, the same on every machine."""
        return point_id(self.id)


def point_id(id: str) -> str:
    """The point id of a document id: uuid5 of it in a fixed namespace."""
    return str(uuid.uuid5(_NAMESPACE, id))


def own_point_ids(id: str) -> list[models.ExtendedPointId]:
    """The ids that a point of another program may have, whose document goes by it."""
    if id.isascii() and id.isdecimal() and int(id) < 2**64:
        return [int(id)]
    try:
        return [str(uuid.UUID(id))]
    except ValueError:
        return []


def document_id(point: models.ScoredPoint | models.Record) -> str:
    """The id of the document that a point was made from."""
    ours = (point.payload or {}).get(OURS)
    id = ours.get("id") if isinstance(ours, dict) else None
    return id if isinstance(id, str) else str(point.id)


def document_id_of(value: object) -> str:
    """A document's id from what names it: its text, as a payload holds it.

    A string, an integer (its digits), a UUID, a decimal, a path, a date or a time; numpy's and
    enums' values count as Python's.

    Raises:
        InputError: it is none of these.
    """
    plain = plain_scalar(value)
    if isinstance(plain, date):
        plain = plain_json(plain)
    if isinstance(plain, bool) or not isinstance(plain, str | int):
        remedy = "give a string, an integer or a UUID"
        if isinstance(plain, float) and plain.is_integer():
            remedy = f"give {int(plain)}, or its text (tables with gaps make floats of integers)"
        raise InputError(f"is {type(value).__name__}; {remedy}")
    if isinstance(value, bytes | bytearray):
        raise InputError(f"is {type(value).__name__}; give its text, {plain!r}")
    if not str(plain).strip():
        raise InputError("empty; give an id, or none at all")
    return str(plain)


def numbered(item: object) -> bool:
    """Whether what a user passed has a number for its id."""
    id = item.get("id") if isinstance(item, Mapping) else getattr(item, "id", None)
    return isinstance(id, Decimal) or isinstance(plain_scalar(id), int)


def _check_id(id: object, text: str, name: str) -> str:
    if id is None:
        return str(uuid.uuid5(_NAMESPACE, f"text:{text}"))
    try:
        checked = document_id_of(id)
    except InputError as error:
        raise DocumentError(name if name.strip() else repr(name), "id", str(error)) from None
    _check_utf8(name, "id", checked)
    return checked


def _check_utf8(name: str, field: str, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DocumentError(
            name.encode("utf-8", "backslashreplace").decode(),
            field,
            f"character {error.start} can't be encoded as UTF-8 ({error.reason}); repair it, "
            "for instance with .encode('utf-8', 'replace').decode()",
        ) from error


def _check_payload(name: str, payload: object) -> dict[str, Any]:
    if not isinstance(payload, Mapping):
        raise DocumentError(name, "payload", f"{type(payload).__name__}; give a mapping")
    try:
        checked = dict(plain_json(payload))
    except InputError as error:
        raise DocumentError(name, "payload", str(error)) from error
    for key in (TEXT, OURS):
        if key in checked:
            raise DocumentError(name, "payload", f"the key {key!r} is m3qdrant's own; rename it")
    return checked
