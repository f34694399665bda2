"""What an encoder is given is used, or refused by its name."""

from __future__ import annotations

import io
import tempfile
from collections import UserDict, deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from m3qdrant import M3Encoder
from m3qdrant.encode import encoder as module
from m3qdrant.errors import InputError
from tests.views import assert_identical

# -- texts

SOME = ["one text", "", "another"]


class Series:
    """As a column of a table is: one-dimensional, iterated in its order."""

    shape = (3,)

    def __iter__(self) -> Any:
        return iter(SOME)


GOOD: dict[str, Any] = {
    "a tuple": tuple(SOME),
    "a deque": deque(SOME),
    "an iterator": iter(SOME),
    "a generator": (text for text in SOME),
    "a mapping's values": dict(enumerate(SOME)).values(),
    "an array of strings": np.array(SOME),
    "an array of objects": np.array(SOME, dtype=object),
    "numpy's strings": list(np.array(SOME)),
    "a column": Series(),
}


@pytest.mark.parametrize("kind", GOOD)
def test_sequences_of_texts(encoder: M3Encoder, kind: str) -> None:
    assert_identical(encoder.encode(GOOD[kind]), encoder.encode(SOME))


class Frame:
    """As a table is: two-dimensional, and iterated by its columns' names."""

    shape = (2, 3)

    def __iter__(self) -> Any:
        return iter(["text", "lang"])


