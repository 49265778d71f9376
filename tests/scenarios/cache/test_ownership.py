"""Every byte that we made has an owner: `clean -n` tells it, `clean` takes it, nothing of ours outlives its owners."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from odd_disk import variables
from servers.hub import Hub
from trusses import Truss, tree

from scenarios.buckets.stores import GcsStore, Store
from scenarios.cache.disk import clean_tells, leftovers, weigh
from scenarios.cache.forks import ForkedTruss
from scenarios.cache.moments import end_of, started, wait_for
from scenarios.cache.upstreams import OnHub, beside, check, config, run

BIG = random.Random(0).randbytes(10 << 20)  # comes in parts
WHOLE = {f"{number}.bin": random.Random(number).randbytes(30_000) for number in range(1, 6)}
FILES = {**WHOLE, "config.json": b"{}"}


def entry(upstream: OnHub, layout: str, **fields: object) -> str:
    """Return a config with one entry of this upstream's main."""
    if layout != "hub":
        return config(layout, upstream.entry("main", layout, "m", **fields))
    return f"model_cache:\n  - repo_id: {upstream.name}\n" + "".join(f"    {n}: {v}\n" for n, v in fields.items())


# What an interrupted run leaves


def interrupted(truss: Truss, upstream: OnHub, number: signal.Signals) -> int:
    """End a run by a signal when small files are whole, and parts of the large one are there; return its status."""
    with upstream.held("big.bin") as hold, started(truss) as child:

        def is_under_way() -> bool:
            parts = truss.root.glob("**/.truss_cache/partials/*.parts")
            there = any(path.stat().st_size for path in parts)
            return hold.is_asked() and there and weigh(truss.hub_cache, truss.mounts).whole >= 30_000

        wait_for(child, is_under_way)
        child.send_signal(number)
        return end_of(child).code


def kill(truss: Truss, upstream: OnHub) -> None:
    assert interrupted(truss, upstream, signal.SIGKILL) == -signal.SIGKILL


def stop(truss: Truss, upstream: OnHub) -> None:
    """By Ctrl-C, after which we put away what is of no use."""
    assert interrupted(truss, upstream, signal.SIGINT) == 130


def fail(truss: Truss, upstream: OnHub) -> None:
    """A run that fails for one file, after the others came."""
    upstream.hub.fail("/big.bin", *["flip"] * 30, host="cdn")
    assert truss.cli().code == 1
    upstream.hub.faults.clear()


@pytest.mark.parametrize(
    ("interrupt", "layout"),
    [(kill, "hub"), (kill, "volume"), (kill, "mount"), (stop, "mount"), (fail, "hub"), (fail, "volume")],
)
def test_what_an_interrupted_run_left_is_told_and_taken_by_clean(
    interrupt: Callable[[Truss, OnHub], None], layout: str, hub: Hub, truss: Truss
) -> None:
    upstream = OnHub(hub)
    upstream.put("main", {**FILES, "big.bin": BIG})
    truss.config(entry(upstream, layout))
    interrupt(truss, upstream)
    left = weigh(truss.hub_cache, truss.model_cache, truss.mounts)
    assert left.whole >= 30_000, "it had made something"
    told = clean_tells(truss)
    assert left.least <= told <= left.most
    assert leftovers(truss) == []
    assert "nothing to remove" in truss.cli("clean").out


@pytest.mark.parametrize("layout", ["hub", "mount"])
def test_an_interrupted_update_beside_an_earlier_state_is_told_and_taken_by_clean(
    layout: str, hub: Hub, truss: Truss
) -> None:
    upstream = OnHub(hub)
    upstream.put("main", FILES)
    truss.config(entry(upstream, layout))
    run(truss)
    upstream.put("main", {**FILES, "1.bin": BIG[:40_000], "big.bin": BIG})
    with upstream.held("big.bin") as hold, started(truss, "-a") as child:
        wait_for(child, lambda: hold.is_asked() and any(truss.root.glob("**/.truss_cache/partials/*.parts")))
        child.send_signal(signal.SIGKILL)
        end_of(child)
    check(truss, layout, {"m": FILES} if layout != "hub" else {})
    clean_tells(truss)
    assert leftovers(truss) == []


