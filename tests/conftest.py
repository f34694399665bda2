"""What all tests share: small checkpoints, encoders, and no way to the model hub."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

# before transformers is imported anywhere: a test that forgot its checkpoint fails, and at once
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# some tests press Ctrl-C; a job that a shell started in the background would not notice
signal.signal(signal.SIGINT, signal.default_int_handler)

# tests that start a process of their own find both packages, installed or not
_ROOT = Path(__file__).parent.parent
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(_ROOT), str(_ROOT / "kernels"), *filter(None, [os.environ.get("PYTHONPATH")])]
)

import pytest
import torch
from hypothesis import settings

from tests.thinning import thin

if TYPE_CHECKING:  # the tests of the kernels run without what it needs
    from m3qdrant import M3Encoder

settings.register_profile("m3qdrant", deadline=None)  # no test is timed: machines are noisy
settings.load_profile("m3qdrant")

CHECKPOINTS = Path(__file__).parent / "parity" / "checkpoints"


@pytest.hookimpl(optionalhook=True)  # without pytest-xdist there is none
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """For `-n auto` one more than there are cores: tests wait for disks, clocks and processes."""
    if not hasattr(os, "sched_getaffinity"):
        return None  # pytest-xdist's own
    return len(os.sched_getaffinity(0)) + 1


@pytest.hookimpl(tryfirst=True)  # before those are left out that -m doesn't ask for
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    thin(items)


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    # workers share the cores, and where cores are busy two threads wait for each other
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _garbage() -> None:
    """What modules made stays: the collector need not look through it again and again."""
    with contextlib.suppress(ImportError):  # the tests of the kernels run without it
        import qdrant_client  # noqa: F401
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    """A random BGE-M3-shaped checkpoint of a few hundred kilobytes."""
    return CHECKPOINTS / "safetensors-fp32-heads"


@pytest.fixture(scope="session")
def encoder(checkpoint: Path) -> M3Encoder:
    from m3qdrant import M3Encoder

    return M3Encoder.from_pretrained(checkpoint, dtype=torch.float32)
