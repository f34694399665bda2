"""One progress bar for all long work: rich's, on stderr, so that stdout is left to results.

What keeps the work waiting is told there too, or, where no bar is shown, to whoever `listen`s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ["Advance", "listen", "progress_bar", "tell"]

_bars: list[Callable[[str, bool], None]] = []  # the one that was begun last is told
_listeners: list[Callable[[str], None]] = []


def listen(listener: Callable[[str], None]) -> None:
    """Have this called with what keeps work waiting that shows no bar."""
    _listeners[:] = [listener]


def tell(text: str, again: bool = False) -> None:
    """Tell what keeps the work waiting.

    Args:
        text: in one line.
        again: it was told before, and only its numbers are new.
    """
    if _bars:
        _bars[-1](text, again)
    elif _listeners and not again:
        _listeners[0](text)


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
        TextColumn("{task.fields[note]}", style="yellow", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total, rate="", note="")

        def note(text: str, again: bool) -> None:
            if bar.console.is_terminal:
                bar.update(task, note=text)
            elif not again:  # the bar itself is only printed at its end
                bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

        def advance(done: int, tokens: int | None = None) -> None:
            # over the whole run: chunks are few and uneven, the last one says little
            elapsed = bar.tasks[0].elapsed or 0.0
            rates = [(done, unit), *([(tokens, "tokens")] if tokens is not None else [])]
            rate = ", ".join(f"{n / elapsed:,.0f} {what}/s" for n, what in rates if elapsed)
            bar.update(task, completed=done, rate=rate, note="")

        _bars.append(note)
        try:
            yield advance
        finally:
            _bars.remove(note)
