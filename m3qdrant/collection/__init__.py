"""What is asked of Qdrant, as data: no module here does any I/O.

The files:

    documents, provenance    what users put in; what a stored point says of its making
    schema, layout           how a user wants vectors stored; what Qdrant is told about it
    points                   embeddings to points, checked
    unit                     how far from length 1 what comes back may be
    filters, search          what a search asks beside its query
    requests                 from a query and a search to Qdrant's requests, and back
    fusion                   the modes: from component scores to a ranking
    searching, diversity     a search as an operation; its ranking diversified
    reranking                the candidates' scores by a reranker, in the engine's place
    point_scores             points of anybody's collection, ranked by a reranker
    standing                 where a document stands in a ranking, by its components
    recovering, explaining   what stored vectors stand for; why a document ranks where it does
    hits                     a found document, and a search's
    calls                    Qdrant's methods as typed values, and operations made of them
    operations               a collection's other operations
    capabilities, versions   what an engine can do; what a server must be for each feature
    carrying                 operations whose calls are carried out another way
    strict                   operations kept to what a collection's strict mode allows
    batches                  points in batches that a server accepts
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
