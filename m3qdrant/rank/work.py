"""One piece of scoring: documents that are held, those that come, and what all pairs score.

    missing()   the documents to bring
    take(...)   some of them: held as far as they fit, else scored at once
    finish()    all that are held, in one launch; False where some have left meanwhile

So whatever fits is scored in one launch, and whatever doesn't is scored in rounds. Several threads
may do a piece each, over the same held documents.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from m3qdrant.encode import M3Embeddings
from m3qdrant.names import COLBERT, DENSE, SPARSE, VECTORS
from m3qdrant.rank.arena import Arena, Form, Run
from m3qdrant.rank.held import Held
from m3qdrant.rank.pairs import Pairs, Queries, score_pairs

__all__ = ["Key", "Work"]

Key = tuple[Hashable, Hashable]
"""What a document is held by, and its version."""


class Work:
    """The scores of some pairs.

    Attributes:
        scores: by view what each pair scores, (n_pairs,) float32; 0.0 where a document has no such
            view, or never came.
        has_dense: (n_documents,) bool, which came with a dense vector.
        has_colbert: which came with a token vector.
        launches: how many calls it took.
        taken_bytes: what came last was, before it was rounded.
    """

    def __init__(
        self,
        held: Held,
        queries: M3Embeddings,
        keys: Sequence[Key | None],
        pairs: Pairs,
        *,
        tokens: Sequence[int] | None = None,
        views: Sequence[str] = VECTORS,
    ) -> None:
        """Begin it.

        Args:
            held: shared documents.
            queries: n of them, anywhere.
            keys: of each document, all different; None for one that is never held.
            pairs: (n_pairs, 2), a query and a document each.
            tokens: (n,) what each query's mean of MaxSim divides by; its vectors, by default.
            views: the scores that are asked for.
        """
        self._held = held
        self._queries = Queries.of(queries, held.device, tokens)
        self._keys = list(keys)
        self._pairs = pairs
        self._done = np.zeros(len(self._keys), dtype=bool)
        self.scores = {name: np.zeros(len(pairs), dtype=np.float32) for name in views}
        self.has_dense = np.zeros(len(self._keys), dtype=bool)
        self.has_colbert = np.zeros(len(self._keys), dtype=bool)
        self.launches = 0
        self.taken_bytes = 0
        self._holding = True
        with held.lock:
            self._since = held.begin()

    def missing(self) -> list[int]:
        """The documents that are neither held nor scored."""
        with self._held.lock:
            return [i for i in np.flatnonzero(~self._done).tolist() if self._run(i) is None]

    def take(
        self,
        positions: Sequence[int],
        documents: M3Embeddings,
        has_dense: Sequence[bool] | None = None,
    ) -> None:
        """Some documents have come.

        Args:
            positions: which.
            documents: their views.
            has_dense: whose dense vector is one; None for all.

        Raises:
            InputError: their views don't go with the queries'.
        """
        form = Form.of(documents, self._held.dtype, self._held.device)
        arena, runs = Arena.holding(form, documents, has_dense)
        colbert = documents.colbert
        self.taken_bytes = 0 if colbert is None else colbert.vectors.nbytes
        keyed = [(key, i) for i, p in enumerate(positions) if (key := self._keys[p]) is not None]
        left = list(range(len(positions)))
        if self._holding:
            with self._held.lock:
                self._held.hold(
                    [key for key, _ in keyed], arena, [runs[i] for _, i in keyed], self._since
                )
                left = [i for i in left if self._run(positions[i]) is None]
        self._score(arena, [positions[i] for i in left], [runs[i] for i in left])

    def there(self, pairs: slice) -> dict[str, NDArray[np.bool_]]:
        """By view of which pairs the document has it; of the lexical one, and shares a term."""
        documents = self._pairs[pairs, 1]
        found = {DENSE: self.has_dense[documents], COLBERT: self.has_colbert[documents]}
        if SPARSE in self.scores:
            found[SPARSE] = self.scores[SPARSE][pairs] != 0
        return found

    def drop(self, positions: Sequence[int]) -> None:
        """What was held of these is not what it was taken for: they are missing again."""
        with self._held.lock:
            for p in positions:
                if (key := self._keys[p]) is not None:
                    self._held.forget(key[0])
        self._done[list(positions)] = False
        self._holding = True

    def give_up(self, positions: Sequence[int]) -> None:
        """These documents don't exist any more: they score nothing."""
        self._done[list(positions)] = True

    def finish(self) -> bool:
        """Score what is held; False where some is missing again."""
        with self._held.lock:
            waiting = np.flatnonzero(~self._done).tolist()
            runs = {p: run for p in waiting if (run := self._run(p)) is not None}
            if runs:
                arena = self._held.arena
                assert arena is not None
                self._score(arena, list(runs), list(runs.values()))
        # two that drive each other out would never end: what comes from now on is scored at once
        self._holding = False
        return bool(self._done.all())

    def _run(self, position: int) -> Run | None:
        key = self._keys[position]
        return None if key is None else self._held.get(*key)

    def _score(self, arena: Arena, positions: Sequence[int], runs: Sequence[Run]) -> None:
        """Score some documents with the queries that want them."""
        if not positions:
            return
        # in the order of their rows, so that neighbours are read as they lie
        order = sorted(range(len(positions)), key=lambda i: runs[i].start)
        positions, runs = [positions[i] for i in order], [runs[i] for i in order]
        number = np.full(len(self._keys), -1)
        number[positions] = np.arange(len(positions))
        those = np.flatnonzero(number[self._pairs[:, 1]] >= 0)
        pairs = self._pairs[those]
        pairs[:, 1] = number[pairs[:, 1]]
        sorting = np.lexsort((pairs[:, 1], pairs[:, 0]))
        pairs, those = pairs[sorting], those[sorting]
        found: dict[str, NDArray[np.float32]] = score_pairs(
            self._queries, arena, runs, pairs, list(self.scores)
        )
        for name, scores in found.items():
            self.scores[name][those] = scores
        self.launches += 1
        self._done[list(positions)] = True
        self.has_dense[list(positions)] = [run.dense for run in runs]
        self.has_colbert[list(positions)] = [run.tokens > 0 for run in runs]
