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

from qdrant_client import QdrantClient, models
from qdrant_client.client_base import QdrantBase
from qdrant_client.migrate.migrate import migrate

from m3qdrant.edge.absent import add_missing, refuse_attribute
from m3qdrant.edge.aliasing import Aliasing, not_found
from m3qdrant.edge.arguments import accept
from m3qdrant.edge.configuring import Configuring, read_settings
from m3qdrant.edge.disk import closed, configuration, leftovers, snapshots
from m3qdrant.edge.disk import directory as places
from m3qdrant.edge.disk.claim import claim
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
from m3qdrant.edge.vector_files import locate
from m3qdrant.edge.writing import Writing
from m3qdrant.errors import (
    CollectionExistsError,
    EngineError,
    InputError,
    StoreClosedError,
    StoreDamagedError,
    UnsupportedError,
)
from m3qdrant.files import sync_directory

__all__ = ["QdrantEdge"]


class QdrantEdge(Reading, Writing, Configuring, Aliasing):
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
            if places.collection_names(self.path):  # made before there was this file
                with contextlib.suppress(OSError):
                    claim(self.path)
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

        Settings of a cluster or of a shared server (shards, replicas, strict mode) have no effect
        here; they are kept, so that `migrate` brings them to a server. A collection without
        vectors holds payloads.

        Raises:
            CollectionExistsError: a collection of this name exists.
            InputError: a name, or a setting, that no server takes; the name is an alias.
        """
        accept("create_collection", kwargs, timeout=timeout)
        self._check_writable("create", collection_name)
        directory = self._own_directory(collection_name)
        config = self._settings(
            collection_name,
            vectors_config,
            sparse_vectors_config,
            shard_number,
            sharding_method,
            replication_factor,
            write_consistency_factor,
            on_disk_payload,
            hnsw_config,
            optimizers_config,
            wal_config,
            quantization_config,
            strict_mode_config,
            metadata,
            payload,
            id_tracker,
        )
        self._create(collection_name, directory, config)
        return True

    @staticmethod
    def _settings(
        name: str, vectors: Any, sparse_vectors: Any, *others: Any
    ) -> models.CreateCollection:
        config: models.CreateCollection = read_settings(
            models.CreateCollection,
            name,
            {
                "vectors": vectors or None,
                "sparse_vectors": sparse_vectors or None,
                **dict(zip(_OTHER_SETTINGS, others, strict=True)),
            },
        )
        return config

    def _create(self, name: str, directory: Path, config: models.CreateCollection) -> None:
        with self._lock:
            self._check_usable()  # it may have been closed while this waited
            self._refuse_existing(name, directory)
            with engine_errors("create", name), self._taking(name):
                try:
                    with places.making(directory) as temporary:
                        create_shard(temporary, config)
                        configuration.write(temporary, config)
                except FileExistsError:
                    self._refuse_existing(name, directory)
                    raise

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
        """Whether the collection, or the alias, exists; it isn't opened."""
        accept("collection_exists", kwargs)
        return places.is_collection(self._directory(collection_name))

    def get_collections(self, **kwargs: Any) -> models.CollectionsResponse:
        """The collections' names, sorted; none is opened."""
        accept("get_collections", kwargs)
        self._check_usable()
        names = places.collection_names(self.path)
        return models.CollectionsResponse(
            collections=[models.CollectionDescription(name=name) for name in names]
        )

    def delete_collection(
        self,
        collection_name: str,
        timeout: int | None = None,
        **kwargs: Any,
    ) -> bool:
        """Delete a collection, its files and its aliases. False where there is none.

        An alias is no collection: it stays, and so does what it stands for.
        """
        accept(
            "delete_collection",
            kwargs,
            timeout=timeout,
        )
        self._check_writable("delete", collection_name)
        directory = self._own_directory(collection_name)
        with self._lock:
            self._check_usable()
            if not places.is_collection(directory):
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
            self._drop_aliases(collection_name)
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
        """`delete_collection`, then `create_collection` with the other arguments.

        The arguments are checked before anything is deleted.
        """
        accept("recreate_collection", kwargs, timeout=timeout)
        self._check_writable("create", collection_name)
        directory = self._own_directory(collection_name)
        config = self._settings(
            collection_name,
            vectors_config,
            sparse_vectors_config,
            shard_number,
            sharding_method,
            replication_factor,
            write_consistency_factor,
            on_disk_payload,
            hnsw_config,
            optimizers_config,
            wal_config,
            quantization_config,
            strict_mode_config,
            metadata,
            payload,
            id_tracker,
        )
        self.delete_collection(collection_name, timeout)
        self._create(collection_name, directory, config)
        return True

    def migrate(
        self,
        dest_client: QdrantBase,
        collection_names: list[str] | None = None,
        batch_size: int = 100,
        recreate_on_collision: bool = False,
    ) -> None:
        """Copy collections to another client's place, with their settings and payload indexes.

        Raises:
            ValueError: the other place has one of them, and `recreate_on_collision` isn't set.
        """
        migrate(self, dest_client, collection_names, recreate_on_collision, batch_size)

    def info(self) -> models.VersionInfo:
        """The engine's version, under the title that a server gives."""
        return models.VersionInfo(
            title="qdrant - vector search engine", version=version("qdrant-edge-py")
        )

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

    def vector_files(self, collection_name: str, vector: str) -> Any:
        """Where a collection's multivectors lie in its files, to read them from there.

        Several times as fast as `retrieve_arrays`. The rows are those of the moment when this is
        asked, as long as the points' versions are.

        Returns:
            `VectorFiles`, of the module `m3qdrant.edge.vector_files`.

        Raises:
            UnsupportedError: the files are none that this version knows, or those of a copy;
                read the vectors by `retrieve_arrays`.
        """
        self._check_writable("read the files of", collection_name)
        shard = self._shard(collection_name)
        found = shard.layout.get(vector)
        if found is None or found.kind != "multi":
            raise InputError(f"the collection {collection_name!r} has no multivector {vector!r}")
        with shard.use("flush") as engine:
            engine.flush()
            return locate(shard.directory, vector, found.size)

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
            return snapshots.create(self.path, shard.directory.name, shard.directory, record)

    def list_snapshots(
        self, collection_name: str, **kwargs: Any
    ) -> list[models.SnapshotDescription]:
        """The collection's snapshots, the oldest first; they outlive the collection."""
        accept("list_snapshots", kwargs)
        return snapshots.find(self.path, self._directory(collection_name).name)

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
        name = self._directory(collection_name).name
        return snapshots.delete(self.path, name, snapshot_name)

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
        collection_name = directory.name
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

    def adopt(self, collection_name: str, directory: str | os.PathLike[str]) -> bool:
        """Make a directory the collection, in place of what it holds now.

        Args:
            collection_name: the collection, which need not exist.
            directory: a collection of another `QdrantEdge`, closed, on the same disk. It is moved.

        Raises:
            StoreLockedError: somebody has one of the two open.
            StoreDamagedError: it isn't whole. What the collection holds now stays then.
        """
        self._check_writable("replace", collection_name)
        source, target = Path(directory), self._directory(collection_name)
        places.check_name(target.name)
        configuration.read(source)  # it is one
        with engine_errors("replace", target.name), contextlib.ExitStack() as aside:
            lock = DirectoryLock(source)
            aside.callback(lock.release)
            record = closed.read(source)
            if record is None:
                raise StoreDamagedError(f"{source} wasn't closed in good order: open and close it")
            closed.check(source, record)
            aside.enter_context(self._lock)
            self._check_usable()
            self.path.mkdir(parents=True, exist_ok=True)
            claim(self.path)
            if target.exists():
                self._set_aside(target.name, target, aside)
            else:
                aside.enter_context(self._taking(target.name))
            source.rename(target)
            sync_directory(self.path)
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

    def _own_directory(self, collection_name: str) -> Path:
        """Where a collection of this name lies, or would; an alias is no name here."""
        self._check_usable()
        return self.path / places.check_name(collection_name)

    def _directory(self, collection_name: str) -> Path:
        """Where the collection lies, or the one that the alias stands for."""
        return self._own_directory(self._meant(places.check_name(collection_name)))

    def _shard(self, collection_name: str) -> Shard:
        """The open collection; opened now, if this is its first use."""
        places.check_name(collection_name)
        with self._lock:
            self._check_usable()
            # names, first, of which no alias is one; nobody but this client deletes an open one
            shard = self._shards.get(collection_name)
            if shard is not None:
                return shard
            directory = self._directory(collection_name)
            shard = self._shards.get(directory.name)
            if shard is None:
                if not directory.exists():
                    raise not_found(collection_name, self.path)
                shard = Shard(directory, read_only=self.read_only)
                self._shards[directory.name] = shard
            return shard

    def _indexer(self, shard: Shard) -> Indexer:
        """What makes the collection's indexes; to be called in its turn."""
        indexer = self._indexers.get(shard)
        if indexer is None:
            indexer = self._indexers[shard] = Indexer(shard, for_filters=self.auto_index)
        return indexer


_OTHER_SETTINGS = (
    "shard_number",
    "sharding_method",
    "replication_factor",
    "write_consistency_factor",
    "on_disk_payload",
    "hnsw_config",
    "optimizers_config",
    "wal_config",
    "quantization_config",
    "strict_mode_config",
    "metadata",
    "payload",
    "id_tracker",
)
"""Those of `create_collection` beside the vectors, in their order."""

add_missing(QdrantEdge, QdrantClient)
refusing_as_a_server(QdrantEdge)
