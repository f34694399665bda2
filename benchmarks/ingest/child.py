"""``python -m benchmarks.ingest.child N SENTENCES DIRECTORY``: ingest pairs; tell stdout how far.

Each line is a JSON object: {"opened": seconds, "count": n}, {"read": n} now and then, and at the
end {"report": ..., "seconds": ...} with "interrupted": true after SIGINT.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.ingest.documents import documents
from m3qdrant import Document, M3Encoder, M3Store
from m3qdrant.errors import IngestInterrupted

COLLECTION = "pairs"
MODEL = "m3-tiny"
EVERY = 128
"""Documents between two lines, and in a chunk (m3qdrant.ingest.CHUNK_DOCUMENTS)."""


def main() -> int:
    """Ingest everything; the exit status is 130 after SIGINT."""
    n, found, directory = int(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()), sys.argv[3]
    encoder = M3Encoder.from_pretrained(MODEL, device="cpu")
    started = time.perf_counter()
    with M3Store(directory, COLLECTION, encoder) as store:
        tell(opened=time.perf_counter() - started, count=store.count())
        started = time.perf_counter()
        try:
            report = store.add(_told(documents(n, found)), total=n)
        except IngestInterrupted as stop:
            report, interrupted = stop.report, True
        else:
            interrupted = False
        seconds = time.perf_counter() - started
    tell(report=report.to_dict(), seconds=seconds, interrupted=interrupted)
    return 130 if interrupted else 0


def tell(**what: Any) -> None:
    """A line for the process that watches."""
    print(json.dumps(what), flush=True)


def _told(items: Iterator[Document]) -> Iterator[Document]:
    for i, item in enumerate(items):
        if i % EVERY == 0:
            tell(read=i)
        yield item


if __name__ == "__main__":
    sys.exit(main())
