"""Disks that are too small, or fail in the middle: refused before the first byte, or one clear error and a rerun."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import odd_disk
import pytest
from entry_cases import well_said
from machine_fixtures import small_disk
from servers.hub import Hub
from trusses import BIN, Ran, Truss, tree

from scenarios.cache.disk import leftovers, paths_below
from scenarios.cache.faults import BIG, PART, SMALL, STAGES, sweep, table
from scenarios.cache.forks import ForkedTruss, Forks
from scenarios.cache.moments import RootLock, end_of, go_on, started, stop, wait_for
from scenarios.cache.upstreams import OnHub, beside, config, use_disk

__all__ = ["small_disk"]

Mount = Callable[[Path, int], Path]
MIB = 1 << 20
ONE, TWO = random.Random(4).randbytes(3 * MIB), random.Random(5).randbytes(3 * MIB)


def test_at_any_call_that_fails_the_entry_fails_in_words_and_a_rerun_makes_it_right() -> None:
    figures = sweep(seed=7, points=16)
    print(table(figures))
    assert figures.failed >= 6
    assert len({stage for stage, _ in figures.stages} & {*STAGES}) >= 4


def mount_entry(truss: Truss, hub: Hub, name: str, data: bytes) -> None:
    """Make the config one entry of a repo with one file, at the mount `/name`."""
    if f"org/{name}" not in hub.repos:
        hub.create(f"org/{name}").commit({f"{name}.bin": data})
    truss.config(f"weights:\n  - source: hf://org/{name}\n    mount_location: /{name}\n")


@contextlib.contextmanager
def stalled(truss: Truss, hub: Hub, name: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    """Run `truss-cache` until half of the file of the entry `name` has come; it goes on when `hub.released` is set."""
    hub.released.clear()
    hub.fail(f"{name}.bin", "stall", host="cdn")
    truss.env |= env
    with started(truss) as child:
        wait_for(child, lambda: any(asked.host == "cdn" for asked in hub.asked("GET", f"/{name}.bin")))
        yield child
    hub.released.set()


def asked_for(hub: Hub, name: str) -> int:
    return len(hub.asked("GET", f"/{name}.bin"))


def size_now(path: Path) -> int:
    """The size of a file that its fetch may publish meanwhile; then 0."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


# Before the first byte


@pytest.mark.parametrize("other", ["of this user", "of another machine", "on a disk that cannot allocate"])
def test_what_a_living_fetch_has_reserved_is_not_free_for_another_and_what_a_dead_one_had_is(
    other: str, truss: ForkedTruss, hub: Hub, small_disk: Mount, tmp_path: Path
) -> None:
    small_disk(truss.mounts, 5 * 1024)
    two = beside(truss, "two")
    mount_entry(truss, hub, "one", ONE)
    mount_entry(two, hub, "two", TWO)
    env: dict[str, str] = {}
    if other == "of another machine":  # nothing but the disk is common
        two.env["XDG_STATE_HOME"] = str(tmp_path / "state")
    if other == "on a disk that cannot allocate":
        library = odd_disk.build(tmp_path)
        env = {"LD_PRELOAD": str(library), **odd_disk.variables(truss.mounts, "fallocate=EOPNOTSUPP")}
    with stalled(truss, hub, "one", **env) as child:
        ran = Truss.cli(two, **env)
        well_said(ran, "not enough space for", f"{len(TWO):,} bytes are to come", f"free on the disk at {truss.mounts}")
        if other != "of another machine":
            assert ("that other fetches have reserved" in ran.err) == bool(env), "else the disk counts it as taken"
        assert asked_for(hub, "two") == 0
        child.kill()
        end_of(child)
    shutil.rmtree(truss.mounts / "one")  # what it had opened
    ran = Truss.cli(two, **env)
    assert ran.code == 0, ran
    assert tree(truss.mounts / "two") == {"two.bin": TWO}


