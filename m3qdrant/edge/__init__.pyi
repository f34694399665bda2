from .async_client import AsyncQdrantEdge as AsyncQdrantEdge
from .client import QdrantEdge as QdrantEdge
from .refusals import as_response as as_response