def test_a_run_that_is_at_work_loses_nothing_to_another_projects_clean(hub: Hub, truss: Truss) -> None:
    upstream = OnHub(hub)
    large = BIG[:60_000]  # in one part
    upstream.put("main", {**FILES, "big.bin": large})
    truss.config(entry(upstream, "volume", allow_patterns='["1.bin", "2.bin"]'))
    run(truss)
    other = beside(truss, "other")
    other.config(entry(upstream, "volume", ignore_patterns='["1.bin"]'))
    blobs = truss.hub_cache / "models--org--name" / "blobs"
    hub.requests.clear()
    with upstream.held("big.bin") as hold, started(other) as child:
        wait_for(child, lambda: hold.is_asked() and len(list(blobs.iterdir())) == len(FILES))
        assert clean_tells(truss) == 60_000
        hold.release()
        ran = end_of(child)
    assert ran.code == 0, ran.text
    check(other, "volume", {"m": {path: data for path, data in FILES.items() if path != "1.bin"} | {"big.bin": large}})
    fetched = [r.path.rpartition("/")[2] for r in hub.requests if r.host == "cdn"]
    assert fetched.count("3.bin") == fetched.count("big.bin") == 1
    clean_tells(other)
    assert leftovers(truss) == []


def test_a_clean_of_one_entry_tells_and_takes_its_own_alone(hub: Hub, truss: Truss) -> None:
    """What a killed run of the other one left stays to be resumed, or goes: `-n` says which."""
    one, two = OnHub(hub, "org/one"), OnHub(hub, "org/two")
    one.put("main", FILES)
    two.put("main", {**FILES, "more.bin": BIG[:70_000], "big.bin": BIG})
    both = [one.entry("main", "volume", "one"), two.entry("main", "volume", "two")]
    truss.config(config("volume", both[0]))
    run(truss)
    truss.config(config("volume", *both))
    kill(truss, two)
    assert clean_tells(truss, "org/one") >= 150_002
    clean_tells(truss, "org/two")
    assert leftovers(truss) == []


# After the last clean


@pytest.mark.parametrize("layout", ["hub", "volume"])
def test_after_the_clean_of_every_project_nothing_of_ours_is_left(layout: str, hub: Hub, truss: Truss) -> None:
    upstream = OnHub(hub)
    upstream.put("main", FILES)
    other, third = beside(truss, "other"), beside(truss, "third")
    truss.config(entry(upstream, layout))
    other.config(entry(upstream, layout, allow_patterns='["1.bin", "2.bin"]'))
    third.config(entry(upstream, layout))
    for project in (truss, other, third):
        run(project)
    upstream.put("main", {**FILES, "1.bin": b"another"})
    run(other, "-a")
    for project in (truss, third, other):
        clean_tells(project)
    assert leftovers(truss) == []


def test_after_the_last_clean_of_a_bucket_and_a_folder_nothing_of_ours_is_left(
    on_gcs: GcsStore, on_disk: Store, truss: Truss
) -> None:
    for store in (on_gcs, on_disk):
        store.put("m/a.bin", b"a" * 1000)
        store.put("m/deep/er/b.bin", b"b" * 1000)
        store.give(truss)
    truss.config("model_cache:\n" + "".join(f"  - repo_id: {store.uri('m')}\n" for store in (on_gcs, on_disk)))
    mine = truss.model_cache / on_gcs.visible("m", "deep/mine.txt")
    run(truss)
    assert clean_tells(truss) == 4000
    assert leftovers(truss) == []
    run(truss)
    mine.write_bytes(b"a user's own")
    assert clean_tells(truss) == 4000
    assert tree(truss.model_cache) == {str(mine.relative_to(truss.model_cache)): b"a user's own"}
    assert not (truss.model_cache / ".truss_cache").exists()


