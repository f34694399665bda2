"""The half of `QdrantEdge` that changes points; `updates.py` says what each method means."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import qdrant_edge as edge
from qdrant_client import models
from qdrant_client.client_base import QdrantBase
from qdrant_client.conversions import common_types as types

from m3qdrant.edge import updates
from m3qdrant.edge.arguments import accept, at_least
from m3qdrant.edge.refusals import invalid
from m3qdrant.edge.shard import Shard, engine_errors
from m3qdrant.edge.translate import answers
from m3qdrant.edge.translate.vector_specs import VectorSpecs
from m3qdrant.edge.updates import Update

__all__ = ["Writing"]


class Writing(QdrantBase):
    """Each write is all or nothing: what is wrong with it is found before the engine sees it."""

    def _shard(self, collection_name: str) -> Shard:
        raise NotImplementedError  # QdrantEdge has it

    def _check_writable(self, operation: str, collection_name: str) -> None:
        raise NotImplementedError  # QdrantEdge has it

    def upsert(
        self,
        collection_name: str,
        points: models.Batch | Sequence[models.PointStruct],
        wait: bool = True,
        ordering: types.WriteOrdering | None = None,
        shard_key_selector: types.ShardKeySelector | None = None,
        update_filter: models.Filter | None = None,
        update_mode: models.UpdateMode | None = None,
        timeout: int | None = None,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Insert or replace points: all of them, or none where one is refused.

        Raises:
            PointError: the first point that is wrong, with the field and the remedy.
        """
        accept(
            "upsert",
            kwargs,
            shard_key_selector=shard_key_selector,
            ordering=ordering,
            timeout=timeout,
        )
        return self._apply(
            "write to",
            collection_name,
            lambda layout: updates.upsert(points, layout, update_filter, update_mode),
        )

    def upload_points(
        self,
        collection_name: str,
        points: Iterable[models.PointStruct],
        batch_size: int = 64,
        parallel: int = 1,
        method: str | None = None,
        max_retries: int = 3,
        wait: bool = False,
        shard_key_selector: types.ShardKeySelector | None = None,
        update_filter: models.Filter | None = None,
        update_mode: models.UpdateMode | None = None,
        **kwargs: Any,
    ) -> None:
        """`upsert` in batches, for any iterable. Each batch is all or nothing by itself."""
        accept(
            "upload_points",
            kwargs,
            shard_key_selector=shard_key_selector,
        )
        self._check_writable("write to", collection_name)
        at_least("batch_size", batch_size)
        at_least("parallel", parallel, 0)
        at_least("max_retries", max_retries, 0)
        rest = iter(points)
        while batch := list(islice(rest, batch_size)):
            self.upsert(
                collection_name, batch, update_filter=update_filter, update_mode=update_mode
            )

    def upload_collection(
        self,
        collection_name: str,
        vectors: Any,
        payload: Iterable[Mapping[str, Any]] | None = None,
        ids: Iterable[Any] | None = None,
        batch_size: int = 64,
        parallel: int = 1,
        method: str | None = None,
        max_retries: int = 3,
        wait: bool = False,
        shard_key_selector: types.ShardKeySelector | None = None,
        update_filter: models.Filter | None = None,
        update_mode: models.UpdateMode | None = None,
        **kwargs: Any,
    ) -> None:
        """`upload_points`, from columns: arrays, a dict of arrays by name, or any iterables.

        Without `ids` each point gets a random UUID. `payload` and `ids` may be longer than
        `vectors`, such as `itertools.count()`, but not shorter.
        """
        accept(
            "upload_collection",
            kwargs,
            shard_key_selector=shard_key_selector,
        )
        self.upload_points(
            collection_name,
            updates.points_of(vectors, payload, ids),
            batch_size,
            parallel,
            method,
            max_retries,
            wait,
            shard_key_selector,
            update_filter,
            update_mode,
        )

    def update_vectors(
        self,
        collection_name: str,
        points: Sequence[models.PointVectors],
        wait: bool = True,
        ordering: types.WriteOrdering | None = None,
        shard_key_selector: types.ShardKeySelector | None = None,
        update_filter: models.Filter | None = None,
        timeout: int | None = None,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Replace the named vectors of points that exist; other vectors and the payload stay.

        Raises:
            PointError: the first point that is wrong, with the vector and the remedy.
            InputError: some of the points don't exist; none is changed.
        """
        accept(
            "update_vectors",
            kwargs,
            shard_key_selector=shard_key_selector,
            ordering=ordering,
            timeout=timeout,
        )
        return self._apply(
            "write vectors to",
            collection_name,
            lambda layout: updates.update_vectors(points, layout, update_filter),
        )

    def delete_vectors(
        self,
        collection_name: str,
        vectors: Sequence[str],
        points: types.PointsSelector,
        wait: bool = True,
        ordering: types.WriteOrdering | None = None,
        shard_key_selector: types.ShardKeySelector | None = None,
        timeout: int | None = None,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Remove the named vectors from points, by ids or by filter."""
        accept(
            "delete_vectors",
            kwargs,
            shard_key_selector=shard_key_selector,
            ordering=ordering,
            timeout=timeout,
        )
        return self._apply(
            "delete vectors from",
            collection_name,
            lambda layout: updates.delete_vectors(vectors, points, layout),
        )

    def delete(
        self,
        collection_name: str,
        points_selector: types.PointsSelector,
        wait: bool = True,
        ordering: types.WriteOrdering | None = None,
        shard_key_selector: types.ShardKeySelector | None = None,
        timeout: int | None = None,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Delete points by ids or by filter. Ids that don't exist are passed over."""
        accept(
            "delete",
            kwargs,
            shard_key_selector=shard_key_selector,
            ordering=ordering,
            timeout=timeout,
        )
        return self._apply(
            "delete from", collection_name, lambda _: updates.delete(points_selector)
        )

    def set_payload(
        self,
        collection_name: str,
        payload: models.Payload,
        points: types.PointsSelector,
        key: str | None = None,
        wait: bool = True,
        ordering: types.WriteOrdering | None = None,
        shard_key_selector: types.ShardKeySelector | None = None,
        timeout: int | None = None,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Merge `payload` into the points' payloads, at the path `key` where given."""
        accept(
            "set_payload",
            kwargs,
            shard_key_selector=shard_key_selector,
            ordering=ordering,
            timeout=timeout,
        )
        return self._apply(
            "write payloads to",
            collection_name,
            lambda _: updates.set_payload(payload, points, key),
        )

    def overwrite_payload(
        self,
        collection_name: str,
        payload: models.Payload,
        points: types.PointsSelector,
        wait: bool = True,
        ordering: types.WriteOrdering | None = None,
        shard_key_selector: types.ShardKeySelector | None = None,
        timeout: int | None = None,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Replace the points' payloads."""
        accept(
            "overwrite_payload",
            kwargs,
            shard_key_selector=shard_key_selector,
            ordering=ordering,
            timeout=timeout,
        )
        return self._apply(
            "write payloads to",
            collection_name,
            lambda _: updates.overwrite_payload(payload, points),
        )

    def delete_payload(
        self,
        collection_name: str,
        keys: Sequence[str],
        points: types.PointsSelector,
        wait: bool = True,
        ordering: types.WriteOrdering | None = None,
        shard_key_selector: types.ShardKeySelector | None = None,
        timeout: int | None = None,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Remove fields from the points' payloads."""
        accept(
            "delete_payload",
            kwargs,
            shard_key_selector=shard_key_selector,
            ordering=ordering,
            timeout=timeout,
        )
        return self._apply(
            "delete payloads from",
            collection_name,
            lambda _: updates.delete_payload(keys, points),
        )

    def clear_payload(
        self,
        collection_name: str,
        points_selector: types.PointsSelector,
        wait: bool = True,
        ordering: types.WriteOrdering | None = None,
        shard_key_selector: types.ShardKeySelector | None = None,
        timeout: int | None = None,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Remove the points' payloads."""
        accept(
            "clear_payload",
            kwargs,
            shard_key_selector=shard_key_selector,
            ordering=ordering,
            timeout=timeout,
        )
        return self._apply(
            "delete payloads from",
            collection_name,
            lambda _: updates.clear_payload(points_selector),
        )

    def batch_update_points(
        self,
        collection_name: str,
        update_operations: Sequence[types.UpdateOperation],
        wait: bool = True,
        ordering: types.WriteOrdering | None = None,
        timeout: int | None = None,
        **kwargs: Any,
    ) -> list[models.UpdateResult]:
        """Several updates, one after the other, of which each sees those before it.

        All of them are checked before the first is applied, and a bad one means that none is: a
        server would have applied those before it. Only which points a deletion by filter leaves
        can't be foreseen: an update behind it passes over those that are gone.

        Raises:
            InputError: the first operation that is wrong; nothing was written.
            EngineError: the engine failed, at the operation that the message names; those before
                it are applied.
        """
        accept(
            "batch_update_points",
            kwargs,
            ordering=ordering,
            timeout=timeout,
        )
        self._check_writable("update", collection_name)
        shard = self._shard(collection_name)
        with engine_errors("update", collection_name):
            batch = updates.from_operations(update_operations, shard.layout)
        with shard.use("update") as engine:
            _need_points(engine, batch)
            numbers = []
            doubtful = False
            for i, update in enumerate(batch):
                operation: edge.UpdateOperation | None = update.operation
                if doubtful and update.needs:
                    operation = update.left(_existing(engine, update.needs))
                if operation is not None:
                    _write(shard, f"apply operation {i} of the batch to", operation)
                numbers.append(shard.number)
                doubtful = doubtful or update.removes_some
        return [answers.completed(number) for number in numbers]

    def _apply(
        self, operation: str, collection_name: str, make: Callable[[VectorSpecs], Update]
    ) -> models.UpdateResult:
        self._check_writable(operation, collection_name)
        shard = self._shard(collection_name)
        with engine_errors(operation, collection_name):
            update = make(shard.layout)
        with shard.use(operation) as engine:
            _need_points(engine, [update])
            number = _write(shard, operation, update.operation)
        return answers.completed(number)


def _write(shard: Shard, operation: str, update: edge.UpdateOperation) -> int:
    return shard.write(operation, lambda: update)


def _existing(engine: edge.EdgeShard, ids: Iterable[int | str]) -> set[int | str]:
    wanted: list[Any] = list(dict.fromkeys(ids))
    if not wanted:
        return set()
    return {answers.point_id(r.id) for r in engine.retrieve(wanted, False, False)}


def _need_points(engine: edge.EdgeShard, batch: Sequence[Update]) -> None:
    """The engine would write to those that exist, and then fail."""
    existing = _existing(engine, (id for update in batch for id in update.needs))
    missing = updates.missing_points(batch, existing)
    if missing:
        shown = ", ".join(map(repr, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise invalid(
            f"No point with id {missing[0]} found: there are no points {shown}: nothing was "
            "written, upsert them first",
            404,
        )
