"""How often one file is tried again, and how long each wait is."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from truss_cache_tasks.errors import CacheTaskError
from truss_cache_tasks.transfer.lifeline import Lifeline
from truss_cache_tasks.transfer.limits import Limits


class Patience:
    """Counts a file's failures in a row: exponential backoff with full jitter, within the budget of `Limits`."""

    def __init__(self, limits: Limits, lifeline: Lifeline) -> None:
        self._limits = limits
        self._lifeline = lifeline
        self._failures = 0
        self._best = 0  # bytes that were there when the row began
        self._began = 0.0

    def wait(self, error: CacheTaskError, have: int = 0, retry_after: float | None = None) -> None:
        """Wait before the next attempt, or raise `error` if the budget is spent.

        Args:
            have: bytes of the file that are there; enough new ones begin a new row.
            retry_after: seconds that the server asks for.
        """
        limits = self._limits
        self._lifeline.check()  # first: a cut connection fails in some way too
        now = time.monotonic()
        if not self._failures or have - self._best >= limits.progress:
            self._failures, self._best, self._began = 0, have, now
        self._failures += 1
        # The exponent is bounded, as a row may be set to any length and a float is not.
        backoff = min(limits.backoff_cap_s, limits.backoff_s * 2 ** min(self._failures - 1, 32))
        delay = max(random.uniform(0, backoff), min(retry_after or 0.0, limits.retry_after_cap_s))
        if self._failures >= limits.attempts or now + delay - self._began > limits.total_s:
            error.args = (f"{error} (tried {self._failures} times)", *error.args[1:])
            raise error
        self._lifeline.wait(delay)


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds that a Retry-After header asks for, in either of its forms; None where it says nothing.

    >>> retry_after({"Retry-After": "7"}, 0), retry_after({"Retry-After": "Thu, 01 Jan 1970 00:00:09 GMT"}, 2)
    (7.0, 7.0)
    """
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, OverflowError):
        return None