def test_what_huggingface_hub_put_there_itself_is_all_that_stays(hub: Hub, truss: Truss) -> None:
    upstream = OnHub(hub)
    upstream.put("main", FILES)
    upstream.put("dev", {**FILES, "1.bin": BIG[:50_000]})
    download = "import sys; from huggingface_hub import snapshot_download as get\nget('org/name', revision=sys.argv[1])"
    done = truss.python(download, "main")
    assert done.code == 0, done.text
    theirs = {path: os.readlink(path) if path.is_symlink() else path.read_bytes() for path in links_and_files(truss)}
    truss.config(entry(upstream, "hub", revision="dev"))
    run(truss)
    truss.config(entry(upstream, "hub"))
    run(truss)
    assert clean_tells(truss) == 50_000, "the one file of dev that it did not have"
    now = {path: os.readlink(path) if path.is_symlink() else path.read_bytes() for path in links_and_files(truss)}
    assert now == theirs
    assert list(truss.hub_cache.rglob(".truss_cache")) == []


def links_and_files(truss: Truss) -> list[Path]:
    return [path for path in truss.hub_cache.rglob("*") if ".locks" not in path.parts and not path.is_dir()] + [
        path for path in truss.hub_cache.rglob("*") if path.is_symlink() and path.is_dir()
    ]


# What edits and changes upstream leave


def visible(folder: Path) -> int:
    return sum(map(len, tree(folder).values()))


@pytest.mark.parametrize("layout", ["bucket", "volume"])
def test_an_object_that_two_entries_share_leaves_no_copy_however_often_it_changes(
    layout: str, on_gcs: GcsStore, truss: Truss
) -> None:
    on_gcs.put("m/a.bin", b"a" * 500)
    on_gcs.give(truss)
    volume = "\n    use_volume: true\n    volume_folder: " if layout == "volume" else None
    outer, inner = (f"{volume}v", f"{volume}v/sub") if volume else ("", "")
    truss.config(f"model_cache:\n  - repo_id: {on_gcs.uri('m')}{outer}\n  - repo_id: {on_gcs.uri('m/sub')}{inner}\n")
    for number in range(3):
        on_gcs.put("m/sub/x.bin", b"%d" % number * (2000 + number))
        run(truss, *(["-a"] if number else []))
        assert truss.cli("why", "--check").code == 0
        assert weigh(truss.model_cache).most == visible(truss.model_cache) == 500 + 2000 + number
    assert clean_tells(truss) == 2502
    assert leftovers(truss) == []


def test_an_object_that_two_projects_share_leaves_no_copy_once_both_have_moved(on_gcs: GcsStore, truss: Truss) -> None:
    on_gcs.give(truss)
    other = beside(truss, "other")
    on_gcs.put("m/a.bin", b"a" * 500)
    truss.config(f"model_cache:\n  - repo_id: {on_gcs.uri('m')}\n")
    other.config(f"model_cache:\n  - repo_id: {on_gcs.uri('m')}\n    allow_patterns: ['x*']\n")
    for number in range(3):
        on_gcs.put("m/x.bin", b"%d" % number * (2000 + number))
        for project in (truss, other):
            run(project, *(["-a"] if number else []))
        assert [project.cli("why", "--check").code for project in (truss, other)] == [0, 0]
        assert weigh(truss.model_cache).most == visible(truss.model_cache) == 500 + 2000 + number
    clean_tells(truss)
    assert visible(truss.model_cache) == 2002
    clean_tells(other)
    assert leftovers(truss) == []


