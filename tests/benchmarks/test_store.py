"""The store suite: its oracle and its checks on plain numbers, and all of it with few texts."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.store import choices, suite
from benchmarks.store.agreement import Found, judge, same_lists
from benchmarks.store.choices import CHOICES, DEFAULT, Choice, choose
from benchmarks.store.oracle import Oracle, best, recall
from benchmarks.store.texts import draw, lift
from m3qdrant import M3Encoder, M3Schema, scoring
from m3qdrant.demo import stdlib_docstrings

IMPOSSIBLE = Choice({"colbert_datatype": "float8"})
TINY = dict.fromkeys(("dense", "sparse", "colbert"), 1e-6)


def random_oracle(seed: int, queries: int = 3, documents: int = 250) -> Oracle:
    rng = np.random.default_rng(seed)
    dense, sparse, colbert = rng.normal(size=(3, queries, documents))
    return Oracle(dense, np.maximum(sparse, 0), colbert)


def perfect_answers(oracle: Oracle) -> dict[str, list[list[tuple[int, float, dict[str, float]]]]]:
    """Each mode's ten best, with the scores that they should have."""
    answers: dict[str, list[list[tuple[int, float, dict[str, float]]]]] = {}
    for mode in ("dense", "sparse", "colbert", "rrf", "dbsf", "weighted"):
        answers[mode] = []
        for query in range(len(oracle.dense)):
            ranking = oracle.ranking(mode, query)
            answers[mode].append(
                [
                    (
                        int(i),
                        float(ranking[i]),
                        {n: float(getattr(oracle, n)[query, i]) for n in TINY},
                    )
                    for i in best(ranking, 10)
                ]
            )
    return answers


def test_choices_are_schemas_with_names_of_their_own() -> None:
    assert len({choice.name for choice in CHOICES}) == len(CHOICES)
    for choice in CHOICES:
        assert choice.engine == "memory" or M3Schema(**choice.options) == (
            M3Schema() if choice is DEFAULT else M3Schema(**choice.options)
        )
        assert choice.tolerances().keys() == TINY.keys()


def test_the_default_is_always_measured() -> None:
    assert [c.name for c in choose(patterns=["colbert_datatype=turbo*"])] == [
        "default",
        "colbert_datatype=turbo8",
        "colbert_datatype=turbo4",
    ]
    assert [c.engine for c in choose("memory")] == ["embedded", "memory"]
    with pytest.raises(ValueError, match="no choice matches"):
        choose(patterns=["nothing"])


def test_a_query_is_taken_out_of_its_document() -> None:
    found = stdlib_docstrings()
    texts = draw(found, 400, 20, seed=3)
    assert len(texts.documents) == 400
    assert len(texts.queries) == len(set(texts.answers)) == 20
    for query, answer in zip(texts.queries, texts.answers, strict=True):
        assert query not in " ".join(texts.documents[answer].text.split())
    assert draw(found, 400, 20, seed=3) == texts
    assert draw(found, 400, 20, seed=4).queries != texts.queries


@pytest.mark.parametrize("width", [224, 301, 1024])
def test_lifted_vectors_have_the_same_scores(width: int) -> None:
    encoder = M3Encoder.from_pretrained("m3-tiny", device="cpu")
    one = encoder.encode(["compress a file", "", "open a socket and read from it"])
    two = encoder.encode(["gzip: files, compressed", "socket.socket"])
    wide = lift(one, width), lift(two, width)
    assert wide[0].dense is not None
    assert wide[0].dense.shape == (3, width)
    for score in (scoring.dense, scoring.lexical, scoring.colbert):
        torch.testing.assert_close(score(*wide), score(one, two), atol=2e-6, rtol=0)


