"""A file is there whole, or as it was, through failures and kill -9, and with the usual rights."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from m3qdrant.edge.disk.leftovers import is_leftover
from m3qdrant.files import replacing, sync_directory, write_whole

posix = pytest.mark.skipif(os.name != "posix", reason="this system has other rights")


def test_it_writes_and_replaces(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_whole(target, b"one")
    assert target.read_bytes() == b"one"
    write_whole(target, b"")
    assert target.read_bytes() == b""
    with replacing(target) as temporary:
        assert temporary.parent == tmp_path, "on the same file system"
        temporary.write_bytes(b"two")
        assert target.read_bytes() == b"", "as it was until the block ends"
    assert os.listdir(tmp_path) == ["file"]
    assert target.read_bytes() == b"two"


class OddError(BaseException):
    """Neither an Exception nor known to anybody."""


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt(), OddError()], ids=repr)
@pytest.mark.parametrize("existed", [True, False], ids=["old", "new"])
def test_a_failure_leaves_the_old_file(
    tmp_path: Path, error: BaseException, existed: bool
) -> None:
    target = tmp_path / "file"
    if existed:
        target.write_bytes(b"old")

    def fail() -> None:
        with replacing(target) as temporary:
            temporary.write_bytes(b"half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert os.listdir(tmp_path) == (["file"] if existed else [])
    assert not existed or target.read_bytes() == b"old"


def test_a_block_that_writes_nothing(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with pytest.raises(FileNotFoundError), replacing(target):
        pass
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_target_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(OSError):  # noqa: PT011  which one differs among systems
        write_whole(tmp_path / "directory", b"x")
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "missing" / "file", b"x")
    assert os.listdir(tmp_path) == ["directory"]


def test_what_is_left_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sweeps up after a crash knows the names of what it leaves."""
    for name in ("collection.json", "closed.json"):
        with replacing(tmp_path / name) as temporary:
            assert is_leftover(temporary.name)
            assert not is_leftover(name)
            temporary.write_bytes(b"")


@posix
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002], ids=oct)
def test_a_new_file_has_the_usual_rights(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_whole(tmp_path / "ours", b"x")
        (tmp_path / "plain").write_bytes(b"x")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ours", "plain")]
    assert modes[0] == modes[1] == 0o666 & ~mask


@posix
@pytest.mark.parametrize("number", [errno.EACCES, errno.EINVAL, errno.ENOTSUP])
def test_a_directory_that_cannot_be_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fsync = os.fsync

    def refuse(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", refuse)
    write_whole(tmp_path / "file", b"x")
    assert (tmp_path / "file").read_bytes() == b"x"
    assert os.listdir(tmp_path) == ["file"]


@posix
def test_a_disk_that_fails_is_no_such_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(handle: int) -> None:
        raise OSError(errno.EIO, "the disk fails")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="the disk fails"):
        sync_directory(tmp_path)
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(OSError, match="the disk fails"):
        write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@posix
def test_it_is_on_the_disk_before_it_takes_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Content first, then the name, then the directory: a loss of power finds one or the other."""
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(handle: int) -> None:
        done.append("directory" if stat.S_ISDIR(os.fstat(handle).st_mode) else "content")
        fsync(handle)

    def renamed(self: Path, target: Path) -> Path:
        done.append("name")
        replace(self, target)
        return target

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    write_whole(tmp_path / "file", b"x")
    assert done == ["content", "name", "directory"]


def test_writers_at_once(tmp_path: Path) -> None:
    """Each writes its own file first, so that one of them is there, whole."""
    target = tmp_path / "file"
    contents = [bytes([i]) * 100_000 for i in range(8)]
    threads = [threading.Thread(target=write_whole, args=(target, c)) for c in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_bytes() in contents
    assert os.listdir(tmp_path) == ["file"]


WRITER = """
import sys
from pathlib import Path
from m3qdrant.files import write_whole
target = Path(sys.argv[1])
for i in range(10**9):
    write_whole(target, bytes([i % 256]) * 200_000)
    if i == 0:
        print("writing", flush=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_kill_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    target = tmp_path / "collection.json"
    for trial in range(6):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(target)], stdout=subprocess.PIPE
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"writing\n"
        time.sleep(0.003 * trial)
        writer.kill()
        writer.communicate()
        content = target.read_bytes()
        assert len(content) == 200_000
        assert len(set(content)) == 1, "parts of two contents"
        left = [name for name in os.listdir(tmp_path) if name != target.name]
        assert all(is_leftover(name) for name in left)
