"""What happens on the disk between a look and its use: another project's commit, its clean, a user's own hand."""

from __future__ import annotations

import contextlib
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from odd_disk import variables
from servers.hub import Hub
from trusses import Truss, tree

from scenarios.buckets.stores import Store
from scenarios.cache.forks import ForkedTruss
from scenarios.cache.moments import RootLock, end_of, go_on, is_locked, started, stop, wait_for
from scenarios.cache.upstreams import OnHub, OnStore, Upstream, beside, check, config, root_of, run

V1, V2, BIG = (random.Random(name).randbytes(size) for name, size in (("1", 15_000), ("2", 20_000), ("b", 60_000)))
SHARED = {"allow_patterns": '["shared.bin"]'}


def judged_right(truss: Truss) -> bool:
    """Whether the entry passes for fresh. If so, its bytes must be those of its manifest."""
    fresh = truss.cli("why").out.count(": fresh\n") == 1
    verified = truss.cli("verify")
    assert verified.code == 0 or not fresh, verified.text
    return fresh


@pytest.mark.parametrize(
    ("upstream", "layout"),
    [("hub", "volume"), ("hub", "mount"), ("moto", "volume"), ("gcs", "mount")],
    indirect=["upstream"],
)
def test_a_file_that_another_project_replaces_while_we_download_passes_for_no_other(
    layout: str, upstream: Upstream, truss: Truss
) -> None:
    """A holds shared.bin of the first version, and still downloads; B shows the second one at the same path."""
    upstream.give(truss)
    upstream.put("one", {"shared.bin": V1, "big.bin": BIG})
    truss.config(config(layout, upstream.entry("one", layout, "m", **SHARED)))
    run(truss)
    truss.config(config(layout, upstream.entry("one", layout, "m")))
    other = beside(truss, "other")
    with upstream.held("big.bin") as hold, started(truss) as child:
        wait_for(child, hold.is_asked)
        newer = "one" if isinstance(upstream, OnStore) else "two"  # the very object, or the file of another branch
        upstream.put(newer, {"shared.bin": V2, "big.bin": BIG})
        other.config(config(layout, upstream.entry(newer, layout, "m", allow_patterns='["s*.bin"]')))
        run(other)
        assert tree(root_of(truss, layout) / "m") == {"shared.bin": V2}
        hold.release()
        ran = end_of(child)
    assert ran.code == 0, ran.text
    shown = tree(root_of(truss, layout) / "m")
    assert shown["big.bin"] == BIG
    assert shown["shared.bin"] in (V1, V2)
    assert any([judged_right(truss), judged_right(other)]), "one of the two has its bytes there"
    for project, versions in ((other, [V2]), (truss, [V1, V2])):
        run(project)
        assert judged_right(project)
        assert tree(root_of(truss, layout) / "m")["shared.bin"] in versions
    if isinstance(upstream, OnStore):  # and back to the first version: a third one gets that
        upstream.put("one", {"shared.bin": V1})
        third = beside(truss, "third")
        third.config(config(layout, upstream.entry("one", layout, "m", **SHARED)))
        run(third, "-a")
        check(third, layout, {"m": {"shared.bin": V1}}, more=True)


