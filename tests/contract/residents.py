"""Resident corpora of a store of either world."""

from __future__ import annotations

from typing import Any

from m3qdrant import AsyncResidentCorpus, ResidentCorpus
from tests.servers.blocking import Blocking

__all__ = ["resident"]


def resident(store: Any, **options: Any) -> Any:
    """A corpus of a store, whose methods wait."""
    if isinstance(store, Blocking):
        loaded = AsyncResidentCorpus.load(store._store, **options)
        return Blocking(store.wait(loaded), store._loop)
    return ResidentCorpus.load(store, **options)
