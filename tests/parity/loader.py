"""Read the dumps that `make_dumps.py` wrote. Needs no FlagEmbedding."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True)
class Dump:
    """What FlagEmbedding computed for the n texts of one checkpoint, each text on its own.

    Attributes:
        name: the dump's name, which is the checkpoint folder's.
        checkpoint: the checkpoint's folder.
        max_length: ids that a text was cut to, <s> and </s> included.
        texts: the n texts.
        truncated: whether a text was longer than `max_length`.
        input_ids: for each text its ids, after the cut.
        dense: (n, hidden), normalised.
        lexical: for each text its weights by token id, in order of first appearance.
        colbert: for each text (ids - 1, colbert_dim), normalised.
        scores: (n, n), queries in rows: "dense", "sparse", "colbert", "sparse+dense" and
            "colbert+sparse+dense".
        weights: of the dense, sparse and ColBERT score in the last two.
        versions: of FlagEmbedding and what it ran on.
        sha256: of the checkpoint's files, by name.
    """

    name: str
    checkpoint: Path
    max_length: int
    texts: list[str]
    truncated: list[bool]
    input_ids: list[list[int]]
    dense: Floats
    lexical: list[dict[int, float]]
    colbert: list[Floats]
    scores: dict[str, Floats]
    weights: tuple[float, float, float]
    versions: dict[str, str]
    sha256: dict[str, str]

    def changed_files(self) -> list[str]:
        """Files of the checkpoint that are not the ones this dump was made from."""
        return [
            name
            for name, digest in self.sha256.items()
            if not (self.checkpoint / name).exists()
            or hashlib.sha256((self.checkpoint / name).read_bytes()).hexdigest() != digest
        ]


def dump_names() -> list[str]:
    """The names of all dumps here."""
    return sorted(path.stem for path in (HERE / "dumps").glob("*.json"))


def load_dump(name: str, folder: Path = HERE / "dumps") -> Dump:
    """Read `NAME.json` and `NAME.safetensors`."""
    described = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    arrays = load_file(folder / f"{name}.safetensors")
    weights = described["weights"]
    return Dump(
        name=name,
        checkpoint=ROOT / described["checkpoint"],
        max_length=described["max_length"],
        texts=described["texts"],
        truncated=described["truncated"],
        input_ids=[row.tolist() for row in _split(arrays["input_ids"], arrays["input_offsets"])],
        dense=arrays["dense"],
        lexical=[
            {int(key): weight for key, weight in row} for row in described["lexical_weights"]
        ],
        colbert=_split(arrays["colbert_vectors"], arrays["colbert_cu_seqlens"]),
        scores={
            key.removeprefix("scores/"): values
            for key, values in arrays.items()
            if key.startswith("scores/")
        },
        weights=(weights["dense"], weights["sparse"], weights["colbert"]),
        versions=described["versions"],
        sha256=described["sha256"],
    )


def _split(rows: npt.NDArray[Scalar], offsets: Integers) -> list[npt.NDArray[Scalar]]:
    """The rows of each text."""
    return np.split(rows, offsets[1:-1])
