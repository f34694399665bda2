from .doctor import examine as examine
from .findings import Finding as Finding
from .migration import MigrationReport as MigrationReport
from .migration import migrate as migrate
