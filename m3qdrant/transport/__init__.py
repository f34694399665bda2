"""Who carries calls out: connections, retries, and what a client's failures mean."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
