"""The demo: its corpus, taking up an interrupted run, and whether m3-tiny's answers make sense."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from m3qdrant import Document, M3Encoder, M3Reranker, M3Store
from m3qdrant.demo import QUERIES, open_demo, stdlib_docstrings
from m3qdrant.demo import index as demo_module


@pytest.fixture(scope="module")
def corpus() -> list[Document]:
    return stdlib_docstrings()


@pytest.fixture(scope="module")
def tiny() -> M3Encoder:
    return M3Encoder.from_pretrained("m3-tiny", dtype=torch.float32)


def test_the_corpus(corpus: list[Document]) -> None:
    names = [document.id for document in corpus]
    assert len(names) > 3_000
    assert names == sorted(set(names))
    by_name = dict(zip(names, corpus, strict=True))
    opened = by_name["gzip.open"]
    assert opened.text.startswith("gzip.open(filename, mode='rb'")
    assert "Open a gzip-compressed file" in opened.text
    assert opened.payload == {"module": "gzip", "kind": "function"}
    # of modules, classes and functions, from sources and from compiled modules
    for name, kind in (
        ("tempfile", "module"),
        ("zipfile.ZipFile", "class"),
        ("zipfile.ZipFile.extractall", "function"),
        ("zlib.compress", "function"),
        ("itertools.chain", "class"),
        ("builtins.len", "function"),
        ("os.remove", "function"),
    ):
        assert by_name[name].payload["kind"] == kind
    for document in corpus:
        assert Document.of(document) == document
        assert not any(part.startswith("_") for part in document.id.split("."))
        assert document.id.split(".")[0] not in {"test", "idlelib", "this", "antigravity"}


def test_an_interrupted_demo_goes_on(
    tmp_path: Path, encoder: M3Encoder, corpus: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    some = corpus[:300]
    encoded: list[int] = []
    encode = M3Encoder.encode

    def counting(self: M3Encoder, texts: Any, *arguments: Any, **options: Any) -> Any:
        if len(encoded) == 1:  # Ctrl-C in the second chunk
            encoded.append(0)
            raise KeyboardInterrupt
        encoded.append(len(texts))
        return encode(self, texts, *arguments, **options)

    monkeypatch.setattr(demo_module, "stdlib_docstrings", lambda: some)
    monkeypatch.setattr(M3Encoder, "encode_documents", counting)
    with pytest.raises(KeyboardInterrupt):
        open_demo(encoder, tmp_path / "demo", progress=False)
    with open_demo(encoder, tmp_path / "demo", progress=False) as store:
        assert store.count() == 300
    assert encoded == [128, 0, 128, 44]
    with open_demo(encoder, tmp_path / "demo", progress=False) as store:
        assert store.count() == 300
    assert sum(encoded) == 300  # the third time nothing was encoded


@pytest.fixture(scope="module")
def searchable(
    tmp_path_factory: pytest.TempPathFactory, tiny: M3Encoder, corpus: list[Document]
) -> Iterator[M3Store]:
    """Part of the corpus under m3-tiny: enough other modules for a wrong answer to be likely."""
    named = {
        "gzip", "bz2", "lzma", "zlib", "zipfile", "tarfile", "shutil", "tempfile", "smtplib",
        "email", "hashlib", "argparse", "multiprocessing", "subprocess",
    }  # fmt: skip
    part = [
        document
        for document in corpus
        if len(document.text) < 150 or document.payload["module"].split(".")[0] in named
    ]
    assert len(part) > 2_000
    with M3Store(tmp_path_factory.mktemp("demo"), "stdlib", tiny) as store:
        store.add(part, max_length=128).raise_for_failed()
        yield store


COMPRESSION = {
    "gzip",
    "bz2",
    "lzma",
    "zlib",
    "zipfile",
    "tarfile",
    "shutil",
    "zipapp",
    "zipimport",
}


def test_compress_a_file_finds_the_compression_modules(searchable: M3Store) -> None:
    hits = searchable.search("compress a file", limit=5)
    found = [hit.payload["module"].split(".")[0] for hit in hits]
    assert found[0] in COMPRESSION
    assert sum(module in COMPRESSION for module in found) >= 4


@pytest.mark.parametrize(
    ("query", "modules"),
    [
        ("temporary directory that removes itself", {"tempfile"}),
        ("send an email", {"smtplib", "email"}),
        ("run a function in another process", {"multiprocessing", "subprocess", "concurrent"}),
    ],
)
def test_the_demos_queries_mean_something(
    searchable: M3Store, query: str, modules: set[str]
) -> None:
    hits = searchable.search(query, limit=5)
    assert any(hit.payload["module"].split(".")[0] in modules for hit in hits)


def test_reranked_the_demo_finds_the_same(searchable: M3Store) -> None:
    """One reranker for all queries, as `demo --rerank` has it."""
    reranker = M3Reranker()
    for query in QUERIES:
        expected = searchable.search(query, limit=5)
        found = searchable.search(query, limit=5, reranker=reranker)
        assert [hit.id for hit in found] == [hit.id for hit in expected]
        scores = [hit.score for hit in expected]
        assert [hit.score for hit in found] == pytest.approx(scores, abs=1e-5)


def test_the_modes_differ(searchable: M3Store) -> None:
    orders = {
        mode: tuple(hit.id for hit in searchable.search("compress a file", mode, limit=5))
        for mode in ("dense", "sparse", "colbert")
    }
    assert len(set(orders.values())) == 3, json.dumps(orders, indent=2)
