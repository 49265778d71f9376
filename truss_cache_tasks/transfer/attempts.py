"""Attempts to read one file until one succeeds: where it can be read now, and what follows each failure.

A failed attempt ends in one of these ways, by the table of `network.retry`:

1. The location may be out of date: the next attempt follows at once, at a fresh one.
2. The response cannot be right: the bytes in question are fetched again, once.
3. The server has not all the bytes that were listed (416): the next attempt follows at once; the second time it is
   final.
4. The failure is transient: the next attempt follows after a wait, within a RetryBudget.
5. All else is final; the source explains what a server refused.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Protocol

from truss_cache_tasks.errors import (
    RUN_AGAIN,
    RUN_LATER,
    AccessDenied,
    CacheTaskError,
    NotFound,
    SourceChanged,
    TransientError,
)
from truss_cache_tasks.events import Reporter
from truss_cache_tasks.model.listing import Location, RemoteFile
from truss_cache_tasks.network.cancel import WorkerToken
from truss_cache_tasks.network.imports import IMPORTS
from truss_cache_tasks.network.retry import (
    Action,
    Relocate,
    RetryBudget,
    StatusRule,
    is_transient_status,
    retry_after_s,
    rule_for,
)
from truss_cache_tasks.network.settings import Network
from truss_cache_tasks.transfer.body import BadResponse, HttpStatusError, LocalBody, host_of, is_local
from truss_cache_tasks.transfer.context import TransferContext, this_process
from truss_cache_tasks.transfer.job import Explain
from truss_cache_tasks.transfer.limits import Limits

_EARLY_S = 5.0  # a location this near to its expiry is asked for again
_POLL_S = 0.05
_REDIRECT_FAILURES = 3  # of redirects' targets; after these, each part asks the location itself


class LocationCache:
    """Keeps where one file can be read now, for all threads that fetch its parts; asks again when that is stale."""

    def __init__(self, locate: Callable[[], Location]) -> None:
        self._locate = locate
        self._lock = threading.Lock()
        self._location: Location | None = None
        self._redirected: Location | None = None  # where its redirects led to, for all parts
        self._failures = 0  # of targets of redirects
        self._had = -1  # bytes of the file that were there when a refused location was last dropped

    def get(self, token: WorkerToken) -> Location:
        """Return the location, and ask for it first if there is none or it expires. Raises as `locate`, or Stopped."""
        while not self._lock.acquire(timeout=_POLL_S):  # another part's thread is asking
            token.check()
        try:
            token.check()
            location = self._location
            if location is None or (location.expires is not None and location.expires - _EARLY_S <= time.time()):
                self._redirected = None
                with token.waiting():
                    self._location = location = self._locate()
            return self._redirected or location
        finally:
            self._lock.release()

    def follow(self, redirected: Location) -> None:
        """Let `get` return `redirected`, where the redirects led, from now on."""
        with self._lock:
            if self._location is not None and self._failures < _REDIRECT_FAILURES:
                self._redirected = redirected

    def drop_redirect(self, failed: Location) -> bool:
        """Drop the target of redirects if `failed` is that; return whether `get` returns another one than `failed`."""
        with self._lock:
            if self._redirected is failed:
                self._redirected = None
                self._failures += 1
            return failed is not self._location

    def drop(self, refused: Location, have: int) -> bool:
        """Drop the location that was refused; return whether `get` returns another one from now on.

        A credential that expired meanwhile looks like a wrong one, so a fresh location is asked for: once, and once
        more whenever bytes came, or were forgotten, since the last one.

        Args:
            have: bytes of the file that are there.
        """
        with self._lock:
            if self._location is not refused:
                return True  # the worker of another part dropped it
            if have == self._had:
                return False
            self._had, self._location = have, None
            return True

    def leave(self, unavailable: Location) -> None:
        """Ask for the location again, which is of another server now, unless another part's thread did."""
        with self._lock:
            if self._location is not None and self._location.elsewhere == unavailable.elsewhere:
                self._location = self._redirected = None
                self._failures = 0

    def relocate(self, refused: Location, rule: StatusRule, have: int) -> bool:
        """Drop a location that is out of date by `rule`; return whether `get` returns another one from now on."""
        if rule.relocate is Relocate.NEVER:
            return False
        if self.drop_redirect(refused):
            return True
        needed = Relocate.ANY if refused.expires is None else Relocate.EXPIRING
        return rule.relocate >= needed and self.drop(refused, have)


