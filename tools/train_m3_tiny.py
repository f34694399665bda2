"""Train m3-tiny, the small BGE-M3-style checkpoint that ships with m3qdrant.

One body and three heads, as in BGE-M3 (arXiv 2402.03216): a dense vector from `<s>`, a lexical
weight for each token and a ColBERT vector for each token. The training data are retrieval pairs
that any Debian machine has or can fetch:

- Debian's package descriptions in seven languages: the synopsis asks, the long description
  answers. A package's translations are aligned, which gives the cross-language pairs. This fetches
  them into the directory LISTS, which needs a subdirectory `partial`:

      apt-get -o Dir::State::lists=LISTS -o Acquire::Languages="en,de,fr,ja,da,it,es" update

- Docstrings of the packages in site-packages (`--docstrings` names other folders): the first
  sentence asks, the rest answers. The standard library is held out, and so are the copies of its
  docstrings in other packages, because it is the corpus of `m3qdrant demo`.

      python tools/train_m3_tiny.py --out m3-tiny --translations LISTS

The script trains a tokenizer and the model, writes a checkpoint in the layout of BAAI/bge-m3,
measures recall on packages it never saw and puts the figures on the model card.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import math
import random
import re
import subprocess
import sysconfig
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import m3kernels
import numpy as np
import torch
from m3kernels import Padded
from safetensors.torch import save_file
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize, relu
from transformers import XLMRobertaConfig, XLMRobertaModel

SEED = 20240203
APT_HELPER = "/usr/lib/apt/apt-helper"

# Model
VOCAB_SIZE = 8192
HIDDEN = 224
LAYERS = 3
HEADS = 7
MAX_TOKENS = 512
PAD_ID = 1

# Training
BATCH = 96
QUERY_TOKENS = 32
DOCUMENT_TOKENS = (40, 48, 80)  # one is drawn for each batch
LEARNING_RATE = 1.5e-3
WARMUP = 100
TEMPERATURES = {"dense": 0.04, "sparse": 0.05, "colbert": 0.03, "all": 0.02}
WEIGHTS = {"dense": 0.4, "sparse": 0.2, "colbert": 0.4}
DISTILLATION = 0.5  # weight of the loss against the ranking of the sum
SPARSE_LOSS = 0.5  # weight of the lexical head's losses

# How often a text with that translation is asked for in it; the rest of the queries is English.
FOREIGN_QUERIES = 0.4
LANGUAGE_WEIGHTS = {"de": 4.0, "fr": 3.0, "ja": 6.0, "es": 2.0, "da": 1.0, "it": 1.0}
# Share of the texts of each language that the tokenizer is trained on.
VOCABULARY_SHARE = {
    "en": 0.5,
    "de": 0.6,
    "fr": 0.4,
    "ja": 1.0,
    "es": 0.6,
    "da": 0.08,
    "it": 0.08,
}

# Evaluation
HELD_OUT = 0.06
EVALUATION_TOKENS = 96
EVALUATION_QUERIES = 500
LEXICAL_TARGET = 0.3  # mean lexical score of a query and its own document, as with BAAI/bge-m3


# --- Data ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Text:
    """A short text and a longer one that elaborates it."""

    title: str
    body: str


@dataclass
class Item:
    """What one package or one Python object says about itself, in one or more languages."""

    name: str
    texts: dict[str, Text]
    is_code: bool = False
    family: int = field(init=False)

    def __post_init__(self) -> None:
        # Packages built from one source share their longest paragraph: such a family is never
        # on both sides of the split, and its members are no negatives of each other.
        text = self.texts["en"]
        longest = max([*text.body.split("\n"), text.title], key=len)
        self.family = int(hashlib.md5(longest.lower().encode()).hexdigest()[:15], 16)

    @property
    def held_out(self) -> bool:
        return self.family % 1000 < 1000 * HELD_OUT


def read_translations(lists: Path) -> list[Item]:
    """Read apt's Translation files: one item for each package and description."""
    entries: dict[tuple[str, str], dict[str, Text]] = defaultdict(dict)
    for path in sorted(lists.glob("*_Translation-*")):
        language = re.split(r"[-_.]", path.name.rpartition("_Translation-")[2])[0]
        command = [APT_HELPER, "cat-file", str(path)]
        raw = subprocess.run(command, check=True, capture_output=True).stdout.decode()
        for stanza in raw.split("\n\n"):
            head, _, rest = stanza.partition(f"\nDescription-{language}:")
            fields = dict(line.split(": ", 1) for line in head.split("\n") if ": " in line)
            title, _, body = rest.partition("\n")
            paragraphs = " ".join(line.strip() for line in body.split("\n")).split(" . ")
            body = "\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
            if len(title.strip()) >= 4 and len(body) >= 30:
                key = (fields["Package"], fields["Description-md5"])
                entries[key][language] = Text(title.strip(), body)
    return [Item(name, texts) for (name, _), texts in sorted(entries.items()) if "en" in texts]


