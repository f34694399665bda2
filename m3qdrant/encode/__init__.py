"""Texts to BGE-M3's three views of them, and nothing of Qdrant.

The files:

    protocol      Encoder: what the store asks of whatever encodes
    embeddings    the views, as plain data
    checkpoint    a checkpoint: found or fetched, its files read and checked
    layouts       which files these are, and what can't be used
    identity      a digest of everything that shapes a vector
    network       M3Model: XLM-RoBERTa's body and three heads
    arguments     what callers give, checked
    prefix        the first tokens of a text that is far too long
    spans         which characters of a text each token stands for
    forking       what a forked process can do
    batching      a call's texts in batches, and the results in their places
    encoder       M3Encoder: texts in, views out
    pooling       fewer ColBERT vectors for a text
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
