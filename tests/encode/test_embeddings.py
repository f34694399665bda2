"""M3Embeddings, SparseVectors and TokenVectors: indexing, joining, saving."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from m3qdrant import M3Embeddings
from m3qdrant.errors import InputError
from tests.views import assert_identical, random_embeddings, views

DIM = 5


def assert_same(a: M3Embeddings, b: M3Embeddings) -> None:
    """Text by text."""
    assert len(a) == len(b)
    for left, right in zip(a, b, strict=True):
        assert_identical(left, right)


ragged = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=0, max_size=6)


@given(ragged, st.data())
def test_indexing_is_that_of_a_list(shape: list[tuple[int, int]], data: st.DataObject) -> None:
    emb = random_embeddings([a for a, _ in shape], [b for _, b in shape])
    n = len(shape)
    texts = list(emb)
    assert len(emb) == n == len(texts)
    piece = data.draw(st.slices(n))
    assert_same(emb[piece], M3Embeddings.concat(texts[piece]) if texts[piece] else emb[:0])
    if n:
        order = data.draw(st.lists(st.integers(-n, n - 1), max_size=8))
        picked = emb[order]
        assert len(picked) == len(order)
        if order:
            assert_same(picked, M3Embeddings.concat([texts[i] for i in order]))
        assert_same(emb[torch.tensor(order, dtype=torch.int64)], picked)


@given(ragged)
def test_concat_of_the_parts_is_the_whole(shape: list[tuple[int, int]]) -> None:
    emb = random_embeddings([a for a, _ in shape], [b for _, b in shape])
    assert_same(M3Embeddings.concat([emb[:2], emb[2:2], emb[2:]]), emb)


@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize("step", [2**63, -(2**63) - 1, 2**200, -7])
def test_a_step_of_any_size(n: int, step: int) -> None:
    emb = random_embeddings([1] * n, [2] * n)
    texts = list(emb)[::step]
    assert_same(emb[::step], M3Embeddings.concat(texts) if texts else emb[:0])


def test_an_integer_keeps_the_axis_and_negative_ones_count_from_the_end() -> None:
    emb = random_embeddings([1, 0, 3], [0, 2, 1])
    assert len(emb[1]) == 1
    assert_same(emb[-1], emb[2])
    assert_same(emb[np.int64(1)], emb[1])
    assert_same(emb[np.array([2, 0])], emb[[2, 0]])
    _, sparse, colbert = views(emb)
    assert len(colbert[np.array([2, 0])]) == len(sparse[np.array([2, 0])]) == 2
    assert colbert[-1].shape == (3, DIM)
    assert sparse[-2].indices.shape == (2,)
    for view in (emb, colbert, sparse):
        with pytest.raises(IndexError):
            view[3]
    with pytest.raises(IndexError, match="out of range for 3 texts"):
        emb[[0, 3]]
    fraction: Any = [0.5]
    with pytest.raises(TypeError, match="integers"):
        emb[fraction]


def test_a_slice_shares_storage_and_a_list_copies() -> None:
    emb = random_embeddings([2, 3], [1, 1])
    (*_, colbert), (*_, sliced), (*_, picked) = views(emb), views(emb[1:]), views(emb[[1]])
    assert sliced.vectors.data_ptr() == colbert.vectors[2:].data_ptr()
    assert picked.vectors.data_ptr() != colbert.vectors[2:].data_ptr()


@given(ragged)
def test_save_and_load(
    tmp_path_factory: pytest.TempPathFactory, shape: list[tuple[int, int]]
) -> None:
    path = tmp_path_factory.mktemp("saved") / "e.safetensors"
    emb = random_embeddings([a for a, _ in shape], [b for _, b in shape])
    emb.save(path)
    assert_same(M3Embeddings.load(path), emb)
    assert list(path.parent.iterdir()) == [path]  # no partial file is left


def test_what_cannot_be_saved_names_the_file(tmp_path: Path) -> None:
    emb = random_embeddings([1], [1])
    with pytest.raises(OSError, match="nowhere/e"):
        emb.save(tmp_path / "nowhere" / "e")
    taken = tmp_path / "taken"
    taken.mkdir()
    with pytest.raises(OSError, match="taken"):
        emb.save(taken)
    assert list(tmp_path.iterdir()) == [taken]
    assert list(taken.iterdir()) == []


def test_save_of_a_slice_holds_only_the_slice(tmp_path: Path) -> None:
    emb = random_embeddings([1000, 1], [1, 1])
    emb.save(tmp_path / "all")
    emb[1:].save(tmp_path / "one")
    assert (tmp_path / "one").stat().st_size < (tmp_path / "all").stat().st_size / 10
    assert_same(M3Embeddings.load(tmp_path / "one"), emb[1:])


def test_views_may_be_missing(tmp_path: Path) -> None:
    only = M3Embeddings(dense=torch.ones(2, DIM))
    only.save(tmp_path / "e")
    loaded = M3Embeddings.load(tmp_path / "e")
    assert loaded.sparse is None
    assert loaded.colbert is None
    assert len(loaded[1:]) == 1
    with pytest.raises(InputError, match="no sparse view"):
        loaded.lexical_weights()
    with pytest.raises(InputError, match="at least one"):
        M3Embeddings()
    with pytest.raises(InputError, match="disagree"):
        M3Embeddings(dense=torch.ones(2, DIM), truncated=torch.ones(3))
    with pytest.raises(InputError, match="part 1"):
        M3Embeddings.concat([only, random_embeddings([1], [1])])
    with pytest.raises(InputError, match="empty"):
        M3Embeddings.concat([])


def test_loading_what_is_no_embeddings_names_the_file(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(InputError, match="missing"):
        M3Embeddings.load(tmp_path / "missing")
    (tmp_path / "garbage").write_bytes(b"not a safetensors file at all")
    with pytest.raises(InputError, match="garbage"):
        M3Embeddings.load(tmp_path / "garbage")
    half = {"sparse.indptr": torch.zeros(2)}
    save_file(half, tmp_path / "half", metadata={"format": "m3qdrant-embeddings/1"})
    with pytest.raises(InputError, match="half: tensors are missing"):
        M3Embeddings.load(tmp_path / "half")
    save_file({"dense": torch.ones(1)}, tmp_path / "foreign")
    with pytest.raises(InputError, match="not embeddings saved by m3qdrant"):
        M3Embeddings.load(tmp_path / "foreign")


def test_an_interrupted_save_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from m3qdrant.encode import embeddings

    def interrupted(tensors: dict[str, Any], path: Path, metadata: dict[str, str]) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    emb = random_embeddings([1], [1])
    emb.save(tmp_path / "e")
    monkeypatch.setattr(embeddings, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        random_embeddings([2], [2]).save(tmp_path / "e")
    assert_same(M3Embeddings.load(tmp_path / "e"), emb)
    assert [file.name for file in tmp_path.iterdir()] == ["e"]


def test_lexical_weights_are_flagembeddings_form_and_pass_json() -> None:
    emb = random_embeddings([1, 1], [0, 3])
    weights = emb.lexical_weights()
    assert weights[0] == {}
    assert list(weights[1]) == [str(i) for i in views(emb)[1][1].indices.tolist()]
    assert json.loads(json.dumps(weights)) == weights


def test_repr_is_short() -> None:
    assert len(repr(random_embeddings([100] * 50, [20] * 50))) < 200
