"""protobuf's wire format, as far as it is needed: fields with a length, written and told apart."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["BYTES", "UnexpectedError", "fields", "head", "varint"]

BYTES = 2
"""The wire type of strings, bytes, messages and packed numbers: a length, then so many bytes."""

_FIXED = {1: 8, 5: 4}
"""Wire types whose values have always as many bytes."""

_LONGEST, _LONGEST_SMALL = 10, 5
"""Bytes that a number may take, and one of 32 bits, such as a length."""


class UnexpectedError(Exception):
    """Bytes that are read here in no way: the generated classes know what they are, or refuse."""


def varint(number: int) -> bytes:
    """A number from 0 in groups of seven bits, the lowest first."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def head(field: int, length: int) -> bytes:
    """What stands before the `length` bytes of a field."""
    return varint(field << 3 | BYTES) + varint(length)


def fields(data: memoryview, start: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """The fields of a message, in their order: (number, wire type, begin, start, end).

    `begin` is where its tag stands; from `start` to `end` is its value.

    Raises:
        UnexpectedError: it ends in the middle, or holds what is no longer written (groups).
    """
    position = start
    while position < end:
        begin = position
        tag, position = _small(data, position, end)
        kind = tag & 7
        if kind == BYTES:
            length, position = _small(data, position, end)
        elif kind == 0:
            after = _varint(data, position, end)[1]
            length = after - position
        elif kind in _FIXED:
            length = _FIXED[kind]
        else:
            raise UnexpectedError
        stop = position + length
        if stop > end or not tag >> 3:
            raise UnexpectedError
        yield tag >> 3, kind, begin, position, stop
        position = stop


def _small(data: memoryview, position: int, end: int) -> tuple[int, int]:
    number, position = _varint(data, position, min(end, position + _LONGEST_SMALL))
    if number >> 32:
        raise UnexpectedError
    return number, position


def _varint(data: memoryview, position: int, end: int) -> tuple[int, int]:
    """A number, and where it ends."""
    number = shift = 0
    for i in range(position, min(end, position + _LONGEST)):
        byte = data[i]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, i + 1
        shift += 7
    raise UnexpectedError
