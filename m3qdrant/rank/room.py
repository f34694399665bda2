"""Whether a corpus fits, said in figures before anything is loaded."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from m3qdrant.errors import InputError

__all__ = ["Need", "free_bytes"]

_KEPT_FREE = 256 << 20
"""Memory for a page on its way, and for searches."""
_GROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Need:
    """What a corpus of so many rows takes.

    Attributes:
        documents, rows: how many; the rows may be estimated.
        dim: width of a row.
        held: as what they are held on the device.
        device: where.
        read_bytes: of a number as it is read: 4, or 2 for float16.
        filed: whether the rows as they are read lie in a file.
    """

    documents: int
    rows: int
    dim: int
    held: str
    device: torch.device
    read_bytes: int
    filed: bool

    @property
    def device_bytes(self) -> int:
        """On the device."""
        numbers = self.rows * self.dim
        if self.held == "int8":
            return numbers + 4 * self.rows + 24 * self.documents
        if self.filed and self.device.type == "cpu" and self._as_read:
            return 0  # mapped
        return numbers * (4 if self.held == "float32" else 2)

    @property
    def host_bytes(self) -> int:
        """In the host's memory, beside a device's: what proves int8's answers."""
        if self.held != "int8" or self.filed:
            return 0
        return self.rows * self.dim * self.read_bytes

    @property
    def disk_bytes(self) -> int:
        """In the file."""
        return self.rows * self.dim * self.read_bytes if self.filed else 0

    @property
    def _as_read(self) -> bool:
        return self.held == "float32" and self.read_bytes == 4

    def check(self, *, most: int | None, folder: Path | None, there: int = 0) -> None:
        """Pass if it fits.

        Args:
            most: bytes that it may take on the device; None: what is free.
            folder: where the file is, or is to be.
            there: bytes that the file has already.

        Raises:
            InputError: it does not; says what is needed, what is there, and what would fit.
        """
        at_host = self.host_bytes + (self.device_bytes if self.device.type == "cpu" else 0)
        places = [("on the disk", self.disk_bytes - there, _free_disk(folder))]
        places.append(("in memory", at_host, _less(free_bytes(torch.device("cpu")))))
        if self.device.type != "cpu":
            free = _less(free_bytes(self.device))
            places.append((f"on {self.device}", self.device_bytes, free))
        if most is not None:
            places.append((f"on {self.device} (max_bytes)", self.device_bytes, most))
        for where, needed, free in places:
            if free is not None and needed > free:
                raise InputError(
                    f"the token vectors do not fit: {self.documents:,} documents with about "
                    f"{self.rows:,} vectors of {self.dim} numbers take {_said(needed)} {where} "
                    f"as {self.held}, and {_said(max(free, 0))} are there. {self._remedy()}"
                )

    def _remedy(self) -> str:
        smaller = self.rows * self.dim
        said = [
            f"dtype='int8' takes {_said(smaller)} on the device" if self.held != "int8" else "",
            f"folder= keeps the {_said(self.host_bytes)} as they were read in a file"
            if self.host_bytes
            else "",
            "a schema with token_pooling=2 has half the vectors",
        ]
        return "; ".join(each for each in said if each)


def free_bytes(device: torch.device) -> int | None:
    """Memory that may be taken on a device; None where that isn't known."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    found = [each for each in (_available(), _in_group()) if each is not None]
    return min(found, default=None)


def _less(free: int | None) -> int | None:
    return None if free is None else free - _KEPT_FREE


def _available() -> int | None:
    """What Linux could give to a program without swapping."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    except (OSError, ValueError):
        pass
    return None


def _in_group() -> int | None:
    """What a container's limit leaves: files that are cached count as free."""
    try:
        limit = (_GROUPS / "memory.max").read_text(encoding="ascii").strip()
        if limit == "max":
            return None
        used = int((_GROUPS / "memory.current").read_text(encoding="ascii"))
        kinds = dict(
            line.split() for line in (_GROUPS / "memory.stat").read_text("ascii").splitlines()
        )
        return int(limit) - used + int(kinds.get("inactive_file", 0))
    except (OSError, ValueError):
        return None


def _free_disk(folder: Path | None) -> int | None:
    if folder is None:
        return None
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _said(count: int) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 1e8 else f"{count / 1e6:,.2f} MB"
