from .async_store import AsyncM3Store as AsyncM3Store
from .sync_store import M3Store as M3Store
