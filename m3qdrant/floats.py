"""What Qdrant makes of a float in a payload, and ends of ranges that allow for it.

Embedded or in a server, its engine keeps payloads as JSON, and reads a number as serde_json does
without its feature `float_roundtrip`: the digits as one float, times or over a power of ten as
another. For 11% of floats with 17 digits the two roundings give a neighbour, one unit in the last
place off. So a range that ends exactly at such a float would miss the point that was stored with
it.
"""

from __future__ import annotations

import math

__all__ = ["as_read", "end", "ends"]

_MOST = 308  # the largest exponent of ten in a float
_WRITTEN = 3  # so many times a float is followed through being written


def as_read(value: float) -> float:
    """The float that the engine reads where it wrote `value`, in the fewest digits that say it."""
    digits, _, exponent_text = repr(abs(value)).partition("e")
    whole, _, fraction = digits.partition(".")
    number, exponent = float(int(whole + fraction)), int(exponent_text or 0) - len(fraction)
    while abs(exponent) > _MOST and number:
        if exponent > 0:
            return math.copysign(math.inf, value)
        number /= 10.0**_MOST
        exponent += _MOST
    number = number / float(f"1e{-exponent}") if exponent < 0 else number * float(f"1e{exponent}")
    return math.copysign(number, value)


def ends(value: float) -> tuple[float, float]:
    """The least and the greatest float that a payload may hold where `value` was stored.

    They are `value` itself, but for the floats that are read otherwise; `optimize` writes what it
    read, which may then be read otherwise again.
    """
    met = [value]
    while len(met) <= _WRITTEN and (read := as_read(met[-1])) != met[-1] and math.isfinite(read):
        met.append(read)
    return min(met), max(met)


def end(name: str, value: float) -> float:
    """An end of a range that says of its own value what the range says, however that is read.

    Args:
        name: "gt", "gte", "lt" or "lte".
        value: where the range ends.
    """
    least, greatest = ends(value)
    return least if name in ("gte", "lt") else greatest
