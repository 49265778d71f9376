"""Tasks that build on weights: `getargs`, `result_dep` and `task_dep`, on an entry and on the group."""

from __future__ import annotations

import re

import pytest
from servers.hub import Hub
from trusses import Truss

DODO = """
    from doit.tools import result_dep
    from truss_cache_tasks import task_cache_weights

    def show(**values):
        with open("ran.txt", "a") as out:
            out.write(repr(sorted(values.items())) + "\\n")

    def task_of_entry():
        return {
            "actions": [show],
            "getargs": {"path": ("cache_weights:org/one", "path"), "key": ("cache_weights:org/one", "snapshot_key"),
                        "revision": ("cache_weights:org/one", "revision")},
            "uptodate": [result_dep("cache_weights:org/one")],
        }

    def task_of_group():
        return {
            "actions": [show],
            "getargs": {"paths": ("cache_weights", "path")},
            "uptodate": [result_dep("cache_weights")],
        }

    def task_after():
        return {"actions": [show], "task_dep": ["cache_weights"], "getargs": {"p": ("cache_weights:org/two", "path")}}
"""
CONFIG = """
    model_cache:
      - repo_id: org/one
        allow_patterns: ["*.bin"]
      - repo_id: org/two
"""


@pytest.fixture
def built(truss: Truss, hub: Hub) -> Truss:
    hub.create("org/one").commit({"one.bin": b"1" * 20_000, "notes.txt": b"notes"})
    hub.create("org/two").commit({"two.bin": b"2" * 20_000})
    truss.config(CONFIG)
    truss.dodo(DODO)
    return truss


def ran(truss: Truss, *args: str) -> set[str]:
    done = truss.doit("run", *args)
    assert done.code == 0, done.text
    return {name for name in re.findall(r"^\. +(\S+)", done.out, re.M) if not name.startswith("cache_weights")}


def test_dependents_get_paths_and_run_again_exactly_when_the_weights_changed(built: Truss, hub: Hub) -> None:
    assert ran(built) == {"of_entry", "of_group", "after"}
    commit = hub.repos["org/one"].refs["refs/heads/main"]
    shown = (built.folder / "ran.txt").read_text()
    snapshot = built.hub_cache / "models--org--one" / "snapshots" / commit
    assert f"('path', '{snapshot}'), ('revision', '{commit}')" in shown
    assert f"'org/one': '{snapshot}'" in shown, "a group's values are by the sub-task's name"

    assert ran(built) == set()

    built.config(CONFIG.replace('["*.bin"]', '["one.*", "*.bin", "*.bin"]'))  # another request, the very same files
    assert ran(built) == set()

    built.config(CONFIG.replace('["*.bin"]', '["*.bin", "*.txt"]'))
    assert ran(built) == {"of_entry", "of_group"}

    hub.repos["org/two"].commit({"two.bin": b"3" * 20_000})
    assert ran(built) == set(), "main stays pinned"
    assert ran(built, "-a", "cache_weights:org/two") == set()
    assert ran(built) == {"after", "of_group"}, "the weights of one entry alone changed"
    assert ran(built) == set()


@pytest.mark.parametrize(
    ("backend", "how"),
    [
        ("dbm", []),
        ("json", ["-n", "3", "-P", "thread"]),
        ("sqlite3", []),
        ("sqlite3", ["-n", "3", "-P", "process"]),
    ],
)
def test_after_a_lost_database_dependents_run_once_more(built: Truss, hub: Hub, backend: str, how: list[str]) -> None:
    built.dodo(f"    DOIT_CONFIG = {{'backend': {backend!r}, 'dep_file': 'doit.db'}}\n" + DODO)
    assert ran(built, *how) == {"of_entry", "of_group", "after"}
    hub.requests.clear()
    for path in built.folder.glob("doit.db*"):
        path.unlink()
    assert ran(built, *how) == {"of_entry", "of_group", "after"}, "their own records are gone too"
    assert ran(built, *how) == set()
    assert hub.requests == [], "the weights themselves were fresh all along"


def test_values_of_another_machines_database_are_replaced(built: Truss, hub: Hub) -> None:
    assert ran(built) == {"of_entry", "of_group", "after"}
    saved = {path.name: path.read_bytes() for path in built.folder.glob(".doit.db*")}
    elsewhere = {name: data.replace(b"models--org--one", b"models--org--not") for name, data in saved.items()}
    assert elsewhere != saved
    for name, data in elsewhere.items():
        (built.folder / name).write_bytes(data)
    (built.folder / "ran.txt").unlink()
    assert built.doit("forget", "of_entry").code == 0
    hub.requests.clear()
    assert ran(built) == {"of_entry"}, "the weights are the same: other dependents are up to date"
    shown = (built.folder / "ran.txt").read_text()
    assert "models--org--not" not in shown
    assert "models--org--one" in shown
    assert hub.requests == []


def test_after_a_clean_the_weights_come_before_their_dependents(built: Truss) -> None:
    assert ran(built) == {"of_entry", "of_group", "after"}
    assert built.doit("clean", "cache_weights").code == 0
    done = built.doit("of_entry")
    assert done.code == 0, done.text
    assert done.out.splitlines()[0] == ".  cache_weights:org/one"
    assert "-- of_entry" in done.out, "the same weights again"
