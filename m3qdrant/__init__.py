"""BGE-M3's dense, sparse and ColBERT vectors in Qdrant.

The public names stand in `__init__.pyi` and are imported on first use, so `import m3qdrant` loads
neither torch nor qdrant. A room is a package, whose `__init__.py` says what is in it and whose
`__init__.pyi` what others may use. Each imports only from those above it; import-linter checks it:

    errors, limits, names, scalars,      the ground that all stand on
    jsonpath, files, progress
    encode/                              texts to three views of them, without Qdrant
    scoring                              views to scores
    rank/                                scores after the search, without Qdrant
    edge/                                the embedded engine behind qdrant-client's interface
    collection/                          what is asked of Qdrant, as data; no I/O
    transport/                           who carries it out: connections and retries
    ingest/                              from a source to points
    store/                               M3Store and AsyncM3Store
    upkeep/                              whole collections: copied, compared, examined
    demo/                                the standard library as a corpus; the published figures
    cli/                                 the command line
"""

import sys
from typing import Any

import lazy_loader

__version__ = "0.1.0"

_attribute, _, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__]
        )
    return _attribute(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