def read_docstrings(root: Path, *, limit: int = 1000) -> Iterator[Item]:
    """Docstrings of the public modules, classes and functions under root, `limit` a package."""
    private = re.compile(r"_(?!_init__$)|tests?$|test_|site-packages$|dist-packages$")
    count: Counter[str] = Counter()
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if count[parts[0]] >= limit or any(private.match(part) for part in parts):
            continue
        try:
            module = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # templates and files for other versions of Python
            continue
        for name, node in definitions(module, ".".join(p for p in parts if p != "__init__")):
            docstring = ast.get_docstring(node)
            if docstring and len(docstring) >= 30:
                count[parts[0]] += 1
                yield Item(name, {"en": split_docstring(docstring[:3000])}, is_code=True)


Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def definitions(node: Definition, name: str) -> Iterator[tuple[str, Definition]]:
    """The node and its public classes, functions and methods, with their qualified names."""
    yield name, node
    for child in node.body:
        if isinstance(child, Definition) and not child.name.startswith("_"):
            yield from definitions(child, f"{name}.{child.name}")


def split_docstring(docstring: str) -> Text:
    """The first sentence, and what follows without doctests, rules and markup."""
    lines = [line.strip() for line in docstring.split("\n")]
    lines = [line for line in lines if not re.fullmatch(r"[-=~^*#\s.]*|>>>.*|\.\. \S+::.*", line)]
    flat = " ".join(re.sub(r":[a-z:]+:`~?([^`]*)`|`+", r"\1", line) for line in lines)
    title, _, body = re.sub(r"(?<=[.!?])\s", "\n", flat, count=1).partition("\n")
    return Text(title, body)


def without_copies(items: Iterable[Item], held_out: Sequence[Item]) -> Iterator[Item]:
    """The items that share neither title nor body with a held-out one; two a title at most."""

    def openings(item: Item) -> tuple[str, str]:
        text = item.texts["en"]
        title, body = (re.findall(r"\w+", part.lower()) for part in (text.title, text.body))
        return " ".join(title)[:60], " ".join(body)[:60]

    known = {opening for item in held_out for opening in openings(item)} - {""}
    count: Counter[str] = Counter()
    for item in items:
        title, body = openings(item)
        count[title] += 1
        if count[title] <= 2 and not {title, body} & known:
            yield item


# --- Pairs --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    query: str
    document: str
    family: int
    same_language: bool


def name_words(name: str) -> list[str]:
    """`shutil.make_archive` -> shutil, make, archive."""
    return re.findall(r"[A-Z]?[a-z0-9]+|[A-Z0-9]+", name)


def some_words(text: str, rng: random.Random, low: int, high: int) -> str:
    """Between low and high words of the text, in their order: neighbours or not."""
    words = text.split()
    count = min(len(words), rng.randint(low, high))
    if rng.random() < 0.5:
        start = rng.randint(0, len(words) - count)
        return " ".join(words[start : start + count])
    return " ".join(words[i] for i in sorted(rng.sample(range(len(words)), count)))


def choose_languages(item: Item, rng: random.Random) -> tuple[str, str]:
    """The query's language and the document's: English, one translation, or one of each."""
    foreign = [language for language in item.texts if language != "en"]
    if not foreign or rng.random() > FOREIGN_QUERIES:
        return "en", "en"
    language = rng.choices(foreign, [LANGUAGE_WEIGHTS[language] for language in foreign])[0]
    return rng.choices([(language, "en"), (language, language), ("en", language)], [5, 3, 2])[0]


