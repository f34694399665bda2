"""Cascades: exact scores of what they find, and the recall that they keep."""

from __future__ import annotations

import random

import pytest
import torch

from m3qdrant import Cascade
from m3qdrant.errors import InputError
from m3qdrant.rank import recall
from tests.rank.corpora import best, corpus, documents, page, plain, queries


@pytest.mark.parametrize("first", ["int8", "pooled"])
def test_what_it_finds_has_exact_scores(first: str) -> None:
    seed = random.randrange(10**6)
    rows = documents(seed, 90)
    vectors = corpus("int8", [page(rows[:40]), page(rows[40:], 40)])
    asked = queries(seed + 1)
    exact = [dict(best(dict(enumerate(rows)), query, 90)) for query in asked]
    found = vectors.search(asked, 5, cascade=Cascade(first, keep=20))  # type: ignore[arg-type]
    for scores, each in zip(exact, found, strict=True):
        assert [scores[int(hit.id)] for hit in each] == [hit.score for hit in each], seed
        assert [hit.score for hit in each] == sorted((hit.score for hit in each), reverse=True)
        assert len(each) == 5


@pytest.mark.parametrize("first", ["int8", "pooled"])
def test_that_keeps_everything_loses_nothing(first: str) -> None:
    seed = random.randrange(10**6)
    rows = documents(seed, 50)
    vectors = corpus("int8", [page(rows[:20]), page(rows[20:], 20)])
    asked = queries(seed + 1)
    allowed = random.sample(range(50), 20)
    some = {i: rows[i] for i in allowed}
    cascade = Cascade(first, keep=50)  # type: ignore[arg-type]
    for query, each in zip(asked, vectors.search(asked, 7, cascade=cascade), strict=True):
        assert plain(each) == best(dict(enumerate(rows)), query, 7), seed
    found = vectors.search(asked, 7, cascade=cascade, allowed=allowed)
    for query, each in zip(asked, found, strict=True):
        assert plain(each) == best(some, query, 7), seed


def test_more_kept_finds_more() -> None:
    seed = random.randrange(10**6)
    rows = documents(seed, 300, most=40)
    vectors = corpus("int8", [page(rows)])
    asked = queries(seed + 1, 12)
    exact = [[hit.score for hit in each] for each in vectors.search(asked, 10)]

    def kept(keep: int) -> float:
        found = vectors.search(asked, 10, cascade=Cascade("pooled", keep=keep, factor=8))
        return recall(exact, [[hit.score for hit in each] for each in found], 10).mean

    assert kept(10) <= kept(60) <= kept(300) == 1.0, seed


def test_recall_counts_what_scores_as_high() -> None:
    found = recall([[3.0, 2.0], [1.0]], [[3.0, 2.0], [0.5]], 2)
    assert (found.mean, found.worst, found.queries, found.limit) == (0.5, 0.0, 2, 2)
    assert recall([[3.0, 2.0, 2.0]], [[2.0, 2.0]], 3).mean == pytest.approx(2 / 3)
    assert recall([[]], [[]], 3).worst == 1.0
    with pytest.raises(InputError, match="0 exact answers"):
        recall([], [], 3)


def test_after_a_change_it_looks_at_the_new() -> None:
    rows = documents(3, 20)
    vectors = corpus("float32", [page(rows)])
    (query,) = queries(4, 1)
    vectors.search([query], 3, cascade=Cascade(keep=20))
    rows[7] = torch.nn.functional.normalize(query, dim=1)
    vectors.change([corpus("float32", [page([rows[7]], 7)]).parts[0]], {7: None})
    ((first, *_),) = vectors.search([query], 3, cascade=Cascade(keep=1))
    assert first.id == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first": "int4"}, "first is 'int4'"),
        ({"keep": 0}, "keep is 0"),
        ({"keep": True}, "keep is True"),
        ({"factor": 2.5}, "factor is 2.5"),
    ],
)
def test_options_that_are_none(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Cascade(**options)  # type: ignore[arg-type]


def test_int8_where_there_is_none() -> None:
    vectors = corpus("float32", [page(documents(1, 3))])
    with pytest.raises(InputError, match="held as float32: load it with dtype='int8'"):
        vectors.search(queries(1), 1, cascade=Cascade("int8"))