def another_file(path: Path) -> None:
    """Another file of the same size and time."""
    stat = path.stat()
    new = path.with_name("new")
    new.write_bytes(bytes(stat.st_size))
    os.utime(new, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    new.replace(path)


def written_over(path: Path) -> None:
    """The same file, other bytes, the same size."""
    with open(path, "r+b") as out:
        out.write(bytes(path.stat().st_size))


@pytest.mark.parametrize("layout", ["hub", "volume", "mount"])
@pytest.mark.parametrize("act", [another_file, written_over, Path.unlink])
def test_a_file_that_is_changed_by_hand_while_we_download_is_not_shown_as_good(
    act: Callable[[Path], object], layout: str, hub: Hub, truss: Truss
) -> None:
    upstream = OnHub(hub)
    upstream.put("main", {"shared.bin": V1, "big.bin": BIG})

    def entry(**fields: object) -> str:
        text = upstream.entry("main", layout, "m", **fields)
        return text if layout != "hub" else text.replace("    use_volume: true\n    volume_folder: m\n", "")

    truss.config(config(layout, entry(**SHARED)))
    run(truss)
    truss.config(config(layout, entry()))
    with upstream.held("big.bin") as hold, started(truss) as child:
        wait_for(child, hold.is_asked)
        if layout == "hub":
            (shown,) = truss.hub_cache.glob("*/snapshots/*/shared.bin")
        else:
            shown = root_of(truss, layout) / "m" / "shared.bin"
        act(shown.resolve())
        hold.release()
        ran = end_of(child)
    assert ran.code == 0, ran.text
    if layout == "hub":
        (folder,) = truss.hub_cache.glob("*/snapshots/*")
        assert tree(folder) == {"shared.bin": V1, "big.bin": BIG}
        check(truss, layout, {})
    else:
        check(truss, layout, {"m": {"shared.bin": V1, "big.bin": BIG}})


# What a clean, or an edit, of another project takes away


def whole(upstream: OnHub, layout: str, **fields: object) -> str:
    if layout != "hub":
        return config(layout, upstream.entry("main", layout, "m", **fields))
    patterns = "".join(f"    {name}: {value}\n" for name, value in fields.items())
    return f"model_cache:\n  - repo_id: {upstream.name}\n{patterns}"


def cache_root(truss: Truss, layout: str) -> Path:
    if layout == "hub":
        return truss.hub_cache / "models--org--name"
    return truss.mounts / "m" if layout == "mount" else truss.model_cache


FILES = {f"{number}.bin": b"%d" % number for number in range(20)} | {"large.bin": BIG}


def clean(truss: Truss, layout: str, upstream: OnHub) -> None:
    run(truss, "clean")


def narrow(truss: Truss, layout: str, upstream: OnHub) -> None:
    truss.config(whole(upstream, layout, allow_patterns='["large.bin"]'))
    run(truss)


@pytest.mark.parametrize(
    ("layout", "patterns", "act"),
    [
        ("hub", {}, clean),
        ("volume", {}, clean),
        ("mount", {}, clean),
        ("volume", {"allow_patterns": '["*.bin"]', "ignore_patterns": '["1*"]'}, clean),
        ("hub", {}, narrow),
        ("volume", {}, narrow),
    ],
)
def test_what_another_project_takes_away_before_we_claim_it_is_brought_again(
    layout: str,
    patterns: dict[str, str],
    act: Callable[[Truss, str, OnHub], None],
    hub: Hub,
    truss: Truss,
) -> None:
    """The decision to claim stands already, and the lock under which it is written is not yet taken."""
    upstream = OnHub(hub)
    upstream.put("main", FILES)
    truss.config(whole(upstream, layout))
    run(truss)
    other = beside(truss, "other")
    other.config(whole(upstream, layout, **patterns))
    with contextlib.ExitStack() as stack:
        with RootLock(cache_root(truss, layout)) as lock:
            child = stack.enter_context(started(other))
            lock.wait_for_visitor()
            stop(child)
        act(truss, layout, upstream)
        go_on(child)
        ran = end_of(child)
    assert ran.code == 0, ran.text
    wanted = {path: data for path, data in FILES.items() if not (patterns and path.startswith("1"))}
    if layout == "hub":
        (folder,) = truss.hub_cache.glob("*/snapshots/*")
        assert tree(folder) == wanted
        check(other, layout, {})
    else:
        check(other, layout, {"m": wanted})


# What another project brings while we look for it is not fetched again


def test_a_commit_while_we_try_a_hard_link_does_not_keep_us_from_sharing_bytes_with_the_hub_cache(
    hub: Hub, truss: ForkedTruss
) -> None:
    hub.create("org/name").commit({"big.bin": BIG})
    truss.config("model_cache:\n  - repo_id: org/name\n    use_volume: true\n    volume_folder: m\n")
    other = beside(truss, "other")
    other.config("model_cache:\n  - repo_id: org/name\n")
    one = truss.fork("run", **variables(truss.root, "link=stop@1", only="/partials/link."))
    assert one.stops()
    if not is_locked(truss.hub_cache / "models--org--name"):  # else the commit waits for the lock
        run(other)
    one.go_on()
    ran = one.end()
    assert ran.code == 0, ran.text
    run(other)
    assert [r.path for r in hub.requests if r.host == "hub" and r.path.endswith("/big.bin")] == [
        f"/org/name/resolve/{hub.repos['org/name'].resolve('main')}/big.bin"
    ]
    (blob,) = truss.hub_cache.glob("*/blobs/*")
    assert (truss.model_cache / "m" / "big.bin").samefile(blob)


def test_files_that_one_commit_of_another_project_brought_are_not_fetched_again(
    on_moto: Store, truss: ForkedTruss
) -> None:
    upstream = OnStore(on_moto)
    upstream.give(truss)
    upstream.put("main", {"one.bin": V1, "two.bin": V2})
    truss.config(config("volume", upstream.entry("main", "volume", "a")))
    other = beside(truss, "other")
    other.config(config("volume", upstream.entry("main", "volume", "b")))
    with on_moto.front.watching() as front, contextlib.ExitStack() as stack:
        with RootLock(truss.model_cache) as lock:
            child = stack.enter_context(started(other))
            lock.wait_for_visitor()  # it has looked for the files, and is about to note which are missing
            stop(child)
        run(truss)
        go_on(child)
        ran = end_of(child)
        assert ran.code == 0, ran.text
        assert len(front.fetched()) == 2, front.fetched()


# Records that an older version wrote


def test_a_record_that_tells_the_size_of_other_bytes_is_not_believed(on_moto: Store, truss: Truss) -> None:
    """What an older version wrote where two projects met: the digest of one file over the bytes of another."""
    upstream = OnStore(on_moto)
    upstream.give(truss)
    upstream.put("main", {"w.bin": V1, "x.bin": b"x"})
    truss.config(config("volume", upstream.entry("main", "volume", "m")))
    run(truss)
    shown = truss.model_cache / "m" / "w.bin"
    shown.unlink()
    shown.write_bytes(V2)
    (path,) = truss.model_cache.glob(".truss_cache/manifests/*.json")
    manifest = json.loads(path.read_text())
    (record,) = [record for record in manifest["files"] if record["path"] == "m/w.bin"]
    record |= {"size": len(V2), "mtime_ns": shown.stat().st_mtime_ns}
    path.write_text(json.dumps(manifest))
    other = beside(truss, "other")
    other.config(config("volume", upstream.entry("main", "volume", "elsewhere")))
    run(other)
    check(other, "volume", {"elsewhere": {"w.bin": V1, "x.bin": b"x"}})
    verified = truss.cli("verify")
    assert verified.code == 1
    hint = next(line for line in verified.err.splitlines() if line.startswith("hint: "))
    run(truss, *(["-a"] if "-a" in hint.replace("`", " ").split() else []))  # as the hint says
    check(truss, "volume", {"m": {"w.bin": V1, "x.bin": b"x"}})
