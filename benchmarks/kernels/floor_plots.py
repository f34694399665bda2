"""The kernel suite's plots, from the JSON alone: time over the floor, and the roofline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.figures import provenance, save, titles
from benchmarks.kernels.case_tables import flops

__all__ = ["Bar", "bars", "columns", "draw", "floor_plot", "roofline"]

# Okabe and Ito's palette, which colour-blind readers tell apart; the blues are ours.
_LOOKS = {
    "m3kernels": ("#0072B2", "o"),
    "m3kernels, CUDA graph": ("#56B4E9", "o"),
    "m3kernels, trimmed": ("#003A5C", "o"),
    "m3kernels, torch": ("#A9C4D6", "o"),
    "FlagEmbedding": ("#D55E00", "v"),
    "plain torch": ("#E69F00", "s"),
    "late-interaction-kernels": ("#009E73", "D"),
    "flash-maxsim": ("#CC79A7", "^"),
    "maxsim-cpu": ("#8C8C8C", "P"),
    "dense torch": ("#8A6D1A", "X"),
    "torch.sparse": ("#F0E442", "h"),
    "scipy": ("#3C3C3C", "p"),
}
_OTHER = ("#B0B0B0", "*")

_INCHES_A_BAR = 0.125
_GAP = 1.2  # bars between two cases
_HEAD = 0.8  # inches of a panel's title and legend
_NAMES_A_ROW = 4
_TITLES = 0.8  # inches of the figure's titles

# Cases of one intensity stand side by side, this factor apart, so that their points can be told
# apart.
_APART = 1.08


@dataclass(frozen=True)
class Bar:
    """A contender's time in a case."""

    family: str
    name: str
    seconds: float
    over_floor: float


def draw(result: dict[str, Any], stem: Path) -> list[Path]:
    """Write `stem`-floor and `stem`-roofline as PNG; return the paths."""
    return save(result, stem, {"floor": floor_plot, "roofline": roofline})


def bars(case: dict[str, Any]) -> list[Bar]:
    """Return the contenders of a case that were timed, in the order of the table."""
    return [
        Bar(row["family"], row["name"], row["median_s"], row["median_s"] / case["floor_s"])
        for row in case["contenders"]
        if row["status"] == "ok"
    ]


def floor_plot(result: dict[str, Any]) -> Figure:
    """Horizontal bars of time over the floor: a panel an op, a group a case."""
    panels = _by_op(result)
    heights = {
        op: sum(len(bars(case)) + _GAP for case in cases) * _INCHES_A_BAR
        for op, cases in panels.items()
    }
    # The op with the most bars has the left column, the others share the right one.
    first = max(heights, key=lambda op: heights[op], default="")
    sides = [[op for op in panels if op == first], [op for op in panels if op != first]]
    sides = [side for side in sides if side]
    tallest = max((sum(heights[op] + _HEAD for op in side) for side in sides), default=1.0)
    width, height = 6.6 * max(len(sides), 1), tallest + 0.45 + _TITLES
    figure = Figure(figsize=(width, height))
    _titles(figure, result, "Time over the floor", height)
    for i, side in enumerate(sides):
        ratios = [bar.over_floor for op in side for case in panels[op] for bar in bars(case)]
        # Room for the times at the bars' ends.
        limits = 0.7 * min([1.0, *ratios]), 4 * max([1.5, *ratios])
        top = height - _TITLES
        for op in side:
            bottom = top - _HEAD - heights[op]
            axes = figure.add_axes(
                ((6.6 * i + 1.2) / width, bottom / height, 5.2 / width, heights[op] / height)
            )
            _bar_panel(axes, op, panels[op], limits)
            top = bottom - 0.35
    return figure


