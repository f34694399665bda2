"""One progress bar for all long work: rich's, on stderr, so that stdout is left to results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ["Advance", "progress_bar"]


class Advance(Protocol):
    """Moves a bar to a given count, with the tokens that went into it where they are known."""

    def __call__(self, done: int, tokens: int | None = None) -> None:
        """Show that `done` of the total are done."""


@contextmanager
def progress_bar(
    label: str, total: int | None, show: bool, unit: str = "documents"
) -> Iterator[Advance]:
    """A function that moves a bar to a given count, or does nothing where none is shown.

    Args:
        label: what is being done.
        total: the count at the end; None where it isn't known.
        show: whether to draw anything.
        unit: what is counted, for the rate.
    """
    if not show:
        yield lambda done, tokens=None: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total, rate="")

        def advance(done: int, tokens: int | None = None) -> None:
            # over the whole run: chunks are few and uneven, the last one says little
            elapsed = bar.tasks[0].elapsed or 0.0
            rates = [(done, unit), *([(tokens, "tokens")] if tokens is not None else [])]
            rate = ", ".join(f"{n / elapsed:,.0f} {what}/s" for n, what in rates if elapsed)
            bar.update(task, completed=done, rate=rate)

        yield advance
