"""A corpus that is held on a device whole, and searched exactly: every document, by MaxSim.

Documents come in as pages of arrays and lie in a few parts, each of which is scanned by
`m3kernels.maxsim_topk`, or `certified_topk` where the device holds int8. A scan rounds as the
device's products do; so what it finds, with all that come as close as rounding can, is scored
again from the vectors as they were read, in float64, and ranked by that: equal documents have
equal scores, and come in the order of their ids, on every device and in every form.

What changes is seen whole or not at all: a search that is under way goes on with what was there
when it began.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from m3kernels.packing import from_lengths, lengths
from torch import Tensor

from m3qdrant.errors import InputError
from m3qdrant.rank.arena import DTYPES, Dtype
from m3qdrant.rank.cascade import Cascade, Pooled, narrowed
from m3qdrant.rank.packed import Filling, Part
from m3qdrant.rank.token_page import Mark, PointId

__all__ = ["Found", "ResidentVectors", "part_rows"]


class Found(NamedTuple):
    """A document that was found.

    Attributes:
        id: its point id.
        name: its document id.
        score: what it was found by.
    """

    id: PointId
    name: str
    score: float


_SLACK = 2.0**-20
"""How far a scan's score may be off, as a share of the lengths of the vectors. Products of 1,024
numbers in float32 stay within a tenth of it."""

_MORE = 8
"""So many more than are asked for are looked at, so that most searches need one scan."""
_GROWTH = 4

_RESCORED_ROWS = 1 << 15
"""Rows that are scored again at a time."""

_PARTS = 16
"""About how many parts a corpus lies in: in each some documents are scored again."""
_LEAST_PART_BYTES = 256 << 20


def part_rows(rows: int, dim: int) -> int:
    """How many rows a part has room for, in a corpus of about so many."""
    return max(-(-rows // _PARTS), _LEAST_PART_BYTES // (4 * dim), 1)


@dataclass(frozen=True)
class _State:
    """What a search sees: parts, and where each living document is."""

    parts: tuple[Part, ...] = ()
    places: Mapping[PointId, tuple[int, int]] = field(default_factory=dict)


class ResidentVectors:
    """Token vectors of many documents, searched exactly.

    Attributes:
        dim: width of the vectors.
        held: "float32", "bfloat16" or "int8".
        device: where they are searched.
        read_as: the dtype in which they are read.
        marks: of each document, by its point id.
    """

    def __init__(
        self,
        dim: int,
        held: Dtype,
        device: torch.device,
        *,
        read_as: torch.dtype = torch.float32,
    ) -> None:
        self.dim, self.held, self.device, self.read_as = dim, held, device, read_as
        self.marks: dict[PointId, Mark] = {}
        self._state = _State()
        self._pooled: dict[tuple[int, int], tuple[Part, Pooled]] = {}

    def __len__(self) -> int:
        """How many documents there are."""
        return len(self._state.places)

    @property
    def ids(self) -> Collection[PointId]:
        """The documents' point ids."""
        return self._state.places.keys()

    @property
    def tokens(self) -> int:
        """How many token vectors there are."""
        return sum(part.alive_rows for part in self._state.parts)

    @property
    def device_bytes(self) -> int:
        """What the vectors take of the device's memory."""
        return sum(part.device_bytes for part in self._state.parts)

    @property
    def parts(self) -> tuple[Part, ...]:
        """What it lies in."""
        return self._state.parts

    def filling(self, capacity: int, exact: Tensor | None = None) -> Filling:
        """A part to be filled, for `change`; see `Filling`."""
        return Filling(self.dim, capacity, DTYPES[self.held], self.device, self.read_as, exact)

    def change(
        self,
        new: Iterable[Part],
        marks: Mapping[PointId, Mark],
        gone: Iterable[PointId] = (),
        *,
        tidy: bool = True,
    ) -> None:
        """Take in parts, in the place of what they hold anew, and let documents go.

        Args:
            new: parts whose documents are others than each other's.
            marks: of all their documents.
            gone: documents that are no more.
            tidy: put small parts, and parts that are mostly dead, together anew. With a file
                behind them they stay as they lie there.
        """
        new = [part for part in new if len(part)]
        parts, places = list(self._state.parts), dict(self._state.places)
        dead: dict[int, list[int]] = {}
        for id in [*gone, *(id for part in new for id in part.alive_ids())]:
            place = places.pop(id, None)
            if place is not None:
                dead.setdefault(place[0], []).append(place[1])
        for i, positions in dead.items():
            parts[i] = parts[i].without(positions)
        parts = [part for part in [*parts, *new] if len(part)]
        if tidy:
            parts = self._tidied(parts)
        places = {
            id: (i, j)
            for i, part in enumerate(parts)
            for j, (id, alive) in enumerate(zip(part.ids, part.alive.tolist(), strict=True))
            if alive
        }
        known = {**self.marks, **marks}
        self.marks = {id: known[id] for id in places}
        self._pooled = {}
        self._state = _State(tuple(parts), places)

    def _tidied(self, parts: list[Part]) -> list[Part]:
        """The parts, with those that are small or mostly dead made into few."""
        room = part_rows(sum(part.alive_rows for part in parts), self.dim)
        again = [p for p in parts if p.alive_rows < room // 4 or 2 * p.alive_rows < p.n_rows]
        if len(again) < 2 and all(2 * p.alive_rows >= p.n_rows for p in again):
            return parts
        kept = [part for part in parts if not any(part is other for other in again)]
        filling: Filling | None = None
        waiting = sum(part.alive_rows for part in again)
        for part in again:
            for page in part.pages().split(room):
                if filling is None or not filling.fits(page):
                    kept += [filling.part()] if filling is not None else []
                    filling = self.filling(max(min(room, waiting), len(page.rows)))
                filling.add(page)
                waiting -= len(page.rows)
        return kept if filling is None else [*kept, filling.part()]

    # -- searching

    def search(
        self,
        queries: Sequence[Tensor],
        k: int,
        *,
        allowed: Iterable[PointId] | None = None,
        cascade: Cascade | None = None,
    ) -> list[list[Found]]:
        """The k best documents of each query by the sum over its vectors of the best similarity.

        Args:
            queries: (n_i, dim) float32 each, on the host.
            k: how many; fewer come where there are fewer.
            allowed: only these may be found; ids that are not there are nothing.
            cascade: look first at less than the whole; see `Cascade`. None: exact.

        Returns:
            Of each query the best first, equal scores in the order of the documents' ids.
        """
        state = self._state
        if not queries or not state.parts:
            return [[] for _ in queries]
        tokens, cu = torch.cat(list(queries)), from_lengths([len(query) for query in queries])
        masks = _masks(state, allowed)
        if cascade is not None:
            candidates = self._narrowed(state, tokens, cu, masks, cascade)
        else:
            candidates = self._scanned(state, tokens, cu, k, masks)
        return _ranked(state, tokens, cu, k, candidates)

    def _scanned(
        self, state: _State, tokens: Tensor, cu: Tensor, k: int, masks: Sequence[Tensor | None]
    ) -> list[Tensor]:
        """Of each part the pairs (query, position) that can be among the k best, (n, 2)."""
        queries, cu_q = tokens.to(self.device), cu.to(self.device)
        lengths_q = torch.linalg.vector_norm(tokens.double(), dim=1)
        of_query = torch.zeros(len(cu) - 1, dtype=torch.float64).index_add_(
            0, torch.repeat_interleave(torch.arange(len(cu) - 1), lengths(cu)), lengths_q
        )
        slack = [2 * _SLACK * part.norm * of_query for part in state.parts]
        wanted = k + _MORE
        found = [
            part.best(queries, cu_q, min(wanted, len(part.ids)), mask)
            for part, mask in zip(state.parts, masks, strict=True)
        ]
        least = _kth([scores for scores, _ in found], k)
        pairs = []
        for i, part in enumerate(state.parts):
            scores, positions = found[i]
            floor = (least - slack[i])[:, None]
            # as long as a part's last is still close enough, there may be more behind it
            while bool((scores[:, -1:] >= floor).any()) and scores.shape[1] < len(part.ids):
                n = min(_GROWTH * scores.shape[1], len(part.ids))
                scores, positions = part.best(queries, cu_q, n, masks[i])
            keep = (scores >= floor) & (positions >= 0)
            of, column = keep.nonzero(as_tuple=True)
            pairs.append(torch.stack([of, positions[of, column]], 1))
        return pairs

    def _narrowed(
        self,
        state: _State,
        tokens: Tensor,
        cu: Tensor,
        masks: Sequence[Tensor | None],
        cascade: Cascade,
    ) -> list[Tensor]:
        queries, cu_q = tokens.to(self.device), cu.to(self.device)
        if cascade.first == "int8" and self.held != "int8":
            raise InputError(
                f"the cascade begins with int8, and the corpus is held as {self.held}: load it "
                "with dtype='int8', or begin with 'pooled'"
            )
        found = []
        for part, mask in zip(state.parts, masks, strict=True):
            n = min(cascade.keep, len(part.ids))
            if cascade.first == "int8":
                found.append(part.likely(queries, cu_q, n, mask))
                continue
            key = (id(part), cascade.factor)
            of, pooled = self._pooled.get(key, (None, None))
            if of is not part or pooled is None:  # a number may stand for another part by now
                pooled = Pooled.of(part, cascade.factor)
                self._pooled[key] = part, pooled
            found.append(pooled.likely(queries, cu_q, n, mask))
        return narrowed(found, cascade.keep)


def _masks(state: _State, allowed: Iterable[PointId] | None) -> list[Tensor | None]:
    if allowed is None:
        return [None] * len(state.parts)
    masks = [torch.zeros(len(part.ids), dtype=torch.bool) for part in state.parts]
    chosen: list[list[int]] = [[] for _ in state.parts]
    for id in allowed:
        place = state.places.get(id)
        if place is not None:
            chosen[place[0]].append(place[1])
    for mask, positions in zip(masks, chosen, strict=True):
        mask[torch.tensor(positions, dtype=torch.int64)] = True
    return list(masks)


def _kth(scores: Sequence[Tensor], k: int) -> Tensor:
    """The k-th best of each query over all parts, (n_q,) float64; -inf where there are fewer."""
    every = torch.cat([each.double() for each in scores], 1)
    if every.shape[1] < k:
        return every.new_full((every.shape[0],), -torch.inf)
    return torch.topk(every, k, dim=1).values[:, -1]


def _ranked(
    state: _State, tokens: Tensor, cu: Tensor, k: int, candidates: Sequence[Tensor]
) -> list[list[Found]]:
    """The k best of the candidates, by their exact scores."""
    every: list[list[tuple[float, str, PointId]]] = [[] for _ in range(len(cu) - 1)]
    for part, pairs in zip(state.parts, candidates, strict=True):
        for some in _batches(part, pairs):
            scores = part.exact_scores(tokens, cu, some)
            for (query, position), score in zip(some.tolist(), scores.tolist(), strict=True):
                every[query].append((-score, part.names[position], part.ids[position]))
    return [
        [Found(id, name, -s) for s, name, id in sorted(each, key=lambda entry: entry[:2])[:k]]
        for each in every
    ]


def _batches(part: Part, pairs: Tensor) -> Iterable[Tensor]:
    """Pairs by document, of about so many rows at a time."""
    if not len(pairs):
        return
    pairs = pairs[pairs[:, 1].argsort(stable=True)]
    rows = part.lengths[pairs[:, 1]].cumsum(0)
    yield from torch.split(pairs, torch.bincount(rows // _RESCORED_ROWS).tolist())
