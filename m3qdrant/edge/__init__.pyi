from .async_client import AsyncQdrantEdge as AsyncQdrantEdge
from .client import QdrantEdge as QdrantEdge
