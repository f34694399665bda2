from .embeddings import M3Embeddings as M3Embeddings
from .embeddings import SparseRow as SparseRow
from .embeddings import SparseVectors as SparseVectors
from .embeddings import TokenVectors as TokenVectors
from .encoder import M3Encoder as M3Encoder
from .encoder import TruncationWarning as TruncationWarning
from .pooling import pool_query as pool_query
from .pooling import pool_tokens as pool_tokens
