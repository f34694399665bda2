"""The part of `QdrantEdge` that looks at a collection's configuration and changes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import qdrant_edge as edge
from qdrant_client import models
from qdrant_client.client_base import QdrantBase
from qdrant_client.conversions import common_types as types

from m3qdrant.edge.arguments import accept
from m3qdrant.edge.shard import Shard
from m3qdrant.edge.translate import answers
from m3qdrant.edge.translate.changes import updated, with_vector, without_vector
from m3qdrant.edge.translate.configuration import NO_VECTORS
from m3qdrant.edge.translate.members import member
from m3qdrant.edge.translate.payload_indexes import index_schema
from m3qdrant.edge.translate.validation import check_settings, check_vector_name
from m3qdrant.errors import InputError
from m3qdrant.scalars import check_json

__all__ = ["Configuring", "read_settings"]


def read_settings(kind: Any, name: str, settings: Mapping[str, Any]) -> Any:
    """The settings that were given, as one of qdrant-client's models, checked.

    Args:
        kind: `models.CreateCollection` or `models.UpdateCollection`.
        name: the collection's.
        settings: the model's fields; None where one wasn't given.

    Raises:
        InputError: one that qdrant-client, or a server, would refuse.
    """
    given = {key: value for key, value in settings.items() if value is not None}
    if "metadata" in given:
        given["metadata"] = check_json(given["metadata"], "metadata")
    try:
        read = kind(**given)
    except ValueError as error:
        raise InputError(f"the configuration of {name!r}: {error}") from error
    check_settings(read)
    return read


class Configuring(QdrantBase):
    """What each method changes is changed whole, or not at all."""

    def _shard(self, collection_name: str) -> Shard:
        raise NotImplementedError  # QdrantEdge has it

    def _check_writable(self, operation: str, collection_name: str) -> None:
        raise NotImplementedError  # QdrantEdge has it

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
        """Change settings of a collection; what isn't given stays.

        The engine learns of them at once. What concerns how points are stored and indexed is
        applied to those that are there by the next `optimize`, to others as they come.

        `metadata` is merged into the collection's; a value of None removes the key.

        Raises:
            InputError: a vector that isn't there, a value out of its range.
            UnsupportedError: what can't be changed in data that is there, such as the modifier
                of a sparse vector.
        """
        accept("update_collection", kwargs, timeout=timeout)
        self._check_writable("update", collection_name)
        update: models.UpdateCollection = read_settings(
            models.UpdateCollection,
            collection_name,
            {
                "vectors": vectors_config,
                "optimizers_config": optimizers_config,
                "params": collection_params,
                "hnsw_config": hnsw_config,
                "quantization_config": quantization_config,
                "sparse_vectors": sparse_vectors_config,
                "strict_mode_config": strict_mode_config,
                "metadata": metadata,
            },
        )
        self._shard(collection_name).change(lambda config: updated(config, update))
        return True

    def create_vector_name(
        self,
        collection_name: str,
        vector_name: str,
        vector_name_config: types.VectorNameConfig,
        wait: bool = True,
        ordering: types.WriteOrdering | None = None,
        timeout: int | None = None,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Add a named vector to a collection; the points that it has are without it.

        Raises:
            InputError: there is another vector of this name, or no server takes the settings.
        """
        accept("create_vector_name", kwargs, ordering=ordering, timeout=timeout)
        self._check_writable("add a vector to", collection_name)
        check_vector_name(vector_name)
        params, operation = _new_vector(vector_name, vector_name_config)
        check_settings(with_vector(models.CreateCollection(), vector_name, params))
        shard = self._shard(collection_name)
        shard.change(
            lambda config: with_vector(config, vector_name, params), lambda _: [operation]
        )
        return answers.completed(shard.number)

    def delete_vector_name(
        self,
        collection_name: str,
        vector_name: str,
        wait: bool = True,
        ordering: types.WriteOrdering | None = None,
        timeout: int | None = None,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Remove a named vector from a collection, and from all of its points.

        Where there is none of this name, nothing is done.

        Raises:
            InputError: it is the unnamed vector, and the only dense one.
        """
        accept("delete_vector_name", kwargs, ordering=ordering, timeout=timeout)
        self._check_writable("remove a vector from", collection_name)
        shard = self._shard(collection_name)

        def operations(config: models.CreateCollection) -> Sequence[edge.UpdateOperation]:
            left = without_vector(config, vector_name)
            steps = [edge.UpdateOperation.delete_vector_name(vector_name)]
            if not left.vectors and not left.sparse_vectors:
                steps.insert(0, edge.UpdateOperation.create_sparse_vector(NO_VECTORS))
            return steps

        shard.change(lambda config: without_vector(config, vector_name), operations)
        return answers.completed(shard.number)

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
        accept("create_payload_index", kwargs, ordering=ordering, timeout=timeout)
        self._check_writable("index", collection_name)
        schema = field_schema if field_schema is not None else field_type
        if schema is None:
            raise InputError("pass field_schema=, such as models.PayloadSchemaType.KEYWORD")
        number = self._shard(collection_name).write(
            "index",
            lambda: edge.UpdateOperation.create_field_index(field_name, index_schema(schema)),
        )
        return answers.completed(number)

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
        accept("delete_payload_index", kwargs, ordering=ordering, timeout=timeout)
        self._check_writable("drop an index of", collection_name)
        number = self._shard(collection_name).write(
            "drop an index of", lambda: edge.UpdateOperation.delete_field_index(field_name)
        )
        return answers.completed(number)


def _new_vector(
    name: str, config: types.VectorNameConfig
) -> tuple[models.VectorParams | models.SparseVectorParams, edge.UpdateOperation]:
    if isinstance(config, models.DenseVectorNameConfig):
        dense = config.dense
        datatype = None if dense.datatype is None else models.Datatype(dense.datatype.value)
        return models.VectorParams(
            size=dense.size,
            distance=dense.distance,
            multivector_config=dense.multivector_config,
            datatype=datatype,
        ), edge.UpdateOperation.create_dense_vector(
            name,
            dense.size,
            member(edge.Distance, dense.distance),
            None
            if dense.multivector_config is None
            else edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim),
            member(edge.VectorStorageDatatype, datatype),
        )
    if isinstance(config, models.SparseVectorNameConfig):
        sparse = config.sparse
        datatype = None if sparse.datatype is None else models.Datatype(sparse.datatype.value)
        modifier = None if sparse.modifier == models.Modifier.NONE else sparse.modifier
        return models.SparseVectorParams(
            modifier=modifier,
            index=None if datatype is None else models.SparseIndexParams(datatype=datatype),
        ), edge.UpdateOperation.create_sparse_vector(
            name, member(edge.Modifier, modifier), member(edge.VectorStorageDatatype, datatype)
        )
    raise InputError(
        f"vector_name_config is a {type(config).__name__}: pass models.DenseVectorNameConfig or "
        "models.SparseVectorNameConfig"
    )