def make_pair(item: Item, rng: random.Random) -> Pair:
    """Ask with the title, some words of it, a snippet of the body, or the object's name."""
    source, target = choose_languages(item, rng)
    title, body = item.texts[source].title, item.texts[source].body
    answer = item.texts[target]
    kinds = {
        "title": 3.0 if answer.body else 0.0,
        "words": 4.0 if len(title.split()) > 2 else 1.0,
        "snippet": 3.0 if body else 0.0,
        "name": 1.0 if item.is_code else 0.0,
    }
    kind = rng.choices(list(kinds), list(kinds.values()))[0]
    document = f"{answer.title} {answer.body}"
    if kind == "title":
        query, document = title, answer.body
    elif kind == "words":
        query = some_words(title, rng, 2, 5)
    elif kind == "snippet":
        sentence = rng.choice([part for part in re.split(r"(?<=[.!?。])\s+|\n", body) if part])
        query = some_words(sentence[:300], rng, 3, 12)
        if rng.random() < 0.5:
            document = document.replace(sentence, " ")
    else:
        query = " ".join(name_words(item.name)[-4:])
    named = kind != "name" and rng.random() < (0.8 if item.is_code else 0.3)
    document = f"{item.name}: {document}" if named else document
    return Pair(query[:300], document, item.family, same_language=source == target)


def batches(items: Sequence[Item], rng: random.Random) -> Iterator[list[Pair]]:
    """Batches for ever, each family once an epoch; documents of like length meet in a batch."""
    families: dict[int, list[Item]] = defaultdict(list)
    for item in items:
        families[item.family].append(item)
    order: list[int] = []
    while True:
        pool: list[Pair] = []
        while len(pool) < 16 * BATCH:
            order = order or rng.sample(list(families), len(families))
            pool.append(make_pair(rng.choice(families[order.pop()]), rng))
        pool.sort(key=lambda pair: len(pair.document))
        chunks = [pool[i : i + BATCH] for i in range(0, len(pool), BATCH)]
        rng.shuffle(chunks)
        yield from chunks


# --- Tokenizer ----------------------------------------------------------------------------------


def train_tokenizer(items: Sequence[Item], rng: random.Random) -> Tokenizer:
    """A unigram vocabulary in XLM-R's layout, over case-folded words and parts of identifiers."""
    texts = [
        f"{text.title} {text.body[:300]}"
        for item in items
        for language, text in item.texts.items()
        if rng.random() < VOCABULARY_SHARE[language]
    ]
    # A unigram vocabulary keeps every character it saw: leave the rare ones to <unk>.
    characters = Counter(character for text in texts for character in text.lower())
    common = {character for character, _ in characters.most_common(1400)}
    rare = {ord(character): " " for character in characters if character not in common}

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            # NamedTemporaryFile reads as its words do.
            normalizers.Replace(Regex(r"(?<=[a-z0-9])(?=[A-Z])"), " "),
            normalizers.Lowercase(),
        ]
    )
    # Punctuation stands alone, so each word of `shutil.make_archive` starts with the word mark.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation("isolated"),
            pre_tokenizers.Metaspace(),
        ]
    )
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCAB_SIZE - 1,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        max_piece_length=14,
        show_progress=False,
    )
    tokenizer.train_from_iterator((text.translate(rare) for text in texts), trainer)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["<s>", "$A", "</s>"],
        pair=["<s>", "$A", "</s>", "</s>", "$B", "</s>"],
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    specials = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    assert [tokenizer.token_to_id(token) for token in specials] == [
        0,
        PAD_ID,
        2,
        3,
        VOCAB_SIZE - 1,
    ]
    return tokenizer


