"""Part of a corpus: documents packed one after another on a device, and what an exact score takes.

A part does not change, but for which of its documents are alive. With int8 the device holds the
numbers and what their rounding left out (`m3kernels.certify`), and the vectors as they were read
stay in the host's memory or in a file; else the device's rows are all there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import m3kernels
import torch
from m3kernels.packing import from_lengths
from torch import Tensor

from m3qdrant.rank.token_page import PointId, TokenPage

__all__ = ["Filling", "Part"]

_BLOCK_ROWS = 1 << 14


@dataclass(frozen=True, eq=False)
class Part:
    """Documents on a device.

    Attributes:
        ids: n point ids.
        names: n document ids.
        rows: (sum_d, dim), what is searched: float32, bfloat16 or int8.
        cu_seqlens: (n + 1,) int64, on the device.
        exact: (sum_d, dim), what exact scores are of: `rows` itself or, with int8, what was read,
            on the host.
        certified: with int8: what proves an answer.
        norm: no less than the length of the longest vector.
        alive: (n,) bool on the host: the others were changed or deleted since.
    """

    ids: tuple[PointId, ...]
    names: tuple[str, ...]
    rows: Tensor
    cu_seqlens: Tensor
    exact: Tensor
    certified: m3kernels.CertifiedDocuments | None
    norm: float
    alive: Tensor

    def __len__(self) -> int:
        """How many documents are alive."""
        return int(self.alive.sum())

    def alive_ids(self) -> list[PointId]:
        """The living documents' point ids."""
        alive = self.alive.tolist()
        return [id for id, there in zip(self.ids, alive, strict=True) if there]

    @property
    def n_rows(self) -> int:
        """How many rows there are, of the dead ones too."""
        return int(self.rows.shape[0])

    @property
    def lengths(self) -> Tensor:
        """(n,) int64 on the host."""
        return self.cu_seqlens.diff().cpu()

    @property
    def alive_rows(self) -> int:
        """How many rows the living documents have."""
        return int(self.lengths[self.alive].sum())

    @property
    def device_bytes(self) -> int:
        """What it takes of the device's memory."""
        per_row = 0 if self.certified is None else 4
        return self.rows.nbytes + self.n_rows * per_row + 24 * len(self.ids)

    def without(self, positions: Sequence[int]) -> Part:
        """The same with some more documents dead."""
        alive = self.alive.clone()
        alive[torch.tensor(positions, dtype=torch.int64)] = False
        return replace(self, alive=alive)

    def best(
        self, queries: Tensor, cu_seqlens_q: Tensor, n: int, allowed: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The n best living documents: sums of maxima and positions, (n_q, n), on the host.

        Args:
            queries: (sum_q, dim) float32 on the device.
            cu_seqlens_q: (n_q + 1,) on the device.
            n: how many; where there are fewer the rest is -inf and -1.
            allowed: (n,) bool on the host, which may be found; None: all.
        """
        mask = self.mask(allowed)
        if self.certified is not None:
            found = m3kernels.certified_topk(
                queries, cu_seqlens_q, self.certified, n, documents_mask=mask, reduction="sum",
                validate=False,
            )  # fmt: skip
            return found.scores.cpu(), found.ids.cpu()
        scores, ids = m3kernels.maxsim_topk(
            queries, cu_seqlens_q, self.rows, self.cu_seqlens, n, documents_mask=mask,
            reduction="sum", validate=False,
        )  # fmt: skip
        return scores.cpu(), ids.cpu()

    def likely(
        self, queries: Tensor, cu_seqlens_q: Tensor, n: int, allowed: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """`best` by the rows on the device alone: with int8 a good guess, without a proof."""
        if self.certified is None:
            return self.best(queries, cu_seqlens_q, n, allowed)
        scores, ids = m3kernels.maxsim_topk(
            queries, cu_seqlens_q, self.rows, self.cu_seqlens, n,
            documents_mask=self.mask(allowed), document_scales=self.certified.scales,
            reduction="sum", validate=False,
        )  # fmt: skip
        return scores.cpu(), ids.cpu()

    def exact_scores(self, queries: Tensor, cu_seqlens_q: Tensor, pairs: Tensor) -> Tensor:
        """Sums of maxima of pairs (n, 2) of a query and a position, (n,) float32.

        Products and sums in float64, rounded once: the same vectors have the same score wherever
        they lie. All on the host.
        """
        positions, inverse = torch.unique(pairs[:, 1], return_inverse=True)
        starts = self.cu_seqlens.cpu()
        places = [torch.arange(int(starts[i]), int(starts[i + 1])) for i in positions.tolist()]
        lengths = [len(each) for each in places]
        rows = self.exact[torch.cat(places).to(self.exact.device)].float().cpu()
        return m3kernels.maxsim(
            queries, cu_seqlens_q, rows, from_lengths(lengths),
            pairs=torch.stack([pairs[:, 0], inverse], 1), reduction="sum", backend="reference",
        )  # fmt: skip

    def pages(self) -> TokenPage:
        """Its living documents as they were read, without marks."""
        starts, keep = self.cu_seqlens.tolist(), self.alive.nonzero()[:, 0].tolist()
        places = [torch.arange(starts[i], starts[i + 1]) for i in keep]
        rows = self.exact[torch.cat(places).to(self.exact.device)] if places else self.exact[:0]
        return TokenPage(
            [self.ids[i] for i in keep],
            [self.names[i] for i in keep],
            [None] * len(keep),
            rows.float().cpu().numpy(),
            self.lengths[self.alive].numpy(),
        )

    def mask(self, allowed: Tensor | None) -> Tensor | None:
        """Which documents may be found, on the device, of those allowed (host); None for all."""
        if allowed is None:
            allowed = self.alive
        elif not bool(self.alive.all()):
            allowed = allowed & self.alive
        return None if bool(allowed.all()) else allowed.to(self.rows.device)


class Filling:
    """A part that is being filled, page by page, in memory that was taken at the beginning."""

    def __init__(
        self,
        dim: int,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device,
        read_as: torch.dtype,
        exact: Tensor | None = None,
    ) -> None:
        """Take the memory.

        Args:
            dim: width of the vectors.
            capacity: rows.
            dtype: what is held on the device.
            device: where.
            read_as: of the rows as they come, which int8 keeps on the host.
            exact: where the rows lie already, (capacity, dim), as in a file that is mapped.
        """
        self.capacity = capacity
        self.n_rows = 0
        self._dtype, self._device = dtype, device
        self._ids: list[PointId] = []
        self._names: list[str] = []
        self._lengths: list[int] = []
        self._norm = 0.0
        self._certified: list[tuple[Tensor, Tensor]] = []  # residuals and norms
        self._filed = exact is not None
        # on the host the file's own pages are what is searched, where that is what is held
        self._mapped = exact is not None and dtype == read_as and device.type == "cpu"
        self._exact = exact
        if self._mapped and exact is not None:
            self._rows = exact
        else:
            self._rows = torch.empty((capacity, dim), dtype=dtype, device=device)
        if dtype == torch.int8:
            self._scales = torch.empty(capacity, dtype=torch.float32, device=device)
            if exact is None:
                self._exact = torch.empty((capacity, dim), dtype=read_as)

    def fits(self, page: TokenPage) -> bool:
        """Whether there is room for a page."""
        return self.n_rows + len(page.rows) <= self.capacity

    def add(self, page: TokenPage) -> None:
        """Take a page that fits; its rows are copied."""
        given = page.tensor()
        here = slice(self.n_rows, self.n_rows + len(given))
        if self._dtype == torch.int8:
            cu = torch.from_numpy(page.offsets)
            found = m3kernels.certify(given, cu, device=self._device)
            self._rows[here], self._scales[here] = found.rows, found.scales
            self._certified.append((found.residuals, found.norms))
            assert self._exact is not None
            if not self._filed:
                self._exact[here] = given
        else:
            if not self._mapped:
                self._rows[here] = given
            for block in torch.split(self._rows[here], _BLOCK_ROWS):
                norms = torch.linalg.vector_norm(block, dim=1, dtype=torch.float32)
                self._norm = max(self._norm, float(norms.amax()))
        self.n_rows += len(given)
        self._ids += page.ids
        self._names += page.names
        self._lengths += page.lengths.tolist()

    def part(self) -> Part:
        """What was filled."""
        n = self.n_rows
        rows = self._rows[:n]
        cu = from_lengths(self._lengths).to(self._device)
        certified, exact = None, rows
        if self._dtype == torch.int8:
            assert self._exact is not None
            exact = self._exact[:n]
            residuals, norms = (torch.cat(each) for each in zip(*self._certified, strict=True))
            certified = m3kernels.CertifiedDocuments(
                rows, self._scales[:n], residuals, norms, cu, exact
            )
            self._norm = float(norms.amax())
        alive = torch.ones(len(self._ids), dtype=torch.bool)
        return Part(
            tuple(self._ids), tuple(self._names), rows, cu, exact, certified, self._norm, alive
        )
