"""The weights of the integrated score: for the dense, the lexical and the ColBERT score."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set

from m3qdrant.errors import InputError

__all__ = ["DEFAULT_WEIGHTS", "check_weights"]

DEFAULT_WEIGHTS = (0.4, 0.2, 0.4)


def check_weights(weights: Sequence[float]) -> tuple[float, float, float]:
    """`weights` as three floats, for the dense, the lexical and the ColBERT score.

    Raises:
        InputError: not three, not finite, negative, or all zero.
    """
    if isinstance(weights, Mapping | Set | str | bytes):  # without an order, or no numbers
        raise InputError(
            f"weights must be three numbers in order (dense, lexical, ColBERT), not {weights!r}"
        )
    from m3qdrant.scalars import plain_number  # numpy, which `m3qdrant --help` does without

    try:
        given = [plain_number(weight) for weight in weights]
        if any(isinstance(weight, str | bool) for weight in given):
            raise TypeError
        numbers = tuple(map(float, given))
    except (TypeError, ValueError) as error:
        raise InputError(f"weights must be three numbers, not {weights!r}") from error
    if len(numbers) != 3:
        raise InputError(
            f"weights must be three numbers (dense, lexical, ColBERT), not {len(numbers)}: "
            f"{weights!r}"
        )
    if not all(math.isfinite(weight) and weight >= 0 for weight in numbers):
        raise InputError(f"weights must be finite and not negative: {weights!r}")
    if not math.isfinite(sum(numbers)):
        raise InputError(f"weights are too large to be summed: {weights!r}")
    if sum(numbers) == 0:
        raise InputError("weights are all zero: at least one must be positive")
    return numbers
