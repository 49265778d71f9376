"""What is tried again, how often, and after which wait: one table and one budget for listings and bytes of every store.

1. `STATUS_RULES` says for each HTTP status whether the request is repeated, the location is asked for again, or the
   source explains the refusal, which is final.
2. A source may also know codes in the body of a refusal that mean "later" (S3's SlowDown). It raises `TransientError`
   for them and for what `is_transient_status` names; that class alone is retried.
3. `RetryBudget` counts the failures in a row and waits; `run_with_retries` repeats one call within a budget.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum, IntEnum, auto
from typing import TypeVar

from truss_cache_tasks.errors import CacheTaskError, TransientError
from truss_cache_tasks.events import Reporter, Retrying, ignore_events
from truss_cache_tasks.network.cancel import CancelToken

_Result = TypeVar("_Result")


# -- what follows a status


class Action(Enum):
    """What follows an answer that brings neither the listing nor the bytes that were asked for."""

    RETRY = auto()  # repeat the request after a wait
    REPEAT_ONCE = auto()  # repeat the request at once; the second time the file has changed
    EXPLAIN = auto()  # final: the source says what the reader can do


class Relocate(IntEnum):
    """Which locations may be out of date after a status. These are asked for again at once, before the action.

    Each member includes the locations of the members before it.
    """

    NEVER = 0
    REDIRECTED = 1  # one that redirects led to
    EXPIRING = 2  # one that expires, as a signed URL does
    ANY = 3  # its credential may have expired


@dataclass(frozen=True, kw_only=True, slots=True)
class StatusRule:
    """What follows a status.

    Attributes:
        action: what is done, once no other location is left to try.
        relocate: the locations that are asked for again first; a listing has no location.
        is_overload: whether the host has too many connections, and gets fewer from now on.
    """

    action: Action
    relocate: Relocate = Relocate.NEVER
    is_overload: bool = False


STATUS_RULES: Mapping[int, StatusRule] = {
    400: StatusRule(action=Action.EXPLAIN, relocate=Relocate.EXPIRING),  # S3's status for ExpiredToken
    401: StatusRule(action=Action.EXPLAIN, relocate=Relocate.ANY),
    403: StatusRule(action=Action.EXPLAIN, relocate=Relocate.EXPIRING),
    404: StatusRule(action=Action.EXPLAIN, relocate=Relocate.REDIRECTED),
    408: StatusRule(action=Action.RETRY),
    410: StatusRule(action=Action.EXPLAIN, relocate=Relocate.REDIRECTED),
    416: StatusRule(action=Action.REPEAT_ONCE),
    425: StatusRule(action=Action.RETRY),
    429: StatusRule(action=Action.RETRY, is_overload=True),
    503: StatusRule(action=Action.RETRY, is_overload=True),
}
_SERVER_ERROR = StatusRule(action=Action.RETRY)  # every other 5xx
_OTHER = StatusRule(action=Action.EXPLAIN)


def rule_for(status: int) -> StatusRule:
    """Return what follows an answer with `status`.

    >>> rule_for(429).action, rule_for(502).action, rule_for(404).action
    (<Action.RETRY: 1>, <Action.RETRY: 1>, <Action.EXPLAIN: 3>)
    """
    return STATUS_RULES.get(status, _SERVER_ERROR if status >= 500 else _OTHER)


def is_transient_status(status: int) -> bool:
    """Return whether the same request may succeed later."""
    return rule_for(status).action is Action.RETRY


def retry_after_s(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Return the seconds that an answer asks to wait; None where it says nothing.

    Either form of `Retry-After`, else the Hub's own `RateLimit`, where no request is left.

    Args:
        headers: with names in any case.
        now: seconds since the epoch; None for the clock.

    >>> retry_after_s({"Retry-After": "7"}), retry_after_s({"retry-after": "Thu, 01 Jan 1970 00:00:09 GMT"}, 2)
    (7.0, 7.0)
    >>> retry_after_s({"ratelimit": '"api";r=0;t=55'}), retry_after_s({"RateLimit": '"api";r=9;t=55'})
    (55.0, None)
    """
    by_name = {name.lower(): value for name, value in headers.items()}
    after = by_name.get("retry-after", "").strip()
    if re.fullmatch("[0-9]{1,9}", after):
        return float(after)
    try:
        return max(0.0, parsedate_to_datetime(after).timestamp() - (time.time() if now is None else now))
    except (ValueError, OverflowError):
        spent = re.search(r";r=0;t=([0-9]{1,9})(?![0-9])", by_name.get("ratelimit", ""))
        return float(spent[1]) if spent else None


