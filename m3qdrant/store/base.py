"""What M3Store and AsyncM3Store share: what they were opened with, checked, and the collection."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypedDict, TypeVar

from qdrant_client.async_client_base import AsyncQdrantBase
from qdrant_client.client_base import QdrantBase

from m3qdrant import transport
from m3qdrant.collection import Collection, M3Schema, ModelId, StoreInfo, check_queries
from m3qdrant.encode import check_encoder
from m3qdrant.errors import InputError, StoreClosedError
from m3qdrant.transport import Retries

if TYPE_CHECKING:  # a store that is only read needs no torch
    from m3qdrant.collection import Explaining, Sample, Search
    from m3qdrant.encode import Encoder, M3Embeddings

__all__ = ["StoreBase"]

C = TypeVar("C", QdrantBase, AsyncQdrantBase)


class _Connecting(TypedDict):
    """The arguments of `transport.connect`, but for the location."""

    timeout_s: float
    retries: Retries | None
    ca_file: str | os.PathLike[str] | None


class StoreBase(Generic[C]):
    """A client and a collection behind it.

    Attributes:
        client: the Qdrant client or embedded engine underneath; there once the store is open.
        collection: the collection's name.
        encoder: what encodes documents and queries; None where the caller brings embeddings.
    """

    client: C

    def __init__(
        self,
        location: Any,
        collection: str,
        encoder: Encoder | None,
        schema: M3Schema | None,
        create: bool,
        timeout_s: float,
        retries: Retries | None,
        ca_file: str | os.PathLike[str] | None,
    ) -> None:
        if not isinstance(collection, str) or not collection:
            raise InputError("the collection's name is empty")
        if schema is not None and not isinstance(schema, M3Schema):
            raise InputError(f"schema is {type(schema).__name__}: give an M3Schema")
        if not isinstance(timeout_s, int | float) or not timeout_s > 0:
            raise InputError(f"timeout_s is {timeout_s!r}: give a number of seconds")
        self.collection = collection
        self.encoder = None if encoder is None else check_encoder(encoder)
        self._connecting: _Connecting = {
            "timeout_s": timeout_s,
            "retries": retries,
            "ca_file": ca_file,
        }
        self._retries = retries or Retries()
        self._location = location
        self._opened = False
        self._closed = False
        self._owned = False
        self._collection = Collection(
            collection,
            transport.describe(location),
            schema=schema,
            model=None if encoder is None else _model_of(encoder),
            widths=(encoder.dim, encoder.colbert_dim) if encoder is not None else None,
            create=create,
            place=transport.place_of(location),
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._collection.location!r}, {self.collection!r})"

    @property
    def schema(self) -> M3Schema | None:
        """All storage options of the collection; None before it exists, or is opened."""
        layout = self._collection.layout
        return None if layout is None else layout.schema

    @property
    def model(self) -> str | None:
        """Name of the checkpoint that the collection's vectors come from, where it says so."""
        layout = self._collection.layout
        return layout.model.name if layout is not None and layout.model is not None else None

    def __reduce__(self) -> NoReturn:
        raise InputError(
            f"{self!r} is a connection, which can't be pickled or copied: pass its arguments (an "
            "M3Encoder can be pickled) and open one where it is needed"
        )

    def _method(self, name: str) -> str:
        """A method as Python's own errors name it."""
        return f"{type(self).__name__}.{name}"

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosedError(f"the store of {self.collection!r} is closed; open a new one")

    def _with_protocol(self, info: StoreInfo) -> StoreInfo:
        protocol = transport.protocol_of(self.client)
        return replace(info, protocol=None if protocol is None else str(protocol))

    def _need_encoder(self, what: str) -> Encoder:
        if self.encoder is None:
            raise InputError(
                f"this store has no encoder for {what}: open it with "
                "encoder=M3Encoder.from_pretrained(...), or pass embeddings"
            )
        return self.encoder

    def _differing(self, sample: Sample) -> int:
        """How many documents of a sample the encoder gives other vectors than those stored."""
        from m3qdrant.encode import TruncationWarning

        encoder = self._need_encoder("a comparison")
        differing = 0
        coarse = str(getattr(encoder, "dtype", "")) == "torch.bfloat16"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TruncationWarning)
            for length in sorted(set(sample.lengths)):
                chosen = [i for i, each in enumerate(sample.lengths) if each == length]
                views = encoder.encode_documents([sample.texts[i] for i in chosen], length)
                assert views.dense is not None
                dense = views.dense.float().cpu().numpy()
                differing += sample.part(chosen).differing(dense, coarse=coarse)
        return differing

    def _check_model(self, embeddings: object) -> None:
        """Check that embeddings that were brought along come from the collection's model.

        Raises:
            InputError: they come from another.
        """
        theirs = getattr(embeddings, "fingerprint", None)
        layout = self._collection.layout
        ours = layout.model if layout is not None else None
        if ours is None and self.encoder is not None:
            ours = _model_of(self.encoder)
        if theirs is not None and ours is not None and theirs != ours.fingerprint:
            raise InputError(
                f"the embeddings come from another model (fingerprint {theirs}) than those of "
                f"{self._collection}, {ours.name} ({ours.fingerprint}): encode the texts with "
                "that one (a collection of an earlier version is brought up to date by opening it "
                "once with its encoder)"
            )

    def _explaining(
        self, queries: list[str] | M3Embeddings, embeddings: M3Embeddings, search: Search
    ) -> Explaining:
        """What explains documents for these queries, of a collection that is there."""
        from m3qdrant.collection import Explaining

        layout = self._collection.layout
        assert layout is not None
        texts = queries if isinstance(queries, list) else None
        return Explaining(search.mode, layout, self.encoder, texts, embeddings)

    def _embed_queries(self, queries: object) -> M3Embeddings:
        from m3qdrant.encode import M3Embeddings

        checked = check_queries(queries)
        if isinstance(checked, M3Embeddings):
            self._check_model(checked)
            return checked
        return self._need_encoder("queries").encode_queries(checked)


def _model_of(encoder: Encoder) -> ModelId:
    former = getattr(encoder, "former_fingerprint", None)
    known = former if isinstance(former, str) and former else None
    return ModelId(encoder.name, encoder.fingerprint, known)
