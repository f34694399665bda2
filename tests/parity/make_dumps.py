"""Dump what the real FlagEmbedding computes, for `test_parity.py` to hold m3qdrant to.

FlagEmbedding gets an environment of its own:

    python3 -m venv flag
    flag/bin/pip install torch==2.13.0      # first, so that you choose the build: CPU is enough
    flag/bin/pip install FlagEmbedding==1.4.2 transformers==5.23.0 torch==2.13.0

    flag/bin/python tests/parity/make_dumps.py                        # all of checkpoints/
    flag/bin/python tests/parity/make_dumps.py m3qdrant/data/m3-tiny  # any other checkpoint

Each checkpoint gives `NAME.safetensors` and `NAME.json`; `loader.py` says what is in them. The
reference is each text on its own (batch size 1) in fp32 on one CPU thread: a text's neighbours in
a batch must not matter, and the JSON records by how much they do.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from FlagEmbedding import BGEM3FlagModel
from safetensors.numpy import save_file

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

# dense, sparse, colbert: the paper's. Their sum is not 1, so that the division by it is tested.
WEIGHTS = (1.0, 0.3, 1.0)

# Ids a text is cut to, <s> and </s> included. The third uses the very last position row of its
# checkpoint, the others stay well below theirs.
MAX_LENGTHS = {
    "bin-fp16-heads": 160,
    "safetensors-fp32-heads": 48,
    "fp16-body-colbert-24": 128,
}
DEFAULT_MAX_LENGTH = 128

# Pieces that a vocabulary may lack are fine here: <unk> is part of what is compared.
TEXTS = (
    # Plain sentences
    "What is BGE M3?",
    "BGE M3 is an embedding model supporting dense retrieval, lexical matching and multi-vector "
    "interaction.",
    "Where does the train to the north leave from?",
    "Die Straßenbahn hält um halb acht vor der Bibliothek, und im Winter liegt dort Schnee.",
    "Quelle est la capitale de la France ? L'été dernier, nous étions à Paris.",
    "¿Cuántas personas viven en la montaña? Mañana sale el tren.",
    "Библиотека закрыта в понедельник, а поезд уходит утром.",
    "図書館は月曜日に閉まっています。電車は七時半に出発します。",
    "图书馆星期一没有开门，火车七点半出发。",
    "도서관은 월요일에 문을 닫았습니다.",
    "ما هي عاصمة فرنسا؟ المكتبة مغلقة يوم الاثنين.",
    "מהי עיר הבירה של צרפת?",
    "कितने लोग वहाँ रहते हैं?",
    "เมืองหลวงของฝรั่งเศสคืออะไร",
    "ENGLISH then العربية then русский then 日本語, all in one line.",
    # Nothing to encode, or nearly nothing
    "",
    " ",
    " \n\t \r\n  ",
    "\u3000\u00a0\u2003",
    ".",
    "a",
    "猫",
    # Characters that normalizers drop, keep or turn into spaces
    "nul\x00bell\x07escape\x1bdelete\x7fend",
    "\x07\x1b",
    "zero\u200bwidth soft\u00adhyphen \ufeffbyte order mark\ufeff word\u2060joiner",
    "\u200e\u202eright to left override\u202c\u200f",
    "Café naïve Ångström",
    "Cafe\u0301 nai\u0308ve A\u030angstro\u0308m",
    "ＦＵＬＬＷＩＤＴＨ　ｆｏｒｍｓ １２３ ﾊﾝｶｸ ｶﾞ",
    "\ufb01ne o\ufb03ce \u2460\u2461 x\u00b2 \u00bd \u2122 \u2026",
    "Z\u0351\u036b\u0343a\u0363\u0308l\u035bg\u030co\u0310",
    # Literal special tokens
    "<s>",
    "<s> begins here",
    "ends here </s>",
    "a <pad> in the middle",
    "<pad><pad> two at the beginning and one at the end <pad>",
    "the <mask> of a fox and the<mask>cat",
    "<unk> is <unk>",
    "</s></s> the train <s> the <pad> train </s> leaves <mask><mask> at <unk> nine",
    "<S> < s > <PAD> </ s>",
    # Emoji: skin tone, joined family, flags, keycap, variation selector, text beside them
    "👍🏽 👩\u200d👩\u200d👧\u200d👦 🇫🇷🇩🇪 3\ufe0f\u20e3 ❤\ufe0f",
    "😀😀😀 fun🎉",
    # An astral letter, and characters of no vocabulary here
    "\U0001d51f",
    "ᚠᚢᚦ 𒀀𒁀 ⵣ ꙮ",
    # Repetition, numbers, code
    "the the the the the cat the cat the the dog",
    "12.50 + 7.49 = 19.99; 1,000,000; 1e-5; -273.15; 0x1F600; 2024-02-29T23:59:60Z",
    "https://www.example.org/a/b?q=caf%C3%A9&page=2#top and user.name+tag@example.org",
    "def f(x): return {'a': [x, x * 2]}  # <s>not html</s>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
)

Arrays = dict[str, np.ndarray]


@dataclass
class Encoded:
    """The outputs of one `encode` call, in FlagEmbedding's own form."""

    dense: np.ndarray
    lexical: list[dict[int, np.float32]]
    colbert: list[np.ndarray]


