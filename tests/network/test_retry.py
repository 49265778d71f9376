"""What is tried again: one table of statuses, one class of errors, and a listener that is told of each wait."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace

import pytest

from truss_cache_tasks import errors
from truss_cache_tasks.errors import CacheTaskError, PermanentError, SourceChanged, TransientError
from truss_cache_tasks.events import Event, Retrying
from truss_cache_tasks.network.cancel import NEVER
from truss_cache_tasks.network.retry import (
    STATUS_RULES,
    Action,
    Relocate,
    RetryBudget,
    RetryLimits,
    is_transient_status,
    run_with_retries,
)

QUICK = RetryLimits(attempts=3, backoff_s=0.001, backoff_cap_s=0.002, retry_after_cap_s=0.003)


def test_only_these_statuses_are_repeated() -> None:
    assert {status for status in range(100, 600) if is_transient_status(status)} == {408, 425, 429, *range(500, 600)}


def test_no_status_that_is_repeated_gives_up_its_location_first() -> None:
    assert all(rule.relocate is Relocate.NEVER for rule in STATUS_RULES.values() if rule.action is Action.RETRY)


def test_the_listener_is_told_of_each_wait_before_it_begins() -> None:
    told: list[Event] = []
    outcomes: list[Exception | str] = [TransientError("busy"), TransientError("still busy"), "listed"]

    def attempt() -> str:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    assert run_with_retries(attempt, QUICK, NEVER, reporter=told.append, path="w.bin") == "listed"
    assert [(e.path, e.cause, e.attempt) for e in told if isinstance(e, Retrying)] == [
        ("w.bin", "busy", 1),
        ("w.bin", "still busy", 2),
    ]
    assert all(e.delay_s <= QUICK.backoff_cap_s for e in told if isinstance(e, Retrying))


def test_the_wait_that_a_server_asks_for_is_told_and_capped() -> None:
    told: list[Event] = []
    asked = TransientError("busy")
    asked.retry_after_s = 60.0
    outcomes = [asked]

    def attempt() -> None:
        if outcomes:
            raise outcomes.pop()

    run_with_retries(attempt, QUICK, NEVER, reporter=told.append)
    (retrying,) = told
    assert isinstance(retrying, Retrying)
    assert retrying.delay_s == QUICK.retry_after_cap_s


@pytest.mark.parametrize("kind", [PermanentError, SourceChanged, CacheTaskError])
def test_no_other_class_is_retried(kind: type[CacheTaskError]) -> None:
    attempts = []

    def attempt() -> None:
        attempts.append(1)
        raise kind("no")

    with pytest.raises(kind):
        run_with_retries(attempt, QUICK, NEVER)
    assert len(attempts) == 1
    assert not issubclass(kind, TransientError)


def test_a_spent_budget_says_how_often_it_was_tried_and_tells_no_further_wait() -> None:
    told: list[Event] = []
    budget = RetryBudget(replace(QUICK, attempts=2), NEVER, reporter=told.append)
    budget.wait(TransientError("busy"))
    with pytest.raises(TransientError, match=re.escape("busy (tried 2 times)")):
        budget.wait(TransientError("busy"))
    assert len(told) == 1


def test_new_bytes_begin_a_new_row_of_attempts_also_after_a_file_started_over() -> None:
    budget = RetryBudget(replace(QUICK, attempts=2, progress=10), NEVER)
    budget.wait(TransientError("cut"), 1000)
    with pytest.raises(TransientError):
        budget.wait(TransientError("cut"), 0)  # starts over
    budget.wait(TransientError("cut"), 10)


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    doc = errors.__doc__ or ""
    drawn = re.findall(r"^([| `-]*)(\w+)", doc.partition("```text\n")[2].partition("```")[0], flags=re.M)
    path: list[str] = []
    parents = {}
    for indent, name in drawn:
        depth = len(indent) // 4
        path[depth:] = [name]
        parents[name] = path[depth - 1] if depth else "Exception"
    classes = inspect.getmembers(errors, lambda found: inspect.isclass(found) and issubclass(found, CacheTaskError))
    assert parents == {name: kind.__base__.__name__ for name, kind in classes}
