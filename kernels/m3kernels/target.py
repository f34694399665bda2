"""The GPUs that the kernels are made for: what each one can do, and which one a device is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch

__all__ = ["INTERPRETER", "TARGETS", "Target", "of", "processors"]


@dataclass(frozen=True)
class Target:
    """A GPU architecture, as far as the launch tables look at it.

    Attributes:
        name: "sm_90" or "gfx942".
        family: whose launch tables it uses: "sm_80", "sm_90", "sm_100", "gfx942" or "interpreter".
        shared_memory: bytes that a block may ask for.
        tma: tensor descriptors load tiles in hardware.
        fp8: float8_e4m3fn can be widened by the compiler.
        triton: the oldest release that compiles the kernels for it, (major, minor).
    """

    name: str
    family: str
    shared_memory: int
    tma: bool
    fp8: bool
    triton: tuple[int, int] = (3, 6)

    @property
    def backend(self) -> str:
        """Triton's name for the compiler: "cuda" or "hip"."""
        return "cuda" if self.name.startswith("sm_") else "hip"

    @property
    def warp_size(self) -> int:
        """Lanes of a warp."""
        return 32 if self.backend == "cuda" else 64

    @property
    def arch(self) -> int | str:
        """Triton's name for the architecture: 90 or "gfx942"."""
        return int(self.name.removeprefix("sm_")) if self.backend == "cuda" else self.name


# On sm_80 descriptors compile to plain loads that lose their pipelining; sm_89 and sm_120 have
# two thirds of its shared memory, so the sm_80 tables stay below that.
TARGETS = {
    target.name: target
    for target in (
        Target("sm_80", "sm_80", 166_912, tma=False, fp8=False),
        Target("sm_86", "sm_80", 101_376, tma=False, fp8=False),
        Target("sm_89", "sm_80", 101_376, tma=False, fp8=True),
        Target("sm_90", "sm_90", 232_448, tma=True, fp8=True),
        # triton 3.6 never ends compiling MaxSim for it
        Target("sm_100", "sm_100", 232_448, tma=True, fp8=True, triton=(3, 9)),
        Target("sm_120", "sm_80", 101_376, tma=False, fp8=True),
        Target("gfx942", "gfx942", 65_536, tma=False, fp8=False),
    )
}

# What the interpreter stands in for. Its tiles are small: it takes a max one number at a time, and
# small tiles have as many edges in a test as large ones have in earnest.
INTERPRETER = replace(TARGETS["sm_90"], family="interpreter")


@cache
def processors(device: torch.device) -> int:
    """Multiprocessors of a device; 2 for the interpreter, which runs one program at a time."""
    if device.type != "cuda":
        return 2
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@cache
def of(device: torch.device) -> Target | None:
    """Return the target that a CUDA or ROCm device is, or None where the kernels don't run."""
    if device.type != "cuda":
        return None
    if torch.version.hip is not None:
        arch = torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
        return TARGETS.get(arch)
    major, minor = torch.cuda.get_device_capability(device)
    exact = TARGETS.get(f"sm_{major}{minor}")
    # A newer card of a known generation (sm_87, sm_103, sm_121) runs as the least of it.
    generation = {8: "sm_86", 9: "sm_90", 10: "sm_100", 12: "sm_120"}.get(major)
    return exact or (TARGETS[generation] if generation else None)
