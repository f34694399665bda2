"""Who carries calls out.

The files:

    connecting  the client for a location
    nodes       one cluster by several of its nodes
    protocols   which protocol a server is asked by, and why
    authorities whose certificates are trusted
    engines     what a client can do
    running     operations carried out, sync and async
    retries     how long to go on where a server fails for a while
    files       files that a server hands out over REST
    failures    what the failures of Qdrant's clients mean
    wire/       vectors over gRPC as the bytes that they are
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
