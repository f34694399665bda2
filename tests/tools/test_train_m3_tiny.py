"""The script that trained m3-tiny: it starts, and what it writes is a checkpoint."""

from __future__ import annotations

import email
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from m3qdrant import M3Encoder
from tests.views import views
from tools import train_m3_tiny as script

SCRIPT = Path(script.__file__)


@pytest.mark.slow
def test_it_starts_from_anywhere(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--translations" in done.stdout


def test_where_it_stands_is_what_the_card_says() -> None:
    command = f"python {SCRIPT.parent.name}/{SCRIPT.name} --out m3-tiny"
    assert command in script.CARD
    assert command in (script.__doc__ or "")
    card = Path(__file__).parents[2] / "m3qdrant" / "data" / "m3-tiny" / "README.md"
    assert command in card.read_text("utf-8")


@pytest.mark.filterwarnings("ignore:Sparse")  # of torch, of its own sparse tensors
def test_a_tiny_run_writes_a_checkpoint_that_encodes_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything but the reading of Debian's descriptions and the card, on a few docstrings."""
    sizes = {"VOCAB_SIZE": 300, "HIDDEN": 28, "LAYERS": 1, "BATCH": 4, "DOCUMENT_TOKENS": (24,)}
    for name, size in sizes.items():
        monkeypatch.setattr(script, name, size)
    torch.manual_seed(script.SEED)
    items = list(script.read_docstrings(Path(email.__file__).parent))
    assert len(items) > 50
    tokenizer = script.train_tokenizer(items, random.Random(script.SEED))
    model = script.TinyM3(tokenizer.get_vocab_size())
    script.start_from_bags_of_words(model, script.lsa_embeddings(tokenizer, items))
    assert script.train(model, tokenizer, items, steps=2, minutes=math.inf) == 2
    script.calibrate(model, tokenizer, items)
    script.export(model, tokenizer, tmp_path)

    encoder = M3Encoder.from_pretrained(tmp_path, device="cpu", dtype=torch.float32)
    assert (encoder.dim, encoder.colbert_dim, encoder.max_length) == (28, 28, script.MAX_TOKENS)
    texts = ["parse an email message", "", "NamedTemporaryFile, header_encode"]
    with torch.no_grad():
        ids, mask = script.tokenize(tokenizer, texts, script.EVALUATION_TOKENS)
        expected = model.eval()(ids, mask)
    dense, sparse, colbert = views(encoder.encode(texts))
    # the files hold half precision
    torch.testing.assert_close(dense, expected.dense, rtol=0, atol=2e-3)
    for i, row in enumerate(sparse):
        weights = torch.zeros(len(expected.sparse[i])).index_put((row.indices.long(),), row.values)
        torch.testing.assert_close(weights, expected.sparse[i], rtol=0, atol=5e-3)
        tokens = expected.colbert[i][expected.mask[i].bool()]
        torch.testing.assert_close(colbert[i], tokens, rtol=0, atol=5e-3)
