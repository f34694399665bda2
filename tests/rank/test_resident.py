"""A corpus on a device: what it finds is what the definition says, in every form of it."""

from __future__ import annotations

import random
import threading

import numpy as np
import pytest
import torch

from m3qdrant.errors import StoreDamagedError
from m3qdrant.rank import Dtype, TokenPage
from tests.rank.corpora import best, corpus, documents, held, page, plain, queries

EXACT: list[Dtype] = ["float32", "int8"]


@pytest.mark.parametrize("dtype", EXACT)
@pytest.mark.parametrize("k", [1, 7, 60, 200])
def test_finds_what_the_definition_says(dtype: Dtype, k: int) -> None:
    seed = random.randrange(10**6)
    rows = documents(seed)
    vectors = corpus(dtype, [page(rows[:25]), page(rows[25:26], 25), page(rows[26:], 26)])
    asked = queries(seed + 1)
    everything = dict(enumerate(rows))
    found = vectors.search(asked, k)
    for query, each in zip(asked, found, strict=True):
        assert plain(each) == best(everything, query, k), seed
    assert len(vectors) == 60
    assert vectors.tokens == sum(map(len, rows))


@pytest.mark.parametrize("dtype", EXACT)
def test_only_what_is_allowed(dtype: Dtype) -> None:
    seed = random.randrange(10**6)
    rows = documents(seed)
    vectors = corpus(dtype, [page(rows[:30]), page(rows[30:], 30)])
    allowed = random.sample(range(60), 11)
    (query,) = queries(seed + 1, 1)
    (found,) = vectors.search([query], 20, allowed=[*allowed, 777])
    assert plain(found) == best({i: rows[i] for i in allowed}, query, 20), seed
    assert vectors.search([query], 20, allowed=[]) == [[]]


@pytest.mark.parametrize("dtype", [*EXACT, "bfloat16"])
def test_equal_documents_come_by_their_ids(dtype: Dtype) -> None:
    """Wherever they lie, and where the limit cuts them."""
    seed = random.randrange(10**6)
    one, *others = documents(seed, 40)
    twins = [one] * 50
    names = [f"t{i:02}" for i in random.sample(range(50), 50)]
    pages = [
        page(others[:7]),
        page(twins[:20], 100, names[:20]),
        page([*others[7:], *twins[20:]], 200, [f"x{i}" for i in range(32)] + names[20:]),
    ]
    vectors = corpus(dtype, pages)
    (found,) = vectors.search([one], 13)
    assert [each.name for each in found] == sorted(names)[:13], seed
    assert len({each.score for each in found}) == 1


def test_bfloat16_rounds_documents_alone() -> None:
    seed = random.randrange(10**6)
    rows = documents(seed, 200, 1024, 40)
    vectors = corpus("bfloat16", [page(rows)], 1024)
    asked = queries(seed + 1, 20, 1024)
    rounded = {i: each.bfloat16().float() for i, each in enumerate(rows)}
    worst = 0.0
    for query, found in zip(asked, vectors.search(asked, 10), strict=True):
        assert plain(found) == best(rounded, query, 10), seed
        exact = dict(best(dict(enumerate(rows)), query, 200))
        worst = max(worst, *(abs(each.score - exact[int(each.id)]) / len(query) for each in found))
    assert worst <= 2e-4, seed  # as the docstring of ResidentCorpus says


@pytest.mark.parametrize("dtype", EXACT)
def test_changes_and_removals_are_followed(dtype: Dtype) -> None:
    seed = random.randrange(10**6)
    rows = dict(enumerate(documents(seed)))
    vectors = corpus(dtype, [page(list(rows.values())[:30]), page(list(rows.values())[30:], 30)])
    asked = queries(seed + 1)
    for step in range(6):
        changed = documents(seed + 10 + step, 9)
        first = random.randrange(70)
        new = page(changed, first)
        gone = random.sample([*rows], min(12, len(rows)))
        gone = [id for id in gone if not first <= id < first + 9]
        marks = dict(zip(new.ids, new.marks, strict=True))
        vectors.change(held(vectors, [new]), marks, gone, tidy=step % 2 == 0)
        rows.update(zip(range(first, first + 9), changed, strict=True))
        for id in gone:
            del rows[id]
        assert {*vectors.ids} == rows.keys() == vectors.marks.keys()
        for query, each in zip(asked, vectors.search(asked, 15), strict=True):
            assert plain(each) == best(rows, query, 15), (seed, step)
    assert vectors.tokens == sum(map(len, rows.values()))
    vectors.change([], {})
    assert sum(part.n_rows for part in vectors.parts) < 2 * vectors.tokens  # small ones are one


def test_a_search_sees_a_change_whole_or_not_at_all() -> None:
    """Two documents change places, again and again: never is one of them there twice, or not."""
    one, two = documents(5, 2)
    pages = [page([one, two]), page([two, one])]
    vectors = corpus("float32", pages[:1])
    ends, wrong = threading.Event(), []

    def search() -> None:
        while not ends.is_set():
            (found,) = vectors.search([one], 5)
            if {each.id for each in found} != {0, 1} or len({each.score for each in found}) != 2:
                wrong.append(found)

    thread = threading.Thread(target=search)
    thread.start()
    for i in range(100):
        new = pages[(i + 1) % 2]
        vectors.change(held(vectors, [new]), dict(zip(new.ids, new.marks, strict=True)))
    ends.set()
    thread.join()
    assert wrong == []


def test_nothing_there() -> None:
    vectors = corpus("int8", [])
    assert vectors.search(queries(1), 3) == [[]] * 5
    assert vectors.search([], 3) == []
    vectors = corpus("int8", [page(documents(1, 3))])
    vectors.change([], {}, [0, 1, 2, 9])
    assert (len(vectors), vectors.tokens, vectors.search(queries(1), 3)) == (0, 0, [[]] * 5)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_refused_by_name(number: float) -> None:
    given = page(documents(3, 6))
    given.check()
    rows = given.rows.copy()
    rows[int(given.offsets[4])] = number
    bad = TokenPage(given.ids, given.names, given.marks, rows, given.lengths)
    with pytest.raises(StoreDamagedError, match="document 'd0004': its token vectors hold NaN"):
        bad.check()
    huge = np.full((4, 8), 3e38, np.float32)
    TokenPage([1], ["a"], [None], huge, np.array([4])).check()  # its sum is infinite, it is not


def test_pages_are_split_between_documents() -> None:
    given = page(documents(8, 30))
    parts = list(given.split(20))
    assert [id for part in parts for id in part.ids] == list(given.ids)
    assert np.array_equal(np.concatenate([part.rows for part in parts]), given.rows)
    assert all(len(part.rows) <= 20 for part in parts)
    assert all(len(part.ids) == 1 for part in given.split(1))


def test_half_of_the_numbers_where_they_were_read_as_half() -> None:
    """What was read as float16 proves int8's answers as float16."""
    rows = [each.half().float() for each in documents(9)]
    vectors = corpus("int8", [])
    vectors.read_as = torch.float16
    given = page(rows)
    narrow = TokenPage(
        given.ids, given.names, given.marks, given.rows.astype(np.float16), given.lengths
    )
    vectors.change(held(vectors, [narrow]), dict(zip(given.ids, given.marks, strict=True)))
    assert vectors.parts[0].exact.dtype == torch.float16
    asked = queries(10)
    for query, each in zip(asked, vectors.search(asked, 9), strict=True):
        assert plain(each) == best(dict(enumerate(rows)), query, 9)
