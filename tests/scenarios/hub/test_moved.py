"""What a moving revision is pinned at, and that it moved: `why`, `why --remote`, the lines and the event of a run."""

from __future__ import annotations

import pytest
from in_process import Cli, cli
from recorder import Recorder
from servers.hub import Hub, Repo
from trusses import Truss

from truss_cache_tasks import fetch
from truss_cache_tasks.events import Moved

__all__ = ["cli"]

FILES = {"config.json": b"{}", "model.bin": b"m" * 20_000, "old.txt": b"o"}
CHANGES = {"model.bin": b"n" * 3_000, "new.txt": b"x" * 500, "old.txt": None}
IN_FILES_AND_BYTES = "1 file changed, 1 new, 1 gone, 3.5 kB to fetch"


@pytest.fixture
def repo(hub: Hub, truss: Truss) -> Repo:
    truss.config("model_cache:\n  - repo_id: org/name\n")
    repo = hub.create("org/name")
    repo.commit(FILES)
    return repo


def test_why_shows_the_commit_of_each_entry_without_a_request(cli: Cli, truss: Truss, hub: Hub, repo: Repo) -> None:
    first = repo.refs["refs/heads/main"]
    assert "pinned" not in cli("why").out
    assert cli().code == 0
    repo.commit(CHANGES)
    hub.requests.clear()
    assert cli("why").out == f"org/name: fresh\n  main: pinned at {first}\n"
    assert cli("lock").code == 0
    assert cli("why").out == f"org/name: fresh\n  main: model_cache.lock names {first}\n"
    assert hub.requests == []
    (truss.folder / "model_cache.lock").unlink()
    truss.config(f"model_cache:\n  - repo_id: org/name\n    revision: {first}\n")
    assert cli().code == 0
    assert f"  config.yaml names {first}\n" in cli("why").out


@pytest.mark.parametrize("locked", [False, True])
def test_why_remote_shows_old_and_new_in_files_and_bytes_as_the_check_of_the_lock_does(
    cli: Cli, truss: Truss, repo: Repo, locked: bool
) -> None:
    assert cli().code == 0
    if locked:
        assert cli("lock").code == 0
    first = repo.refs["refs/heads/main"]
    same = cli("why", "--remote", "--check")
    assert (same.code, same.out.splitlines()[-1]) == (0, "  in the store: unchanged"), same
    second = repo.commit(CHANGES)
    moved = f"main: {first[:12]} -> {second[:12]}; {IN_FILES_AND_BYTES}"
    assert cli("why", "--remote").code == 0
    for ran in (cli("why", "--remote", "--check"), truss.doit("cache-why", "--remote", "--check")):
        assert (ran.code, ran.out.splitlines()[-1]) == (1, f"  in the store: {moved}"), ran
        assert ("lock --upgrade" in ran.err, "run -a" in ran.err) == (locked, not locked)
    assert cli("why", "--check").code == 0
    if locked:
        assert f"org/name: {moved}" in cli("lock", "--check", "--remote").out


def test_why_remote_of_a_store_that_refuses_is_exit_1_and_tells_of_the_others(
    cli: Cli, truss: Truss, hub: Hub, repo: Repo
) -> None:
    truss.config("model_cache:\n  - repo_id: org/name\n  - repo_id: org/other\n")
    hub.create("org/other").commit(FILES)
    assert cli().code == 0
    hub.repos.pop("org/name")
    ran = cli("why", "--remote")
    assert (ran.code, ran.out.count("in the store: unchanged")) == (1, 1), ran
    assert "org/name: no such repo" in ran.err


def test_a_run_that_moves_a_pin_says_so(cli: Cli, truss: Truss, repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    first = repo.refs["refs/heads/main"]
    assert "moved" not in cli().text
    second = repo.commit(CHANGES)
    assert "moved" not in cli().text
    assert f"org/name: main moved: {first[:12]} -> {second[:12]}\n" in cli("-a").err
    assert "moved" not in cli("-a").text
    assert cli("lock").code == 0
    third = repo.commit({"new.txt": b"again"})
    assert cli("lock", "--upgrade").code == 0
    for name, value in truss.env.items():
        monkeypatch.setenv(name, value)
    recorder = Recorder()
    assert fetch(truss.folder, reporter=recorder).ok
    moved = [event for event in recorder.events if isinstance(event, Moved)]
    assert moved == [Moved(entry="org/name", revision="main", before=second, after=third)]


def test_an_entry_that_follows_the_pin_of_another_moves_none(cli: Cli, truss: Truss, repo: Repo) -> None:
    truss.config("model_cache:\n  - repo_id: org/name\n  - repo_id: org/name\n    allow_patterns: ['*.bin']\n")
    assert cli().code == 0
    repo.commit(CHANGES)
    assert cli("-a", "org/name").err.count(" moved: ") == 1
    follows = cli()
    assert "the pinned commit moved by org/name" in follows.err
    assert " main moved: " not in follows.err
