"""Where a collection's multivectors lie in the engine's own files, to be read from there.

The engine gives vectors as lists of Python's floats, 140 MB of them a second. Its files hold the
same numbers one after the other, and are read as fast as the disk, or memory, gives them. They are
mapped, read-only; what says which rows are whose is read in the engine's turn, after a flush:

    segments/ID/version.info                              "0.6.0"
    segments/ID/segment.json                              how each vector is kept
    segments/ID/mutable_id_tracker.mappings, .versions    a log of ids; a u64 a point
    segments/ID/id_tracker.mappings, .versions, .deleted  the same, once it is optimized
    segments/ID/vector_storage-NAME/offsets/chunk_N.mmap  a point's first row, its rows, and room
    segments/ID/vector_storage-NAME/vectors/chunk_N.mmap  rows; no multivector lies in two chunks
    segments/ID/vector_storage-NAME/deleted/flags_a.dat   a bit for each point without the vector

(Qdrant's lib/segment: id_tracker, vector_storage/multi_dense.) Only where all of it is as it is
known to be; anything else is an `UnsupportedError`, and the vectors are to be asked for.

Rows may change while they are read, for the engine goes on. Whoever reads asks afterwards whether
the points' versions are still those that stand here.
"""

from __future__ import annotations

import json
import struct
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from m3qdrant.edge.disk.directory import SHARD
from m3qdrant.errors import UnsupportedError

__all__ = ["FileRows", "VectorFiles", "locate"]

_ENGINE = "0.9."
_SEGMENT = "0.6.0"
_STORAGES = ("InRamChunkedMmap", "ChunkedMmap", "InRamMmap", "Mmap")
_DTYPES = {None: "<f4", "float32": "<f4", "float16": "<f2"}


class FileRows(NamedTuple):
    """Multivectors of some points.

    Attributes:
        ids: n points, of those that were asked for.
        versions: (n,), the operations that wrote them.
        rows: (sum of lengths, dim) float32 or float16, as they are stored.
        lengths: (n,) int64.
    """

    ids: list[Any]
    versions: list[int]
    rows: NDArray[Any]
    lengths: NDArray[np.int64]


