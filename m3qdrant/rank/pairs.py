"""The scores of (query, document) pairs, the documents being in an arena.

One kernel launch scores the token vectors of all pairs, whichever queries they are of.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import m3kernels
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from m3qdrant.encode import M3Embeddings
from m3qdrant.errors import InputError
from m3qdrant.names import COLBERT, DENSE, SPARSE
from m3qdrant.rank.arena import Arena, Run

__all__ = ["Pairs", "Queries", "score_pairs"]

Pairs: TypeAlias = NDArray[np.int64]
"""(n, 2): a query's position and a document's."""

_Of: TypeAlias = "slice | Tensor"
"""Some of the queries, or of the documents."""

_DENSER = 4
"""All queries meet all documents where that is no more than so many times the pairs."""


@dataclass(frozen=True)
class Queries:
    """Queries on a device, ready to be scored.

    Attributes:
        embeddings: their views there.
        tokens: (n,) what the mean of MaxSim divides by: each one's tokens, which may be more than
            its vectors are.
    """

    embeddings: M3Embeddings
    tokens: Tensor

    @classmethod
    def of(
        cls,
        embeddings: M3Embeddings,
        device: torch.device,
        tokens: Sequence[int] | None = None,
    ) -> Queries:
        """From embeddings anywhere; by default each vector is a token's."""
        colbert = embeddings.colbert
        if tokens is not None:
            lengths = torch.tensor(tokens)
        else:
            lengths = torch.zeros(len(embeddings)) if colbert is None else colbert.lengths
        return cls(embeddings.to(device), lengths.to(device).float().clamp(min=1))

    def __len__(self) -> int:
        return len(self.embeddings)


def score_pairs(
    queries: Queries,
    arena: Arena,
    runs: Sequence[Run],
    pairs: Pairs,
    views: Collection[str],
) -> dict[str, NDArray[np.float32]]:
    """By view what each pair scores, (n,): the dot product, the lexical score, mean MaxSim.

    0.0 where the document has no such view.

    Args:
        queries: on the arena's device.
        arena: where the documents are.
        runs: of each document, where.
        pairs: each a query and a document, a position in `runs`.
        views: the scores that are asked for.

    Raises:
        InputError: the two sides' views don't go together.
    """
    scorers = {DENSE: _dense, SPARSE: _lexical, COLBERT: _colbert}
    which = _Which.of(len(queries), len(runs), pairs, arena.form.device)
    with torch.inference_mode():
        return {name: scorers[name](queries, arena, runs, which).cpu().numpy() for name in views}


@dataclass(frozen=True)
class _Which:
    """Which of n_q queries meet which of n_d documents.

    Attributes:
        pairs: (n, 2) on the device; None for all with all, in order.
    """

    n_q: int
    n_d: int
    pairs: Tensor | None

    @classmethod
    def of(cls, n_q: int, n_d: int, pairs: Pairs, device: torch.device) -> _Which:
        if len(pairs) == n_q * n_d:
            places = pairs[:, 0] * n_d + pairs[:, 1]
            if bool((places == np.arange(len(pairs))).all()):
                return cls(n_q, n_d, None)
        return cls(n_q, n_d, torch.from_numpy(np.ascontiguousarray(pairs)).to(device))

    def scores(self, score: Callable[[_Of, _Of], Tensor]) -> Tensor:
        """Of each pair what a function of some queries and some documents, (n_q, n_d), gives."""
        if self.pairs is None:
            return score(slice(None), slice(None)).flatten()
        q, d = self.pairs.unbind(1)
        if self.n_q * self.n_d <= _DENSER * len(q):
            return score(slice(None), slice(None))[q, d]
        found = torch.empty(len(q), device=q.device)
        order = q.argsort(stable=True)
        ids, counts = torch.unique_consecutive(q[order], return_counts=True)
        for i, places in zip(ids.tolist(), torch.split(order, counts.tolist()), strict=True):
            found[places] = score(slice(i, i + 1), d[places])[0]
        return found


def _dense(queries: Queries, arena: Arena, runs: Sequence[Run], which: _Which) -> Tensor:
    dense = queries.embeddings.dense
    if dense is None:
        raise _missing(DENSE)
    _check_width(DENSE, dense.shape[1], arena.form.dense_dim)
    vectors, documents = dense.float(), arena.dense(runs)
    return which.scores(lambda q, d: vectors[q] @ documents[d].T)


def _lexical(queries: Queries, arena: Arena, runs: Sequence[Run], which: _Which) -> Tensor:
    sparse = queries.embeddings.sparse
    if sparse is None:
        raise _missing(SPARSE)
    weights, documents = sparse, arena.sparse(runs)

    def score(q: _Of, d: _Of) -> Tensor:
        a, b = weights[q], documents[d]
        try:
            return m3kernels.lexical_scores(
                (a.indptr, a.indices, a.values), (b.indptr, b.indices, b.values)
            )
        except (TypeError, ValueError) as error:
            raise InputError(f"the sparse views don't go together: {error}") from error

    return which.scores(score)


def _colbert(queries: Queries, arena: Arena, runs: Sequence[Run], which: _Which) -> Tensor:
    colbert, form = queries.embeddings.colbert, arena.form
    if colbert is None:
        raise _missing(COLBERT)
    _check_width(COLBERT, colbert.vectors.shape[1], form.token_dim)
    vectors = torch.nn.functional.pad(
        colbert.vectors.float(), (0, form.width - form.token_dim)
    ).contiguous()
    if form.dtype == "bfloat16" and form.device.type == "cuda":
        vectors = vectors.bfloat16()  # else the product would be one of float32
    sums = m3kernels.maxsim(
        vectors,
        colbert.cu_seqlens,
        arena.colbert(runs),
        pairs=which.pairs,
        document_scales=arena.scales,
        reduction="sum",
    )
    if which.pairs is None:
        return (sums / queries.tokens[:, None]).flatten()
    return sums / queries.tokens[which.pairs[:, 0]]


def _missing(name: str) -> InputError:
    return InputError(f"the queries hold no {name} view: encode them with {name}=True")


def _check_width(name: str, ours: int, theirs: int) -> None:
    if ours != theirs:
        raise InputError(
            f"{name} vectors of {ours} dimensions in the query and of {theirs} in the documents: "
            "they come from different models"
        )
