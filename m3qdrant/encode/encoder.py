"""M3Encoder: texts in, M3Embeddings out.

Texts are tokenised together, save for those that are far longer than what is kept of them
(`prefix.py`), sorted by length and cut into batches by a token budget; each batch is packed (no
padding in the linear layers), and the results are written to their places in the original order.
What else is in a batch does not change a text's result.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from m3qdrant.encode.arguments import (
    as_device,
    as_dtype,
    as_length,
    as_texts,
    check_switches,
    check_token_budget,
)
from m3qdrant.encode.batching import Output, batches
from m3qdrant.encode.checkpoint import Location, find_checkpoint, load_tokenizer
from m3qdrant.encode.embeddings import M3Embeddings
from m3qdrant.encode.forking import Turn, settle
from m3qdrant.encode.identity import combined, tokenizer_identity
from m3qdrant.encode.network import M3Model, Packing
from m3qdrant.encode.prefix import PrefixTokenizer
from m3qdrant.encode.protocol import TruncationWarning
from m3qdrant.encode.spans import TokenSpan, spans
from m3qdrant.errors import CheckpointError, EncodeError, InputError, NotFiniteError
from m3qdrant.progress import progress_bar

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast
    from typing_extensions import Self

__all__ = ["M3Encoder"]

# Padded tokens a batch. On a CPU a batch should stay in cache; on a GPU it should fill the card.
# An Apple GPU shares the machine's memory, and has far fewer cores than a card.
_TOKEN_BUDGET = {"cpu": 4_096, "mps": 16_384, "cuda": 65_536}

_LOADED = ("model", "tokenizer", "_lock", "_ignore_ids", "_location", "_prefixes", "_fingerprint")
"""What an encoder has from its checkpoint, and so isn't pickled."""


