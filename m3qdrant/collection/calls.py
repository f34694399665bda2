"""Calls of qdrant-client's interface as values, and operations that are made of them.

A `Call` is a method, its arguments, and the type of its answer; there is a function here for each
method that this package uses. An operation is a generator that yields calls and is sent their
answers, so it does no I/O of its own and is written once: `transport.run` carries it out with a
QdrantClient or a QdrantEdge, `transport.arun` with their asynchronous twins.

    def documents(name: str) -> Steps[int]:
        found = yield from count(name)      # a CountResult, as mypy knows
        return found.count

A call is an operation too, the shortest there is: whatever runs the one runs the other.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypedDict, TypeVar

from qdrant_client import models
from qdrant_client.http.models import QueryResponse

from m3qdrant.errors import M3QdrantError, RequestRejectedError

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "Call",
    "CollectionSettings",
    "Compute",
    "Outcomes",
    "Steps",
    "Together",
    "batch_update_points",
    "cluster_status",
    "collection_cluster_info",
    "collection_exists",
    "count",
    "create_collection",
    "create_payload_index",
    "delete",
    "get_aliases",
    "get_collection",
    "get_collections",
    "info",
    "optimize",
    "query_batch_points",
    "query_points_groups",
    "retrieve",
    "scroll",
    "together",
    "unindexed",
    "update_collection",
    "upsert",
    "vector_files",
]

Q = TypeVar("Q")
T = TypeVar("T")


@dataclass(frozen=True)
class Call(Generic[T]):
    """A method of qdrant-client's interface with its arguments; T is what it answers.

    Attributes:
        method: e.g. "query_batch_points".
        arguments: by keyword.
        idempotent: whether doing it twice is the same as once, so that it may be repeated when an
            answer got lost. False only for what fails the second time, such as a creation.
        arrays: whether vectors in the arguments and in the answer may be float32 arrays where
            qdrant-client has lists of floats: a client that can do that has a method of this name
            and "_arrays" (or takes them in the method itself).
    """

    method: str
    arguments: Mapping[str, Any]
    idempotent: bool = True
    arrays: bool = False

    def __iter__(self) -> Generator[Call[Any], Any, T]:
        """The operation that makes this call alone and returns its answer."""
        answer: T = yield self
        return answer


@dataclass(frozen=True)
class Together(Generic[Q]):
    """Calls that may be under way at once, and come in any order.

    What is sent for them is a list of what became of each: its answer, or the `M3QdrantError` that
    it ended with. After an error that is no refusal none of them begins any more: those that had
    not begun have that error too.

    Attributes:
        questions: the calls.
    """

    questions: tuple[Q, ...]


@dataclass(frozen=True)
class Compute(Generic[T]):
    """Something to compute that takes its time, and asks nobody: an event loop goes on meanwhile.

    Attributes:
        function: what is called, in whatever thread; T is what it returns.
    """

    function: Callable[[], T]

    def __iter__(self) -> Generator[Compute[Any], Any, T]:
        """The operation that computes this alone and returns it."""
        answer: T = yield self
        return answer


class Outcomes:
    """What becomes of the questions of a `Together`, for whoever asks them."""

    def __init__(self) -> None:
        self._end: M3QdrantError | None = None

    def before(self) -> M3QdrantError | None:
        """The error because of which no further question is asked."""
        return self._end

    def error(self, error: M3QdrantError) -> M3QdrantError:
        """What became of a question that ended with an error."""
        if not isinstance(error, RequestRejectedError):
            self._end = self._end or error
        return error


Steps: TypeAlias = Generator[Call[Any] | Together[Call[Any]] | Compute[Any], Any, T]
"""An operation: it yields calls, is sent each one's answer (or thrown its error), returns T."""

Page: TypeAlias = tuple[list[models.Record], models.ExtendedPointId | None]
"""Points, and the id that the next page begins with; None where there is none."""


def together(asked: Iterable[Call[T]]) -> Steps[list[T | M3QdrantError]]:
    """Calls whose order doesn't matter; what became of each. See `Together`."""
    outcomes: list[T | M3QdrantError] = yield Together(tuple(asked))
    return outcomes


# -- the location


def info() -> Call[models.VersionInfo]:
    """What answers there, and its version."""
    return Call("info", {})


def cluster_status() -> Call[models.ClusterStatus]:
    """The nodes of a server's cluster."""
    return Call("cluster_status", {})


def collection_cluster_info(name: str) -> Call[models.CollectionClusterInfo]:
    """How the node that is asked keeps a collection's shards."""
    return Call("collection_cluster_info", {"collection_name": name})


def get_collections() -> Call[models.CollectionsResponse]:
    """The names of all collections."""
    return Call("get_collections", {})


def get_aliases() -> Call[models.CollectionsAliasesResponse]:
    """All other names of collections."""
    return Call("get_aliases", {})


# -- a collection


class CollectionSettings(TypedDict, total=False):
    """The arguments of `create_collection`, but for the name."""

    vectors_config: models.VectorParams | Mapping[str, models.VectorParams] | None
    sparse_vectors_config: Mapping[str, models.SparseVectorParams] | None
    on_disk_payload: bool | None
    hnsw_config: models.HnswConfigDiff | None
    optimizers_config: models.OptimizersConfigDiff | None
    quantization_config: models.QuantizationConfig | None
    metadata: Mapping[str, Any] | None
    shard_number: int | None
    replication_factor: int | None
    write_consistency_factor: int | None
    payload: object
    id_tracker: object


