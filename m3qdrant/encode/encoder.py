"""M3Encoder: texts in, M3Embeddings out.

Texts are tokenised together, sorted by length and cut into batches by a token budget; each batch
is packed (no padding in the linear layers), and the results are written to their places in the
original order. What else is in a batch does not change a text's result.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from m3qdrant.encode.embeddings import M3Embeddings, SparseVectors, TokenVectors, gather_rows
from m3qdrant.encode.network import M3Model, Packing, locate_checkpoint
from m3qdrant.errors import CheckpointError, EncodeError, InputError
from m3qdrant.progress import progress_bar

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["M3Encoder", "TruncationWarning"]

# Padded tokens a batch. On a CPU a batch should stay in cache; on a GPU it should fill the card.
_TOKEN_BUDGET = {"cpu": 4_096, "cuda": 65_536}


class TruncationWarning(UserWarning):
    """Some texts were longer than max_length and were cut; the message counts them."""


class M3Encoder:
    """Computes BGE-M3's three views of texts. Make one with `from_pretrained`.

    Safe to call from several threads; the calls run one after another.

    Attributes:
        name: what `from_pretrained` was given.
        model: the network.
        tokenizer: transformers' tokenizer of the checkpoint.
        token_budget: padded tokens a batch; lower it when memory runs out.
    """

    def __init__(
        self, model: M3Model, tokenizer: PreTrainedTokenizerFast, name: str, token_budget: int
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.token_budget = token_budget
        # a fast tokenizer keeps its truncation as state, so two threads can't share a call
        self._lock = threading.Lock()
        # <mask> is no member: the reference keeps its weight
        self._ignore_ids = tuple(
            int(token)
            for token in (
                tokenizer.cls_token_id,
                tokenizer.pad_token_id,
                tokenizer.eos_token_id,
                tokenizer.unk_token_id,
            )
        )

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        revision: str | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> M3Encoder:
        """Load a checkpoint.

        Args:
            name: "BAAI/bge-m3" or another hub id, "m3-tiny" (bundled), or a checkpoint directory.
            revision: branch, tag or commit of the hub repository.
            device: CUDA where there is one, else the CPU.
            dtype: float16 on CUDA, float32 elsewhere.

        Raises:
            CheckpointError: names the file that is missing or does not fit.
            InputError: there is no such device, or `dtype` is none.
        """
        if not isinstance(name, str | Path):
            raise InputError(f"a model's name is a string or a path, not {type(name).__name__}")
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise InputError(f"dtype is {dtype!r}: give a torch dtype such as torch.float16")
        target = _device(device)
        if dtype is None:
            dtype = torch.float16 if target.type == "cuda" else torch.float32
        directory = locate_checkpoint(name, revision)
        model = M3Model.load(directory, dtype)
        tokenizer = _load_tokenizer(directory, model)
        budget = _TOKEN_BUDGET.get(target.type, _TOKEN_BUDGET["cuda"])
        return cls(model.to(target), tokenizer, str(name), budget)

    @property
    def dim(self) -> int:
        """Width of the dense vector."""
        return self.model.dim

    @property
    def colbert_dim(self) -> int:
        """Width of each ColBERT vector."""
        return self.model.colbert_dim

    @property
    def max_length(self) -> int:
        """The most tokens a text can have, specials included (8,192 for BAAI/bge-m3)."""
        return self.model.max_length

    @property
    def fingerprint(self) -> str:
        """16 hex digits that tell this checkpoint from others, whatever its path and dtype."""
        return self.model.fingerprint

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.model.sparse_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The model's floating-point type."""
        return self.model.sparse_head.weight.dtype

    def __repr__(self) -> str:
        return (
            f"M3Encoder({self.name!r}, dim={self.dim}, colbert_dim={self.colbert_dim}, "
            f"max_length={self.max_length}, device={str(self.device)!r}, dtype={self.dtype})"
        )

    def encode(
        self,
        texts: str | Sequence[str],
        max_length: int = 8192,
        *,
        dense: bool = True,
        sparse: bool = True,
        colbert: bool = True,
        progress: bool = False,
    ) -> M3Embeddings:
        """The three views of each text, in the order given, on the CPU.

        An empty text is a text: it has a dense vector, one ColBERT vector (EOS) and no lexical
        weight. Literal special tokens in a text ("</s>") become those tokens, as in the reference.

        Args:
            texts: any number of them, none included; a single string counts as one text.
            max_length: tokens a text is cut to, specials included; the checkpoint's own limit
                holds where it is lower (see `max_length`).
            dense: compute the dense vectors.
            sparse: compute the lexical weights.
            colbert: compute the ColBERT vectors.
            progress: show a progress bar on stderr.

        Returns:
            Embeddings of len(texts) texts: dense float32, sparse float32, ColBERT in the model's
            dtype. `truncated` says which texts were cut.

        Raises:
            InputError: an item is no string, or can't be encoded as UTF-8; max_length is below 2.
            EncodeError: the model pass failed (out of memory).

        Warns:
            TruncationWarning: once a call, with the number of texts that were cut.
        """
        texts = _check_texts(texts)
        if not (dense or sparse or colbert):
            raise InputError("nothing to compute: set at least one of dense, sparse, colbert")
        if not isinstance(max_length, int) or max_length < 2:
            raise InputError(
                f"max_length is {max_length!r}: it must be a whole number from 2, for CLS and EOS"
            )
        limit = min(max_length, self.max_length)
        with self._lock, self._memory_errors():
            token_ids, truncated = self._tokenize(texts, limit)
            output = _Output(self, [len(ids) for ids in token_ids], dense, sparse, colbert)
            self._run(token_ids, output, progress)
        if cut := int(truncated.sum()):
            warnings.warn(
                f"{cut} of {len(texts)} texts are longer than {limit} tokens and were cut",
                TruncationWarning,
                stacklevel=2,
            )
        return output.result(truncated)

    # named for the intent: BGE-M3 encodes queries and documents alike, without an instruction
    encode_queries = encode
    encode_documents = encode

    def tokens(self, embeddings: M3Embeddings) -> list[dict[str, float]]:
        """The lexical weights as readable terms: for each text {term: weight}.

        As FlagEmbedding's `convert_id_to_token`: ids that decode to one string are merged, the
        last one (the highest id) wins.
        """
        return [
            {str(self.tokenizer.decode([int(token)])): weight for token, weight in row.items()}
            for row in embeddings.lexical_weights()
        ]

    def _tokenize(self, texts: list[str], limit: int) -> tuple[list[list[int]], Tensor]:
        """Token ids of each text, CLS and EOS included, and which texts were cut at `limit`."""
        if not texts:
            return [], torch.zeros(0, dtype=torch.bool)
        batch = self.tokenizer(
            texts, truncation=True, max_length=limit, padding=False, return_attention_mask=False
        )
        truncated = [bool(encoding.overflowing) for encoding in batch.encodings or ()]
        return batch["input_ids"], torch.tensor(truncated)

    def _run(self, token_ids: list[list[int]], output: _Output, progress: bool) -> None:
        """All texts through the model, batch by batch, into `output`."""
        model, device = self.model, self.device
        lengths = [len(ids) for ids in token_ids]
        done = 0
        with progress_bar("encoding", sum(lengths), progress, unit="tokens") as advance:
            for texts in _batches(lengths, self.token_budget):
                ids = [token_ids[text] for text in texts]
                positions = [place for row in ids for place in model.position_ids(row)]
                flat = torch.tensor([token for row in ids for token in row], device=device)
                packing = Packing.of([len(row) for row in ids], device)
                hidden = model(flat, torch.tensor(positions, device=device), packing)
                output.write(texts, model, hidden, flat, packing, self._ignore_ids)
                done += len(flat)
                advance(done)

    @contextmanager
    def _memory_errors(self) -> Iterator[None]:
        """Say what to lower where memory runs out, on whichever device."""
        try:
            yield
        except RuntimeError as error:
            # the CPU's allocator raises a bare RuntimeError
            if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(
                error
            ):
                raise
            raise EncodeError(
                f"out of memory on {self.device}: lower token_budget (now {self.token_budget}) or "
                "max_length, or encode fewer texts at once"
            ) from error


