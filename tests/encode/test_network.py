"""M3Model's packed pass against transformers' own padded one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from m3qdrant.encode.network import M3Model, Packing

LAYOUTS = ("bin-fp16-heads", "fp16-body-colbert-24", "safetensors-fp32-heads")


@pytest.fixture(scope="module", params=LAYOUTS)
def pair(request: pytest.FixtureRequest, checkpoint: Path) -> tuple[M3Model, Any]:
    """Our model of a checkpoint, and transformers' with its plainest attention."""
    from transformers import XLMRobertaModel

    directory = checkpoint.with_name(request.param)
    theirs = XLMRobertaModel.from_pretrained(
        directory,
        add_pooling_layer=False,
        attn_implementation="eager",
        dtype=torch.float64,  # so that what is measured is our error alone
        use_safetensors=(directory / "model.safetensors").exists(),
    )
    return M3Model.load(directory, torch.float32), theirs.eval().requires_grad_(False)


def assert_forward_agrees(ours: M3Model, theirs: Any, rows: list[list[int]]) -> None:
    """The packed pass over `rows` against a padded batch with an attention mask."""
    padded = torch.full((len(rows), max(map(len, rows))), ours.pad_id)
    mask = torch.zeros_like(padded)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    expected = theirs(input_ids=padded, attention_mask=mask).last_hidden_state
    positions = [place for row in rows for place in ours.position_ids(row)]
    packing = Packing.of([len(row) for row in rows], torch.device("cpu"))
    flat = torch.tensor([token for row in rows for token in row])
    actual = ours(flat, torch.tensor(positions), packing)
    # at 128 tokens transformers' own float32 is 1.4e-5 off as well
    torch.testing.assert_close(actual.double(), expected[mask.bool()], rtol=0, atol=2e-5)


# any ids of the vocabularies; pads (1) are common enough to stand inside many rows
token_rows = st.lists(st.one_of(st.just(1), st.integers(0, 899)), min_size=1, max_size=24)


@given(st.lists(token_rows, min_size=1, max_size=6))
@settings(max_examples=15)
def test_packed_forward_is_transformers_padded_one(
    pair: tuple[M3Model, Any], rows: list[list[int]]
) -> None:
    assert_forward_agrees(*pair, rows)


def test_packed_forward_up_to_the_last_position(pair: tuple[M3Model, Any]) -> None:
    ours, theirs = pair
    generator = torch.Generator().manual_seed(3)
    lengths = (ours.max_length, 1, ours.max_length - 1, 17)
    rows = [torch.randint(4, 900, (n,), generator=generator).tolist() for n in lengths]
    assert_forward_agrees(ours, theirs, rows)
    assert ours.position_ids(rows[0])[-1] == theirs.config.max_position_embeddings - 1


@given(token_rows)
@settings(max_examples=50)
def test_position_ids_are_transformers_own(pair: tuple[M3Model, Any], row: list[int]) -> None:
    ours, theirs = pair
    seen: list[Tensor] = []
    table = theirs.embeddings.position_embeddings
    hook = table.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    theirs.embeddings(input_ids=torch.tensor([row]))
    hook.remove()
    assert ours.position_ids(row) == seen[0].flatten().tolist()