def tokenize(tokenizer: Tokenizer, texts: Sequence[str], limit: int) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, padded on the right: int64 [B, L] each."""
    tokenizer.enable_truncation(limit)
    tokenizer.enable_padding(pad_id=PAD_ID, pad_token="<pad>")
    encodings = tokenizer.encode_batch(list(texts))
    ids = torch.tensor([encoding.ids for encoding in encodings])
    return ids, torch.tensor([encoding.attention_mask for encoding in encodings])


# --- Model --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Vectors:
    dense: Tensor  # [B, H]
    sparse: Tensor  # [B, V]
    colbert: Tensor  # [B, L - 1, H], zero where the text is padded
    mask: Tensor  # [B, L - 1]


class TinyM3(nn.Module):
    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        config = XLMRobertaConfig(
            vocab_size=vocab_size,
            hidden_size=HIDDEN,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=4 * HIDDEN,
            max_position_embeddings=MAX_TOKENS + 2,
            type_vocab_size=1,
            layer_norm_eps=1e-5,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            bos_token_id=0,
            pad_token_id=PAD_ID,
            eos_token_id=2,
        )
        self.body = XLMRobertaModel(config, add_pooling_layer=False)
        self.sparse_linear = nn.Linear(HIDDEN, 1)
        self.colbert_linear = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, ids: Tensor, mask: Tensor) -> Vectors:
        hidden = self.body(input_ids=ids, attention_mask=mask).last_hidden_state
        dense = normalize(hidden[:, 0].float(), dim=-1)

        weights = relu(self.sparse_linear(hidden).squeeze(-1).float())
        weights = weights * (ids > 3)
        sparse = weights.new_zeros(len(ids), self.body.config.vocab_size)
        sparse = sparse.scatter_reduce(1, ids, weights, "amax")

        colbert = normalize(self.colbert_linear(hidden[:, 1:]).float(), dim=-1)
        return Vectors(dense, sparse, colbert * mask[:, 1:, None], mask[:, 1:])


@torch.no_grad()
def start_from_bags_of_words(model: TinyM3, embeddings: Tensor) -> None:
    """Start where `<s>` already holds the mean of the text's LSA word vectors.

    Random attention tells `<s>` next to nothing of the text, and the dense loss stays at chance
    for long. Values and outputs that pass their input on give it a bag of words from step 0.
    """
    model.body.embeddings.word_embeddings.weight[:] = embeddings
    # Rows past the training lengths stay at zero, so that longer texts do no harm.
    model.body.embeddings.position_embeddings.weight.zero_()
    model.body.embeddings.token_type_embeddings.weight.zero_()
    for layer in model.body.encoder.layer:
        nn.init.eye_(layer.attention.self.value.weight)
        nn.init.eye_(layer.attention.output.dense.weight)
    nn.init.eye_(model.colbert_linear.weight)
    nn.init.zeros_(model.colbert_linear.bias)
    nn.init.normal_(model.sparse_linear.weight, std=0.005)
    nn.init.constant_(model.sparse_linear.bias, 0.25)


def bags_of_words(tokenizer: Tokenizer, items: Sequence[Item]) -> Tensor:
    """The items' tf-idf vectors, all languages in one bag: sparse [items, V], rows of norm 1."""
    tokenizer.no_padding()
    tokenizer.enable_truncation(64)
    texts = [
        (row, f"{item.name} {text.title} {text.body[:250]}")
        for row, item in enumerate(items)
        for text in item.texts.values()
    ]
    rows: list[int] = []
    columns: list[int] = []
    for start in range(0, len(texts), 4096):
        chunk = texts[start : start + 4096]
        encodings = tokenizer.encode_batch([text for _, text in chunk])
        for (row, _), encoding in zip(chunk, encodings, strict=True):
            ids = set(encoding.ids)
            rows.extend([row] * len(ids))
            columns.extend(ids)
    shape = (len(items), tokenizer.get_vocab_size())
    index = torch.tensor([rows, columns])
    index = torch.sparse_coo_tensor(index, torch.ones(len(rows)), shape).coalesce().indices()
    frequency = torch.bincount(index[1], minlength=shape[1])
    values = torch.log((len(items) + 1) / (frequency + 1))[index[1]]
    norms = torch.zeros(len(items)).index_add(0, index[0], values**2).sqrt()
    values = values / norms[index[0]].clamp(min=1e-6)
    return torch.sparse_coo_tensor(index, values, shape).coalesce()


