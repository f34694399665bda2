"""Tables in the terminal: columns of equal width, numbers without exponents."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["about", "aligned", "busy", "count", "digits"]


def aligned(table: Sequence[tuple[str, ...]], *, left: Sequence[int] = (0,)) -> list[str]:
    """Lines of equal columns, the first row being the header; none where there is no other.

    Args:
        table: rows of as many cells.
        left: columns of words; the others are numbers and stand to the right.
    """
    if len(table) <= 1:
        return []
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]


def digits(number: float) -> str:
    """Three digits, and no exponent."""
    if number >= 100:
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 10 else f"{number:.2f}" if number >= 1 else f"{number:.3f}"


def busy(load: float | None, threshold: float = 0.5) -> list[str]:
    """A warning where something else was at work before the run, else nothing."""
    if (load or 0) <= threshold:
        return []
    return [f"busy: a load of {load:g} before the run, so times are noisy"]


def about(result: dict[str, object]) -> str:
    """Versions, commit and seed of a result, on one line."""
    versions, commit = result["versions"], result["commit"]
    assert isinstance(versions, dict)
    assert isinstance(commit, dict)
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    revision = (commit["hash"] or "unknown")[:12] + (" + changes" if commit["dirty"] else "")
    return f"{named}; commit {revision}; seed {result['seed']}"


def count(n: int, one: str, many: str) -> str:
    """A number of things, in words for one or many."""
    return f"{n:,} {one if n == 1 else many}"