def collection_exists(name: str) -> Call[bool]:
    """Whether there is a collection of this name."""
    return Call("collection_exists", {"collection_name": name})


def get_collection(name: str) -> Call[models.CollectionInfo]:
    """A collection's configuration and state."""
    return Call("get_collection", {"collection_name": name})


def create_collection(name: str, **settings: Unpack[CollectionSettings]) -> Call[bool]:
    """Make a collection. The second time it fails, so a lost answer isn't asked for again."""
    return Call("create_collection", {"collection_name": name, **settings}, idempotent=False)


def update_collection(name: str, metadata: Mapping[str, Any]) -> Call[bool]:
    """Merge into a collection's metadata; a value of None removes the key."""
    return Call("update_collection", {"collection_name": name, "metadata": metadata})


def create_payload_index(
    name: str,
    field_name: str,
    field_schema: models.PayloadSchemaType | models.PayloadSchemaParams,
) -> Call[models.UpdateResult]:
    """Index a payload field, and wait until it is."""
    arguments = {"field_name": field_name, "field_schema": field_schema, "wait": True}
    return Call("create_payload_index", {"collection_name": name, **arguments})


def optimize(name: str) -> Call[bool]:
    """Build the indexes now; `QdrantEdge` alone has it. Whether there was anything to do."""
    return Call("optimize", {"collection_name": name})


def unindexed(name: str) -> Call[int]:
    """How many points are in no index; `QdrantEdge` alone has it."""
    return Call("unindexed", {"collection_name": name})


def vector_files(name: str, vector: str) -> Call[Any]:
    """Where multivectors lie in files; `QdrantEdge` alone has it, with `VectorFiles`."""
    return Call("vector_files", {"collection_name": name, "vector": vector})


# -- reading points


def count(name: str, filter: models.Filter | None = None) -> Call[models.CountResult]:
    """How many points satisfy a filter. Exact."""
    return Call("count", {"collection_name": name, "count_filter": filter, "exact": True})


def retrieve(
    name: str,
    ids: Sequence[models.ExtendedPointId],
    *,
    with_payload: bool | Sequence[str] = False,
    with_vectors: bool | Sequence[str] = False,
    arrays: bool = False,
) -> Call[list[models.Record]]:
    """The points with these ids, in any order, without those that aren't there.

    With `arrays` dense vectors and multivectors come as arrays from engines that can give these.
    """
    selected = {"with_payload": with_payload, "with_vectors": with_vectors}
    arguments = {"collection_name": name, "ids": ids, **selected}
    return Call("retrieve", arguments, arrays=arrays)


def scroll(
    name: str,
    *,
    limit: int,
    filter: models.Filter | None = None,
    offset: models.ExtendedPointId | None = None,
    with_payload: bool | Sequence[str] = False,
    with_vectors: bool | Sequence[str] = False,
    arrays: bool = False,
) -> Call[Page]:
    """A page of points in the order of their ids. See `retrieve` for `arrays`."""
    selected = {"with_payload": with_payload, "with_vectors": with_vectors}
    asked = {"scroll_filter": filter, "limit": limit, "offset": offset, **selected}
    return Call("scroll", {"collection_name": name, **asked}, arrays=arrays)


def query_batch_points(
    name: str, requests: Sequence[models.QueryRequest]
) -> Call[list[QueryResponse]]:
    """Several queries in one round trip, an answer each."""
    arguments = {"collection_name": name, "requests": requests}
    return Call("query_batch_points", arguments, arrays=True)


def query_points_groups(
    name: str, request: models.QueryRequest, *, group_by: str, limit: int, group_size: int
) -> Call[models.GroupsResult]:
    """What `request` ranks, by the value of a payload field.

    Qdrant's groups have no offset: groups before the page are asked for too.
    """
    asked = {
        "group_by": group_by,
        "query": request.query,
        "using": request.using,
        "prefetch": request.prefetch,
        "query_filter": request.filter,
        "search_params": request.params,
        "limit": limit,
        "group_size": group_size,
        "with_payload": request.with_payload,
        "with_vectors": request.with_vector,
        "score_threshold": request.score_threshold,
    }
    return Call("query_points_groups", {"collection_name": name, **asked})


# -- writing points


def upsert(name: str, points: Sequence[models.PointStruct]) -> Call[models.UpdateResult]:
    """Insert or replace points, and wait until it is done."""
    arguments = {"collection_name": name, "points": points, "wait": True}
    return Call("upsert", arguments, arrays=True)


def batch_update_points(
    name: str, operations: Sequence[models.UpdateOperation]
) -> Call[list[models.UpdateResult]]:
    """Several updates, one after the other, and wait until they are done."""
    arguments = {"update_operations": operations, "wait": True}
    return Call("batch_update_points", {"collection_name": name, **arguments})


def delete(
    name: str, points: models.FilterSelector | models.PointIdsList
) -> Call[models.UpdateResult]:
    """Delete points, and wait until it is done."""
    return Call("delete", {"collection_name": name, "points_selector": points, "wait": True})