def lsa_embeddings(tokenizer: Tokenizer, items: Sequence[Item]) -> Tensor:
    """Word vectors [V, H] from a truncated SVD of items x tokens: latent semantic analysis."""
    bags = bags_of_words(tokenizer, items)
    by_item, by_token = bags.to_sparse_csr(), bags.t().coalesce().to_sparse_csr()
    right = torch.randn(bags.shape[1], HIDDEN)
    for _ in range(6):  # subspace iteration: svd_lowrank keeps to COO, which is 20 times as slow
        right, triangle = torch.linalg.qr(by_token @ (by_item @ right))
    singular = triangle.diagonal().abs().sqrt()
    vectors = normalize(right * singular.sqrt(), dim=-1)
    noise = normalize(torch.randn(vectors.shape), dim=-1)  # sets tokens of one meaning apart
    return 0.3 * normalize(vectors + 0.3 * noise, dim=-1)


# --- Scores and loss ----------------------------------------------------------------------------


def score(queries: Vectors, documents: Vectors) -> dict[str, Tensor]:
    """Every query against every document: [Q, D] for each way of scoring."""
    q, d = (Padded(side.colbert, mask=side.mask.bool()) for side in (queries, documents))
    scores = {
        "dense": queries.dense @ documents.dense.T,
        "sparse": queries.sparse @ documents.sparse.T,
        "colbert": m3kernels.maxsim(q, None, d),
    }
    scores["all"] = torch.stack([WEIGHTS[kind] * scores[kind] for kind in WEIGHTS]).sum(dim=0)
    return scores


def contrastive_loss(scores: dict[str, Tensor], batch: Sequence[Pair]) -> dict[str, Tensor]:
    """InfoNCE both ways for each score, and each head learns the ranking of their sum."""
    families = torch.tensor([pair.family for pair in batch])
    n = len(batch)
    relatives = (families[:, None] == families) & ~torch.eye(n, dtype=torch.bool)
    same_language = torch.tensor([float(pair.same_language) for pair in batch])
    labels = torch.arange(n)

    logits = {
        kind: (scores[kind] / temperature).masked_fill(relatives, -1e4)
        for kind, temperature in TEMPERATURES.items()
    }
    teacher = logits["all"].detach().softmax(dim=-1)
    losses = {}
    for kind, logit in logits.items():
        loss = 0.5 * cross_entropy(logit, labels, reduction="none")
        loss = loss + 0.5 * cross_entropy(logit.T, labels, reduction="none")
        if kind != "all":
            loss = loss + DISTILLATION * cross_entropy(logit, teacher, reduction="none")
        if kind == "sparse":  # texts in two languages share few tokens: nothing to learn there
            loss = SPARSE_LOSS * loss * same_language
        losses[kind] = loss.mean()
    return losses


def train(
    model: TinyM3, tokenizer: Tokenizer, items: Sequence[Item], *, steps: int, minutes: float
) -> int:
    """Train for that many steps or minutes, whichever ends first; return the steps made."""
    rng = random.Random(SEED)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.98),
    )
    model.train()
    stream = batches(items, rng)
    step = 0
    start = time.perf_counter()
    means: Counter[str] = Counter()
    while True:
        seconds = time.perf_counter() - start
        progress = max(step / steps, seconds / (60 * minutes))
        if progress >= 1:
            return step
        for group in optimizer.param_groups:
            cosine = 0.5 + 0.5 * math.cos(math.pi * progress)
            group["lr"] = LEARNING_RATE * min((step + 1) / WARMUP, cosine)

        batch = next(stream)
        queries = tokenize(tokenizer, [pair.query for pair in batch], QUERY_TOKENS)
        limit = rng.choice(DOCUMENT_TOKENS)
        documents = tokenize(tokenizer, [pair.document for pair in batch], limit)
        with torch.autocast("cpu", torch.bfloat16):
            encoded = model(*queries), model(*documents)
        losses = contrastive_loss(score(*encoded), batch)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(list(losses.values()))
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

        step += 1
        means.update({kind: loss.item() / 50 for kind, loss in losses.items()})
        if step % 50 == 0:
            report = "  ".join(f"{kind} {mean:.3f}" for kind, mean in means.items())
            print(f"step {step}  {seconds:.0f} s  {report}", flush=True)
            means.clear()


# --- Evaluation ---------------------------------------------------------------------------------


