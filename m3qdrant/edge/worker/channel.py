"""How a call crosses to the worker process and back, without stalling this process's threads.

`pickle` holds the GIL from its first byte to its last, so that one large message would stall the
event loop as long as the engine itself does. Here it can't: models and rows of numbers are taken
apart and put together by Python functions, and between two of these other threads get their turn;
large arrays aren't pickled at all, but sent from their own memory and received into it.

Both ends are ours, joined by a socket pair that nobody else can open, and run the same code.
"""

from __future__ import annotations

import copyreg
import pickle
import socket
import struct
from array import array
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel

__all__ = ["Channel", "Message", "Parcel", "dumps", "loads"]

_HEAD = struct.Struct("<Q?IQ")
"""A message's number, its mark, how many arrays follow, and the bytes of its pickle."""

_LONG = 32  # numbers; below it, taking a list apart costs more than it spares
_LARGE_ARRAY = 1 << 16
_ONE_WRITE = 1 << 16


class Parcel(NamedTuple):
    """A value, ready to be sent.

    Attributes:
        pickled: its pickle, in pieces.
        arrays: the large arrays that the pickle refers to.
    """

    pickled: list[bytes]
    arrays: list[memoryview]


class Message(NamedTuple):
    """A message as it arrived; `loads` reads its value, which may never be needed.

    Attributes:
        number: of the request, repeated in its answer.
        mark: in an answer, whether the value is an error.
        pickled: the value's pickle.
        arrays: the large arrays that the pickle refers to.
    """

    number: int
    mark: bool
    pickled: memoryview
    arrays: list[memoryview]


class Channel:
    """One end of the pair. One thread may send while another receives."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end

    def send(self, number: int, mark: bool, parcel: Parcel) -> None:
        """Send a message.

        Raises:
            OSError: the other end is gone.
        """
        size = sum(map(len, parcel.pickled))
        sizes = [a.nbytes for a in parcel.arrays]
        head = _HEAD.pack(number, mark, len(sizes), size) + struct.pack(f"<{len(sizes)}Q", *sizes)
        pieces = [head, *parcel.pickled]
        if size < _ONE_WRITE:
            pieces = [b"".join(pieces)]
        for piece in pieces:
            self.socket.sendall(piece)
        for large in parcel.arrays:
            self.socket.sendall(large)

    def receive(self) -> Message | None:
        """Wait for a message; None when the other end was closed, or its process has ended."""
        try:
            number, mark, arrays, size = _HEAD.unpack(self._read(_HEAD.size))
            sizes = struct.unpack(f"<{arrays}Q", self._read(8 * arrays)) if arrays else ()
            return Message(number, mark, self._read(size), [self._read(n) for n in sizes])
        except (EOFError, ConnectionError):
            return None

    def _read(self, size: int) -> memoryview:
        # not a bytearray, which would be filled with zeros first
        rest = whole = np.empty(size, np.uint8).data
        while len(rest):
            received = self.socket.recv_into(rest)
            if not received:
                raise EOFError
            rest = rest[received:]
        return whole


def dumps(value: Any) -> Parcel:
    """Pack a value. Its large arrays aren't copied: they must stay as they are until it's sent.

    Raises:
        Exception: whatever `pickle` raises where it meets something that it can't take.
    """
    pieces = _Pieces()
    arrays: list[memoryview] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < _LARGE_ARRAY:
            return True
        arrays.append(raw)
        return False

    _Pickler(pieces, 5, buffer_callback=keep).dump(_taken_apart(value))
    return Parcel(pieces.written, arrays)


def loads(message: Message) -> Any:
    """The value of a message.

    Raises:
        Exception: whatever `pickle` raises where it lacks a class or module.
    """
    return pickle.loads(message.pickled, buffers=message.arrays)


class _Pieces:
    """A file for the pickler, which writes it piece by piece, and so never moves all at once."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, piece: Any) -> int:
        self.written.append(bytes(piece))  # a view is valid only during this call
        return len(piece)


class _Floats(NamedTuple):
    """A list of floats on its way, or several of one length."""

    data: bytes
    width: int | None


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, BaseModel):
            state = value.__getstate__()
            state = {**state, "__dict__": _taken_apart(state["__dict__"])}
            return copyreg.__newobj__, (type(value),), state  # type: ignore[attr-defined]
        if isinstance(value, _Floats):
            return _put_together, tuple(value)
        if hasattr(type(value), "__array__") and not isinstance(value, (np.ndarray, np.generic)):
            # a tensor: an array to the engine, and the worker needn't import its library
            return np.asarray(value).__reduce_ex__(5)
        return NotImplemented


def _taken_apart(value: Any) -> Any:
    """The value with its long lists of floats as bytes, bit by bit the same numbers.

    It goes through lists, tuples and dicts. A list is judged by its first item: a wrong guess
    costs speed only.
    """
    kind = type(value)
    if kind is dict:
        return {key: _taken_apart(item) for key, item in value.items()}
    if kind not in (list, tuple) or not value:
        return value
    first = type(value[0])
    if first is float:
        if kind is list and len(value) >= _LONG and _all_floats(value):
            return _Floats(array("d", value).tobytes(), None)
        return value
    if first is list and kind is list:
        width = len(value[0])
        if width * len(value) >= _LONG and all(
            type(row) is list and len(row) == width and _all_floats(row) for row in value
        ):
            return _Floats(b"".join([array("d", row).tobytes() for row in value]), width)
    if first in (list, tuple, dict):
        return kind(map(_taken_apart, value))
    return value


def _all_floats(row: list[Any]) -> bool:
    return set(map(type, row)) == {float}


def _put_together(data: bytes, width: int | None) -> Any:
    if width is None:
        return array("d", data).tolist()
    size = 8 * width
    return [array("d", data[i : i + size]).tolist() for i in range(0, len(data), size)]
