"""What a hostile reader of the store tried: each shows a way to a wrong byte, or to a file of the user's, closed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from entry_cases import FILES, Case, before_gcs, make_case, on_gcs
from odd_disk import OddDisk, odd_disk
from servers.hub import Hub
from trusses import Truss, tree

from scenarios.cache.disk import clean_tells, leftovers
from scenarios.cache.forks import ForkedTruss
from scenarios.cache.moments import RootLock, end_of, go_on, started, stop, wait_for
from scenarios.cache.upstreams import OnHub, beside, check, config, run

Make = Callable[..., Case]
__all__ = ["before_gcs", "make_case", "odd_disk", "on_gcs"]

ONE, TWO, BIG = (random.Random(name).randbytes(size) for name, size in (("1", 15_000), ("2", 15_000), ("b", 60_000)))

# Runs `truss-cache`; once a link or rename of ours is about to make the path NAME, a file of the user's is there.
MEANWHILE = """
import os, sys
name, path, args = sys.argv[1], sys.argv[2], sys.argv[3:]

def hook(event, arguments):
    if event in ("os.link", "os.rename", "os.symlink") and os.path.basename(os.fsdecode(arguments[1])) == name:
        if os.path.isdir(os.path.dirname(path)) and not os.path.lexists(path):
            with open(path, "xb") as out:
                out.write(b"precious")