@torch.no_grad()
def encode(model: TinyM3, tokenizer: Tokenizer, texts: Sequence[str]) -> list[Vectors]:
    """Vectors of the texts in their order, in chunks of 64."""
    model.eval()
    with torch.autocast("cpu", torch.bfloat16):
        return [
            model(*tokenize(tokenizer, texts[start : start + 64], EVALUATION_TOKENS))
            for start in range(0, len(texts), 64)
        ]


def recall_at_10(scores: Tensor, answers: Tensor) -> float:
    """Share of the rows whose answer is among the ten best."""
    return (scores.topk(10).indices == answers[:, None]).any(dim=1).float().mean().item()


def bm25(queries: Sequence[str], documents: Sequence[str]) -> Tensor:
    """BM25 (k1 1.2, b 0.75) over case-folded words: [Q, D]."""
    split = [re.findall(r"\w+", document.lower()) for document in documents]
    mean = sum(map(len, split)) / len(split)
    postings: dict[str, dict[int, float]] = defaultdict(dict)
    for column, words in enumerate(split):
        norm = 1.2 * (0.25 + 0.75 * len(words) / mean)
        for word, count in Counter(words).items():
            postings[word][column] = 2.2 * count / (count + norm)
    scores = np.zeros((len(queries), len(documents)), dtype=np.float32)
    for row, query in zip(scores, queries, strict=True):
        for word in re.findall(r"\w+", query.lower()):
            found = postings.get(word, {})
            idf = math.log(1 + (len(documents) - len(found) + 0.5) / (len(found) + 0.5))
            row[list(found)] += idf * np.fromiter(found.values(), dtype=np.float32)
    return torch.from_numpy(scores)


@dataclass(frozen=True)
class Task:
    """Queries, the documents, and the index of the document that answers each query."""

    name: str
    queries: list[str]
    documents: list[str]
    answers: Tensor


def retrieval_task(name: str, pairs: Sequence[tuple[str | None, str]]) -> Task:
    """Search all the documents with up to EVALUATION_QUERIES of the queries there are."""
    # Documents of like length meet in a chunk.
    pairs = sorted(pairs, key=lambda pair: len(pair[1]))
    asked = [i for i, (query, _) in enumerate(pairs) if query]
    asked = sorted(random.Random(SEED).sample(asked, min(EVALUATION_QUERIES, len(asked))))
    queries = [pairs[i][0] or "" for i in asked]
    return Task(name, queries, [document for _, document in pairs], torch.tensor(asked))


def evaluation_tasks(held_out: Sequence[Item], stdlib: Sequence[Item]) -> list[Task]:
    """Synopsis to English description from four languages; first sentence to docstring."""
    families = {item.family: item.texts for item in held_out}.values()
    tasks = []
    for language in ("en", "de", "fr", "ja"):
        pairs = [
            (texts[language].title if language in texts else None, texts["en"].body)
            for texts in families
        ]
        tasks.append(retrieval_task(f"{language} → en", pairs))
    pairs = [
        (item.texts["en"].title, f"{item.name}: {item.texts['en'].body}")
        for item in stdlib
        if len(item.texts["en"].body) >= 60
    ]
    return [*tasks, retrieval_task("standard library", pairs)]


@torch.no_grad()
def evaluate(model: TinyM3, tokenizer: Tokenizer, task: Task) -> dict[str, float]:
    """recall@10 of each way of scoring, over all the documents."""
    documents = encode(model, tokenizer, task.documents)
    rows: dict[str, list[Tensor]] = defaultdict(list)
    for queries in encode(model, tokenizer, task.queries):
        blocks = [score(queries, chunk) for chunk in documents]
        for kind in TEMPERATURES:
            rows[kind].append(torch.cat([block[kind] for block in blocks], dim=1))
    return {kind: recall_at_10(torch.cat(parts), task.answers) for kind, parts in rows.items()}


# --- Checkpoint ---------------------------------------------------------------------------------


