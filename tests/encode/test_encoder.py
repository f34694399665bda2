"""M3Encoder: texts in, embeddings out, in any company and under any mishap."""

from __future__ import annotations

import copy
import math
import random
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from m3qdrant import M3Embeddings, M3Encoder, SparseVectors, TruncationWarning
from m3qdrant.encode.network import M3Model
from m3qdrant.errors import EncodeError, InputError
from tests.views import assert_identical, tensors, views

VIEWS = ("dense", "sparse", "colbert")
LONG = "word " * 300
# of very different lengths, the shortest and the longest amid others
TEXTS = [
    "What is BGE M3?",
    "",
    "The quick brown fox jumps over the lazy dog while the cat sleeps in the warm sun. " * 3,
    "   ",
    "a",
    "Les moteurs de recherche comparent la requête à chacun des documents.",
    "\x00\x01 \x7f\u200b",
    "<s> literal </s> <pad> specials <mask> <unk>",
    "😀👍 🎉",
    "東京都に住んでいる友達から手紙が届きました。" * 2,
    "a\n\tb\r\nc",
    "The",
]


def with_budget(encoder: M3Encoder, token_budget: int) -> M3Encoder:
    return M3Encoder(encoder.model, encoder.tokenizer, encoder.name, token_budget)


def assert_close(a: M3Embeddings, b: M3Embeddings, tolerance: float = 1e-5) -> None:
    """The same texts' embeddings. A weight as small as the tolerance may also be absent."""
    assert len(a) == len(b)
    (a_dense, _, a_colbert), (b_dense, _, b_colbert) = views(a), views(b)
    for i in range(len(a)):
        for left, right in ((a_dense[i], b_dense[i]), (a_colbert[i], b_colbert[i])):
            torch.testing.assert_close(left.float(), right.float(), rtol=0, atol=tolerance)
        ours, theirs = a[i].lexical_weights()[0], b[i].lexical_weights()[0]
        for token in ours.keys() | theirs.keys():
            difference = ours.get(token, 0.0) - theirs.get(token, 0.0)
            assert abs(difference) <= tolerance, f"text {i}, token {token}"
    assert torch.equal(truncated(a), truncated(b))


def truncated(emb: M3Embeddings) -> Tensor:
    assert emb.truncated is not None
    return emb.truncated


def lengths(emb: M3Embeddings) -> list[int]:
    """The ColBERT vectors of each text."""
    _, _, colbert = views(emb)
    return [int(n) for n in colbert.cu_seqlens.diff()]


# -- what comes out


def test_shapes_dtypes_and_places(encoder: M3Encoder) -> None:
    emb = encoder.encode(TEXTS)
    n = len(TEXTS)
    assert len(emb) == n
    dense, sparse, colbert = views(emb)
    assert dense.shape == (n, encoder.dim)
    assert dense.dtype is torch.float32
    assert sparse.indptr.dtype is torch.int64
    assert sparse.indices.dtype is torch.int32
    assert sparse.values.dtype is torch.float32
    assert colbert.cu_seqlens.dtype is torch.int64
    assert colbert.vectors.dtype is encoder.dtype
    assert colbert.vectors.shape[1] == encoder.colbert_dim
    assert truncated(emb).dtype is torch.bool
    for name, tensor in tensors(emb).items():
        assert tensor.device.type == "cpu", name
        assert not tensor.requires_grad, name
        assert not tensor.is_inference(), name  # such a tensor can't be changed or trained on
        assert bool(tensor.isfinite().all()), name


def test_vectors_are_normalised_and_weights_positive(encoder: M3Encoder) -> None:
    dense, sparse, colbert = views(encoder.encode(TEXTS))
    for vectors in (dense, colbert.vectors):
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))
    assert bool((sparse.values > 0).all())
    for row in sparse:
        assert bool((row.indices.diff() > 0).all())


def test_a_text_of_t_tokens_has_t_minus_1_colbert_vectors(encoder: M3Encoder) -> None:
    counts = [len(ids) - 1 for ids in encoder.tokenizer(TEXTS)["input_ids"]]
    assert lengths(encoder.encode(TEXTS)) == counts
    assert counts[TEXTS.index("")] == 1
    assert len(set(counts)) > 5  # else the order of the texts would not show


