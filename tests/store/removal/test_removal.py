"""clean: what goes, what stays because somebody else refers to it, and what could not be removed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from entries import entry
from machine import BIG, FILES, Judge, Machine, read
from servers.hub import Repo

MAIN = "org/name"
TOTAL = sum(map(len, FILES.values())) - len(BIG)  # one blob has two names
VOLUME: dict[str, Any] = {"use_volume": True, "volume_folder": "v"}


def everything(root: Path) -> set[str]:
    return {str(path) for path in root.rglob("*")}


def test_a_clean_gives_back_every_byte_and_leaves_no_repo(machine: Machine, repo: Repo, judge: Judge) -> None:
    truss = machine.truss(entry(MAIN))
    truss.run()
    done = truss.clean()
    assert (done.size, done.left, done.kept) == (TOTAL, [], [])
    assert done.files == len(FILES) + len(FILES) - 1  # links and blobs
    assert not machine.repo().exists()
    assert judge.scan(machine) == {}
    assert truss.verdicts() == {MAIN: "not fetched yet"}


@pytest.mark.parametrize("layout", [{}, {"mount_location": "/m"}, VOLUME], ids=["hub", "mount", "volume"])
def test_a_dry_clean_says_the_same_as_the_clean_and_changes_nothing(
    layout: dict[str, Any], machine: Machine, repo: Repo
) -> None:
    truss = machine.truss(entry(MAIN, **layout), entry(MAIN, name="json", allow_patterns=["*.json"]))
    truss.run()
    before = everything(machine.root)
    dry = truss.clean(dry=True)
    assert everything(machine.root) == before
    assert truss.fresh
    done = truss.clean()
    assert (dry.size, dry.files, dry.kept) == (done.size, done.files, done.kept)
    assert done.size == TOTAL


def test_a_blob_stays_while_another_projects_claim_lists_it(machine: Machine, repo: Repo, judge: Judge) -> None:
    ours, theirs = machine.truss(entry(MAIN)), machine.truss(entry(MAIN, allow_patterns=["*.bin"]), project="theirs")
    ours.run()
    theirs.run()
    done = ours.clean()
    assert done.size == TOTAL - len(BIG) - len(FILES["fp16/model.bin"])
    assert theirs.fresh
    assert set(judge.snapshot(machine)) == {"model.bin", "fp16/model.bin", "fp16/twin.bin"}
    theirs.clean()
    assert not machine.repo().exists()


def test_a_blob_stays_while_any_link_of_a_snapshot_leads_to_it(machine: Machine, repo: Repo, judge: Judge) -> None:
    """huggingface_hub's own snapshot of another revision shares blobs that we downloaded."""
    from huggingface_hub import snapshot_download

    truss = machine.truss(entry(MAIN))
    truss.run()
    repo.commit({"config.json": b"[]"}, branch="dev")
    machine.asked()
    snapshot_download(MAIN, revision="dev", cache_dir=machine.hub_cache, endpoint=machine.hub.url)
    assert machine.downloads() == ["config.json"]
    done = truss.clean()
    assert done.size == len(b"{}")  # the one blob that dev does not have
    assert judge.snapshot(machine, "dev") == {**FILES, "config.json": b"[]"}
    judge.scan(machine)


def test_an_entrys_clean_keeps_what_its_neighbours_show(machine: Machine, repo: Repo) -> None:
    truss = machine.truss(entry(MAIN, **VOLUME), entry(MAIN, name="hub", allow_patterns=["*.bin"]))
    truss.run()
    truss.clean(MAIN)
    assert read(machine.model_cache) == {}
    assert truss.verdicts()["hub"] == "fresh"


def test_what_an_edit_retired_goes_with_the_clean(machine: Machine, repo: Repo) -> None:
    repo.tag("v1")
    repo.commit({"model.bin": b"two", "fp16/twin.bin": None})
    machine.truss(entry(MAIN, revision="v1", mount_location="/m")).run()
    machine.truss(entry(MAIN, mount_location="/m")).run()
    truss = machine.truss(entry(MAIN, mount_location="/m", allow_patterns=["*.json"]))
    truss.run()
    done = truss.clean()
    assert done.size == TOTAL + len(b"two")
    assert [p for p in machine.mounts.rglob("*") if p.is_file() and p.suffix not in (".json", ".lock")] == []


def test_what_cannot_be_removed_is_named_the_rest_goes_and_another_clean_finishes(
    machine: Machine, repo: Repo, request: pytest.FixtureRequest
) -> None:
    if os.geteuid():
        assert not os.environ.get("CI"), "CI must be able to mount"
        pytest.skip("needs root: a read-only mount")
    truss = machine.truss(entry(MAIN, mount_location="/m"))
    truss.run()
    stuck = machine.mounts / "m" / "fp16"
    subprocess.run(["mount", "--bind", str(stuck), str(stuck)], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", str(stuck)], check=True)
    try:
        done = truss.clean()
        assert len(done.left) == 2
        assert all(str(stuck) in line for line in done.left)
        assert set(read(machine.mounts / "m")) == {"fp16/model.bin", "fp16/twin.bin"}
        assert not truss.fresh
    finally:
        subprocess.run(["umount", str(stuck)], check=True)
    assert truss.clean().left == []
    assert read(machine.mounts) == {}


def test_a_cleaned_claim_keeps_no_other_project_from_the_bytes(machine: Machine, repo: Repo) -> None:
    ours, theirs = machine.truss(entry(MAIN)), machine.truss(entry(MAIN), project="theirs")
    ours.run()
    theirs.run()
    ours.clean()
    assert theirs.fresh
    assert ours.verdicts() == {MAIN: "cleaned: the next run resolves it again"}
    machine.asked()
    ours.run()
    assert machine.downloads() == []
    assert ours.fresh
