"""A collection's configuration as qdrant-client gave it: a file beside its data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qdrant_client import models

from m3qdrant.edge.disk.directory import CONFIGURATION
from m3qdrant.errors import StoreDamagedError
from m3qdrant.files import write_whole

__all__ = ["read", "read_next", "write"]

_FORMAT = 1


def read(directory: Path) -> models.CreateCollection:
    """A collection's configuration; the one before, where a change was cut off.

    Raises:
        StoreDamagedError: the file is missing, unreadable, or of a newer format.
    """
    config = _read(directory, "config")
    assert config is not None
    return config


def read_next(directory: Path) -> models.CreateCollection | None:
    """The configuration that a change was about to bring; None where no change was cut off.

    Raises:
        StoreDamagedError: as `read`.
    """
    return _read(directory, "next")


def _read(directory: Path, which: str) -> models.CreateCollection | None:
    file = directory / CONFIGURATION
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StoreDamagedError(
            f"{directory} holds no {CONFIGURATION}: it is no collection of ours"
        ) from None
    except (OSError, ValueError) as error:
        raise StoreDamagedError(
            f"{file} can't be read ({error}): restore it from a copy, the data beside it is intact"
        ) from error
    version = content.get("format") if isinstance(content, dict) else None
    if version != _FORMAT:
        raise StoreDamagedError(
            f"{file} has the format {version!r}, and this version reads {_FORMAT}: "
            "update m3qdrant, or restore the file"
        )
    if which == "next" and "next" not in content:
        return None
    try:
        return models.CreateCollection(**content[which])
    except (KeyError, TypeError, ValueError) as error:
        raise StoreDamagedError(
            f"{file} holds no configuration that qdrant-client reads ({error}): restore the file"
        ) from error


def write(
    directory: Path,
    config: models.CreateCollection,
    following: models.CreateCollection | None = None,
) -> None:
    """Write a collection's configuration; a crash leaves the old file or the new one, whole.

    Args:
        directory: the collection's.
        config: its configuration.
        following: what it will be when a change is done that begins now.
    """
    content: dict[str, Any] = {"format": _FORMAT, "config": _dumped(config)}
    if following is not None:
        content["next"] = _dumped(following)
    write_whole(
        directory / CONFIGURATION, json.dumps(content, indent=1, ensure_ascii=False).encode()
    )


def _dumped(config: models.CreateCollection) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude_none=True)