@torch.no_grad()
def calibrate(model: TinyM3, tokenizer: Tokenizer, items: Sequence[Item]) -> None:
    """Scale the lexical head so that a title and its body score LEXICAL_TARGET on average.

    relu is homogeneous: the ranking stays, and the head neither drowns the others in the weighted
    sum nor drowns in it.
    """
    texts = [item.texts["en"] for item in items]
    queries = encode(model, tokenizer, [text.title for text in texts])
    documents = encode(model, tokenizer, [text.body for text in texts])
    own = [(q.sparse * d.sparse).sum(dim=1) for q, d in zip(queries, documents, strict=True)]
    scale = math.sqrt(LEXICAL_TARGET / torch.cat(own).mean().item())
    print(f"lexical head scaled by {scale:.3f}")
    for parameter in model.sparse_linear.parameters():
        parameter.mul_(scale)


def export(model: TinyM3, tokenizer: Tokenizer, out: Path) -> None:
    """Write the files of BAAI/bge-m3's layout, tensors in fp16."""
    out.mkdir(parents=True, exist_ok=True)
    half = {name: p.detach().half().contiguous() for name, p in model.body.state_dict().items()}
    save_file(half, out / "model.safetensors", metadata={"format": "pt"})
    for name in ("sparse_linear", "colbert_linear"):
        linear = getattr(model, name)
        state = {key: value.detach().half() for key, value in linear.state_dict().items()}
        torch.save(state, out / f"{name}.pt")
    (out / "model.safetensors").chmod(0o644)
    config = model.body.config
    config.architectures = ["XLMRobertaModel"]
    config.dtype = "float16"
    config.save_pretrained(out)

    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.save(str(out / "tokenizer.json"))
    special = {
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": {
            "content": "<mask>",
            "lstrip": True,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
        },
    }
    write_json(out / "special_tokens_map.json", special)
    # XLMRobertaTokenizer would rebuild the pipeline without the case folding and the split at
    # punctuation; this class takes tokenizer.json as it is.
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": MAX_TOKENS,
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    write_json(out / "tokenizer_config.json", {**special, "mask_token": "<mask>", **settings})


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


CARD = """\
---
license: apache-2.0
language: [en, de, fr, ja, da, it, es]
pipeline_tag: feature-extraction
tags: [bge-m3, dense, sparse, colbert, retrieval]
---

# m3-tiny

A very small model with BGE-M3's three heads, for demonstrations and tests: with it, `m3qdrant
demo` and the test suite give real rankings offline and on a CPU. It reads short English texts
about software well enough to search them, and some German, French and Japanese. **It is no
replacement for [BAAI/bge-m3](https://huggingface.co/BAAI/bge-m3)**: it has that model's layout and
none of its weights.

| | |
|---|---|
| Body | XLM-RoBERTa: {layers} layers, hidden {hidden}, {heads} heads, {parameters:.1f} M, fp16 |
| Dense | `<s>`, L2-normalised, {hidden} dimensions |
| Sparse | `relu(h · W + b)`, the maximum for each token id (`sparse_linear.pt`) |
| ColBERT | a linear layer over `h[:, 1:]`, L2-normalised (`colbert_linear.pt`) |
| Tokenizer | unigram, {vocab:,} tokens; folds case, splits at punctuation and inside `CamelCase` |
| Length | {max_tokens} tokens; trained on at most {trained_tokens} |

The lexical head is scaled so that a title and its own description score {target} on average, about
as they do with BAAI/bge-m3: the three scores can be summed with BGE-M3's usual weights, 0.4, 0.2
and 0.4.

## Figures

recall@10 in %, over all the documents. The first rows ask with a Debian package's synopsis, in the
language named, for its English description among those of the held-out packages; the last asks
with the first sentence of a standard library docstring for the rest of it. Packages with the same
longest paragraph are held out together, though about one description in nine shares a shorter
paragraph with the training data. Texts are cut to {evaluation_tokens} tokens. "All" sums the
scores with 0.4, 0.2 and 0.4; "untrained" is the same sum with random weights.

| task | documents | queries | dense | sparse | ColBERT | all | BM25 | untrained |
|---|---|---|---|---|---|---|---|---|
{rows}

## Training

    python tools/train_m3_tiny.py --out m3-tiny --translations LISTS --docstrings DIR... {options}

Seed {seed}; {steps} steps of {batch} pairs took {minutes:.0f} minutes on two shared CPU cores in
bf16 autocast. Word vectors start from a truncated SVD of the texts, and attention starts by
passing its input on, so that the dense vector begins as a bag of words. The loss is contrastive
within the batch for each head and for their weighted sum, whose ranking each head also learns
(self-distillation, as in BGE-M3).

A second run gives a model of the same kind and not the same bits: the tokenizer's trainer orders
tokens of equal score at random, and a limit in minutes leaves the number of steps to the machine.

## Data and licences

- {packages:,} package descriptions of Debian, with their translations, under the licences of their
  packages.
- {docstrings:,} docstrings of Python packages, under the licences of these. Docstrings of the
  standard library, and copies of them in other packages, were left out.

The checkpoint holds weights and a vocabulary, and no text of these sources. Its licence is
Apache-2.0.

## Limits

- It knows the words of software documentation; any other word is a few word pieces to it.
- General knowledge, long documents and other languages are out of its reach. Between languages
  the lexical score sees little more than names that both texts share.
- Positions past {trained_tokens} tokens were never trained; their embeddings are zero.
"""