class _Output:
    """The views asked for, filled batch by batch in any order, each text to its own place.

    Dense and ColBERT vectors go straight into their final tensors, so that no second copy is ever
    held.
    """

    def __init__(
        self, encoder: M3Encoder, lengths: list[int], dense: bool, sparse: bool, colbert: bool
    ) -> None:
        self.dense = torch.empty(len(lengths), encoder.dim) if dense else None
        self.sparse: list[SparseVectors] | None = [] if sparse else None
        self.colbert: TokenVectors | None = None
        self._order: list[int] = []  # the texts in the order in which their sparse rows came
        if colbert:
            sizes = torch.tensor([0, *lengths]) - 1  # CLS has no ColBERT vector
            sizes[0] = 0
            cu_seqlens = sizes.cumsum(0)
            rows = torch.empty(int(cu_seqlens[-1]), encoder.colbert_dim, dtype=encoder.dtype)
            self.colbert = TokenVectors(rows, cu_seqlens)

    def write(
        self,
        texts: list[int],
        model: M3Model,
        hidden: Tensor,
        token_ids: Tensor,
        packing: Packing,
        ignore_ids: tuple[int, ...],
    ) -> None:
        """The views of one batch, whose hidden states are `hidden`."""
        places = torch.tensor(texts)
        if self.dense is not None:
            self.dense[places] = model.dense(hidden, packing).cpu()
        if self.colbert is not None:
            rows, _ = gather_rows(self.colbert.cu_seqlens, places)
            self.colbert.vectors[rows] = model.colbert(hidden, packing).cpu()
        if self.sparse is not None:
            csr = model.sparse(hidden, token_ids, packing, ignore_ids)
            self.sparse.append(SparseVectors(*csr).to("cpu"))
            self._order += texts

    def result(self, truncated: Tensor) -> M3Embeddings:
        """Everything, in the order of the texts."""
        sparse = None
        if self.sparse:
            sparse = SparseVectors.concat(self.sparse)[torch.tensor(self._order).argsort()]
        elif self.sparse is not None:
            sparse = SparseVectors(
                torch.zeros(1, dtype=torch.int64),
                torch.empty(0, dtype=torch.int32),
                torch.empty(0),
            )
        return M3Embeddings(self.dense, sparse, self.colbert, truncated)


