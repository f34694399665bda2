"""Token vectors in a folder: whole after any end, of one collection, as they were written."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m3qdrant.errors import EngineError, InputError, SchemaMismatchError, StoreDamagedError
from m3qdrant.rank import RowsFile, TokenPage
from tests.rank.corpora import documents, page

WHAT = {"collection": "c", "vector": "colbert", "model": "f1"}


def opened(folder: Path, dtype: str = "float32", dim: int = 32, **changed: Any) -> RowsFile:
    return RowsFile(folder, {**WHAT, **changed}, dim, dtype)


def living(file: RowsFile, most: int = 50) -> dict[int, tuple[str, Any, list[list[float]]]]:
    """What there is by id: the name, the mark, the rows."""
    found = {}
    for stretch in file.stretches(most):
        position = 0
        rows = 0
        for each in stretch.pages:
            starts = each.offsets
            assert np.array_equal(stretch.rows[rows : rows + len(each.rows)].numpy(), each.rows)
            rows += len(each.rows)
            for i, id in enumerate(each.ids):
                if position not in stretch.dead:
                    vectors = each.rows[starts[i] : starts[i + 1]].tolist()
                    assert id not in found
                    found[int(id)] = (each.names[i], each.marks[i], vectors)
                position += 1
    return found


def expected(*pages: TokenPage) -> dict[int, tuple[str, Any, list[list[float]]]]:
    found = {}
    for each in pages:
        starts = each.offsets
        for i, id in enumerate(each.ids):
            rows = each.rows[starts[i] : starts[i + 1]].tolist()
            found[int(id)] = (each.names[i], each.marks[i], rows)
    return found


def test_what_was_written_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    pages = [page(documents(1, 12)), page(documents(2, 5), 12), page(documents(3, 4), 10)]
    file = opened(tmp_path)
    assert file.resumed == 0
    for each in pages:
        file.append(each)
    file.append(page([]))
    file.forget([3, 4])
    wanted = expected(*pages)
    del wanted[3], wanted[4]
    assert living(file) == wanted
    file.close()
    file.close()
    again = opened(tmp_path)
    assert living(again) == living(again, 1) == living(again, 10**9) == wanted
    assert again.resumed == len(wanted) == len(again.marks)
    again.append(page(documents(4, 3), 3))
    assert living(again) == {**wanted, **expected(page(documents(4, 3), 3))}
    again.close()


def test_cut_off_anywhere_it_has_the_pages_before(tmp_path: Path) -> None:
    """As a kill leaves it: each length of the log, with as many rows or more."""
    pages = [page(documents(i, 3, most=3), 3 * i) for i in range(3)]
    file = opened(tmp_path)
    ends = [(tmp_path / "index.log").stat().st_size]
    for each in pages:
        file.append(each)
        ends.append((tmp_path / "index.log").stat().st_size)
    rows = file.rows
    file.close()
    whole = (tmp_path / "index.log").read_bytes()
    content = next(tmp_path.glob("rows-*.bin")).read_bytes()
    for length in sorted({*range(ends[0], len(whole), 7), *ends}):
        (tmp_path / "index.log").write_bytes(whole[:length])
        next(tmp_path.glob("rows-*.bin")).write_bytes(content + b"half a row")
        there = sum(end <= length for end in ends[1:])
        file = opened(tmp_path)
        assert living(file) == expected(*pages[:there]), length
        for each in pages[there:]:  # and it goes on
            file.append(each)
        assert (living(file), file.rows) == (expected(*pages), rows)
        file.close()
    assert next(tmp_path.glob("rows-*.bin")).read_bytes() == content


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        ("rows", r"the rows of 4 documents from 'd0000' on have changed"),
        ("rows cut", r"rows-.*\.bin has 12 bytes and had"),
        ("rows gone", r"rows-.*\.bin has 0 bytes"),
        ("line", r"line 2 of index.log has changed"),
        ("first line", "index.log does not begin as it should|line 1 of index.log has changed"),
        ("empty log", "index.log does not begin as it should"),
        ("format", "has the format 9, and this version reads 1"),
    ],
)
def test_damage_is_said(tmp_path: Path, harm: str, message: str) -> None:
    file = opened(tmp_path)
    for i in range(3):
        file.append(page(documents(i, 4), 4 * i))
    file.close()
    log, rows = tmp_path / "index.log", next(tmp_path.glob("rows-*.bin"))
    lines = log.read_bytes().splitlines(keepends=True)
    if harm == "rows":
        content = bytearray(rows.read_bytes())
        content[50] ^= 1
        rows.write_bytes(content)
    elif harm == "rows cut":
        os.truncate(rows, 12)
    elif harm == "rows gone":
        rows.unlink()
    elif harm == "line":
        log.write_bytes(lines[0] + lines[1].replace(b"d0001", b"d0009") + lines[2])
    elif harm == "first line":
        log.write_bytes(lines[0][:-5] + b"xxxx\n" + lines[1])
    elif harm == "empty log":
        log.write_bytes(b"")
    else:
        log.unlink()
        rows.unlink()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("m3qdrant.rank.rows_file._FORMAT", 9)
            opened(tmp_path).close()
    with pytest.raises(StoreDamagedError, match=message) as raised:
        living(opened(tmp_path))
    assert "delete it, and it is filled anew" in str(raised.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"collection": "other"}, "collection is 'c' there, and 'other' here"),
        ({"model": "f2"}, "model is 'f1' there, and 'f2' here"),
        ({"dim": 16}, "dim is 32 there, and 16 here"),
        ({"dtype": "float16"}, "dtype is 'float32' there, and 'float16' here"),
    ],
)
def test_what_is_of_something_else_is_refused(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    file = opened(tmp_path)
    file.append(page(documents(1, 2)))
    file.close()
    with pytest.raises(SchemaMismatchError, match=f"{message}: give another folder") as raised:
        opened(tmp_path, **changed)
    assert raised.value.differences == [message]
    file = opened(tmp_path)
    assert file.resumed == 2  # it was not touched
    file.close()


def test_a_folder_of_other_things_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match=r"holds 'thesis.txt', and no token vectors"):
        opened(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["thesis.txt"]


def test_mostly_dead_it_is_written_anew(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    file = opened(tmp_path)
    kept = page(documents(seed, 20))
    file.append(kept)
    for i in range(4):
        file.append(page(documents(seed + i, 9), 100))
        file.append(page(documents(seed + i, 9), 200))
    file.forget(range(200, 209))
    last = page(documents(seed + 3, 9), 100)
    before = file.rows
    wanted = living(file)
    assert wanted == expected(kept, last)
    file.close()
    (tmp_path / "rows-left-by-a-crash.bin").write_bytes(b"x")
    (tmp_path / ".index.log-0123").write_bytes(b"x")
    file = opened(tmp_path)
    assert living(file) == wanted
    assert file.rows == len(kept.rows) + len(last.rows) < before
    size = next(tmp_path.glob("rows-*.bin")).stat().st_size
    assert size == file.rows * 32 * 4
    assert sorted(each.name.partition("-")[0] for each in tmp_path.iterdir()) == [
        "index.log",
        "rows",
    ]
    file.close()


def test_half_precision_takes_half(tmp_path: Path) -> None:
    file = opened(tmp_path, "float16")
    given = page([each.half().float() for each in documents(1, 5)])
    file.append(given)
    assert living(file) == expected(given)
    assert next(tmp_path.glob("rows-*.bin")).stat().st_size == 2 * given.rows.size
    file.close()


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    file = opened(tmp_path)
    file.append(page(documents(1, 6)))
    given = page(documents(2, 300), 6)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = next(tmp_path.glob("rows-*.bin")).stat().st_size
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 1000, hard))
    try:
        with pytest.raises(EngineError, match=r"can't be written .*make room, and load"):
            file.append(given)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    file.close()
    file = opened(tmp_path)
    assert living(file) == expected(page(documents(1, 6)))
    file.append(given)
    assert living(file) == expected(page(documents(1, 6)), given)
    file.close()


def test_it_goes_on_after_a_page_that_failed(tmp_path: Path) -> None:
    file = opened(tmp_path)
    file.append(page(documents(1, 6)))
    given = page(documents(2, 4), 6)
    synced = os.fsync

    def failing(handle: int) -> None:
        if os.path.basename(os.readlink(f"/proc/self/fd/{handle}")) == "index.log":
            raise OSError(28, "No space left on device")
        synced(handle)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(EngineError, match="No space left"):
            file.append(given)
    assert living(file) == expected(page(documents(1, 6)))
    file.append(given)
    file.close()
    file = opened(tmp_path)
    assert living(file) == expected(page(documents(1, 6)), given)
    file.close()
