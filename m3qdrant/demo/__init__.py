"""What a new user tries first: search what every machine has, and check the model.

The files:

    corpus        the running Python's standard library: one document a docstring
    index         the corpus in a store, indexed once and then kept
    published     the BGE-M3 tutorial's figures beside a model's own
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
