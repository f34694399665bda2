"""Qdrant's own engine inside this process, behind qdrant-client's interface.

`QdrantEdge(path)` takes the calls that `qdrant_client.QdrantClient` takes, with the same models in
and out, and keeps its collections in a directory. Read the folder in this order:

    client.py      the class: each of qdrant-client's methods, one screen or less
    shard.py       one open collection: its turns, its process, the engine's failures as our errors
    lock.py        one process at a time
    sidecar.py     where a collection lies on the disk, and the configuration beside its data
    checks.py      everything that is checked before the engine sees it
    translate.py   qdrant-client's models to the engine's types
    answers.py     the engine's types to qdrant-client's models
"""

from m3qdrant.edge.client import QdrantEdge

__all__ = ["QdrantEdge"]