# -- how often


@dataclass(frozen=True)
class RetryLimits:
    """How often and for how long a request is repeated. Times in seconds.

    Args:
        attempts: that may fail in a row. A row begins anew once `progress` bytes more are there than when it began.
        total_s: that such a row may take, waits included.
        progress: in bytes; see `attempts`.
        backoff_s: the first wait is random between 0 and this, each later one between 0 and twice as much.
        backoff_cap_s: no such wait is longer.
        retry_after_cap_s: a server's Retry-After is obeyed up to this.
        attempts_here: failures in a row after which a server is unavailable, and another one is asked if there is one.
        longest_wait_s: a server that asks for a longer wait is unavailable too.
    """

    attempts: int = 8
    total_s: float = 300.0
    progress: int = 8 << 20
    backoff_s: float = 0.5
    backoff_cap_s: float = 20.0
    retry_after_cap_s: float = 60.0
    attempts_here: int = 3
    longest_wait_s: float = 5.0


class RetryBudget:
    """Counts failures in a row: exponential backoff with full jitter, within RetryLimits."""

    def __init__(
        self, limits: RetryLimits, cancel: CancelToken, *, reporter: Reporter = ignore_events, path: str = ""
    ) -> None:
        """Begin without a failure.

        Args:
            reporter: told of each wait, as Retrying, before it begins.
            path: of the file that is fetched; "" for a listing.
        """
        self._limits = limits
        self._cancel = cancel
        self._reporter = reporter
        self._path = path
        self._failures = 0
        self._had = 0  # bytes that were there when the row began
        self._began = 0.0  # when it did

    def wait(
        self,
        error: CacheTaskError,
        have: int = 0,
        retry_after: float | None = None,
        elsewhere: Callable[[], bool] | None = None,
    ) -> bool:
        """Wait before the next attempt, or raise `error` if the budget is spent; return whether another server is next.

        Args:
            have: bytes that are there; enough new ones begin a new row.
            retry_after: seconds that the server asks for.
            elsewhere: called when the server is unavailable; returns whether another one is asked from now on. That is
                done without a wait, and begins a new row.
        """
        limits = self._limits
        self._cancel.check()  # first: a cancel shuts the connection down, and `error` may be of that
        now = time.monotonic()
        self._had = min(self._had, have)  # fewer where the file started over
        if not self._failures or have - self._had >= limits.progress:
            self._failures, self._had, self._began = 0, have, now
        self._failures += 1
        is_unavailable = self._failures >= limits.attempts_here or (retry_after or 0.0) > limits.longest_wait_s
        if is_unavailable and elsewhere is not None and elsewhere():
            self._failures = 0
            return True
        # The exponent is bounded: `attempts` may be set to any number, and 2.0 ** 1024 overflows.
        backoff = min(limits.backoff_cap_s, limits.backoff_s * 2 ** min(self._failures - 1, 32))
        delay = max(random.uniform(0, backoff), min(retry_after or 0.0, limits.retry_after_cap_s))
        if self._failures >= limits.attempts or now + delay - self._began > limits.total_s:
            error.args = (f"{error} (tried {self._failures} times)", *error.args[1:])
            raise error
        asked = bool(retry_after)
        self._reporter(
            Retrying(path=self._path, cause=str(error), attempt=self._failures, delay_s=delay, is_requested=asked)
        )
        self._cancel.wait(delay)
        return False


def run_with_retries(
    attempt: Callable[[], _Result],
    limits: RetryLimits,
    cancel: CancelToken,
    *,
    reporter: Reporter = ignore_events,
    path: str = "",
    elsewhere: Callable[[], bool] | None = None,
) -> _Result:
    """Call `attempt` until it returns, as often as `limits` allow; return what it returns.

    Args:
        reporter, path: see RetryBudget.
        elsewhere: see RetryBudget.wait; after it returned True, `attempt` asks the other server.

    Raises:
        Stopped: the work is cancelled.
        CacheTaskError: the first error that is no TransientError, or the last one once the budget is spent.
    """
    budget = RetryBudget(limits, cancel, reporter=reporter, path=path)
    while True:
        try:
            return attempt()
        except TransientError as exc:
            budget.wait(exc, retry_after=exc.retry_after_s, elsewhere=elsewhere)
