"""What the plots of all suites share: their look, and files that are the same every time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

__all__ = ["provenance", "save", "titles"]

_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
}
_DPI = 110


def save(
    result: dict[str, Any], stem: Path, plots: Mapping[str, Callable[[dict[str, Any]], Figure]]
) -> list[Path]:
    """Write each plot as `stem`-name.png; return the paths."""
    written = []
    with mpl.rc_context(_STYLE):
        for name, plot in plots.items():
            path = stem.with_name(f"{stem.name}-{name}.png")
            plot(result).savefig(path, metadata={"Software": None}, dpi=_DPI, facecolor="white")
            written.append(path)
    return written


def titles(figure: Figure, title: str, lines: tuple[str, str], inches: float) -> None:
    """A title and two small lines under it, at the top of a figure `inches` high."""
    left = 0.2 / figure.get_figwidth()
    figure.text(left, 1 - 0.27 / inches, title, fontsize=12, weight="bold")
    for place, line in zip((0.46, 0.61), lines, strict=True):
        figure.text(left, 1 - place / inches, line, fontsize=7.5, color="#555555")


def provenance(result: dict[str, Any], *packages: str) -> str:
    """Date, commit and versions, for a plot's small print."""
    revision = (result["commit"]["hash"] or "unknown")[:10]
    revision += " + changes" if result["commit"]["dirty"] else ""
    versions = "".join(f", {name} {result['versions'][name]}" for name in packages)
    return f"{result['date']}, commit {revision}{versions}" + (
        ", quick" if result["quick"] else ""
    )
