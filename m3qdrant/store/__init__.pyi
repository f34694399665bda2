from .async_resident import AsyncResidentCorpus as AsyncResidentCorpus
from .async_store import AsyncM3Store as AsyncM3Store
from .points import arerank_points as arerank_points
from .points import rerank_points as rerank_points
from .resident_base import CorpusChanges as CorpusChanges
from .sync_resident import ResidentCorpus as ResidentCorpus
from .sync_store import M3Store as M3Store
