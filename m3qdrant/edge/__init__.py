"""Qdrant's own engine inside this process, behind qdrant-client's interface.

`QdrantEdge(path)` takes the calls that `qdrant_client.QdrantClient` takes, with the same models in
and out, and keeps its collections in a directory. `AsyncQdrantEdge(path)` is the same for asyncio.
Read the folder in this order:

    client.py      the class: opening and closing, collections, snapshots, payload indexes
    writing.py     its methods that change points; updates.py: what each of them means, as data
    reading.py     its methods that read points; built on the engine's plain queries:
    examples.py      search by example: point ids become vectors
    groups.py        hits by the value of a payload field
    indexes.py       payload indexes made when something needs them
    shard.py       one open collection: its turns, its process, the engine's failures as our errors
    lock.py        one process at a time
    sidecar.py     where a collection lies on the disk, and the configuration beside its data
    closed.py      what its files were like when it was closed, to see damage at the next opening
    snapshots.py   a collection as one file, and back
    checks.py      everything that is checked before the engine sees it
    translate.py   qdrant-client's models to the engine's types
    answers.py     the engine's types to qdrant-client's models
    arguments.py, filters.py, paths.py   small helpers, each for the thing it is named after
    aio.py         the asynchronous class: the same methods, run elsewhere
    worker.py      elsewhere: a process that runs the engine, and its handle in this one
    wire.py        how a call and its answer cross between the two
"""

from m3qdrant.edge.aio import AsyncQdrantEdge
from m3qdrant.edge.client import QdrantEdge

__all__ = ["AsyncQdrantEdge", "QdrantEdge"]
