"""compute-sanitizer over small calls of each op: memory, races, what is read before it is written.

Called with an argument, this module is the program that the sanitizer watches.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import Any

import m3kernels
import torch
from m3kernels.packing import from_lengths

from benchmarks import ROOT
from benchmarks.gpu.environment import device_of

__all__ = ["run", "small_calls"]

_TOOLS = ("memcheck", "racecheck", "initcheck")
_SECONDS = 40.0


def run(*, dry: bool) -> dict[str, Any]:
    """Run each tool over the small calls; in a rehearsal the calls alone."""
    if dry:
        small_calls(device_of(dry=True))
        return {"status": "skipped", "summary": "a rehearsal: the calls ran, unwatched"}
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        return {"status": "skipped", "summary": "compute-sanitizer is not installed"}
    tools: dict[str, dict[str, Any]] = {}
    for tool in _TOOLS:
        command = [sanitizer, "--tool", tool, "--error-exitcode", "9"]
        command += [sys.executable, "-m", "benchmarks.gpu.sanitizer"]
        try:
            done = subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, timeout=_SECONDS
            )
        except subprocess.TimeoutExpired:
            tools[tool] = {"status": "hung", "tail": f"no end after {_SECONDS:.0f} s"}
            continue
        status = {0: "ok", 9: "wrong"}.get(done.returncode, "crashed")
        tools[tool] = {"status": status, "tail": (done.stdout + done.stderr)[-1500:]}
    bad = [tool for tool, outcome in tools.items() if outcome["status"] != "ok"]
    return {
        "status": "wrong" if bad else "ok",
        "summary": ", ".join(f"{tool} {outcome['status']}" for tool, outcome in tools.items()),
        "tools": tools,
    }


def small_calls(device: torch.device) -> None:
    """Call each op once on ragged inputs that end within a tile."""
    torch.manual_seed(0)
    cu_q, cu_d = from_lengths([3, 0, 30]).to(device), from_lengths([40, 0, 1, 95]).to(device)
    queries, documents = torch.randn(33, 64), torch.randn(136, 64)
    pairs = torch.tensor([[2, 3], [0, 1], [1, 0]], device=device)
    options: dict[str, Any] = {"backend": "triton", "validate": False}
    for dtype in (torch.float32, torch.float16):
        batch = (queries.to(device, dtype), cu_q, documents.to(device, dtype), cu_d)
        m3kernels.maxsim(*batch, **options)
        m3kernels.maxsim(*batch, pairs=pairs, **options)
    narrow, scales = m3kernels.quantize_tokens(documents.to(device))
    batch = (queries.to(device), cu_q, narrow, cu_d)
    m3kernels.maxsim(*batch, document_scales=scales, **options)
    m3kernels.maxsim(*batch, document_scales=scales, pairs=pairs, **options)
    ids = torch.randint(0, 40, (136,), device=device)
    weight, bias = torch.randn(64, device=device), torch.zeros((), device=device)
    csr = m3kernels.sparse_max(
        documents.to(device), weight, bias, ids, cu_d, backend="triton", validate=False
    )
    m3kernels.lexical_scores(csr, csr, backend="triton", validate=False)
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    small_calls(device_of(dry=False))
