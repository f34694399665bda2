"""Formulas over the scores of prefetches and the payload, as the engine takes them. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import qdrant_edge as edge
from pydantic import BaseModel
from qdrant_client import models

from m3qdrant.edge.translate.filters import condition, geo_point
from m3qdrant.errors import InputError
from m3qdrant.limits import MAX_NESTING
from m3qdrant.scalars import check_json

__all__ = ["formula", "missing_value"]


def formula(query: models.FormulaQuery) -> edge.Formula:
    """A formula with its defaults."""
    defaults = check_json(query.defaults or {}, "the formula's defaults")
    return edge.Formula(_expression(query.formula, 0), defaults)


def missing_value(query: models.FormulaQuery) -> InputError:
    """What the engine means where it gives up on a formula, and says only that it did."""
    wanted = sorted(set(_payload_keys(query.formula)) - set(query.defaults or {}))
    return InputError(
        f"Expected number value for {' or '.join(wanted) or 'a variable'} in the payload and/or "
        "in the formula defaults: some point has none, or a result is no number (a division by "
        "zero, a root or logarithm of a negative number); pass defaults="
    )


def _payload_keys(e: Any) -> Iterator[str]:
    """The payload fields, and the dates in some, that an expression reads."""
    if isinstance(e, str):
        if not e.startswith("$score"):
            yield e
    elif isinstance(e, models.DatetimeKeyExpression):
        yield e.datetime_key
    elif isinstance(e, models.GeoDistance):
        yield e.geo_distance.to
    elif isinstance(e, list):
        for part in e:
            yield from _payload_keys(part)
    elif isinstance(e, BaseModel) and not isinstance(e, _LEAVES):
        for field in type(e).model_fields:
            yield from _payload_keys(getattr(e, field))


_LEAVES = (models.FieldCondition, models.Filter, models.DatetimeExpression)


def _expression(e: Any, depth: int) -> edge.Expression:
    if depth > MAX_NESTING:
        raise InputError(f"the formula nests deeper than {MAX_NESTING} levels: simplify it")
    if isinstance(e, (int, float, np.number)) and not isinstance(e, bool):
        if not np.isfinite(e):
            raise InputError(f"the formula holds {e}: every constant must be finite")
        return edge.Expression.Constant(float(e))
    if isinstance(e, str):
        return edge.Expression.Variable(e)

    def sub(inner: Any) -> edge.Expression:
        return _expression(inner, depth + 1)

    name = type(e).__name__
    if name in ("SumExpression", "MultExpression", "MaxExpression", "MinExpression"):
        kind = name.removesuffix("Expression")
        parts = getattr(e, kind.lower())
        build: Any = getattr(edge.Expression, kind)
        return build([sub(p) for p in parts])  # type: ignore[no-any-return]
    if name in _UNARY:
        build = getattr(edge.Expression, name.removesuffix("Expression"))
        return build(sub(getattr(e, _UNARY[name])))  # type: ignore[no-any-return]
    if isinstance(e, models.DivExpression):
        return edge.Expression.Div(sub(e.div.left), sub(e.div.right), e.div.by_zero_default)
    if isinstance(e, models.PowExpression):
        return edge.Expression.Pow(sub(e.pow.base), sub(e.pow.exponent))
    if isinstance(e, models.GeoDistance):
        return edge.Expression.GeoDistance(geo_point(e.geo_distance.origin), e.geo_distance.to)
    if isinstance(e, models.DatetimeExpression):
        return edge.Expression.Datetime(e.datetime)
    if isinstance(e, models.DatetimeKeyExpression):
        return edge.Expression.DatetimeKey(e.datetime_key)
    if name in _DECAYS:
        field, decay_kind = _DECAYS[name]
        decay = getattr(e, field)
        return edge.Expression.Decay(
            decay_kind,
            sub(decay.x),
            target=None if decay.target is None else sub(decay.target),
            midpoint=decay.midpoint,
            scale=decay.scale,
        )
    return edge.Expression.Condition(condition(e))


_UNARY = {
    "NegExpression": "neg",
    "AbsExpression": "abs",
    "SqrtExpression": "sqrt",
    "ExpExpression": "exp",
    "Log10Expression": "log10",
    "LnExpression": "ln",
    "AcoshExpression": "acosh",
}

_DECAYS = {
    "LinDecayExpression": ("lin_decay", edge.DecayKind.Lin),
    "ExpDecayExpression": ("exp_decay", edge.DecayKind.Exp),
    "GaussDecayExpression": ("gauss_decay", edge.DecayKind.Gauss),
}
