"""Errors: ours, and fit to cross from one process to another."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch

from m3qdrant import IngestReport, M3Encoder, errors


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_pickles_and_is_ours(name: str) -> None:
    kind = getattr(errors, name)
    arguments = {
        "DocumentError": ("a", "text", "missing"),
        "IngestError": ("message", IngestReport(received=3, added=2)),
        "IngestInterrupted": (IngestReport(received=3, added=2),),
        "PointError": ("7", "dense", "NaN"),
        "SourceError": ("a.jsonl:2", "broken JSON"),
        "SchemaMismatchError": ("does not fit", ["one", "two"]),
    }.get(name, ("message",))
    error = kind(*arguments)
    # an interrupt must not be caught by those who catch errors, and a warning is none
    others = {"IngestInterrupted": KeyboardInterrupt, "RankingEndsWarning": UserWarning}
    base = others.get(name, errors.M3QdrantError)
    assert isinstance(error, base)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is kind
        assert str(twin) == str(error)
        assert vars(twin) == vars(error)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"name": 5}, "not int"),
        ({"name": None}, "not NoneType"),
        ({"name": "m3-tiny", "device": "gpu"}, "device is 'gpu'"),
        ({"name": "m3-tiny", "device": "cuda:99"}, "cuda:99 is not there"),
        ({"name": "m3-tiny", "dtype": "float16"}, "dtype is 'float16'"),
        ({"name": "m3-tiny", "dtype": torch.int8}, "dtype is torch.int8"),
    ],
)
def test_wrong_arguments_of_from_pretrained(arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(errors.InputError, match=complaint):
        M3Encoder.from_pretrained(**arguments)
