"""The plots of the store suite, drawn from the JSON alone: what choices cost, and the engines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.figures import provenance, save, titles
from benchmarks.store.choice_tables import MODES
from benchmarks.tables import digits

Row = dict[str, Any]

# Okabe and Ito's palette, which colour-blind readers tell apart.
_BLUE, _LIGHT, _ORANGE, _GREY = "#0072B2", "#A9C4D6", "#D55E00", "#8C8C8C"
_TITLES = 0.85  # inches of the figure's titles
_INCHES_A_ROW = 0.24


def draw(result: dict[str, Any], stem: Path) -> list[Path]:
    """Write `stem`-costs and, with both engines, `stem`-engines as PNG."""
    if not result["choices"]:
        return []
    plots: dict[str, Callable[[dict[str, Any]], Figure]] = {"costs": costs_plot}
    if _memory_row(result) is not None:
        plots["engines"] = engines_plot
    return save(result, stem, plots)


def costs_plot(result: dict[str, Any]) -> Figure:
    """A row a choice, a panel a cost, and recall; embedded engine."""
    rows = [
        row for row in result["choices"] if row["status"] == "ok" and row["engine"] == "embedded"
    ][::-1]
    inches = _TITLES + 0.75 + _INCHES_A_ROW * len(rows)
    figure = Figure(figsize=(12.5, inches))
    note = "light: pages of files, which the kernel can take back"
    _titles(figure, result, "What a storage choice costs and gains", inches, note)
    panels: list[tuple[str, list[list[float]]]] = [
        ("documents/s written", [[_rate(row) for row in rows]]),
        ("MB on disk", [[row["write"]["disk_bytes"] / 1e6 for row in rows]]),
        (
            "MB of memory",
            [[row["memory_bytes"][kind] / 1e6 for row in rows] for kind in ("own", "mapped")],
        ),
        ("dense: ms, p50", [[1e3 * row["times"]["dense"]["p50_s"] for row in rows]]),
        ("weighted: ms, p50", [[1e3 * row["times"]["weighted"]["p50_s"] for row in rows]]),
    ]
    left, width, gap = 0.235, 0.108, 0.018
    box = (0.35 / inches, (inches - _TITLES - 0.65) / inches)
    for i, (title, series) in enumerate(panels):
        axes = figure.add_axes((left + i * (width + gap), box[0], width, box[1]))
        _bars(axes, rows, title, series, names=i == 0)
    axes = figure.add_axes((left + len(panels) * (width + gap), box[0], width, box[1]))
    _recall_panel(axes, rows)
    return figure


def engines_plot(result: dict[str, Any]) -> Figure:
    """p50 and p95 of each mode, embedded beside in-memory, on the same queries."""
    memory = _memory_row(result)
    assert memory is not None
    figure = Figure(figsize=(8, 4.2))
    _titles(figure, result, "Embedded engine and in-memory mode", 4.2)
    axes = figure.add_axes((0.09, 0.1, 0.88, 0.68))
    for shift, times, colour, label in (
        (-0.2, memory["default_times"], _BLUE, "embedded"),
        (0.2, memory["times"], _ORANGE, "in-memory"),
    ):
        places = [i + shift for i in range(len(MODES))]
        p50 = [1e3 * times[mode]["p50_s"] for mode in MODES]
        p95 = [1e3 * times[mode]["p95_s"] for mode in MODES]
        axes.bar(places, p50, 0.38, color=colour, label=f"{label}: p50, and p95 as a line")
        axes.vlines(places, p50, p95, color=colour, linewidth=1.2)
        for x, y, top in zip(places, p50, p95, strict=True):
            axes.annotate(
                digits(y), (x, top), xytext=(0, 2), textcoords="offset points",
                ha="center", fontsize=7.5,
            )  # fmt: skip
    axes.set_yscale("log")
    axes.set_xticks(range(len(MODES)), MODES)
    axes.set_ylabel("milliseconds a search")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.legend(frameon=False, fontsize=8)
    return figure


def _bars(
    axes: Axes, rows: list[Row], title: str, series: list[list[float]], *, names: bool
) -> None:
    """Horizontal bars, series side by side in one bar; the default's value as a line."""
    totals = [sum(values) for values in zip(*series, strict=True)]
    start = [0.0] * len(rows)
    for values, colour in zip(series, (_BLUE, _LIGHT), strict=False):
        axes.barh(range(len(rows)), values, 0.72, left=start, color=colour)
        start = [a + b for a, b in zip(start, values, strict=True)]
    for i, total in enumerate(totals):
        axes.annotate(
            digits(total), (total, i), xytext=(2, 0), textcoords="offset points",
            va="center", fontsize=7,
        )  # fmt: skip
    for row, total in zip(rows, totals, strict=True):
        if row["name"] == "default":
            axes.axvline(total, color=_GREY, linewidth=0.7, linestyle=":")
    axes.set_xlim(0, 1.3 * max(totals))
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_title(title, fontsize=8.5)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows] if names else [])
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7)


def _recall_panel(axes: Axes, rows: list[Row]) -> None:
    """Recall@10 of three modes, as points."""
    for mode, colour, marker in (
        ("dense", _BLUE, "o"),
        ("sparse", _ORANGE, "v"),
        ("colbert", _GREY, "D"),
        ("weighted", "#000000", "|"),
    ):
        axes.plot(
            [row["recall"][mode] for row in rows], range(len(rows)), marker, color=colour,
            markersize=9 if marker == "|" else 4.5, label=mode,
        )  # fmt: skip
    least = min(min(row["recall"].values()) for row in rows)
    axes.set_xlim(max(0.0, least - 0.05), 1.01)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_title("recall@10", fontsize=8.5)
    axes.set_yticks([])
    axes.grid(axis="x", color="#E6E6E6", linewidth=0.6)
    axes.tick_params(axis="x", labelsize=7)
    axes.legend(frameon=False, fontsize=6.5, loc="lower left", handletextpad=0.2)


def _titles(
    figure: Figure, result: dict[str, Any], title: str, inches: float, note: str | None = None
) -> None:
    lines = (
        f"{result['documents']:,} docstrings, {result['tokens']:,} tokens, vectors of "
        f"{result['width']:,} numbers ({result['model']}'s, lifted), {result['queries']} queries",
        provenance(result, "qdrant-client", "qdrant-edge-py") + (f"; {note}" if note else ""),
    )
    titles(figure, f"{title}: {result['machine']['name']}", lines, inches)


def _rate(row: Row) -> float:
    rate: float = row["write"]["documents"] / row["write"]["write_s"]
    return rate


def _memory_row(result: dict[str, Any]) -> Row | None:
    rows: list[Row] = result["choices"]
    beside = (row for row in rows if row["engine"] == "memory" and row.get("default_times"))
    return next(beside, None)
