from .doctor import aexamine as aexamine
from .doctor import examine as examine
from .doctor import size_on_disk as size_on_disk
from .findings import Finding as Finding
from .migration import amigrate as amigrate
from .migration import migrate as migrate
from .outcome import MigrationReport as MigrationReport
