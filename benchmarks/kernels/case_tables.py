"""The tables of the kernel suite in the terminal."""

from __future__ import annotations

from typing import Any

from benchmarks.tables import about, aligned, busy, digits

__all__ = ["best_peer", "block", "flops", "footer", "header"]

_COLUMNS = ("", "us", "p10 to p90", "rate", "% of floor", "vs best peer", "max error", "note")


def header(result: dict[str, Any]) -> str:
    """Return the machine and its ceilings."""
    machine, ceilings = result["machine"], result["ceilings"]
    rates = ", ".join(
        f"{name} {flops(rate)}" for name, rate in ceilings["matmul_flops_per_s"].items()
    )
    cores = f"{machine['threads']} threads of {machine['cores']} cores, "
    return "\n".join(
        [
            f"{machine['name']}: {cores if machine['device'] == 'cpu' else ''}{machine['os']}",
            about(result),
            f"measured: copy {ceilings['copy_bytes_per_s'] / 1e9:,.1f} GB/s, matmul {rates}",
            *busy(result["load"]),
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
                f"{digits(rate / 1e9)} GB/s" if memory else flops(rate),
                f"{100 * case['floor_s'] / seconds:.1f}",
                f"{best / seconds:.2f} x" if best else "",
                f"{row['error']['largest']:.1e}",
                row["note"],
            )
        )
    return "\n".join([*lines, *aligned(table, left=(0, len(_COLUMNS) - 1)), *refused])


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
    return f"{digits(rate / 1e12)} TFLOP/s" if rate >= 1e12 else f"{digits(rate / 1e9)} GFLOP/s"


def _refusal(row: dict[str, Any]) -> str:
    if row["status"] == "not installed":
        return "not installed"
    return f"{row['status']}: {row['reason']}"


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