def test_the_colbert_tensor_pins_no_padded_batch(encoder: M3Encoder) -> None:
    dense, _, colbert = views(encoder.encode(["a", TEXTS[2]]))
    rows = sum(len(ids) - 1 for ids in encoder.tokenizer(["a", TEXTS[2]])["input_ids"])
    storage = colbert.vectors.untyped_storage()
    assert storage.nbytes() == rows * encoder.colbert_dim * 4
    assert dense.untyped_storage().nbytes() == 2 * encoder.dim * 4


def test_no_texts(encoder: M3Encoder) -> None:
    emb = encoder.encode([])
    assert len(emb) == 0
    assert list(emb) == []
    some = tensors(encoder.encode(["a"]))
    for name, tensor in tensors(emb).items():
        assert tensor.dtype is some[name].dtype, name
        assert tensor.shape[1:] == some[name].shape[1:], name
    assert emb.lexical_weights() == encoder.tokens(emb) == []
    assert_identical(M3Embeddings.concat([emb, encoder.encode("a")]), encoder.encode("a"))


def test_a_string_is_one_text_and_any_iterable_will_do(encoder: M3Encoder) -> None:
    expected = encoder.encode(["What is it?"])
    once: Any = iter(["What is it?"])
    for texts in ("What is it?", ("What is it?",), once):
        assert_identical(encoder.encode(texts), expected)


@pytest.mark.parametrize("text", ["", " ", " \n\t "])
def test_a_blank_text_has_one_colbert_vector_and_no_weights(encoder: M3Encoder, text: str) -> None:
    emb = encoder.encode(text)
    assert views(emb)[2][0].shape == (1, encoder.colbert_dim)
    assert emb.lexical_weights() == [{}]
    assert_identical(emb, encoder.encode(""))


@pytest.mark.parametrize("text", [text for text in TEXTS if text.strip()])
def test_every_token_has_a_weight_but_cls_pad_eos_and_unk(encoder: M3Encoder, text: str) -> None:
    model = copy.deepcopy(encoder.model)
    model.sparse_head.bias.fill_(100.0)  # no weight falls to zero
    positive = M3Encoder(model, encoder.tokenizer, encoder.name, encoder.token_budget)
    ids = set(encoder.tokenizer(text)["input_ids"])
    _, sparse, _ = views(positive.encode(text))
    assert sparse[0].indices.tolist() == sorted(ids - {0, 1, 2, 3})


def test_a_literal_special_is_that_token(encoder: M3Encoder) -> None:
    ids = {name: encoder.tokenizer.convert_tokens_to_ids(name) for name in ("<pad>", "<mask>")}
    assert ids["<pad>"] in encoder.tokenizer("a <pad> b")["input_ids"]
    assert ids["<mask>"] in encoder.tokenizer("a <mask> b")["input_ids"]
    plain, padded = encoder.encode("a b"), encoder.encode("a <pad> b")
    assert lengths(padded) == [lengths(plain)[0] + 1]
    # it takes part in attention, as in the reference, where a text's own pads are not masked
    assert not torch.allclose(views(plain)[0], views(padded)[0], atol=1e-3)


# -- truncation


@pytest.fixture
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        yield


def test_long_texts_are_cut_and_counted_once(encoder: M3Encoder) -> None:
    texts = [LONG, "short", LONG + "more", ""]
    # with tiny batches too the warning is one a call, not one a batch
    with pytest.warns(TruncationWarning) as caught:
        emb = with_budget(encoder, 1).encode(texts, max_length=16)
    assert [str(warning.message) for warning in caught] == [
        "2 of 4 texts are longer than 16 tokens and were cut"
    ]
    assert truncated(emb).tolist() == [True, False, True, False]
    assert lengths(emb)[::2] == [15, 15]
    # what was cut away leaves no trace
    assert_close(emb[2], emb[0])


