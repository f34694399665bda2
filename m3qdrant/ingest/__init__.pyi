from .report import IngestReport as IngestReport
