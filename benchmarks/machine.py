"""Which machine, versions and commit a result belongs to. No host, user or path names."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from m3kernels import cpus

from benchmarks import ROOT

__all__ = ["commit", "describe", "load", "slug", "versions"]


def describe(device: torch.device) -> dict[str, Any]:
    """Return what the JSON file says of the machine."""
    described: dict[str, Any] = {
        "device": device.type,
        "name": _cpu_name(),
        "cpu": _cpu_name(),
        "cpu_features": cpus.features(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": _memory_gb(),
        "os": _system(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        described |= {
            "name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "gpu_memory_gb": round(properties.total_memory / 1e9, 1),
            "driver": _driver(),
        }
    return described


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of Python, torch, and those of the packages that are installed."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit(revision: str | None = None) -> dict[str, Any]:
    """Return the checked-out commit, and whether files differ from it; None where git can't say.

    Earlier results don't count as a difference. `revision` is what was checked out, for a copy
    without its history.
    """
    if revision is not None:
        return {"hash": revision, "dirty": None}
    head = _output("git", "rev-parse", "HEAD")
    status = _output("git", "status", "--porcelain", "--", ".", ":!benchmarks/results")
    return {"hash": head, "dirty": None if head is None or status is None else bool(status)}


def load() -> float | None:
    """Return how many processes wanted a core, on average over the last minute."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def slug(text: str) -> str:
    """Return a name for a file: lower case, words joined by dashes."""
    text = re.sub(r"\((r|tm)\)", "", text.lower())
    return re.sub(r"[^a-z0-9]+", "-", text).strip("-")


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (ValueError, OSError):
        return None


def _system() -> str:
    # The release without what a builder of the kernel added to it.
    release = re.match(r"\d+(\.\d+)?", platform.release())
    return f"{platform.system()} {release.group() if release else ''}".strip()


def _driver() -> str | None:
    lines = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return lines.splitlines()[0] if lines else None


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
