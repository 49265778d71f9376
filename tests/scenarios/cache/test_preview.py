"""`plan` says what a run will fetch, writes nothing, and says whether the disk has room; `path` names the folder."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from entry_cases import FILES, LAYOUTS, Case, before_gcs, make_case, on_gcs, well_said
from in_process import Cli, cli
from machine_fixtures import small_disk
from servers.hub import Hub
from trusses import Ran, Truss

from scenarios.cache.test_odd_disks import Make
from scenarios.cache.test_read_only import mounted_read_only

__all__ = ["before_gcs", "cli", "make_case", "on_gcs", "small_disk"]

TWO = "model_cache:\n  - repo_id: org/name\n  - repo_id: org/name\n    allow_patterns: ['*.bin']\n"


def seen(root: Path) -> dict[Path, tuple[int, int, int]]:
    """Return everything below a folder, with what any change of it changes."""
    stats = {path: path.lstat() for path in (root, *root.rglob("*")) if ".doit.db" not in path.name}
    return {path: (stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in stats.items()}


def fetched(ran: Ran) -> list[str]:
    """Return `N files, SIZE` of what was, or would be, fetched, a line an entry."""
    return re.findall(r"(?:would fetch|fetched) ((?:[0-9,]+ files?, [0-9.]+ k?B)|nothing)\b", ran.text)


def planned(cli: Cli, *args: str, root: Path) -> Ran:
    """Run `plan`, and see that it changes nothing below a folder."""
    before = seen(root)
    ran = cli("plan", *args)
    assert seen(root) == before
    return ran


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_run_fetches_what_the_plan_said_and_the_plan_writes_nothing(layout: str, make_case: Make, cli: Cli) -> None:
    case: Case = make_case(layout)
    root = case.truss.root
    plan = planned(cli, root=root)
    assert (plan.code, fetched(plan)) == (0, ["4 files, 42.1 kB"]), plan
    assert re.search(r"disk at /\S*: needs [0-9.]+ kB, [0-9.]+ .B free: enough", plan.out), plan
    assert (missing := cli("path")).code == 1, missing
    assert missing.out == ""
    assert fetched(cli()) == fetched(plan)
    assert f"into {cli('path').out}" in plan.out
    fresh = planned(cli, root=root)
    assert (fresh.code, fetched(fresh)) == (0, [])
    assert "fresh: 4 files, 42.1 kB" in fresh.out
    case.put("sub/c.txt", b"another")
    assert fetched(planned(cli, root=root)) == []
    moved = planned(cli, "-a", root=root)
    assert (moved.code, fetched(moved)) == (0, ["1 file, 7 B"]), moved
    assert fetched(cli("-a")) == ["1 file, 7 B"]
    assert moved.out.count("main would move: ") == int(layout in ("hub", "volume", "mount"))


def test_a_dry_run_is_the_plan_and_both_front_ends_give_it(make_case: Make, cli: Cli) -> None:
    truss = make_case("hub").truss
    plan, dry = cli("plan"), cli("run", "--dry-run")
    assert (dry.code, dry.out) == (0, plan.out)
    doit = truss.doit("cache-plan", "org/name")
    assert (doit.code, doit.out) == (0, plan.out.replace("org/name:", "cache_weights:org/name:", 1)), doit
    assert cli("plan", "-q").text == ""
    assert cli().code == 0
    for name in ("org/name", "cache_weights:org/name", "cache_weights"):
        assert truss.doit("cache-path", name).out == cli("path").out


def test_a_plan_of_a_read_only_cache_says_what_a_run_would_fetch(make_case: Make, cli: Cli) -> None:
    case: Case = make_case("hub")
    assert cli().code == 0
    case.put("sub/c.txt", b"another")
    with mounted_read_only(case.truss.hub_cache):
        plan = planned(cli, "-a", root=case.truss.root)
    assert (plan.code, fetched(plan)) == (0, ["1 file, 7 B"]), plan
    assert "is not writable" in plan.out


def test_a_plan_says_what_is_damaged_and_what_asks_no_server(make_case: Make, cli: Cli, hub: Hub) -> None:
    case: Case = make_case("volume")
    assert cli().code == 0
    hub.requests.clear()
    os.utime(case.shown / "model.bin", (1, 1))
    touched = planned(cli, root=case.truss.root)
    assert (touched.code, hub.requests) == (0, []), touched
    assert "would be put right from this disk, asks no server" in touched.out
    (case.shown / "model.bin").unlink()
    (case.truss.hub_cache / "models--org--name" / "blobs").rename(case.truss.root / "gone")
    lost = planned(cli, root=case.truss.root)
    assert (lost.code, fetched(lost)) == (0, ["1 file, 30.0 kB"]), lost
    assert "3 files, 12.1 kB here already" in lost.out
    assert "model.bin is missing" in lost.out


def test_entries_that_share_bytes_are_counted_once(truss: Truss, hub: Hub, cli: Cli) -> None:
    hub.create("org/name").commit(dict(FILES))
    truss.config(TWO)
    plan = cli("plan")
    assert fetched(plan) == ["4 files, 42.1 kB", "2 files, 42.0 kB", "4 files, 42.1 kB"], plan
    assert "2 entries: would fetch" in plan.out
    whole, both = (re.findall(r"needs ([0-9.]+) kB", ran.out) for ran in (cli("plan", "org/name"), plan))
    assert float(both[0]) - float(whole[0]) < 42, "records and links alone"


def test_a_revision_is_asked_for_once_so_that_all_entries_of_a_plan_have_one_commit(
    truss: Truss, hub: Hub, cli: Cli
) -> None:
    hub.create("org/name").commit(dict(FILES))
    truss.config(TWO)
    assert cli("plan").code == 0
    asked = [request.path for request in hub.requests if "/main" in request.path]
    assert len(asked) == 1, asked


def test_a_disk_without_room_is_told_before_and_all_entries_count_together(
    truss: Truss, hub: Hub, cli: Cli, small_disk: Callable[[Path, int], Path]
) -> None:
    for name in ("one", "two"):
        hub.create(f"org/{name}").commit({"model.bin": name.encode() * 200_000})
    truss.config("model_cache:\n  - repo_id: org/one\n  - repo_id: org/two\n")
    small_disk(truss.hub_cache, 1024)
    one, both = planned(cli, "org/one", root=truss.root), planned(cli, root=truss.root)
    assert one.code == 0, one
    well_said(both, f"disk at {truss.hub_cache}: needs 1,", "not enough", "Free some space")
    assert cli("org/one").code == 0
    assert cli("org/two").code == 1


def test_a_budget_that_is_too_small_is_told_before(truss: Truss, hub: Hub, cli: Cli) -> None:
    repo = hub.create("org/name")
    repo.commit({"model.bin": b"m" * 60_000})
    truss.config("model_cache:\n  - repo_id: org/name\n")
    well_said(cli("plan", TRUSS_CACHE_MAX_BYTES="50K"), "60,000 bytes to come", "not enough", "TRUSS_CACHE_MAX_BYTES")
    assert cli().code == 0
    repo.commit({"model.bin": b"n" * 60_000})
    assert cli("clean").code == 0
    assert cli("plan", TRUSS_CACHE_MAX_BYTES="60K").code == 0


def test_a_plan_fails_with_what_the_run_would_fail_with(make_case: Make, cli: Cli) -> None:
    case: Case = make_case("volume")
    case.shown.mkdir(parents=True)
    (case.shown / "model.bin").write_text("of the user")
    well_said(planned(cli, root=case.truss.root), "found a file that this cache did not make")
    assert fetched(cli("plan", "--replace")) == ["4 files, 42.1 kB"]
    (case.shown / "model.bin").unlink()
    case.truss.config("model_cache:\n  - repo_id: org/none\n")
    well_said(cli("plan"), "no such repo")


def test_a_plan_under_a_lock_is_that_of_the_locked_commit_and_is_refused_without_one(make_case: Make, cli: Cli) -> None:
    case: Case = make_case("hub")
    assert cli("plan", TRUSS_CACHE_LOCKED="1").code == 3
    assert cli("lock").code == 0
    case.put("sub/c.txt", b"another")
    plan = planned(cli, root=case.truss.root)
    assert fetched(plan) == ["4 files, 42.1 kB"], plan
    assert fetched(cli()) == fetched(plan)
    assert f"into {cli('path').out}" in plan.out


def test_the_paths_of_those_that_are_fetched_are_printed_and_the_others_explained(
    truss: Truss, hub: Hub, cli: Cli
) -> None:
    hub.create("org/name").commit(dict(FILES))
    truss.config("model_cache:\n  - repo_id: org/name\n  - repo_id: org/other\n")
    assert cli("org/name").code == 0
    both = cli("path", "org/other", "org/name")
    (line,) = both.out.splitlines()
    assert (both.code, (Path(line) / "config.json").read_bytes()) == (1, FILES["config.json"])
    assert both.err.splitlines()[0] == "org/other: not fetched yet"
    assert both.err.count("hint: ") == 1
    assert cli("path", "org/nome").code == 3
    assert truss.doit("cache-path", "org/nome").code == 3


@pytest.mark.parametrize("layout", ["hub", "mount", "local"])
def test_plan_and_run_agree_on_what_fits_into_a_budget(layout: str, make_case: Make, cli: Cli) -> None:
    make_case(layout)
    size = sum(map(len, FILES.values()))
    for limit, code in ((size - 1, 1), (size, 0)):
        assert cli("plan", TRUSS_CACHE_MAX_BYTES=str(limit)).code == code
        assert cli(TRUSS_CACHE_MAX_BYTES=str(limit)).code == code


def test_a_copy_from_another_disk_counts_and_the_plan_still_writes_nothing(
    make_case: Make, cli: Cli, small_disk: Callable[[Path, int], Path]
) -> None:
    case: Case = make_case("hub")
    small_disk(case.truss.hub_cache, 1024)
    assert cli().code == 0
    case.truss.config("weights:\n  - source: hf://org/name\n    mount_location: /home/u\n")
    plan = planned(cli, root=case.truss.root)
    assert (plan.code, fetched(plan)) == (0, ["nothing"]), plan
    assert (need := re.search(r"disk at \S+: needs ([0-9.]+) kB", plan.out)), plan
    assert float(need[1]) > 42
    assert fetched(cli())[0].startswith("0 files")


def test_what_becomes_a_link_of_the_hub_cache_counts_into_the_budget_of_the_model_cache_too(
    truss: Truss, hub: Hub, cli: Cli
) -> None:
    hub.create("org/name").commit({"model.bin": b"m" * 40_000})
    (truss.folder / "weights").mkdir()
    (truss.folder / "weights" / "other.bin").write_bytes(b"o" * 20_000)
    truss.config(
        "model_cache:\n  - repo_id: file://./weights\n"
        "  - repo_id: org/name\n    use_volume: true\n    volume_folder: vol\n"
    )
    assert cli("weights").code == 0
    for limit, code in (("50K", 1), ("60K", 0)):
        assert cli("plan", TRUSS_CACHE_MAX_BYTES=limit).code == code
        assert cli(TRUSS_CACHE_MAX_BYTES=limit).code == code
