"""A forked child encodes, or refuses at once; it never hangs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="others spawn processes")

# The parent works first; CHILD runs in a forked process, and says how it went.
_PROGRAM = """
import multiprocessing, sys, threading, time, warnings
import torch
from m3qdrant import M3Encoder
from m3qdrant.errors import EncodeError

torch.set_num_threads({threads})
encoder = M3Encoder.from_pretrained(sys.argv[1])
other = M3Encoder.from_pretrained(sys.argv[1])
texts = ["the quick brown fox " * 8] * 60
expected = encoder.encode(texts).dense if {warm} else None


def child():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            {call}
            print("fine", torch.get_num_threads(), len(caught), flush=True)
        except EncodeError as error:
            print("refused", error, flush=True)


if {busy}:
    from m3qdrant.encode.network import M3Model
    inside, forward = threading.Event(), M3Model.forward

    def slow(*arguments):
        inside.set()
        time.sleep(3)
        return forward(*arguments)

    M3Model.forward = slow
    thread = threading.Thread(target=lambda: encoder.encode("a"), daemon=True)
    thread.start()
    inside.wait()
    M3Model.forward = forward
process = multiprocessing.get_context("fork").Process(target=child)
process.start()
process.join(60)
print("HANGS" if process.is_alive() else process.exitcode)
process.kill()
"""
_ENCODE = (
    "got = encoder.encode(texts).dense; "
    "assert expected is None or (got - expected).abs().max() < 1e-5"
)


def run(checkpoint: Path, *, call: str = _ENCODE, threads: int, warm: bool, busy: bool) -> str:
    code = _PROGRAM.format(threads=threads, warm=warm, busy=busy, call=call)
    done = subprocess.run(
        [sys.executable, "-c", code, str(checkpoint)],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.thinned(2)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_a_child_of_a_parent_at_rest_encodes(checkpoint: Path, threads: int, warm: bool) -> None:
    """On one thread: torch's others stayed with the parent, which is said where it matters."""
    out = run(checkpoint, threads=threads, warm=warm, busy=False)
    assert out == f"fine 1 {threads - 1}\n0\n"


@pytest.mark.parametrize("who", ["encoder", "other"])
def test_a_child_of_a_parent_at_work_refuses(checkpoint: Path, who: str) -> None:
    """Whichever encoder was at work: what torch holds meanwhile is everybody's."""
    out = run(checkpoint, call=f"{who}.encode(texts)", threads=1, warm=True, busy=True)
    assert out.startswith("refused this process was forked while another thread was encoding")
    assert "spawn" in out
    assert out.endswith("\n0\n")


@pytest.mark.slow
def test_a_child_may_load_a_model_of_its_own(checkpoint: Path) -> None:
    call = "M3Encoder.from_pretrained('m3-tiny').encode(texts)"
    out = run(checkpoint, call=call, threads=2, warm=True, busy=False)
    assert out.startswith("fine 1")
