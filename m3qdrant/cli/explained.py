"""Explanations for people at a terminal: bars, the text with what matched, words beside words."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from m3qdrant.cli.tables import plain, seen
from m3qdrant.names import SPARSE

if TYPE_CHECKING:
    from m3qdrant.rank import Component, Explanation, Highlight, Match, Token

__all__ = ["print_explanations"]

_TEXT = 600  # characters of a document's text
_BAR = 24  # characters of the longest bar
_WORDS = 8  # rows of matches and of terms
_SHADES = ("", "underline", "bold yellow", "bold black on yellow")
"""How strongly a part of the text is marked, from a quarter of the strongest to all of it."""


def print_explanations(query: str, mode: str, explanations: Sequence[Explanation]) -> None:
    """Why documents rank where they do, one after the other.

    Args:
        query: what was asked.
        mode: how it was ranked.
        explanations: best first.
    """
    console = Console()
    title = textwrap.shorten(query, 110, placeholder=" ...")
    if not explanations:
        console.print(plain(f"{title}  ({mode}): nothing found"))
        return
    console.print(plain(f"{title}  ({mode})", "bold"))
    for explanation in explanations:
        _print(console, explanation)


def _print(console: Console, e: Explanation) -> None:
    place = "not in the ranking" if e.rank is None else f"{e.rank}."
    console.print()
    console.print(Text(" ").join([Text(place), plain(e.id, "bold"), Text(f"{e.score:.4f}")]))
    console.print(_components(console, e))
    passage = e.snippet(_TEXT)
    before, behind = passage.cut
    text = _marked(passage.text, passage.highlights)
    console.print(Text("... " if before else "") + text + Text(" ..." if behind else ""))
    if e.terms:
        console.print(_terms(e))
    if e.matches:
        console.print(_matches(e))
    if e.merged:
        console.print(
            Text(f"{len(e.merged)} of {len(e.vectors)} stored vectors stand for several tokens")
        )
    for note in e.notes:
        console.print(plain(f"note: {note}", "italic"))


def _components(console: Console, e: Explanation) -> Table:
    """A small bar a component."""
    fused = e.mode in ("rrf", "dbsf")
    table = _table(("", "left"), ("score", "right"), ("place" if fused else "weight", "right"),
                   ("share", "right"), ("", "left"))  # fmt: skip
    largest = max((abs(c.share) for c in e.components), default=0.0) or 1.0
    full = "#" if console.options.ascii_only else "\u2588"
    for c in e.components:
        bar = full * round(_BAR * abs(c.share) / largest)
        style = "red" if c.share < 0 else "green"
        name = "lexical" if c.name == SPARSE else c.name
        table.add_row(
            name, f"{c.score:.4f}", _middle(c, fused), f"{c.share:.4f}", Text(bar, style)
        )
    return table


def _middle(c: Component, fused: bool) -> str:
    if fused:
        return "-" if c.rank is None else str(c.rank)
    return "" if c.weight is None else f"{c.weight:.2f}"


def _marked(text: str, highlights: Sequence[Highlight]) -> Text:
    """A text with what matched, the most in reverse."""
    marked = Text(seen(text))
    strongest = max((abs(h.contribution) for h in highlights), default=0.0)
    for h in highlights:
        part = abs(h.contribution) / strongest
        marked.stylize(_SHADES[min(3, int(4 * part))], h.start, h.end)
    return marked


def _terms(e: Explanation) -> Table:
    table = _table(("shared term", "left"), ("query", "right"), ("document", "right"),
                   ("product", "right"))  # fmt: skip
    for t in e.terms[:_WORDS]:
        name = Text(f"token {t.id}") if t.text is None else plain(t.text)
        table.add_row(name, *(f"{n:.4f}" for n in (t.query_weight, t.document_weight, t.product)))
    _more(table, len(e.terms))
    return table


def _matches(e: Explanation) -> Table:
    table = _table(("query token", "left"), ("best document token", "left"),
                   ("similarity", "right"), ("adds", "right"))  # fmt: skip
    best = sorted(e.matches, key=lambda match: -match.contribution)
    shown = sorted(best[:_WORDS], key=lambda match: match.query_vector)
    for m in shown:
        table.add_row(*_sides(m), f"{m.similarity:.4f}", f"{m.contribution:.4f}")
    _more(table, len(e.matches))
    return table


def _sides(m: Match) -> tuple[Text, Text]:
    return (
        _named("query", m.query_vector, m.query_tokens),
        _named("document", m.document_vector, m.document_tokens),
    )


def _named(side: str, vector: int | None, tokens: Sequence[Token]) -> Text:
    if vector is None:
        return Text("none")
    if not tokens:
        return Text(f"{side} vector {vector + 1}")
    more = f" and {len(tokens) - 1} more" if len(tokens) > 1 else ""
    return plain(tokens[0].text + more)


def _table(*columns: tuple[str, str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", show_header=True)
    for name, side in columns:
        justify = "right" if side == "right" else "left"
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    return table


def _more(table: Table, n: int) -> None:
    if n > _WORDS:
        table.add_row(Text(f"and {n - _WORDS} more", "dim"))
