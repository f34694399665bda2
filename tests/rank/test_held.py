"""Documents held in an arena: what comes back, what leaves, and that it stays within its bytes."""

from __future__ import annotations

import random
from dataclasses import replace

import m3kernels
import pytest
import torch

from m3qdrant import M3Embeddings
from m3qdrant.errors import InputError
from m3qdrant.rank import Arena, Held
from m3qdrant.rank.arena import DTYPES, Dtype, Form, Run
from tests.views import random_embeddings, random_views, views

CPU = torch.device("cpu")


def stored(documents: M3Embeddings, dtype: Dtype = "float32") -> tuple[Arena, list[Run]]:
    return Arena.holding(Form.of(documents, dtype, CPU), documents)


def assert_there(arena: Arena, runs: list[Run], documents: M3Embeddings) -> None:
    """The documents at these runs are those, to the last bit of the arena's dtype."""
    dense, sparse, colbert = views(documents)
    assert torch.equal(arena.dense(runs), dense.float())
    found = arena.sparse(runs)
    assert torch.equal(found.indptr, sparse.indptr)
    assert torch.equal(found.indices, sparse.indices)
    assert torch.equal(found.values, sparse.values)
    slices = arena.colbert(runs)
    width = colbert.vectors.shape[1]
    for i, tokens in enumerate(colbert):
        rows = slice(int(slices.offsets[i]), int(slices.offsets[i] + slices.lengths[i]))
        kept = slices.vectors[rows]
        assert not kept[:, width:].any()
        if arena.scales is None:
            assert torch.equal(kept[:, :width], tokens.to(kept.dtype))
        elif len(tokens):
            numbers, scales = m3kernels.quantize_tokens(tokens)
            assert torch.equal(kept[:, :width], numbers)
            assert torch.equal(arena.scales[rows], scales)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [1, 5, 16, 33])
def test_documents_come_back(dtype: Dtype, dim: int) -> None:
    documents = random_embeddings([3, 0, 7, 1, 20], [2, 9, 0, 1, 30], seed=dim, dim=dim)
    arena, runs = stored(documents, dtype)
    assert arena.rows == sum(run.rows for run in runs)
    assert_there(arena, runs, documents)
    some = [4, 1, 3]
    assert_there(arena, [runs[i] for i in some], documents[some])


def test_one_view_is_enough() -> None:
    documents = random_embeddings([3, 2], [4, 1])
    for name in ("dense", "sparse", "colbert"):
        missing = dict.fromkeys({"dense", "sparse", "colbert"} - {name})
        arena, runs = stored(replace(documents, **missing))
        assert arena.sparse(runs).indptr.tolist() == ([0, 4, 5] if name == "sparse" else [0, 0, 0])
        assert arena.colbert(runs).lengths.tolist() == ([3, 2] if name == "colbert" else [0, 0])
        assert arena.dense(runs).shape == (2, 5 if name == "dense" else 0)


def test_a_document_without_its_dense_vector() -> None:
    documents = random_embeddings([3, 2], [4, 1])
    arena, runs = Arena.holding(Form.of(documents, "float32", CPU), documents, [False, True])
    dense, _, _ = views(documents)
    assert torch.equal(arena.dense(runs), torch.stack([torch.zeros(5), dense[1]]))
    assert [run.dense for run in runs] == [False, True]


def test_another_width_is_another_model() -> None:
    documents = random_embeddings([3], [2])
    form = Form.of(documents, "float32", CPU)
    with pytest.raises(InputError, match="dense vectors of 6 dimensions beside others of 5"):
        Arena.holding(form, random_embeddings([3], [2], dim=6))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(3))
