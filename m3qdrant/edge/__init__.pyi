from .as_client import as_qdrant_client as as_qdrant_client
from .as_client import engine_of as engine_of
from .async_client import AsyncQdrantEdge as AsyncQdrantEdge
from .async_view import AsyncQdrantEdgeView as AsyncQdrantEdgeView
from .client import QdrantEdge as QdrantEdge
from .refusals import as_response as as_response
