"""M3Encoder and scoring against dumps of the real FlagEmbedding, at 1e-5 in fp32."""

from __future__ import annotations

import random
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch

from m3qdrant import M3Embeddings, M3Encoder, scoring
from tests.views import views

from .loader import Dump, Floats, dump_names, load_dump

TOLERANCE = 1e-5
# A weight this close to zero may round to zero, and then it is absent.
NEGLIGIBLE = 1e-6

OURS = ("bin-fp16-heads", "fp16-body-colbert-24", "safetensors-fp32-heads")


def encode(encoder: M3Encoder, texts: list[str], max_length: int) -> M3Embeddings:
    with warnings.catch_warnings():  # that texts are cut is the point here
        warnings.simplefilter("ignore")
        return encoder.encode(texts, max_length=max_length)


def assert_close(what: str, actual: torch.Tensor, expected: Floats) -> None:
    assert tuple(actual.shape) == expected.shape, what
    assert actual.dtype is torch.float32, what
    difference = np.abs(actual.numpy() - expected)
    assert np.isfinite(difference).all(), what
    where = np.unravel_index(difference.argmax(), difference.shape)
    assert difference.max() <= TOLERANCE, f"{what}: off by {difference.max():.2e} at {where}"


def assert_same_weights(what: str, actual: dict[int, float], expected: dict[int, float]) -> None:
    for token in actual.keys() | expected.keys():
        a, b = actual.get(token), expected.get(token)
        if a is None or b is None:
            assert (a or b or 0.0) <= NEGLIGIBLE, f"{what}: token {token} on one side only"
        else:
            assert abs(a - b) <= TOLERANCE, f"{what}: token {token} weighs {a}, not {b}"


@pytest.fixture(scope="module", params=dump_names())
def dump(request: pytest.FixtureRequest) -> Dump:
    dump = load_dump(request.param)
    if changed := dump.changed_files():
        pytest.fail(
            f"{dump.checkpoint} is not what the dump was made from (see {', '.join(changed)}): "
            "make the dump again, as README.md says"
        )
    return dump


@pytest.fixture(scope="module")
def encoder(dump: Dump) -> M3Encoder:
    return M3Encoder.from_pretrained(dump.checkpoint, device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def embeddings(encoder: M3Encoder, dump: Dump) -> M3Embeddings:
    return encode(encoder, dump.texts, dump.max_length)


def test_dumps_are_there() -> None:
    assert set(OURS) <= set(dump_names())


def test_token_ids(encoder: M3Encoder, dump: Dump) -> None:
    """First, because nothing else can agree where these differ."""
    cut = encoder.tokenizer(dump.texts, truncation=True, max_length=dump.max_length)
    for text, actual, expected in zip(dump.texts, cut["input_ids"], dump.input_ids, strict=True):
        assert actual == expected, repr(text)


def test_dense(embeddings: M3Embeddings, dump: Dump) -> None:
    assert len(embeddings) == len(dump.texts)
    assert_close("dense", views(embeddings)[0], dump.dense)


def test_sparse_vectors(embeddings: M3Embeddings, dump: Dump) -> None:
    _, sparse, _ = views(embeddings)
    assert sparse.indptr.dtype is torch.int64
    assert sparse.indices.dtype is torch.int32
    assert sparse.values.dtype is torch.float32
    bounds = sparse.indptr.tolist()
    assert len(bounds) == len(dump.texts) + 1
    for i, (start, stop) in enumerate(pairwise(bounds)):
        indices = sparse.indices[start:stop].tolist()
        assert indices == sorted(set(indices)), repr(dump.texts[i])
        actual = dict(zip(indices, sparse.values[start:stop].tolist(), strict=True))
        assert_same_weights(repr(dump.texts[i]), actual, dump.lexical[i])


def test_lexical_weights(embeddings: M3Embeddings, dump: Dump) -> None:
    rows = embeddings.lexical_weights()
    for text, row, expected in zip(dump.texts, rows, dump.lexical, strict=True):
        assert all(type(key) is str and type(value) is float for key, value in row.items())
        assert_same_weights(repr(text), {int(key): row[key] for key in row}, expected)


def test_colbert(embeddings: M3Embeddings, dump: Dump) -> None:
    _, _, colbert = views(embeddings)
    for i, (text, expected) in enumerate(zip(dump.texts, dump.colbert, strict=True)):
        assert_close(f"ColBERT of {text!r}", colbert[i], expected)


def test_truncated(embeddings: M3Embeddings, dump: Dump) -> None:
    assert embeddings.truncated is not None
    assert embeddings.truncated.tolist() == dump.truncated


@pytest.mark.parametrize("mode", ["dense", "sparse", "colbert", "sparse+dense"])
def test_pair_scores(embeddings: M3Embeddings, dump: Dump, mode: str) -> None:
    dense_weight, sparse_weight, _ = dump.weights
    actual = {
        "dense": lambda q, d: scoring.dense(q, d),
        "sparse": lambda q, d: scoring.lexical(q, d),
        "colbert": lambda q, d: scoring.colbert(q, d),
        "sparse+dense": lambda q, d: scoring.weighted(q, d, (dense_weight, sparse_weight, 0.0)),
    }[mode](embeddings, embeddings)
    assert_close(mode, actual, dump.scores[mode])


def test_weighted_scores(embeddings: M3Embeddings, dump: Dump) -> None:
    actual = scoring.weighted(embeddings, embeddings, weights=dump.weights)
    assert_close("weighted", actual, dump.scores["colbert+sparse+dense"])


def test_neighbours_do_not_matter(
    encoder: M3Encoder, embeddings: M3Embeddings, dump: Dump
) -> None:
    """A text's embeddings are the same in any company: shuffled, and alone."""
    order = list(range(len(dump.texts)))
    random.Random(5).shuffle(order)
    shuffled = encode(encoder, [dump.texts[i] for i in order], dump.max_length)
    for place, i in enumerate(order):
        solo = encode(encoder, [dump.texts[i]], dump.max_length)
        reference = embeddings[i : i + 1]
        expected_dense, _, expected_colbert = views(reference)
        for other in (shuffled[place : place + 1], solo):
            what = repr(dump.texts[i])
            dense, _, colbert = views(other)
            assert_close(what, dense, expected_dense.numpy())
            assert_close(what, colbert[0], expected_colbert[0].numpy())
            (row,), (expected,) = other.lexical_weights(), reference.lexical_weights()
            assert_same_weights(
                what,
                {int(key): row[key] for key in row},
                {int(key): expected[key] for key in expected},
            )
