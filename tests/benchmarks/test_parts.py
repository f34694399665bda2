"""The benchmarks' pure parts: cases, work, references, checks, summaries and tables."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from benchmarks import timing
from benchmarks.kernels import case_tables
from benchmarks.kernels.cases import cases, draw, key
from benchmarks.kernels.expected import Work, check_values
from benchmarks.kernels.ops import NAMES, lexical, maxsim, sparse_max
from benchmarks.kernels.ops.lexical import Lexical, LexicalInputs
from benchmarks.kernels.ops.maxsim import Lengths, MaxSim, MaxSimInputs
from benchmarks.kernels.ops.sparse_max import SparseMax, SparseMaxInputs
from benchmarks.kernels.runner import failures
from benchmarks.machine import slug

CPU = torch.device("cpu")
RAGGED = Lengths("uniform", 1, 9)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("quick", [False, True])
def test_case_names_are_unique(device: str, quick: bool) -> None:
    found = [key(case) for case in cases(device, quick=quick)]
    assert len(found) == len(set(found))
    assert {name.partition("/")[0] for name in found} == set(NAMES)


def test_patterns_choose_cases() -> None:
    chosen = cases("cuda", quick=False, patterns=["sparse_max/*", "maxsim/int8"])
    assert [key(case) for case in chosen] == [
        "maxsim/int8",
        "sparse_max/1x64",
        "sparse_max/64x512",
        "sparse_max/8x8192",
        "sparse_max/512x128",
    ]


def test_the_work_of_the_base_case() -> None:
    case = MaxSim("base", 1, 32, 1000, Lengths("fixed", 512, 512), 1024, "bfloat16")
    work = case.work(512_000)
    assert work.flops == 2 * 32 * 512_000 * 1024
    assert work.bytes == 2 * 1024 * (512_000 + 32) + 4 * 1000
    # the figures of an H200: memory bounds this case
    seconds, bound = work.floor(4.3e12, 790e12)
    assert seconds == pytest.approx(0.244e-3, rel=1e-2)
    assert bound == "memory"
    many = MaxSim("many", 128, 32, 1000, Lengths("fixed", 512, 512), 1024, "bfloat16")
    seconds, bound = many.work(512_000).floor(4.3e12, 790e12)
    assert seconds == pytest.approx(5.4e-3, rel=1e-2)
    assert bound == "compute"


def test_quantized_documents_count_their_scales() -> None:
    case = MaxSim("int8", 1, 32, 10, Lengths("fixed", 8, 8), 64, "bfloat16", "int8")
    assert case.work(80).bytes == 32 * 64 * 2 + 80 * (64 + 4) + 4 * 10


def test_the_floor_is_the_larger_bound() -> None:
    assert Work(bytes=100, flops=10).floor(10.0, 10.0) == (10.0, "memory")
    assert Work(bytes=10, flops=100).floor(10.0, 10.0) == (10.0, "compute")


def test_inputs_come_from_the_seed() -> None:
    case = MaxSim("a", 2, 3, 5, RAGGED, 8, "float32")
    one, same, other = (draw(case, seed, CPU) for seed in (1, 1, 2))
    assert isinstance(one, MaxSimInputs)
    assert isinstance(same, MaxSimInputs)
    assert isinstance(other, MaxSimInputs)
    assert one.documents.equal(same.documents)
    assert one.lengths == same.lengths
    assert not one.queries.equal(other.queries)
    torch.testing.assert_close(one.documents.norm(dim=1), torch.ones(sum(one.lengths)))


def test_padded_documents_hold_the_packed_ones() -> None:
    inputs = draw(MaxSim("a", 1, 3, 7, RAGGED, 8, "float32"), 3, CPU)
    assert isinstance(inputs, MaxSimInputs)
    padded = inputs.padded_documents()
    assert padded[inputs.mask()].equal(inputs.documents)
    for i, document in enumerate(inputs.each_document()):
        assert padded[i, : inputs.lengths[i]].equal(document)


def test_maxsim_reference() -> None:
    inputs = draw(MaxSim("a", 3, 4, 50, RAGGED, 16, "float32"), 4, CPU)
    assert isinstance(inputs, MaxSimInputs)
    expected = torch.stack(
        [
            torch.stack(
                [(q.double() @ d.double().T).amax(1).mean() for d in inputs.each_document()]
            )
            for q in inputs.padded_queries()
        ]
    )
    torch.testing.assert_close(maxsim.exact(inputs), expected)


def test_sparse_max_reference() -> None:
    inputs = draw(SparseMax("a", 3, 40, 8, "float32"), 5, CPU)
    assert isinstance(inputs, SparseMaxInputs)
    expected: dict[tuple[int, int], float] = {}
    for place, token_id in enumerate(inputs.token_ids.tolist()):
        state = inputs.hidden[place].double()
        weight = float(state @ inputs.weight.double() + inputs.bias.double())
        row = place // 40, token_id
        if token_id > 3 and weight > 0:
            expected[row] = max(weight, expected.get(row, 0.0))
    indptr, indices, values = sparse_max.exact(inputs)
    rows = torch.repeat_interleave(torch.arange(3), indptr.diff()).tolist()
    found = zip(rows, indices.tolist(), values.tolist(), strict=True)
    assert {(row, i): value for row, i, value in found} == pytest.approx(expected)


def test_lexical_reference() -> None:
    inputs = draw(Lexical("a", 3, 20, 12, 50), 6, CPU)
    assert isinstance(inputs, LexicalInputs)
    scores, matches = lexical.exact(inputs)
    counted = 0
    for i in range(3):
        for j in range(20):
            query, document = (
                dict(
                    zip(
                        csr[1][csr[0][k] : csr[0][k + 1]].tolist(),
                        csr[2][csr[0][k] : csr[0][k + 1]].tolist(),
                        strict=True,
                    )
                )
                for csr, k in ((inputs.queries, i), (inputs.documents, j))
            )
            shared = query.keys() & document.keys()
            counted += len(shared)
            assert float(scores[i, j]) == pytest.approx(
                sum(query[k] * document[k] for k in shared)
            )
    assert matches == counted > 0


@pytest.mark.parametrize(
    ("change", "ok"), [(1e-7, True), (1e-3, False), (float("nan"), False), (float("inf"), False)]
)
def test_a_single_wrong_value_fails(change: float, ok: bool) -> None:
    expected = torch.rand(1000, dtype=torch.float64) + 0.5
    got = expected.float()
    got[17] += change
    assert check_values(got, expected, 2e-5).ok == ok


def test_another_shape_fails() -> None:
    check = check_values(torch.ones(3), torch.ones(4, dtype=torch.float64), 1.0)
    assert not check.ok
    assert "shape" in str(check)


def test_csr_checks() -> None:
    inputs = draw(SparseMax("a", 2, 30, 8, "float32"), 7, CPU)
    expected = inputs.expected()
    assert isinstance(expected.values, tuple)
    indptr, indices, values = expected.values
    assert expected.check((indptr, indices.int(), values.float())).ok
    assert not expected.check((indptr, indices.flip(0), values.flip(0))).ok
    doubled = values.clone()
    doubled[0] *= 2
    assert not expected.check((indptr, indices, doubled)).ok
    # the last entry left out
    shorter = indptr.clone()
    shorter[-1] -= 1
    assert not expected.check((shorter, indices[:-1], values[:-1])).ok


def test_summary() -> None:
    found = timing.summary([4.0, 1.0, 3.0, 2.0, 5.0])
    assert found == {
        "median_s": 3.0,
        "min_s": 1.0,
        "p10_s": pytest.approx(1.4),
        "p90_s": pytest.approx(4.6),
        "repeats": 5,
    }


def test_contenders_are_timed_in_turn() -> None:
    class Clock:
        cache_bytes = 0

        def once(self, run: timing.Run) -> float:
            return float(run())

    calls: list[str] = []
    samples = timing.in_turn(
        Clock(),
        {"a": lambda: 1.0, "b": lambda: 2.0},
        {"a": 1.0, "b": 2.0},
        budget=9.0,
        repeats=(1, 10),
        before=calls.append,
    )
    assert samples == {"a": [1.0] * 3, "b": [2.0] * 3}
    assert calls == ["a", "b", "b", "a", "a", "b", "b", "a"]


def _row(name: str, seconds: float | None, *, ours: bool = False) -> dict[str, object]:
    row: dict[str, object] = {"name": name, "family": name, "ours": ours, "required": ours}
    if seconds is None:
        return row | {"status": "wrong", "reason": "max error 0.1"}
    return row | {
        "status": "ok",
        "median_s": seconds,
        "p10_s": seconds,
        "p90_s": seconds,
        "error": {"relative": 0.0, "largest": 1e-7},
        "note": "",
    }


def test_a_wrong_contender_has_no_speed() -> None:
    case = {
        "name": "maxsim/a",
        "shapes": "shapes",
        "bytes": 1000,
        "flops": 10,
        "floor_s": 1e-6,
        "bound": "memory",
        "contenders": [_row("us", 2e-6, ours=True), _row("fast", 4e-6), _row("broken", None)],
    }
    assert case_tables.best_peer(case) == 4e-6
    lines = case_tables.block(case).splitlines()
    assert lines[-1] == "  broken: wrong: max error 0.1"
    ours = next(line for line in lines if line.startswith("  us "))
    assert ours.split() == ["us", "2.0", "2.0", "to", "2.0", "0.500", "GB/s", "50.0", "2.00", "x",
                            "1.0e-07"]  # fmt: skip
    assert failures({"cases": [case]}) == []
    case["contenders"] = [_row("us", None, ours=True)]
    assert failures({"cases": [case]}) == ["maxsim/a: us: max error 0.1"]


def test_names_of_machines() -> None:
    assert slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"
    assert slug("Intel(R) Xeon(R) Gold 6130 CPU @ 2.10GHz") == "intel-xeon-gold-6130-cpu-2-10ghz"


def test_a_fresh_clone_finds_the_kernels() -> None:
    # -S leaves site-packages out, and with it an installed m3kernels
    code = (
        "import benchmarks, importlib.util as u, sys\n"
        "assert u.find_spec('m3kernels').origin.startswith(sys.argv[1])\n"
    )
    from benchmarks import ROOT

    subprocess.run(
        [sys.executable, "-S", "-c", code, str(ROOT / "kernels")], check=True, cwd=ROOT, env={}
    )
