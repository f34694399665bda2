"""M3Store and AsyncM3Store, a collection of documents open for adding and searching.

And beside them: points of anybody's collection, reranked.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
