"""Long documents, a passage each: their ids, their payload, and nothing of them lost."""

from __future__ import annotations

import random
from typing import Any

from m3qdrant import Document, M3Encoder
from m3qdrant.ingest import split_documents


def test_documents_in_passages() -> None:
    tiny = M3Encoder.from_pretrained("m3-tiny")
    chance = random.Random(5)
    long = " ".join("".join(chance.choices("abcdefgh", k=7)) for _ in range(800))
    items: list[Any] = ["short", {"id": "a", "text": long, "n": 1}, {"id": "bad"}, 7]
    items.append(Document("b", "one"))
    found = list(split_documents(items, tiny))
    parts = [Document.of(item) for item in found if item not in items]
    assert [item for item in found if item in items] == [
        item for item in items if item is not items[1]
    ]
    assert [part.id for part in parts] == [f"a#{i}" for i in range(1, len(parts) + 1)]
    assert len(parts) > 2
    assert all(part.payload == {"n": 1, "part_of": "a"} for part in parts)
    assert " ".join(part.text for part in parts).split() == long.split()
    assert max(tiny.count_tokens([part.text for part in parts])) <= tiny.max_length
    # again, it is the same; and each passage fits
    assert list(split_documents(parts, tiny)) == parts
