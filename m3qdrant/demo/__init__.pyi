from .index import open_demo as open_demo
from .published import verify as verify
