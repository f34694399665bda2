"""Certified search: a scan of int8 documents, then the exact rows of those that can be the best.

A scan gives what each score is at least and at most. The k-th largest of the least ones is reached
by k documents, so a document whose most is below it is not among the k best. The scan keeps those
that reach the k-th so far, which becomes larger as it goes on. Of those that are left the k of the
largest bounds are scored again first: their k-th score is larger still, and more of the others
stay below it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from m3kernels.certified.bounds import Bounds
from m3kernels.certified.documents import CertifiedDocuments
from m3kernels.certified.rescore import rescore_torch, rescore_triton
from m3kernels.certified.screen import Coarse, lost_by_digits
from m3kernels.maxsim.cpu import (
    SCRATCH_BYTES_CPU,
    SCRATCH_BYTES_GPU,
    maxsim_torch,
    query_runs,
)
from m3kernels.maxsim_topk.ranking import Best, keys_of
from m3kernels.packing import from_lengths, lengths
from m3kernels.subsets import rows_of, runs

__all__ = ["certified_topk_torch", "certified_topk_triton"]

Score = Callable[[tuple[Tensor, Tensor], Tensor, Tensor, Tensor], Tensor]
Rescore = Callable[[tuple[Tensor, Tensor], Tensor], Tensor]

# A score, its two bounds and what the k-th largest of them is found with.
_SCORE_BYTES = 64

# What the exact rows of the documents that are scored at a time may take, in float32, and the int8
# rows of those that are copied to be looked at. A GPU wants more work at a time.
_ROWS_BYTES_CPU = 64 << 20
_ROWS_BYTES_GPU = 1 << 30

Found = tuple[Tensor, Tensor, Tensor]


def certified_topk_torch(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: CertifiedDocuments,
    k: int,
    allowed: Tensor | None,
    reduction: str,
    scratch_bytes: int | None = None,
) -> Found:
    """Search for some queries at a time, those that `maxsim_torch` multiplies together."""
    device = queries.device
    if scratch_bytes is None:
        scratch_bytes = SCRATCH_BYTES_CPU if device.type == "cpu" else SCRATCH_BYTES_GPU
    n_q = cu_seqlens_q.shape[0] - 1
    scores = torch.full((n_q, k), -torch.inf, device=device)
    ids = torch.full((n_q, k), -1, dtype=torch.int64, device=device)
    rescored = torch.zeros(n_q, dtype=torch.int64, device=device)
    starts = cu_seqlens_q.tolist()
    for first, last in query_runs(starts):
        run = _Run(
            queries[starts[first] : starts[last]],
            cu_seqlens_q[first : last + 1] - starts[first],
            documents,
            k,
            allowed if allowed is None or allowed.ndim == 1 else allowed[first:last],
            reduction,
            scratch_bytes,
        )
        of = slice(first, last)
        scores[of], ids[of], rescored[of] = run.search(
            lambda batch, rows, cu, scales: maxsim_torch(
                *batch, rows, cu, None, scales, reduction, scratch_bytes
            ),
            lambda batch, some: rescore_torch(*batch, documents, some, reduction, scratch_bytes),
            coarse=Coarse.takes(documents.rows),
        )
    return scores, ids, rescored


def certified_topk_triton(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: CertifiedDocuments,
    k: int,
    allowed: Tensor | None,
    reduction: str,
    scratch_bytes: int = SCRATCH_BYTES_GPU,
) -> Found:
    """Search for all queries at once, as `maxsim_triton` scores them."""
    from m3kernels.maxsim.launch import maxsim_triton

    run = _Run(queries, cu_seqlens_q, documents, k, allowed, reduction, scratch_bytes)
    return run.search(
        lambda batch, rows, cu, scales: maxsim_triton(*batch, rows, cu, None, scales, reduction),
        lambda batch, some: rescore_triton(*batch, documents, some, reduction),
        coarse=False,
    )


class _Run:
    """Queries that are searched for together."""

    def __init__(
        self,
        queries: Tensor,
        cu_seqlens_q: Tensor,
        documents: CertifiedDocuments,
        k: int,
        allowed: Tensor | None,
        reduction: str,
        scratch_bytes: int,
    ) -> None:
        self.batch = (queries, cu_seqlens_q)
        self.documents = documents
        self.k = k
        self.n_q, self.n_d = cu_seqlens_q.shape[0] - 1, documents.cu_seqlens.shape[0] - 1
        if allowed is None:
            allowed = torch.ones(self.n_d, dtype=torch.bool, device=queries.device)
        self.allowed = allowed
        self.union = allowed if allowed.ndim == 1 else allowed.any(0)
        self.empty = lengths(cu_seqlens_q) == 0
        self.reduction = reduction
        self.most = max(scratch_bytes // (_SCORE_BYTES * max(self.n_q, 1)), 1)

    def search(self, score: Score, rescore: Rescore, *, coarse: bool) -> Found:
        """Scores (n_q, k), ids (n_q, k), and how many documents were scored again (n_q,).

        Args:
            score: the scores of the queries with int8 rows, their cu_seqlens and their scales.
            rescore: the scores of the queries with documents ids, from their exact rows.
            coarse: scan with `Coarse`, and look with `score` only at what that leaves.
        """
        if coarse:
            of_query, ids, most = self._scan(self._coarse())
            # A second look takes longer than to score what it saves, where that is at hand.
            if not self.documents.at_hand:
                of_query, ids, most = self._scan(self._fine(score, torch.unique(ids)))
        else:
            of_query, ids, most = self._scan(self._fine(score, self.union.nonzero()[:, 0]))

        best = Best(self.n_q, self.k, ids.device)
        at_first = _ranks(of_query, most, self.n_q) < self.k
        some = torch.unique(ids[at_first])
        self._add(best, rescore, some)
        least = best.result()[0][:, -1].nan_to_num(nan=-torch.inf, neginf=-torch.inf)
        then = ~at_first & (most >= least[of_query])
        others = torch.unique(ids[then])
        self._add(best, rescore, others[~torch.isin(others, some)])
        return *best.result(), torch.bincount(of_query[at_first | then], minlength=self.n_q)

    def _add(self, best: Best, rescore: Rescore, ids: Tensor) -> None:
        for part in self._parts(ids, 4):
            may = self.allowed[part] if self.allowed.ndim == 1 else self.allowed[:, part]
            best.add(keys_of(rescore(self.batch, part), part, may))

    def _scan(
        self, blocks: Iterator[tuple[Tensor, Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The documents that can be among the k best: of which query, their ids, and what their
        score is at most, (n,) each.

        A block is the ids (m,) of documents, and what their scores are at least and at most,
        (n_q, m) each.
        """
        device = self.union.device
        best = torch.empty((self.n_q, 0), dtype=torch.float64, device=device)
        none = torch.empty(0, dtype=torch.int64, device=device)
        found = [(none, none, best.new_empty(0))]
        least = best.new_full((self.n_q,), -torch.inf)
        seen = torch.zeros(self.n_q, 1, dtype=torch.int64, device=device)
        for ids, lower, upper in blocks:
            may = self.allowed[ids] if self.allowed.ndim == 1 else self.allowed[:, ids]
            best = torch.cat([best, lower.masked_fill(~may, -torch.inf)], 1)
            best = torch.topk(best, min(self.k, best.shape[1]), dim=1).values
            if best.shape[1] == self.k:
                least = best[:, -1]
            keep = may & (upper >= least[:, None])
            if bool(self.empty.any()):
                # All scores are 0.0 without a look, and the first k are the best.
                places = seen + may.expand_as(keep).cumsum(1)
                keep &= (places <= self.k) | ~self.empty[:, None]
                seen = places[:, -1:]
            of_query, places = keep.nonzero(as_tuple=True)
            found.append((of_query, ids[places], upper[of_query, places]))
        of_query, ids, most = (torch.cat(parts) for parts in zip(*found, strict=True))
        reach = most >= least[of_query]
        return of_query[reach], ids[reach], most[reach]

    def _coarse(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """All documents that are allowed, by one digit of the query."""
        queries, cu_q = self.batch
        coarse = Coarse(queries, cu_q, self.reduction)
        bounds = Bounds.of(queries, cu_q, coarse.lost, self.reduction, exact_sums=True)
        documents = self.documents
        step = min(coarse.documents_at_a_time, self.most)
        for first in range(0, self.n_d, step):
            of = slice(first, min(first + step, self.n_d))
            wanted = self.union[of]
            if not bool(wanted.any()):
                continue
            cu = documents.cu_seqlens[of.start : of.stop + 1]
            scores = coarse.scores(documents.rows, documents.scales, cu, wanted)
            ids = torch.arange(of.start, of.stop)
            yield ids, *bounds.around(scores, documents.residuals[of], documents.norms[of])

    def _fine(self, score: Score, ids: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Documents ids (n,), by what `maxsim` makes of int8 documents."""
        queries, cu_q = self.batch
        lost = lost_by_digits(queries)
        bounds = Bounds.of(queries, cu_q, lost, self.reduction, exact_sums=False)
        documents = self.documents
        # Neighbours are read where they lie, so that only their scores take memory.
        parts = torch.split(ids, self.most) if _neighbours(ids) else self._parts(ids, 1)
        for part in parts:
            if _neighbours(part):
                cu = documents.cu_seqlens[int(part[0]) : int(part[-1]) + 2]
                of = slice(int(cu[0]), int(cu[-1]))
                rows, scales, cu = documents.rows[of], documents.scales[of], cu - cu[0]
            else:
                places, _, cu = rows_of(documents.cu_seqlens, part)
                rows, scales = documents.rows.index_select(0, places), documents.scales[places]
            scores = score(self.batch, rows, cu, scales)
            around = bounds.around(scores, documents.residuals[part], documents.norms[part])
            yield part, *around

    def _parts(self, ids: Tensor, itemsize: int) -> Iterator[Tensor]:
        most = _ROWS_BYTES_CPU if ids.device.type == "cpu" else _ROWS_BYTES_GPU
        rows = max(most // (itemsize * self.documents.rows.shape[1]), 1)
        return runs(self.documents.cu_seqlens, ids, self.most, rows)


def _neighbours(ids: Tensor) -> bool:
    """Whether ids (n,), which ascend, are those of documents one after another."""
    return ids.shape[0] > 0 and ids.shape[0] == int(ids[-1] - ids[0]) + 1


def _ranks(of_query: Tensor, most: Tensor, n_q: int) -> Tensor:
    """The place of each number (n,) among those of its query, 0 for the largest."""
    order = most.argsort(descending=True, stable=True)
    order = order[of_query[order].argsort(stable=True)]
    starts = from_lengths(torch.bincount(of_query, minlength=n_q))
    places = torch.arange(order.shape[0], device=order.device)
    ranks = torch.empty_like(places)
    ranks[order] = places - starts[of_query[order]]
    return ranks
