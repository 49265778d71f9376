"""A pattern that matches nothing beside others that do: a warning of the run, an error where that is asked for."""

from __future__ import annotations

import pytest
from entry_cases import well_said
from in_process import Cli, cli
from servers.hub import Hub
from trusses import Truss

__all__ = ["cli"]

WARNING = (
    "allow_patterns: '*.safetensor' matches no file of 2, expected one at least; the nearest are model.safetensors"
)
STRICT = "from truss_cache_tasks import cache_tasks\ntask_cache_weights = cache_tasks(strict_patterns=True)\n"


@pytest.fixture(autouse=True)
def config(hub: Hub, truss: Truss) -> None:
    hub.create("org/name").commit({"config.json": b"{}", "model.safetensors": b"m" * 2_000})
    truss.config("model_cache:\n  - repo_id: org/name\n    allow_patterns: ['*.json', '*.safetensor']\n")


def test_a_run_warns_once_and_fetches_what_the_others_match(cli: Cli, truss: Truss) -> None:
    ran = truss.doit("cache_weights")
    assert ran.code == 0, ran
    assert ran.err.count(f"cache_weights:org/name: warning: {WARNING}\n") == 1
    assert "fetched 1 file" in ran.err
    assert "warning" not in cli().text


def test_strict_fails_the_entry_before_a_byte_in_both_front_ends(cli: Cli, truss: Truss, hub: Hub) -> None:
    truss.dodo(STRICT)
    for ran in (cli("--strict"), truss.doit("cache_weights"), cli("plan", "--strict"), cli("lock", "--strict")):
        assert ran.code == 1, ran
        assert f"org/name: {WARNING}" in ran.text
        assert "hint: Fix the patterns in config.yaml." in ran.text
    well_said(cli("run", "org/name", "--strict"), WARNING)
    assert [request.path for request in hub.requests if "/resolve/" in request.path] == []
    truss.config("model_cache:\n  - repo_id: org/name\n    allow_patterns: ['*.json', '*.safetensors']\n")
    assert cli("--strict").code == 0


def test_a_lock_file_which_names_selected_files_alone_makes_no_pattern_match_nothing(cli: Cli, truss: Truss) -> None:
    truss.config(
        "model_cache:\n  - repo_id: org/name\n    allow_patterns: ['*.json', '*.safetensors']\n"
        "    ignore_patterns: ['model.*']\n"
    )
    assert cli("lock", "--strict").code == 0
    ran = cli("--strict")
    assert (ran.code, "warning" in ran.err) == (0, False), ran
