"""How often a request is tried again, and how long each wait is: the same for listings and for bytes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from truss_cache_tasks.errors import CacheTaskError, SourceChanged, Stopped, TransientError

PASSING_STATUSES = frozenset({408, 425, 429})  # and every 5xx: another time the answer may be another

_POLL_S = 0.05
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class RetryLimits:
    """How often, and for how long. Times in seconds.

    Args:
        attempts: in a row, where `progress` new bytes begin a new row.
        total_s: that such a row of attempts may take, waits included.
        progress: see `attempts`.
        backoff_s: the first wait is random between 0 and this, each later one between 0 and twice as much.
        backoff_cap_s: no such wait is longer.
        retry_after_cap_s: a server's Retry-After is obeyed up to this.
    """

    attempts: int = 8
    total_s: float = 300.0
    progress: int = 8 << 20
    backoff_s: float = 0.5
    backoff_cap_s: float = 20.0
    retry_after_cap_s: float = 60.0


class CancelToken(Protocol):
    """Tells whether to go on, and waits no longer than that."""

    def check(self) -> None:
        """Raise Stopped if the work is cancelled."""
        ...

    def wait(self, seconds: float) -> None:
        """Wait; raise Stopped as soon as the work is cancelled."""
        ...


class StopPoll:
    """A CancelToken that asks a function, such as a flag that a signal sets."""

    def __init__(self, stopped: Callable[[], bool] = lambda: False) -> None:
        self._stopped = stopped

    def check(self) -> None:
        """Raise Stopped if the function says so."""
        if self._stopped():
            raise Stopped("stopped before it was complete", hint="Run it again: what is complete is kept.")

    def wait(self, seconds: float) -> None:
        """Wait, and ask meanwhile."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, _POLL_S))
        self.check()


NEVER = StopPoll()  # cancels nothing


class PermanentError(TransientError):
    """An TransientError that trying again cannot help: an untrusted certificate, redirects without an end."""


class RetryBudget:
    """Counts failures in a row: exponential backoff with full jitter, within RetryLimits."""

    def __init__(self, limits: RetryLimits, cancel: CancelToken) -> None:
        self._limits = limits
        self._cancel = cancel
        self._failures = 0
        self._best = 0  # bytes that were there when the row began
        self._began = 0.0

    def wait(self, error: CacheTaskError, have: int = 0, retry_after: float | None = None) -> None:
        """Wait before the next attempt, or raise `error` if the budget is spent.

        Args:
            have: bytes that are there; enough new ones begin a new row.
            retry_after: seconds that the server asks for.
        """
        import random  # a no-op waits for nothing

        limits = self._limits
        self._cancel.check()  # first: a connection that was cut fails in some way too
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
        self._cancel.wait(delay)


def run_with_retries(attempt: Callable[[], _Result], limits: RetryLimits, cancel: CancelToken) -> _Result:
    """Return what `attempt` returns, after as many failed ones as `limits` allow.

    Raises:
        Stopped: the work is cancelled.
        CacheTaskError: the first one that is not TransientError or that is permanent, or the last of a spent budget.
    """
    budget = RetryBudget(limits, cancel)
    while True:
        try:
            return attempt()
        except (SourceChanged, PermanentError):
            raise
        except TransientError as exc:
            budget.wait(exc, retry_after=exc.retry_after_s)


def is_passing(status: int) -> bool:
    """Whether the request that was answered so may succeed later."""
    return status in PASSING_STATUSES or status >= 500


def retry_after_s(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Return the seconds that an answer asks to wait; None where it says nothing.

    Either form of `Retry-After`, else the Hub's own `RateLimit`, where no request is left.

    Args:
        headers: of any case, or a mapping that knows them in any.
        now: seconds since the epoch; None for the clock.

    >>> retry_after_s({"Retry-After": "7"}), retry_after_s({"retry-after": "Thu, 01 Jan 1970 00:00:09 GMT"}, 2)
    (7.0, 7.0)
    >>> retry_after_s({"ratelimit": '"api";r=0;t=55'}), retry_after_s({"RateLimit": '"api";r=9;t=55'})
    (55.0, None)
    """
    from email.utils import parsedate_to_datetime  # nor reads answers

    told = {name.lower(): value for name, value in headers.items()}
    after = told.get("retry-after", "").strip()
    if re.fullmatch("[0-9]{1,9}", after):
        return float(after)
    try:
        return max(0.0, parsedate_to_datetime(after).timestamp() - (time.time() if now is None else now))
    except (ValueError, OverflowError):
        spent = re.search(r";r=0;t=([0-9]{1,9})(?![0-9])", told.get("ratelimit", ""))
        return float(spent[1]) if spent else None
