"""M3Reranker beside `scoring`, in FlagEmbedding's form and in sentence-transformers'."""

from __future__ import annotations

import math
import pickle
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from m3qdrant import M3Embeddings, M3Encoder, M3Reranker, scoring
from m3qdrant.errors import InputError
from m3qdrant.names import VECTORS
from m3qdrant.rank import Work
from m3qdrant.rank.arena import DTYPES
from tests.views import random_embeddings, random_views, views

TEXTS = [
    "Pandas eat bamboo.",
    "The red panda is no bear.",
    "",
    "A vector database keeps vectors.",
    "竹子是熊猫的食物",
    "Pandas eat bamboo.",
]
QUERIES = ["what do pandas eat?", "databases", "熊猫"]


@pytest.fixture
def reranker(encoder: M3Encoder) -> M3Reranker:
    return M3Reranker(encoder, cache_bytes=1 << 20)


def test_the_score_is_the_integrated_one(reranker: M3Reranker, encoder: M3Encoder) -> None:
    queries, documents = encoder.encode(QUERIES), encoder.encode(TEXTS)
    expected = scoring.weighted(queries, documents).numpy()
    for _ in range(2):  # encoded, then held
        np.testing.assert_allclose(reranker.score(QUERIES, TEXTS), expected, atol=1e-5)
    np.testing.assert_allclose(reranker.score(queries, documents), expected, atol=1e-5)
    np.testing.assert_allclose(reranker.score(queries, TEXTS), expected, atol=1e-5)
    pairs = [(2, 0), (0, 5), (2, 4), (1, 3), (2, 0)]
    of_pairs = reranker.score(QUERIES, TEXTS, pairs)
    assert of_pairs.dtype == np.float32
    np.testing.assert_allclose(of_pairs, [expected[q, d] for q, d in pairs], atol=1e-5)


@pytest.mark.parametrize("weights", [(1, 0.3, 1), (0, 0, 1), (1, 0, 0), (0, 1, 0)])
def test_weights(encoder: M3Encoder, weights: tuple[float, float, float]) -> None:
    expected = scoring.weighted(encoder.encode(QUERIES), encoder.encode(TEXTS), weights).numpy()
    reranker = M3Reranker(encoder, weights=weights)
    np.testing.assert_allclose(reranker.score(QUERIES, TEXTS), expected, atol=1e-5)


def test_a_view_without_weight_may_be_missing() -> None:
    queries, documents = random_views(2, seed=1), random_views(5, seed=2)
    late = M3Reranker(weights=(0, 0, 1))
    bare = [replace(each, dense=None, sparse=None) for each in (queries, documents)]
    np.testing.assert_allclose(
        late.score(*bare), scoring.colbert(queries, documents).numpy(), atol=1e-5
    )
    with pytest.raises(InputError, match="the documents hold no dense view"):
        M3Reranker().score(queries, bare[1])
    with pytest.raises(InputError, match="the queries hold no dense view"):
        M3Reranker().score(bare[0], documents)


def test_rank(reranker: M3Reranker, encoder: M3Encoder) -> None:
    expected = scoring.weighted(encoder.encode(QUERIES[:1]), encoder.encode(TEXTS))[0].tolist()
    found = reranker.rank(QUERIES[0], TEXTS)
    order = sorted(range(len(TEXTS)), key=lambda i: (-round(expected[i], 6), i))
    assert [hit["corpus_id"] for hit in found] == order
    assert order.index(0) + 1 == order.index(5)  # equal texts, in the order given
    assert all(set(hit) == {"corpus_id", "score"} for hit in found)
    assert all(type(hit["score"]) is float for hit in found)  # which JSON takes
    assert [hit["score"] for hit in found] == pytest.approx([expected[i] for i in order], abs=1e-5)
    best = reranker.rank(QUERIES[0], TEXTS, 2, True)
    assert [hit["text"] for hit in best] == [TEXTS[i] for i in order[:2]]
    embedded = reranker.rank(encoder.encode(QUERIES[:1]), encoder.encode(TEXTS), top_k=3)
    assert [hit["corpus_id"] for hit in embedded] == order[:3]


def test_predict(reranker: M3Reranker) -> None:
    pairs = [(QUERIES[0], TEXTS[1]), [QUERIES[1], TEXTS[3]], (QUERIES[0], TEXTS[0])]
    scores = reranker.predict(pairs)
    assert isinstance(scores, np.ndarray)
    assert scores.dtype == np.float32
    whole = reranker.score(QUERIES, TEXTS)
    np.testing.assert_allclose(scores, [whole[0, 1], whole[1, 3], whole[0, 0]], atol=1e-6)
    single = reranker.predict(pairs[0])
    assert isinstance(single, np.float32)
    assert single == pytest.approx(scores[0], abs=1e-6)
    tensor = reranker.predict(pairs, convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor)
    assert reranker.predict(np.array(pairs), convert_to_numpy=False) == pytest.approx(
        scores.tolist(), abs=1e-6
    )