def test_every_blob_of_the_hub_cache_has_a_snapshot_however_often_a_repo_moves(hub: Hub, truss: Truss) -> None:
    upstream = OnHub(hub)
    entries = [f"  - repo_id: org/name\n    allow_patterns: ['{name}', 'both.bin']\n" for name in ("a.bin", "b.bin")]
    truss.config("model_cache:\n" + "".join(entries))
    for number in range(3):
        names = ("a.bin", "b.bin", "both.bin")
        upstream.put("main", {name: f"{name}{number}".encode() * 3000 for name in names})
        run(truss, *(["-a"] if number else []))
    repo = truss.hub_cache / "models--org--name"
    linked = {path.resolve().name for path in (repo / "snapshots").rglob("*.bin")}
    assert {path.name for path in (repo / "blobs").iterdir()} == linked
    clean_tells(truss)
    assert leftovers(truss) == []


def test_a_blob_that_is_committed_while_another_entry_looks_for_it_is_ours_for_both(
    hub: Hub, truss: ForkedTruss
) -> None:
    """One stops when it has found the blob, and no record of it; then the other records it, and takes its mark away."""
    upstream, other = OnHub(hub), beside(truss, "other")
    upstream.put("main", {name: name.encode() * 3000 for name in ("a.bin", "b.bin", "both.bin")})
    for project, name in ((truss, "a.bin"), (other, "b.bin")):
        project.config(f"model_cache:\n  - repo_id: org/name\n    allow_patterns: ['{name}', 'both.bin']\n")
    with upstream.held("b.bin") as hold, started(other) as child:
        wait_for(child, lambda: hold.is_asked() and any(truss.hub_cache.glob("*/blobs/*")))
        at_second_look = variables(truss.root, "stat=stop@2", only="/published/")
        one = truss.fork("run", **at_second_look)
        assert one.stops()
        hold.release()
        ran = end_of(child)
        assert ran.code == 0, ran.text
        one.go_on()
        assert one.end().code == 0
    clean_tells(other)
    clean_tells(truss)
    assert leftovers(truss) == []


@pytest.mark.parametrize("layout", ["hub", "mount"])
def test_a_life_of_edits_is_told_and_taken_to_the_last_byte(layout: str, hub: Hub, truss: Truss) -> None:
    upstream = OnHub(hub)
    upstream.put("main", FILES)
    upstream.put("dev", {**FILES, "1.bin": FILES["2.bin"], "2.bin": FILES["1.bin"], "new.bin": BIG[:70_000]})
    for fields in ({}, {"allow_patterns": '["1*", "2*"]'}, {"revision": "dev"}, {"revision": "dev", "ignore": 1}, {}):
        more = {name: value for name, value in fields.items() if name != "revision"}
        more = {"ignore_patterns": '["3*"]'} if "ignore" in more else more
        text = entry(upstream, layout, **more)
        if "revision" in fields:
            text = text.replace("@main", "@dev").replace("revision: main", "revision: dev")
            text += "    revision: dev\n" if layout == "hub" else ""
        truss.config(text)
        run(truss)
    upstream.put("main", {"1.bin": BIG[:90_000]})
    run(truss, "-a")
    clean_tells(truss)
    assert leftovers(truss) == []


def test_what_a_kill_left_while_a_blob_became_the_very_file_of_a_volume_goes_by_the_next_commit(
    hub: Hub, truss: ForkedTruss
) -> None:
    """The hub cache holds the bytes in a file of its own, as after a clean and a fetch of another project."""
    hub.create("org/name").commit({"big.bin": BIG[:30_000]})
    truss.config("model_cache:\n  - repo_id: org/name\n    use_volume: true\n    volume_folder: m\n")
    run(truss)
    (blob,) = truss.hub_cache.glob("*/blobs/*")
    copy = truss.root / "copy"
    copy.write_bytes(blob.read_bytes())
    copy.replace(blob)
    ran = truss.fork("run", "-a", **variables(truss.root, "rename=kill@1", only="/blobs/")).end()
    assert ran.code == -signal.SIGKILL
    run(truss, "-a")
    assert list(truss.root.glob("**/.truss_cache/partials/*")) == []
    run(truss, "clean")
    assert leftovers(truss) == []
