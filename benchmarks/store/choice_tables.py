"""The tables of the store suite in the terminal."""

from __future__ import annotations

from typing import Any

from benchmarks.tables import about, aligned, busy, digits

MODES = ("dense", "sparse", "colbert", "rrf", "dbsf", "weighted")


def header(result: dict[str, Any]) -> str:
    """Return the machine, the versions and what is stored."""
    machine = result["machine"]
    return "\n".join(
        [
            f"{machine['name']}: {machine['cores']} cores, {machine['os']}",
            about(result),
            f"{result['documents']:,} docstrings, {result['tokens']:,} tokens, "
            f"{result['queries']} queries; {result['model']}'s vectors lifted to "
            f"{result['width']:,} numbers by an orthonormal map",
            *busy(result["load"]),
            "",
        ]
    )


def built(row: dict[str, Any]) -> str:
    """Return a line about a choice that was built."""
    if row["status"] != "ok":
        return f"{row['name']}: {row['status']}: {row['reason']}"
    write = row["write"]
    return (
        f"{row['name']}: {write['documents']:,} documents written in {write['write_s']:.1f} s, "
        f"optimized in {write['optimize_s']:.1f} s"
    )


def served(row: dict[str, Any]) -> str:
    """Return a line about a choice that was verified and timed."""
    if row["status"] != "ok":
        return f"{row['name']}: {row['status']}: {row['reason']}"
    return f"{row['name']}: agrees, recall@10 of weighted {row['recall']['weighted']:.3f}"


def tables(result: dict[str, Any]) -> str:
    """Return what each choice costs, how long its searches take, and what they find."""
    rows = [row for row in result["choices"] if row["status"] == "ok"]
    refused = [
        f"  {row['name']}: {row['status']}: {row['reason']}"
        for row in result["choices"]
        if row["status"] != "ok"
    ]
    if not result["choices"]:
        return ""
    return "\n".join(
        [
            "",
            "Writing, disk and memory",
            *aligned(_costs(rows)),
            "",
            "Milliseconds a search, p50 / p95, without component scores; the last two columns: "
            "weighted with them, and in one request",
            *aligned(_latencies(rows)),
            "",
            "Recall@10 against the exact ranking of exact candidates, and of all documents (all); "
            "found: the query's own document among ten",
            *aligned(_recalls(rows)),
            *(["", "Not measured", *refused] if refused else []),
            "",
            f"load {result['load']} before, {result['load_after']} after; "
            f"{result['seconds']:.0f} s",
        ]
    )


def _costs(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    table: list[tuple[str, ...]] = [
        ("", "documents/s", "tokens/s", "optimize s", "disk MB", "of it log", "memory MB",
         "mapped MB", "reopen ms", "first ms", "dense err", "sparse err", "colbert err"),
    ]  # fmt: skip
    for row in rows:
        write, memory = row["write"], row["memory_bytes"]
        table.append(
            (
                row["name"],
                digits(write["documents"] / write["write_s"]),
                digits(write["tokens"] / write["write_s"]),
                f"{write['optimize_s']:.1f}" if "disk_bytes" in write else "",
                digits(write["disk_bytes"] / 1e6) if "disk_bytes" in write else "",
                digits(write["log_bytes"] / 1e6) if "disk_bytes" in write else "",
                digits(memory["own"] / 1e6),
                digits(memory["mapped"] / 1e6) if "disk_bytes" in write else "",
                digits(1e3 * row["reopen_s"]) if "reopen_s" in row else "",
                digits(1e3 * row["first_search_s"]),
                *(f"{row['errors'][name]:.0e}" for name in ("dense", "sparse", "colbert")),
            )
        )
    return table


def _latencies(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    table: list[tuple[str, ...]] = [("", *MODES, "+ components", "one request")]
    for row in rows:
        times = row["times"].values()
        table.append(
            (
                row["name"],
                *(f"{digits(1e3 * t['p50_s'])} / {digits(1e3 * t['p95_s'])}" for t in times),
            )
        )
    return table


def _recalls(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    table: list[tuple[str, ...]] = [
        ("", *MODES, "colbert, all", "weighted, all", "found, weighted", "found, dense")
    ]
    for row in rows:
        numbers = (
            *(row["recall"][mode] for mode in MODES),
            row["full_recall"]["colbert"],
            row["full_recall"]["weighted"],
            row["found"]["weighted"],
            row["found"]["dense"],
        )
        table.append((row["name"], *(f"{number:.3f}" for number in numbers)))
    return table
