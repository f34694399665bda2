"""IngestReport: what people read, and what programs do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from m3qdrant import IngestReport, M3Encoder, M3Store
from m3qdrant.errors import DocumentError, SourceError
from m3qdrant.ingest.report import PassedOver


def test_what_failed_is_grouped_and_bounded() -> None:
    report = IngestReport(received=400, added=88)
    report.failed += [DocumentError(f"d{i}", "text", "missing") for i in range(300)]
    report.failed += [SourceError(f"a.jsonl:{i}", f"broken in way {i}") for i in range(12)]
    text = str(report)
    first, *lines = text.splitlines()
    assert first.startswith("88 of 400 documents stored")
    assert first.endswith("312 failed")
    assert lines[0].strip() == "not stored: 300: text: missing (d0, d1, d2, ...)"
    assert "broken in way 0 (a.jsonl:0)" in text
    assert lines[-1].strip() == "not stored: 5 more documents, for 5 other reasons"
    assert len(lines) == 9
    everything = json.loads(json.dumps(report.to_dict()))
    assert len(everything["failed"]) == 312
    assert everything["failed"][-1] == {
        "id": "a.jsonl:11",
        "field": "source",
        "reason": "broken in way 11",
        "source": "a.jsonl:11",
    }


def test_a_reason_is_one_short_line_that_moves_no_cursor() -> None:
    report = IngestReport(failed=[DocumentError("a\x1b[2J\nb", "text", "x\n" * 1_000)])
    (line,) = report.remarks
    assert line.isprintable()
    assert len(line) < 400


def test_files_passed_over_are_counted_by_reason() -> None:
    report = IngestReport()
    for i in range(1_000):
        report.pass_over(PassedOver(".png files are not read", 1, [f"{i}.png"]))
    report.pass_over(PassedOver("empty", 1, ["a.txt"]))
    assert "1001 files passed over" in report.summary
    assert report.remarks == [
        "passed over: 1000: .png files are not read (0.png, 1.png, 2.png, ...)",
        "passed over: 1: empty (a.txt)",
    ]
    images, empty = report.to_dict()["passed_over"]
    assert (images["files"], len(images["examples"])) == (1_000, 100)
    assert empty == {"reason": "empty", "files": 1, "examples": ["a.txt"]}


def test_what_was_cut_is_said_with_the_remedy(tmp_path: Path, encoder: M3Encoder) -> None:
    with M3Store(tmp_path, "d", encoder) as store:
        report = store.add([{"id": "long", "text": "word " * 900}, {"id": "short", "text": "x"}])
    assert report.to_dict()["truncated_ids"] == ["long"]
    assert report.truncated == 1
    (line,) = report.remarks
    assert line.startswith("cut: 1 texts are longer")
    assert "(long)" in line
    assert "split them" in line


def test_a_python_caller_reads_the_reasons(tmp_path: Path, encoder: M3Encoder) -> None:
    with M3Store(tmp_path, "d", encoder) as store:
        bad: list[Any] = ["a", {"id": "b"}, {"id": "c", "text": 5}, 7, {"id": "e"}]
        report = store.add(bad)
    text = str(report)
    assert text.startswith("1 of 5 documents stored")
    assert "4 failed" in text
    for part in ("missing", "(b, e)", "int", "c"):
        assert part in text
