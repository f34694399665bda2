"""Whole collections: copied to another place, compared, examined; for each, sync and async.

The files:

    migration    a collection copied, point by point, and verified; outcome: what was done
    pulls        a server's collection taken over by a directory; pulling: by its files
    sampling     whether two places hold the same, by a sample
    likeness     collections made alike; equality: points that are the same
    replicas     a cluster's shards, on its nodes
    doctor       a location examined; findings: the rules; damage: what no ingest can have written
    sides        calls that say which of several places they are for
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
