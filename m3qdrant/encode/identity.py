"""A model's identity: a digest of everything that shapes a vector, whatever files it lies in.

It covers all weights of the body and of both heads, the settings of `config.json` that the pass
depends on, and the tokenizer: vocabulary and scores, normaliser, pre-tokeniser, post-processor,
added tokens, special ids. It does not cover dtype, file format, names of files and of tensors,
padding and truncation.

Numbers are read as float16, rounded to the nearest, so that a checkpoint and its float16 copy are
one model. Two models that differ by less than that rounding have one identity. A bfloat16 copy
keeps 8 bits of 11 and gives other vectors: it is another model.

Reading a large model's bytes takes a second, so the digest is kept in the user's cache directory,
beside the size and the times of the files that it was made of.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import platformdirs
import torch
from numpy.typing import NDArray
from torch import Tensor

from m3qdrant.errors import CheckpointError
from m3qdrant.files import write_whole

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["combined", "remembered", "tokenizer_identity", "weights_identity"]

_SCHEME = 1
"""Part of every digest: to be raised where the same model would get another one."""

_BYTES = 16  # of a digest: told from the 16 hex digits of earlier versions by its length
_PIECE = 1 << 20  # numbers that are rounded and hashed at once
_SETTINGS = (
    "hidden_act",
    "layer_norm_eps",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "pad_token_id",
)
"""Of config.json; the widths are in the tensors' shapes."""

_PROBES = (
    "Hello World",
    "Straße naïve ＡＢＣ ﬁ",
    "日本語のテキスト、中文",
    "don't  stop\n10,000.5 km/h",
)
"""Tokenised, they show what settings outside of tokenizer.json do."""

_LARGE = 32 << 20  # bytes: the digest of a smaller set of files is as quick as a look into a cache
_SETTLED_S = 2.0
"""A file that changed later than this before it was read may change again within the same tick."""


def combined(*identities: str) -> str:
    """One identity of several: 32 hex digits."""
    return _hex("\0".join((str(_SCHEME), *identities)).encode())


# -- the weights


def weights_identity(settings: Any, tensors: Mapping[str, Tensor], where: Path) -> str:
    """Of a model's weights and settings: 32 hex digits.

    Args:
        settings: has the attributes of config.json, defaults included.
        tensors: by the names that they have in the network, on the CPU.
        where: for messages.

    Raises:
        CheckpointError: a tensor holds NaN or infinity; names it.
    """
    chosen = [[key, getattr(settings, key, None)] for key in _SETTINGS]
    digest = blake2b(json.dumps([_SCHEME, chosen]).encode(), digest_size=_BYTES)
    names = sorted(tensors)
    pieces = [(name, piece) for name in names for piece in _pieces(tensors[name])]
    workers = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers, "identity") as pool:  # hashing releases the GIL
        digests = pool.map(_piece_digest, *zip(*pieces, strict=True))
        for (name, _), of_piece in zip(pieces, digests, strict=True):
            if of_piece is None:
                dtype = str(tensors[name].dtype).removeprefix("torch.")
                raise CheckpointError(
                    f"{where}: {name} holds NaN or infinity as {dtype}: "
                    + (
                        "load it with dtype=torch.float32, if the file's own numbers are larger "
                        "than float16 can hold; else its training failed"
                        if tensors[name].dtype is torch.float16
                        else "its training failed, or the file is damaged"
                    )
                )
            digest.update(of_piece)
    shapes = [[name, list(tensors[name].shape)] for name in names]
    digest.update(json.dumps(shapes).encode())
    return digest.hexdigest()


def _pieces(tensor: Tensor) -> Iterator[Tensor]:
    """A tensor's numbers, a stretch at a time; views where the tensor lies in one piece."""
    flat = tensor.detach().reshape(-1)
    for start in range(0, flat.numel(), _PIECE):
        yield flat[start : start + _PIECE]


def _piece_digest(name: str, piece: Tensor) -> bytes | None:
    """Of numbers read as float16, the larger ones as the largest; None where one isn't finite."""
    numbers = piece if piece.dtype in (torch.float16, torch.float32) else piece.float()
    exact: NDArray[Any] = numbers.numpy()
    with np.errstate(over="ignore"):
        half = exact.astype(np.float16, copy=False)
    if int((half.view(np.uint16) & 0x7FFF).max(initial=0)) >= 0x7C00:
        if not np.isfinite(exact).all():
            return None
        largest = np.finfo(np.float16).max
        half = exact.clip(-largest, largest).astype(np.float16)
    return blake2b(half.astype("<f2", copy=False).data, digest_size=_BYTES).digest()


# -- the tokenizer