def _batches(lengths: list[int], token_budget: int) -> Iterator[list[int]]:
    """Texts by falling length, in batches whose padded size (texts x longest) is within the
    budget.

    One text that is longer than the budget is a batch of its own.
    """
    batch: list[int] = []
    for text in sorted(range(len(lengths)), key=lambda text: -lengths[text]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > token_budget:
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch


def _device(device: str | torch.device | None) -> torch.device:
    """The device asked for, or the best there is."""
    cuda = torch.cuda.is_available()
    try:
        target = torch.device(device or ("cuda" if cuda else "cpu"))
    except (RuntimeError, TypeError) as error:
        raise InputError(f"device is {device!r}: give 'cpu', 'cuda' or 'cuda:1'") from error
    if target.type == "cuda" and (not cuda or (target.index or 0) >= torch.cuda.device_count()):
        raise InputError(
            f"device {device} is not there; CUDA devices: {torch.cuda.device_count()}"
        )
    return target


def _check_texts(texts: str | Sequence[str]) -> list[str]:
    """`texts` as a list of strings that can be tokenised."""
    if not isinstance(texts, Iterable):
        raise InputError(f"texts must be a string or strings, not {type(texts).__name__}")
    items = [texts] if isinstance(texts, str) else list(texts)
    for position, text in enumerate(items):
        if not isinstance(text, str):
            raise InputError(
                f"text {position} is {type(text).__name__}, not a string: {text!r:.80}"
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"text {position} can't be encoded as UTF-8 ({error.reason} at character "
                f"{error.start}): repair it, e.g. text.encode('utf-8', 'replace').decode()"
            ) from error
    return items


def _load_tokenizer(directory: Path, model: M3Model) -> PreTrainedTokenizerFast:
    """The checkpoint's tokenizer, checked against the model.

    Raises:
        CheckpointError: it can't be read, or its ids don't fit the model.
    """
    from transformers import AutoTokenizer

    path = directory / "tokenizer.json"
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False, use_fast=True
        )
    except Exception as error:  # transformers and tokenizers raise many kinds for a damaged file
        raise CheckpointError(f"{path}: the tokenizer can't be loaded: {error}") from error
    if not getattr(tokenizer, "is_fast", False):
        raise CheckpointError(f"{path}: missing or no fast tokenizer")
    vocab = model.body.config.vocab_size
    if len(tokenizer) > vocab:
        raise CheckpointError(
            f"{path}: {len(tokenizer)} ids, but config.json's vocab_size is {vocab}"
        )
    special = {
        name: getattr(tokenizer, f"{name}_token_id") for name in ("cls", "pad", "eos", "unk")
    }
    if None in special.values():
        missing = [name for name, token in special.items() if token is None]
        raise CheckpointError(f"{path}: the tokenizer has no {', '.join(missing)} token")
    if special["pad"] != model.pad_id:
        raise CheckpointError(
            f"{path}: the tokenizer's pad id is {special['pad']}, but config.json's pad_token_id "
            f"is {model.pad_id}"
        )
    if (ids := tokenizer("")["input_ids"]) != [special["cls"], special["eos"]]:
        raise CheckpointError(f"{path}: an empty text becomes {ids}, not CLS and EOS")
    return tokenizer