def test_compute_score(reranker: M3Reranker, encoder: M3Encoder) -> None:
    pairs = [(q, d) for q in QUERIES for d in TEXTS]
    queries, documents = encoder.encode(QUERIES), encoder.encode(TEXTS)
    parts = {
        "dense": scoring.dense(queries, documents).flatten(),
        "sparse": scoring.lexical(queries, documents).flatten(),
        "colbert": scoring.colbert(queries, documents).flatten(),
    }
    weights = [0.4, 0.2, 0.4]
    found = reranker.compute_score(pairs, weights_for_different_modes=weights)
    both = (0.4 * parts["dense"] + 0.2 * parts["sparse"]) / 0.6
    whole = 0.4 * parts["dense"] + 0.2 * parts["sparse"] + 0.4 * parts["colbert"]
    expected = {**parts, "sparse+dense": both, "colbert+sparse+dense": whole}
    assert found.keys() == expected.keys()
    for name, scores in expected.items():
        assert all(type(score) is float for score in found[name])
        assert found[name] == pytest.approx(scores.tolist(), abs=1e-5), name
    single = reranker.compute_score(list(pairs[1]), weights_for_different_modes=weights)
    assert single == pytest.approx({name: s[1] for name, s in found.items()}, abs=1e-6)
    equal = reranker.compute_score(pairs)["colbert+sparse+dense"]  # 1 each, as there
    mean = torch.stack(list(parts.values())).mean(0)
    assert equal == pytest.approx(mean.tolist(), abs=1e-5)
    late = reranker.compute_score(pairs, weights_for_different_modes=(0, 0, 1))
    assert late["colbert+sparse+dense"] == pytest.approx(late["colbert"])
    assert all(map(math.isnan, late["sparse+dense"]))


def test_lengths(encoder: M3Encoder, reranker: M3Reranker) -> None:
    texts = [text * 20 for text in TEXTS if text]
    with pytest.warns(UserWarning, match="cut"):
        found = reranker.compute_score(
            [(QUERIES[0], text) for text in texts], max_query_length=4, max_passage_length=9
        )
    with pytest.warns(UserWarning, match="cut"):
        expected = scoring.dense(encoder.encode(QUERIES[:1], 4), encoder.encode(texts, 9))
    assert found["dense"] == pytest.approx(expected[0].tolist(), abs=1e-5)
    # what was cut is another document than what was not
    whole = reranker.score([QUERIES[0]], texts)
    exact = scoring.weighted(encoder.encode(QUERIES[:1]), encoder.encode(texts)).numpy()
    np.testing.assert_allclose(whole, exact, atol=1e-5)


class Counting:
    """An encoder that counts the texts it is given."""

    def __init__(self, encoder: M3Encoder) -> None:
        self._encoder = encoder
        self.documents: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode_documents(self, texts: Sequence[str], max_length: int = 8192) -> M3Embeddings:
        self.documents += texts
        return self._encoder.encode_documents(texts, max_length)


def test_a_text_is_encoded_once(encoder: M3Encoder) -> None:
    counting: Any = Counting(encoder)
    reranker = M3Reranker(counting)
    reranker.score(QUERIES, TEXTS)
    assert sorted(counting.documents) == sorted(set(TEXTS))
    reranker.rank(QUERIES[1], [*TEXTS, "something new"])
    assert counting.documents[len(set(TEXTS)) :] == ["something new"]
    reranker.clear()
    reranker.rank(QUERIES[1], TEXTS[:2])
    assert len(counting.documents) == len(set(TEXTS)) + 3


@pytest.mark.parametrize("cache_bytes", [0, 1, 700, 3_000])
def test_a_cache_that_is_too_small_is_right_all_the_same(
    encoder: M3Encoder, cache_bytes: int
) -> None:
    reranker = M3Reranker(encoder, cache_bytes=cache_bytes)
    expected = M3Reranker(encoder).score(QUERIES, TEXTS)
    for _ in range(3):
        np.testing.assert_allclose(reranker.score(QUERIES, TEXTS), expected, atol=1e-6)


def unit_views(n: int, seed: int, dim: int) -> Any:
    embeddings = random_embeddings([20] * n, [5] * n, seed=seed, dim=dim)
    dense, _, colbert = views(embeddings)
    normal = torch.nn.functional.normalize
    return replace(
        embeddings,
        dense=normal(dense, dim=-1),
        colbert=replace(colbert, vectors=normal(colbert.vectors, dim=-1)),
    )


