"""The rerank suite: its draws and checks, and all of it with few documents."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.rerank import draws, suite
from benchmarks.rerank.draws import Shape
from benchmarks.rerank.exact import disagreement, maxsim
from m3qdrant import scoring

SHAPE = Shape(32, 7, 4)


def test_documents_are_the_same_in_whatever_portion() -> None:
    whole = draws.documents(SHAPE, 0, 9, seed=3)
    part = draws.documents(SHAPE, 4, 3, seed=3)
    assert whole.colbert is not None
    assert part.colbert is not None
    assert torch.equal(whole.colbert.vectors[4 * 7 : 7 * 7], part.colbert.vectors)
    assert whole.dense is not None
    assert torch.equal(whole.dense[4:7], part.dense)  # type: ignore[arg-type]
    norms = torch.linalg.vector_norm(whole.colbert.vectors, dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))


def test_the_right_answers_are_the_reference() -> None:
    queries, documents = draws.queries(SHAPE, 3, seed=1), draws.documents(SHAPE, 0, 8, seed=1)
    assert queries.colbert is not None
    assert documents.colbert is not None
    right = maxsim(list(queries.colbert), list(documents.colbert))
    torch.testing.assert_close(right.float(), scoring.colbert(queries, documents))
    assert disagreement(right.float(), right, 1e-6) is None
    one = right.clone()
    one[2, 5] += 1e-3
    assert disagreement(one, right, 1e-4) is not None
    one[2, 5] = float("nan")
    assert disagreement(one, right, 1e-4) is not None
    assert disagreement(right[:, :7], right, 1e-4) is not None


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, Any]]:
    out = tmp_path_factory.mktemp("results")
    status = main(["rerank", "--quick", "--seed", "5", "--documents", "70", "--out", str(out)])
    (path,) = out.glob("rerank-quick-*.json")
    return status, json.loads(path.read_text())


def test_everything_agrees(finished: tuple[int, dict[str, Any]]) -> None:
    status, result = finished
    assert (status, suite.failures(result)) == (0, [])
    assert [(c["queries"], c["candidates"]) for c in result["candidates"]] == [
        (1, 30), (4, 30),
    ]  # fmt: skip
    for case in result["candidates"]:
        rows = {row["name"]: row for row in case["rows"]}
        for name in ("m3kernels.maxsim, float32", "one matmul + max", "the engine's MaxSim"):
            assert rows[name]["status"] == "ok", rows[name]
            assert 0 < rows[name]["p50_s"] <= rows[name]["p95_s"]
        assert {row["status"] for row in case["rows"]} <= {"ok", "not installed"}
    assert [(row["documents"], row["held"]) for row in result["corpora"]] == [
        (70, "float32"), (70, "bfloat16"), (70, "int8"),
    ]  # fmt: skip
    for row in result["corpora"]:
        assert row["status"] == "ok"
        assert row["searches"].keys() == {"1", "4"}
    assert [c["recall"] for c in result["corpora"][2]["cascades"]] == [1.0, 1.0]  # all are kept


def test_what_is_wrong_fails(finished: tuple[int, dict[str, Any]]) -> None:
    result = json.loads(json.dumps(finished[1]))
    result["candidates"][0]["rows"][0] |= {"status": "wrong", "reason": "off by 1"}
    result["corpora"][1] |= {"status": "wrong", "reason": "d1 is not found"}
    assert suite.failures(result) == [
        "1 x 30: m3kernels.maxsim, float32: off by 1",
        "a corpus of 70 as bfloat16: d1 is not found",
    ]
