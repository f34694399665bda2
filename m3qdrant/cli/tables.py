"""The command line's tables for people. Document text is shown, never interpreted."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from m3qdrant.names import VECTORS

if TYPE_CHECKING:
    from m3qdrant.collection import Hit
    from m3qdrant.demo import Verification
    from m3qdrant.upkeep import Finding

__all__ = ["plain", "print_findings", "print_hits", "print_verification", "seen"]

_SNIPPET = 110  # characters
_JOINERS = "\u200c\u200d"


def print_hits(query: str, mode: str, hits: Sequence[Hit], offset: int = 0) -> None:
    """A table of hits: rank, total score, the three component scores, id and snippet.

    The snippet is the passage that matched where the hits are explained, else the beginning.

    Args:
        query: what was asked.
        mode: how it was ranked.
        hits: best first.
        offset: how many ranks were skipped.
    """
    if not hits:
        Console().print(plain(f"{query}  ({mode}): nothing found"))
        return
    table = _table(f"{textwrap.shorten(query, _SNIPPET, placeholder=' ...')}  ({mode})")
    table.add_column("", justify="right")
    for name in ("score", *VECTORS):
        table.add_column(name, justify="right", no_wrap=True, min_width=len("0.000"))
    grouped = any(hit.group is not None for hit in hits)
    if grouped:
        table.add_column("group", overflow="fold")
    table.add_column("document", overflow="fold")
    for rank, hit in enumerate(hits, offset + 1):
        numbers = (hit.score, *(hit.scores[name] for name in VECTORS))
        if hit.explanation is None:
            snippet = textwrap.shorten(hit.text, _SNIPPET, placeholder=" ...")
        else:
            snippet = hit.snippet(_SNIPPET)
        document = Text("\n").join([plain(hit.id, "bold"), plain(snippet, "dim")])
        group = [plain(str(hit.group))] if grouped else []
        table.add_row(str(rank), *(f"{number:.3f}" for number in numbers), *group, document)
    Console().print(table)


def print_findings(findings: Sequence[Finding]) -> None:
    """A table of findings: severity, collection, what there is, and the remedy below it."""
    table = _table("m3qdrant doctor")
    table.add_column("")
    table.add_column("collection", overflow="fold")
    table.add_column("finding", overflow="fold")
    styles = {"error": "bold red", "warning": "yellow", "note": "", "ok": "green"}
    for finding in findings:
        text = plain(finding.what)
        if finding.remedy is not None:
            text = Text("\n").join([text, plain(f"-> {finding.remedy}", "bold")])
        table.add_row(
            Text(finding.severity, styles[finding.severity]),
            plain(finding.collection or ""),
            text,
        )
    Console().print(table)


def print_verification(result: Verification) -> None:
    """A table of the published figures beside the computed ones."""
    table = _table(f"BGE-M3's published figures and {result.model}")
    table.add_column("figure")
    for name in ("published", "computed", "difference"):
        table.add_column(name, justify="right")
    if result.applies:
        table.add_column("")
    for figure in result.figures:
        computed = difference = "-"
        if figure.computed is not None:
            computed = f"{figure.computed:.4f}"
            difference = f"{figure.computed - figure.published:+.4f}"
        verdict = ["ok" if figure.agrees else "differs"] if result.applies else []
        table.add_row(figure.name, f"{figure.published:.4f}", computed, difference, *verdict)
    Console().print(table)


def _table(title: str) -> Table:
    return Table(
        title=plain(title, "bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )


def plain(text: str, style: str = "") -> Text:
    """`text` on one line without control characters, which could drive the reader's terminal."""
    return Text(seen(" ".join(text.split())), style)


def seen(text: str) -> str:
    """`text` with a space for each control character; what joins letters and emoji stays."""
    return "".join(c if c.isprintable() or c in _JOINERS else " " for c in text)
