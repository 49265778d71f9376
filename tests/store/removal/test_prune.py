"""du, prune and the budget: what no living claim lists is seen and goes, everything else stays."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from entries import entry
from machine import BIG, FILES, OTHER, Judge, Machine, Trussed, read
from servers.hub import Hub, Repo
from servers.tools import wait_until

from truss_cache_tasks.errors import AccessDenied, DiskError
from truss_cache_tasks.events import Evicted, Warned
from truss_cache_tasks.model.usage import Sizes
from truss_cache_tasks.operations.roots import forget_gone_projects, roots_of_project, with_roots_of_gone_projects
from truss_cache_tasks.operations.usage import CacheUsage, PruneResult, dead_rule, prune, read_cache_usage
from truss_cache_tasks.store.files.locks import locked
from truss_cache_tasks.store.records.claims import read_pins
from truss_cache_tasks.store.records.known_roots import known_roots_by_project

MAIN = "org/name"
TOTAL = sum(map(len, FILES.values())) - len(BIG)  # one blob has two names
VOLUME: dict[str, Any] = {"use_volume": True, "volume_folder": "v"}


def living(truss: Trussed) -> Trussed:
    """Give the config of `truss` its file, without which its claims are dead."""
    truss.workspace.path.parent.mkdir(parents=True, exist_ok=True)
    truss.workspace.path.touch()
    return truss


def remove_config(truss: Trussed) -> None:
    shutil.rmtree(truss.workspace.path.parent)


def roots(truss: Trussed) -> list[Any]:
    space = truss.workspace
    return roots_of_project(space.contexts, space.project, space.settings, space.model_cache)


def pruned(truss: Trussed, *, dry: bool = False, older_than_s: float | None = None, **limit: int) -> PruneResult:
    return prune(roots(truss), dead_rule([truss.workspace.project], older_than_s), dry=dry, **limit)


def usage(truss: Trussed) -> CacheUsage:
    mine = {one.name: frozenset((one.project.id, claim) for claim in one.claims) for one in truss.workspace.contexts}
    return read_cache_usage(roots(truss), dead_rule([truss.workspace.project]), mine)


def freed(result: PruneResult) -> int:
    assert result.left == ()
    return sum(root.size for root in result.roots)


def dropped(result: PruneResult) -> set[tuple[str, str]]:
    return {dead.claim for root in result.roots for dead in root.dropped}


def everything(root: Path) -> set[str]:
    return {str(path) for path in root.rglob("*")}


def edit_claims(records: Path, project: str, **fields: Any) -> None:
    """Write other values into every claim of a project."""
    path = records / "claims" / f"{project}.json"
    value = json.loads(path.read_text())
    value["entries"] = {name: {**claim, **fields} for name, claim in value["entries"].items()}
    path.write_text(json.dumps(value))


@pytest.fixture
def keeper(machine: Machine) -> Trussed:
    """A config of whoever looks after the cache: it claims nothing itself."""
    return living(machine.truss(project="keeper"))


@pytest.mark.parametrize("layout", [{}, {"mount_location": "/m"}, VOLUME], ids=["hub", "mount", "volume"])
def test_what_a_removed_config_held_goes_and_a_dry_prune_says_the_same(
    layout: dict[str, Any], machine: Machine, repo: Repo, judge: Judge
) -> None:
    truss = living(machine.truss(entry(MAIN, **layout)))
    truss.run()
    assert freed(pruned(truss)) == 0
    assert truss.fresh
    remove_config(truss)
    keeper = living(machine.truss(entry("org/other", **layout), project="keeper"))
    before = everything(machine.root)
    dry = pruned(keeper, dry=True)
    assert everything(machine.root) == before
    done = pruned(keeper)
    assert (dry.roots, dry.sizes) == (done.roots, done.sizes)
    assert freed(done) == TOTAL
    assert {name for _, name in dropped(done)} == {truss.context().name, *([f"{MAIN}+hub"] if layout else [])}
    left = [path for path in machine.root.rglob("*") if path.is_file() and path.suffix not in (".lock", ".yaml")]
    assert [path for path in left if ".local" not in path.parts] == []
    assert judge.scan(machine) == {}


def test_fifty_workspaces_that_were_thrown_away_leave_what_a_living_config_shares(
    machine: Machine, hub: Hub, repo: Repo
) -> None:
    stays = living(machine.truss(entry(MAIN, allow_patterns=["*.json", "model.bin"]), project="stays"))
    stays.run()
    owners = range(0, 50, 10)
    for number in range(50):
        entries = [entry(MAIN)]
        if number in owners:
            hub.create(f"org/own-{number}").commit({"own.bin": b"%d" % number * 100})
            entries.append(entry(f"org/own-{number}"))
        job = living(machine.truss(*entries, project=f"job-{number}"))
        job.run()
        remove_config(job)
    done = pruned(stays)
    assert freed(done) == sum(len(b"%d" % number * 100) for number in owners) + TOTAL - len(b"{}") - len(BIG)
    assert len(dropped(done)) == 55
    assert stays.fresh
    assert [path.name for path in machine.hub_cache.glob("models--*")] == ["models--org--name"]
    assert [path.name for path in (machine.repo() / ".truss_cache" / "claims").iterdir()] == ["stays.json"]


def test_what_an_edit_left_and_a_superseded_commit_go_and_the_pin_of_the_living_stays(
    machine: Machine, repo: Repo, judge: Judge
) -> None:
    truss = living(machine.truss(entry(MAIN)))
    truss.run()
    repo.commit({"model.bin": b"two", "config.json": None})
    machine.truss(entry(MAIN)).run(force=True)
    assert len(list((machine.repo() / "snapshots").iterdir())) == 2
    edited = living(machine.truss(entry(MAIN, ignore_patterns=["empty.txt"])))
    edited.run()
    assert freed(pruned(edited)) == len(b"{}")  # BIG stays: another path of the new commit shows it
    assert edited.fresh
    assert set(judge.snapshot(machine)) == {"model.bin", "fp16/model.bin", "fp16/twin.bin", "a b+ü.txt"}
    judge.scan(machine)
    machine.asked()
    again = machine.truss(entry(MAIN, ignore_patterns=["empty.txt"]))
    again.run()
    assert machine.asked() == []


def test_a_superseded_commit_of_a_living_claim_goes_and_its_pin_stays(
    machine: Machine, repo: Repo, judge: Judge
) -> None:
    truss = living(machine.truss(entry(MAIN)))
    truss.run()
    commit = repo.commit({"model.bin": b"two", "config.json": None})
    machine.truss(entry(MAIN)).run(force=True)
    assert usage(truss).sizes.unclaimed == len(b"{}")
    assert freed(pruned(truss)) == len(b"{}")
    assert truss.fresh
    assert [path.name for path in (machine.repo() / "snapshots").iterdir()] == [commit]
    assert [pin.commit for pin in read_pins(truss.context().root).values()] == [commit]
    judge.scan(machine)


def test_what_hf_downloaded_and_what_its_snapshots_link_to_stays(machine: Machine, repo: Repo, judge: Judge) -> None:
    from huggingface_hub import snapshot_download

    truss = living(machine.truss(entry(MAIN)))
    truss.run()
    repo.commit({"config.json": b"[]"}, branch="dev")
    snapshot_download(MAIN, revision="dev", cache_dir=machine.hub_cache, endpoint=machine.hub.url)
    remove_config(truss)
    keeper = living(machine.truss(project="keeper"))
    assert usage(keeper).sizes == Sizes(claimed=TOTAL - len(b"{}"), unclaimed=len(b"{}"))
    assert freed(pruned(keeper)) == len(b"{}")
    assert judge.snapshot(machine, "dev") == {**FILES, "config.json": b"[]"}
    judge.scan(machine)
    assert freed(pruned(keeper)) == 0


def test_files_of_the_user_stay(machine: Machine, repo: Repo, keeper: Trussed) -> None:
    adopted, foreign = machine.mounts / "m" / "model.bin", machine.mounts / "m" / "notes.txt"
    adopted.parent.mkdir(parents=True)
    adopted.write_bytes(BIG)
    foreign.write_text("mine")
    truss = living(machine.truss(entry(MAIN, mount_location="/m")))
    truss.run()
    found = usage(truss)
    there = {usage.root: (usage.foreign_files, usage.foreign_size) for usage, _ in found.roots}
    assert there[str(machine.mounts / "m")] == (2, len(BIG) + 4)
    remove_config(truss)
    assert pruned(living(machine.truss(entry(MAIN, mount_location="/m"), project="x"))).left == ()
    assert read(machine.mounts / "m") == {"model.bin": BIG, "notes.txt": b"mine"}


def test_a_claim_of_another_host_goes_only_by_its_age(machine: Machine, repo: Repo, keeper: Trussed) -> None:
    truss = machine.truss(entry(MAIN))
    truss.run()
    records = machine.repo() / ".truss_cache"
    edit_claims(records, "ours", host="container-1", when=time.time() - 3 * 86400)
    assert freed(pruned(keeper)) == 0
    assert freed(pruned(keeper, older_than_s=4 * 86400)) == 0
    for when in (float("nan"), float("inf"), float("-inf")):
        edit_claims(records, "ours", when=when)
        assert freed(pruned(keeper, older_than_s=0)) == 0
    edit_claims(records, "ours", when=time.time() - 3 * 86400)
    done = pruned(keeper, older_than_s=2 * 86400)
    assert (freed(done), dropped(done)) == (TOTAL, {("ours", MAIN)})


def test_the_claims_of_the_config_that_is_read_are_living_whatever_they_say(machine: Machine, repo: Repo) -> None:
    truss = machine.truss(entry(MAIN))  # its file is not there: as TRUSS_CACHE_PROJECT with a folder for each job
    truss.run()
    edit_claims(machine.repo() / ".truss_cache", "ours", host="container-1", when=0.0)
    assert freed(pruned(truss, older_than_s=1)) == 0
    assert truss.fresh


@pytest.mark.parametrize(
    "damage",
    ["{", '{"format": 99}', "[]", '{"format": 1, "entries": {"a": {}}, "former": [], "roots": []}', ""],
    ids=["cut", "newer", "list", "fields", "empty"],
)
@pytest.mark.parametrize("record", ["claims/theirs.json", "fetches/{key}.json", "manifests/{key}.json"])
def test_where_a_record_hides_what_is_claimed_nothing_goes(
    record: str, damage: str, machine: Machine, repo: Repo, keeper: Trussed
) -> None:
    """A manifest or note that is damaged, and of no living claim, hides nothing: only a newer one may."""
    truss = machine.truss(entry(MAIN))
    truss.run()
    path = machine.repo() / ".truss_cache" / record.format(key="a" * 64)
    path.parent.mkdir(exist_ok=True)
    path.write_text(damage)
    done = pruned(keeper)
    is_hidden = record.startswith("claims") or "99" in damage
    assert freed(done) == (0 if is_hidden else TOTAL)
    assert truss.fresh == is_hidden
    assert any(root.protected for root in done.roots) == is_hidden
    if is_hidden:
        assert path.read_text() == damage


def test_names_with_control_characters_and_odd_configs_are_judged_and_kept(
    machine: Machine, repo: Repo, keeper: Trussed
) -> None:
    truss = machine.truss(entry(MAIN))
    truss.run()
    for config in (
        "/tmp/\x1b[2J\n/x/config.yaml",
        "relative",
        "",
        "/a\0b",
        "/" + "x" * 5000,
        "/\ud800/c",
        "/gone/c.yaml",
    ):
        edit_claims(machine.repo() / ".truss_cache", "ours", config=config)
        living_config = config != "/tmp/\x1b[2J\n/x/config.yaml"
        if living_config:
            assert freed(pruned(keeper)) == 0, config
    edit_claims(machine.repo() / ".truss_cache", "ours", config="/tmp/\x1b[2J\n/x/config.yaml")
    assert freed(pruned(keeper)) == TOTAL


def test_a_config_that_cannot_be_seen_is_not_gone(
    machine: Machine, repo: Repo, keeper: Trussed, tmp_path: Path
) -> None:
    truss = machine.truss(entry(MAIN))
    truss.run()
    records, away = machine.repo() / ".truss_cache", tmp_path / "away"
    (tmp_path / "dangling.yaml").symlink_to(away / "config.yaml")
    (tmp_path / "disk").symlink_to(away)
    (tmp_path / "loop").symlink_to("loop")
    for config in ("dangling.yaml", "disk/config.yaml", "loop/config.yaml"):
        edit_claims(records, "ours", config=str(tmp_path / config))
        assert freed(pruned(keeper)) == 0, config
    (tmp_path / "file").touch()
    edit_claims(records, "ours", config=str(tmp_path / "file" / "config.yaml"))  # a file is where its folder was
    assert freed(pruned(keeper)) == TOTAL


def test_what_a_running_job_uses_stays(machine: Machine, repo: Repo, keeper: Trussed) -> None:
    truss = machine.truss(entry(MAIN))
    truss.run()
    context = truss.context()
    with locked(context.root.lock(f"entry-{context.entry.key}")):
        assert freed(pruned(keeper)) == 0
    assert freed(pruned(keeper)) == TOTAL


def test_a_fetch_that_failed_keeps_its_parts_until_its_config_is_gone(
    machine: Machine, hub: Hub, keeper: Trussed
) -> None:
    hub.create("org/big").commit({"big.safetensors": bytes(24 << 20)})
    hub.fail("big.safetensors", "pass", *["403"] * 20, host="cdn")
    machine.connections = 1  # else a refusal ends the first part, which is still under way
    truss = living(machine.truss(entry("org/big")))
    with pytest.raises(AccessDenied):
        truss.run()
    assert usage(keeper).sizes.partial > 0
    assert freed(pruned(keeper)) == 0
    remove_config(truss)
    (note,) = (machine.repo("org/big") / ".truss_cache" / "fetches").iterdir()
    text = note.read_text()
    note.write_text(json.dumps({**json.loads(text), "makers": {}}))  # as an earlier build of format 1 wrote it
    assert freed(pruned(keeper)) == 0
    note.write_text(text)
    dry = pruned(keeper, dry=True)
    assert freed(dry) > 0
    assert freed(pruned(keeper)) == freed(dry)
    assert not machine.repo("org/big").exists()


def fetched_in_order(machine: Machine, hub: Hub, names: Collection[str], size: int = 1000) -> dict[str, Trussed]:
    """Fetch a repo for each name, whose claims are a day apart, the first the oldest; all their configs are gone."""
    made = {}
    for age, name in enumerate(names):
        hub.create(f"org/{name}").commit({"w.bin": name.encode() * size})
        made[name] = machine.truss(entry(f"org/{name}"), project=name)
        made[name].run()
        edit_claims(machine.repo(f"org/{name}") / ".truss_cache", name, when=time.time() - (len(names) - age) * 86400)
    return made


def test_keep_bytes_removes_the_least_recently_used_first(machine: Machine, hub: Hub, keeper: Trussed) -> None:
    fetched_in_order(machine, hub, ("c", "a", "b"))
    assert freed(pruned(keeper, keep_bytes=3000)) == 0
    dry = pruned(keeper, keep_bytes=2999, dry=True)
    done = pruned(keeper, keep_bytes=2999)
    assert dry.roots == done.roots
    assert dropped(done) == {("c", "org/c")}
    assert freed(pruned(keeper, keep_bytes=1500)) == 1000
    assert [path.name for path in machine.hub_cache.glob("models--*")] == ["models--org--b"]


def test_a_fetch_evicts_the_least_recently_used_until_it_fits_and_never_what_is_claimed(
    machine: Machine, hub: Hub
) -> None:
    made = fetched_in_order(machine, hub, ("c", "a", "b"))
    living(made["b"])
    hub.create("org/new").commit({"w.bin": b"x" * 1500})
    machine.max_bytes = 4000
    new = machine.truss(entry("org/new"), project="new")
    new.run()
    assert {Path(event.path).name: event.size for event in new.recorder.of(Evicted)} == {"models--org--c": 1000}
    hub.create("org/more").commit({"w.bin": b"y" * 2000})
    machine.asked()
    more = machine.truss(entry("org/more"), project="more")
    living(new)
    with pytest.raises(
        DiskError, match=r"3,500 bytes of ours, of which 2,500 are claimed or in use, and 2,000 to come"
    ):
        more.run()
    assert machine.downloads() == []
    assert made["a"].fresh  # nothing was evicted for what does not fit
    assert not list((machine.repo("org/more")).rglob("*.json"))
    remove_config(new)
    more.run()
    assert {Path(event.path).name for event in more.recorder.of(Evicted)} == {"models--org--a", "models--org--new"}
    assert made["b"].fresh
    assert more.fresh


@pytest.mark.parametrize("layout", [{"mount_location": "/m"}, VOLUME], ids=["mount", "volume"])
def test_plain_files_have_a_budget_of_their_own_which_is_checked_before_the_first_byte(
    layout: dict[str, Any], machine: Machine, repo: Repo, tmp_path: Path
) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "other.bin").write_bytes(b"other")
    living(machine.truss(entry(f"file://{tmp_path}/source", **layout), project="other")).run()
    machine.max_bytes = TOTAL + 4  # enough for the hub cache
    truss = machine.truss(entry(MAIN, **layout))
    machine.asked()
    with pytest.raises(DiskError, match="TRUSS_CACHE_MAX_BYTES"):
        truss.run()
    assert machine.downloads() == []
    machine.max_bytes = TOTAL + 5
    truss = machine.truss(entry(MAIN, **layout))
    truss.run()
    assert truss.fresh


def test_a_moved_branch_evicts_the_commit_before_the_last(machine: Machine, hub: Hub) -> None:
    repo = hub.create("org/moving")
    machine.max_bytes = 2000
    for content in (b"1", b"2", b"3"):
        repo.commit({"w.bin": content * 1000})
        truss = machine.truss(entry("org/moving"))
        living(truss).run(force=True)
    assert [event.size for event in truss.recorder.of(Evicted)] == [1000]
    assert truss.fresh


@pytest.mark.parametrize("layout", [{"mount_location": "/m"}, VOLUME], ids=["mount", "volume"])
def test_what_the_hub_cache_has_already_is_not_to_come_when_plain_files_show_it(
    layout: dict[str, Any], machine: Machine, repo: Repo
) -> None:
    machine.max_bytes = TOTAL
    truss = machine.truss(entry(MAIN, **layout))
    truss.run()
    machine.asked()
    truss.run(force=True)
    assert machine.downloads() == []
    assert truss.fresh


def test_files_of_hf_do_not_count_for_the_budget_and_are_not_evicted(
    machine: Machine, hub: Hub, repo: Repo, judge: Judge
) -> None:
    from huggingface_hub import snapshot_download

    snapshot_download(MAIN, cache_dir=machine.hub_cache, endpoint=machine.hub.url)
    hub.create("org/new").commit({"w.bin": b"x" * 1500})
    machine.max_bytes = 1500
    machine.truss(entry("org/new")).run()
    assert judge.snapshot(machine) == FILES
    judge.scan(machine)


def test_an_eviction_keeps_what_the_fetch_itself_will_use(machine: Machine, hub: Hub, repo: Repo) -> None:
    old = machine.truss(entry(MAIN, allow_patterns=["*.bin"]), project="old")
    old.run()
    edit_claims(machine.repo() / ".truss_cache", "old", when=1.0)  # the least recently used
    fetched_in_order(machine, hub, ("a",))
    machine.asked()
    machine.max_bytes = TOTAL
    new = machine.truss(entry(MAIN), project="new")
    new.run()
    assert machine.downloads() == ["a b+ü.txt", "config.json", "empty.txt"]
    assert new.fresh


def test_sizes_of_entries_say_what_is_shared_and_what_a_clean_frees(machine: Machine, repo: Repo) -> None:
    mine = living(machine.truss(entry(MAIN), entry(MAIN, name="fp16", allow_patterns=["fp16/*"])))
    mine.run()
    theirs = living(machine.truss(entry(MAIN, mount_location="/m", allow_patterns=["model.bin"]), project="theirs"))
    theirs.run()
    found = {one.name: (one.size, one.unique) for one in usage(mine).entries}
    only = TOTAL - len(BIG) - len(OTHER)
    assert found == {MAIN: (TOTAL, only), "fp16": (len(BIG) + len(OTHER), 0)}
    assert {name: (one.size, one.unique) for name, (_, one) in usage(mine).others.items()} == {"theirs": (len(BIG), 0)}
    assert usage(mine).sizes == Sizes(claimed=TOTAL)
    assert [one.foreign_files for one, _ in usage(mine).roots] == [0]
    assert mine.clean(MAIN).size == only


def test_two_hosts_of_one_path_warn_and_neither_loses_its_claim_in_silence(
    machine: Machine, hub: Hub, repo: Repo
) -> None:
    first = on_host(machine.truss(entry(MAIN), entry("org/gone")), "a")
    first.run(MAIN)
    second = on_host(machine.truss(entry(MAIN, allow_patterns=["*.json"])), "b")
    second.run()
    (said,) = [event.message for event in second.recorder.of(Warned)]
    assert "'a'" in said
    assert "TRUSS_CACHE_PROJECT" in said
    third = on_host(machine.truss(entry(MAIN, name="other", allow_patterns=["*.bin"])), "c")
    third.run()
    claims = json.loads((machine.repo() / ".truss_cache" / "claims" / "ours.json").read_text())["entries"]
    assert set(claims) == {
        MAIN,
        "other",
    }  # the first is of another host: not dropped, although no entry of this config has it


def on_host(truss: Trussed, host: str) -> Trussed:
    """Make `truss` one without TRUSS_CACHE_PROJECT on a host of this name."""
    space = truss.workspace
    space.project = space.project._replace(host=host, is_named=False)
    space.contexts = tuple(context._replace(project=space.project) for context in space.contexts)
    return truss


def test_roots_that_only_a_config_that_is_gone_used_are_pruned_and_forgotten(machine: Machine, repo: Repo) -> None:
    job = living(machine.truss(entry(MAIN, mount_location="/m"), project="job", XDG_STATE_HOME=str(machine.root / "s")))
    job.run()
    settings, rule = job.workspace.settings, dead_rule([])
    assert known_roots_by_project(settings)["job"].roots == {str(machine.mounts / "m"), str(machine.repo())}
    assert with_roots_of_gone_projects([], settings, rule) == []
    remove_config(job)
    rule = dead_rule([])
    roots = with_roots_of_gone_projects([], settings, rule)
    assert {root.path for root in roots} == {machine.mounts / "m", machine.repo()}
    assert freed(prune(roots, rule, dry=False)) == TOTAL
    forget_gone_projects(settings, rule)
    assert not (machine.root / "s" / "truss-cache").exists()


def test_a_root_that_cannot_be_written_is_named_and_the_others_are_pruned(
    machine: Machine, hub: Hub, repo: Repo, keeper: Trussed, request: pytest.FixtureRequest
) -> None:
    made = fetched_in_order(machine, hub, ("a", "b"))
    with read_only(machine.repo("org/a"), request):
        done = pruned(keeper)
        assert done.left == (f"{machine.repo('org/a')}: not writable",)
        assert sum(root.size for root in done.roots) == 1000
        assert made["a"].fresh
    assert freed(pruned(keeper)) == 1000


def test_a_clean_of_a_root_that_cannot_be_written_drops_the_records_of_the_others(
    machine: Machine, hub: Hub, repo: Repo, request: pytest.FixtureRequest
) -> None:
    hub.create("org/a").commit({"a.bin": b"a"})
    truss = machine.truss(entry("org/a"), entry(MAIN))
    truss.run()
    with read_only(machine.repo("org/a"), request):
        assert truss.clean().left == [f"{machine.repo('org/a')}: not writable"]
        assert not machine.repo().exists()


@contextlib.contextmanager
def read_only(folder: Path, request: pytest.FixtureRequest) -> Iterator[None]:
    """Mount `folder` read-only for the block. Needs root, which CI has."""
    if os.geteuid():
        assert not os.environ.get("CI"), "CI must be able to mount"
        pytest.skip("needs root: a read-only mount")
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_fetch_counts_what_another_one_is_about_to_bring(
    machine: Machine, hub: Hub, in_background: Callable[[Callable[[], Any]], Callable[[], Any]]
) -> None:
    """One of two fetches that begin together gets the room; the other one fails, and takes nothing from the first."""
    for name in ("a", "b"):
        hub.create(f"org/{name}").commit({"w.bin": name.encode() * 3000})
    machine.max_bytes = 5000
    hub.fail("w.bin", "stall")
    first = machine.truss(entry("org/a"), project="a")
    ended = in_background(first.run)
    wait_until(lambda: bool(hub.asked("GET", "w.bin")), "the request of the first", alive=lambda: True)
    second = machine.truss(entry("org/b"), project="b")
    with pytest.raises(DiskError, match=r"3,000 to come"):
        second.run()
    hub.released.set()
    ended()
    assert first.fresh
    assert not machine.repo("org/b").exists()


def test_an_eviction_leaves_what_another_fetch_found_and_needs(
    machine: Machine, hub: Hub, repo: Repo, in_background: Callable[[Callable[[], Any]], Callable[[], Any]]
) -> None:
    """The files of a dead claim that a fetch under way reuses are in use, though no manifest of it lists them yet."""
    machine.truss(entry(MAIN, allow_patterns=["*.bin"]), project="dead").run()
    hub.fail("config.json", "stall")
    reuses = living(machine.truss(entry(MAIN, allow_patterns=["*.bin", "*.json"]), project="reuses"))
    ended = in_background(reuses.run)
    wait_until(lambda: bool(hub.asked("GET", "config.json")), "the request", alive=lambda: True)
    keeper = living(machine.truss(project="keeper"))
    assert freed(pruned(keeper)) == 0
    machine.asked()
    hub.released.set()
    ended()
    assert machine.downloads() == []
    assert reuses.fresh
    assert freed(pruned(keeper)) == 0


def test_a_clean_of_a_claim_that_another_host_made_says_so(machine: Machine, repo: Repo) -> None:
    on_host(machine.truss(entry(MAIN)), "a").run()
    done = on_host(machine.truss(entry(MAIN)), "b").clean()
    assert [("'a'" in line, "TRUSS_CACHE_PROJECT" in line) for line in done.warnings] == [(True, True)]
