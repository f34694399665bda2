"""`QdrantEdge`: qdrant-client's interface over the embedded engine."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import qdrant_edge as edge
from qdrant_client import QdrantClient, models
from qdrant_client.conversions import common_types as types

from m3qdrant.edge.absent import add_missing, refuse_attribute
from m3qdrant.edge.arguments import accept, at_least
from m3qdrant.edge.disk import configuration, leftovers, snapshots
from m3qdrant.edge.disk import directory as places
from m3qdrant.edge.disk.lock import DirectoryLock
from m3qdrant.edge.indexes import Indexer
from m3qdrant.edge.reading import Reading
from m3qdrant.edge.refusals import refusing_as_a_server
from m3qdrant.edge.shard import (
    Shard,
    check_process,
    check_shard,
    create_shard,
    engine_errors,
)
from m3qdrant.edge.translate import answers
from m3qdrant.edge.translate.payload_indexes import index_schema
from m3qdrant.edge.writing import Writing
from m3qdrant.errors import (
    CollectionExistsError,
    CollectionNotFoundError,
    EngineError,
    InputError,
    StoreClosedError,
    StoreDamagedError,
    UnsupportedError,
)
from m3qdrant.scalars import check_json

__all__ = ["QdrantEdge"]


class QdrantEdge(Reading, Writing):
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
        auto_index: whether the first filter over a field makes the index that speeds it up, in a
            collection of 10,000 points or more, where all values of the field are of one kind.
            `facet` and `order_by` make theirs in any case. See `indexes.py`.
        read_only: look, and change no byte, date or name under the directory. A collection is
            then copied at its first use, to the system's directory for temporary files, and what
            is read is what it held at that time; meanwhile nobody can open it, and afterwards
            anybody. It must be closed (`StoreLockedError` otherwise); after a crash it is
            recovered in the copy. Above 1 GiB the copy has no vectors, and what needs them raises
            `UnsupportedError`, as does whatever writes. No index is made, so that `facet` and
            `order_by` work where there is one.

    Raises:
        StoreDamagedError: the path is a file, or a directory of another program.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        auto_index: bool = True,
        read_only: bool = False,
    ) -> None:
        super().__init__()
        self.path = Path(path).expanduser().absolute()
        places.check_root(self.path)
        if not read_only:
            leftovers.sweep_root(self.path)
        self.auto_index = auto_index and not read_only
        self.read_only = read_only
        self._shards: dict[str, Shard] = {}
        self._indexers: weakref.WeakKeyDictionary[Shard, Indexer] = weakref.WeakKeyDictionary()
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

    if not TYPE_CHECKING:  # which would else take every name for one that is there

        def __getattr__(self, name: str) -> NoReturn:
            """Say what to use in place of something that only a connected client has."""
            refuse_attribute(self, name)

    @property
    def init_options(self) -> dict[str, Any]:
        """What the client was made with: `QdrantEdge(**client.init_options)` is its like."""
        return {
            "path": str(self.path),
            "auto_index": self.auto_index,
            "read_only": self.read_only,
        }

    def close(self, grpc_grace: float | None = None, **kwargs: Any) -> None:
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
        shard_number: int | None = None,
        sharding_method: models.ShardingMethod | None = None,
        replication_factor: int | None = None,
        write_consistency_factor: int | None = None,
        on_disk_payload: bool | None = None,
        hnsw_config: models.HnswConfigDiff | None = None,
        optimizers_config: models.OptimizersConfigDiff | None = None,
        wal_config: models.WalConfigDiff | None = None,
        quantization_config: models.QuantizationConfig | None = None,
        timeout: int | None = None,
        strict_mode_config: models.StrictModeConfig | None = None,
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
        accept("create_collection", kwargs, timeout=timeout)
        at_least("shard_number", shard_number)
        at_least("replication_factor", replication_factor)
        at_least("write_consistency_factor", write_consistency_factor)
        self._check_writable("create", collection_name)
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
            self._check_usable()  # it may have been closed while this waited
            self._refuse_existing(collection_name, directory)
            with engine_errors("create", collection_name):
                try:
                    with places.making(directory) as temporary:
                        create_shard(temporary, config)
                        configuration.write(temporary, config)
                except FileExistsError:
                    self._refuse_existing(collection_name, directory)
                    raise
        return True

    def _refuse_existing(self, name: str, directory: Path) -> None:
        if (directory / places.CONFIGURATION).exists():
            raise CollectionExistsError(
                f"Collection `{name}` already exists! Use the one in {self.path}, or delete it "
                "first"
            )
        if directory.exists():
            raise StoreDamagedError(
                f"{directory} is in the way, and is no collection of ours: move it, "
                "or choose another name"
            )

    def collection_exists(self, collection_name: str, **kwargs: Any) -> bool:
        """Whether the collection exists; it isn't opened."""
        accept("collection_exists", kwargs)
        return (self._directory(collection_name) / places.CONFIGURATION).is_file()

    def get_collections(self, **kwargs: Any) -> models.CollectionsResponse:
        """The collections' names, sorted; none is opened."""
        accept("get_collections", kwargs)
        self._check_usable()
        names = places.collection_names(self.path)
        return models.CollectionsResponse(
            collections=[models.CollectionDescription(name=name) for name in names]
        )

    def get_collection(self, collection_name: str, **kwargs: Any) -> models.CollectionInfo:
        """A collection's configuration, metadata, payload indexes and counts."""
        accept("get_collection", kwargs)
        shard = self._shard(collection_name)
        with shard.use("inspect") as engine:
            return answers.collection_info(shard.config, engine.info())

    def update_collection(
        self,
        collection_name: str,
        optimizers_config: models.OptimizersConfigDiff | None = None,
        collection_params: models.CollectionParamsDiff | None = None,
        vectors_config: Mapping[str, models.VectorParamsDiff] | None = None,
        hnsw_config: models.HnswConfigDiff | None = None,
        quantization_config: models.QuantizationConfigDiff | None = None,
        timeout: int | None = None,
        sparse_vectors_config: Mapping[str, models.SparseVectorParams] | None = None,
        strict_mode_config: models.StrictModeConfig | None = None,
        metadata: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> bool:
        """Merge `metadata` into the collection's; a value of None removes the key.

        Raises:
            UnsupportedError: any other change; make a new collection and copy the points.
        """
        self._check_writable("update", collection_name)
        accept("update_collection", kwargs, timeout=timeout)
        settings = {
            "optimizers_config": optimizers_config,
            "collection_params": collection_params,
            "vectors_config": vectors_config,
            "hnsw_config": hnsw_config,
            "quantization_config": quantization_config,
            "sparse_vectors_config": sparse_vectors_config,
            "strict_mode_config": strict_mode_config,
        }
        changes = [name for name, value in settings.items() if value is not None]
        if changes:
            raise UnsupportedError(
                f"update_collection can't change {', '.join(changes)} of an existing collection "
                "of the embedded engine: create another one and copy the points with scroll and "
                "upsert"
            )
        shard = self._shard(collection_name)
        with shard.use("update"):
            if metadata is not None:
                new = check_json(metadata, "metadata")
                merged = {**(shard.config.metadata or {}), **new}
                kept = {key: value for key, value in merged.items() if value is not None}
                shard.replace_config(shard.config.model_copy(update={"metadata": kept}))
        return True

    def delete_collection(
        self,
        collection_name: str,
        timeout: int | None = None,
        **kwargs: Any,
    ) -> bool:
        """Delete a collection and its files. False where there is none."""
        accept(
            "delete_collection",
            kwargs,
            timeout=timeout,
        )
        self._check_writable("delete", collection_name)
        directory = self._directory(collection_name)
        with self._lock:
            self._check_usable()
            if not (directory / places.CONFIGURATION).exists():
                return False
            shard = self._shards.pop(collection_name, None)
            if shard is not None:
                shard.close()
            lock = DirectoryLock(directory)
            try:
                with engine_errors("delete", collection_name):
                    places.remove(directory)
            finally:
                lock.release()
        return True

    def recreate_collection(
        self,
        collection_name: str,
        vectors_config: models.VectorParams | Mapping[str, models.VectorParams] | None = None,
        sparse_vectors_config: Mapping[str, models.SparseVectorParams] | None = None,
        shard_number: int | None = None,
        sharding_method: models.ShardingMethod | None = None,
        replication_factor: int | None = None,
        write_consistency_factor: int | None = None,
        on_disk_payload: bool | None = None,
        hnsw_config: models.HnswConfigDiff | None = None,
        optimizers_config: models.OptimizersConfigDiff | None = None,
        wal_config: models.WalConfigDiff | None = None,
        quantization_config: models.QuantizationConfig | None = None,
        timeout: int | None = None,
        strict_mode_config: models.StrictModeConfig | None = None,
        metadata: Mapping[str, Any] | None = None,
        payload: Any = None,
        id_tracker: Any = None,
        **kwargs: Any,
    ) -> bool:
        """`delete_collection`, then `create_collection` with the other arguments."""
        accept("recreate_collection", kwargs, timeout=timeout)
        self.delete_collection(collection_name, timeout)
        return self.create_collection(
            collection_name,
            vectors_config,
            sparse_vectors_config=sparse_vectors_config,
            shard_number=shard_number,
            sharding_method=sharding_method,
            replication_factor=replication_factor,
            write_consistency_factor=write_consistency_factor,
            on_disk_payload=on_disk_payload,
            hnsw_config=hnsw_config,
            optimizers_config=optimizers_config,
            wal_config=wal_config,
            quantization_config=quantization_config,
            timeout=timeout,
            strict_mode_config=strict_mode_config,
            metadata=metadata,
            payload=payload,
            id_tracker=id_tracker,
        )

    def info(self) -> models.VersionInfo:
        """The engine's name and version."""
        return models.VersionInfo(title="qdrant-edge", version=version("qdrant-edge-py"))

    def optimize(self, collection_name: str) -> bool:
        """Build the indexes and merge segments, now; returns whether there was anything to do.

        The engine never does it by itself: call it after a bulk ingest. It holds the GIL, and
        needs the collection's size on the disk once more while it works.

        Raises:
            EngineError: the disk lacks room for that; nothing was changed.
        """
        self._check_writable("optimize", collection_name)
        return self._shard(collection_name).optimize()

    def unindexed(self, collection_name: str) -> int:
        """How many points a search by the main dense vector reads one by one, without an index.

        `optimize` indexes them, once they come to `indexing_threshold` KB in a segment (10,000
        unless the collection's `optimizers_config` says otherwise; 2,500 vectors of 1024 float32).
        """
        return self._shard(collection_name).unindexed()

    def flush(self, collection_name: str | None = None) -> None:
        """Write what is pending to the disk. Each write does so by itself already."""
        self._check_usable()
        with self._lock:
            names = list(self._shards) if collection_name is None else [collection_name]
        for name in names:
            with self._shard(name).use("flush") as engine:
                engine.flush()

    # snapshots: the rest of it is in snapshots.py

    def create_snapshot(
        self,
        collection_name: str,
        wait: bool = True,
        **kwargs: Any,
    ) -> models.SnapshotDescription:
        """Pack the collection into one file, PATH/.snapshots/NAME/..., while its writers wait.

        Raises:
            EngineError: the disk lacks room for it.
        """
        accept("create_snapshot", kwargs)
        self._check_writable("take a snapshot of", collection_name)
        shard = self._shard(collection_name)
        with shard.at_rest("take a snapshot of") as record:
            return snapshots.create(self.path, collection_name, shard.directory, record)

    def list_snapshots(
        self, collection_name: str, **kwargs: Any
    ) -> list[models.SnapshotDescription]:
        """The collection's snapshots, the oldest first; they outlive the collection."""
        accept("list_snapshots", kwargs)
        self._directory(collection_name)
        return snapshots.find(self.path, collection_name)

    def delete_snapshot(
        self,
        collection_name: str,
        snapshot_name: str,
        wait: bool = True,
        **kwargs: Any,
    ) -> bool:
        """Delete a snapshot. False where there is none of that name."""
        accept("delete_snapshot", kwargs)
        self._check_writable("delete a snapshot of", collection_name)
        self._directory(collection_name)
        return snapshots.delete(self.path, collection_name, snapshot_name)

    def recover_snapshot(
        self,
        collection_name: str,
        location: str | os.PathLike[str],
        api_key: str | None = None,
        checksum: str | None = None,
        priority: Any = None,
        wait: bool = True,
        **kwargs: Any,
    ) -> bool:
        """Make the collection from a snapshot of this engine, in place of what it holds now.

        What it holds now stays until the snapshot has been opened and found whole, and through a
        crash. The snapshot may be another collection's, or come from another machine.

        Args:
            collection_name: the collection, which need not exist.
            location: the snapshot's path, or a file:// URL.
            checksum: its SHA-256; by default the one in the file beside it, if there is one.
            api_key: has no effect here.
            priority: has no effect here.
            wait: has no effect here.
            **kwargs: `timeout` and its like, without effect here.

        Raises:
            UnsupportedError: it is a server's snapshot, or lies on a network.
            StoreDamagedError: it isn't whole.
        """
        accept("recover_snapshot", kwargs)
        self._check_writable("recover", collection_name)
        directory = self._directory(collection_name)
        source = snapshots.checked_source(location, checksum)
        with (
            engine_errors("recover", collection_name),
            contextlib.ExitStack() as aside,
            places.making(directory) as temporary,
        ):
            snapshots.unpack(source, temporary)
            check_shard(temporary)
            aside.enter_context(self._lock)
            self._check_usable()
            if directory.exists():
                self._set_aside(collection_name, directory, aside)
        return True

    def _set_aside(self, name: str, directory: Path, stack: contextlib.ExitStack) -> None:
        """Close a collection and move it out of the way, until the stack unwinds."""
        if not (directory / places.SHARD).is_dir():
            self._refuse_existing(name, directory)
        shard = self._shards.pop(name, None)
        if shard is not None:
            with contextlib.suppress(EngineError):  # it may be what is to be recovered from
                shard.close()
        stack.callback(DirectoryLock(directory).release)
        stack.enter_context(places.replace(directory))

    # payload indexes

    def create_payload_index(
        self,
        collection_name: str,
        field_name: str,
        field_schema: Any = None,
        field_type: Any = None,
        wait: bool = True,
        ordering: types.WriteOrdering | None = None,
        timeout: int | None = None,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Index a payload field, in a way of your choice; see `auto_index` for what needs none."""
        accept(
            "create_payload_index",
            kwargs,
            ordering=ordering,
            timeout=timeout,
        )
        self._check_writable("index", collection_name)
        schema = field_schema if field_schema is not None else field_type
        if schema is None:
            raise InputError("pass field_schema=, such as models.PayloadSchemaType.KEYWORD")
        self._shard(collection_name).write(
            "index",
            lambda: edge.UpdateOperation.create_field_index(field_name, index_schema(schema)),
        )
        return models.UpdateResult(status=models.UpdateStatus.COMPLETED)

    def delete_payload_index(
        self,
        collection_name: str,
        field_name: str,
        wait: bool = True,
        ordering: types.WriteOrdering | None = None,
        timeout: int | None = None,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Drop a payload field's index; the payloads stay."""
        accept(
            "delete_payload_index",
            kwargs,
            ordering=ordering,
            timeout=timeout,
        )
        self._check_writable("drop an index of", collection_name)
        self._shard(collection_name).write(
            "drop an index of", lambda: edge.UpdateOperation.delete_field_index(field_name)
        )
        return models.UpdateResult(status=models.UpdateStatus.COMPLETED)

    # inside

    def _check_usable(self) -> None:
        check_process(self._pid, self.path)
        if self._closed:
            raise StoreClosedError(f"QdrantEdge({str(self.path)!r}) is closed: open a new one")

    def _check_writable(self, operation: str, collection_name: str) -> None:
        if self.read_only:
            raise UnsupportedError(
                f"could not {operation} the collection {collection_name!r}: {self.path} is "
                "opened for reading; open it without read_only"
            )

    def _directory(self, collection_name: str) -> Path:
        self._check_usable()
        return self.path / places.check_name(collection_name)

    def _shard(self, collection_name: str) -> Shard:
        """The open collection; opened now, if this is its first use."""
        directory = self._directory(collection_name)
        with self._lock:
            self._check_usable()
            shard = self._shards.get(collection_name)
            if shard is None:
                if not directory.exists():
                    names = ", ".join(map(repr, places.collection_names(self.path))) or "none"
                    raise CollectionNotFoundError(
                        f"Collection {collection_name} not found: Collection "
                        f"`{collection_name}` doesn't exist! {self.path} has {names}"
                    )
                shard = self._shards[collection_name] = Shard(directory, read_only=self.read_only)
            return shard

    def _indexer(self, shard: Shard) -> Indexer:
        """What makes the collection's indexes; to be called in its turn."""
        indexer = self._indexers.get(shard)
        if indexer is None:
            indexer = self._indexers[shard] = Indexer(shard, for_filters=self.auto_index)
        return indexer


add_missing(QdrantEdge, QdrantClient)
refusing_as_a_server(QdrantEdge)
