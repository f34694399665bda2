"""A real server takes part in the whole contract where one is named."""

from __future__ import annotations

import os

import pytest

from m3qdrant import M3Store


def test_a_server_is_there(tmp_path: object) -> None:
    url = os.environ.get("QDRANT_URL")
    if not url:
        pytest.skip("no server: set QDRANT_URL, and QDRANT_API_KEY where it wants one")
    with M3Store(url, "contract-nothing-is-made") as store:
        assert store.count() == 0