def test_what_is_held_is_what_was_given(dtype: Dtype, seed: int) -> None:
    """Random work on a small arena, beside what a plain LRU over the same rows would hold."""
    rng = random.Random(seed)
    held = Held(dtype, CPU, 9_000)
    known: dict[tuple[int, int], M3Embeddings] = {}
    seen = 0
    for step in range(120):
        since = held.begin()
        keys = rng.sample(range(30), rng.randint(1, 9))
        versions = [rng.choice([0, 0, 0, 1]) for _ in keys]
        missing = []
        for key, version in zip(keys, versions, strict=True):
            run = held.get(key, version)
            if run is None:
                missing.append((key, version))
                continue
            assert held.arena is not None
            assert_there(held.arena, [run], known[key, version])
            seen += 1
        if missing:
            lengths = [rng.randint(0, 25) for _ in missing]
            terms = [rng.randint(0, 30) for _ in missing]
            documents = random_embeddings(lengths, terms, seed=1000 * seed + step)
            known |= {pair: documents[i] for i, pair in enumerate(missing)}
            arena, runs = stored(documents, dtype)
            held.hold(missing, arena, runs, since)
        assert held.used_bytes <= held.n_bytes
        assert held.arena is not None
        assert held.arena.rows * held.arena.form.row_bytes <= held.n_bytes
    assert seen > 100


def filled(n: int, more: int = 0) -> tuple[Held, Arena, list[Run]]:
    """An arena of room for n documents of one size, and n + more such documents."""
    documents = random_embeddings([10] * (n + more), [4] * (n + more))
    arena, runs = stored(documents)
    held = Held("float32", CPU, n * runs[0].rows * arena.form.row_bytes)
    held.hold([(i, 0) for i in range(n)], arena, runs[:n], held.begin())
    return held, arena, runs


def test_the_least_recently_used_leave_first() -> None:
    held, arena, runs = filled(4, more=2)
    assert len(held) == 4
    held.begin()
    assert held.get(0, 0) is not None
    assert held.hold([(4, 0), (5, 0)], arena, runs[4:], held.begin()) == 2
    assert [held.get(i, 0) is not None for i in range(6)] == [True, False, False, True, True, True]


def test_what_the_work_itself_uses_stays() -> None:
    """Else candidates that don't fit as a whole would drive each other out, every time."""
    held, arena, runs = filled(4, more=2)
    since = held.begin()
    for i in range(3):
        assert held.get(i, 0) is not None
    assert held.hold([(4, 0), (5, 0)], arena, runs[4:], since) == 1
    assert [held.get(i, 0) is not None for i in range(6)] == [True] * 3 + [False, True, False]


def test_another_version_is_another_document() -> None:
    held, _, _ = filled(2)
    assert held.get(0, 1) is None
    assert held.get(0, 0) is None  # forgotten, for it will not come back
    assert held.get(1, 0) is not None
    assert len(held) == 1


def test_pieces_are_moved_together() -> None:
    documents = random_embeddings([5] * 12 + [12], [0] * 13)
    arena, runs = stored(documents)
    held = Held("float32", CPU, 12 * runs[0].rows * arena.form.row_bytes)
    held.hold([(i, 0) for i in range(12)], arena, runs[:12], held.begin())
    held.begin()
    for i in range(0, 12, 2):
        assert held.get(i, 0) is not None
    assert held.hold([("long", 0)], arena, runs[12:], held.begin()) == 1
    assert held.arena is not None
    there = [i for i in range(12) if held.get(i, 0) is not None]
    assert set(range(0, 12, 2)) <= set(there)
    for i in there:
        run = held.get(i, 0)
        assert run is not None
        assert_there(held.arena, [run], documents[i])
    run = held.get("long", 0)
    assert run is not None
    assert_there(held.arena, [run], documents[12])


def test_what_is_too_large_is_not_held() -> None:
    documents = random_embeddings([2, 50, 3], [1, 1, 1])
    arena, runs = stored(documents)
    held = Held("float32", CPU, 1_000)
    assert held.hold([(i, 0) for i in range(3)], arena, runs, held.begin()) == 2
    assert [held.get(i, 0) is not None for i in range(3)] == [True, False, True]
    nothing = Held("float32", CPU, 0)
    assert nothing.hold([(i, 0) for i in range(3)], arena, runs, nothing.begin()) == 0
    assert nothing.used_bytes == 0


def test_another_width_begins_anew() -> None:
    held, _, _ = filled(2)
    other = random_views(1, seed=0)
    arena, runs = stored(other)
    held.hold([("other", 0)], arena, runs, held.begin())
    assert held.get(0, 0) is None
    run = held.get("other", 0)
    assert run is not None
    assert held.arena is not None
    assert_there(held.arena, [run], other)
