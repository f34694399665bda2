"""M3Reranker: candidates scored by all three views of BGE-M3, their vectors held on a device.

Candidates are texts, embeddings that the caller has, or what a store's search finds (see
`collection/reranking.py`). Texts and what comes of a store are held, so that they are encoded and
fetched once; see `held.py` for what leaves when it grows too large.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from m3qdrant.encode import M3Embeddings, as_device, check_encoder
from m3qdrant.errors import InputError
from m3qdrant.names import COLBERT, DENSE, SPARSE, VECTORS
from m3qdrant.progress import progress_bar
from m3qdrant.rank.arena import DTYPES, Dtype
from m3qdrant.rank.held import Held
from m3qdrant.rank.pairs import Pairs
from m3qdrant.rank.work import Key, Work
from m3qdrant.rows import values
from m3qdrant.scalars import plain_number
from m3qdrant.weights import DEFAULT_WEIGHTS, check_weights

if TYPE_CHECKING:
    from m3qdrant.encode import Encoder

__all__ = ["M3Reranker"]

Texts: TypeAlias = "Sequence[str] | M3Embeddings"

_CHARACTERS = 1 << 17
"""Of texts that are encoded at a time: their token vectors are in memory together."""


class M3Reranker:
    """Ranks candidates by BGE-M3's integrated score, on a GPU or a CPU.

        reranker = M3Reranker(M3Encoder.from_pretrained("BAAI/bge-m3"), dtype="int8")
        reranker.rank("what is a panda?", ["Pandas eat bamboo.", "Hello."])
        store.search("what is a panda?", reranker=reranker)

    The score is (w1 dense + w2 lexical + w3 colbert) / (w1 + w2 + w3); weights (0, 0, 1) are
    MaxSim alone. It is `m3qdrant.scoring.weighted`, to 1e-5 with dtype "float32".

    What was scored stays on the device, in a cache of `cache_bytes`: texts by what they say,
    documents of a store by their point's version, so that what was changed, by whomever, is
    fetched again. (Where versions say too little, each search fetches all: in in-memory mode, in
    collections of several replicas, and in those that were not made by this version of the
    package or later.) The least recently used leave first. Several threads, and several stores,
    may share one reranker; vectors of another width drive out all that is held.

    Attributes:
        encoder: what encodes texts; None where there are only embeddings.
        weights: of the dense, the lexical and the ColBERT score, as given; None for the defaults.
        device: where it scores.
        dtype: what token vectors are held as.
        cache_bytes: the most that held documents take on the device.
        held: these documents.
    """

    def __init__(
        self,
        encoder: Encoder | None = None,
        *,
        weights: Sequence[float] | None = None,
        device: str | int | torch.device | None = None,
        dtype: Dtype = "float32",
        cache_bytes: int = 1 << 30,
    ) -> None:
        """Make one; memory is taken with the first documents.

        Args:
            encoder: for texts. A store's search needs none.
            weights: of the dense, the lexical and the ColBERT score; relative. None for
                (0.4, 0.2, 0.4), and in a search for that search's own.
            device: where to hold and to score; the encoder's, or CUDA where there is one.
            dtype: what token vectors are held as. "bfloat16" is half of "float32", and scores of
                unit vectors move by 1e-3 at most, "int8" a quarter, and by 2e-3. (Embeddings that
                the caller brings are scored as they are.)
            cache_bytes: the most that held documents take on the device. On a CPU it is taken as
                it fills. 0 holds nothing from one call to the next.

        Raises:
            InputError: an argument is wrong; weights that sum to 0 among them.
        """
        self.encoder = None if encoder is None else check_encoder(encoder)
        self.weights = None if weights is None else check_weights(weights)
        self.device = as_device(device if device is not None else getattr(encoder, "device", None))
        if dtype not in DTYPES:
            raise InputError(f"dtype is {dtype!r}: give one of {', '.join(map(repr, DTYPES))}")
        self.dtype: Dtype = dtype
        n_bytes = plain_number(cache_bytes)
        if not isinstance(n_bytes, int) or isinstance(n_bytes, bool) or n_bytes < 0:
            raise InputError(f"cache_bytes is {cache_bytes!r}: give a whole number from 0")
        self.cache_bytes = n_bytes
        self.held = Held(dtype, self.device, n_bytes)

    def __repr__(self) -> str:
        name = "no encoder" if self.encoder is None else self.encoder.name
        return f"M3Reranker({name}, {self.dtype} on {self.device}, {len(self.held)} documents)"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the arguments: what is held stays where it is."""
        arguments = (self.encoder, self.weights, str(self.device), self.dtype, self.cache_bytes)
        return _again, arguments

    # -- what is asked of it

    def rank(
        self,
        query: str | M3Embeddings,
        documents: Texts,
        top_k: int | None = None,
        return_documents: bool = False,
        *,
        max_length: int | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
    ) -> list[dict[str, Any]]:
        """The documents for a query, best first; as sentence-transformers' `CrossEncoder.rank`.

        Args:
            query: a text, or the embeddings of one.
            documents: texts, or embeddings.
            top_k: how many; None for all.
            return_documents: give the texts out too.
            max_length: tokens a text is cut to; the encoder's own limit by default.
            batch_size: taken for calls that were written for others; batches are the encoder's.
            show_progress_bar: of texts being encoded, on stderr.

        Returns:
            A mapping each: "corpus_id", the position in `documents`; "score", a float; with
            `return_documents` "text". Equal ones are in the order given. None for no documents.

        Raises:
            InputError: names the argument, or the document.
            EncodeError: the model pass failed.
        """
        top_k = plain_number(top_k)
        if top_k is not None and (
            not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1
        ):
            raise InputError(f"top_k is {top_k!r}: give a whole number from 1, or None for all")
        if isinstance(query, M3Embeddings) and len(query) != 1:
            raise InputError(f"query: embeddings of {len(query)} texts; give one, or use `score`")
        if not isinstance(query, str | M3Embeddings):
            raise InputError(f"query: a text or its embeddings, not {type(query).__name__}")
        if return_documents and isinstance(documents, M3Embeddings):
            raise InputError("return_documents=True, but embeddings have no texts")
        given = _documents(documents)
        queries = query if isinstance(query, M3Embeddings) else [query]
        scores = self.score(
            queries, given, max_length=max_length, show_progress_bar=show_progress_bar
        )[0]
        order = np.argsort(-scores, kind="stable")[:top_k].tolist()
        found: list[dict[str, Any]] = []
        for i in order:
            found.append({"corpus_id": i, "score": float(scores[i])})
            if not isinstance(given, M3Embeddings) and return_documents:
                found[-1]["text"] = given[i]
        return found

    def predict(
        self,
        pairs: Iterable[Sequence[str]] | Sequence[str],
        *,
        max_length: int | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
    ) -> Any:
        """The scores of (query, document) pairs; as sentence-transformers' `CrossEncoder.predict`.

        A text that is in several pairs is encoded once.

        Args:
            pairs: of texts; or a single pair.
            max_length: as for `rank`, and so are the next two.
            batch_size: likewise.
            show_progress_bar: likewise.
            convert_to_numpy: give an array; False for a list of floats.
            convert_to_tensor: give a tensor, whatever `convert_to_numpy` says.

        Returns:
            (n,) float32, or a number for a single pair.

        Raises:
            InputError: names the argument, or the pair.
            EncodeError: the model pass failed.
        """
        texts, single = _pairs(pairs)
        parts = self._of_pairs(texts, max_length, max_length, self._weighed(), show_progress_bar)
        scores = self._integrated(parts)
        if convert_to_tensor:
            tensor = torch.from_numpy(scores)
            return tensor[0] if single else tensor
        if convert_to_numpy:
            return scores[0] if single else scores
        return float(scores[0]) if single else scores.tolist()

    def compute_score(
        self,
        sentence_pairs: Iterable[Sequence[str]] | Sequence[str],
        batch_size: int | None = None,
        max_query_length: int | None = None,
        max_passage_length: int | None = None,
        weights_for_different_modes: Sequence[float] | None = None,
    ) -> dict[str, Any]:
        """All scores of pairs; as FlagEmbedding's `BGEM3FlagModel.compute_score`.

        Args:
            sentence_pairs: of texts; or a single pair.
            batch_size: taken for calls that were written for it; batches are the encoder's.
            max_query_length: tokens a query is cut to; by default the encoder's own limit, which
                for FlagEmbedding is 512.
            max_passage_length: tokens a document is cut to, likewise.
            weights_for_different_modes: of the dense, the lexical and the ColBERT score; by
                default this reranker's, where it was given some, else 1 each, as there.

        Returns:
            Lists of floats by "colbert", "sparse", "dense", "sparse+dense" and
            "colbert+sparse+dense", of a single pair floats. Where neither the dense nor the
            lexical score has a weight, "sparse+dense" is NaN.

        Raises:
            InputError: names the argument, or the pair.
            EncodeError: the model pass failed.
        """
        texts, single = _pairs(sentence_pairs)
        given = weights_for_different_modes
        w = check_weights(given) if given is not None else self.weights or (1.0, 1.0, 1.0)
        parts = self._of_pairs(texts, max_query_length, max_passage_length, VECTORS, False)
        dense, sparse, colbert = (parts[name].astype(np.float64) for name in VECTORS)
        both = w[0] + w[1]
        found = {
            COLBERT: colbert,
            SPARSE: sparse,
            DENSE: dense,
            "sparse+dense": (w[0] * dense + w[1] * sparse) / both if both else dense * math.nan,
            "colbert+sparse+dense": (w[0] * dense + w[1] * sparse + w[2] * colbert) / sum(w),
        }
        return {
            name: float(scores[0]) if single else scores.tolist() for name, scores in found.items()
        }

    def score(
        self,
        queries: Texts,
        documents: Texts,
        pairs: Any = None,
        *,
        max_length: int | None = None,
        show_progress_bar: bool | None = None,
    ) -> NDArray[np.float32]:
        """The integrated score of queries and documents, all with all or in pairs.

        Args:
            queries: n_q texts, or embeddings.
            documents: n_d texts, or embeddings.
            pairs: (n_pairs, 2) positions of a query and a document each; None for all with all.
            max_length: as for `rank`, and so is the next one.
            show_progress_bar: likewise.

        Returns:
            (n_q, n_d) float32; with `pairs` (n_pairs,).

        Raises:
            InputError: names the argument, or the document.
            EncodeError: the model pass failed.
        """
        sides = _documents(queries, "queries"), _documents(documents)
        n_q, n_d = map(len, sides)
        chosen = _all_pairs(n_q, n_d) if pairs is None else _positions(pairs, n_q, n_d)
        parts = self._parts(
            *sides, chosen, max_length, max_length, self._weighed(), show_progress_bar
        )
        scores = self._integrated(parts)
        return scores.reshape(n_q, n_d) if pairs is None else scores

    def clear(self) -> None:
        """Let go of all that is held, and of its memory."""
        with self.held.lock:
            self.held.clear()

    # -- inside

    def _weighed(self) -> list[str]:
        """The views that have a weight."""
        weights = self.weights or DEFAULT_WEIGHTS
        return [name for name, weight in zip(VECTORS, weights, strict=True) if weight]

    def _integrated(self, parts: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        weights = dict(zip(VECTORS, self.weights or DEFAULT_WEIGHTS, strict=True))
        total = math.fsum(weights.values())
        found = sum(parts[name].astype(np.float64) * (weights[name] / total) for name in parts)
        return np.asarray(found, dtype=np.float32)

    def _of_pairs(
        self,
        texts: Sequence[tuple[str, str]],
        max_query_length: int | None,
        max_passage_length: int | None,
        views: Sequence[str],
        progress: bool | None,
    ) -> dict[str, NDArray[np.float32]]:
        sides = [list(dict.fromkeys(side)) for side in zip(*texts, strict=True)] or [[], []]
        number = [{text: i for i, text in enumerate(side)} for side in sides]
        pairs = np.array([[number[0][q], number[1][d]] for q, d in texts], dtype=np.int64).reshape(
            -1, 2
        )
        lengths = max_query_length, max_passage_length
        return self._parts(sides[0], sides[1], pairs, *lengths, views, progress)

    def _parts(
        self,
        queries: Texts,
        documents: Texts,
        pairs: Pairs,
        max_query_length: int | None,
        max_passage_length: int | None,
        views: Sequence[str],
        progress: bool | None,
    ) -> dict[str, NDArray[np.float32]]:
        """By view the scores of the pairs."""
        if not len(pairs):
            for side, name in ((queries, "queries"), (documents, "documents")):
                if not isinstance(side, M3Embeddings) and side:
                    self._need_encoder(name)
            return {name: np.zeros(0, dtype=np.float32) for name in views}
        embedded = (
            queries
            if isinstance(queries, M3Embeddings)
            else self._encode("queries", queries, max_query_length)
        )
        _check_side("queries", embedded, views)
        if isinstance(documents, M3Embeddings):
            _check_side("documents", documents, views)
            _check_models(embedded, documents)
            scores = self._as_they_are(embedded, documents, pairs, views)
        else:
            scores = self._of_texts(
                embedded, documents, pairs, max_passage_length, views, progress
            )
        for name, each in scores.items():
            wrong = np.flatnonzero(~np.isfinite(each))
            if len(wrong):
                q, d = pairs[wrong[0]].tolist()
                raise InputError(
                    f"document {d} has a {name} score of {each[wrong[0]]} for query {q}: one of "
                    "them holds NaN or infinity; encode it again, in float32"
                )
        return scores

    def _as_they_are(
        self, queries: M3Embeddings, documents: M3Embeddings, pairs: Pairs, views: Sequence[str]
    ) -> dict[str, NDArray[np.float32]]:
        """Embeddings that the caller holds: nothing is kept of them, and nothing rounded."""
        exact = Held("float32", self.device, 0)
        work = Work(exact, queries, [None] * len(documents), pairs, views=views)
        work.take(range(len(documents)), documents)
        return work.scores

    def _of_texts(
        self,
        queries: M3Embeddings,
        texts: Sequence[str],
        pairs: Pairs,
        max_length: int | None,
        views: Sequence[str],
        progress: bool | None,
    ) -> dict[str, NDArray[np.float32]]:
        encoder = self._need_encoder("documents")
        length = encoder.max_length if max_length is None else max_length
        # equal texts are one document, scored once
        number = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        distinct = list(number)
        keys: list[Key | None] = [
            (_text_key(encoder.fingerprint, length, text), 0) for text in distinct
        ]
        chosen = pairs.copy()
        chosen[:, 1] = np.array([number[text] for text in texts])[pairs[:, 1]]
        work = Work(self.held, queries, keys, chosen, views=views)
        missing = work.missing()
        with progress_bar("encoding", len(missing), bool(progress)) as advance:
            done = 0
            while True:
                for part in _parts(missing, distinct):
                    found = self._encode("documents", [distinct[i] for i in part], max_length)
                    _check_models(queries, found)
                    work.take(part, found)
                    done += len(part)
                    advance(min(done, len(missing)))
                if work.finish():
                    return work.scores
                missing = work.missing()  # another thread needed the room

    def _encode(self, what: str, texts: Sequence[str], max_length: int | None) -> M3Embeddings:
        encoder = self._need_encoder(what)
        encode = encoder.encode_queries if what == "queries" else encoder.encode_documents
        length = encoder.max_length if max_length is None else max_length
        return encode(list(texts), length)

    def _need_encoder(self, what: str) -> Encoder:
        if self.encoder is None:
            raise InputError(
                f"this reranker has no encoder for {what}: make it with "
                "M3Reranker(M3Encoder.from_pretrained(...)), or pass embeddings"
            )
        return self.encoder


def _again(
    encoder: Encoder | None,
    weights: Sequence[float] | None,
    device: str,
    dtype: Dtype,
    cache_bytes: int,
) -> M3Reranker:
    return M3Reranker(
        encoder, weights=weights, device=device, dtype=dtype, cache_bytes=cache_bytes
    )


def _documents(given: object, what: str = "documents") -> list[str] | M3Embeddings:
    """Texts or embeddings, checked.

    Raises:
        InputError: names the item that is none.
    """
    if isinstance(given, M3Embeddings):
        return given
    texts = values(given, what)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(
                f"{what}: #{i} is {type(text).__name__}: give texts, or M3Embeddings of them all"
            )
    return texts


def _pairs(given: Any) -> tuple[list[tuple[str, str]], bool]:
    """Pairs of texts, and whether it was a single one.

    Raises:
        InputError: names the pair that is none.
    """
    whole = isinstance(given, np.ndarray) and given.ndim == 2
    items = given.tolist() if whole else values(given, "pairs")
    single = len(items) == 2 and all(isinstance(item, str) for item in items)
    pairs = []
    for i, item in enumerate([items] if single else items):
        if isinstance(item, str) or not isinstance(item, Iterable):
            raise InputError(f"pairs: #{i} is {type(item).__name__}: give (query, document)")
        texts = list(item)
        if len(texts) != 2:
            raise InputError(f"pairs: #{i} has {len(texts)} items: give (query, document)")
        for text, side in zip(texts, ("query", "document"), strict=True):
            if not isinstance(text, str):
                raise InputError(f"pairs: #{i}: the {side} is {type(text).__name__}, not a text")
        pairs.append((texts[0], texts[1]))
    return pairs, single


def _positions(given: Any, n_q: int, n_d: int) -> Pairs:
    """Pairs of positions, checked.

    Raises:
        InputError: they are none, or beyond what there is.
    """
    array = np.asarray(given.cpu() if isinstance(given, torch.Tensor) else given)
    if not array.size:
        return np.zeros((0, 2), dtype=np.int64)
    if array.ndim != 2 or array.shape[1] != 2 or array.dtype.kind not in "iu":
        raise InputError(
            f"pairs: give whole numbers of shape (n, 2), not {array.dtype} of {array.shape}"
        )
    pairs = array.astype(np.int64)
    wrong = np.flatnonzero(((pairs < 0) | (pairs >= (n_q, n_d))).any(1))
    if len(wrong):
        raise InputError(
            f"pairs: #{wrong[0]} is {pairs[wrong[0]].tolist()}, and there are {n_q} queries and "
            f"{n_d} documents"
        )
    return pairs


def _all_pairs(n_q: int, n_d: int) -> Pairs:
    return np.stack([np.arange(n_q).repeat(n_d), np.tile(np.arange(n_d), n_q)], 1)


def _check_side(what: str, side: M3Embeddings, views: Sequence[str]) -> None:
    """Check that a side has the views that are scored."""
    for name in views:
        if getattr(side, name) is None:
            raise InputError(
                f"the {what} hold no {name} view: encode them with {name}=True, or give the score "
                "no weight"
            )


def _check_models(queries: M3Embeddings, documents: M3Embeddings) -> None:
    ours, theirs = queries.fingerprint, documents.fingerprint
    if ours is not None and theirs is not None and ours != theirs:
        raise InputError(
            f"the queries come from another model (fingerprint {ours}) than the documents "
            f"({theirs}): encode both with one"
        )


def _text_key(fingerprint: str, length: int, text: str) -> Hashable:
    return (
        "text",
        fingerprint,
        length,
        blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest(),
    )


def _parts(positions: Sequence[int], texts: Sequence[str]) -> Iterator[list[int]]:
    """Positions of texts that are encoded together: about as many characters each time."""
    part: list[int] = []
    size = 0
    for i in positions:
        if part and size + len(texts[i]) > _CHARACTERS:
            yield part
            part, size = [], 0
        part.append(i)
        size += len(texts[i])
    if part:
        yield part