def test_files_that_a_fetch_has_not_opened_yet_are_reserved_too_and_a_kill_frees_them(
    truss: ForkedTruss, hub: Hub, small_disk: Mount
) -> None:
    small_disk(truss.mounts, 12 * 1024)
    files = {f"one/{number}.bin": random.Random(number).randbytes(MIB // 4) for number in range(32)}  # 8 MiB
    hub.create("org/one").commit({**files, "one.bin": ONE[:MIB]})
    hub.fail("0.bin", *["stall"] * 99, host="cdn")
    two = beside(truss, "two")
    mount_entry(truss, hub, "one", b"")
    mount_entry(two, hub, "two", TWO)
    with stalled(truss, hub, "one"):
        opened = sum(size_now(path) for path in paths_below(truss.mounts) if path.parent.name == "partials")
        ran = two.cli()
        well_said(ran, "not enough space for", "that other fetches have reserved")
        assert opened + len(TWO) < 12 * MIB
    ran = two.cli()  # the first was killed: what it had not opened is free, without a run of its own
    assert ran.code == 0, ran


def test_of_two_entries_of_one_run_that_do_not_fit_together_one_is_whole_and_one_is_refused(
    truss: ForkedTruss, hub: Hub, small_disk: Mount
) -> None:
    small_disk(truss.mounts, 5 * 1024)
    hub.create("org/one").commit({"one.bin": ONE})
    hub.create("org/two").commit({"two.bin": TWO})
    truss.config(
        "weights:\n  - source: hf://org/one\n    mount_location: /one\n"
        "  - source: hf://org/two\n    mount_location: /two\n"
    )
    ran = truss.cli()
    well_said(ran, "not enough space for")
    assert sorted([*tree(truss.mounts).values()]) in ([ONE], [TWO])
    assert len([asked for asked in hub.requests if asked.host == "cdn" and asked.method == "GET"]) == 1


def test_a_refused_fetch_says_what_a_prune_would_free_and_fits_after_it(
    truss: ForkedTruss, hub: Hub, small_disk: Mount
) -> None:
    small_disk(truss.mounts, 5 * 1024)
    two = beside(truss, "two")
    mount_entry(truss, hub, "one", ONE)
    mount_entry(two, hub, "two", TWO)
    assert truss.cli().code == 0
    ran = two.cli()
    well_said(ran, "not enough space for")
    assert "prune" not in ran.err, "a living config holds it all"
    (truss.folder / "config.yaml").unlink()
    ran = two.cli()
    well_said(ran, "not enough space for", f"Run `truss-cache prune --yes`, which frees {len(ONE):,} bytes.")
    assert two.cli("prune", "--yes").code == 0
    ran = two.cli()
    assert ran.code == 0, ran


def test_tiny_files_take_whole_blocks_and_no_more_than_was_said(truss: ForkedTruss, small_disk: Mount) -> None:
    weights = truss.folder / "weights"
    weights.mkdir()
    for number in range(300):
        (weights / f"{number}.bin").write_bytes(b"%d" % number)
    truss.config("model_cache:\n  - repo_id: file://./weights\n")
    small_disk(truss.model_cache, 300 * 5 + 140)  # a block of each, 1 KiB of records of each, and our folders
    ran = truss.cli()
    assert ran.code == 0, ran
    assert len(tree(truss.model_cache / "weights")) == 300


def test_a_file_of_two_entries_that_does_not_fit_is_refused_with_the_figures_for_both(
    truss: ForkedTruss, hub: Hub, small_disk: Mount
) -> None:
    small_disk(truss.root / "hf", 4 * 1024)
    hub.create("org/one").commit({"one.bin": ONE + TWO, "a.json": b"{}", "b.json": b"[]"})
    truss.config(
        "model_cache:\n  - repo_id: org/one\n    allow_patterns: ['*.bin', a.json]\n"
        "  - repo_id: org/one\n    allow_patterns: ['*.bin', b.json]\n"
    )
    for _ in range(3):  # which of the two is first, and by how much, is not certain
        ran = truss.cli()
        assert (ran.code, ran.err.count("not enough space for")) == (1, 2), ran
    assert asked_for(hub, "one") == 0


def test_a_file_of_many_entries_needs_its_space_once_and_who_has_it_fetches_it(
    truss: ForkedTruss, hub: Hub, small_disk: Mount
) -> None:
    small_disk(truss.root / "hf", 4600)
    hub.create("org/one").commit({"one.bin": ONE, **{f"{number}.json": b"%d" % number for number in range(8)}})
    entry = "  - repo_id: org/one\n    allow_patterns: ['*.bin', '{}.json']\n"
    truss.config("model_cache:\n" + "".join(map(entry.format, range(8))))
    ran = truss.cli()
    assert ran.code == 0, ran
    assert asked_for(hub, "one") <= 2  # at the Hub and its CDN


def test_two_bind_mounts_of_one_disk_take_no_hard_link_of_each_other(
    truss: ForkedTruss, hub: Hub, small_disk: Mount, request: pytest.FixtureRequest
) -> None:
    disk = small_disk(truss.root / "disk", 4 * 1024)
    for folder in (truss.root / "hf", truss.mounts):
        folder.mkdir()
        (disk / folder.name).mkdir()
        subprocess.run(["mount", "--bind", disk / folder.name, folder], check=True)
        request.addfinalizer(partial(subprocess.run, ["umount", str(folder)], check=True))
    mount_entry(truss, hub, "one", ONE)
    ran = truss.cli()
    assert ran.code == 0, ran
    assert tree(truss.mounts / "one") == {"one.bin": ONE}
    assert [*paths_below(truss.root / "hf")] == [], "the bytes are there once"
    assert [*truss.hub_cache.glob("models--*")] == [], "no folder is left of which scan_cache_dir() warns"
    assert truss.cli("clean").code == 0
    truss.config("model_cache:\n  - repo_id: org/one\n")
    ran = truss.cli()
    assert ran.code == 0, ran
    sent = hub.sent["cdn"]
    mount_entry(truss, hub, "one", ONE)
    ran = truss.cli()
    well_said(ran, "not enough space for", f"{len(ONE):,} bytes are to come")
    assert hub.sent["cdn"] == sent


def test_files_of_an_overlay_whose_layers_lie_on_two_disks_are_hard_links(
    truss: ForkedTruss, hub: Hub, small_disk: Mount, request: pytest.FixtureRequest
) -> None:
    disk, merged = small_disk(truss.root / "disk", 4 * 1024), truss.root / "merged"
    for folder in (disk / "upper", disk / "work", truss.root / "lower", merged):
        folder.mkdir()
    layers = f"lowerdir={truss.root / 'lower'},upperdir={disk / 'upper'},workdir={disk / 'work'}"
    if subprocess.run(["mount", "-t", "overlay", "-o", layers, "none", merged], check=False).returncode:
        pytest.skip("needs overlayfs")
    request.addfinalizer(lambda: subprocess.run(["umount", merged], check=True))
    truss.env |= {"HF_HOME": str(merged / "hf"), "TRUSS_MOUNT_ROOT": str(merged / "mounts")}
    mount_entry(truss, hub, "one", ONE)
    ran = truss.cli()
    assert ran.code == 0, ran
    (blob,) = (merged / "hf/hub/models--org--one/blobs").iterdir()
    assert blob.samefile(merged / "mounts/one/one.bin")


def test_a_replaced_file_needs_the_space_of_the_old_and_the_new_one(
    truss: ForkedTruss, hub: Hub, small_disk: Mount
) -> None:
    small_disk(truss.mounts, 5 * 1024)
    mount_entry(truss, hub, "one", ONE)
    assert truss.cli().code == 0
    hub.repos["org/one"].commit({"one.bin": TWO})
    before = asked_for(hub, "one")
    ran = truss.cli("run", "-a")
    well_said(ran, "not enough space for", "TRUSS_MODEL_CACHE_DIR")
    assert asked_for(hub, "one") == before
    assert tree(truss.mounts / "one") == {"one.bin": ONE}
    assert truss.cli("why", "--check").code == 0, "the good state stays"


def test_a_hard_link_takes_no_space(truss: ForkedTruss, hub: Hub, small_disk: Mount) -> None:
    disk = small_disk(truss.root / "disk", 4 * 1024)
    use_disk(truss, disk)
    truss.env["HF_HOME"] = str(disk / "hf")
    mount_entry(truss, hub, "one", ONE)
    ran = truss.cli()
    assert ran.code == 0, ran
    (blob,) = (disk / "hf/hub/models--org--one/blobs").iterdir()
    assert blob.samefile(truss.mounts / "one/one.bin")


def test_what_is_resumed_is_not_reserved_again(truss: ForkedTruss, hub: Hub, small_disk: Mount) -> None:
    disk = small_disk(truss.mounts, (len(BIG) + MIB) // 1024)
    truss.env["TRUSS_CACHE_CONNECTIONS"] = "1"
    hub.create("org/one").commit({"one.bin": BIG})
    mount_entry(truss, hub, "one", b"")
    hub.released.clear()
    hub.fail("one.bin", "pass", "stall", host="cdn")
    with started(truss) as child:
        wait_for(child, lambda: asked_for(hub, "one") > 0 and hub.sent["cdn"] > PART)
    hub.released.set()
    hub.sent.clear()
    ran = truss.cli()
    assert ran.code == 0, ran
    assert tree(disk / "one") == {"one.bin": BIG}
    assert hub.sent["cdn"] <= len(BIG) - PART + MIB  # and what the stalled answer went on with


def test_files_that_another_process_commits_after_the_disk_was_searched_are_fetched_once(
    truss: ForkedTruss, hub: Hub, other_disk: Path
) -> None:
    use_disk(truss, other_disk)
    two = beside(truss, "two")
    upstream = OnHub(hub)
    upstream.put("main", {"one.bin": ONE[:MIB]})
    truss.config(config("volume", upstream.entry("main", "volume", "a")))
    two.config(config("volume", upstream.entry("main", "volume", "b")))
    with contextlib.ExitStack() as lock_held, started(truss) as child:
        lock_held.enter_context(RootLock(truss.model_cache)).wait_for_visitor()
        stop(child)  # it has searched the disk, and is about to note what it will fetch
        lock_held.close()
        ran = two.cli()
        assert ran.code == 0, ran
        go_on(child)
        ran = end_of(child)
        assert ran.code == 0, ran
    assert len([asked for asked in hub.asked("GET", "/one.bin") if asked.host == "cdn"]) == 1


# Inodes


def inodes(folder: Path, number: int, *, again: bool = False) -> None:
    """Mount a tmpfs that has so many inodes; `again`: change the one that is there."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"{'remount,' if again else ''}size=60m,nr_inodes={number}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], check=True)


@pytest.mark.usefixtures("small_disk")  # skips where this user may not mount
def test_too_few_inodes_are_known_before_the_first_byte_and_named_in_the_middle(truss: ForkedTruss, hub: Hub) -> None:
    hub.create("org/one").commit({**{f"{number}.json": b"%d" % number for number in range(60)}, "one.bin": ONE})
    mount_entry(truss, hub, "one", b"")
    inodes(truss.mounts, 50)
    try:
        ran = truss.cli()
        well_said(ran, "not enough inodes for", "Remove some files")
        assert not [asked for asked in hub.requests if "/resolve/" in asked.path]
        inodes(truss.mounts, 200, again=True)
        with stalled(truss, hub, "one") as child:
            while left := os.statvfs(truss.mounts).f_favail:
                (truss.mounts / f"other-{left}").touch()
            hub.released.set()
            ran = end_of(child)
        well_said(ran, "no inode is free", "Remove some files")
        inodes(truss.mounts, 1000, again=True)
        ran = truss.cli()
        assert ran.code == 0, ran
        assert tree(truss.mounts / "one")["one.bin"] == ONE
    finally:
        subprocess.run(["umount", str(truss.mounts)], check=True)


# The longest file, and other limits


def limited(truss: Truss, blocks: int) -> Ran:
    """Run `truss-cache` where no file may be longer than so many KiB."""
    return truss.run(["bash", "-c", f'ulimit -f {blocks}; exec "$0"', str(BIN / "truss-cache")])


def test_a_file_longer_than_the_limit_is_one_error_and_many_shorter_ones_are_none(truss: ForkedTruss, hub: Hub) -> None:
    hub.create("org/one").commit({"one.bin": ONE, "two.bin": TWO})
    truss.config("model_cache:\n  - repo_id: org/one\n")
    ran = limited(truss, 1024)
    well_said(ran, "File too large")
    ran = limited(truss, 4096)  # each is shorter than that; both together are not
    assert ran.code == 0, ran
    (folder,) = truss.hub_cache.glob("*/snapshots/*")
    assert tree(folder) == {"one.bin": ONE, "two.bin": TWO}


# What fails beside the weights


@pytest.fixture
def odd_forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    forks = Forks()
    yield forks
    forks.end()


@pytest.mark.parametrize("rule", ["any=EIO", "change=ENOSPC", "change=EDQUOT"])
def test_a_state_folder_on_a_bad_disk_is_a_warning(rule: str, tmp_path: Path, hub: Hub, odd_forks: Forks) -> None:
    truss = ForkedTruss(tmp_path, forks=odd_forks, hub=hub)
    hub.create("org/one").commit(SMALL)
    truss.config("model_cache:\n  - repo_id: org/one\n")
    state = tmp_path / "home" / ".local"
    state.mkdir()
    ran = truss.cli(**odd_disk.variables(state, rule))  # type: ignore[arg-type]  # no variable is called `dies_at`
    assert ran.code == 0, ran
    assert ran.err.count("will not find this cache after an edit of its path") == 1, ran
    assert truss.cli("clean").code == 0
    assert leftovers(truss) == []


def test_a_rename_that_fails_loses_no_part_of_what_is_resumed(tmp_path: Path, hub: Hub, odd_forks: Forks) -> None:
    hub.create("org/one").commit({"one.bin": BIG})
    begun = ForkedTruss(tmp_path / "begun", forks=odd_forks, hub=hub, TRUSS_CACHE_CONNECTIONS="1")
    begun.config("model_cache:\n  - repo_id: org/one\n")
    hub.released.clear()
    hub.fail("one.bin", "pass", "stall", host="cdn")
    with started(begun) as child:
        wait_for(
            child, lambda: any(path.suffix == ".parts" and path.stat().st_size for path in paths_below(begun.root))
        )
    hub.released.set()
    failed = 0
    for number in range(1, 7):
        shutil.copytree(begun.root, tmp_path / f"{number}", symlinks=True)
        truss = ForkedTruss(tmp_path / f"{number}", forks=odd_forks, hub=hub, TRUSS_CACHE_CONNECTIONS="1")
        hub.sent.clear()
        truss.env |= odd_disk.variables(truss.root, f"rename=EIO@{number}!")
        failed += truss.cli().code
        truss.env["ODD_DISK_RULES"] = ""
        ran = truss.cli()
        assert ran.code == 0, ran
        assert hub.sent["cdn"] <= len(BIG) - PART, f"the rename {number} cost {hub.sent['cdn']:,} bytes"
        shutil.rmtree(truss.root)
    assert failed >= 3
    assert os.path.isdir(begun.root)
