"""What an engine can do, as a value: who needs to know asks this, and not the engine's name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["EMBEDDED", "MEMORY", "SERVER", "Capabilities", "Engine"]

Engine: TypeAlias = Literal["embedded", "memory", "server"]
"""What answers: `QdrantEdge`, qdrant-client's own local mode, or a Qdrant server."""


@dataclass(frozen=True)
class Capabilities:
    """What can be asked of an engine.

    Attributes:
        engine: its name, for people.
        remote: calls cross a network: they may fail for a while, and what answers may be of
            another version, or a cluster.
        indexes: it has payload indexes and graphs; without, everything is compared.
        optimizes: it builds its indexes when told to (`optimize`, `unindexed`), not by itself.
        alters: vectors' settings can be changed after the creation (`update_collection`).
        threads: it bears calls from other threads than the one that made it.
        files: its files can be read from here (`vector_files`).
        arrays: it takes float32 arrays where qdrant-client's models have lists of floats.
        versions: a point's version changes with each write to it.
    """

    engine: Engine
    remote: bool = False
    indexes: bool = True
    optimizes: bool = False
    alters: bool = False
    threads: bool = True
    files: bool = False
    arrays: bool = False
    versions: bool = True


EMBEDDED = Capabilities("embedded", optimizes=True, files=True, arrays=True)
MEMORY = Capabilities("memory", indexes=False, threads=False, versions=False)
SERVER = Capabilities("server", remote=True, alters=True)