def test_rankings_by_their_definitions() -> None:
    oracle = random_oracle(11)
    for query in range(3):
        dense, sparse, colbert = (getattr(oracle, n)[query].tolist() for n in TINY)
        order = {
            name: sorted(range(250), key=scores.__getitem__, reverse=True)[:100]
            for name, scores in (("dense", dense), ("sparse", sparse))
        }
        order["sparse"] = [i for i in order["sparse"] if sparse[i] > 0]
        candidates = {*order["dense"], *order["sparse"]}
        order["colbert"] = sorted(candidates, key=lambda i: -colbert[i])[:100]
        expected = {
            i: sum(1 / (61 + ids.index(i)) for ids in order.values() if i in ids)
            for i in candidates
        }
        ranking = oracle.ranking("rrf", query)
        assert set(np.flatnonzero(np.isfinite(ranking)).tolist()) == candidates
        assert {i: ranking[i] for i in candidates} == pytest.approx(expected)
        for i in random.Random(1).sample(range(250), 20):
            weighted = 0.4 * dense[i] + 0.2 * sparse[i] + 0.4 * colbert[i]
            assert oracle.full_ranking("weighted", query)[i] == pytest.approx(weighted)
            assert np.isfinite(oracle.ranking("weighted", query)[i]) == (i in candidates)


def test_recall_counts_ties_for_each_other() -> None:
    ranking = np.array([3.0, 1.0, 2.0, 2.0, -np.inf])
    assert recall([0, 2], ranking, limit=2) == 1
    assert recall([0, 3], ranking, limit=2) == 1
    assert recall([0, 1], ranking, limit=2) == 0.5
    assert recall([0, 0], ranking, limit=2) == 0.5
    assert recall([4], ranking, limit=2) == 0
    assert recall([0, 1, 2, 3], ranking, limit=10) == 1  # there are no more than four


def test_perfect_answers_are_perfect() -> None:
    oracle = random_oracle(12)
    answers = perfect_answers(oracle)
    verdict = judge(answers, range(3), [0, 1, 2], oracle, oracle, TINY)
    assert verdict.wrong == []
    assert set(verdict.recall.values()) == {1.0}
    assert verdict.full_recall["weighted"] <= 1
    assert max(verdict.errors.values()) == 0


def _worse(hit: tuple[int, float, dict[str, float]], what: str) -> Any:
    position, score, parts = hit
    if what == "a part":
        return position, score, {**parts, "colbert": parts["colbert"] + 1e-3}
    if what == "not a number":
        return position, score, {**parts, "dense": float("nan")}
    if what == "the score":
        return position, score - 1e-3, parts
    return (position + 1) % 250, score, parts


@pytest.mark.parametrize("what", ["a part", "not a number", "the score", "the document"])
@pytest.mark.parametrize("mode", ["dense", "weighted"])
def test_one_wrong_hit_is_seen(mode: str, what: str) -> None:
    oracle = random_oracle(13)
    answers = perfect_answers(oracle)
    answers[mode][1][-1] = _worse(answers[mode][1][-1], what)
    assert judge(answers, range(3), [0, 1, 2], oracle, oracle, TINY).wrong


def test_a_lost_document_costs_recall() -> None:
    oracle = random_oracle(14)
    answers = perfect_answers(oracle)
    ranking = oracle.ranking("dense", 0)
    eleventh = int(best(ranking, 11)[-1])
    parts = {name: float(getattr(oracle, name)[0, eleventh]) for name in TINY}
    answers["dense"][0][-1] = (eleventh, float(ranking[eleventh]), parts)
    verdict = judge(answers, range(3), [0, 1, 2], oracle, oracle, TINY)
    assert verdict.wrong == []
    assert verdict.recall["dense"] == pytest.approx(29 / 30)


def test_lists_that_differ() -> None:
    one: list[Found] = [[(4, 0.5, {}), (7, 0.25, {}), (9, 0.25, {})]]
    assert same_lists(one, one) is None
    assert same_lists(one, [[one[0][0], one[0][2], one[0][1]]]) is None  # a tie changed places
    assert same_lists(one, [[one[0][0], one[0][1], (3, 0.25, {})]]) is None  # and at the end
    assert same_lists(one, [one[0][:2]]) is not None
    assert same_lists(one, [[(5, 0.5, {}), *one[0][1:]]]) is not None
    assert same_lists(one, [[(4, 0.5001, {}), *one[0][1:]]]) is not None


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("results")
    arguments = ["store", "--quick", "--documents", "60", "--seed", "7", "--out", str(out)]
    arguments += ["--location", str(tmp_path_factory.mktemp("collections"))]
    for pattern in ("token_pooling=2", "in-memory mode", IMPOSSIBLE.name):
        arguments += ["--choice", pattern]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choices, "CHOICES", (*CHOICES, IMPOSSIBLE))
        status = main(arguments)
    (path,) = out.glob("store-quick-*.json")
    return status, json.loads(path.read_text()), path


