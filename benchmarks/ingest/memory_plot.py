"""The plot of the ingest proof, drawn from the JSON alone: memory over time, run after run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.figures import provenance, save, titles

# Okabe and Ito's palette, which colour-blind readers tell apart.
_OWN, _MAPPED, _READ = "#0072B2", "#A9C4D6", "#D55E00"


def draw(result: dict[str, Any], stem: Path) -> list[Path]:
    """Write `stem`-memory as PNG; return the paths."""
    return save(result, stem, {"memory": memory_plot})


def memory_plot(result: dict[str, Any]) -> Figure:
    """Resident memory of each run's process, and how much of the input it had read."""
    figure = Figure(figsize=(10, 4.2))
    lines = (
        f"{result['documents']:,} documents; blue: the process's own memory, light: pages of "
        "files, which the kernel can take back; orange: documents read",
        provenance(result, "qdrant-client", "qdrant-edge-py"),
    )
    titles(figure, f"Memory of an ingest: {result['machine']['name']}", lines, 4.2)
    axes = figure.add_axes((0.07, 0.12, 0.86, 0.64))
    right = axes.twinx()
    offset = 0.0
    for number, run in enumerate(result["runs"], 1):
        samples = run["samples"]
        seconds = [offset + sample["seconds"] for sample in samples]
        own = [sample["own"] / 1e6 for sample in samples]
        total = [(sample["own"] + sample["mapped"]) / 1e6 for sample in samples]
        axes.fill_between(seconds, own, total, color=_MAPPED, linewidth=0)
        axes.fill_between(seconds, 0, own, color=_OWN, linewidth=0)
        right.plot(seconds, [sample["read"] / 1e3 for sample in samples], color=_READ)
        axes.annotate(
            f"run {number}, ended {run['ended']}", (seconds[0], 1), rotation=90, fontsize=7.5,
            xycoords=("data", "axes fraction"), xytext=(3, -4), textcoords="offset points",
            va="top",
        )  # fmt: skip
        offset = seconds[-1] + 0.01 * sum(r["samples"][-1]["seconds"] for r in result["runs"])
        axes.axvline(offset, color="#444444", linewidth=0.8, linestyle=":")
    axes.set(xlim=(0, offset), xlabel="seconds", ylabel="MB resident")
    axes.set_ylim(
        0, 1.1 * max(s["own"] + s["mapped"] for r in result["runs"] for s in r["samples"]) / 1e6
    )
    right.set_ylabel("thousand documents read")
    right.set_ylim(0, 1.1 * result["documents"] / 1e3)
    right.spines["right"].set_visible(True)
    return figure
