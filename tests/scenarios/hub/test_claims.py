"""Whose manifest it is: other projects, changed credentials, swapped and gone entries, roots that we cannot write."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from entries import entry
from machine import FILES, Judge, Machine, read
from servers.hub import Hub, Repo, Rights

from truss_cache_tasks.errors import AccessDenied, DiskError
from truss_cache_tasks.events import Committed

MAIN = "org/name"
FOREIGN = "fetched by someone else, and not yet proven with this project's credential file"


@pytest.fixture
def gated(machine: Machine, hub: Hub) -> Repo:
    hub.tokens |= {"good": Rights(), "new": Rights(), "hf_mine": Rights(), "list-only": Rights(gated=False)}
    repo = hub.create(MAIN, gated=True)
    repo.commit(FILES)
    return repo


def token(machine: Machine, text: str | None) -> None:
    path = machine.secrets / "hf_access_token"
    path.unlink(missing_ok=True) if text is None else path.write_text(text)


def test_the_manifest_of_another_project_is_claimed_without_a_request(machine: Machine, repo: Repo) -> None:
    machine.truss(entry(MAIN), project="theirs").run()
    machine.asked()
    ours = machine.truss(entry(MAIN))
    assert ours.verdicts() == {MAIN: "whole, but not yet claimed by this project"}
    assert ours.run()[MAIN].files == 0
    assert ours.fresh
    assert [event.how for event in ours.recorder.of(Committed)] == ["claimed"]
    assert machine.asked() == []


def test_a_credential_that_another_claim_knows_needs_no_proof(machine: Machine, gated: Repo) -> None:
    token(machine, "good")
    machine.truss(entry(MAIN), project="theirs").run()
    machine.asked()
    ours = machine.truss(entry(MAIN))
    ours.run()
    assert ours.fresh
    assert machine.asked() == []


def test_a_credential_that_nobody_used_costs_a_listing_and_a_proof(machine: Machine, gated: Repo) -> None:
    token(machine, "good")
    machine.truss(entry(MAIN), project="theirs").run()
    token(machine, "new")
    machine.asked()
    ours = machine.truss(entry(MAIN))
    assert ours.verdicts() == {MAIN: FOREIGN}
    ours.run()
    commit = gated.refs["refs/heads/main"]
    proof = f"GET /org/name/resolve/{commit}/config.json"
    assert machine.asked() == [f"GET /api/models/org/name/tree/{commit}", proof]
    assert ours.fresh


@pytest.mark.parametrize("edit", [{}, {"mount_location": "/m"}])
def test_a_changed_credential_file_costs_a_listing_and_a_proof_and_no_bytes(
    edit: dict[str, Any], machine: Machine, gated: Repo
) -> None:
    token(machine, "good")
    truss = machine.truss(entry(MAIN, **edit))
    truss.run()
    machine.asked()
    token(machine, "new")
    assert truss.verdicts() == {MAIN: "the credential file changed"}
    assert truss.run()[MAIN].files == 0
    assert len(machine.asked()) == 2
    assert truss.fresh


def test_an_absent_credential_file_is_no_change_and_stays_remembered(machine: Machine, gated: Repo) -> None:
    token(machine, "good")
    truss = machine.truss(entry(MAIN))
    truss.run()
    token(machine, None)
    assert truss.fresh
    (machine.repo() / "snapshots" / gated.refs["refs/heads/main"] / "config.json").unlink()
    truss.run()  # a repair, offline
    token(machine, "good")
    assert truss.fresh


def test_a_token_that_may_list_and_not_read_fails_and_stays_stale(machine: Machine, gated: Repo, judge: Judge) -> None:
    token(machine, "good")
    truss = machine.truss(entry(MAIN))
    truss.run()
    token(machine, "list-only")
    for _ in range(2):
        with pytest.raises(AccessDenied):
            truss.run()
        assert truss.verdicts() == {MAIN: "the credential file changed"}
    assert judge.snapshot(machine) == FILES  # the earlier good state
    judge.scan(machine)
    token(machine, "good")
    assert truss.fresh


def test_entries_that_swap_order_and_names_are_fresh_and_each_is_cleaned_as_itself(
    machine: Machine, repo: Repo, judge: Judge
) -> None:
    json: dict[str, Any] = {"allow_patterns": ["*.json"]}
    bins: dict[str, Any] = {"allow_patterns": ["*.bin"]}
    machine.truss(entry(MAIN, **json), entry(MAIN, name="org/name#2", **bins)).run()
    machine.asked()
    swapped = machine.truss(entry(MAIN, **bins), entry(MAIN, name="org/name#2", **json))
    assert swapped.fresh
    edited = machine.truss(entry(MAIN, allow_patterns=["fp16/*"]), entry(MAIN, name="org/name#2", **json))
    edited.run()  # the first one, which was #2 when its claim was made
    assert edited.fresh
    assert machine.asked() == [] or set(machine.downloads()) <= {"fp16/twin.bin"}
    edited.clean("org/name#2")
    assert edited.verdicts() == {MAIN: "fresh", "org/name#2": "cleaned: the next run resolves it again"}
    assert set(judge.snapshot(machine)) == {"fp16/model.bin", "fp16/twin.bin"}


def test_a_gone_entry_protects_nothing_and_undoing_it_fetches_nothing(
    machine: Machine, repo: Repo, judge: Judge
) -> None:
    both = [entry(MAIN, allow_patterns=["*.json"]), entry(MAIN, name="bins", allow_patterns=["*.bin"])]
    machine.truss(*both).run()
    machine.asked()
    machine.truss(both[1]).run()
    machine.truss(*both).run()
    assert machine.asked() == []
    one = machine.truss(both[1])
    one.clean("bins")
    assert set(judge.snapshot(machine)) == {"config.json"}
    rest = machine.truss(both[1]).clean()
    assert rest.size == len(FILES["config.json"])
    assert not machine.repo().exists()


def test_claims_of_two_configs_under_one_project_id_stay_apart_when_one_is_cleaned(
    machine: Machine, repo: Repo
) -> None:

    one = machine.truss(entry(MAIN, name="one", allow_patterns=["*.json"]))
    two = machine.truss(entry(MAIN, name="two", allow_patterns=["*.bin"]))
    project = two.workspace.project._replace(config="/elsewhere/config.yaml")
    two.workspace.project = project
    two.workspace.contexts = tuple(t._replace(project=project) for t in two.workspace.contexts)
    one.run()
    two.run()
    one.clean()
    assert two.fresh


def remount(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", how, *([str(folder), str(folder)] if how == "bind" else [str(folder)])], check=True)


@pytest.fixture
def read_only(machine: Machine, request: pytest.FixtureRequest) -> Callable[[], None]:
    """Call it to make the caches read-only. Needs root, which CI has."""
    if os.geteuid():
        assert not os.environ.get("CI"), "CI must be able to mount"
        pytest.skip("needs root: a read-only mount")

    def make() -> None:
        remount(machine.root, "bind")
        request.addfinalizer(lambda: subprocess.run(["umount", str(machine.root)], check=True))
        remount(machine.root, "remount,ro,bind")

    return make


@pytest.mark.parametrize("edit", [{}, {"mount_location": "/m"}, {"use_volume": True, "volume_folder": "v"}])
def test_a_whole_manifest_on_a_read_only_root_is_fresh_without_a_claim(
    edit: dict[str, Any], machine: Machine, repo: Repo, read_only: Callable[[], None]
) -> None:
    machine.truss(entry(MAIN, **edit), project="theirs").run()
    machine.asked()
    read_only()
    ours = machine.truss(entry(MAIN, **edit))
    assert ours.fresh
    from truss_cache_tasks.operations.fetch.fetch import fetch
    from truss_cache_tasks.operations.run import RunContext

    assert fetch(ours.context(), RunContext(id="again")).files == 0
    other = machine.truss(entry(MAIN, allow_patterns=["*.json"], **edit))
    with pytest.raises(DiskError, match="not writable") as error:
        other.run()
    assert error.value.hint is not None
    assert machine.asked() == []


def test_an_edit_to_what_another_project_has_is_fresh_on_a_read_only_root(
    machine: Machine, repo: Repo, read_only: Callable[[], None]
) -> None:
    machine.truss(entry(MAIN), project="theirs").run()
    machine.truss(entry(MAIN, allow_patterns=["*.json"])).run()
    read_only()
    assert machine.truss(entry(MAIN)).fresh


# Two entries at one path


def test_nested_mounts_with_other_bytes_at_one_path_fail_the_second_and_name_both(
    machine: Machine, repo: Repo, hub: Hub
) -> None:
    hub.create("org/inner").commit({"model.bin": b"other bytes"})
    truss = machine.truss(
        entry(MAIN, name="outer", mount_location="/a"),
        entry("org/inner", name="inner", mount_location="/a/fp16"),
    )
    from truss_cache_tasks.errors import Collision

    truss.run("outer")
    with pytest.raises(Collision, match=r"inner.*model\.bin.*'outer'"):
        truss.run("inner")
    assert read(machine.mounts / "a") == FILES
    assert truss.verdicts()["outer"] == "fresh"


def test_the_outer_mount_is_the_second_as_well(machine: Machine, repo: Repo, hub: Hub) -> None:
    from truss_cache_tasks.errors import Collision

    hub.create("org/inner").commit({"model.bin": b"other bytes"})
    outer, inner = (
        entry(MAIN, name="outer", mount_location="/a"),
        entry("org/inner", name="inner", mount_location="/a/fp16"),
    )
    truss = machine.truss(outer, inner)
    truss.run("inner")
    with pytest.raises(Collision, match="'inner'"):
        truss.run("outer")
    assert read(machine.mounts / "a") == {"fp16/model.bin": b"other bytes"}
    assert truss.verdicts()["inner"] == "fresh"


def test_a_file_of_one_mount_where_another_mount_needs_a_folder_names_both(
    machine: Machine, repo: Repo, hub: Hub
) -> None:
    from truss_cache_tasks.errors import Collision

    hub.create("org/inner").commit({"w.bin": b"w"})
    truss = machine.truss(
        entry(MAIN, name="outer", mount_location="/a"),
        entry("org/inner", name="inner", mount_location="/a/config.json"),
    )
    truss.run("outer")
    with pytest.raises((Collision, DiskError)):
        truss.run("inner")
    assert read(machine.mounts / "a") == FILES


def test_nested_mounts_with_the_same_bytes_live_side_by_side(machine: Machine, repo: Repo, hub: Hub) -> None:
    hub.create("org/inner").commit({"model.bin": FILES["fp16/model.bin"], "more.bin": b"more"})
    truss = machine.truss(
        entry(MAIN, name="outer", mount_location="/a"),
        entry("org/inner", name="inner", mount_location="/a/fp16"),
    )
    truss.run()
    truss.run()
    assert truss.fresh
    assert read(machine.mounts / "a") == {**FILES, "fp16/more.bin": b"more"}
    truss.clean("inner")
    assert truss.verdicts()["outer"] == "fresh" or truss.run("outer")
    assert FILES.items() <= read(machine.mounts / "a").items()


def test_a_model_cache_inside_a_mount_breaks_neither(machine: Machine, repo: Repo) -> None:
    machine.model_cache = machine.mounts / "a" / "cache"
    truss = machine.truss(
        entry(MAIN, name="outer", mount_location="/a"),
        entry(MAIN, name="volume", use_volume=True, volume_folder="v"),
    )
    truss.run()
    assert truss.fresh
    truss.clean("volume")
    assert truss.verdicts()["outer"] == "fresh"
    assert read(machine.mounts / "a") == FILES


def test_a_volume_that_an_edited_entry_left_is_no_collision(machine: Machine, repo: Repo, hub: Hub) -> None:
    hub.create("org/new").commit({"model.bin": b"new"})
    volume: dict[str, Any] = {"use_volume": True, "volume_folder": "v"}
    machine.truss(entry(MAIN, **volume)).run()
    truss = machine.truss(entry("org/new", **volume), entry(MAIN))  # the old one moved to the hub layout
    truss.run()
    assert truss.fresh
    assert read(machine.model_cache / "v")["model.bin"] == b"new"


def test_another_projects_file_is_replaced_and_its_entry_turns_stale(machine: Machine, repo: Repo, hub: Hub) -> None:
    hub.create("org/new").commit({"model.bin": b"new"})
    volume: dict[str, Any] = {"use_volume": True, "volume_folder": "v"}
    theirs = machine.truss(entry(MAIN, **volume), project="theirs")
    theirs.run()
    machine.truss(entry("org/new", **volume)).run()
    assert read(machine.model_cache / "v") == {**FILES, "model.bin": b"new"}
    assert theirs.verdicts() == {MAIN: "v/model.bin is replaced by another entry"}


def test_a_mount_reads_with_the_secret_that_its_entry_names(machine: Machine, gated: Repo) -> None:
    token(machine, "list-only")  # the default one, which this entry does not use
    (machine.secrets / "my_secret").write_text("hf_mine\n")
    truss = machine.truss(entry(MAIN, mount_location="/m", runtime_secret_name="my_secret"))
    truss.run()
    assert read(machine.mounts / "m") == FILES
    assert {r.token for r in machine.hub.requests if r.host == "hub"} == {"hf_mine"}
    token(machine, "good")
    assert truss.fresh
    (machine.secrets / "my_secret").write_text("hf_other")
    assert truss.verdicts() == {MAIN: "the credential file changed"}
