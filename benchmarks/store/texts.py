"""Documents and queries: the standard library's docstrings, encoded once for all choices.

A query is the first sentence of a docstring, and its document is the text without that sentence,
so a query never stands in what it looks for word by word.

The vectors are the bundled model's, 224 wide. A fixed random orthonormal map lifts them to
BGE-M3's 1,024: it keeps every dot product, so all rankings and recalls are the real ones of the
model, while bytes, times and rounding are those of vectors of 1,024 numbers.
"""

from __future__ import annotations

import random
import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from m3qdrant import Document, M3Embeddings, M3Encoder, TokenVectors, TruncationWarning

WIDTH = 1024
"""Of BGE-M3's vectors."""

MODEL = "m3-tiny"

_MAP_SEED = 20240205
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n\s*\n")
_SHORTEST, _LONGEST = 20, 200  # characters of a sentence that can stand as a query
_REST = 40  # characters that have to be left of its document


@dataclass(frozen=True)
class Texts:
    """What a run stores and asks.

    Attributes:
        documents: in the order of their embeddings.
        queries: texts.
        answers: for each query the position of the document that it was taken from.
    """

    documents: list[Document]
    queries: list[str]
    answers: list[int]


def draw(found: Sequence[Document], n_documents: int, n_queries: int, seed: int) -> Texts:
    """Some of the docstrings, and first sentences of some of those, taken out of them."""
    rng = random.Random(seed)
    documents = rng.sample(found, min(n_documents, len(found)))
    queries: list[str] = []
    answers: list[int] = []
    for position in rng.sample(range(len(documents)), len(documents)):
        if len(queries) == n_queries:
            break
        document = documents[position]
        head, colon, docstring = document.text.partition(": ")
        sentence, *rest = _SENTENCE_END.split(docstring, maxsplit=1)
        if (
            not _SHORTEST <= len(sentence) <= _LONGEST
            or not rest
            or len(rest[0]) < _REST
            or sentence in rest[0]
        ):
            continue
        queries.append(" ".join(sentence.split()))
        answers.append(position)
        text = f"{head}{colon}{rest[0]}"
        documents[position] = Document(document.id, text, document.payload)
    return Texts(documents, queries, answers)


@dataclass(frozen=True)
class Files:
    """Where the workers find the embeddings, as wide as the model made them."""

    documents: Path
    queries: Path


@contextmanager
def encoded(texts: Texts) -> Iterator[tuple[Files, M3Embeddings, M3Embeddings]]:
    """The embeddings of documents and queries, in files for as long as the block lasts."""
    encoder = M3Encoder.from_pretrained(MODEL, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        documents = encoder.encode_documents([item.text for item in texts.documents])
    queries = encoder.encode_queries(texts.queries)
    with tempfile.TemporaryDirectory(prefix="m3qdrant-benchmark-") as folder:
        files = Files(Path(folder) / "documents", Path(folder) / "queries")
        documents.save(files.documents)
        queries.save(files.queries)
        yield files, documents, queries


def lift(embeddings: M3Embeddings, width: int) -> M3Embeddings:
    """The same dot products, with vectors of `width` numbers."""
    dense, colbert = embeddings.dense, embeddings.colbert
    assert dense is not None
    assert colbert is not None
    rows = _orthonormal(dense.shape[1], width)
    return M3Embeddings(
        dense=dense.float() @ rows,
        sparse=embeddings.sparse,
        colbert=TokenVectors(colbert.vectors.float() @ rows, colbert.cu_seqlens),
    )


def _orthonormal(narrow: int, wide: int) -> Tensor:
    """(narrow, wide) with orthonormal rows, the same in every process."""
    if narrow > wide:
        raise ValueError(f"vectors of {narrow} numbers don't fit into {wide}")
    generator = torch.Generator().manual_seed(_MAP_SEED)
    columns, _ = torch.linalg.qr(torch.randn(wide, narrow, generator=generator).double())
    rows: Tensor = columns.T.float().contiguous()
    return rows
