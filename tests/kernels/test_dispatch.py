from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest
import torch
from m3kernels import dispatch, target
from m3kernels.dispatch import choose
from m3kernels.target import INTERPRETER, TARGETS

CPU = torch.device("cpu")
CUDA = torch.device("cuda", 0)
META = torch.device("meta")

Release = tuple[int, int]


@pytest.fixture(autouse=True)
def _fresh_caches() -> Iterator[None]:
    caches = (target.of, target.processors, dispatch.triton_version)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


@pytest.fixture
def interpreter(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Set whether Triton interprets."""

    def set_it(on: bool) -> None:
        if on:
            monkeypatch.setenv("TRITON_INTERPRET", "1")
        else:
            monkeypatch.delenv("TRITON_INTERPRET", raising=False)

    set_it(False)
    return set_it


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend that device 0 is a card of this capability, or of this AMD architecture."""

    def set_it(
        capability: tuple[int, int] | None = None,
        arch: str | None = None,
        name: str | None = "A card",
    ) -> None:
        target.of.cache_clear()
        monkeypatch.setattr(torch.version, "hip", "6.4" if arch else None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        properties = SimpleNamespace(gcnArchName=arch, multi_processor_count=132)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)

    return set_it


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> Callable[[Release | None], None]:
    """Pretend that this release of Triton is installed, or none."""

    def set_it(release: Release | None) -> None:
        monkeypatch.setattr(dispatch, "triton_version", lambda: release)

    set_it((3, 6))
    return set_it


@pytest.mark.parametrize(
    ("capability", "name"),
    [
        ((8, 0), "sm_80"),
        ((8, 6), "sm_86"),
        ((8, 9), "sm_89"),
        ((9, 0), "sm_90"),
        ((10, 0), "sm_100"),
        ((12, 0), "sm_120"),
        # newer ones of a known generation
        ((8, 7), "sm_86"),
        ((10, 3), "sm_100"),
        ((12, 1), "sm_120"),
        # older and unknown generations
        ((7, 0), None),
        ((7, 5), None),
        ((11, 0), None),
        ((13, 0), None),
    ],
    ids=str,
)
def test_the_target_of_a_card(
    card: Callable[..., None], capability: tuple[int, int] | None, name: str | None
) -> None:
    card(capability)
    found = target.of(CUDA)
    assert found == (TARGETS[name] if name else None)
    assert dispatch.target_of(CUDA) is found


@pytest.mark.parametrize(
    ("arch", "name"),
    [("gfx942:sramecc+:xnack-", "gfx942"), ("gfx942", "gfx942"), ("gfx90a", None)],
)
def test_the_target_of_an_amd_card(
    card: Callable[..., None], arch: str | None, name: str | None
) -> None:
    card(arch=arch)
    assert target.of(CUDA) == (TARGETS[name] if name else None)


def test_the_target_of_what_is_no_card(interpreter: Callable[[bool], None]) -> None:
    for device in (CPU, META):
        assert target.of(device) is None
        assert dispatch.target_of(device) is None
    interpreter(True)
    assert dispatch.interpreting()
    assert dispatch.target_of(CPU) is INTERPRETER
    assert dispatch.target_of(META) is None


def test_the_interpreter_stands_for_no_card(
    interpreter: Callable[[bool], None], card: Callable[..., None]
) -> None:
    interpreter(True)
    card((8, 0))
    assert dispatch.target_of(CUDA) is TARGETS["sm_80"]
    card((7, 5))
    assert dispatch.target_of(CUDA) is None


@pytest.mark.parametrize("value", ["0", "", "true"])
def test_only_1_means_the_interpreter(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", value)
    assert not dispatch.interpreting()


def test_targets() -> None:
    families = {"sm_80", "sm_90", "sm_100", "gfx942"}
    for name, of in TARGETS.items():
        assert of.name == name
        assert of.family in families
        # Its kernels come from the family's tables, which must not use what it lacks.
        assert of.tma == TARGETS[of.family].tma
    assert (TARGETS["sm_90"].backend, TARGETS["sm_90"].arch) == ("cuda", 90)
    assert TARGETS["sm_90"].warp_size == 32
    assert (TARGETS["gfx942"].backend, TARGETS["gfx942"].arch) == ("hip", "gfx942")
    assert TARGETS["gfx942"].warp_size == 64
    assert INTERPRETER.backend == "cuda"


def test_processors(card: Callable[..., None]) -> None:
    assert target.processors(CPU) == 2
    card((9, 0))
    assert target.processors(CUDA) == 132


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("device", [CPU, CUDA, META], ids=str)
def test_the_plain_backends_run_everywhere(
    triton: Callable[[Release | None], None], device: torch.device, backend: str
) -> None:
    triton(None)
    assert choose("op", backend, device, "it is too large") == backend


def test_the_best_backend_on_a_card(
    triton: Callable[[Release | None], None], card: Callable[..., None]
) -> None:
    card((9, 0))
    assert choose("op", None, CUDA, None) == "triton"
    assert choose("op", "triton", CUDA, None) == "triton"
    assert choose("op", None, CUDA, "it is too large") == "torch"
    triton((3, 5))
    assert choose("op", None, CUDA, None) == "torch"
    triton(None)
    assert choose("op", None, CUDA, None) == "torch"
    triton((3, 6))
    card((7, 5))
    assert choose("op", None, CUDA, None) == "torch"


def test_the_best_backend_on_a_cpu(
    triton: Callable[[Release | None], None], interpreter: Callable[[bool], None]
) -> None:
    assert choose("op", None, CPU, None) == "torch"
    # The interpreter is for tests: it runs only where it is asked for.
    interpreter(True)
    assert choose("op", None, CPU, None) == "torch"
    assert choose("op", "triton", CPU, None) == "triton"


@pytest.mark.parametrize("backend", ["cuda", "Triton", ""])
def test_an_unknown_backend(backend: str) -> None:
    with pytest.raises(ValueError, match="backend is") as error:
        choose("op", backend, CPU, None)
    assert str(error.value) == (
        f"backend is {backend!r}; expected None or one of 'triton', 'torch', 'reference'"
    )


def cant(op: str, device: torch.device, unsupported: str | None = None) -> str:
    with pytest.raises(ValueError, match="can't run") as error:
        choose(op, "triton", device, unsupported)
    prefix, suffix = f"{op} can't run backend='triton': ", "; use backend='torch'"
    message = str(error.value)
    assert message.startswith(prefix)
    assert message.endswith(suffix)
    return message.removeprefix(prefix).removesuffix(suffix)


def test_why_triton_cant_run(
    triton: Callable[[Release | None], None],
    card: Callable[..., None],
    interpreter: Callable[[bool], None],
) -> None:
    card((9, 0))
    assert cant("op", CUDA, "it is too large") == "it is too large"
    need = "it needs a GPU (or TRITON_INTERPRET=1)"
    assert cant("lexical_scores", CPU) == f"the tensors are on cpu, and {need}"
    assert cant("op", META) == f"the tensors are on meta, and {need}"
    interpreter(True)
    assert cant("op", META) == f"the tensors are on meta, and {need}"
    assert cant("op", CPU, "it is too large") == "it is too large"
    card((7, 5), name="Quadro RTX 6000")
    assert cant("op", CUDA) == "no launch table is made for Quadro RTX 6000"
    card((9, 0))
    for release in ((3, 5), (2, 9)):
        triton(release)
        found = f"{release[0]}.{release[1]}"
        assert cant("op", CUDA) == f"triton is {found}, and sm_90 needs 3.6 or newer"
    triton(None)
    assert cant("op", CUDA, "it is too large") == "triton is not installed"


def test_a_card_may_need_a_newer_triton(
    triton: Callable[[Release | None], None],
    card: Callable[..., None],
    interpreter: Callable[[bool], None],
) -> None:
    card((10, 0))
    triton((3, 8))
    assert cant("op", CUDA) == "triton is 3.8, and sm_100 needs 3.9 or newer"
    assert choose("op", None, CUDA, None) == "torch"
    triton((3, 9))
    assert choose("op", None, CUDA, None) == "triton"


@pytest.mark.parametrize("release", [(3, 6), (3, 9), (3, 10), (4, 0)], ids=str)
def test_a_triton_that_is_new_enough(
    triton: Callable[[Release | None], None], card: Callable[..., None], release: Release
) -> None:
    card((9, 0))
    triton(release)
    assert choose("op", "triton", CUDA, None) == "triton"


@pytest.mark.parametrize(
    ("installed", "release"),
    [
        ({"triton": "3.6.0"}, (3, 6)),
        ({"triton": "3.10.1+git1234"}, (3, 10)),
        ({"pytorch-triton": "3.7.0+gitabc"}, (3, 7)),
        ({"pytorch-triton-rocm": "3.6.0"}, (3, 6)),
        ({"triton": "3.8.0", "pytorch-triton": "3.1.0"}, (3, 8)),
        ({}, None),
    ],
    ids=str,
)
def test_the_installed_triton(
    monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], release: Release | None
) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(dispatch, "version", version)
    assert dispatch.triton_version() == release
