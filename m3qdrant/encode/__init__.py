"""Texts to BGE-M3's three views of them, and nothing of Qdrant.

embeddings    the views, as plain data
encoder       M3Encoder: texts in, views out
network       the model: XLM-RoBERTa's body and three heads
pooling       fewer ColBERT vectors for a text
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
