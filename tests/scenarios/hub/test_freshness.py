"""Fresh by stat alone, with no request and no write; what somebody did to the files is found and put right."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from entries import entry
from machine import FILES, Machine, Trussed, flip, read
from servers.hub import Repo

from truss_cache_tasks.errors import DiskError, PermanentError

MAIN = "org/name"
LAYOUTS: list[dict[str, Any]] = [{}, {"mount_location": "/m"}, {"use_volume": True, "volume_folder": "v"}]
layouts = pytest.mark.parametrize("layout", LAYOUTS, ids=["hub", "mount", "volume"])


def folder_of(machine: Machine, truss: Trussed) -> Path:
    context = truss.context()
    from truss_cache_tasks.operations.context import read_status

    manifest, root = read_status(context).manifest, Path(context.root.path)
    assert manifest is not None
    return root / manifest.folder


def state(root: Path) -> dict[str, tuple[int, int, int]]:
    return {str(p): (p.lstat().st_ino, p.lstat().st_mtime_ns, p.lstat().st_ctime_ns) for p in sorted(root.rglob("*"))}


@layouts
def test_a_fresh_entry_makes_no_request_and_writes_nothing(
    layout: dict[str, Any], machine: Machine, repo: Repo
) -> None:
    machine.truss(entry(MAIN, **layout)).run()
    machine.asked()
    before = state(machine.root)
    truss = machine.truss(entry(MAIN, **layout))
    assert truss.run() == {}
    assert truss.verdicts() == {MAIN: "fresh"}
    assert machine.asked() == []
    assert state(machine.root) == before


@layouts
def test_a_touched_file_is_hashed_again_offline_and_its_stat_recorded(
    layout: dict[str, Any], machine: Machine, repo: Repo
) -> None:
    truss = machine.truss(entry(MAIN, **layout))
    truss.run()
    machine.asked()
    os.utime(folder_of(machine, truss) / "fp16/model.bin")
    assert "fp16/model.bin is touched since it was hashed" in truss.verdicts()[MAIN]
    assert truss.run()[MAIN].files == 0
    assert truss.fresh
    assert machine.asked() == []


@layouts
def test_a_deleted_file_comes_back(layout: dict[str, Any], machine: Machine, repo: Repo) -> None:
    truss = machine.truss(entry(MAIN, **layout))
    truss.run()
    machine.asked()
    (folder_of(machine, truss) / "config.json").unlink()
    assert "config.json is missing" in truss.verdicts()[MAIN]
    truss.run()
    assert truss.fresh
    assert machine.asked() == []  # its bytes are in the hub cache
    assert read(folder_of(machine, truss)) == FILES


@layouts
@pytest.mark.parametrize("damage", ["gone", "cut", "flip"])
def test_lost_and_wrong_bytes_are_fetched_again(
    damage: str, layout: dict[str, Any], machine: Machine, repo: Repo
) -> None:
    truss = machine.truss(entry(MAIN, **layout))
    truss.run()
    machine.asked()
    blob = (folder_of(machine, truss) / "fp16/model.bin").resolve()
    hub_blob = (machine.repo() / "snapshots" / repo.refs["refs/heads/main"] / "fp16/model.bin").resolve()
    if damage == "gone":
        blob.unlink()
        hub_blob.unlink(missing_ok=True)
    elif damage == "cut":
        os.truncate(blob, 10)
    else:
        flip(blob)
        os.utime(blob)
    assert not truss.fresh
    truss.run()
    assert machine.downloads() == ["fp16/model.bin"]
    assert truss.fresh
    assert read(folder_of(machine, truss)) == FILES


@layouts
def test_force_finds_a_flip_that_no_stat_shows(layout: dict[str, Any], machine: Machine, repo: Repo) -> None:
    machine.truss(entry(MAIN, **layout)).run()
    truss = machine.truss(entry(MAIN, **layout))
    flip((folder_of(machine, truss) / "model.bin").resolve())
    assert truss.fresh
    machine.asked()
    truss.run(force=True)
    assert machine.downloads() == ["model.bin"]
    assert read(folder_of(machine, truss)) == FILES
    assert truss.fresh


@layouts
@pytest.mark.parametrize("how", ["cp -a", "tar", "tar --posix"])
def test_a_copied_cache_is_fresh_without_a_request(
    how: str, layout: dict[str, Any], machine: Machine, repo: Repo, tmp_path: Path
) -> None:
    machine.truss(entry(MAIN, **layout)).run()
    copy = tmp_path / "copy"
    if how == "cp -a":
        subprocess.run(["cp", "-a", str(machine.root), str(copy)], check=True)
    else:
        archive = tmp_path / "cache.tar"
        posix = ["--posix"] if "posix" in how else []
        subprocess.run(["tar", *posix, "-cf", str(archive), "-C", str(machine.root), "."], check=True)
        copy.mkdir()
        subprocess.run(["tar", "-xf", str(archive), "-C", str(copy)], check=True)
    shutil.rmtree(machine.root)
    machine.asked()
    shutil.rmtree(copy / "secrets")
    there = Machine(copy, machine.hub)
    before = state(copy)
    truss = there.truss(entry(MAIN, **layout))
    truss.run()
    assert truss.fresh
    assert there.asked() == []
    assert state(copy) == before


@layouts
def test_offline_what_is_fresh_is_fresh_and_what_is_stale_an_error_without_a_request(
    layout: dict[str, Any], machine: Machine, repo: Repo
) -> None:
    machine.truss(entry(MAIN, allow_patterns=["*.json"], **layout)).run()
    machine.asked()
    offline = machine.truss(entry(MAIN, allow_patterns=["*.json"], **layout), HF_HUB_OFFLINE="1")
    assert offline.run() == {}
    (folder_of(machine, offline) / "config.json").unlink()
    offline.run()  # a repair asks nobody
    with pytest.raises(PermanentError, match="HF_HUB_OFFLINE"):
        machine.truss(entry(MAIN, **layout), HF_HUB_OFFLINE="1").run()
    assert machine.asked() == []
    assert read(folder_of(machine, offline)) == {"config.json": b"{}"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 99}', '{"format": 1, "files": 3}', "\xff"])
def test_an_unreadable_manifest_is_a_miss_with_a_reason(text: str, machine: Machine, repo: Repo) -> None:
    truss = machine.truss(entry(MAIN))
    truss.run()
    for path in (machine.repo() / ".truss_cache/manifests").iterdir():
        path.write_text(text, encoding="latin-1")
    machine.asked()
    assert "the manifest cannot be" in truss.verdicts()[MAIN]
    assert truss.run()[MAIN].files == 0  # every byte is verified where it lies
    assert truss.fresh
    assert machine.downloads() == []


def test_a_manifest_that_names_a_path_outside_its_root_is_not_used(
    machine: Machine, repo: Repo, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    truss = machine.truss(entry(MAIN, mount_location="/m", allow_patterns=["config.json"]))
    truss.run()
    (path,) = (machine.mounts / "m/.truss_cache/manifests").iterdir()
    path.write_text(path.read_text().replace('"path": "config.json"', '"path": "../../../precious"'))
    assert "the manifest cannot be used" in truss.verdicts()[MAIN]
    truss.clean()
    assert precious.read_text() == "mine"


# The disk


def test_a_mount_holds_plain_files_that_are_hard_links_into_the_hub_cache(machine: Machine, repo: Repo) -> None:
    truss = machine.truss(entry(MAIN, mount_location="/m"))
    truss.run()
    snapshot = machine.repo() / "snapshots" / repo.refs["refs/heads/main"]
    for path, data in FILES.items():
        visible = machine.mounts / "m" / path
        assert not visible.is_symlink()
        assert visible.samefile(snapshot / path)
        assert visible.read_bytes() == data
    assert (machine.mounts / "m/.truss_cache/manifests").is_dir()


def test_a_mount_on_another_disk_gets_the_bytes_directly_or_as_copies(
    machine: Machine, repo: Repo, small_disk: Callable[[Path, int], Path]
) -> None:
    small_disk(machine.mounts, 2000)
    truss = machine.truss(entry(MAIN, mount_location="/m"))
    truss.run()
    assert truss.fresh
    assert read(machine.mounts / "m") == FILES
    assert not machine.repo().exists()  # nothing is kept twice
    machine.truss(entry(MAIN)).run()
    machine.asked()
    again = machine.truss(entry(MAIN, mount_location="/n"))
    again.run()
    assert machine.downloads() == []  # copies of the hub cache's
    assert read(machine.mounts / "n") == FILES
    assert again.fresh


def test_what_does_not_fit_is_known_before_the_first_byte(
    machine: Machine, repo: Repo, small_disk: Callable[[Path, int], Path]
) -> None:
    small_disk(machine.hub_cache, 80)
    with pytest.raises(DiskError, match=r"not enough space.*bytes are to come") as error:
        machine.truss(entry(MAIN)).run()
    assert "HF_HOME" in (error.value.hint or "")
    assert machine.downloads() == []


def test_copies_to_another_disk_are_counted_too(
    machine: Machine, repo: Repo, small_disk: Callable[[Path, int], Path]
) -> None:
    machine.truss(entry(MAIN)).run()
    small_disk(machine.mounts, 80)
    machine.asked()
    with pytest.raises(DiskError, match="not enough space"):
        machine.truss(entry(MAIN, mount_location="/m")).run()
    assert machine.downloads() == []
    assert read(machine.mounts) == {}


@layouts
def test_a_file_where_a_folder_is_needed_is_an_error_before_the_first_request(
    layout: dict[str, Any], machine: Machine, repo: Repo
) -> None:
    for folder in (machine.hub_cache, machine.mounts, machine.model_cache):
        folder.write_text("a file")
    with pytest.raises(DiskError) as error:
        machine.truss(entry(MAIN, **layout)).run()
    assert error.value.hint
    assert machine.asked() == []


def test_a_folder_where_a_file_is_to_be_is_an_error_that_names_it(machine: Machine, repo: Repo) -> None:
    (machine.mounts / "m" / "config.json").mkdir(parents=True)
    (machine.mounts / "m" / "config.json" / "mine").touch()
    with pytest.raises(DiskError, match=r"config\.json") as error:
        machine.truss(entry(MAIN, mount_location="/m")).run()
    assert error.value.hint
