"""What the ingest proof says in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.tables import about, busy, digits

if TYPE_CHECKING:
    from benchmarks.ingest.runs import Run


def header(result: dict[str, Any]) -> str:
    """Return the machine, the versions and what is ingested."""
    machine = result["machine"]
    return "\n".join(
        [
            f"{machine['name']}: {machine['cores']} cores, {machine['os']}",
            about(result),
            f"{result['documents']:,} documents, encoded by {result['model']}, embedded engine",
            *busy(result["load"]),
            "",
        ]
    )


def line(run: Run, n: int) -> str:
    """Return a line about a run that is over."""
    parts = [f"ended {run.ended} after {run.seconds:.1f} s, {run.found:,} of {n:,} were there"]
    if run.report is None:
        parts.append(f"{run.read:,} read")
    else:
        parts.append(f"{run.report['added']:,} added, {run.report['unchanged']:,} unchanged")
        rate = run.report["received"] / run.seconds
        parts.append(
            f"{digits(rate)} documents/s, {digits(run.report['tokens'] / run.seconds)} tokens/s"
        )
    own = max((sample.own for sample in run.samples), default=0)
    parts.append(f"opened in {1e3 * run.opened_s:.0f} ms")
    parts.append(
        f"peak {own / 1e6:,.0f} MB of its own, {run.peak / 1e6:,.0f} MB with mapped files"
    )
    return "; ".join(parts)


def outcome(result: dict[str, Any]) -> str:
    """Return what the collection holds at the end."""
    found = result["outcome"]
    same = "the same as" if found["checksum"] == found["expected_checksum"] else "not that of"
    return "\n".join(
        [
            "",
            f"{found['count']:,} documents, checksum {found['checksum']}, {same} the input",
            f"{found['searched'] - len(found['not_found'])} of {found['searched']} found by their "
            "own texts, with the scores of a text with itself",
            f"{found['disk_bytes'] / 1e6:,.0f} MB on disk, opened in "
            f"{1e3 * found['opened_s']:.0f} ms",
            f"load {result['load']} before, {result['load_after']} after; "
            f"{result['seconds']:.0f} s",
        ]
    )