class M3Encoder:
    """Computes BGE-M3's three views of texts. Make one with `from_pretrained`.

    Safe to call from several threads; the calls run one after another. In a forked process it
    runs on one thread of the CPU; where a thread of the parent was encoding at that moment, it
    refuses.

    It can be pickled, for a process that is spawned, and copied. What is written are its settings
    and where its checkpoint lies; the new one loads that anew, from whatever working directory,
    and asks the hub only for what isn't in its cache. Changes to `model` and `tokenizer` are not
    carried over. Loading raises `CheckpointError` where the checkpoint is gone or another by now,
    and `InputError` where the device isn't there.

    Attributes:
        name: what `from_pretrained` was given.
        model: the network.
        tokenizer: transformers' tokenizer of the checkpoint.
        token_budget: padded tokens a batch; lower it when memory runs out.
    """

    _token_budget: int

    def __init__(
        self, model: M3Model, tokenizer: PreTrainedTokenizerFast, name: str, token_budget: int
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.token_budget = token_budget
        self._location: Location | None = None  # of a model that was put together in memory
        self._fingerprint: str | None = None
        # one pass at a time: two would take each other's memory, and the cores
        self._lock = Turn()
        self._prefixes: PrefixTokenizer | None = None
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
        device: str | int | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Load a checkpoint.

        Args:
            name: "BAAI/bge-m3" or another hub id, "m3-tiny" (bundled), or a checkpoint directory.
            revision: branch, tag or commit of the hub repository; nothing else has one.
            device: "cpu", "cuda", "cuda:1" or its number, "mps", ...; by default CUDA where there
                is one, else the CPU.
            dtype: torch.float16, torch.bfloat16 or torch.float32; by default float16 on CUDA,
                float32 elsewhere.

        Raises:
            CheckpointError: names the file that is missing or does not fit.
            InputError: there is no such device, `dtype` is none of these, or a revision is asked
                of a directory or of a bundled checkpoint.
        """
        if not isinstance(name, str | Path):
            raise InputError(f"a model's name is a string or a path, not {type(name).__name__}")
        target = as_device(device)
        kind = as_dtype(dtype, target)
        return cls._load(find_checkpoint(name, revision), str(name), target, kind)

    @classmethod
    def _load(
        cls, location: Location, name: str, device: torch.device, dtype: torch.dtype
    ) -> Self:
        settle(device)
        model = M3Model.load(location.directory, dtype)
        tokenizer = load_tokenizer(
            location.directory, vocab_size=model.body.config.vocab_size, pad_id=model.pad_id
        )
        budget = _TOKEN_BUDGET.get(device.type, _TOKEN_BUDGET["cuda"])
        encoder = cls(model.to(device), tokenizer, name, budget)
        encoder._location = location.resolved()
        encoder._fingerprint = combined(
            model.fingerprint, tokenizer_identity(location.directory, tokenizer)
        )
        return encoder

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle and copy: where the checkpoint lies, and what was set since it was loaded."""
        if self._location is None:
            raise InputError(
                f"the encoder {self.name!r} was put together from a model in memory, so it can't "
                "be pickled or copied: make one with M3Encoder.from_pretrained"
            )
        again = (type(self), self._location, str(self.device), self.dtype, self.fingerprint)
        settings = {name: value for name, value in vars(self).items() if name not in _LOADED}
        return _load_again, again, settings

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
        """The model's identity: 32 hex digits of everything that shapes a vector, which are all
        weights, the settings and the tokenizer; whatever the path, the format and the dtype.

        It is that of the checkpoint as it was loaded.
        """
        if self._fingerprint is None:
            self._fingerprint = combined(
                self.model.fingerprint, tokenizer_identity(None, self.tokenizer)
            )
        return self._fingerprint

    @property
    def former_fingerprint(self) -> str:
        """What earlier versions wrote as the fingerprint: 16 hex digits of the heads alone.

        A store compares a collection that has it with what this model computes, and adopts it.
        """
        return self.model.former_fingerprint

    @property
    def token_budget(self) -> int:
        """Padded tokens a batch."""
        return self._token_budget

    @token_budget.setter
    def token_budget(self, budget: int) -> None:
        self._token_budget = check_token_budget(budget)

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """The model's floating-point type."""
        return self.model.dtype

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
            texts: any number of them, none included, as a list, a one-dimensional array, a
                column or any iterable in an order; a single string counts as one text.
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
            InputError: `texts` is no sequence of texts, such as a mapping, a table or a file; an
                item is no string, or can't be encoded as UTF-8; max_length is below 2.
            EncodeError: the model pass failed: memory ran out, or this process was forked and
                can't do it.
            NotFiniteError: an EncodeError: a text's numbers are none, because float16 overflowed
                or the checkpoint is damaged; names the text.

        Warns:
            TruncationWarning: once a call, with the number of texts that were cut.
        """
        items = as_texts(texts)
        check_switches(dense=dense, sparse=sparse, colbert=colbert, progress=progress)
        if not (dense or sparse or colbert):
            raise InputError("nothing to compute: set at least one of dense, sparse, colbert")
        limit = min(as_length(max_length), self.max_length)
        settle(self.device)
        with self._lock, self._memory_errors():
            token_ids, truncated = self._tokenize(items, limit)
            lengths = [len(ids) for ids in token_ids]
            output = Output(self.model, lengths, bool(dense), bool(sparse), bool(colbert))
            self._run(items, token_ids, output, bool(progress))
        if cut := int(truncated.sum()):
            warnings.warn(
                f"{cut} of {len(items)} texts are longer than {limit} tokens and were cut",
                TruncationWarning,
                stacklevel=2,
            )
        return output.result(truncated, self.fingerprint)

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

    def count_tokens(self, texts: str | Sequence[str]) -> list[int]:
        """How many tokens each text has, CLS and EOS included, however long it is.

        Raises:
            InputError: an item is no string, or can't be encoded as UTF-8.
        """
        items = as_texts(texts)
        if not items:
            return []
        with self._lock:
            batch = self.tokenizer(
                items, truncation=False, padding=False, return_attention_mask=False, verbose=False
            )
        return [len(ids) for ids in batch["input_ids"]]

    def token_spans(
        self, texts: str | Sequence[str], max_length: int = 8192
    ) -> list[list[TokenSpan]]:
        """The tokens that each text's ColBERT vectors stand for, and where in it they are.

        Args:
            texts: as `encode` takes them.
            max_length: tokens a text is cut to, as `encode` cuts it.

        Returns:
            For each text one `TokenSpan` a ColBERT vector that `encode` gives it, in their order:
            all tokens but CLS. The last one is EOS, which stands for no character.

        Raises:
            InputError: as `encode`.
        """
        items = as_texts(texts)
        body = min(as_length(max_length), self.max_length) - 2
        found = []
        with self._lock:
            backend, prefixes = self._backend()
            end_id = int(self.tokenizer.eos_token_id)
            end = TokenSpan(end_id, str(backend.id_to_token(end_id)), None, None)
            for text in items:
                some = text
                if prefixes.is_long(text, body):
                    some = text[: prefixes.extent(text, body)]
                encoding = backend.encode(some, add_special_tokens=False)
                tokens = spans(
                    some,
                    encoding.ids,
                    encoding.tokens,
                    encoding.offsets,
                    self.tokenizer.unk_token,
                )
                found.append([*tokens[:body], end])
        return found

    def _backend(self) -> tuple[Any, PrefixTokenizer]:
        """The tokenizer, with neither truncation nor padding, and what begins long texts.

        transformers' own call keeps both as state of the backend, where another thread finds it;
        this one changes nothing.
        """
        backend = self.tokenizer.backend_tokenizer
        if backend.truncation is not None:
            backend.no_truncation()
        if backend.padding is not None:
            backend.no_padding()
        if self._prefixes is None or self._prefixes.backend is not backend:
            self._prefixes = PrefixTokenizer(backend)
        return backend, self._prefixes

    def _tokenize(self, texts: list[str], limit: int) -> tuple[list[list[int]], Tensor]:
        """Token ids of each text, CLS and EOS included, and which texts were cut at `limit`."""
        if not texts:
            return [], torch.zeros(0, dtype=torch.bool)
        backend, prefixes = self._backend()
        body = limit - 2  # beside CLS and EOS
        cut: dict[int, tuple[list[int], bool]] = {
            i: prefixes.first(text, body)
            for i, text in enumerate(texts)
            if prefixes.is_long(text, body)
        }
        short = ["" if i in cut else text for i, text in enumerate(texts)]
        for i, encoding in enumerate(backend.encode_batch_fast(short, add_special_tokens=False)):
            if i not in cut:
                cut[i] = encoding.ids[:body], len(encoding) > body
        cls_id, eos_id = self.tokenizer.cls_token_id, self.tokenizer.eos_token_id
        ids = [[cls_id, *cut[i][0], eos_id] for i in range(len(texts))]
        return ids, torch.tensor([cut[i][1] for i in range(len(texts))])

    def _run(
        self, texts: list[str], token_ids: list[list[int]], output: Output, progress: bool
    ) -> None:
        """All texts through the model, batch by batch, into `output`."""
        model, device = self.model, self.device
        lengths = [len(ids) for ids in token_ids]
        done = 0
        with progress_bar("encoding", sum(lengths), progress, unit="tokens") as advance:
            for batch in batches(lengths, self.token_budget):
                ids = [token_ids[text] for text in batch]
                positions = [place for row in ids for place in model.position_ids(row)]
                flat = torch.tensor([token for row in ids for token in row], device=device)
                packing = Packing.of([len(row) for row in ids], device)
                hidden = model(flat, torch.tensor(positions, device=device), packing)
                if bad := output.write(batch, hidden, flat, packing, self._ignore_ids):
                    raise self._not_finite(texts, bad)
                done += len(flat)
                advance(done)

    def _not_finite(self, texts: list[str], bad: list[int]) -> NotFiniteError:
        """That these texts have no embeddings; nobody is handed NaN."""
        first = min(bad)
        others = f" (and {len(bad) - 1} more of its batch)" if len(bad) > 1 else ""
        if self.dtype is torch.float16:
            remedy = (
                "float16 overflowed: load the encoder with dtype=torch.float32, or torch.bfloat16"
            )
        else:
            remedy = (
                f"the checkpoint gives no numbers even in {str(self.dtype)[6:]}: its training "
                "failed, or its files are damaged"
            )
        return NotFiniteError(
            f"text {first}{others} has NaN or infinity in its embeddings: {remedy}. It begins "
            f"{texts[first][:60]!r}",
            sorted(bad),
            remedy,
        )

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


def _load_again(
    cls: type[M3Encoder],
    location: Location,
    device: str,
    dtype: torch.dtype,
    fingerprint: str,
) -> M3Encoder:
    """The encoder that was pickled or copied, but for its settings."""
    target = as_device(device)
    location = location.again()
    encoder = cls._load(location, str(location.directory), target, dtype)
    if encoder.fingerprint != fingerprint:
        raise CheckpointError(
            f"{location.directory}: the checkpoint is another than when the encoder was pickled "
            f"or copied (fingerprint {encoder.fingerprint}, then {fingerprint}): make a new one "
            "with M3Encoder.from_pretrained"
        )
    return encoder