def roofline(result: dict[str, Any]) -> Figure:
    """Arithmetic intensity against the operations a second that each contender reached."""
    figure = Figure(figsize=(9, 6.2))
    _titles(figure, result, "Roofline", 6.2)
    axes = figure.add_axes((0.085, 0.09, 0.635, 0.765))
    cases = [case for case in result["cases"] if bars(case)]
    intensities = [case["flops"] / case["bytes"] for case in cases]
    reached = [case["flops"] / bar.seconds for case in cases for bar in bars(case)]
    ceilings = result["ceilings"]
    used = {case["dtype"] for case in cases}
    rates = {k: v for k, v in ceilings["matmul_flops_per_s"].items() if k in used}
    left, right = 0.3 * min(intensities, default=1), 3 * max(intensities, default=100)
    right = max(right, 3 * max(rates.values(), default=1) / ceilings["copy_bytes_per_s"])
    low, high = 0.08 * min(reached, default=1), 3 * max(rates.values(), default=1)
    axes.set(xscale="log", yscale="log", xlim=(left, right), ylim=(low, high))
    axes.set_xlabel("arithmetic intensity, operations / byte")
    axes.set_ylabel("operations / second")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _engineering(y)))
    axes.grid(color="#E6E6E6", linewidth=0.6)
    axes.set_axisbelow(True)

    _ceiling_lines(axes, ceilings["copy_bytes_per_s"], rates)
    families: dict[str, None] = {}
    places = _spread(intensities)
    for case, place in zip(cases, places, strict=True):
        # Ours last, so that no peer hides it.
        for bar in reversed(bars(case)):
            families[bar.family] = None
            colour, marker = _LOOKS.get(bar.family, _OTHER)
            axes.plot(
                place,
                case["flops"] / bar.seconds,
                marker,
                color=colour,
                markersize=7.5 if bar.family == "m3kernels" else 5.5,
                markeredgecolor="white",
                markeredgewidth=0.6,
            )
    for centre, members in columns(intensities):
        axes.axvline(centre, color="#BBBBBB", linewidth=0.6, linestyle=":", zorder=0)
        numbers = _in_lines([str(i + 1) for i in sorted(members)])
        axes.text(centre, low * 1.2, numbers, ha="center", va="bottom", fontsize=7.5)
    key = [f"{i:\u2007>2}  {case['name']}" for i, case in enumerate(cases, 1)]
    axes.text(
        1.03, 0.0, "\n".join(key), transform=axes.transAxes, fontsize=7.5, va="bottom",
        linespacing=1.45,
    )  # fmt: skip
    handles = [
        Line2D([], [], color=_LOOKS.get(f, _OTHER)[0], marker=_LOOKS.get(f, _OTHER)[1],
               linestyle="", label=f)
        for f in _LOOKS if f in families
    ]  # fmt: skip
    axes.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(1.015, 1.01), frameon=False, fontsize=8
    )
    return figure


def columns(intensities: Sequence[float]) -> list[tuple[float, list[int]]]:
    """Group cases whose intensities are too close on the logarithmic axis for own labels."""
    groups: list[tuple[float, list[int]]] = []
    for i in sorted(range(len(intensities)), key=lambda i: intensities[i]):
        if groups and intensities[i] < 1.5 * groups[-1][0]:
            groups[-1][1].append(i)
        else:
            groups.append((intensities[i], [i]))
    return groups


def _bar_panel(
    axes: Axes, op: str, cases: list[dict[str, Any]], limits: tuple[float, float]
) -> None:
    low, _ = limits
    place, ticks, names = 0.0, [], []
    families: dict[str, str] = {}
    for case in cases:
        group = bars(case)
        for bar in group:
            colour = _LOOKS.get(bar.family, _OTHER)[0]
            families[bar.name] = colour
            axes.barh(place, bar.over_floor - low, left=low, height=0.86, color=colour)
            axes.text(
                bar.over_floor * 1.05, place, _time(bar.seconds), va="center", fontsize=6.5,
                color="#333333", bbox={"facecolor": "white", "linewidth": 0, "pad": 0.5},
            )  # fmt: skip
            place += 1
        ticks.append(place - (len(group) + 1) / 2)
        names.append(case["name"].partition("/")[2])
        place += _GAP
    axes.set_xscale("log")
    axes.set_xlim(*limits)
    axes.set_ylim(place - _GAP, -1)
    axes.set_yticks(ticks, names)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}x"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.axvline(1, color="#222222", linewidth=0.9, linestyle="--")
    axes.grid(axis="x", color="#E6E6E6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_title(
        f"{op}: median time / floor", pad=9 + 12.5 * math.ceil(len(families) / _NAMES_A_ROW)
    )
    axes.legend(
        handles=[Patch(color=colour, label=name) for name, colour in families.items()],
        loc="lower left", bbox_to_anchor=(-0.012, 1), ncols=_NAMES_A_ROW,
        frameon=False, fontsize=7,
        columnspacing=1.2, handlelength=1.2, handletextpad=0.5, borderaxespad=0.2,
    )  # fmt: skip