@pytest.mark.parametrize("method", ["encode", "encode_queries", "encode_documents"])
def test_the_warning_points_at_the_caller(encoder: M3Encoder, method: str) -> None:
    with pytest.warns(TruncationWarning) as caught:
        getattr(encoder, method)(LONG, max_length=5)
    assert [warning.filename for warning in caught] == [__file__]


def test_a_text_that_just_fits_is_not_cut(encoder: M3Encoder) -> None:
    size = len(encoder.tokenizer("What is it?")["input_ids"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fits = encoder.encode("What is it?", max_length=size)
    assert truncated(fits).tolist() == [False]
    with pytest.warns(TruncationWarning, match="1 of 1 texts"):
        cut = encoder.encode("What is it?", max_length=size - 1)
    assert truncated(cut).tolist() == [True]
    assert lengths(cut) == [lengths(fits)[0] - 1]


def test_max_length_is_capped_at_the_models(encoder: M3Encoder) -> None:
    assert encoder.max_length == 128
    every: list[dict[str, Any]] = [{}, {"max_length": 129}, {"max_length": 10**6}]
    for options in every:
        with pytest.warns(TruncationWarning, match="longer than 128 tokens"):
            emb = encoder.encode(LONG, **options)
        assert lengths(emb) == [127]


@pytest.mark.usefixtures("quiet")
def test_max_length_2_leaves_cls_and_eos(encoder: M3Encoder) -> None:
    emb = encoder.encode(["", "some text"], max_length=2)
    assert truncated(emb).tolist() == [False, True]
    assert_close(emb[1], M3Embeddings(**{**vars(emb[0]), "truncated": truncated(emb[1])}))


@pytest.mark.parametrize("max_length", [1, 0, -5])
def test_max_length_below_2(encoder: M3Encoder, max_length: int) -> None:
    with pytest.raises(InputError, match=f"max_length is {max_length}:"):
        encoder.encode("text", max_length=max_length)


# -- what is no text


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (None, "NoneType, not a string"),
        (7, "int, not a string"),
        (math.nan, "float, not a string"),
        (b"bytes", "bytes, not a string"),
        (["nested"], "list, not a string"),
        ("lone \ud83d surrogate", "UTF-8.*character 5"),
    ],
    ids=["None", "int", "nan", "bytes", "list", "surrogate"],
)
def test_what_is_no_text_is_named_by_its_position(encoder: M3Encoder, bad: Any, says: str) -> None:
    texts: Any = ["fine", "", bad, None]
    with pytest.raises(InputError, match=rf"^text 2 .*{says}"):
        encoder.encode(texts)


def test_the_message_shows_little_of_a_big_value(encoder: M3Encoder) -> None:
    nested: Any = [["x" * 100_000]]
    with pytest.raises(InputError) as caught:
        encoder.encode(nested)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("texts", [None, 5], ids=repr)
def test_texts_that_are_no_sequence(encoder: M3Encoder, texts: Any) -> None:
    with pytest.raises(InputError, match=type(texts).__name__):
        encoder.encode(texts)


# -- company and order


