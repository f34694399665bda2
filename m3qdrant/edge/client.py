"""`QdrantEdge`: qdrant-client's interface over the embedded engine."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import qdrant_edge as edge
from qdrant_client import models
from qdrant_client.client_base import QdrantBase
from qdrant_client.conversions import common_types as types

from m3qdrant.edge import answers, sidecar, translate
from m3qdrant.edge.checks import check_id, check_ids, check_points
from m3qdrant.edge.lock import DirectoryLock
from m3qdrant.edge.shard import Shard, check_process, create_shard, engine_errors
from m3qdrant.errors import (
    CollectionExistsError,
    CollectionNotFoundError,
    InputError,
    StoreClosedError,
    StoreDamagedError,
    UnsupportedError,
)
from m3qdrant.payload import check_json, check_path

__all__ = ["QdrantEdge"]

_NO_EFFECT = frozenset({"wait", "ordering", "timeout", "consistency", "max_retries", "method"})
"""Arguments of qdrant-client that settle how a request reaches a cluster. Here every write is done
and flushed when the call returns, and every read sees it, so they are accepted and change
nothing."""

_CLUSTER = frozenset(
    {
        "shard_number",
        "sharding_method",
        "replication_factor",
        "write_consistency_factor",
        "wal_config",
        "strict_mode_config",
    }
)
"""Arguments of `create_collection` that concern a cluster or a shared server."""


class QdrantEdge(QdrantBase):
    """Qdrant's own engine in this process, with qdrant-client's methods and models.

        with QdrantEdge("data") as client:
            client.create_collection("docs", {"dense": models.VectorParams(...)})
            client.upsert("docs", points)
            client.query_points("docs", query, using="dense", limit=10)

    The directory holds any number of collections and appears with the first one. A collection is
    opened at its first use and stays open, in one process at a time, until `close`. Several
    `QdrantEdge` over one directory may work side by side, on different collections.

    Everything is checked before it is written: a batch with one bad point is refused whole. An
    acknowledged write has been flushed. Threads may share a client; calls on one collection take
    turns. Vectors may be numpy arrays wherever lists are taken; float32 arrays are the fastest,
    also inside `models.PointStruct.model_construct(id=..., vector={"dense": array}, payload=...)`,
    which spares pydantic's look at every number.

    Args:
        path: the directory.

    Raises:
        StoreDamagedError: the path is a file, or a directory of another program.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        self.path = Path(path).expanduser().absolute()
        sidecar.check_root(self.path)
        self._shards: dict[str, Shard] = {}
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._closed = False

    def __enter__(self) -> QdrantEdge:
        """The client itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def __repr__(self) -> str:
        """The class and the directory."""
        return f"QdrantEdge({str(self.path)!r})"

    def close(self, **kwargs: Any) -> None:
        """Flush and close every open collection. Closing twice is fine."""
        if os.getpid() != self._pid:
            return  # see Shard.close; and the lock may be held by a thread that this fork lacks
        with self._lock:
            self._closed = True
            shards, self._shards = list(self._shards.values()), {}
        failure: Exception | None = None
        for shard in shards:
            try:
                shard.close()
            except Exception as error:
                failure = failure or error
        if failure is not None:
            raise failure

    # collections

    def create_collection(
        self,
        collection_name: str,
        vectors_config: models.VectorParams | Mapping[str, models.VectorParams] | None = None,
        sparse_vectors_config: Mapping[str, models.SparseVectorParams] | None = None,
        on_disk_payload: bool | None = None,
        hnsw_config: models.HnswConfigDiff | None = None,
        optimizers_config: models.OptimizersConfigDiff | None = None,
        quantization_config: models.QuantizationConfig | None = None,
        metadata: Mapping[str, Any] | None = None,
        payload: Any = None,
        id_tracker: Any = None,
        **kwargs: Any,
    ) -> bool:
        """Create an empty collection; either all of it exists afterwards, or none.

        Settings of a cluster or of a shared server (shards, replicas, strict mode) have no meaning
        here and are not kept.

        Raises:
            CollectionExistsError: a collection of this name exists.
            InputError: a name that no server takes, or no vectors at all.
        """
        _accept(kwargs, _CLUSTER)
        directory = self._directory(collection_name)
        if not vectors_config and not sparse_vectors_config:
            raise InputError(
                "a collection needs vectors: pass vectors_config= or sparse_vectors_config="
            )
        settings = {
            "vectors": vectors_config,
            "sparse_vectors": sparse_vectors_config,
            "on_disk_payload": on_disk_payload,
            "hnsw_config": hnsw_config,
            "optimizers_config": optimizers_config,
            "quantization_config": quantization_config,
            "metadata": None if metadata is None else check_json(metadata, "metadata"),
            "payload": payload,
            "id_tracker": id_tracker,
        }
        try:
            config = models.CreateCollection(
                **{k: v for k, v in settings.items() if v is not None}
            )
        except ValueError as error:
            raise InputError(f"the configuration of {collection_name!r}: {error}") from error
        with self._lock:
            self._refuse_existing(collection_name, directory)
            with engine_errors("create", collection_name):
                try:
                    with sidecar.making(directory) as temporary:
                        create_shard(temporary, config)
                        sidecar.write(temporary, config)
                except FileExistsError:
                    self._refuse_existing(collection_name, directory)
                    raise
        return True

    def _refuse_existing(self, name: str, directory: Path) -> None:
        if (directory / sidecar.FILE).exists():
            raise CollectionExistsError(
                f"the collection {name!r} exists in {self.path}: use it, or delete it first"
            )
        if directory.exists():
            raise StoreDamagedError(
                f"{directory} is in the way, and is no collection of ours: move it, "
                "or choose another name"
            )

    def collection_exists(self, collection_name: str, **kwargs: Any) -> bool:
        """Whether the collection exists; it isn't opened."""
        _accept(kwargs)
        return (self._directory(collection_name) / sidecar.FILE).is_file()

    def get_collections(self, **kwargs: Any) -> models.CollectionsResponse:
        """The collections' names, sorted; none is opened."""
        _accept(kwargs)
        self._check_usable()
        names = sidecar.collection_names(self.path)
        return models.CollectionsResponse(
            collections=[models.CollectionDescription(name=name) for name in names]
        )

    def get_collection(self, collection_name: str, **kwargs: Any) -> models.CollectionInfo:
        """A collection's configuration, metadata, payload indexes and counts."""
        _accept(kwargs)
        shard = self._shard(collection_name)
        with shard.use("inspect") as engine:
            return answers.collection_info(shard.config, engine.info())

    def update_collection(
        self, collection_name: str, metadata: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> bool:
        """Merge `metadata` into the collection's; a value of None removes the key.

        Raises:
            UnsupportedError: any other change; make a new collection and copy the points.
        """
        changes = sorted(k for k, v in kwargs.items() if v is not None and k not in _NO_EFFECT)
        if changes:
            raise UnsupportedError(
                f"the embedded engine can't change {', '.join(changes)} of an existing "
                "collection: create another one and copy the points with scroll and upsert"
            )
        shard = self._shard(collection_name)
        with shard.use("update"):
            if metadata is not None:
                new = check_json(metadata, "metadata")
                merged = {**(shard.config.metadata or {}), **new}
                kept = {key: value for key, value in merged.items() if value is not None}
                shard.replace_config(shard.config.model_copy(update={"metadata": kept}))
        return True

    def delete_collection(self, collection_name: str, **kwargs: Any) -> bool:
        """Delete a collection and its files. False where there is none."""
        _accept(kwargs)
        directory = self._directory(collection_name)
        with self._lock:
            if not (directory / sidecar.FILE).exists():
                return False
            shard = self._shards.pop(collection_name, None)
            if shard is not None:
                shard.close()
            lock = DirectoryLock(directory)
            try:
                with engine_errors("delete", collection_name):
                    sidecar.remove(directory)
            finally:
                lock.release()
        return True

    def optimize(self, collection_name: str) -> bool:
        """Build the indexes and merge segments, now; returns whether there was anything to do.

        The engine never does it by itself: call it after a bulk ingest. It holds the GIL, and
        needs the collection's size on the disk once more until `close`.
        """
        with self._shard(collection_name).use("optimize") as engine:
            return engine.optimize()

    def flush(self, collection_name: str | None = None) -> None:
        """Write what is pending to the disk. Each write does so by itself already."""
        self._check_usable()
        with self._lock:
            names = list(self._shards) if collection_name is None else [collection_name]
        for name in names:
            with self._shard(name).use("flush") as engine:
                engine.flush()

    # writing

    def upsert(
        self,
        collection_name: str,
        points: models.Batch | Sequence[models.PointStruct],
        update_filter: models.Filter | None = None,
        update_mode: Any = None,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Insert or replace points: all of them, or none where one is refused.

        Raises:
            PointError: the first point that is wrong, with the field and the remedy.
        """
        _accept(kwargs)
        shard = self._shard(collection_name)
        checked = check_points(points, shard.layout)
        shard.write(
            "write to",
            lambda: edge.UpdateOperation.upsert_points(
                [translate.point(p) for p in checked],
                condition=translate.to_filter(update_filter),
                update_mode=translate.update_mode(update_mode),
            ),
        )
        return _completed()

    def upload_points(
        self,
        collection_name: str,
        points: Iterable[models.PointStruct],
        batch_size: int = 64,
        update_filter: models.Filter | None = None,
        update_mode: Any = None,
        **kwargs: Any,
    ) -> None:
        """`upsert` in batches, for any iterable. Each batch is all or nothing by itself."""
        _accept(kwargs, {"parallel", "on_batch_failure"})
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}: pass at least 1")
        rest = iter(points)
        while batch := list(islice(rest, batch_size)):
            self.upsert(
                collection_name, batch, update_filter=update_filter, update_mode=update_mode
            )

    def delete(
        self, collection_name: str, points_selector: types.PointsSelector, **kwargs: Any
    ) -> models.UpdateResult:
        """Delete points by ids or by filter. Ids that don't exist are passed over."""
        return self._by_selector(
            "delete from",
            collection_name,
            points_selector,
            edge.UpdateOperation.delete_points,
            edge.UpdateOperation.delete_points_by_filter,
            (),
            kwargs,
            must_exist=False,
        )

    def set_payload(
        self,
        collection_name: str,
        payload: models.Payload,
        points: types.PointsSelector,
        key: str | None = None,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Merge `payload` into the points' payloads, at the path `key` where given."""
        return self._by_selector(
            "write payloads to",
            collection_name,
            points,
            edge.UpdateOperation.set_payload,
            edge.UpdateOperation.set_payload_by_filter,
            (check_json(payload, "payload"), check_path(key)),
            kwargs,
        )

    def overwrite_payload(
        self,
        collection_name: str,
        payload: models.Payload,
        points: types.PointsSelector,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Replace the points' payloads."""
        return self._by_selector(
            "write payloads to",
            collection_name,
            points,
            edge.UpdateOperation.overwrite_payload,
            edge.UpdateOperation.overwrite_payload_by_filter,
            (check_json(payload, "payload"),),
            kwargs,
        )

    def delete_payload(
        self,
        collection_name: str,
        keys: Sequence[str],
        points: types.PointsSelector,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Remove fields from the points' payloads."""
        return self._by_selector(
            "delete payloads from",
            collection_name,
            points,
            edge.UpdateOperation.delete_payload,
            edge.UpdateOperation.delete_payload_by_filter,
            (list(keys),),
            kwargs,
        )

    def clear_payload(
        self, collection_name: str, points_selector: types.PointsSelector, **kwargs: Any
    ) -> models.UpdateResult:
        """Remove the points' payloads."""
        return self._by_selector(
            "delete payloads from",
            collection_name,
            points_selector,
            edge.UpdateOperation.clear_payload,
            edge.UpdateOperation.clear_payload_by_filter,
            (),
            kwargs,
        )

    def _by_selector(
        self,
        operation: str,
        collection_name: str,
        selector: Any,
        by_ids: Any,
        by_filter: Any,
        arguments: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        must_exist: bool = True,
    ) -> models.UpdateResult:
        _accept(kwargs)
        shard = self._shard(collection_name)
        if isinstance(selector, models.FilterSelector):
            selector = selector.filter
        if isinstance(selector, models.Filter):
            shard.write(operation, lambda: by_filter(translate.to_filter(selector), *arguments))
            return _completed()
        if isinstance(selector, models.PointIdsList):
            selector = selector.points
        elif not isinstance(selector, Iterable):
            selector = [selector]
        ids = check_ids(selector)
        if not ids:
            raise InputError("the list of point ids is empty: pass at least one, or a filter")
        with shard.use(operation) as engine:
            if must_exist:
                _need_points(engine, ids)
            shard.write(operation, lambda: by_ids(ids, *arguments))
        return _completed()

    def create_payload_index(
        self,
        collection_name: str,
        field_name: str,
        field_schema: Any = None,
        field_type: Any = None,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Index a payload field; `facet`, `order_by` and fast filters need it."""
        _accept(kwargs)
        schema = field_schema if field_schema is not None else field_type
        if schema is None:
            raise InputError("pass field_schema=, such as models.PayloadSchemaType.KEYWORD")
        self._shard(collection_name).write(
            "index",
            lambda: edge.UpdateOperation.create_field_index(
                field_name, translate.index_schema(schema)
            ),
        )
        return _completed()

    def delete_payload_index(
        self, collection_name: str, field_name: str, **kwargs: Any
    ) -> models.UpdateResult:
        """Drop a payload field's index; the payloads stay."""
        _accept(kwargs)
        self._shard(collection_name).write(
            "drop an index of", lambda: edge.UpdateOperation.delete_field_index(field_name)
        )
        return _completed()

    # reading

    def retrieve(
        self,
        collection_name: str,
        ids: Sequence[Any],
        with_payload: Any = True,
        with_vectors: bool | Sequence[str] = False,
        **kwargs: Any,
    ) -> list[models.Record]:
        """Points by id, in the order asked for; those that don't exist are left out."""
        _accept(kwargs)
        shard = self._shard(collection_name)
        wanted = check_ids(ids)
        with shard.use("read") as engine:
            payload = translate.payload_selector(with_payload)
            vectors = translate.vector_selector(with_vectors, shard.layout)
            found = [answers.record(r) for r in engine.retrieve(list(wanted), payload, vectors)]
        by_id = {record.id: record for record in found}
        return [by_id[id] for id in dict.fromkeys(wanted) if id in by_id]

    def scroll(
        self,
        collection_name: str,
        scroll_filter: models.Filter | None = None,
        limit: int = 10,
        order_by: Any = None,
        offset: Any = None,
        with_payload: Any = True,
        with_vectors: bool | Sequence[str] = False,
        **kwargs: Any,
    ) -> tuple[list[models.Record], int | str | None]:
        """A page of points, by id or by an indexed field, and the id that starts the next page.

        In the order of a field there is no next page: continue with `order_by.start_from`.
        """
        _accept(kwargs)
        shard = self._shard(collection_name)
        if order_by is not None and offset is not None:
            raise InputError("offset doesn't go with order_by: continue with order_by.start_from")
        with shard.use("scroll") as engine:
            order = None if order_by is None else translate.order_by(order_by)
            if order is not None:
                _need_index(engine, order.key, "order_by")
            records, following = engine.scroll(
                edge.ScrollRequest(
                    offset=None if offset is None else check_id(offset),
                    limit=translate.count("limit", limit, least=1),
                    filter=translate.to_filter(scroll_filter),
                    with_payload=translate.payload_selector(with_payload),
                    with_vector=translate.vector_selector(with_vectors, shard.layout),
                    order_by=order,
                )
            )
        return [answers.record(r) for r in records], (
            None if following is None else answers.point_id(following)
        )

    def count(
        self,
        collection_name: str,
        count_filter: models.Filter | None = None,
        exact: bool = True,
        **kwargs: Any,
    ) -> models.CountResult:
        """How many points match; `exact=False` estimates."""
        _accept(kwargs)
        with self._shard(collection_name).use("count") as engine:
            request = edge.CountRequest(exact=exact, filter=translate.to_filter(count_filter))
            return models.CountResult(count=engine.count(request))

    def facet(
        self,
        collection_name: str,
        key: str,
        facet_filter: models.Filter | None = None,
        limit: int = 10,
        exact: bool = False,
        **kwargs: Any,
    ) -> models.FacetResponse:
        """The most frequent values of an indexed payload field, with their counts."""
        _accept(kwargs)
        limit = translate.count("limit", limit, least=1)
        with self._shard(collection_name).use("facet") as engine:
            request = edge.FacetRequest(key, limit, exact, translate.to_filter(facet_filter))
            _need_index(engine, key, "facet")
            hits = engine.facet(request).hits
        return models.FacetResponse(
            hits=[models.FacetValueHit(value=hit.value, count=hit.count) for hit in hits]
        )

    def query_points(
        self,
        collection_name: str,
        query: Any = None,
        using: str | None = None,
        prefetch: models.Prefetch | list[models.Prefetch] | None = None,
        query_filter: models.Filter | None = None,
        search_params: models.SearchParams | None = None,
        limit: int = 10,
        offset: int | None = None,
        with_payload: Any = True,
        with_vectors: bool | Sequence[str] = False,
        score_threshold: float | None = None,
        lookup_from: models.LookupLocation | None = None,
        **kwargs: Any,
    ) -> types.QueryResponse:
        """The best points for a query: a vector of any kind, a fusion of prefetches, a formula."""
        _accept(kwargs)
        request = models.QueryRequest.model_construct(
            query=query,
            using=using,
            prefetch=prefetch,
            filter=query_filter,
            params=search_params,
            limit=limit,
            offset=offset,
            with_payload=with_payload,
            with_vector=with_vectors,
            score_threshold=score_threshold,
            lookup_from=lookup_from,
        )
        return self.query_batch_points(collection_name, [request])[0]

    def query_batch_points(
        self, collection_name: str, requests: Sequence[models.QueryRequest], **kwargs: Any
    ) -> list[types.QueryResponse]:
        """Several queries at once, which the engine plans together.

        As on a server, a request's `with_payload` defaults to none here, and to all in
        `query_points`.
        """
        _accept(kwargs)
        shard = self._shard(collection_name)
        if not requests:
            return []
        with shard.use("query") as engine:
            translated = [translate.query_request(r, shard.layout) for r in requests]
            found = engine.query_batch(edge.QueryBatchRequest(translated))
        return [
            types.QueryResponse.model_construct(points=[answers.scored_point(p) for p in points])
            for points in found
        ]

    # inside

    def _check_usable(self) -> None:
        check_process(self._pid, self.path)
        if self._closed:
            raise StoreClosedError(f"QdrantEdge({str(self.path)!r}) is closed: open a new one")

    def _directory(self, collection_name: str) -> Path:
        self._check_usable()
        return self.path / sidecar.check_name(collection_name)

    def _shard(self, collection_name: str) -> Shard:
        """The open collection; opened now, if this is its first use."""
        directory = self._directory(collection_name)
        with self._lock:
            self._check_usable()
            shard = self._shards.get(collection_name)
            if shard is None:
                if not directory.exists():
                    names = ", ".join(map(repr, sidecar.collection_names(self.path))) or "none"
                    raise CollectionNotFoundError(
                        f"there is no collection {collection_name!r} in {self.path}: "
                        f"it has {names}"
                    )
                shard = self._shards[collection_name] = Shard(directory)
            return shard


def _completed() -> models.UpdateResult:
    return models.UpdateResult(operation_id=None, status=models.UpdateStatus.COMPLETED)


def _accept(kwargs: Mapping[str, Any], others: Iterable[str] = ()) -> None:
    """Take the arguments that have no effect here, and refuse those that nobody knows."""
    if kwargs.get("shard_key_selector") is not None:
        raise UnsupportedError(
            "the embedded engine has no shard keys: leave shard_key_selector out"
        )
    unknown = kwargs.keys() - _NO_EFFECT - set(others) - {"shard_key_selector"}
    if unknown:
        raise InputError(f"unknown arguments: {', '.join(sorted(unknown))}")


def _need_points(engine: edge.EdgeShard, ids: Iterable[int | str]) -> None:
    """The engine would write to those that exist, and then fail."""
    wanted = list(dict.fromkeys(ids))
    found = {answers.point_id(r.id) for r in engine.retrieve(list(wanted), False, False)}
    missing = [id for id in wanted if id not in found]
    if missing:
        shown = ", ".join(map(repr, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise InputError(f"there are no points {shown}: nothing was written, upsert them first")


def _need_index(engine: edge.EdgeShard, field: str, what: str) -> None:
    if field not in engine.info().payload_schema:
        raise InputError(
            f"{what} needs an index on {field!r}: call "
            f"create_payload_index(collection, {field!r}, field_schema=...) first"
        )


# Whatever else qdrant-client's interface has, now or in a later version, says that it isn't here.

_INSTEAD = {
    "snapshot": "close the client and copy the directory",
    "alias": "use the collection's own name",
    "groups": "query with a larger limit and group the hits",
    "matrix": "query with the points' own vectors",
    "vectors": "upsert the whole points again",
    "batch_update": "call the updates one by one",
    "upload_collection": "use upload_points",
    "recreate_collection": "use delete_collection and create_collection",
    "vector_name": "create another collection and copy the points with scroll and upsert",
    "migrate": "copy the points with scroll and upsert",
}


def _unsupported(name: str) -> Any:
    instead = next(
        (advice for part, advice in _INSTEAD.items() if part in name), "use a Qdrant server"
    )

    def method(self: QdrantEdge, *args: Any, **kwargs: Any) -> NoReturn:
        raise UnsupportedError(f"the embedded engine has no {name}: {instead}")

    method.__name__ = name
    method.__doc__ = f"Not in the embedded engine: {instead}."
    return method


for _name, _method in vars(QdrantBase).items():
    if callable(_method) and not _name.startswith("_") and _name not in vars(QdrantEdge):
        setattr(QdrantEdge, _name, _unsupported(_name))
