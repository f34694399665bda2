"""An op that nobody watches is its function; one that somebody does is torch's custom op."""

from __future__ import annotations

from typing import Any

import m3kernels
import torch
from m3kernels.registering import Op, op
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.kernels.conftest import Dispatched
from tests.kernels.test_maxsim import ragged

CALLS: list[str] = []


@op("m3kernels_test::doubled", schema="(Tensor x) -> Tensor")
def doubled(x: torch.Tensor) -> torch.Tensor:
    CALLS.append("by the dispatcher" if _dispatching() else "by itself")
    return x * 2


@doubled.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


def _dispatching() -> bool:
    import sys

    frame: Any = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename.endswith("custom_ops.py"):
            return True
        frame = frame.f_back
    return False


def how(x: torch.Tensor) -> list[str]:
    CALLS.clear()
    doubled(x)
    return list(CALLS)


def test_a_plain_call() -> None:
    assert isinstance(doubled, Op)
    assert how(torch.ones(3)) == ["by itself"]
    assert how(torch.nn.Parameter(torch.ones(3), requires_grad=False)) == ["by itself"]
    with torch.no_grad():
        assert how(torch.ones(3, requires_grad=True)) == ["by itself"]
    with torch.inference_mode():
        assert how(torch.ones(3)) == ["by itself"]


def test_who_watches_sees_the_op() -> None:
    assert how(torch.ones(3, requires_grad=True)) == ["by the dispatcher"]

    class Mine(torch.Tensor):
        pass

    assert how(torch.ones(3).as_subclass(Mine)) == ["by the dispatcher"]
    seen: list[str] = []
    with Dispatched(lambda function, *_: seen.append(str(function))):
        assert how(torch.ones(3)) == ["by the dispatcher"]
    assert "m3kernels_test.doubled.default" in seen
    with FakeTensorMode():
        assert doubled(torch.empty(7)).shape == (7,)
    CALLS.clear()
    assert torch.func.vmap(lambda x: doubled(x))(torch.ones(2, 3)).tolist() == [[2.0] * 3] * 2
    assert set(CALLS) == {"by the dispatcher"}


def test_a_compiled_call_keeps_the_op() -> None:
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    batch = ragged([3, 0, 2], [4, 1], 16)
    compiled = torch.compile(m3kernels.maxsim, backend=keep, fullgraph=True)
    assert torch.equal(compiled(*batch), m3kernels.maxsim(*batch))
    assert "m3kernels.maxsim" in graphs[0].code
