"""A moving revision stays where the first fetch pinned it, for all entries of a root, until somebody asks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from entries import entry
from machine import FILES, Judge, Machine, Trussed, flip
from servers.hub import Hub, Repo

MAIN = "org/name"


def two(machine: Machine, **named: Any) -> Trussed:
    return machine.truss(
        entry(MAIN, allow_patterns=["*.json"]), entry(MAIN, name="bins", allow_patterns=["*.bin"]), **named
    )


def test_two_entries_end_on_one_commit_though_main_moves_between_their_fetches(
    machine: Machine, repo: Repo, judge: Judge
) -> None:
    first = repo.refs["refs/heads/main"]
    two(machine).run(MAIN)
    repo.commit({"model.bin": b"moved", "config.json": b"[]"})
    truss = two(machine)
    truss.run()
    assert truss.fresh
    assert judge.scan(machine) == {first: {"main"}}
    found = judge.snapshot(machine)
    assert found == {path: data for path, data in FILES.items() if path.endswith(("json", "bin"))}


def test_two_entries_that_run_at_once_end_on_one_commit(
    machine: Machine,
    repo: Repo,
    hub: Hub,
    judge: Judge,
    in_background: Callable[[Callable[[], Any]], Callable[[], Any]],
) -> None:
    """Each resolves main by itself before the other pinned it, and gets another commit."""
    hub.fail("config.json", "stall")
    truss = two(machine)
    slow = in_background(lambda: truss.run(MAIN))
    reached = threading.Event()
    while not hub.asked("GET", "config.json"):
        reached.wait(0.005)
    second = repo.commit({"model.bin": b"moved"})
    two(machine).run("bins")
    hub.released.set()
    assert slow()[MAIN].manifest.revision == second  # overtaken: it lists again at the commit that is pinned now
    assert two(machine).fresh
    assert judge.scan(machine) == {second: {"main"}}
    assert {"config.json", "model.bin"} <= set(judge.snapshot(machine))


def test_a_main_that_moved_upstream_is_fresh_until_asked(machine: Machine, repo: Repo) -> None:
    two(machine).run()
    repo.commit({"config.json": b"[]"})
    machine.asked()
    truss = two(machine)
    assert truss.fresh
    assert truss.run() == {}
    assert machine.asked() == []


def test_a_ref_that_huggingface_hub_moved_is_pointed_back_offline(machine: Machine, repo: Repo, judge: Judge) -> None:
    from huggingface_hub import hf_hub_download

    two(machine).run()
    first = repo.refs["refs/heads/main"]
    second = repo.commit({"config.json": b"[]"})
    hf_hub_download(MAIN, "config.json", cache_dir=machine.hub_cache, endpoint=machine.hub.url)
    assert judge.scan(machine)[second] == {"main"}
    machine.asked()
    truss = two(machine)
    assert truss.verdicts()[MAIN] == f"refs/main names {second[:12]}; the pin is {first[:12]}"
    truss.run(MAIN)
    assert truss.fresh
    assert machine.asked() == []
    assert judge.scan(machine)[first] == {"main"}
    assert judge.snapshot(machine)["config.json"] == b"{}"


def test_a_ref_that_is_gone_is_written_again_offline(machine: Machine, repo: Repo, judge: Judge) -> None:
    two(machine).run()
    (machine.repo() / "refs" / "main").unlink()
    machine.asked()
    assert "refs/main is missing" in two(machine).verdicts()[MAIN]
    two(machine).run()
    assert machine.asked() == []
    assert two(machine).fresh
    judge.scan(machine)


def test_force_moves_the_pin_and_the_others_turn_stale_by_name(machine: Machine, repo: Repo, judge: Judge) -> None:
    two(machine).run()
    first = repo.refs["refs/heads/main"]
    second = repo.commit({"config.json": b"[]"})
    two(machine).run(MAIN, force=True)
    after = two(machine)
    moved = f"the pinned commit moved by {MAIN}: {first[:12]} -> {second[:12]}"
    assert after.verdicts() == {MAIN: "fresh", "bins": moved}
    repo.commit({"model.bin": b"later"})  # main moves on: the pin counts
    machine.asked()
    after.run()
    assert after.fresh
    assert machine.downloads() == []
    assert {path for path in judge.snapshot(machine)} == {"config.json", "model.bin", "fp16/model.bin", "fp16/twin.bin"}
    assert judge.scan(machine)[second] == {"main"}


def test_force_on_all_entries_resolves_once(machine: Machine, repo: Repo) -> None:
    two(machine).run()
    repo.commit({"config.json": b"[]"})
    machine.asked()
    truss = two(machine)
    truss.workspace.read_status(truss.context(MAIN)), truss.workspace.read_status(truss.context("bins"))
    truss.run(force=True)
    truss.run()
    assert machine.asked().count("GET /api/models/org/name/revision/main") == 1
    assert truss.fresh


def test_a_delta_of_one_entry_does_not_keep_another_from_resolving_in_the_same_run(
    machine: Machine, repo: Repo
) -> None:
    two(machine).run()
    second = repo.commit({"config.json": b"[]"})
    truss = machine.truss(
        entry(MAIN, name="bins", allow_patterns=["*.bin", "*.txt"]), entry(MAIN, allow_patterns=["*.json"])
    )
    done = truss.run(force=True)
    assert done["bins"].manifest.revision != second  # stale: no force, the pinned commit
    assert done[MAIN].manifest.revision == second


def test_an_edit_of_patterns_takes_the_pinned_commit(machine: Machine, repo: Repo) -> None:
    two(machine).run()
    first = repo.refs["refs/heads/main"]
    repo.commit({"model.bin": b"moved"})
    done = machine.truss(entry(MAIN)).run()[MAIN]
    assert done.manifest.revision == first


def test_after_a_clean_the_next_run_resolves_again(machine: Machine, repo: Repo, judge: Judge) -> None:
    two(machine).run()
    second = repo.commit({"config.json": b"[]"})
    two(machine).clean()
    assert judge.scan(machine) == {}
    truss = two(machine)
    assert {d.manifest.revision for d in truss.run().values()} == {second}
    assert judge.scan(machine) == {second: {"main"}}


def test_a_clean_of_one_entry_rehashes_the_blobs_that_it_shares_and_resolves_again(
    machine: Machine, repo: Repo
) -> None:
    truss = machine.truss(entry(MAIN), entry(MAIN, name="all", ignore_patterns=["*.md"]))
    truss.run()
    blob = (machine.repo() / "snapshots" / repo.refs["refs/heads/main"] / "model.bin").resolve()
    flip(blob)
    second = repo.commit({"config.json": b"[]"})
    assert truss.fresh  # by stat alone
    truss.clean(MAIN)
    assert truss.verdicts() == {MAIN: "cleaned: the next run resolves it again", "all": "fresh"}
    machine.asked()
    assert truss.run()[MAIN].manifest.revision == second
    assert machine.downloads() == ["config.json", "model.bin"]


@pytest.mark.parametrize("edit", [{"mount_location": "/m"}, {"use_volume": True, "volume_folder": "v"}])
def test_plain_files_take_the_pin_of_the_hub_cache(edit: dict[str, Any], machine: Machine, repo: Repo) -> None:
    machine.truss(entry(MAIN)).run()
    first = repo.refs["refs/heads/main"]
    repo.commit({"config.json": b"[]"})
    truss = machine.truss(entry(MAIN), entry(MAIN, name="plain", **edit))
    assert truss.run()["plain"].manifest.revision == first
    assert truss.fresh


def test_a_delta_of_plain_files_never_moves_the_pin_of_the_hub_cache_back(machine: Machine, repo: Repo) -> None:
    def truss(*allow: str) -> Trussed:
        return machine.truss(entry(MAIN), entry(MAIN, name="plain", mount_location="/m", allow_patterns=list(allow)))

    truss("*.json").run()
    second = repo.commit({"config.json": b"[]"})
    truss("*.json").run(MAIN, force=True)
    wide = truss("*.json", "*.bin")
    wide.run()
    assert wide.fresh
    assert (machine.repo() / "refs" / "main").read_text() == second
