"""A stale run fetches what is missing and nothing else; an edit that is undone fetches nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from entries import entry
from machine import BIG, FILES, OTHER, Judge, Machine, Trussed, read
from servers.hub import Hub, Repo, Rights

from truss_cache_tasks.errors import AccessDenied

MAIN = "org/name"


def test_widened_patterns_fetch_the_new_files_only(machine: Machine, repo: Repo, judge: Judge) -> None:
    machine.truss(entry(MAIN, allow_patterns=["*.json"])).run()
    assert machine.downloads() == ["config.json"]
    wide = machine.truss(entry(MAIN, allow_patterns=["*.json", "*.bin"]))
    assert wide.verdicts() == {MAIN: "allow_patterns: ['*.json'] -> ['*.bin', '*.json']"}
    wide.run()
    assert machine.downloads() == ["fp16/model.bin", "model.bin"]
    assert set(judge.snapshot(machine)) == {"config.json", "fp16/model.bin", "fp16/twin.bin", "model.bin"}


def test_narrowed_patterns_drop_our_links_and_not_those_of_a_live_claim(
    machine: Machine, repo: Repo, judge: Judge
) -> None:
    machine.truss(entry(MAIN)).run()
    other = machine.truss(entry(MAIN, allow_patterns=["fp16/*"]), project="theirs")
    other.run()
    machine.asked()
    machine.truss(entry(MAIN, allow_patterns=["config.json"])).run()
    assert machine.downloads() == []
    assert set(judge.snapshot(machine)) == {"config.json", "fp16/model.bin", "fp16/twin.bin"}
    assert other.fresh
    judge.scan(machine)


def test_a_link_that_huggingface_hub_made_stays_when_patterns_narrow(
    machine: Machine, repo: Repo, judge: Judge
) -> None:
    from huggingface_hub import hf_hub_download

    hf_hub_download(MAIN, "config.json", cache_dir=machine.hub_cache, endpoint=machine.hub.url)
    machine.truss(entry(MAIN)).run()
    machine.truss(entry(MAIN, allow_patterns=["empty.txt"])).run()
    assert set(judge.snapshot(machine)) == {"config.json", "empty.txt"}


def test_an_edit_that_is_undone_asks_nobody(machine: Machine, repo: Repo, judge: Judge) -> None:
    repo.tag("v1")
    repo.commit({"config.json": b"[]"})
    edits: list[dict[str, Any]] = [
        {},
        {"allow_patterns": ["*.json"]},
        {"revision": "v1"},
        {"revision": "v1", "ignore_patterns": ["*.txt"]},
    ]
    for edit in edits:
        machine.truss(entry(MAIN, **edit)).run()
    machine.asked()
    for edit in [*edits, *reversed(edits)]:
        truss = machine.truss(entry(MAIN, **edit))
        truss.run()
        assert truss.fresh
        judge.scan(machine)
    assert machine.asked() == []
    assert judge.snapshot(machine) == {**FILES, "config.json": b"[]"}


def test_another_revision_fetches_the_blobs_that_are_new(machine: Machine, repo: Repo, judge: Judge) -> None:
    machine.truss(entry(MAIN)).run()
    repo.commit({"config.json": b"[]", "renamed.bin": OTHER, "fp16/model.bin": None}, branch="dev")
    machine.asked()
    machine.truss(entry(MAIN, revision="dev")).run()
    assert machine.downloads() == ["config.json"]
    assert judge.snapshot(machine, "dev")["renamed.bin"] == OTHER


def test_entries_of_a_repo_share_its_blobs(machine: Machine, repo: Repo) -> None:
    repo.commit({"config.json": b"[]"}, branch="dev")
    truss = machine.truss(
        entry(MAIN), entry(MAIN, name="dev", revision="dev"), entry(MAIN, name="j", allow_patterns=["*.json"])
    )
    truss.run()
    assert truss.fresh
    assert len(machine.downloads()) == len({*FILES.values(), b"[]"})


def test_a_revision_that_moves_while_it_is_asked_for_fetches_the_new_blobs(
    machine: Machine, repo: Repo, judge: Judge
) -> None:
    machine.truss(entry(MAIN)).run()
    repo.commit({"config.json": b"[]"})
    machine.asked()
    machine.truss(entry(MAIN)).run(force=True)
    assert machine.downloads() == ["config.json"]
    assert judge.snapshot(machine)["config.json"] == b"[]"


# Plain files


@pytest.mark.parametrize("edit", [{"use_volume": True, "volume_folder": "v"}, {"mount_location": "/m"}])
def test_a_layout_edit_and_back_fetches_nothing(
    edit: dict[str, Any], machine: Machine, repo: Repo, judge: Judge
) -> None:
    machine.truss(entry(MAIN)).run()
    machine.asked()
    plain = machine.truss(entry(MAIN, **edit))
    assert "layout: 'hub' -> " in plain.verdicts()[MAIN] or plain.verdicts()[MAIN] == "not fetched yet"
    plain.run()
    folder = machine.model_cache / "v" if "use_volume" in edit else machine.mounts / "m"
    assert read(folder) == FILES
    back = machine.truss(entry(MAIN))
    back.run()
    assert back.fresh
    assert machine.downloads() == []
    assert judge.snapshot(machine) == FILES
    judge.scan(machine)


def test_a_volume_folder_that_is_renamed_fetches_nothing(machine: Machine, repo: Repo) -> None:
    machine.truss(entry(MAIN, use_volume=True, volume_folder="old")).run()
    machine.asked()
    truss = machine.truss(entry(MAIN, use_volume=True, volume_folder="new"))
    assert truss.verdicts() == {MAIN: "volume_folder: 'old' -> 'new'"}
    truss.run()
    assert machine.downloads() == []
    assert read(machine.model_cache) == {f"new/{path}": data for path, data in FILES.items()}


def test_two_entries_that_swap_their_volume_folders_fetch_nothing(machine: Machine, repo: Repo) -> None:
    def truss(one: str, two: str) -> Trussed:
        return machine.truss(
            entry(MAIN, name="a", use_volume=True, volume_folder=one, allow_patterns=["fp16/*"]),
            entry(MAIN, name="b", use_volume=True, volume_folder=two, allow_patterns=["*"]),
        )

    truss("x", "y").run()
    machine.asked()
    swapped = truss("y", "x")
    swapped.run()
    swapped.run()
    assert swapped.fresh
    assert machine.downloads() == []
    assert set(read(machine.model_cache / "y")) == {"fp16/model.bin", "fp16/twin.bin"}
    assert read(machine.model_cache / "x") == FILES


def test_plain_files_of_another_revision_come_back_when_the_edit_is_undone(machine: Machine, repo: Repo) -> None:
    repo.tag("v1")
    repo.commit({"model.bin": b"two" * 9000, "fp16/twin.bin": None})
    volume: dict[str, Any] = {"use_volume": True, "volume_folder": "v"}
    machine.truss(entry(MAIN, revision="v1", **volume)).run()
    machine.truss(entry(MAIN, **volume)).run()
    assert read(machine.model_cache / "v")["model.bin"] == b"two" * 9000
    machine.asked()
    machine.truss(entry(MAIN, revision="v1", **volume)).run()
    assert machine.asked() == []
    assert read(machine.model_cache / "v") == FILES


def test_bytes_that_an_edit_replaced_are_kept_where_no_hub_cache_stands_behind(
    machine: Machine, repo: Repo, small_disk: Callable[[Path, int], Path]
) -> None:
    repo.tag("v1")
    repo.commit({"model.bin": b"two", "fp16/twin.bin": None})
    small_disk(machine.mounts, 2000)
    edits = [entry(MAIN, revision="v1", mount_location="/m"), entry(MAIN, mount_location="/m")]
    for edit in edits:
        machine.truss(edit).run()
    assert read(machine.mounts / "m")["model.bin"] == b"two"
    assert not machine.repo().exists()
    machine.asked()
    for edit in (*edits, edits[0]):
        machine.truss(edit).run()
    assert machine.asked() == []
    assert read(machine.mounts / "m") == FILES


def test_a_repo_that_nobody_may_read_any_more_is_not_served_from_anothers_bytes(
    machine: Machine, hub: Hub, judge: Judge
) -> None:
    """All bytes are here, so no download would prove the access."""
    hub.create("org/name", gated=True).commit({"w.bin": BIG, "x.bin": OTHER})
    hub.tokens |= {"good": Rights(), "list-only": Rights(gated=False)}
    theirs = machine.truss(entry(MAIN), project="theirs", HF_TOKEN="good")
    theirs.run()
    (machine.secrets / "hf_access_token").write_text("list-only")
    ours = machine.truss(entry(MAIN, allow_patterns=["w.bin"]))
    with pytest.raises(AccessDenied):
        ours.run()
    assert not ours.fresh
    (machine.secrets / "hf_access_token").write_text("good")
    machine.asked()
    ours.run()
    assert ours.fresh
