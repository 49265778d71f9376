"""Attempt after attempt at one file, until one comes through or an error is final. Knows no network and no disk."""

from __future__ import annotations

from http import HTTPStatus
from typing import Protocol

from truss_cache_tasks.errors import AccessDenied, CacheTaskError, NotFound, SourceChanged, TransientError
from truss_cache_tasks.model.hashing import Piece
from truss_cache_tasks.model.listing import Location, RemoteFile
from truss_cache_tasks.network.retry import Action, Relocate, RetryBudget, is_transient_status, retry_after_s, rule_for
from truss_cache_tasks.transfer.answers import Refused, Wrong
from truss_cache_tasks.transfer.job import Explain
from truss_cache_tasks.transfer.means import Means
from truss_cache_tasks.transfer.whereabouts import Whereabouts


class Task(Protocol):
    """What is tried, and what of it survives a failed attempt."""

    @property
    def have(self) -> int:
        """Bytes of the file that are there."""
        ...

    @property
    def piece(self) -> Piece:
        """What of the file the last attempt was for."""
        ...

    def attempt(self, location: Location, /) -> None:
        """Do it, from where the last attempt ended. Raises as `answers` describes."""
        ...

    def start_over(self, wrong: Wrong, /) -> None:
        """Forget what is there of the file. Raises the error that `wrong` holds if that was done before."""
        ...


def persist(
    task: Task,
    file: RemoteFile,
    whereabouts: Whereabouts,
    explain: Explain | None,
    means: Means,
) -> None:
    """Return once an attempt of `task` came through.

    Raises:
        Stopped: the lifeline is cut.
        CacheTaskError: the first error that trying again cannot help, or the last one of a spent budget.
    """
    lifeline = means.lifeline
    budget = RetryBudget(means.limits, lifeline)
    location: Location | None = None
    while True:
        try:
            location = whereabouts.get(lifeline)
            lifeline.check()
            return task.attempt(location)
        except Wrong as exc:
            lifeline.check()
            task.start_over(exc)
        except Refused as exc:
            assert location is not None  # only an attempt is refused
            rule = rule_for(exc.status)
            if rule.action is Action.REFETCH:  # the file is shorter than listed, or the server errs this once
                whereabouts.go_back(location)
                task.start_over(_out_of_range(file, exc, task.piece))
                continue
            if rule.relocate and whereabouts.go_back(location):
                continue
            limit = Relocate.ANY if location.expires is None else Relocate.EXPIRING
            if rule.relocate >= limit and whereabouts.give_up(location, task.have):
                continue
            error = _explained(file, location, exc, explain)
            if not _is_passing(exc.status, error):
                raise error from exc
            budget.wait(error, task.have, retry_after_s(exc.headers))
        except TransientError as exc:
            if location is not None:
                whereabouts.go_back(location)
            budget.wait(exc, task.have)


def _out_of_range(file: RemoteFile, refused: Refused, piece: Piece) -> Wrong:
    said = f"{file.path}: {refused.host} answers 416: it has not all of the {file.size} bytes that were listed"
    return Wrong(SourceChanged(said, hint="Run it again."), [piece])


def _is_passing(status: int, error: CacheTaskError) -> bool:
    return is_transient_status(status) or isinstance(error, TransientError)


def _explained(file: RemoteFile, location: Location, refused: Refused, explain: Explain | None) -> CacheTaskError:
    if explain is not None:
        return explain(file, refused.status, refused.headers, refused.body)
    status = refused.status
    phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""
    said = f"{file.path}: {refused.host} answers {status} {phrase}".rstrip()
    if status == 412 or (status in (404, 410) and location.validator is not None):
        return SourceChanged(f"{said}: the file changed after it was listed", hint="Run it again.")
    if status in (404, 410):
        return NotFound(said, hint="Check the name in config.yaml.")
    if is_transient_status(status) or status < 400:
        return TransientError(said, hint="Run it again later: what is complete is kept.")
    return AccessDenied(said, hint="Check the credential and what it may read.")