def words_of_one_id(tokenize: Callable[[str], list[int]], wanted: int = 7) -> list[str]:
    """Words that each add exactly one id, wherever they stand between others."""
    candidates = ["the", "and", "of", "in", "a", "is", "to", "die", "und", "la", "de", "from"]
    candidates += "abcdefghijklmnopqrstuvwxyz0123456789.,"
    found = [
        word
        for word in candidates
        if len(tokenize(word)) == 3 and len(tokenize(f"{word} {word} {word}")) == 5
    ]
    if not found:
        raise SystemExit("this vocabulary has no word of one id to build texts of a given length")
    return found[:wanted]


def texts_around(tokenize: Callable[[str], list[int]], max_length: int) -> list[str]:
    """Texts one id below the limit, at it, one above, and far above; one with <pad> at the cut."""
    words = words_of_one_id(tokenize)

    def of_length(ids: int) -> str:
        text = " ".join(words[i * i % len(words)] for i in range(ids - 2))
        if len(tokenize(text)) != ids:
            raise SystemExit(f"wanted {ids} ids, got {len(tokenize(text))}")
        return text

    longer = " ".join(text for text in TEXTS[:15] for _ in range(1 + max_length // 100))
    return [
        *(of_length(max_length + extra) for extra in (-1, 0, 1)),
        of_length(2 * max_length),
        longer,
        of_length(max_length - 3) + " <pad> <pad> <pad> <pad>",
    ]


def encode(model: BGEM3FlagModel, texts: list[str], max_length: int, batch_size: int) -> Encoded:
    """Encode with FlagEmbedding; only the lexical keys change, from digits to numbers."""
    out = model.encode(
        texts,
        batch_size=batch_size,
        max_length=max_length,
        return_dense=True,
        return_sparse=True,
        return_colbert_vecs=True,
    )
    lexical = [{int(key): value for key, value in row.items()} for row in out["lexical_weights"]]
    return Encoded(out["dense_vecs"], lexical, out["colbert_vecs"])


def alone(model: BGEM3FlagModel, texts: list[str], max_length: int) -> Encoded:
    """Each text in a call of its own."""
    parts = [encode(model, [text], max_length, 1) for text in texts]
    return Encoded(
        np.concatenate([part.dense for part in parts]),
        [part.lexical[0] for part in parts],
        [part.colbert[0] for part in parts],
    )


def difference(a: Encoded, b: Encoded) -> dict[str, float]:
    """The largest absolute differences; an id that only one side has counts with its weight."""
    lexical = [
        abs(float(row_a.get(key, 0.0)) - float(row_b.get(key, 0.0)))
        for row_a, row_b in zip(a.lexical, b.lexical, strict=True)
        for key in row_a.keys() | row_b.keys()
    ]
    colbert = [np.abs(x - y).max() for x, y in zip(a.colbert, b.colbert, strict=True)]
    return {
        "dense": float(np.abs(a.dense - b.dense).max()),
        "lexical": max(lexical, default=0.0),
        "colbert": float(max(colbert)),
    }


def pair_scores(
    model: BGEM3FlagModel, texts: list[str], max_length: int, batch_size: int
) -> Arrays:
    """`compute_score` of every text as query with every text as passage: five (n, n) arrays."""
    n = len(texts)
    scores = model.compute_score(
        [(query, passage) for query in texts for passage in texts],
        batch_size=batch_size,
        max_query_length=max_length,
        max_passage_length=max_length,
        weights_for_different_modes=list(WEIGHTS),
    )
    return {mode: np.array(values, np.float32).reshape(n, n) for mode, values in scores.items()}


def ragged(rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Rows one after the other, and the offsets where each begins and ends."""
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    return np.concatenate(rows), offsets


def fingerprint(checkpoint: Path) -> dict[str, str]:
    """SHA-256 of the files that decide the outputs."""
    names = ["config.json", "pytorch_model.bin", "model.safetensors"]
    names += ["sparse_linear.pt", "colbert_linear.pt"]
    names += ["tokenizer.json", "tokenizer_config.json", "sentencepiece.bpe.model"]
    return {
        name: hashlib.sha256((checkpoint / name).read_bytes()).hexdigest()
        for name in names
        if (checkpoint / name).exists()
    }


def dump(checkpoint: Path, out: Path, max_length: int) -> None:
    """Write the two files of one checkpoint."""
    # FlagEmbedding does not read the width of the ColBERT head from the file: it must be told.
    head = torch.load(checkpoint / "colbert_linear.pt", map_location="cpu", weights_only=True)
    colbert_dim = int(head["weight"].shape[0])
    model = BGEM3FlagModel(
        str(checkpoint),
        use_fp16=False,
        normalize_embeddings=True,
        devices="cpu",
        colbert_dim=colbert_dim,
    )

    def tokenize(text: str) -> list[int]:
        ids: list[int] = model.tokenizer(text)["input_ids"]
        return ids

    texts = [*TEXTS, *texts_around(tokenize, max_length)]
    cut = [
        model.tokenizer(text, truncation=True, max_length=max_length)["input_ids"]
        for text in texts
    ]
    reference = alone(model, texts, max_length)
    scores = pair_scores(model, texts, max_length, batch_size=1)

    batched = {
        f"batches of {size}": difference(reference, encode(model, texts, max_length, size))
        for size in (4, 16, len(texts))
    }
    batched_scores = pair_scores(model, texts, max_length, batch_size=16)
    batched_score_difference = {
        mode: float(np.abs(scores[mode] - batched_scores[mode]).max()) for mode in scores
    }

    input_ids, input_offsets = ragged([np.array(ids, np.int32) for ids in cut])
    vectors, cu_seqlens = ragged(reference.colbert)
    arrays: Arrays = {
        "input_ids": input_ids,
        "input_offsets": input_offsets,
        "dense": reference.dense,
        "colbert_vectors": vectors,
        "colbert_cu_seqlens": cu_seqlens,
        **{f"scores/{mode}": values for mode, values in scores.items()},
    }
    if any(not np.isfinite(values).all() for values in arrays.values()):
        raise SystemExit(f"{checkpoint.name}: outputs that are not finite")
    tensors = out / f"{checkpoint.name}.safetensors"
    save_file(arrays, tensors)
    tensors.chmod(0o644)  # safetensors makes files that only the owner may read

    resolved = checkpoint.resolve()
    described: dict[str, Any] = {
        "checkpoint": resolved.relative_to(ROOT).as_posix()
        if resolved.is_relative_to(ROOT)
        else checkpoint.name,
        "sha256": fingerprint(checkpoint),
        "max_length": max_length,
        "colbert_dim": colbert_dim,
        "weights": dict(zip(("dense", "sparse", "colbert"), WEIGHTS, strict=True)),
        "versions": {
            "python": platform.python_version(),
            **{
                name: version(name)
                for name in ("FlagEmbedding", "torch", "transformers", "tokenizers", "numpy")
            },
        },
        "tokenizer_class": type(model.tokenizer).__name__,
        "batched_minus_alone": batched,
        "batched_minus_alone_scores": batched_score_difference,
        "texts": texts,
        "truncated": [len(tokenize(text)) > max_length for text in texts],
        # float() keeps every bit of an fp32 weight, and json writes enough digits to read it back.
        "lexical_weights": [
            [[key, float(weight)] for key, weight in row.items()] for row in reference.lexical
        ],
    }
    with (out / f"{checkpoint.name}.json").open("w", encoding="utf-8") as file:
        # Escaped, because control characters and directional marks do not survive every editor.
        file.write(pretty(described))


def pretty(described: dict[str, Any]) -> str:
    """JSON with a line for each text and each row of weights: a diff of it can be read."""
    lines = []
    for key, value in described.items():
        if isinstance(value, list):
            rows = ",\n".join(f"    {json.dumps(row)}" for row in value)
            lines.append(f"  {json.dumps(key)}: [\n{rows}\n  ]")
        else:
            lines.append(f"  {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Dump what FlagEmbedding computes.")
    parser.add_argument("checkpoints", nargs="*", type=Path, help="default: all of checkpoints/")
    parser.add_argument("--out", type=Path, default=HERE / "dumps")
    parser.add_argument("--max-length", type=int, help=f"default: {DEFAULT_MAX_LENGTH}")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    args.out.mkdir(parents=True, exist_ok=True)
    for checkpoint in args.checkpoints or sorted((HERE / "checkpoints").iterdir()):
        name = checkpoint.name
        dump(checkpoint, args.out, args.max_length or MAX_LENGTHS.get(name, DEFAULT_MAX_LENGTH))
        size = sum(path.stat().st_size for path in args.out.glob(f"{name}.*"))
        print(f"{name}: {size / 1000:.0f} KB")


if __name__ == "__main__":
    main()
