"""versions.py: what a server must be for each feature."""

from __future__ import annotations

import pytest

from m3qdrant.collection import versions
from m3qdrant.errors import UnsupportedError

WHERE = "http://h:6333"


@pytest.mark.parametrize("feature", versions.FEATURES)
def test_a_feature_begins_with_its_version(feature: str) -> None:
    major, minor = versions.FEATURES[feature].since
    versions.check(feature, f"{major}.{minor}.0", WHERE)
    versions.check(feature, f"{major}.{minor + 7}.3", WHERE)
    versions.check(feature, f"{major + 1}.0.0", WHERE)
    with pytest.raises(UnsupportedError, match=rf"needs {major}\.{minor}\): upgrade it"):
        versions.check(feature, f"{major}.{minor - 1}.99", WHERE)
    with pytest.raises(UnsupportedError, match=r"server 0\.11\.3 .* is too old for"):
        versions.check(feature, "0.11.3", WHERE)


def test_the_message_says_what_else_there_is() -> None:
    with pytest.raises(UnsupportedError) as caught:
        versions.check("quantization turbo4", "1.12.4", WHERE)
    assert str(caught.value) == (
        "server 1.12.4 at http://h:6333 is too old for quantization 'turbo4' (needs 1.18): "
        "upgrade it, or use 'int8'"
    )


@pytest.mark.parametrize(
    "version", ["1.17.0-dev", "v1.17.1", "1.17", "dev", "", "master-3f2a"], ids=repr
)
def test_other_ways_to_write_a_version(version: str) -> None:
    assert versions.supports("metadata", version)
    assert versions.supports("multivectors", "v1.10.0")
    assert not versions.supports("metadata", "v1.15.9-dev")


def test_numbers_are_compared_as_numbers() -> None:
    assert not versions.supports("multivectors", "1.9.7")
    assert versions.supports("multivectors", "1.100.0")