@pytest.mark.parametrize(("dtype", "bound"), [("bfloat16", 1e-3), ("int8", 2e-3)])
@pytest.mark.parametrize("dim", [16, 128, 1024])
def test_what_narrower_dtypes_cost(dtype: Any, bound: float, dim: int) -> None:
    queries, documents = unit_views(4, 1, dim), unit_views(50, 2, dim)
    held = M3Reranker(dtype=dtype).held
    pairs = np.array([(q, d) for q in range(4) for d in range(50)])
    work = Work(held, queries, [None] * 50, pairs)
    work.take(range(50), documents)
    exact = scoring.colbert(queries, documents).numpy().flatten()
    error = np.abs(work.scores["colbert"] - exact).max()
    assert 0 < error < bound
    for name, score in (("dense", scoring.dense), ("sparse", scoring.lexical)):
        expected = score(queries, documents).numpy().flatten()
        np.testing.assert_allclose(work.scores[name], expected, atol=1e-6)


def test_embeddings_of_the_callers_are_not_rounded() -> None:
    queries, documents = random_views(2, seed=1), random_views(9, seed=2)
    exact = scoring.weighted(queries, documents).numpy()
    for dtype in DTYPES:
        scores = M3Reranker(dtype=dtype).score(queries, documents)
        np.testing.assert_allclose(scores, exact, atol=1e-6)


def test_nothing_to_rank(reranker: M3Reranker) -> None:
    assert reranker.rank(QUERIES[0], []) == []
    assert reranker.predict([]).shape == (0,)
    assert reranker.compute_score([]) == {
        name: [] for name in ("colbert", "sparse", "dense", "sparse+dense", "colbert+sparse+dense")
    }
    assert reranker.score([], TEXTS).shape == (0, len(TEXTS))
    assert reranker.score(QUERIES, []).shape == (len(QUERIES), 0)
    assert reranker.score(QUERIES, TEXTS, []).shape == (0,)