@given(
    st.lists(
        st.one_of(
            st.sampled_from(TEXTS),
            st.text(max_size=30),
            st.integers(1, 120).map(lambda n: "the cat sleeps " * n),
        ),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from([1, 40, 10**6]),
)
@settings(max_examples=25)
def test_a_text_is_the_same_alone_and_in_company(
    encoder: M3Encoder, texts: list[str], token_budget: int
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        together = with_budget(encoder, token_budget).encode(texts)
        alone = M3Embeddings.concat([encoder.encode(text) for text in texts])
    assert_close(together, alone)


@pytest.mark.parametrize("token_budget", [1, 100, 4096])
def test_order_is_kept(encoder: M3Encoder, token_budget: int) -> None:
    texts = [f"number {i} " * i for i in range(12)]
    order = list(range(12))
    random.Random(token_budget).shuffle(order)
    shuffled = with_budget(encoder, token_budget).encode([texts[i] for i in order])
    assert_close(shuffled, encoder.encode(texts)[order])


@pytest.mark.parametrize("token_budget", [1, 30, 100, 10**6])
def test_batches_stay_within_the_budget(
    encoder: M3Encoder, monkeypatch: pytest.MonkeyPatch, token_budget: int
) -> None:
    sizes: list[tuple[int, int]] = []  # texts and padded tokens of each batch
    forward = M3Model.forward

    def watched(self: M3Model, token_ids: Tensor, position_ids: Tensor, packing: Any) -> Tensor:
        sizes.append((len(packing.padded), packing.padded.numel()))
        return forward(self, token_ids, position_ids, packing)

    monkeypatch.setattr(M3Model, "forward", watched)
    with_budget(encoder, token_budget).encode(TEXTS)
    assert sum(texts for texts, _ in sizes) == len(TEXTS)
    assert all(tokens <= token_budget or texts == 1 for texts, tokens in sizes)
    if token_budget >= 10**6:
        assert len(sizes) == 1


def test_the_same_call_gives_the_same_bytes(encoder: M3Encoder) -> None:
    tight = with_budget(encoder, 64)
    assert_identical(tight.encode(TEXTS), tight.encode(TEXTS))


# -- options


@pytest.mark.parametrize("wanted", range(1, 8))
def test_views_that_are_off_are_none_and_the_others_as_ever(
    encoder: M3Encoder, wanted: int
) -> None:
    options = {view: bool(wanted >> bit & 1) for bit, view in enumerate(VIEWS)}
    some = encoder.encode(TEXTS, **options)
    everything = encoder.encode(TEXTS)
    for view, on in options.items():
        assert (getattr(some, view) is not None) == on
    kept = {view: getattr(everything, view) if on else None for view, on in options.items()}
    assert_identical(some, M3Embeddings(**kept, truncated=everything.truncated))
    none = encoder.encode([], **options)
    assert tensors(none).keys() == tensors(some).keys()


def test_no_view_at_all(encoder: M3Encoder) -> None:
    with pytest.raises(InputError, match="dense, sparse, colbert"):
        encoder.encode(["a"], dense=False, sparse=False, colbert=False)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("method", ["encode_queries", "encode_documents"])
def test_the_methods_named_for_the_intent_are_encode(encoder: M3Encoder, method: str) -> None:
    encode = getattr(encoder, method)
    assert_identical(encode(TEXTS), encoder.encode(TEXTS))
    assert_identical(encode("one"), encoder.encode("one"))
    assert_identical(encode(TEXTS, 5, colbert=False), encoder.encode(TEXTS, 5, colbert=False))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float16, 0.01), (torch.bfloat16, 0.08)], ids=str
)
def test_half_precision_stays_close_to_single(
    encoder: M3Encoder, checkpoint: Path, dtype: torch.dtype, tolerance: float
) -> None:
    half = M3Encoder.from_pretrained(checkpoint, device="cpu", dtype=dtype)
    assert half.dtype is dtype
    emb = half.encode(TEXTS)
    dense, sparse, colbert = views(emb)
    assert dense.dtype is torch.float32
    assert sparse.values.dtype is torch.float32
    assert colbert.vectors.dtype is dtype
    assert_close(emb, encoder.encode(TEXTS), tolerance)


def test_progress_goes_to_stderr(encoder: M3Encoder, capsys: pytest.CaptureFixture[str]) -> None:
    shown = with_budget(encoder, 64).encode(TEXTS, progress=True)
    out, err = capsys.readouterr()
    total = sum(len(ids) for ids in encoder.tokenizer(TEXTS)["input_ids"])
    assert out == ""
    assert "encoding" in err
    assert f"{total}/{total}" in err  # it reached its end
    hidden = with_budget(encoder, 64).encode(TEXTS)
    assert capsys.readouterr() == ("", "")
    assert_identical(shown, hidden)


# -- readable terms


def test_tokens_are_the_weights_under_readable_names(encoder: M3Encoder) -> None:
    emb = encoder.encode(["The quick fox", "", "Straße"])
    for row, weights in zip(encoder.tokens(emb), emb.lexical_weights(), strict=True):
        assert row == {encoder.tokenizer.decode([int(i)]): w for i, w in weights.items()}
    with pytest.raises(InputError, match="no sparse view"):
        encoder.tokens(encoder.encode("a", sparse=False))


