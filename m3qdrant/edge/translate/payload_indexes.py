"""Payload indexes, as the engine takes them. Pure."""

from __future__ import annotations

from typing import Any

import qdrant_edge as edge
from qdrant_client import models

from m3qdrant.edge.translate.members import member
from m3qdrant.errors import InputError

__all__ = ["index_schema"]


def index_schema(schema: Any) -> Any:
    """A payload index: a type such as "keyword", or parameters such as models.TextIndexParams."""
    if isinstance(schema, str):  # the enum's members are strings as well
        return member(edge.PayloadSchemaType, schema)
    name = type(schema).__name__
    kind = getattr(edge, name, None)
    if kind is None or not name.endswith("IndexParams"):
        raise InputError(f"{schema!r} is no index schema: pass models.PayloadSchemaType or params")
    settings = {
        field: _index_setting(field, value)
        for field in type(schema).model_fields
        if field != "type" and (value := getattr(schema, field)) is not None
    }
    return kind(**settings)


def _index_setting(field: str, value: Any) -> Any:
    if field == "tokenizer":
        return member(edge.TokenizerType, value)
    if field == "memory":
        return member(edge.Memory, value)
    if field == "stopwords":
        if isinstance(value, models.StopwordsSet):
            return edge.StopwordsSet(
                languages={member(edge.Language, v) for v in value.languages or []},
                custom=set(value.custom or []),
            )
        return member(edge.Language, value)
    if field == "stemmer":
        if hasattr(value, "language"):
            return edge.SnowballParams(member(edge.SnowballLanguage, value.language))
        return edge.DisabledStemmer()
    if field == "scoring" and not isinstance(value, bool):
        return edge.TextScoringParams(member(edge.TextScoringType, value.type))
    return value
