"""`model_cache.lock` of Hub entries: every machine gets the locked commit, and the Hub is asked for bytes alone."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from in_process import Cli, cli
from servers.hub import Hub, Repo, Rights
from trusses import Ran, Truss, tree

from truss_cache_tasks import fetch
from truss_cache_tasks.errors import ConfigError

__all__ = ["cli"]

FILES = {"config.json": b"{}", "model.bin": b"m" * 20_000, "sub/c.txt": b"c" * 100}
ONE = "model_cache:\n  - repo_id: org/name\n"
TWO = ONE + "    allow_patterns: ['*.json']\n  - repo_id: org/name\n    allow_patterns: ['*.bin']\n"
LOCKED = {"TRUSS_CACHE_LOCKED": "1"}


@pytest.fixture
def repo(hub: Hub, truss: Truss) -> Repo:
    truss.config(ONE)
    repo = hub.create("org/name")
    repo.commit(FILES)
    return repo


def done(ran: Ran) -> Ran:
    assert ran.code == 0, ran
    return ran


def asked(hub: Hub) -> list[str]:
    """Return `METHOD path` of the requests since the last look."""
    found = [f"{request.method} {request.path}" for request in hub.requests]
    hub.requests.clear()
    return found


def listings(hub: Hub) -> list[str]:
    return [line for line in asked(hub) if "/api/" in line]


def lock_of(truss: Truss) -> Path:
    return truss.folder / "model_cache.lock"


def main_of(truss: Truss) -> dict[str, bytes]:
    """Return what `refs/main` names in the hub cache."""
    folder = truss.hub_cache / "models--org--name"
    return tree(folder / "snapshots" / (folder / "refs" / "main").read_text())


def test_an_empty_cache_gets_the_locked_commit_and_asks_for_bytes_alone(
    cli: Cli, truss: Truss, hub: Hub, repo: Repo
) -> None:
    done(cli("lock"))
    repo.commit({"model.bin": b"moved", "new.bin": b"new"})
    asked(hub)
    done(cli(**LOCKED))
    assert listings(hub) == []
    assert main_of(truss) == FILES
    done(cli())
    done(cli("-a"))
    assert "fresh" in done(truss.doit("cache_weights")).out + done(cli()).err
    assert asked(hub) == []


def test_what_is_here_already_is_locked_without_a_request(cli: Cli, truss: Truss, hub: Hub, repo: Repo) -> None:
    done(cli())
    repo.commit({"model.bin": b"moved"})
    asked(hub)
    done(cli("lock"))
    assert asked(hub) == []
    assert done(cli("why", "--check")).out.startswith("org/name: fresh\n")
    text = lock_of(truss).read_text()
    done(cli("clean"))
    lock_of(truss).unlink()
    repo.commit(FILES)
    done(cli("lock"))
    asked_anew = lock_of(truss).read_text()
    assert [line for line in text.splitlines() if '"commit"' not in line] == [
        line for line in asked_anew.splitlines() if '"commit"' not in line
    ], "a lock from the records is that of the store"


def test_only_upgrade_moves_a_lock(cli: Cli, truss: Truss, hub: Hub, repo: Repo) -> None:
    done(cli("lock"))
    text = lock_of(truss).read_text()
    second = repo.commit({"model.bin": b"moved" * 1000, "new.bin": b"new"})
    done(cli("lock"))
    done(cli())
    done(cli("-a"))
    done(cli("clean"))
    done(cli())
    assert (lock_of(truss).read_text(), main_of(truss)) == (text, FILES)
    remote = cli("lock", "--check", "--remote")
    first = json.loads(text)["pins"][0]["commit"]
    assert remote.code == 1, remote
    assert remote.out == f"org/name: main: {first[:12]} -> {second[:12]}; 1 file changed, 1 new, 5.0 kB to fetch\n"
    done(cli("lock", "--upgrade"))
    assert done(cli("lock", "--check", "--remote")).out == "org/name: unchanged\n"
    assert f"model_cache.lock: commit {first[:12]} -> {second[:12]}\n  -> a run fetches 5.0 kB" in cli("why").out
    asked(hub)
    assert "HF_HUB_OFFLINE is set, and the entry is stale: model_cache.lock: commit " in cli(HF_HUB_OFFLINE="1").err
    done(cli())
    assert listings(hub) == []
    assert main_of(truss)["new.bin"] == b"new"
    lock_of(truss).write_text(text)
    assert "asks no server" in done(cli("why", "--check")).out
    done(cli(HF_HUB_OFFLINE="1"))
    assert listings(hub) == []
    assert main_of(truss) == FILES


@pytest.mark.parametrize("how", ["missing", "outdated", "gone"])
def test_locked_runs_fetch_nothing_without_a_whole_lock(
    how: str, cli: Cli, truss: Truss, hub: Hub, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "outdated":
        done(cli("lock"))
        truss.config(ONE + "    allow_patterns: ['*.bin']\n")
    if how == "gone":
        truss.config(TWO)
        done(cli("lock"))
        truss.config(ONE + "    allow_patterns: ['*.json']\n")
    asked(hub)
    for ran in (cli(**LOCKED), cli("-a", **LOCKED), cli("why", "--check", **LOCKED)):
        assert ran.code == 3, ran
        assert "hint: Run `truss-cache lock`" in ran.err
    runs = (["cache_weights"], ["-n", "2", "-P", "thread"], ["-c", "cache_weights:org/name"])
    for args in runs if how == "missing" else runs[1:2]:
        ran = truss.doit("run", *args, **LOCKED)
        assert ran.code == 3, ran
        assert "model_cache.lock: " in ran.err
        assert "Traceback" not in ran.text
    for name, value in {**truss.env, **LOCKED}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"model_cache\.lock: "):
        fetch(truss.folder)
    assert not (truss.hub_cache / "models--org--name").exists()
    for args in (["why"], ["clean"], ["key"], ["verify"]):
        assert cli(*args, **LOCKED).code != 3, args
    done(truss.doit("list", "--all", **LOCKED))
    assert cli("lock", "--check", **LOCKED).code == 1
    assert asked(hub) == []
    done(cli("lock", **LOCKED))
    done(cli("lock", "--check"))
    done(cli(**LOCKED))


def test_an_entry_that_the_lock_does_not_know_is_fetched_with_a_warning(
    truss: Truss, cli: Cli, hub: Hub, repo: Repo
) -> None:
    done(cli("lock"))
    text = lock_of(truss).read_text()
    hub.create("org/two").commit({"two.bin": b"2"})
    truss.config(ONE + "  - repo_id: org/two\n")
    ran = done(truss.cli())
    assert "warning: model_cache.lock: 1 entry is not in it: org/two. Run `truss-cache lock`" in ran.err
    assert lock_of(truss).read_text() == text, "a run never writes it"
    done(cli("lock"))
    assert "warning" not in done(truss.cli()).err


def test_widened_patterns_take_the_new_files_from_the_locked_commit(
    truss: Truss, cli: Cli, hub: Hub, repo: Repo
) -> None:
    truss.config(ONE + "    allow_patterns: ['*.json']\n")
    done(cli("lock"))
    repo.commit({"model.bin": b"moved"})
    truss.config(ONE)
    assert "warning: model_cache.lock: 1 entry is not in it" in done(truss.cli()).err
    assert main_of(truss) == FILES
    done(cli("lock"))
    pins = json.loads(lock_of(truss).read_text())["pins"]
    assert len(pins) == 1
    assert done(cli("why", "--check")).out.startswith("org/name: fresh\n")
    done(cli("clean"))
    done(cli(**LOCKED))
    assert main_of(truss) == FILES


def test_entries_with_one_source_and_revision_share_their_pin(truss: Truss, cli: Cli, hub: Hub, repo: Repo) -> None:
    truss.config(TWO)
    done(cli("lock"))
    second = repo.commit({"config.json": b"[]", "model.bin": b"moved"})
    done(cli("lock", "--upgrade", "org/name"))
    found = json.loads(lock_of(truss).read_text())
    assert [pin["commit"] for pin in found["pins"]] == [second]
    assert [entry["files"][0]["size"] for entry in found["entries"]] in ([2, 5], [5, 2])
    done(cli(**LOCKED))
    assert main_of(truss) == {"config.json": b"[]", "model.bin": b"moved"}


@pytest.mark.parametrize(
    "config",
    [
        "weights:\n  - source: hf://org/name\n    mount_location: /m\n",
        "model_cache:\n  - repo_id: org/name\n    use_volume: true\n    volume_folder: v\n",
    ],
)
def test_plain_files_of_a_repo_are_locked_too(config: str, truss: Truss, cli: Cli, hub: Hub, repo: Repo) -> None:
    truss.config(config)
    done(cli("lock"))
    repo.commit({"model.bin": b"moved"})
    asked(hub)
    done(cli(**LOCKED))
    assert listings(hub) == []
    folder = truss.mounts / "m" if "weights" in config else truss.model_cache / "v"
    assert tree(folder) == FILES
    assert main_of(truss) == FILES
    text = lock_of(truss).read_text()
    lock_of(truss).unlink()
    done(cli("lock"))
    assert lock_of(truss).read_text() == text


@pytest.mark.parametrize("patterns", [True, False])
def test_a_pin_that_another_project_moved_is_moved_back_without_a_request(
    patterns: bool, truss: Truss, cli: Cli, hub: Hub, repo: Repo
) -> None:
    done(cli("lock"))
    done(cli())
    first = (truss.hub_cache / "models--org--name" / "refs" / "main").read_text()
    second = repo.commit({"model.bin": b"moved"})
    other = truss.folder / "other"
    other.mkdir()
    (other / "config.yaml").write_text(ONE + "    allow_patterns: ['*.bin']\n" if patterns else ONE)
    done(cli("-f", str(other), "-a", "--replace"))
    assert main_of(truss)["model.bin"] == b"moved"
    why = done(cli("why", "--check")).out
    moved = f"the pinned commit moved by org/name to {second[:12]}; model_cache.lock names {first[:12]}"
    assert (moved if patterns else f"model_cache.lock: commit {second[:12]} -> {first[:12]}") in why
    assert "a run puts it right and asks no server" in why
    asked(hub)
    done(cli())
    assert asked(hub) == []
    assert main_of(truss) == FILES
    theirs = done(cli("-f", str(other), "why")).out
    assert ("the pinned commit moved by org/name: " if patterns else "fresh") in theirs


def test_a_commit_that_is_gone_is_an_error_with_both_digests(truss: Truss, cli: Cli, hub: Hub, repo: Repo) -> None:
    done(cli("lock"))
    digest = next(line for line in lock_of(truss).read_text().splitlines() if "model.bin" in line).split('"')[9]
    commit = repo.refs["refs/heads/main"]
    repo.commit({"model.bin": b"other"})
    del repo.trees[commit]
    ran = cli()
    assert ran.code == 1, ran
    assert f"{digest} (20,000 bytes) at commit {commit[:12]} of model_cache.lock" in ran.err
    assert "model.bin: the store has " in ran.err
    assert "hint: Put the locked bytes back, or take what is there now: truss-cache lock --upgrade org/name" in ran.err


def test_a_merge_of_two_locks_that_belong_to_no_commit_is_an_error_with_both_digests(
    truss: Truss, cli: Cli, hub: Hub, repo: Repo
) -> None:
    done(cli("lock"))
    old = lock_of(truss).read_text().splitlines()
    repo.commit({"model.bin": b"M" * 20_000})
    done(cli("lock", "--upgrade"))
    new = lock_of(truss).read_text().splitlines()
    merged = [mine if "model.bin" in mine else other for mine, other in zip(old, new, strict=True)]
    lock_of(truss).write_text("\n".join(merged))
    digests = [next(line for line in text if "model.bin" in line).split('"')[9] for text in (old, new)]
    ran = cli()
    assert ran.code == 1, ran
    assert f"the store has {digests[1]} (20,000 bytes), expected {digests[0]} (20,000 bytes)" in ran.err
    assert not (truss.hub_cache / "models--org--name" / "refs" / "main").exists()


@pytest.mark.parametrize("bad", ["cut", "conflict", "newer", "path", "fifo", "folder", "link"])
def test_a_lock_that_cannot_be_used_stops_what_fetches_and_judges_and_can_be_made_anew(
    bad: str, truss: Truss, cli: Cli, hub: Hub, repo: Repo
) -> None:
    done(cli("lock"))
    path = lock_of(truss)
    text = path.read_text()
    path.unlink()
    if bad == "fifo":
        os.mkfifo(path)
    elif bad == "folder":
        path.mkdir()
    elif bad == "link":
        path.symlink_to("nothing")
    else:
        edits = {
            "cut": text[:-20],
            "conflict": "<<<<<<< HEAD\n" + text,
            "newer": text.replace('"format": 1', '"format": 2'),
            "path": text.replace("model.bin", "../model.bin"),
        }
        path.write_text(edits[bad])
    asked(hub)
    for args in ([], ["why"], ["key"], ["lock"], ["lock", "--check"], ["lock", "--upgrade", "org/name"]):
        ran = cli(*args)
        assert ran.code == 3, (args, ran)
        assert ran.err.startswith("model_cache.lock:"), ran
        assert "hint: " in ran.err
    assert asked(hub) == []
    done(cli("clean"))
    remade = cli("lock", "--upgrade")
    assert remade.code == {"newer": 3, "folder": 1, "fifo": 0, "link": 0}.get(bad, 0), remade
    if remade.code == 0:
        assert path.read_text() == text


def test_a_broken_lock_is_a_failed_task_where_errors_are_deferred(truss: Truss, repo: Repo) -> None:
    lock_of(truss).write_text("{")
    truss.dodo("from truss_cache_tasks import cache_tasks\ntask_cache_weights = cache_tasks(defer_errors=True)\n")
    ran = truss.doit("cache_weights")
    assert ran.code == 1, ran
    assert "model_cache.lock:1: found the end of the file" in ran.text


def test_the_mode_of_the_file_and_a_link_to_it_stay(truss: Truss, cli: Cli, repo: Repo, tmp_path: Path) -> None:
    target = tmp_path / "shared.lock"
    lock_of(truss).symlink_to(target)
    target.write_text("{}")
    target.chmod(0o640)
    done(cli("lock", "--upgrade"))
    assert lock_of(truss).is_symlink()
    assert target.stat().st_mode & 0o777 == 0o640
    before = target.stat()
    done(cli("lock", "--upgrade"))
    assert (target.stat().st_ino, target.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert [path.name for path in tmp_path.iterdir() if "lock" in path.name] == ["shared.lock"]


def test_the_commit_of_a_lock_holds_for_patterns_that_it_does_not_have(
    truss: Truss, cli: Cli, hub: Hub, repo: Repo
) -> None:
    done(cli("lock"))
    truss.config(ONE + "    allow_patterns: ['*.json']\n")
    done(cli())
    second = repo.commit({"config.json": b"[]", "model.bin": b"moved"})
    other = truss.folder / "other"
    other.mkdir()
    (other / "config.yaml").write_text(ONE)
    done(cli("-f", str(other), "-a"))
    why = done(cli("why", "--check")).out
    assert f"the pinned commit moved by org/name to {second[:12]}" in why
    assert "a run puts it right and asks no server" in why
    asked(hub)
    done(cli())
    assert asked(hub) == []
    assert main_of(truss)["config.json"] == b"{}"


def test_the_cache_key_is_that_of_before_without_a_lock_and_changes_with_what_is_locked(
    truss: Truss, cli: Cli, repo: Repo
) -> None:
    bare = done(cli("key")).out
    done(cli("lock"))
    locked = done(cli("key")).out
    repo.commit({"model.bin": b"moved"})
    done(cli("lock"))
    assert done(cli("key")).out == locked != bare
    done(cli("lock", "--upgrade"))
    assert done(cli("key")).out not in (locked, bare)
    lock_of(truss).unlink()
    assert done(cli("key")).out == bare


def test_no_token_is_in_the_lock(truss: Truss, cli: Cli, hub: Hub, repo: Repo) -> None:
    (truss.secrets / "hf_access_token").write_text("hf_secretsecret")
    hub.tokens["hf_secretsecret"] = Rights()
    done(cli("lock"))
    assert "hf_secret" not in lock_of(truss).read_text()
    assert hub.url not in lock_of(truss).read_text()


def test_a_folder_that_is_read_only_is_a_clear_error_and_serves_every_other_command(
    truss: Truss, cli: Cli, repo: Repo
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    done(cli("lock"))
    repo.commit({"model.bin": b"moved"})
    subprocess.run(["mount", "--bind", truss.folder, truss.folder], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", truss.folder], check=True)
        ran = truss.cli("lock", "--upgrade")
        assert ran.code == 1, ran
        assert "cannot write model_cache.lock: Read-only file system\nhint: Make its folder writable." in ran.err
        done(truss.cli("lock"))
        assert truss.cli("lock", "--check", "--remote").code == 1
        done(truss.cli(**LOCKED))
        assert main_of(truss) == FILES
    finally:
        subprocess.run(["umount", truss.folder], check=True)


def test_an_upgrade_moves_the_hub_cache_under_plain_files_too(cli: Cli, truss: Truss, hub: Hub, repo: Repo) -> None:
    truss.config(ONE + "    use_volume: true\n    volume_folder: v\n")
    done(cli())
    done(cli("lock"))
    repo.commit({"model.bin": b"n" * 30_000})
    done(cli("lock", "--upgrade"))
    done(cli(**LOCKED))
    shown = truss.model_cache / "v" / "model.bin"
    assert shown.read_bytes() == main_of(truss)["model.bin"] == b"n" * 30_000
    assert shown.stat().st_nlink == 2
    assert "20,000 bytes" in done(cli("prune", "--yes")).out


@pytest.mark.parametrize("about", [("gs://bucket/x", "main"), ("hf://org/other", "main"), ("hf://org/name", "v2")])
def test_files_under_the_key_of_another_source_are_exit_3_with_the_line(
    about: tuple[str, str], cli: Cli, truss: Truss, hub: Hub, repo: Repo
) -> None:
    done(cli("lock"))
    lock = json.loads(lock_of(truss).read_text())
    lock["entries"][0] |= {"source": about[0], "revision": about[1]}
    lock["pins"].append({"source": "hf://org/other", "revision": "main", "commit": "1" * 40})
    lock["pins"].append({"source": "hf://org/name", "revision": "v2", "commit": "1" * 40})
    lock_of(truss).write_text(json.dumps(lock, indent=1))
    asked(hub)
    ran = cli()
    assert ran.code == 3, ran
    assert "model_cache.lock:21: found the request of 'hf://org/name@main'" in ran.err
    assert asked(hub) == []
    done(cli("lock", "--upgrade"))
    done(cli())