def test_a_document_without_tokens_scores_nothing_by_them() -> None:
    queries = random_embeddings([3], [4], seed=1)
    documents = random_embeddings([0, 5], [0, 4], seed=2)
    late = M3Reranker(weights=(0, 0, 1)).score(queries, documents)
    assert late[0, 0] == 0
    assert M3Reranker(weights=(0, 1, 0)).score(queries, documents)[0, 0] == 0
    np.testing.assert_allclose(late, scoring.colbert(queries, documents).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": (0, 0, 0)}, "weights are all zero"),
        ({"weights": (1, math.nan, 1)}, "weights must be finite"),
        ({"weights": (1, 1)}, "weights must be three numbers"),
        ({"dtype": "float16"}, "dtype is 'float16': give one of 'float32', 'bfloat16', 'int8'"),
        ({"cache_bytes": -1}, "cache_bytes is -1"),
        ({"cache_bytes": 1.5}, "cache_bytes is 1.5"),
        ({"device": "nowhere"}, "device is 'nowhere'"),
        ({"encoder": object()}, "make one with M3Encoder.from_pretrained"),
    ],
)
def test_a_wrong_argument(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        M3Reranker(**options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r.rank(QUERIES[0], "a text"), "documents: str; give a list"),
        (lambda r: r.rank(QUERIES[0], {"a": "b"}), "documents: a mapping"),
        (lambda r: r.rank(QUERIES[0], [TEXTS[0], None]), "documents: #1 is NoneType"),
        (lambda r: r.rank(QUERIES[0], [TEXTS[0], math.nan]), "documents: #1 is float"),
        (lambda r: r.rank(None, TEXTS), "query: a text or its embeddings, not NoneType"),
        (lambda r: r.rank(["a", "b"], TEXTS), "query: a text or its embeddings, not list"),
        (lambda r: r.rank(random_views(2, seed=1), TEXTS), "embeddings of 2 texts"),
        (lambda r: r.rank(QUERIES[0], TEXTS, top_k=0), "top_k is 0"),
        (lambda r: r.rank(QUERIES[0], TEXTS, top_k=2.5), "top_k is 2.5"),
        (lambda r: r.rank(QUERIES[0], random_views(1, 1), None, True), "embeddings have no texts"),
        (lambda r: r.rank(QUERIES[0], ["half \ud800"]), "can't be encoded as UTF-8"),
        (lambda r: r.predict("ab"), "pairs: str"),
        (lambda r: r.predict(["a"]), "pairs: #0 is str"),
        (lambda r: r.predict([("a", "b", "c")]), "pairs: #0 has 3 items"),
        (lambda r: r.predict([("a", "b"), ("a", None)]), "#1: the document is NoneType"),
        (lambda r: r.predict([(math.nan, "b")]), "#0: the query is float"),
        (lambda r: r.score(QUERIES, TEXTS, [(0, 6)]), r"#0 is \[0, 6\], and there are 3 queries"),
        (lambda r: r.score(QUERIES, TEXTS, [(-1, 0)]), r"#0 is \[-1, 0\]"),
        (lambda r: r.score(QUERIES, TEXTS, [0, 1]), r"whole numbers of shape \(n, 2\)"),
        (
            lambda r: r.compute_score([("a", "b")], weights_for_different_modes=(0, 0, 0)),
            "weights are all zero",
        ),
    ],
)
def test_a_wrong_call(reranker: M3Reranker, call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(reranker)


def test_without_an_encoder() -> None:
    bare = M3Reranker()
    with pytest.raises(InputError, match="has no encoder for queries"):
        bare.rank("a", ["b"])
    with pytest.raises(InputError, match="has no encoder for queries"):
        bare.rank("a", [])
    with pytest.raises(InputError, match="has no encoder for queries"):
        bare.predict([("a", "b")])
    with pytest.raises(InputError, match="has no encoder for documents"):
        bare.rank(random_views(1, seed=1), ["b"])


def test_numbers_that_are_none() -> None:
    queries, documents = random_views(2, seed=1), random_views(4, seed=2)
    dense, _, colbert = views(documents)
    for view, name in ((dense, "dense"), (colbert.vectors, "colbert")):
        kept = view[-1, 0].item()
        view[-1, 0] = math.nan
        for dtype in DTYPES:
            with pytest.raises(InputError, match=f"document 3 has a {name} score of nan"):
                M3Reranker(dtype=dtype).score(queries, documents)
        view[-1, 0] = kept
    assert np.isfinite(M3Reranker().score(queries, documents)).all()


def test_another_model(encoder: M3Encoder) -> None:
    queries, documents = encoder.encode(QUERIES), encoder.encode(TEXTS)
    reranker = M3Reranker(encoder)
    other = replace(queries, fingerprint="another")
    with pytest.raises(InputError, match="another model"):
        reranker.score(other, documents)
    with pytest.raises(InputError, match="another model"):
        reranker.rank(other[0], TEXTS)
    with pytest.raises(InputError, match="dimensions in the query and of"):
        reranker.score(random_views(1, seed=1), documents)


def test_several_threads(encoder: M3Encoder) -> None:
    """Each with other documents, in a cache that holds few of them."""
    sets = [[f"{word} {i} {'more ' * (i % 7)}" for i in range(25)] for word in "abcd"]
    expected = [M3Reranker(encoder).score(QUERIES, texts) for texts in sets]
    reranker = M3Reranker(encoder, cache_bytes=8_000)
    wrong: list[str] = []

    def use(i: int) -> None:
        for _ in range(8):
            error = np.abs(reranker.score(QUERIES, sets[i]) - expected[i]).max()
            if error > 1e-5:
                wrong.append(f"{i}: {error}")

    threads = [threading.Thread(target=use, args=(i,)) for i in range(len(sets))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_pickled_it_is_the_same_but_empty(encoder: M3Encoder) -> None:
    reranker = M3Reranker(encoder, weights=(1, 0, 1), dtype="int8", cache_bytes=12_345)
    scores = reranker.score(QUERIES, TEXTS)
    again = pickle.loads(pickle.dumps(reranker))
    assert (again.weights, again.dtype, again.cache_bytes) == ((1, 0, 1), "int8", 12_345)
    np.testing.assert_allclose(again.score(QUERIES, TEXTS), scores, atol=1e-6)
    assert "5 documents" in repr(again)


def test_all_pairs_take_one_launch() -> None:
    held = M3Reranker().held
    queries, documents = random_views(3, seed=1), random_views(30, seed=2)
    pairs = np.array([(0, 3), (0, 9), (1, 9), (2, 29), (2, 3)])
    keys: list[Any] = [(i, 0) for i in range(30)]
    work = Work(held, queries, keys, pairs)
    assert work.missing() == list(range(30))
    work.take(range(20), documents[:20])
    work.take(range(20, 30), documents[20:])
    assert work.launches == 0
    assert work.finish()
    assert work.launches == 1
    exact = [
        [float(score(queries, documents)[q, d]) for q, d in pairs.tolist()]
        for score in (scoring.dense, scoring.lexical, scoring.colbert)
    ]
    for name, expected in zip(VECTORS, exact, strict=True):
        np.testing.assert_allclose(work.scores[name], expected, atol=1e-5)
    again = Work(held, queries, keys, pairs)
    assert again.missing() == []
    assert again.finish()
    assert again.launches == 1
    other = Work(held, queries, [(i, 1) for i in range(30)], pairs)  # another version
    assert len(other.missing()) == 30
