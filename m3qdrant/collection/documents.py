"""What users put in: a document, from any of the forms `M3Store.add` accepts, checked."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qdrant_client import models

from m3qdrant.errors import DocumentError, InputError
from m3qdrant.names import OURS, TEXT
from m3qdrant.scalars import plain_json

__all__ = ["Document", "document_id", "point_id"]

_NAMESPACE = uuid.UUID("6b6f2e0a-0f6f-5d0e-9a4e-3f0d6d337164")


@dataclass(frozen=True)
class Document:
    """A text with an id and a payload.

    Attributes:
        id: what names the document; adding the same id again replaces it.
        text: what is encoded and stored.
        payload: JSON values to filter by and to get back (dates become ISO 8601 strings); its keys
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


def document_id(point: models.ScoredPoint | models.Record) -> str:
    """The id of the document that a point was made from."""
    ours = (point.payload or {}).get(OURS)
    id = ours.get("id") if isinstance(ours, dict) else None
    return id if isinstance(id, str) else str(point.id)


def _check_id(id: object, text: str, name: str) -> str:
    if id is None:
        return str(uuid.uuid5(_NAMESPACE, f"text:{text}"))
    if isinstance(id, bool) or not isinstance(id, str | int | uuid.UUID):
        kind = type(id).__name__
        raise DocumentError(name, "id", f"is {kind}; give a string, an integer or a UUID")
    if not str(id).strip():
        raise DocumentError(f"{name!r}", "id", "empty; give an id, or none at all")
    _check_utf8(name, "id", str(id))
    return str(id)


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
    for key in (TEXT, OURS):
        if key in payload:
            raise DocumentError(name, "payload", f"the key {key!r} is m3qdrant's own; rename it")
    try:
        return dict(plain_json(payload))
    except InputError as error:
        raise DocumentError(name, "payload", str(error)) from error
