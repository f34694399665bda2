from .corpus import stdlib_docstrings as stdlib_docstrings
from .index import QUERIES as QUERIES
from .index import open_demo as open_demo
from .published import TOLERANCE as TOLERANCE
from .published import Figure as Figure
from .published import Verification as Verification
from .published import verify as verify
