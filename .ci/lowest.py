"""Pins what pyproject.toml asks for at the oldest versions that it allows: prints constraints."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import tomllib

__all__ = ["lowest"]

_PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"
_REQUIREMENT = re.compile(r"(?P<name>[\w-]+)(?:>=|==|~=)(?P<version>\d[\d.]*\d|\d)")
# a build of torch comes with its own triton, and takes no other
_LEFT_OUT = {"triton"}


def lowest(project: dict[str, Any]) -> list[str]:
    """`name==version` of what a `[project]` table asks for, of its extra `test` too.

    Raises:
        ValueError: a requirement states no lower bound.
    """
    pins = []
    for requirement in project["dependencies"] + project["optional-dependencies"]["test"]:
        found = _REQUIREMENT.match(requirement)
        if found is None:
            raise ValueError(f"pyproject.toml: {requirement!r} states no lower bound")
        if found["name"] not in _LEFT_OUT:
            pins.append(f"{found['name']}=={found['version']}")
    return pins


if __name__ == "__main__":
    print("\n".join(lowest(tomllib.loads(_PYPROJECT.read_text("utf-8"))["project"])))
