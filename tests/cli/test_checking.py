"""verify."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.command import ok


def test_verify_says_that_the_figures_do_not_apply(checkpoint: Path) -> None:
    assert "do not apply" in ok("verify", "--model", checkpoint)
    result = json.loads(ok("verify", "--model", checkpoint, "--json"))
    assert (result["applies"], result["passed"]) == (False, None)
    assert len(result["figures"]) == 17
