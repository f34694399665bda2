"""A collection's configuration as qdrant-client gave it: a file beside its data."""

from __future__ import annotations

import json
from pathlib import Path

from qdrant_client import models

from m3qdrant.edge.disk.directory import CONFIGURATION
from m3qdrant.errors import StoreDamagedError
from m3qdrant.files import write_whole

__all__ = ["read", "write"]

_FORMAT = 1


def read(directory: Path) -> models.CreateCollection:
    """A collection's configuration.

    Raises:
        StoreDamagedError: the file is missing, unreadable, or of a newer format.
    """
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
    try:
        return models.CreateCollection(**content["config"])
    except (KeyError, TypeError, ValueError) as error:
        raise StoreDamagedError(
            f"{file} holds no configuration that qdrant-client reads ({error}): restore the file"
        ) from error


def write(directory: Path, config: models.CreateCollection) -> None:
    """Write a collection's configuration; a crash leaves the old file or the new one, whole."""
    content = {"format": _FORMAT, "config": config.model_dump(mode="json", exclude_none=True)}
    write_whole(
        directory / CONFIGURATION, json.dumps(content, indent=1, ensure_ascii=False).encode()
    )
