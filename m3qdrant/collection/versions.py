"""What a Qdrant server must be for each feature. No I/O.

The numbers are those of Qdrant's documentation ("Available as of") and release notes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from m3qdrant.errors import UnsupportedError

__all__ = ["FEATURES", "Feature", "check", "supports"]


@dataclass(frozen=True)
class Feature:
    """Something that a server may be too old for.

    Attributes:
        since: the first version with it, major and minor.
        what: it, in a message.
        instead: what to do without it; None where only an upgrade helps.
    """

    since: tuple[int, int]
    what: str
    instead: str | None = None


FEATURES: dict[str, Feature] = {
    "multivectors": Feature((1, 10), "multivectors and the query API"),
    "groups": Feature((1, 11), "group_by"),
    # older ones drop it in silence, and with it what tells which model the vectors come from
    "metadata": Feature((1, 16), "metadata of a collection"),
    "quantization turbo4": Feature((1, 18), "quantization 'turbo4'", "use 'int8'"),
    "datatype turbo4": Feature((1, 19), "datatype 'turbo4'", "use 'float16'"),
    "quantization turbo8": Feature((1, 20), "quantization 'turbo8'", "use 'int8'"),
    "datatype turbo8": Feature((1, 20), "datatype 'turbo8'", "use 'float16'"),
}
"""By name. The search modes need no more than the query API."""


def check(feature: str, version: str, where: str) -> None:
    """Check that a server is new enough.

    Args:
        feature: a key of FEATURES.
        version: the server's own, e.g. "1.16.2".
        where: the server, for the message.

    Raises:
        UnsupportedError: it is too old. Names what to do.
    """
    if supports(feature, version):
        return
    needed = FEATURES[feature]
    major, minor = needed.since
    instead = f", or {needed.instead}" if needed.instead else ""
    raise UnsupportedError(
        f"server {version} at {where} is too old for {needed.what} (needs {major}.{minor}): "
        f"upgrade it{instead}"
    )


def supports(feature: str, version: str) -> bool:
    """Whether a server of this version has the feature.

    A version that is no number ("dev", a build of one's own) is taken to be new.
    """
    match = re.match(r"v?(\d+)\.(\d+)", version)
    return match is None or (int(match[1]), int(match[2])) >= FEATURES[feature].since
