from .documents import Document as Document
from .hits import Hit as Hit
from .operations import StoreInfo as StoreInfo
from .requests import SearchOptions as SearchOptions
from .schema import M3Schema as M3Schema
