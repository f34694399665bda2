"""The storage choices: the defaults, one change at a time, and in-memory mode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

Engine = Literal["embedded", "memory"]

# How far a stored vector's score may be from the exact one, some five times what is found.
# float32: the order of a sum. float16: 11 bits a number, whose errors mostly cancel out in a sum
# of a thousand. uint8: 256 steps up to the largest weight of the index. turbo: 8 and 4 bits a
# number.
_FLOAT32, _FLOAT16 = 2e-5, 2e-4
_ERRORS = {
    "dense_datatype": {"float32": _FLOAT32, "float16": _FLOAT16},
    "sparse_datatype": {"float32": _FLOAT32, "float16": 5e-4, "uint8": 2e-3},
    "colbert_datatype": {"float32": _FLOAT32, "float16": _FLOAT16, "turbo8": 2e-3, "turbo4": 4e-2},
}
_DEFAULTS = {
    "dense_datatype": "float32",
    "sparse_datatype": "float32",
    "colbert_datatype": "float16",
}

PATIENCE = 900.0
"""Seconds that a step of a choice may take."""
_RUINOUS = 60.0


@dataclass(frozen=True)
class Choice:
    """A way to store a collection.

    Attributes:
        options: of `M3Schema`, where they are not the defaults.
        engine: "embedded", or "memory" for qdrant-client's in-memory mode.
        patience: seconds that building it may take; then it is given up, and the result says so.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    engine: Engine = "embedded"
    patience: float = PATIENCE

    @property
    def name(self) -> str:
        """What sets it apart, e.g. "colbert_datatype=turbo8"."""
        if self.engine == "memory":
            return "in-memory mode"
        return ", ".join(f"{name}={value}" for name, value in self.options.items()) or "default"

    def tolerances(self) -> dict[str, float]:
        """The largest error of each vector's scores."""
        return {
            option.partition("_")[0]: errors[self.options.get(option, _DEFAULTS[option])]
            for option, errors in _ERRORS.items()
        }


DEFAULT = Choice()

CHOICES = (
    DEFAULT,
    Choice(engine="memory"),
    Choice({"colbert_datatype": "float32"}),
    Choice({"colbert_datatype": "turbo8"}),
    Choice({"colbert_datatype": "turbo4"}),
    Choice({"colbert_quantization": "int8"}),
    Choice({"colbert_on_disk": True, "dense_on_disk": True}),
    Choice({"token_pooling": 2}),
    Choice({"token_pooling": 3}),
    Choice({"dense_datatype": "float16"}),
    Choice({"dense_quantization": "int8"}),
    Choice({"dense_quantization": "turbo4"}),
    Choice({"hnsw_m": 0}),
    Choice({"sparse_datatype": "float16"}),
    Choice({"sparse_datatype": "uint8"}),
    Choice({"sparse_on_disk": True}),
    Choice({"colbert_hnsw": True}, patience=_RUINOUS),
)


def choose(engine: Engine | None = None, patterns: list[str] | None = None) -> list[Choice]:
    """The choices of an engine whose names match, the default always first: it is compared with.

    Raises:
        ValueError: none matches.
    """
    chosen = [
        choice
        for choice in CHOICES
        if engine in (None, choice.engine)
        and (not patterns or any(fnmatchcase(choice.name, pattern) for pattern in patterns))
    ]
    if not chosen:
        known = ", ".join(repr(choice.name) for choice in CHOICES)
        raise ValueError(f"no choice matches; there are {known}")
    return [DEFAULT, *(choice for choice in chosen if choice is not DEFAULT)]
