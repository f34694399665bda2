"""What callers give an encoder, checked: texts, lengths, switches, devices, dtypes."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from m3qdrant.errors import InputError
from m3qdrant.rows import no_items

__all__ = [
    "as_device",
    "as_dtype",
    "as_length",
    "as_texts",
    "check_switches",
    "check_token_budget",
]

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


# -- texts


def as_texts(texts: object) -> list[str]:
    """One text, or a sequence of texts, as a list of strings that can be tokenised.

    Sequences, iterators, one-dimensional arrays and columns of tables are sequences of texts. A
    mapping, a table, a set, bytes and a file give something else, or in another order, when they
    are iterated, so they are refused.

    Raises:
        InputError: names what was given, or the position of the item, and the remedy.
    """
    if isinstance(texts, str):
        items: list[Any] = [texts]
    elif (remedy := _no_sequence(texts)) is not None:
        raise InputError(
            f"texts must be a string or a sequence of strings, not {type(texts).__name__}{remedy}"
        )
    else:
        assert isinstance(texts, Iterable)
        items = list(texts)
    for position, text in enumerate(items):
        if not isinstance(text, str):
            raise InputError(
                f"text {position} is {type(text).__name__}, not a string: {text!r:.80}"
            )
        if text.isascii():
            continue
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"text {position} can't be encoded as UTF-8 ({error.reason} at character "
                f"{error.start}): repair it, e.g. text.encode('utf-8', 'replace').decode()"
            ) from error
    return items


_REMEDIES = {
    "mapping": ": iterating it gives its keys; give list(texts.values())",
    "set": ", which has no order: give a list",
    "bytes": ": decode it, e.g. texts.decode('utf-8')",
    "path": ": read it first, e.g. Path(name).read_text('utf-8').splitlines()",
    "file": ": read it first, e.g. Path(name).read_text('utf-8').splitlines()",
}


def _no_sequence(texts: object) -> str | None:
    """Why this is no sequence of texts, as the rest of a message; None where it is one."""
    kind = no_items(texts)
    if kind is not None:
        return _REMEDIES[kind]
    shape = getattr(texts, "shape", None)
    if isinstance(shape, tuple) and len(shape) != 1:
        return f" of shape {shape}: give one column, e.g. frame['text'].tolist()"
    if not isinstance(texts, Iterable):
        return ""
    return None


# -- numbers and switches


def as_length(max_length: object) -> int:
    """A length in tokens.

    Raises:
        InputError: it is no whole number from 2.
    """
    found = _whole(max_length)
    if found is None or found < 2:
        raise InputError(
            f"max_length is {max_length!r}: it must be a whole number from 2, for CLS and EOS"
        )
    return found


def check_token_budget(budget: object) -> int:
    """The padded tokens a batch.

    Raises:
        InputError: it is no whole number from 1.
    """
    found = _whole(budget)
    if found is None or found < 1:
        raise InputError(f"token_budget is {budget!r}: it must be a whole number from 1")
    return found


def check_switches(**switches: object) -> None:
    """Check what is on or off.

    Raises:
        InputError: one is neither True nor False.
    """
    for name, value in switches.items():
        if not isinstance(value, bool | np.bool_):
            raise InputError(f"{name} is {value!r}: give True or False")


def _whole(value: object) -> int | None:
    """A whole number of whatever type, None where it is none; True and False are none."""
    if isinstance(value, bool | np.bool_):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


# -- devices


def as_device(device: object) -> torch.device:
    """The device asked for, CUDA or the CPU for None; it is there, and computes.

    Raises:
        InputError: it isn't.
    """
    cuda = torch.cuda.is_available()
    if device is None:
        return torch.device("cuda" if cuda else "cpu")
    number = _whole(device) if not isinstance(device, str | torch.device) else None
    try:
        if number is not None:
            target = torch.device("cuda", number)
        elif isinstance(device, str | torch.device):
            target = torch.device(device)
        else:
            raise TypeError(f"{type(device).__name__} names no device")
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"device is {device!r}: give 'cpu', 'cuda', 'cuda:1', its number, or 'mps'"
        ) from error
    if target.type == "cpu":
        if target.index:
            raise InputError(f"device {device} is not there; there is one CPU")
        return torch.device("cpu")
    if target.type == "meta":
        raise InputError("device 'meta' holds shapes and no numbers: nothing can be encoded on it")
    if target.type == "cuda" and (not cuda or (target.index or 0) >= torch.cuda.device_count()):
        raise InputError(
            f"device {device} is not there; CUDA devices: {torch.cuda.device_count()}"
        )
    try:
        torch.zeros(1, device=target)
    except Exception as error:  # backends raise many kinds, also for being absent
        forked = ": CUDA and its like don't work in a forked process; spawn it"
        why = forked if "forked" in str(error) else ""
        raise InputError(f"device {device} is not there, or torch can't use it{why}") from error
    return target


def as_dtype(dtype: object, device: torch.device) -> torch.dtype:
    """The model's floating-point type: what is asked for, or the device's own for None.

    Raises:
        InputError: the model can't be computed in it.
    """
    if dtype is None:
        return torch.float16 if device.type == "cuda" else torch.float32
    if not isinstance(dtype, torch.dtype) or dtype not in _DTYPES:
        raise InputError(
            f"dtype is {dtype!r}: give a torch dtype: torch.float16, torch.bfloat16 or "
            "torch.float32"
        )
    return dtype
