"""Qdrant's own engine inside this process, behind qdrant-client's interface.

`QdrantEdge(path)` takes the calls that `qdrant_client.QdrantClient` takes, with the same models in
and out, and keeps its collections in a directory. `AsyncQdrantEdge(path)` is the same for asyncio.
Nothing here knows of BGE-M3. From the bottom up, each importing only from those above it:

    disk/         a collection's files: where they lie, who holds them, how they come and go
    translate/    qdrant-client's models to the engine's types, checked on the way, and back
    arguments     the arguments that settle how a request reaches a cluster
    refusals      refusals as a server sends them, so that they are UnexpectedResponse too
    absent        what qdrant-client's classes have and the engine hasn't
    shard         one open collection: its turns, its process, the engine's failures as our errors
    vector_files  where multivectors lie in the engine's files, to be read from there
    shards        a server's shards made one collection of ours
    indexes       payload indexes made when something needs them
    examples      search by example: point ids become vectors
    groups        hits by the value of a payload field
    ties          points that rank alike, by id, on whatever page
    updates       what each method that changes points means, as data
    reading, writing
                  two parts of the class: what reads points, and what changes them
    configuring, aliasing
                  two more: a collection's configuration and indexes, and its other names
    client        the class: opening and closing, collections, snapshots
    worker/       a process that runs the engine, and its handle in this one
    async_client  the asynchronous class: the same methods, run in that process
    async_view    the asynchronous class over an open engine of this process, in a thread
    as_client     qdrant-client's own class with the engine behind it
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
