from .arena import Arena as Arena
from .held import Held as Held
