"""The tables in the terminal."""

from __future__ import annotations

from typing import Any

_COLUMNS = ("", "us", "p10 to p90", "rate", "% of floor", "vs best peer", "max error", "note")

# A load above this before the run means that something else is at work.
_BUSY = 0.5


def header(result: dict[str, Any]) -> str:
    """Return the machine and its ceilings."""
    machine, ceilings, commit = result["machine"], result["ceilings"], result["commit"]
    rates = ", ".join(
        f"{name} {flops(rate)}" for name, rate in ceilings["matmul_flops_per_s"].items()
    )
    cores = f"{machine['threads']} threads of {machine['cores']} cores, "
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    revision = (commit["hash"] or "unknown")[:12] + (" + changes" if commit["dirty"] else "")
    warning = []
    if (result["load"] or 0) > _BUSY:
        warning.append(f"busy: a load of {result['load']:g} before the run, so times are noisy")
    return "\n".join(
        [
            f"{machine['name']}: {cores if machine['device'] == 'cpu' else ''}{machine['os']}",
            f"{versions}; commit {revision}; seed {result['seed']}",
            f"measured: copy {ceilings['copy_bytes_per_s'] / 1e9:,.1f} GB/s, matmul {rates}",
            *warning,
        ]
    )


def block(case: dict[str, Any]) -> str:
    """Return the table of one case."""
    lines = ["", f"{case['name']}: {case['shapes']}"]
    if "floor_s" in case:
        memory = case["bound"] == "memory"
        lines.append(
            f"  {_bytes(case['bytes'])}, {_count(case['flops'])}FLOP; floor "
            f"{_us(case['floor_s'])} us ({case['bound']})"
        )
    else:
        memory = False
    best = best_peer(case)
    table: list[tuple[str, ...]] = [_COLUMNS]
    refused = []
    for row in case["contenders"]:
        if row["status"] != "ok":
            refused.append(f"  {row['name']}: {_refusal(row)}")
            continue
        seconds = row["median_s"]
        rate = case["bytes"] / seconds if memory else case["flops"] / seconds
        table.append(
            (
                row["name"],
                _us(seconds),
                f"{_us(row['p10_s'])} to {_us(row['p90_s'])}",
                f"{_digits(rate / 1e9)} GB/s" if memory else flops(rate),
                f"{100 * case['floor_s'] / seconds:.1f}",
                f"{best / seconds:.2f} x" if best else "",
                f"{row['error']['largest']:.1e}",
                row["note"],
            )
        )
    return "\n".join([*lines, *_aligned(table), *refused])


def footer(result: dict[str, Any]) -> str:
    """Return how long it took."""
    return f"\n{len(result['cases'])} cases in {result['seconds']:.0f} s"


def best_peer(case: dict[str, Any]) -> float | None:
    """Return the median seconds of the fastest contender that isn't ours."""
    peers = [
        row["median_s"] for row in case["contenders"] if row["status"] == "ok" and not row["ours"]
    ]
    return min(peers, default=None)


def flops(rate: float) -> str:
    """Return operations a second in a readable unit."""
    return f"{_digits(rate / 1e12)} TFLOP/s" if rate >= 1e12 else f"{_digits(rate / 1e9)} GFLOP/s"


def _refusal(row: dict[str, Any]) -> str:
    if row["status"] == "not installed":
        return "not installed"
    return f"{row['status']}: {row['reason']}"


def _aligned(table: list[tuple[str, ...]]) -> list[str]:
    """Columns of equal width: names and notes to the left, numbers to the right."""
    if len(table) == 1:
        return []
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    last = len(widths) - 1
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if i in (0, last) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]


def _digits(number: float) -> str:
    """Three digits, and no exponent."""
    if number >= 100:
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 10 else f"{number:.2f}" if number >= 1 else f"{number:.3f}"


def _us(seconds: float) -> str:
    us = seconds * 1e6
    return f"{us:,.0f}" if us >= 1000 else f"{us:,.1f}"


def _bytes(n: int) -> str:
    return f"{_count(n)}B"


def _count(n: float) -> str:
    for unit in ("", "k", "M", "G", "T"):
        if n < 1000 or unit == "T":
            return f"{n:,.3g} {unit}"
        n /= 1000
    raise AssertionError
