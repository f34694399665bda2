from .arena import Arena as Arena
from .held import Held as Held
from .reranker import M3Reranker as M3Reranker
from .work import Work as Work
