from . import errors as errors
from . import scoring as scoring
from .collection import Document as Document
from .collection import Hit as Hit
from .collection import M3Schema as M3Schema
from .collection import SearchOptions as SearchOptions
from .collection import StoreInfo as StoreInfo
from .edge import AsyncQdrantEdge as AsyncQdrantEdge
from .edge import AsyncQdrantEdgeView as AsyncQdrantEdgeView
from .edge import QdrantEdge as QdrantEdge
from .edge import as_qdrant_client as as_qdrant_client
from .encode import Encoder as Encoder
from .encode import M3Embeddings as M3Embeddings
from .encode import M3Encoder as M3Encoder
from .encode import SparseRow as SparseRow
from .encode import SparseVectors as SparseVectors
from .encode import TokenVectors as TokenVectors
from .encode import TruncationWarning as TruncationWarning
from .ingest import IngestReport as IngestReport
from .ingest import PassedOver as PassedOver
from .rank import M3Reranker as M3Reranker
from .store import AsyncM3Store as AsyncM3Store
from .store import M3Store as M3Store
from .store import arerank_points as arerank_points
from .store import rerank_points as rerank_points
from .transport import Retries as Retries

__version__: str
