"""A stand-in for a Qdrant server over gRPC: `rest.py`'s twin, for a few calls.

It is NOT Qdrant: a `QdrantEdge` answers, behind qdrant-client's own generated services and its own
conversions. Only what the tests of the transport ask is here; the contract suite uses REST.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import grpc  # type: ignore[import-untyped]
from qdrant_client import grpc as protocol
from qdrant_client.client_base import QdrantBase
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc

from m3qdrant.errors import CollectionExistsError, CollectionNotFoundError
from tests.servers.rest import HOST

__all__ = ["Abort", "GrpcServer"]


@dataclass(frozen=True)
class Abort:
    """End a call with a status, before or after it has been carried out.

    Attributes:
        code: of gRPC.
        message: in its details.
        applied: whether the call is carried out.
        retry_after: in the metadata, as Qdrant's rate limit sets it.
        seconds: to wait before.
    """

    code: grpc.StatusCode
    message: str = "scripted"
    applied: bool = False
    retry_after: str | None = None
    seconds: float = 0.0


class GrpcServer:
    """The server, on a free port of 127.0.0.1. A context manager.

    Attributes:
        port: where it listens.
        backing: what answers; not closed here.
        seen: how many calls of each method came in.
    """

    def __init__(self, backing: QdrantBase, *, version: str = "1.20.0", port: int = 0) -> None:
        self.backing = backing
        self.version = version
        self.seen: Counter[str] = Counter()
        self.keys: set[str | None] = set()
        self._scripts: dict[str, list[Abort]] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        # a second server at the port would be let in otherwise
        options = (("grpc.so_reuseport", 0),)
        self._server = grpc.server(ThreadPoolExecutor(4), options=options)
        services: list[tuple[Callable[[Any, Any], None], Any]] = [
            (protocol.add_QdrantServicer_to_server, _Root(self)),
            (protocol.add_CollectionsServicer_to_server, _Collections(self)),
            (protocol.add_PointsServicer_to_server, _Points(self)),
        ]
        for add, service in services:
            add(service, self._server)
        self.port: int = self._server.add_insecure_port(f"{HOST}:{port}")
        self._server.start()

    def __enter__(self) -> GrpcServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._server.stop(grace=None).wait()

    def script(self, method: str, *aborts: Abort) -> None:
        """How the next calls of a method end, one each; later ones are served."""
        with self._lock:
            self._scripts.setdefault(method, []).extend(aborts)

    def serve(self, method: str, context: grpc.ServicerContext, work: Any) -> Any:
        """Carry out one call, with the fault that is due."""
        with self._lock:
            self.seen[method] += 1
            self.keys.add(dict(context.invocation_metadata()).get("api-key"))
            due = self._scripts.get(method)
            abort = due.pop(0) if due else None
        if abort is None or abort.applied:
            try:
                answer = work()
            except CollectionNotFoundError as error:
                context.abort(grpc.StatusCode.NOT_FOUND, str(error))
            except CollectionExistsError as error:
                context.abort(grpc.StatusCode.ALREADY_EXISTS, str(error))
            except Exception as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"Wrong input: {error}")
        if abort is not None:
            self._stopping.wait(abort.seconds)
        if abort is None or abort.code is grpc.StatusCode.OK:
            return answer
        if abort.retry_after is not None:
            context.set_trailing_metadata((("retry-after", abort.retry_after),))
        return context.abort(abort.code, abort.message)


class _Root(protocol.QdrantServicer):
    def __init__(self, server: GrpcServer) -> None:
        self.server = server

    def HealthCheck(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self.server.serve(
            "HealthCheck",
            context,
            lambda: protocol.HealthCheckReply(
                title="stand-in for qdrant", version=self.server.version
            ),
        )


class _Collections(protocol.CollectionsServicer):
    def __init__(self, server: GrpcServer) -> None:
        self.server = server

    def Create(self, request: Any, context: Any) -> Any:  # noqa: N802
        def work() -> Any:
            vectors = GrpcToRest.convert_vectors_config(request.vectors_config)
            self.server.backing.create_collection(request.collection_name, vectors)
            return protocol.CollectionOperationResponse(result=True)

        return self.server.serve("Create", context, work)


class _Points(protocol.PointsServicer):
    def __init__(self, server: GrpcServer) -> None:
        self.server = server

    def Upsert(self, request: Any, context: Any) -> Any:  # noqa: N802
        def work() -> Any:
            points = [GrpcToRest.convert_point_struct(point) for point in request.points]
            result = self.server.backing.upsert(request.collection_name, points)
            return protocol.PointsOperationResponse(
                result=RestToGrpc.convert_update_result(result)
            )

        return self.server.serve("Upsert", context, work)

    def Delete(self, request: Any, context: Any) -> Any:  # noqa: N802
        def work() -> Any:
            selector = GrpcToRest.convert_points_selector(request.points)
            result = self.server.backing.delete(request.collection_name, selector)
            return protocol.PointsOperationResponse(
                result=RestToGrpc.convert_update_result(result)
            )

        return self.server.serve("Delete", context, work)

    def Count(self, request: Any, context: Any) -> Any:  # noqa: N802
        def work() -> Any:
            result = self.server.backing.count(request.collection_name)
            return protocol.CountResponse(result=RestToGrpc.convert_count_result(result))

        return self.server.serve("Count", context, work)

    def Get(self, request: Any, context: Any) -> Any:  # noqa: N802
        def work() -> Any:
            found = self.server.backing.retrieve(
                request.collection_name,
                [GrpcToRest.convert_point_id(id) for id in request.ids],
                GrpcToRest.convert_with_payload_selector(request.with_payload),
                GrpcToRest.convert_with_vectors_selector(request.with_vectors),
            )
            bare = [r.model_copy(update={"payload": r.payload or {}}) for r in found]
            return protocol.GetResponse(result=[RestToGrpc.convert_record(r) for r in bare])

        return self.server.serve("Get", context, work)

    def QueryBatch(self, request: Any, context: Any) -> Any:  # noqa: N802
        def work() -> Any:
            requests = [GrpcToRest.convert_query_points(q) for q in request.query_points]
            answers = self.server.backing.query_batch_points(request.collection_name, requests)
            return protocol.QueryBatchResponse(
                result=[
                    protocol.BatchResult(
                        result=[RestToGrpc.convert_scored_point(p) for p in answer.points]
                    )
                    for answer in answers
                ]
            )

        return self.server.serve("QueryBatch", context, work)
