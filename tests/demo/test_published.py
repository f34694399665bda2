"""verify: the published figures beside a model's own."""

from __future__ import annotations

import json
import math

import pytest

from m3qdrant import M3Encoder, scoring
from m3qdrant.demo import TOLERANCE, Figure, Verification, verify
from m3qdrant.demo.published import TUTORIAL_PASSAGES, TUTORIAL_QUERIES


@pytest.fixture(scope="module")
def verification(encoder: M3Encoder) -> Verification:
    return verify(encoder)


def test_published_figures_do_not_apply_to_a_tiny_model(
    verification: Verification, encoder: M3Encoder
) -> None:
    assert verification.model == encoder.name
    assert verification.applies is False
    assert verification.passed is None
    assert not any(figure.agrees for figure in verification.figures if figure.computed is None)


def test_they_apply_to_a_model_of_the_published_shape(
    encoder: M3Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = encoder.model.body.config
    for name, value in (("hidden_size", 1024), ("num_hidden_layers", 24), ("vocab_size", 250_002)):
        monkeypatch.setattr(config, name, value)
    found = verify(encoder)
    assert found.applies is True
    assert found.passed is False  # random weights don't give the published figures


def test_all_figures_are_listed(verification: Verification) -> None:
    names = [figure.name for figure in verification.figures]
    pairs = [f"q{q}-p{p}" for q in (0, 1) for p in (0, 1)]
    terms = [f"term {term!r}" for term in ("What", "is", "B", "GE", "M", "3", "?")]
    assert names == [
        *(f"dense {pair}" for pair in pairs),
        *(f"{view} {pair}" for view in ("lexical", "colbert") for pair in pairs[:2]),
        *(f"weighted 1:1:1 {pair}" for pair in pairs[:2]),
        *terms,
    ]


def test_a_computed_figure_is_the_models_own_score(
    verification: Verification, encoder: M3Encoder
) -> None:
    queries, passages = encoder.encode(TUTORIAL_QUERIES), encoder.encode(TUTORIAL_PASSAGES)
    computed = {
        figure.name: figure.computed
        for figure in verification.figures
        if figure.computed is not None
    }
    for view in ("dense", "lexical", "colbert"):
        scores = getattr(scoring, view)(queries, passages)
        assert computed[f"{view} q0-p1"] == pytest.approx(scores[0, 1].item(), abs=1e-6)
    parts = [computed[f"{view} q0-p0"] for view in ("dense", "lexical", "colbert")]
    assert computed["weighted 1:1:1 q0-p0"] == pytest.approx(sum(parts) / 3, abs=1e-6)
    for term, weight in encoder.tokens(queries[0])[0].items():
        if (name := f"term {term!r}") in computed:
            assert computed[name] == weight
    assert any(computed[name] for name in computed if name.startswith("term"))


@pytest.mark.parametrize(
    ("computed", "agrees"),
    [
        (0.5, True),
        (0.5 + 0.9 * TOLERANCE, True),
        (0.5 - 0.9 * TOLERANCE, True),
        (0.5 + 1.1 * TOLERANCE, False),
        (0.5 - 1.1 * TOLERANCE, False),
        (None, False),
        (math.nan, False),
    ],
)
def test_a_figure_agrees_within_the_tolerance(computed: float | None, agrees: bool) -> None:
    assert Figure("dense q0-p0", 0.5, computed).agrees is agrees


@pytest.mark.parametrize(
    ("applies", "computed", "passed"),
    [
        (True, (0.1, 0.2), True),
        (True, (0.1, 0.3), False),
        (True, (0.1, None), False),
        (False, (0.1, 0.2), None),
        (False, (0.1, 0.3), None),
    ],
)
def test_it_passed_when_every_figure_agrees(
    applies: bool, computed: tuple[float | None, ...], passed: bool | None
) -> None:
    figures = tuple(
        Figure(f"figure {i}", published, ours)
        for i, (published, ours) in enumerate(zip((0.1, 0.2), computed, strict=True))
    )
    verification = Verification("a model", applies, figures)
    assert verification.passed is passed
    assert verification.to_dict() == {
        "model": "a model",
        "applies": applies,
        "figures": [
            {
                "name": figure.name,
                "published": figure.published,
                "computed": figure.computed,
                "agrees": figure.agrees,
            }
            for figure in figures
        ],
        "passed": passed,
        "tolerance": TOLERANCE,
    }


def test_to_dict_passes_json(verification: Verification) -> None:
    value = verification.to_dict()
    assert json.loads(json.dumps(value, allow_nan=False)) == value
