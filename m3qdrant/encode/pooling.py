"""Fewer ColBERT vectors for a text: tokens that say nearly the same become one vector.

Qdrant takes at most 1,023 vectors of 1024-d a document or query, and fewer vectors are less disk,
memory and time for every document. A text repeats itself: the pieces of a word, a term that comes
again, the small words. MaxSim takes the best match wherever it stands, so merging what is alike
costs it the least.

Which merge
    Each token begins as a cluster. As long as there are too many, those two become one whose merge
    adds least to the squared distances of the tokens from their cluster's mean (Ward's criterion).
    This is the hierarchical clustering of Clavie, Chaffin and Adams, "Reducing the Footprint of
    Multi-Vector Retrieval with Minimal Performance Impact via Token Pooling" (2024). On real text
    (encoded with m3-tiny), letting only tokens merge that stand side by side, by whatever
    criterion, left MaxSim with a multiple of the error, and windows of equal length were worse
    still. The average similarity as the criterion did about as well as Ward's.

How it is found
    From any cluster to its nearest, from that one to its nearest, until two are each other's;
    these merge, and the walk goes on from the new cluster. With Ward's criterion this gives the
    same tree of merges as looking for the cheapest of all pairs each time, at about O(n) a merge
    instead of O(n^2). A text of more than 512 tokens is cut into equal stretches with a tree each;
    the cheapest merges of all trees are done, at most half of what there is, and what is left is
    cut anew, until one tree holds it or it is few enough. Time grows linearly with the text, and
    little is lost against one tree over all of it.

Documents (`pool`, `pool_tokens`)
    A cluster's vector is the mean of its members, normalised.

Queries (`pool_query`)
    A cluster's vector is the sum of its members. MAX_SIM over these,
    sum_c max_j (sum_{i in c} q_i) . d_j, is at most the sum over all tokens,
    sum_i max_j q_i . d_j, and equal where the members of each cluster find the same document token
    best. Scores therefore stay on the scale of the query's n tokens, and the mean divides by n.

A text's result depends neither on its batch nor on the run.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TypeAlias

import numpy as np
import torch
from m3kernels.packing import from_lengths
from numpy.typing import NDArray
from torch import Tensor

from m3qdrant.encode.embeddings import TokenVectors
from m3qdrant.errors import InputError

__all__ = ["clusters", "pool", "pool_query", "pool_tokens"]

_STRETCH = 512
"""The most tokens that are compared each with each."""

_Merge: TypeAlias = tuple[float, int, int]
"""What a merge costs, and a member of either cluster."""


def pool(vectors: Tensor, limit: int) -> Tensor:
    """A text's ColBERT vectors, merged until there are at most `limit`.

    Args:
        vectors: (n, dim), each row L2-normalised.
        limit: at least 1.

    Returns:
        (min(n, limit), dim), L2-normalised, of the same dtype and on the same device, in the order
        of each cluster's first token; `vectors` itself where nothing has to be merged.
    """
    if len(vectors) <= limit:
        return vectors
    exact = vectors.detach().float().cpu()
    clusters = _clusters(exact, limit)
    sums = _sums(exact, clusters, limit)
    norms = sums.norm(dim=1, keepdim=True)
    # members that cancel out have no direction: the first one stands for them
    firsts = exact[_first_members(clusters, limit)]
    pooled = torch.where(norms > 1e-6, sums / norms.clamp(min=1e-6), firsts)
    return pooled.to(vectors.device, vectors.dtype)


def pool_query(vectors: Tensor, limit: int) -> Tensor:
    """A query's ColBERT vectors, merged until there are at most `limit`, as sums.

    Args:
        vectors: (n, dim), each row L2-normalised.
        limit: at least 1.

    Returns:
        (min(n, limit), dim) of the same dtype and on the same device, in the order of each
        cluster's first token; the vector of m tokens has a norm of up to m.
    """
    if len(vectors) <= limit:
        return vectors
    exact = vectors.detach().float().cpu()
    sums = _sums(exact, _clusters(exact, limit), limit)
    return sums.to(vectors.device, vectors.dtype)


def pool_tokens(
    colbert: TokenVectors, *, factor: int = 1, limit: int | None = None
) -> TokenVectors:
    """The ColBERT vectors of each text, merged by `pool`.

    Args:
        colbert: of n texts.
        factor: a text of m vectors keeps ceil(m / factor).
        limit: but no more than so many; None for no limit.

    Returns:
        The n texts with fewer vectors. A text that has few enough keeps its bytes.

    Raises:
        InputError: `factor` or `limit` is less than 1.
    """
    if factor < 1:
        raise InputError(f"factor is {factor}: give a whole number from 1")
    lengths = -(-colbert.lengths // factor)
    if limit is not None:
        lengths = lengths.clamp(max=limit)
    if torch.equal(lengths, colbert.lengths):
        return colbert
    pooled = [pool(tokens, most) for tokens, most in zip(colbert, lengths.tolist(), strict=True)]
    return TokenVectors(torch.cat(pooled), from_lengths(lengths))


def clusters(vectors: Tensor, limit: int) -> list[list[int]]:
    """The rows of `vectors` that each row of `pool(vectors, limit)` was made of, ascending.

    Those of `pool_query` are the same ones.

    Raises:
        InputError: `limit` is less than 1.
    """
    if len(vectors) <= limit:
        return [[i] for i in range(len(vectors))]
    members: list[list[int]] = [[] for _ in range(limit)]
    for i, cluster in enumerate(_clusters(vectors.detach().float().cpu(), limit).tolist()):
        members[cluster].append(i)
    return members


def _clusters(vectors: Tensor, limit: int) -> Tensor:
    """The cluster of each token: (n,) int64, numbered by their first tokens, `limit` in all."""
    if limit < 1:
        raise InputError(f"limit is {limit}: a text keeps at least one vector")
    of = torch.arange(len(vectors))
    while (k := int(of.max()) + 1) > limit:
        sums, sizes = _sums(vectors, of, k), torch.bincount(of)
        merges: list[_Merge] = []
        for start, stop in _stretches(k):
            merges += _tree(sums[start:stop].numpy(), sizes[start:stop].numpy(), start)
        merges.sort()
        # with several trees only the cheaper half, for the next stretches see more of the text
        target = limit if k <= _STRETCH else max(limit, -(-k // 2))
        of = _joined(k, merges[: k - target])[of]
    return of


def _stretches(n: int) -> list[tuple[int, int]]:
    parts = -(-n // _STRETCH)
    bounds = [n * i // parts for i in range(parts + 1)]
    return list(pairwise(bounds))


def _tree(sums: NDArray[np.float32], sizes: NDArray[np.int64], offset: int) -> list[_Merge]:
    """The n - 1 merges that make one cluster of n, in no useful order.

    Args:
        sums: (n, dim), of each cluster's members.
        sizes: (n,), how many there are.
        offset: the first cluster's number; the others count on from there.
    """
    n = len(sums)
    means = sums / sizes[:, None].astype(np.float32)
    gram = (means @ means.T).astype(np.float64)
    squares = gram.diagonal()
    weight = sizes.astype(np.float64)
    # Ward's cost of merging a and b: n_a n_b / (n_a + n_b) |mean_a - mean_b|^2
    cost = squares[:, None] + squares[None, :] - 2 * gram
    cost *= weight[:, None] * weight[None, :] / (weight[:, None] + weight[None, :])
    np.maximum(cost, 0, out=cost)
    np.fill_diagonal(cost, np.inf)
    merges: list[_Merge] = []
    a = 0
    while len(merges) < n - 1:
        before, here = -1, a
        while True:
            row = cost[here]
            nearest = int(row.argmin())
            # on a tie the one before wins, or the chain could run in a circle
            if before >= 0 and row[before] <= row[nearest]:
                break
            before, here = here, nearest
        a, b = min(before, here), max(before, here)
        height = float(cost[a, b])
        merges.append((height, a + offset, b + offset))
        # Lance and Williams: the costs of the new cluster, from those of its two parts
        both, others = weight[a] + weight[b], weight
        new = (weight[a] + others) * cost[a] + (weight[b] + others) * cost[b] - others * height
        new /= both + others
        new[a] = np.inf
        cost[a], cost[:, a] = new, new
        cost[b], cost[:, b] = np.inf, np.inf
        weight[a] = both
    return merges


def _joined(n: int, merges: list[_Merge]) -> Tensor:
    """The new number of each of n clusters, in the order of their first members."""
    parent = list(range(n))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for _, a, b in merges:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    number: dict[int, int] = {}
    return torch.tensor([number.setdefault(root(i), len(number)) for i in range(n)])


def _sums(vectors: Tensor, of: Tensor, k: int) -> Tensor:
    return torch.zeros(k, vectors.shape[1]).index_add_(0, of, vectors)


def _first_members(of: Tensor, k: int) -> Tensor:
    return torch.full((k,), len(of)).scatter_reduce_(0, of, torch.arange(len(of)), "amin")