def model_card(model: TinyM3, tokenizer: Tokenizer, tasks: Sequence[Task], **facts: object) -> str:
    """Evaluate the model and its baselines, and fill in the card."""
    torch.manual_seed(SEED)
    untrained = TinyM3(tokenizer.get_vocab_size())
    rows = []
    for task in tasks:
        recalls = [
            *evaluate(model, tokenizer, task).values(),
            recall_at_10(bm25(task.queries, task.documents), task.answers),
            evaluate(untrained, tokenizer, task)["all"],
        ]
        cells = [task.name, f"{len(task.documents):,}", f"{len(task.queries):,}"]
        rows.append(" | ".join(cells + [f"{100 * recall:.1f}" for recall in recalls]))
        print(rows[-1], flush=True)
    return CARD.format(
        rows="\n".join(f"| {row} |" for row in rows),
        layers=LAYERS,
        hidden=HIDDEN,
        heads=HEADS,
        parameters=sum(p.numel() for p in model.parameters()) / 1e6,
        vocab=tokenizer.get_vocab_size(),
        max_tokens=MAX_TOKENS,
        trained_tokens=max(DOCUMENT_TOKENS),
        evaluation_tokens=EVALUATION_TOKENS,
        target=LEXICAL_TARGET,
        seed=SEED,
        batch=BATCH,
        **facts,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="directory of the checkpoint")
    parser.add_argument("--translations", type=Path, required=True, help="apt's lists")
    parser.add_argument(
        "--docstrings",
        type=Path,
        nargs="+",
        default=[Path(sysconfig.get_path("purelib"))],
        help="folders of Python packages, site-packages by default",
    )
    parser.add_argument("--steps", type=int, default=3000, help="training steps")
    parser.add_argument("--minutes", type=float, default=math.inf, help="limit of the training")
    args = parser.parse_args()

    torch.manual_seed(SEED)
    rng = random.Random(SEED)
    stdlib = list(read_docstrings(Path(sysconfig.get_path("stdlib"))))
    packages = read_translations(args.translations)
    docstrings = [item for root in args.docstrings for item in read_docstrings(root)]
    docstrings = list(without_copies(docstrings, stdlib))
    held_out = [item for item in packages if item.held_out]
    items = [item for item in packages if not item.held_out] + docstrings
    print(f"{len(items):,} items to train on, {len(held_out):,} packages held out", flush=True)

    tokenizer = train_tokenizer(items, rng)
    model = TinyM3(tokenizer.get_vocab_size())
    start_from_bags_of_words(model, lsa_embeddings(tokenizer, items))
    start = time.perf_counter()
    steps = train(model, tokenizer, items, steps=args.steps, minutes=args.minutes)
    minutes = (time.perf_counter() - start) / 60
    calibrate(model, tokenizer, rng.sample([item for item in packages if not item.held_out], 2000))
    export(model, tokenizer, args.out)

    card = model_card(
        model,
        tokenizer,
        evaluation_tasks(held_out, stdlib),
        steps=steps,
        minutes=minutes,
        options=f"--steps {args.steps}"
        if args.minutes == math.inf
        else f"--minutes {args.minutes:g}",
        packages=len(items) - len(docstrings),
        docstrings=len(docstrings),
    )
    (args.out / "README.md").write_text(card)


if __name__ == "__main__":
    main()