def test_tokens_merge_ids_with_equal_strings_the_last_wins(encoder: M3Encoder) -> None:
    by_string: dict[str, list[int]] = {}
    for token in range(4, len(encoder.tokenizer)):
        by_string.setdefault(encoder.tokenizer.decode([token]), []).append(token)
    string, ids = next(item for item in by_string.items() if len(item[1]) == 2)
    other = next(string for string, ids in by_string.items() if len(ids) == 1)
    weights = {ids[0]: 0.75, ids[1]: 0.25, by_string[other][0]: 0.5}
    indices = sorted(weights)
    sparse = SparseVectors(
        torch.tensor([0, 3]),
        torch.tensor(indices, dtype=torch.int32),
        torch.tensor([weights[token] for token in indices]),
    )
    assert encoder.tokens(M3Embeddings(sparse=sparse)) == [{string: 0.25, other: 0.5}]


# -- mishaps and threads


def fail_at(monkeypatch: pytest.MonkeyPatch, call: int, error: BaseException) -> None:
    """Let the model's `call`-th pass, and the later ones, raise `error`."""
    calls = 0
    forward = M3Model.forward

    def failing(self: M3Model, *arguments: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls >= call:
            raise error
        return forward(self, *arguments)

    monkeypatch.setattr(M3Model, "forward", failing)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate "
            "memory: you tried to allocate 4000000000 bytes."
        ),
    ],
    ids=["cuda", "cpu"],
)
def test_out_of_memory_says_what_to_lower(
    encoder: M3Encoder, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    small = with_budget(encoder, 77)
    with monkeypatch.context() as patch:
        fail_at(patch, 2, error)
        with pytest.raises(EncodeError, match=r"lower token_budget \(now 77\)") as caught:
            small.encode(TEXTS)
    assert caught.value.__cause__ is error
    assert_close(small.encode(TEXTS), encoder.encode(TEXTS))  # it is as good as before


def test_an_interrupt_passes_through(encoder: M3Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    small = with_budget(encoder, 64)
    with monkeypatch.context() as patch:
        fail_at(patch, 2, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            small.encode(TEXTS, progress=True)
    with ThreadPoolExecutor(1) as pool:  # no lock is left behind: else this would never return
        again = pool.submit(small.encode, TEXTS).result(timeout=60)
    assert_close(again, encoder.encode(TEXTS))


@pytest.mark.usefixtures("quiet")
def test_two_threads_at_once(encoder: M3Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """With different lengths, because a fast tokenizer keeps its truncation as state."""
    texts = [*TEXTS, LONG]
    small = with_budget(encoder, 64)
    expected = {length: small.encode(texts, length) for length in (4, 100)}
    tokenizer = type(encoder.tokenizer)
    set_state = tokenizer.set_truncation_and_padding

    def set_state_and_dawdle(*arguments: Any, **options: Any) -> None:
        set_state(*arguments, **options)
        time.sleep(0.005)  # the moment at which another thread could set its own

    monkeypatch.setattr(tokenizer, "set_truncation_and_padding", set_state_and_dawdle)
    with ThreadPoolExecutor(2) as pool:
        jobs = [(n, pool.submit(small.encode, texts, n)) for n in (4, 100) * 4]
        for length, job in jobs:
            assert_identical(job.result(timeout=60), expected[length])


@pytest.mark.usefixtures("quiet")
def test_what_the_tokenizer_was_last_asked_for_changes_nothing(checkpoint: Path) -> None:
    """It keeps truncation and padding as state, and is everybody's to call."""
    mine = M3Encoder.from_pretrained(checkpoint, dtype=torch.float32)
    expected = mine.encode([*TEXTS, LONG], 20)
    mine.tokenizer(TEXTS, truncation=True, max_length=3, padding="max_length")
    assert_identical(mine.encode([*TEXTS, LONG], 20), expected)


def test_the_tokenizer_may_be_called_while_another_thread_encodes(checkpoint: Path) -> None:
    mine = M3Encoder.from_pretrained(checkpoint, dtype=torch.float32)
    expected, texts = mine.encode(TEXTS), ["one two three " * 30] * 200
    counts = [len(ids) for ids in mine.tokenizer(texts)["input_ids"]]
    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(mine.encode, TEXTS) for _ in range(10)]
        decoded = [pool.submit(mine.tokens, expected) for _ in range(10)]
        for _ in range(10):
            assert [len(ids) for ids in mine.tokenizer(texts)["input_ids"]] == counts
        for job in jobs:
            assert_identical(job.result(timeout=60), expected)
        readable = mine.tokens(expected)
        for other in decoded:
            assert other.result(timeout=60) == readable


def test_the_encoder_loads_no_qdrant() -> None:
    code = (
        "import sys, m3qdrant.encode.encoder, m3qdrant.scoring\n"
        "print([name for name in sys.modules if name.partition('.')[0].startswith('qdrant')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.strip() == "[]"


# -- numbers that are none


def overflowing(checkpoint: Path, directory: Path) -> Path:
    """A body whose feed-forward layers go beyond float16, and stay within float32."""
    copied = Path(shutil.copytree(checkpoint, directory / "overflowing"))
    path = copied / "model.safetensors"
    wide = ("intermediate.dense.weight", "output.dense.weight")
    tensors = {k: v * 300 if k.endswith(wide) else v for k, v in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    return copied


@pytest.mark.parametrize("wanted", range(1, 8))
def test_overflow_of_float16_is_an_error_in_every_view(
    checkpoint: Path, tmp_path: Path, wanted: int
) -> None:
    options = {view: bool(wanted >> bit & 1) for bit, view in enumerate(VIEWS)}
    half = M3Encoder.from_pretrained(overflowing(checkpoint, tmp_path), dtype=torch.float16)
    with pytest.raises(EncodeError, match=r"float16 overflowed: .*torch\.float32") as caught:
        half.encode(["hello world", "another"], **options)
    assert re.match(r"text [01] .* has NaN or infinity", str(caught.value))


def test_what_overflows_in_float16_is_fine_in_the_others(checkpoint: Path, tmp_path: Path) -> None:
    directory = overflowing(checkpoint, tmp_path)
    for dtype in (torch.float32, torch.bfloat16):
        emb = M3Encoder.from_pretrained(directory, dtype=dtype).encode("hello world")
        for name, tensor in tensors(emb).items():
            assert bool(tensor.isfinite().all()), name


@pytest.mark.parametrize("head", ["sparse_head", "colbert_head"])
def test_a_head_that_overflows(encoder: M3Encoder, head: str) -> None:
    model = copy.deepcopy(encoder.model)
    getattr(model, head).weight.fill_(torch.finfo(torch.float32).max)
    getattr(model, head).bias.fill_(torch.finfo(torch.float32).max)
    damaged = M3Encoder(model, encoder.tokenizer, "damaged", 64)
    with pytest.raises(EncodeError, match=r"NaN or infinity.*training failed"):
        damaged.encode("hello world")


@pytest.mark.parametrize("token_budget", [1, 10**6])
def test_the_text_is_named_by_its_position_and_its_beginning(
    encoder: M3Encoder, monkeypatch: pytest.MonkeyPatch, token_budget: int
) -> None:
    """One text gives NaN, in company and alone; its neighbours are not blamed."""
    texts = ["short", "the one that is wrong " * 9, "", "another"]
    forward = M3Model.forward

    def damaged(self: M3Model, token_ids: Tensor, positions: Tensor, packing: Any) -> Tensor:
        hidden = forward(self, token_ids, positions, packing)
        sizes = packing.cu_seqlens.diff()
        if int(sizes.max()) > 20:
            hidden[int(packing.cu_seqlens[int(sizes.argmax())]) + 3, 5] = math.nan
        return hidden

    monkeypatch.setattr(M3Model, "forward", damaged)
    small = with_budget(encoder, token_budget)
    with pytest.raises(EncodeError, match=r"^text 1 has NaN .*begins 'the one that is wrong"):
        small.encode(texts)
    assert len(small.encode(["fine", "fine too"])) == 2
