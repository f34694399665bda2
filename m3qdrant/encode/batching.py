"""Texts cut into batches, and what the model says of each batch put back in the texts' order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from m3qdrant.encode.embeddings import M3Embeddings, SparseVectors, TokenVectors, gather_rows
from m3qdrant.encode.network import M3Model, Packing

__all__ = ["Output", "batches"]


def batches(lengths: Sequence[int], token_budget: int) -> Iterator[list[int]]:
    """Texts by falling length, in batches whose padded size (texts x longest) is within the
    budget.

    One text that is longer than the budget is a batch of its own.

    Args:
        lengths: the tokens of each text.
        token_budget: the most padded tokens a batch.

    Yields:
        Positions of texts in `lengths`; each is in one batch.
    """
    batch: list[int] = []
    for text in sorted(range(len(lengths)), key=lambda text: -lengths[text]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > token_budget:
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch


class Output:
    """The views asked for, filled batch by batch in any order, each text to its own place.

    Dense and ColBERT vectors go straight into their final tensors, so that no second copy is ever
    held.

    Args:
        model: gives the widths, the dtype and the views.
        lengths: the tokens of each text, CLS and EOS included.
        dense: hold the dense vectors.
        sparse: hold the lexical weights.
        colbert: hold the ColBERT vectors.
    """

    def __init__(
        self, model: M3Model, lengths: Sequence[int], dense: bool, sparse: bool, colbert: bool
    ) -> None:
        self._model = model
        self._dense = torch.empty(len(lengths), model.dim) if dense else None
        self._sparse: list[SparseVectors] | None = [] if sparse else None
        self._order: list[int] = []  # the texts in the order in which their sparse rows came
        self._colbert: TokenVectors | None = None
        if colbert:
            sizes = torch.tensor([0, *lengths]) - 1  # CLS has no ColBERT vector
            sizes[0] = 0
            cu_seqlens = sizes.cumsum(0)
            rows = torch.empty(int(cu_seqlens[-1]), model.colbert_dim, dtype=model.dtype)
            self._colbert = TokenVectors(rows, cu_seqlens)

    def write(
        self,
        texts: list[int],
        hidden: Tensor,
        token_ids: Tensor,
        packing: Packing,
        ignore_ids: tuple[int, ...],
    ) -> list[int]:
        """The views of one batch, whose hidden states are `hidden`.

        Returns:
            The texts of the batch that have a number that is none, in whatever view was asked for
            or in what they are made of; none of the others is of use then.
        """
        model, places = self._model, torch.tensor(texts)
        # a weight of NaN is not above zero, so the sparse view alone would not show it
        bad = ~_finite_rows(hidden, packing.cu_seqlens)
        if self._dense is not None:
            dense = model.dense(hidden, packing).cpu()
            self._dense[places] = dense
            bad |= ~dense.isfinite().all(1)
        if self._colbert is not None:
            rows, offsets = gather_rows(self._colbert.cu_seqlens, places)
            colbert = model.colbert(hidden, packing).cpu()
            self._colbert.vectors[rows] = colbert
            bad |= ~_finite_rows(colbert, offsets)
        if self._sparse is not None:
            csr = SparseVectors(*model.sparse(hidden, token_ids, packing, ignore_ids)).to("cpu")
            self._sparse.append(csr)
            self._order += texts
            bad |= ~_finite_rows(csr.values[:, None], csr.indptr)
        return places[bad].tolist()

    def result(self, truncated: Tensor, fingerprint: str) -> M3Embeddings:
        """Everything, in the order of the texts.

        Args:
            truncated: (n,) bool, see `M3Embeddings`.
            fingerprint: the encoder's.
        """
        sparse = None
        if self._sparse:
            sparse = SparseVectors.concat(self._sparse)[torch.tensor(self._order).argsort()]
        elif self._sparse is not None:
            sparse = SparseVectors(
                torch.zeros(1, dtype=torch.int64),
                torch.empty(0, dtype=torch.int32),
                torch.empty(0),
            )
        return M3Embeddings(self._dense, sparse, self._colbert, truncated, fingerprint)


def _finite_rows(rows: Tensor, offsets: Tensor) -> Tensor:
    """(n,) bool on the CPU: whether all rows of each text are finite."""
    finite = rows.isfinite()
    n = len(offsets) - 1
    if bool(finite.all()):
        return torch.ones(n, dtype=torch.bool)
    of = torch.repeat_interleave(torch.arange(n), offsets.cpu().diff())
    wrong = torch.zeros(n, dtype=torch.int64).index_add_(0, of, (~finite.cpu().all(1)).long())
    return wrong == 0