@dataclass(frozen=True)
class _Rows:
    """The rows of one segment, chunk after chunk."""

    folder: Path
    rows_a_chunk: int
    dim: int
    dtype: str
    maps: dict[int, NDArray[Any]] = field(default_factory=dict, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "maps": {}}  # each process maps for itself

    def read(self, first: int, count: int, out: NDArray[Any]) -> None:
        number, start = divmod(first, self.rows_a_chunk)
        chunk = self.maps.get(number)
        if chunk is None:
            file = self.folder / f"chunk_{number}.mmap"
            flat = np.memmap(file, self.dtype, "r")
            chunk = flat[: len(flat) // self.dim * self.dim].reshape(-1, self.dim)
            self.maps[number] = chunk
        out[:] = chunk[start : start + count]


@dataclass(frozen=True)
class VectorFiles:
    """A collection's multivectors of one name, by point.

    Attributes:
        places: of each point the number of its segment, its first row, its rows and its version.
    """

    segments: tuple[_Rows, ...]
    places: dict[Any, tuple[int, int, int, int]]

    def read(self, ids: Sequence[Any]) -> FileRows:
        """The rows of those of the points that are here, in the files' order.

        Raises:
            UnsupportedError: the files are not as they were.
        """
        here = ((self.places[id], id) for id in ids if id in self.places)
        found = sorted(here, key=lambda entry: entry[0])
        lengths = np.array([place[2] for place, _ in found], np.int64)
        one = self.segments[0] if self.segments else None
        shape = (int(lengths.sum()), one.dim if one is not None else 0)
        rows = np.empty(shape, one.dtype if one is not None else "<f4")
        at = 0
        try:
            for (segment, first, count, _), _ in found:
                self.segments[segment].read(first, count, rows[at : at + count])
                at += count
        except (OSError, ValueError) as error:
            raise UnsupportedError(f"the engine's files have changed ({error})") from error
        return FileRows([id for _, id in found], [place[3] for place, _ in found], rows, lengths)


def locate(directory: Path, vector: str, dim: int) -> VectorFiles:
    """Where the multivectors of a collection are, which nobody is changing meanwhile.

    Args:
        directory: the collection's.
        vector: the multivector's name.
        dim: width of its rows.

    Raises:
        UnsupportedError: the files are not as this version knows them; says what is different.
    """
    engine = version("qdrant-edge-py")
    if not engine.startswith(_ENGINE):
        raise UnsupportedError(f"the files of qdrant-edge-py {engine} are not known")
    segments: list[_Rows] = []
    places: dict[Any, tuple[int, int, int, int]] = {}
    try:
        for folder in sorted((directory / SHARD / "segments").iterdir()):
            if not (folder / "segment.json").exists():
                continue  # one that the engine is yet to remove
            rows = _rows_of(folder, vector, dim)
            for id, first, count, written in _points(folder, vector):
                there = places.get(id)
                if there is None or written > there[3]:  # the newest of several copies
                    places[id] = (len(segments), first, count, written)
            segments.append(rows)
    except (OSError, ValueError, KeyError, IndexError, struct.error) as error:
        raise UnsupportedError(
            f"{directory}: its files are not as this version knows them ({error!r})"
        ) from error
    if len({segment.dtype for segment in segments}) > 1:
        raise UnsupportedError(f"{directory}: its segments keep other numbers each")
    return VectorFiles(
        tuple(segments), {id: place for id, place in places.items() if place[2] > 0}
    )


def _need(true: bool, what: str) -> None:
    if not true:
        raise ValueError(what)


def _rows_of(folder: Path, vector: str, dim: int) -> _Rows:
    _need((folder / "version.info").read_text() == _SEGMENT, "another version of segments")
    config = json.loads((folder / "segment.json").read_text())["config"]["vector_data"][vector]
    _need(config["storage_type"] in _STORAGES, f"vectors in {config['storage_type']}")
    _need(config.get("multivector_config") == {"comparator": "max_sim"}, "no multivector")
    _need(config["size"] == dim, f"vectors of {config['size']}")
    dtype = _DTYPES[config.get("datatype")]
    storage = _storage(folder, vector)
    settings = json.loads((storage / "vectors" / "config.json").read_text())
    _need(settings["dim"] == dim, f"rows of {settings['dim']}")
    return _Rows(storage / "vectors", settings["chunk_size_vectors"], dim, dtype)


def _storage(folder: Path, vector: str) -> Path:
    return folder / (f"vector_storage-{vector}" if vector else "vector_storage")


def _points(folder: Path, vector: str) -> Iterator[tuple[int | str, int, int, int]]:
    """Each living point's id, first row, rows (0 without the vector), and version."""
    mutable = (folder / "mutable_id_tracker.mappings").exists()
    name = "mutable_id_tracker" if mutable else "id_tracker"
    mappings = folder / f"{name}.mappings"
    if not mappings.exists():
        return  # a segment that nothing was written to
    content = mappings.read_bytes()
    internal = dict(_log(content)) if mutable else dict(_table(content))
    if not internal:
        return
    versions = np.fromfile(folder / f"{name}.versions", "<u8")
    gone: NDArray[np.uint8] = np.empty(0, np.uint8)
    if not mutable:
        gone = _bits(folder / "id_tracker.deleted")
    storage = _storage(folder, vector)
    offsets = _offsets(storage / "offsets")
    n = int(np.fromfile(storage / "deleted" / "status.dat", "<u8", 1)[0])
    without = _bits(storage / "deleted" / "flags_a.dat")[:n]
    for id, place in internal.items():
        if place < len(gone) and gone[place]:
            continue
        first, count, _ = offsets[place].tolist()
        lacks = place < len(without) and without[place]
        yield id, first, 0 if lacks else count, int(versions[place])


def _bits(file: Path) -> NDArray[np.uint8]:
    return np.unpackbits(np.fromfile(file, np.uint8), bitorder="little")


def _offsets(folder: Path) -> NDArray[np.uint32]:
    """A point's first row, its rows, and the room for them, (n, 3)."""
    settings = json.loads((folder / "config.json").read_text())
    _need(settings["dim"] == 1, "offsets of another form")
    n = int(np.fromfile(folder / "status.dat", "<u8", 1)[0])
    each, found = settings["chunk_size_vectors"], []
    for number in range(-(-n // each)):
        count = 3 * min(each, n - number * each)
        found.append(np.fromfile(folder / f"chunk_{number}.mmap", "<u4", count).reshape(-1, 3))
    return np.concatenate(found) if found else np.empty((0, 3), np.uint32)


def _log(content: bytes) -> Iterable[tuple[int | str, int]]:
    """What is left of a log of ids that came and went."""
    there: dict[int | str, int] = {}
    place = 0
    while place < len(content):
        kind = content[place]
        _need(kind in (1, 2, 3, 4), f"an entry of kind {kind}")
        width = 8 if kind in (1, 3) else 16
        end = place + 1 + width + (4 if kind in (1, 2) else 0)
        _need(end <= len(content), "an entry that was cut off")
        id = _id(content[place + 1 : place + 1 + width])
        if kind in (1, 2):
            there[id] = int.from_bytes(content[end - 4 : end], "little")
        else:
            there.pop(id, None)
        place = end
    return there.items()


def _table(content: bytes) -> Iterator[tuple[int | str, int]]:
    """A list of ids, the deleted ones too."""
    place = 8
    for _ in range(struct.unpack_from("<Q", content)[0]):
        kind = content[place]
        _need(kind in (0, 1), f"an id of kind {kind}")
        width = 8 if kind == 0 else 16
        end = place + 1 + width
        yield _id(content[place + 1 : end]), struct.unpack_from("<I", content, end)[0]
        place = end + 4


def _id(raw: bytes) -> int | str:
    if len(raw) == 8:
        return int.from_bytes(raw, "little")
    # u128_le of a little-endian u128: the UUID's own bytes
    return str(uuid.UUID(bytes=raw))
