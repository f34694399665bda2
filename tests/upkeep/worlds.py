"""`migrate` and `examine` beside `amigrate` and `aexamine`: one call for a test of both."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from m3qdrant.upkeep import MigrationReport, aexamine, amigrate, examine, migrate
from m3qdrant.upkeep.findings import Finding

__all__ = ["ASYNCHRONOUS", "SYNCHRONOUS", "WORLDS", "World"]


@dataclass(frozen=True)
class World:
    """Upkeep in one of the two worlds, for a caller who waits."""

    name: str

    @property
    def asynchronous(self) -> bool:
        return self is ASYNCHRONOUS

    @property
    def interruption(self) -> type[BaseException]:
        """What whoever waits is ended by."""
        return asyncio.CancelledError if self.asynchronous else KeyboardInterrupt

    def migrate(self, source: Any, target: Any, *names: str, **options: Any) -> MigrationReport:
        """`migrate` or `amigrate`; a memory client is made by `memory`."""
        if not self.asynchronous:
            return migrate(source, target, *names, **options)
        return asyncio.run(amigrate(source, target, *names, **options))

    def examine(self, location: Any, collection: str | None = None) -> list[Finding]:
        """`examine` or `aexamine`."""
        if not self.asynchronous:
            return examine(location, collection)
        return asyncio.run(aexamine(location, collection))


SYNCHRONOUS, ASYNCHRONOUS = World("sync"), World("async")
WORLDS = (SYNCHRONOUS, ASYNCHRONOUS)