class Task(Protocol):
    """The work that `run_attempts` repeats."""

    @property
    def have(self) -> int:
        """Bytes of the file that are there."""
        ...

    def attempt(self, location: Location, /) -> None:
        """Go on from where the last attempt ended. Raises as `body` describes."""
        ...

    def refetch(self, bad: BadResponse, /) -> None:
        """Forget the bytes that `bad` names. Raises its error if that was done before."""
        ...

    def repeat_once(self, error: CacheTaskError, /) -> None:
        """Allow that the last attempt is repeated. Raises `error` if that was allowed before."""
        ...


def run_attempts(
    task: Task, file: RemoteFile, locations: LocationCache, explain: Explain | None, context: TransferContext
) -> None:
    """Attempt `task` until an attempt succeeds.

    Raises:
        Stopped: the worker is cancelled.
        CacheTaskError: the first error that trying again cannot help, or the last one once the budget is spent.
    """
    token = context.token
    budget = RetryBudget(context.limits, token, reporter=context.reporter, path=file.path)
    location: Location | None = None
    while True:
        try:
            location = locations.get(token)
            token.check()
            return task.attempt(location)
        except BadResponse as exc:
            token.check()
            task.refetch(exc)
        except HttpStatusError as exc:
            assert location is not None  # only an attempt is answered
            rule = rule_for(exc.status)
            if rule.action is Action.REPEAT_ONCE:
                locations.drop_redirect(location)
                task.repeat_once(_out_of_range(file, exc))
                continue
            if locations.relocate(location, rule, task.have):
                continue
            error = _explained(file, location, exc, location.explain or explain)
            if rule.action is not Action.RETRY and not isinstance(error, TransientError):
                raise error from exc
            # A refusal is none of another server's business, also one that is gone later.
            elsewhere = location.elsewhere if rule.action is Action.RETRY else None
            if budget.wait(error, task.have, retry_after_s(exc.headers), elsewhere):
                locations.leave(location)
        except TransientError as exc:
            elsewhere = None
            if location is not None:
                locations.drop_redirect(location)
                elsewhere = location.elsewhere
            if budget.wait(exc, task.have, exc.retry_after_s, elsewhere) and location is not None:
                locations.leave(location)


def _out_of_range(file: RemoteFile, refused: HttpStatusError) -> SourceChanged:
    said = f"{file.path}: {refused.host} answers 416: it has not all of the {file.size} bytes that were listed"
    return SourceChanged(said, hint=RUN_AGAIN)


def _explained(
    file: RemoteFile, location: Location, refused: HttpStatusError, explain: Explain | None
) -> CacheTaskError:
    if explain is not None:
        return explain(file, refused.status, refused.headers, refused.body)
    status = refused.status
    phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""
    said = f"{file.path}: {refused.host} answers {status} {phrase}".rstrip()
    if status == 412 or (status in (404, 410) and location.validator is not None):
        return SourceChanged(f"{said}: the file changed after it was listed", hint=RUN_AGAIN)
    if status in (404, 410):
        return NotFound(said, hint="Check the name in config.yaml.")
    if is_transient_status(status) or status < 400:
        return TransientError(said, hint=f"{RUN_LATER} What is complete is kept.")
    return AccessDenied(said, hint="Check the credential and what it may read.")


# -- the proof that one file can be read now, by the headers of one answer


def prove_access(
    file: RemoteFile,
    locate: Callable[[], Location],
    explain: Explain | None,
    *,
    reporter: Reporter,
    limits: Limits,
    network: Network,
) -> None:
    """Raise an error unless `file` can be read now; see `transfer.probe`."""
    process = this_process()
    token = process.new_token()
    try:
        context = TransferContext(limits=limits, network=network, reporter=reporter, process=process, token=token)
        run_attempts(_Probe(file, context), file, LocationCache(locate), explain, context)
    finally:
        process.tokens.discard(token)


class _Probe:
    """The Task that asks for the first byte of a file."""

    have = 0
    _is_repeated = False

    def __init__(self, file: RemoteFile, context: TransferContext) -> None:
        self._file = file
        self._context = context

    def attempt(self, location: Location, /) -> None:
        if is_local(location):
            LocalBody(self._file, location).close()
            return
        with IMPORTS:
            from truss_cache_tasks.transfer.http_body import prove

        context = self._context
        with context.process.slot(host_of(location), context.limits, context.token):
            prove(self._file, location, context)

    def refetch(self, bad: BadResponse, /) -> None:
        raise bad.error from bad

    def repeat_once(self, error: CacheTaskError, /) -> None:
        if self._is_repeated:
            raise error
        self._is_repeated = True