def _ceiling_lines(axes: Axes, bandwidth: float, rates: dict[str, float]) -> None:
    """The roof, with its labels above the diagonal, where no point can be."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    top = max(rates.values(), default=bandwidth * right)
    bend = top / bandwidth
    axes.plot([left, bend], [left * bandwidth, top], color="#222222", linewidth=1.2)
    for names, rate in _similar(rates):
        bend = rate / bandwidth
        axes.plot([bend, right], [rate, rate], color="#222222", linewidth=1.2)
        axes.plot([left, bend], [rate, rate], color="#999999", linewidth=0.7, linestyle=":")
        label = f"{names} matmul, {flops(rate)}"
        axes.annotate(label, (left, rate), xytext=(5, 3), textcoords="offset points", fontsize=7.5)
    # The diagonal's slope on the page: a decade of x against a decade of y.
    figure = axes.get_figure()
    assert figure is not None
    box = axes.get_window_extent()
    slope = (box.height / math.log10(high / low)) / (box.width / math.log10(right / left))
    axes.annotate(
        f"copy, {bandwidth / 1e9:,.0f} GB/s",
        (left * 1.6, left * 1.6 * bandwidth),
        xytext=(-2, 5),
        textcoords="offset points",
        rotation=math.degrees(math.atan(slope)),
        rotation_mode="anchor",
        fontsize=7.5,
    )


def _similar(rates: dict[str, float]) -> list[tuple[str, float]]:
    """Rates of several dtypes that one line can stand for, the best of them."""
    groups: list[tuple[str, float]] = []
    for name, rate in sorted(rates.items(), key=lambda item: -item[1]):
        if groups and rate > 0.8 * groups[-1][1]:
            groups[-1] = (f"{groups[-1][0]}, {name}", groups[-1][1])
        else:
            groups.append((name, rate))
    return groups


def _titles(figure: Figure, result: dict[str, Any], title: str, inches: float) -> None:
    machine, ceilings = result["machine"], result["ceilings"]
    name = machine["name"]
    if machine["device"] == "cpu":
        name += f", {machine['threads']} threads"
    lines = (
        f"floor: the larger of bytes / {ceilings['copy_bytes_per_s'] / 1e9:,.0f} GB/s (copy) and "
        "operations / matmul rate, measured in the same run",
        provenance(result, "torch"),
    )
    titles(figure, f"{title}: {name}", lines, inches)


def _by_op(result: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    panels: dict[str, list[dict[str, Any]]] = {}
    for case in result["cases"]:
        if bars(case):
            panels.setdefault(case["op"], []).append(case)
    return panels


def _spread(intensities: Sequence[float]) -> list[float]:
    """Where each case stands: its intensity, or beside it where others have the same."""
    places = list(intensities)
    for centre, members in columns(intensities):
        for k, i in enumerate(sorted(members)):
            places[i] = centre * _APART ** (k - (len(members) - 1) / 2)
    return places


def _in_lines(numbers: list[str], width: int = 2) -> str:
    """Numbers with `width` on a line."""
    return "\n".join(" ".join(numbers[i : i + width]) for i in range(0, len(numbers), width))


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def _engineering(rate: float) -> str:
    for unit, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if rate >= size:
            return f"{rate / size:g} {unit}"
    return f"{rate:g}"