def tokenizer_identity(directory: Path | None, tokenizer: PreTrainedTokenizerFast) -> str:
    """Of what a tokenizer does: 32 hex digits.

    Args:
        directory: that it was loaded from; None reads the tokenizer itself, whose form may change
            from one version of the library to the next.
        tokenizer: the loaded one.
    """
    path = None if directory is None else directory / "tokenizer.json"
    if path is not None and path.exists():
        text = path.read_text("utf-8")
    else:
        text = tokenizer.backend_tokenizer.to_str()
    parts = json.loads(text)
    behaviour = {
        "model": _segmenter(parts["model"]),
        "steps": [
            _step(parts.get(name)) for name in ("normalizer", "pre_tokenizer", "post_processor")
        ],
        "added": sorted(map(list, tokenizer.get_added_vocab().items())),
        "flags": sorted(
            [token["id"], *(bool(token.get(flag)) for flag in ("single_word", "normalized"))]
            for token in parts.get("added_tokens") or ()
        ),
        "special": [
            getattr(tokenizer, f"{name}_token_id") for name in ("cls", "pad", "eos", "unk", "mask")
        ],
        "probes": tokenizer(list(_PROBES), truncation=False, padding=False)["input_ids"],
    }
    return _hex(json.dumps([_SCHEME, behaviour], sort_keys=True).encode())


def _segmenter(model: dict[str, Any]) -> dict[str, Any]:
    """What segments words, without what is off; scores as float32, for the library's own reading
    and writing of them is not exact to the last bit.
    """
    parts = {
        key: value for key, value in model.items() if value is not None and value is not False
    }
    vocabulary = parts.get("vocab")
    if isinstance(vocabulary, list):
        parts["vocab"] = [piece for piece, _ in vocabulary]
        scores = np.array([score for _, score in vocabulary], dtype="<f4")
        parts["scores"] = _hex(scores.tobytes())
    return parts


def _step(step: Any) -> Any:
    """A step in the one form that all versions of the library mean by it."""
    if isinstance(step, list):
        return [_step(part) for part in step]
    if not isinstance(step, dict):
        return step
    if step.get("type") == "Metaspace":
        legacy = "always" if step.get("add_prefix_space", True) else "never"
        return {
            "type": "Metaspace",
            "replacement": step.get("replacement", "▁"),
            "prepend_scheme": step.get("prepend_scheme", legacy),
            "split": step.get("split", True),
        }
    return {key: _step(value) for key, value in step.items() if value is not None}


# -- the cache


def remembered(files: Sequence[Path], what: str, compute: Callable[[], str]) -> str:
    """What `compute` says of these files, or said of them when they were as they are now.

    A cache that can't be read or written, or is damaged, is as good as none.

    Args:
        files: all that it depends on; those that aren't there are part of it too.
        what: tells several digests of the same files apart.
        compute: makes the digest, 32 hex digits.
    """
    before = _states(files)
    if sum(state[1] for state in before if state[1] is not None) < _LARGE:
        return compute()
    place = _place(files, what)
    if place is not None and (found := _read(place, before)) is not None:
        return found
    newest = max(state[2] for state in before if state[2] is not None)
    settled = newest / 1e9 < time.time() - _SETTLED_S
    identity = compute()
    if place is not None and settled and _states(files) == before:
        _write(place, before, identity)
    return identity


def recalled(files: Sequence[Path], what: str) -> str | None:
    """What was `remembered` of these files; None where nothing was."""
    place = _place(files, what)
    return None if place is None else _read(place, _states(files))


_State = tuple[str, int | None, int | None, int | None]


def _states(files: Sequence[Path]) -> list[_State]:
    """Path, size, and the times of the last change of content and of anything, in nanoseconds."""
    states: list[_State] = []
    for path in files:
        try:
            found = path.stat()
        except OSError:
            states.append((os.path.realpath(path), None, None, None))
            continue
        times = found.st_mtime_ns, found.st_ctime_ns
        states.append((os.path.realpath(path), found.st_size, *times))
    return states


def _place(files: Sequence[Path], what: str) -> Path | None:
    name = _hex("\0".join([str(_SCHEME), what, *map(os.path.realpath, files)]).encode())
    try:
        return platformdirs.user_cache_path("m3qdrant") / "identities" / f"{name}.json"
    except (OSError, RuntimeError):  # a user without a home
        return None


def _read(place: Path, states: list[_State]) -> str | None:
    try:
        entry = json.loads(place.read_text("utf-8"))
        identity = str(entry["identity"])
        fits = entry["check"] == _check(states, identity)
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return None
    return identity if fits and re.fullmatch(r"[0-9a-f]{32}", identity) else None


def _write(place: Path, states: list[_State], identity: str) -> None:
    entry = {"files": states, "identity": identity, "check": _check(states, identity)}
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_whole(place, json.dumps(entry, indent=1).encode())
    except OSError:
        pass  # computed again the next time


def _check(states: list[_State], identity: str) -> str:
    return _hex(json.dumps([states, identity]).encode())


def _hex(content: bytes) -> str:
    return blake2b(content, digest_size=_BYTES).hexdigest()