BAD: dict[str, tuple[Any, str]] = {
    "a dict": ({"text": "one"}, "dict: iterating it gives its keys"),
    "a mapping": (UserDict(text="one"), "UserDict.*values"),
    "a set": ({"one", "two"}, "set, which has no order"),
    "a frozenset": (frozenset({"one"}), "frozenset, which has no order"),
    "bytes": (b"one", "bytes: decode it"),
    "a bytearray": (bytearray(b"one"), "bytearray: decode it"),
    "a memoryview": (memoryview(b"one"), "memoryview: decode it"),
    "a file": (io.StringIO("one\ntwo\n"), "StringIO: read it first"),
    "a binary file": (io.BytesIO(b"one\n"), "BytesIO: read it first"),
    "a file that goes": (tempfile.NamedTemporaryFile("w+"), "Wrapper: read it first"),  # noqa: SIM115
    "a path": (Path("texts.txt"), "Path: read it first"),
    "a table": (Frame(), r"Frame of shape \(2, 3\): give one column"),
    "a matrix": (np.array([["a", "b"]]), r"ndarray of shape \(1, 2\)"),
    "a scalar array": (np.array("one"), r"ndarray of shape \(\)"),
    "None": (None, "not NoneType"),
    "a number": (5, "not int"),
    "nested": ([["one"]], "text 0 is list"),
    "an array with a hole": (np.array(["a", None], dtype=object), "text 1 is NoneType"),
    "NaN": (np.array(["a", "b", float("nan")], dtype=object), "text 2 is float, .*: nan"),
    "numbers": (np.arange(3), "text 0 is int64"),
    "rows": ([{"text": "one"}], "text 0 is dict"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_sequence_of_texts(encoder: M3Encoder, kind: str) -> None:
    value, says = BAD[kind]
    with pytest.raises(InputError, match=says):
        encoder.encode(value)


def test_tables_of_pandas(encoder: M3Encoder) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": SOME})
    assert_identical(encoder.encode(frame["text"]), encoder.encode(SOME))
    with pytest.raises(InputError, match=r"DataFrame of shape \(3, 1\)"):
        encoder.encode(frame)
    with pytest.raises(InputError, match="text 1 is"):
        encoder.encode(pandas.Series(["a", None]))


# -- lengths and switches


@pytest.mark.parametrize("length", [np.int64(7), np.uint8(7), torch.tensor(7)], ids=repr)
def test_whole_numbers_of_any_type(encoder: M3Encoder, length: Any) -> None:
    text = "seven tokens are fewer than these"
    with pytest.warns(UserWarning, match="longer than 7 tokens"):
        emb = encoder.encode(text, max_length=length)
    assert emb.colbert is not None
    assert len(emb.colbert[0]) == 6


@pytest.mark.parametrize(
    "length", [True, False, 7.0, np.float32(7), np.bool_(True), "7", None, [7], 1, 0, -3], ids=repr
)
def test_lengths_that_are_none(encoder: M3Encoder, length: Any) -> None:
    with pytest.raises(InputError, match=r"max_length is .*: it must be a whole number from 2"):
        encoder.encode("a", max_length=length)


@pytest.mark.parametrize("budget", [0, -1, True, 1.5, "many", None], ids=repr)
def test_a_token_budget_that_is_none(encoder: M3Encoder, budget: Any) -> None:
    mine = M3Encoder(encoder.model, encoder.tokenizer, "mine", np.int64(9))  # type: ignore[arg-type]
    assert mine.token_budget == 9
    with pytest.raises(InputError, match=r"token_budget is .*: it must be a whole number from 1"):
        mine.token_budget = budget
    assert mine.token_budget == 9


@pytest.mark.parametrize("name", ["dense", "sparse", "colbert", "progress"])
def test_switches_are_on_or_off(encoder: M3Encoder, name: str) -> None:
    options: dict[str, Any] = {name: "no"}
    with pytest.raises(InputError, match=f"{name} is 'no': give True or False"):
        encoder.encode("a", **options)
    wanted: Any = np.bool_(False)
    assert encoder.encode("a", colbert=wanted).colbert is None


# -- devices, dtypes, revisions


@pytest.mark.parametrize("device", ["cpu", "cpu:0", torch.device("cpu")], ids=str)
def test_the_cpu(checkpoint: Path, device: Any) -> None:
    loaded = M3Encoder.from_pretrained(checkpoint, device=device)
    assert loaded.device == torch.device("cpu")
    assert loaded.dtype is torch.float32


ABSENT: list[Any] = ["mps", "xpu", "hpu", "meta", torch.device("meta"), "cpu:1"]
NONSENSE: list[Any] = ["", "gpu", "cuda:x", "CPU", True, False, 1.0, [0], b"cpu", -1]


@pytest.mark.parametrize("device", ABSENT, ids=repr)
def test_a_device_that_is_not_there(checkpoint: Path, device: Any) -> None:
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("there is one")
    with pytest.raises(InputError, match=r"device .*(is not there|nothing can be encoded)"):
        M3Encoder.from_pretrained(checkpoint, device=device)


@pytest.mark.parametrize("device", NONSENSE, ids=repr)
def test_what_names_no_device(checkpoint: Path, device: Any) -> None:
    with pytest.raises(InputError, match=r"device .*(: give 'cpu'|is not there)"):
        M3Encoder.from_pretrained(checkpoint, device=device)


@pytest.mark.parametrize(
    "device", [99, np.int64(99), "cuda:99", torch.device("cuda", 99)], ids=str
)
def test_a_number_is_that_of_a_cuda_device(checkpoint: Path, device: Any) -> None:
    with pytest.raises(InputError, match=r"99 is not there; CUDA devices: \d"):
        M3Encoder.from_pretrained(checkpoint, device=device)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_a_dtype_of_a_model(checkpoint: Path, dtype: torch.dtype) -> None:
    loaded = M3Encoder.from_pretrained(checkpoint, device="cpu", dtype=dtype)
    assert loaded.dtype is dtype
    colbert = loaded.encode("a").colbert
    assert colbert is not None
    assert colbert.vectors.dtype is dtype


@pytest.mark.parametrize(
    "dtype",
    [torch.int8, torch.float64, torch.float8_e4m3fn, torch.complex64, "int8", "float16", "auto",
     "", 16, True, np.float16, np.float32, float],
    ids=str,
)  # fmt: skip
def test_what_is_no_dtype_of_a_model(checkpoint: Path, dtype: Any) -> None:
    with pytest.raises(InputError, match=r"dtype is .*: give a torch dtype"):
        M3Encoder.from_pretrained(checkpoint, dtype=dtype)


def test_a_revision_of_what_has_none(checkpoint: Path) -> None:
    with pytest.raises(InputError, match=r"revision is 'v1', but .* is a directory"):
        M3Encoder.from_pretrained(checkpoint, revision="v1")
    with pytest.raises(InputError, match="revision is 'v1', but m3-tiny is bundled"):
        M3Encoder.from_pretrained("m3-tiny", revision="v1")
    wrong: list[Any] = ["", 1, b"v1"]
    for revision in wrong:
        with pytest.raises(InputError, match=r"revision is .*: give a branch, a tag or a commit"):
            M3Encoder.from_pretrained("acme/m3", revision=revision)


def test_an_apple_gpu_has_a_budget_of_its_own() -> None:
    budgets = module._TOKEN_BUDGET
    assert budgets["cpu"] < budgets["mps"] < budgets["cuda"]
