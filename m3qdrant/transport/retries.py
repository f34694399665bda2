"""How long to go on where a server fails for a while, and the tries of one call."""

from __future__ import annotations

import logging
import math
import random
import sys
import time
from dataclasses import dataclass
from typing import Any

import tenacity

from m3qdrant.errors import InputError, M3QdrantError
from m3qdrant.progress import tell
from m3qdrant.transport.failures import Failure, as_ours

__all__ = ["DEFAULT", "Retries", "Tries"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Retries:
    """How long to go on where a server fails for a while.

    Waits are drawn evenly between 0 and a bound that doubles from `first_wait_s` to
    `longest_wait_s` ("full jitter"), so that many clients don't come back at once. Where the
    server says how long to wait (Retry-After), that is waited too.

    Attributes:
        attempts: the most tries of a call, the first one included.
        budget_s: no try begins later than this after the first one.
        first_wait_s: bound of the first wait, in seconds.
        longest_wait_s: bound of the longest.
        told: show in the progress bar what is waited for.
    """

    attempts: int = 6
    budget_s: float = 120.0
    first_wait_s: float = 0.5
    longest_wait_s: float = 20.0
    told: bool = False

    @classmethod
    def lasting(cls, seconds: float) -> Retries:
        """As many tries as it takes for so long: a server that is started again is away a while.

        What is waited for is told. A server that is there, and says when to come back
        (Retry-After), is come back to for two minutes at least.
        """
        if not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
            raise InputError(f"retry_for is {seconds!r}: give seconds, 0 or more")
        return cls(sys.maxsize if seconds else 1, seconds, longest_wait_s=5.0, told=True)

    def __post_init__(self) -> None:
        if not isinstance(self.attempts, int) or self.attempts < 1:
            raise InputError(f"attempts is {self.attempts!r}: give a whole number, 1 or more")
        for name in ("budget_s", "first_wait_s", "longest_wait_s"):
            seconds = getattr(self, name)
            if not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
                raise InputError(f"{name} is {seconds!r}: give seconds, 0 or more")


DEFAULT = Retries()


class Tries:
    """The tries of one call, as tenacity counts them.

    Attributes:
        last: what the last one raised.
    """

    def __init__(self, what: str, *, passing: bool, idempotent: bool, retries: Retries) -> None:
        """Nothing was tried yet.

        Args:
            what: the call and its place, for messages.
            passing: whether failures may pass, so that another try can help.
            idempotent: whether the call may be made again where its answer got lost.
            retries: how long to go on.
        """
        self.last: Exception | None = None
        self._what = what
        self._passing = passing
        self._idempotent = idempotent
        self._retries = retries
        self._count = 0
        self._began = time.monotonic()

    def policy(self) -> dict[str, Any]:
        """The arguments of tenacity's controllers."""
        return {
            "retry": tenacity.retry_if_exception(self._passes),
            "wait": self._wait,
            "stop": self._is_over,
            "before_sleep": self._log,
        }

    def failure(self) -> M3QdrantError:
        """The last error as ours."""
        assert self.last is not None
        tried = ""
        if self._count > 1:
            tried = f" (tried {self._count} times in {time.monotonic() - self._began:.1f} s)"
        return as_ours(self.last, self._what, tried)

    def _passes(self, error: BaseException) -> bool:
        """Whether to try again after an error."""
        if not isinstance(error, Exception):
            return False
        self.last = error
        self._count += 1
        if not self._passing or isinstance(error, M3QdrantError):
            return False
        again = Failure.of(error).again
        return again == "always" or (again == "repeatable" and self._idempotent)

    def _wait(self, state: tenacity.RetryCallState) -> float:
        assert self.last is not None
        retries = self._retries
        bound = min(retries.first_wait_s * 2 ** (state.attempt_number - 1), retries.longest_wait_s)
        after = Failure.of(self.last).after_s
        # behind a wait that the server sets, the jitter only keeps clients apart
        return (
            random.uniform(0, bound)
            if after is None
            else after + random.uniform(0, retries.first_wait_s)
        )

    def _is_over(self, state: tenacity.RetryCallState) -> bool:
        """Whether that was the last try, or the next one would begin too late."""
        assert self.last is not None
        if state.attempt_number >= self._retries.attempts:
            return True
        budget = self._retries.budget_s
        if self._retries.told and Failure.of(self.last).after_s is not None:
            budget = max(budget, DEFAULT.budget_s)  # it is there, and says when to come back
        begun = state.seconds_since_start or 0.0
        return begun + state.upcoming_sleep >= budget

    def _log(self, state: tenacity.RetryCallState) -> None:
        assert self.last is not None
        reason = Failure.of(self.last).reason
        log.info("%s failed, trying again in %.1f s: %s", self._what, state.upcoming_sleep, reason)
        if self._retries.told:
            left = self._retries.budget_s - (time.monotonic() - self._began)
            short = reason.split(": ")[0]
            text = f"{self._what} waits: {short}; trying for {left:.0f} s more"
            tell(text, again=self._count > 1)
