"""Our own first user: the quickstart's weights as tasks, and beside them what we do to this repository.

doit                    # cache_weights
doit test lint
doit test --fast         # what needs no server
doit coverage
doit bench --quick       # without it: all that docs/explanation/benchmarks.md reports
doit reliability --quick     # without it: all that docs/reliability.md reports, in less than 20 minutes
doit fuzz --steps 5000 --seed 1     # what tests/scenarios/cache/test_world.py does in 300 steps
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from doit.action import CmdAction

from truss_cache_tasks import cache_tasks

DOIT_CONFIG = {"default_tasks": ["cache_weights"]}
BIN = Path(sys.executable).parent

task_cache_weights = cache_tasks("examples/quickstart", model_cache_dir="examples/quickstart/cache")


def task_test() -> dict[str, Any]:
    """Run the whole test suite; --fast: only the tests that start no server, in half a minute."""

    def tests(fast: bool) -> str:
        return f"{BIN}/pytest" + (" -m 'not slow'" if fast else "")

    return {
        "actions": [CmdAction(tests)],
        "params": [{"name": "fast", "long": "fast", "type": bool, "default": False}],
        "verbosity": 2,
    }


def task_coverage() -> dict[str, Any]:
    """Run the whole test suite under coverage, and print what it did not reach."""
    return {"actions": ["sh .ci/coverage"], "verbosity": 2}


def task_lint() -> dict[str, Any]:
    """Run the linters: ruff, mypy (strict, over the tests too), import-linter."""
    checks = ["ruff check .", "ruff format --check ."]
    types = ["mypy", "mypy tests", "mypy benchmarks dodo.py docs/reference/make_api.py docs/reference/make_errors.py"]
    commands = [*checks, *types, "lint-imports"]
    return {"actions": [f"{BIN}/{command}" for command in commands], "verbosity": 2}


def task_docs() -> dict[str, Any]:
    """Write docs/reference/api.md from the docstrings of the public API."""
    return {"actions": [f"{sys.executable} docs/reference/make_{page}.py" for page in ("api", "errors")]}


def task_bench() -> dict[str, Any]:
    """Measure, and write docs/explanation/benchmarks.md; --quick: with little data, and only printed."""

    def downloads(quick: bool) -> str:
        return f"{sys.executable} benchmarks/run.py {'--quick' if quick else '--write'}"

    return {
        "actions": [f"{sys.executable} benchmarks/noop.py", CmdAction(downloads)],
        "params": [{"name": "quick", "long": "quick", "type": bool, "default": False}],
        "verbosity": 2,
    }


def task_fuzz() -> dict[str, Any]:
    """Take many random steps of users, stores and deaths on one cache, and check every promise after each."""
    return {
        "actions": [f"{sys.executable} tests/scenarios/cache/world/fuzz.py --steps %(steps)s --seed %(seed)s"],
        "params": [
            {"name": "steps", "long": "steps", "type": int, "default": 5_000},
            {"name": "seed", "long": "seed", "type": int, "default": 1},
        ],
        "verbosity": 2,
    }


def task_reliability() -> dict[str, Any]:
    """Run the long forms of the proofs of docs/reliability.md, and write their figures there; --quick: for a minute."""

    def prove(quick: bool, seed: int, minutes: int) -> str:
        options = f"--seed {seed} --minutes {minutes}{' --quick' if quick else ''}"
        return f"{sys.executable} tests/reliability.py {options}"

    return {
        "actions": [CmdAction(prove)],
        "params": [
            {"name": "quick", "long": "quick", "type": bool, "default": False},
            {"name": "seed", "long": "seed", "type": int, "default": 1},
            {"name": "minutes", "long": "minutes", "type": int, "default": 17},
        ],
        "verbosity": 2,
    }
