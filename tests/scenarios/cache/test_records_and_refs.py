"""What lies beside our records, or is reached by their names, and is not ours; and a clean that is not whole."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from huggingface_hub import scan_cache_dir
from servers.hub import Hub
from trusses import Truss, tree

from scenarios.cache.disk import leftovers
from scenarios.cache.upstreams import beside, run

FILES = {"model.bin": b"m" * 20_000}
MOUNT = "weights:\n  - source: hf://org/name@main\n    mount_location: /one\n"
REPO = "model_cache:\n  - repo_id: org/name\n"


@pytest.fixture(autouse=True)
def repo(hub: Hub) -> None:
    hub.create("org/name").commit(FILES)


def test_a_clean_removes_nothing_through_a_link_in_place_of_huggingface_hubs_locks(
    truss: Truss, tmp_path: Path
) -> None:
    victim = tmp_path / "victim" / "removed.0badcafe"
    victim.mkdir(parents=True)
    (victim / "thesis.tex").write_text("mine")
    truss.config(REPO)
    run(truss)
    locks = truss.hub_cache / ".locks" / "models--org--name"
    for path in locks.iterdir():
        path.unlink()
    locks.rmdir()
    locks.symlink_to(victim.parent)
    assert truss.cli("clean").code in (0, 1, 3)
    assert (victim / "thesis.tex").read_text() == "mine"


def test_a_ref_of_git_is_not_written_over_where_a_repos_folder_is_a_link(truss: Truss, tmp_path: Path) -> None:
    ref = tmp_path / "clone" / ".git" / "refs" / "main"
    ref.parent.mkdir(parents=True)
    ref.write_text("0" * 40 + "\n")
    truss.hub_cache.mkdir(parents=True)
    (truss.hub_cache / "models--org--name").symlink_to(ref.parents[1])
    truss.config(REPO)
    ran = truss.cli()
    assert ran.code == 1, ran
    assert "refs/main: found a file that is no ref of the Hub's cache" in ran.err
    assert ref.read_text() == "0" * 40 + "\n"


def test_a_name_that_only_ends_as_a_temporary_of_ours_stays(truss: Truss) -> None:
    truss.config(MOUNT)
    records = truss.mounts / "one" / ".truss_cache"
    mine = [records / "mine" / "notes.deadbeef.tmp", records / "manifests" / "notes.deadbeef.tmp"]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    run(truss)
    ran = truss.cli("clean")
    assert ran.code == 0, ran
    assert [path.read_text() for path in mine] == ["mine", "mine"]
    assert all(str(path.relative_to(records.parent)) in ran.out for path in mine)


def test_after_a_clean_no_stat_is_believed_of_what_another_project_held(truss: Truss) -> None:
    truss.config(MOUNT)
    run(truss)
    other = beside(truss, "other")
    other.config(REPO)
    run(other)
    assert truss.cli("clean").code == 0
    (blob,) = truss.hub_cache.glob("models--*/blobs/*")
    stat = blob.stat()
    blob.write_bytes(b"x" * 20_000)
    os.utime(blob, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    run(truss)
    assert (truss.mounts / "one" / "model.bin").read_bytes() == FILES["model.bin"]


def test_a_clean_that_meets_a_linked_folder_cleans_the_other_roots_and_exits_3(truss: Truss, tmp_path: Path) -> None:
    truss.config(MOUNT + "  - source: hf://org/name@main\n    mount_location: /two\n")
    run(truss)
    records = truss.mounts / "one" / ".truss_cache"
    records.rename(tmp_path / "elsewhere")
    records.symlink_to(tmp_path / "elsewhere")
    ran = truss.cli("clean")
    assert ran.code == 3, ran
    assert f"{records}: a link to" in ran.err
    assert not (truss.mounts / "two" / "model.bin").exists()


def test_a_snapshot_whose_record_the_user_removed_stays_and_huggingface_hub_can_read_it(hub: Hub, truss: Truss) -> None:
    """Nothing tells it from one that huggingface_hub made."""
    truss.config(REPO)
    run(truss)
    hub.repos["org/name"].commit({"model.bin": b"n" * 20_000})
    run(truss, "-a")
    (record,) = truss.hub_cache.glob("*/.truss_cache/manifests/*.*.json")
    superseded = json.loads(record.read_text())
    record.unlink()
    run(truss, "clean")
    run(truss, "prune", "--yes")
    found = scan_cache_dir(truss.hub_cache)
    assert not found.warnings
    (repo,) = found.repos
    (snapshot,) = repo.revisions
    assert snapshot.commit_hash == superseded["revision"]
    assert [file.file_path.read_bytes() for file in snapshot.files] == [FILES["model.bin"]]
    assert not list(truss.root.glob("**/.truss_cache"))


@pytest.mark.parametrize("text", [REPO, MOUNT])
def test_what_a_removed_claim_held_stays_after_a_clean_and_goes_by_prune(text: str, truss: Truss) -> None:
    """Without a claim, a manifest may be one that came with a copy of the cache."""
    truss.config(text)
    run(truss)
    before = {path: data for path, data in tree(truss.root).items() if "bin" in path}
    for claims in truss.root.glob("**/.truss_cache/claims/*.json"):
        claims.unlink()
    run(truss, "clean")
    assert {path: data for path, data in tree(truss.root).items() if "bin" in path} == before
    run(truss, "prune", "--yes")
    assert leftovers(truss, folders=False) == []
