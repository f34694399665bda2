from .async_store import AsyncM3Store as AsyncM3Store
from .points import arerank_points as arerank_points
from .points import rerank_points as rerank_points
from .sync_store import M3Store as M3Store