def test_every_choice_agrees(finished: tuple[int, dict[str, Any], Path]) -> None:
    result = finished[1]
    assert [(row["name"], row["status"]) for row in result["choices"]] == [
        ("default", "ok"),
        ("in-memory mode", "ok"),
        ("token_pooling=2", "ok"),
        (IMPOSSIBLE.name, "fails"),
    ]
    default, memory, pooled, _ = result["choices"]
    for row in (default, memory, pooled):
        assert row["write"]["documents"] == 60
        assert row["times"]["weighted, one request"]["p95_s"] > 0
        # so few documents are all candidates, and scanned
        assert row["recall"]["dense"] == row["recall"]["sparse"] == 1
    assert default["write"]["tokens"] == memory["write"]["tokens"] == result["tokens"]
    assert pooled["write"]["tokens"] < 0.6 * result["tokens"]
    assert pooled["write"]["disk_bytes"] < default["write"]["disk_bytes"]
    assert default["memory_bytes"]["mapped"] > 0
    for mode in ("colbert", "rrf", "dbsf", "weighted"):
        assert default["recall"][mode] == memory["recall"][mode] == 1


def test_a_choice_that_can_not_be_made_fails_alone(
    finished: tuple[int, dict[str, Any], Path],
) -> None:
    status, result, _ = finished
    assert status == 1
    (line,) = suite.failures(result)
    assert line.startswith("colbert_datatype=float8: build: InputError: colbert_datatype")


def test_what_the_file_says(finished: tuple[int, dict[str, Any], Path]) -> None:
    _, result, _ = finished
    assert result["seed"] == 7
    assert {"qdrant-client", "qdrant-edge-py", "torch"} <= result["versions"].keys()
    text = json.dumps(result)
    for private in (str(Path.home()), os.uname().nodename):
        assert private not in text


def test_its_plots(finished: tuple[int, dict[str, Any], Path]) -> None:
    pytest.importorskip("matplotlib")
    path = finished[2]
    assert main(["plot", str(path)]) == 0
    assert {file.name.removeprefix(path.stem) for file in path.parent.iterdir()} == {
        ".json",
        "-costs.png",
        "-engines.png",
    }


def test_beside_what_is_installed(tmp_path: Path) -> None:
    arguments = ["store", "--quick", "--documents", "40", "--no-choices", "--peers"]
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("QDRANT_URL", raising=False)
        assert main([*arguments, "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("beside-quick-*.json")
    rows = {row["name"]: row for row in json.loads(path.read_text())["peers"]}
    for name in ("m3qdrant, embedded", "qdrant-client's local mode"):
        assert rows[name]["status"] == "ok"
        assert rows[name]["recall"] == 1  # so few documents are all candidates
        assert rows[name]["documents_s"] > 0
    assert {row["status"] for row in rows.values()} <= {"ok", "not installed"}


def test_nothing_to_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QDRANT_URL", raising=False)
    with pytest.raises(SystemExit):
        main(["store", "--quick", "--no-choices"])


def test_a_server_beside_qdrant_client(tmp_path: Path) -> None:
    if not os.environ.get("QDRANT_URL"):
        pytest.skip("QDRANT_URL names no server")
    assert main(["store", "--quick", "--no-choices", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("beside-quick-*.json")
    rows = json.loads(path.read_text())["server"]
    assert [row["way"] for row in rows] == ["write"] * 2 + ["read"] * 3
    assert all(row["documents_s"] > 0 and row["cpu_s"] > 0 for row in rows)
