"""m3kernels, through its public functions, in the ways that are timed."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.kernels.bench import Bench, Contender, Inputs, Prepared, Unsupported
from benchmarks.timing import capture

__all__ = ["contenders"]


def contenders(bench: Bench, device: str) -> tuple[Contender, ...]:
    """Return who is timed on a device, "cuda" or "cpu", ours first."""
    ours = Contender("m3kernels", "m3kernels", _as_it_picks, ours=True, required=True)
    if device != "cuda":
        return (ours, *bench.peers)
    graph = Contender("m3kernels, CUDA graph", "m3kernels, CUDA graph", _captured, ours=True)
    plain = Contender(
        "m3kernels, torch", "m3kernels, torch", _plain_torch, ours=True, required=True
    )
    return (ours, graph, *bench.ours_too, plain, *bench.peers)


def _as_it_picks(inputs: Inputs) -> Prepared:
    """The op as its defaults pick it."""
    return inputs.ours(None)


def _plain_torch(inputs: Inputs) -> Prepared:
    """The op's plain torch backend."""
    prepared = inputs.ours("torch")
    return replace(prepared, note=", ".join(filter(None, ["backend='torch'", prepared.note])))


def _captured(inputs: Inputs) -> Prepared:
    """The op replayed from a CUDA graph, which leaves the launches' cost on the CPU out."""
    prepared = inputs.ours(None)
    try:
        replay, output = capture(prepared.run)
    except RuntimeError as error:
        raise Unsupported(f"no capture: {str(error).splitlines()[0]}") from error
    return Prepared(replay, lambda _: prepared.result(output), "replay of a CUDA graph")