import truss_cache_tasks.app.cli as cli
sys.addaudithook(hook)
sys.exit(cli.main(args))
"""


@pytest.mark.parametrize("layout", ["volume", "mount", "local"])
def test_a_file_that_comes_between_the_look_and_the_showing_is_the_users(layout: str, make_case: Make) -> None:
    case = make_case(layout)
    theirs = case.shown / "sub" / "c.txt"
    ran = case.truss.python(MEANWHILE, "c.txt", str(theirs))
    assert theirs.read_bytes() == b"precious", ran
    assert ran.code == 1, ran
    again = case.truss.cli()
    assert again.code == 1, again
    assert theirs.read_bytes() == b"precious", again
    assert case.truss.cli("clean").code == 0
    assert case.tree() == {"sub/c.txt": b"precious"}


@pytest.mark.parametrize("act", ["again", "clean", "narrowed"])
def test_a_file_that_a_user_puts_where_a_failed_run_showed_nothing_is_the_users(
    act: str, hub: Hub, truss: Truss
) -> None:
    """The run fails at a name that no disk takes, after it noted what it was about to show."""
    upstream = OnHub(hub)
    upstream.put("main", {"a.bin": ONE, "b" * 256: TWO, "c.bin": BIG})
    truss.config(config("mount", upstream.entry("main", "mount", "m")))
    assert truss.cli().code == 1
    theirs = truss.mounts / "m" / "c.bin"
    assert not theirs.exists()
    theirs.parent.mkdir(parents=True, exist_ok=True)
    theirs.write_bytes(b"precious")
    if act == "again":
        truss.config(config("mount", upstream.entry("main", "mount", "m", ignore_patterns='["bbb*"]')))
        assert truss.cli().code == 1
    elif act == "narrowed":
        truss.config(config("mount", upstream.entry("main", "mount", "m", allow_patterns='["a.bin"]')))
        assert truss.cli().code == 0
    assert theirs.read_bytes() == b"precious"
    assert truss.cli("clean").code == 0
    assert theirs.read_bytes() == b"precious"


def test_two_names_of_the_same_bytes_come_where_a_disk_has_no_links(
    hub: Hub, tmp_path: Path, odd_disk: OddDisk
) -> None:
    truss = Truss(tmp_path, hub=hub)
    commit = hub.create("org/name").commit({"a.bin": ONE, "b.bin": ONE, "c.txt": b"", "d.txt": b""})
    truss.config("model_cache:\n  - repo_id: org/name\n")
    env = odd_disk(tmp_path, "symlink=ENOSYS,link=ENOSYS")
    ran = truss.cli(**env)
    assert ran.code == 0, ran
    folder = truss.hub_cache / "models--org--name" / "snapshots" / commit
    assert tree(folder) == {"a.bin": ONE, "b.bin": ONE, "c.txt": b"", "d.txt": b""}
    assert truss.cli("why", "--check", **env).code == 0


def test_a_clean_removes_nothing_behind_a_link_to_a_repos_lock_folder(make_case: Make, tmp_path: Path) -> None:
    case = make_case("hub")
    precious = tmp_path / "precious" / "removed"
    precious.mkdir(parents=True)
    (precious / "file").write_bytes(b"precious")
    run(case.truss)
    locks = case.truss.hub_cache / ".locks" / "models--org--name"
    shutil.rmtree(locks, ignore_errors=True)
    locks.parent.mkdir(exist_ok=True)
    locks.symlink_to(precious.parent)
    case.truss.cli("clean")
    assert (precious / "file").read_bytes() == b"precious"
    assert os.listdir(precious.parent) == ["removed"]


def test_a_run_whose_folder_is_moved_away_meanwhile_does_not_pass_for_whole(hub: Hub, truss: Truss) -> None:
    upstream = OnHub(hub)
    upstream.put("main", {"small.bin": ONE, "sub/s.bin": TWO, "big.bin": BIG})
    truss.config(config("mount", upstream.entry("main", "mount", "m")))
    mount = truss.mounts / "m"
    with upstream.held("big.bin") as hold, started(truss) as child:
        wait_for(child, hold.is_asked)
        away = truss.root / "away"
        mount.mkdir(parents=True, exist_ok=True)
        mount.rename(away)
        hold.release()
        ran = end_of(child)
    if ran.code == 0:
        assert tree(mount) == {"small.bin": ONE, "sub/s.bin": TWO, "big.bin": BIG}, ran
    assert tree(away) == {}


@pytest.mark.parametrize("layout", ["hub", "mount"])
def test_a_manifest_whose_revision_is_no_commit_is_no_mistake_of_ours(layout: str, make_case: Make) -> None:
    case = make_case(layout)
    run(case.truss)
    for path in (case.records / "manifests").glob("*.json"):
        value = json.loads(path.read_bytes())
        value["revision"] = "é" * 40
        path.write_text(json.dumps(value))
    (case.records / "pins.json").unlink()
    ran = case.truss.cli()
    assert ran.code in (0, 1), ran
    assert "internal error" not in ran.text, ran
    case.is_whole()


@pytest.mark.parametrize("layout", ["hub", "mount", "local"])
@pytest.mark.parametrize("name", ["n" * 300, "ü" * 200, "x/" * 500 + "x"])
def test_a_manifest_with_a_name_that_no_disk_takes_is_no_mistake_of_ours(
    name: str, layout: str, make_case: Make
) -> None:
    case = make_case(layout)
    run(case.truss)
    for path in (case.records / "manifests").glob("*.json"):
        value = json.loads(path.read_bytes())
        value["files"][0]["path"] = name
        path.write_text(json.dumps(value))
    for command in (["why"], ["verify"], ["clean", "-n"], [], ["clean"]):
        ran = case.truss.cli(*command)
        assert ran.code != 2, (command, ran)
        assert "internal error" not in ran.text, (command, ran)


@pytest.mark.parametrize("blob", ["", "..", "../../x", "a/b", "\0", "x" * 300])
def test_a_note_with_an_odd_blob_is_no_mistake_of_ours(blob: str, make_case: Make) -> None:
    case = make_case("mount")
    run(case.truss)
    (manifest,) = (case.records / "manifests").glob("*.json")
    note = case.records / "fetches" / manifest.name
    note.parent.mkdir(exist_ok=True)
    note.write_text(json.dumps({"format": 1, "claims": [["p", "c"]], "blobs": [blob], "paths": []}))
    for command in (["why"], ["run", "-a"], ["clean", "-n"], ["clean"]):
        ran = case.truss.cli(*command)
        assert ran.code == 0, (command, ran)


def test_one_root_under_two_names_is_cleaned_once(hub: Hub, truss: Truss) -> None:
    upstream = OnHub(hub)
    upstream.put("main", {"a.bin": ONE, "sub/b.bin": TWO})
    truss.config(config("mount", upstream.entry("main", "mount", "m")))
    run(truss)
    way = truss.root / "way"
    way.symlink_to(truss.mounts)
    truss.env["TRUSS_MOUNT_ROOT"] = str(way)
    run(truss)
    clean_tells(truss)
    assert tree(truss.mounts) == {}
    assert leftovers(truss) == []


def test_one_root_under_two_names_in_one_config(hub: Hub, truss: Truss) -> None:
    upstream = OnHub(hub)
    upstream.put("main", {"a.bin": ONE, "sub/b.bin": TWO})
    upstream.put("other", {"a.bin": TWO, "sub/b.bin": TWO})
    (truss.mounts / "m").mkdir(parents=True)
    (truss.mounts / "n").symlink_to("m")
    truss.config(config("mount", upstream.entry("main", "mount", "m"), upstream.entry("main", "mount", "n")))
    run(truss)
    check(truss, "mount", {"m": {"a.bin": ONE, "sub/b.bin": TWO}})
    clean_tells(truss)
    assert leftovers(truss) == []
    truss.config(config("mount", upstream.entry("main", "mount", "m"), upstream.entry("other", "mount", "n")))
    ran = truss.cli()
    why = truss.cli("why")
    assert why.out.count(": fresh") < 2, (ran, why)


def test_a_mount_that_is_the_model_cache(hub: Hub, truss: Truss) -> None:
    upstream = OnHub(hub)
    upstream.put("main", {"a.bin": ONE, "sub/b.bin": TWO})
    truss.config(config("volume", upstream.entry("main", "volume", "v")))
    run(truss)
    other = beside(truss, "other")
    other.env["TRUSS_MOUNT_ROOT"] = str(truss.root)
    upstream.put("wrapped", {"v/a.bin": ONE, "v/sub/b.bin": TWO, "x": b"x"})
    other.config(config("mount", upstream.entry("wrapped", "mount", "model_cache")))
    run(other)
    clean_tells(truss)
    assert tree(truss.model_cache) == {"v/a.bin": ONE, "v/sub/b.bin": TWO, "x": b"x"}
    for command in (["why", "--check"], ["verify"]):
        assert other.cli(*command).code == 0
    clean_tells(other)
    assert leftovers(truss) == []


def test_the_hub_cache_in_the_model_cache(hub: Hub, truss: Truss) -> None:
    upstream = OnHub(hub)
    upstream.put("main", {"a.bin": ONE, "sub/b.bin": TWO})
    truss.hub_cache = truss.model_cache / "hub"
    truss.env["HF_HUB_CACHE"] = str(truss.hub_cache)
    truss.config("model_cache:\n  - repo_id: org/name\n" + upstream.entry("main", "volume", "v"))
    run(truss)
    check(truss, "volume", {"v": {"a.bin": ONE, "sub/b.bin": TWO}})
    clean_tells(truss)
    assert leftovers(truss, folders=False) == []


def test_a_missing_file_that_another_version_replaces_passes_for_ours_nowhere(hub: Hub, truss: Truss) -> None:
    """Of one size and one time, as files of an image are; the user removed ours before the other version came."""
    upstream, other = OnHub(hub), beside(truss, "other")
    path = truss.mounts / "m" / "a.bin"
    upstream.put("v1", {"a.bin": ONE})
    upstream.put("v2", {"a.bin": TWO})
    truss.config(config("mount", upstream.entry("v1", "mount", "m")))
    other.config(config("mount", upstream.entry("v2", "mount", "m")))
    run(truss)
    os.utime(path, ns=(10**18, 10**18))
    run(truss)
    path.unlink()
    run(other)
    os.utime(path, ns=(10**18, 10**18))
    run(other)
    assert path.read_bytes() == TWO
    assert truss.cli("why", "--check").code == 1
    run(truss)
    assert path.read_bytes() == ONE
    assert other.cli("why", "--check").code == 1


def test_an_inner_root_that_came_while_a_clean_waited_keeps_its_files(hub: Hub, truss: Truss) -> None:
    upstream, inner = OnHub(hub), beside(truss, "inner")
    files = {"a.bin": ONE, "sub/b.bin": TWO}
    upstream.put("main", files)
    inner.env["TRUSS_MOUNT_ROOT"] = str(truss.model_cache / "deep")
    truss.config(config("volume", upstream.entry("main", "volume", "deep/m")))
    inner.config(config("mount", upstream.entry("main", "mount", "m")))
    run(truss)
    with contextlib.ExitStack() as running:
        with RootLock(truss.model_cache) as lock:
            cleaner = running.enter_context(started(truss, "clean"))
            lock.wait_for_visitor()
            stop(cleaner)
        run(inner)
        go_on(cleaner)
        assert end_of(cleaner).code == 0
    assert tree(truss.model_cache / "deep" / "m") == files


def test_a_ref_of_huggingface_hub_to_a_snapshot_without_files_stays(make_case: Make) -> None:
    case = make_case("hub")
    ref = case.root / "refs" / "theirs"
    ref.parent.mkdir(parents=True)
    ref.write_text("0" * 40)
    (case.root / ".no_exist" / ("0" * 40)).mkdir(parents=True)
    (case.root / ".no_exist" / ("0" * 40) / "x").write_text("")
    run(case.truss)
    run(case.truss, "clean")
    assert ref.exists()
    assert (case.root / ".no_exist" / ("0" * 40) / "x").exists()


@pytest.mark.parametrize("layout", ["volume", "mount"])
def test_an_empty_folder_of_the_users_is_not_replaced(layout: str, make_case: Make) -> None:
    case = make_case(layout)
    folder = case.shown / "sub" / "c.txt"
    (folder / "empty").mkdir(parents=True)
    ran = case.truss.cli()
    assert ran.code == 1, ran
    assert (folder / "empty").is_dir(), ran


def test_an_inner_root_whose_manifest_cannot_be_read_loses_nothing(hub: Hub, truss: Truss) -> None:
    upstream, inner = OnHub(hub), beside(truss, "inner")
    files = {"a.bin": ONE, "sub/b.bin": TWO}
    upstream.put("main", files)
    inner.env["TRUSS_MOUNT_ROOT"] = str(truss.model_cache / "deep")
    truss.config(config("volume", upstream.entry("main", "volume", "deep/m")))
    inner.config(config("mount", upstream.entry("main", "mount", "m")))
    run(truss)
    run(inner)
    (manifest,) = (truss.model_cache / "deep" / "m" / ".truss_cache" / "manifests").glob("*.json")
    manifest.write_text(json.dumps({**json.loads(manifest.read_bytes()), "format": 2}))
    run(truss, "clean")
    assert tree(truss.model_cache / "deep" / "m") == files


def test_another_path_of_the_same_bytes_is_no_link_to_the_users_file(hub: Hub, truss: Truss) -> None:
    upstream = OnHub(hub)
    upstream.put("main", {"a.bin": ONE, "b.bin": ONE})
    truss.config(config("mount", upstream.entry("main", "mount", "m")))
    theirs = truss.mounts / "m" / "a.bin"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(ONE)
    run(truss)
    with open(theirs, "ab") as out:
        out.write(b"more")
    assert (truss.mounts / "m" / "b.bin").read_bytes() == ONE


def test_a_blob_of_huggingface_hubs_shared_store_stays_as_it_is(make_case: Make, hub: Hub) -> None:
    case = make_case("hub")
    case.truss.config("model_cache:\n  - repo_id: org/name\n    use_volume: true\n    volume_folder: v\n")
    data = FILES["model.bin"]
    sha = hashlib.sha256(data).hexdigest()
    shared = case.truss.hub_cache / "blobs" / sha[:2] / sha
    shared.parent.mkdir(parents=True)
    shared.write_bytes(data)
    blob = case.root / "blobs" / sha
    blob.parent.mkdir(parents=True)
    blob.symlink_to(f"../../blobs/{sha[:2]}/{sha}")
    run(case.truss)
    assert blob.is_symlink()
    run(case.truss, "-a")
    assert blob.is_symlink()
    run(case.truss, "clean")
    assert blob.is_symlink()
    assert shared.read_bytes() == data


def test_many_runs_in_one_process_leave_no_descriptor_open(make_case: Make) -> None:
    case = make_case("mount")
    ran = case.truss.python(
        """
        import os, sys
        import truss_cache_tasks.app.cli as cli
        counts = []
        for number in range(20):
            for args in ([], ["why"], ["verify"], ["-a"], ["clean"]):
                cli.main(args)
            counts.append(len(os.listdir("/proc/self/fd")))
        print(counts, file=sys.stderr)
        sys.exit(min(counts[-5:]) > min(counts[5:10]))  # a worker more than before may keep its connection for a while
        """
    )
    assert ran.code == 0, ran.text[-2000:]


@pytest.mark.parametrize("args", [["-n", "4", "-P", "thread"], ["-n", "4", "-P", "process"]])
def test_many_entries_at_once(args: list[str], hub: Hub, truss: Truss) -> None:
    upstream = OnHub(hub)
    files = {f"{n}/{k}.bin": bytes([n]) * 3000 for n in range(8) for k in range(5)} | {"deep/x/y.bin": TWO}
    upstream.put("main", files)
    entries = [upstream.entry("main", "volume", f"v/{n}", allow_patterns=f'["{n}/*", "deep/**"]') for n in range(8)]
    truss.config(config("volume", *entries))
    ran = truss.doit("run", *args)
    assert ran.code == 0, ran
    assert "internal" not in ran.text
    assert truss.cli("why", "--check").code == 0
    clean_tells(truss)
    assert leftovers(truss) == []


@pytest.mark.parametrize("layout", ["volume", "mount"])
def test_a_manifest_that_a_killed_commit_did_not_claim_goes_with_the_next_clean(
    layout: str, hub: Hub, truss: ForkedTruss
) -> None:
    """Wherever the kill comes: another revision is asked for before the clean."""
    upstream = OnHub(hub)
    upstream.put("v1", {"a.bin": ONE})
    upstream.put("v2", {"a.bin": TWO})
    for number in range(2, 200, 4):
        truss.config(config(layout, upstream.entry("v1", layout, "m")))
        ran = truss.cli(dies_at=number)
        truss.config(config(layout, upstream.entry("v2", layout, "m")))
        run(truss, "clean")
        assert leftovers(truss, folders=False) == [], number
        if ran.code == 0:
            return
