"""A source that renames, swaps and reuses its file names: every path shows what the source has there."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from servers.hub import Hub
from trusses import Truss

from scenarios.cache.upstreams import LAYOUTS, OnHub, Upstream, beside, check, config, root_of, run, use_disk

# Of one size, and large enough for the Hub to keep them in LFS; the small ones are git blobs.
A, B, C, D = (random.Random(letter).randbytes(12_000) for letter in "ABCD")
a, b, c = b"small a", b"small b", b"small, and longer"

# name: (files before, files after). The folder of each is its own.
SHAPES: dict[str, tuple[dict[str, bytes], dict[str, bytes]]] = {
    "renamed, and new bytes under the old name": (
        {"model.safetensors": A},
        {"model.safetensors": B, "model_old.safetensors": A},
    ),
    "renamed to a name that sorts before": ({"z.bin": A}, {"a.bin": A, "z.bin": B}),
    "swapped": ({"one.bin": A, "two.bin": B}, {"one.bin": B, "two.bin": A}),
    "swapped, small": ({"one.txt": a, "two.txt": b}, {"one.txt": b, "two.txt": a}),
    "swapped, of two sizes": ({"one.txt": a, "two.txt": c}, {"one.txt": c, "two.txt": a}),
    "three in a ring": ({"1": A, "2": B, "3": C}, {"1": B, "2": C, "3": A}),
    "three in a ring, the other way": ({"1": A, "2": B, "3": C}, {"1": C, "2": A, "3": B}),
    "moved up a chain": ({"1": A, "2": B, "3": C}, {"1": D, "2": A, "3": B, "4": C}),
    "moved down a chain": ({"1": A, "2": B, "3": C}, {"1": B, "2": C, "3": D}),
    "swapped between folders": ({"x/w.bin": A, "y/w.bin": B, "w.bin": C}, {"x/w.bin": B, "y/w.bin": C, "w.bin": A}),
    "into a sub-folder, and new bytes": ({"w.bin": A, "c": a}, {"old/deep/w.bin": A, "w.bin": B, "c": b, "old/c": a}),
    "one of two copies changed": ({"p": A, "q": A}, {"p": B, "q": A, "r": B}),
    "two became one": ({"p": A, "q": B}, {"p": B, "q": B}),
}
# Only where the same entry moves: what an entry that is gone left may be a folder that stays.
TURNED = ({"x/w.bin": A, "y": B}, {"x": B, "y/w.bin": A})


def files_of(which: int) -> dict[str, bytes]:
    """Return the files before (0) or after (1) of all shapes, each in a folder of its own."""
    return {
        f"{number}/{path}": data
        for number, states in enumerate(SHAPES.values())
        for path, data in states[which].items()
    }


BEFORE, AFTER = files_of(0), files_of(1)


HUB = [("hub", "volume"), ("hub", "mount")]


@pytest.mark.parametrize(
    ("upstream", "layout"), [*HUB, ("moto", "volume"), ("gcs", "mount"), ("disk", "volume")], indirect=["upstream"]
)
def test_a_source_that_moves_shows_each_name_its_own_bytes(layout: str, upstream: Upstream, truss: Truss) -> None:
    upstream.give(truss)
    truss.config(config(layout, upstream.entry("main", layout, "m")))
    upstream.put("main", BEFORE | TURNED[0])
    run(truss)
    for files in (AFTER | TURNED[1], BEFORE) if isinstance(upstream, OnHub) else (AFTER | TURNED[1],):
        upstream.put("main", files)
        run(truss, "-a")
        check(truss, layout, {"m": files})


@pytest.mark.parametrize(("upstream", "layout"), [*HUB, ("gcs", "volume"), ("disk", "mount")], indirect=["upstream"])
def test_an_edit_to_another_version_and_its_undoing_show_each_name_its_own_bytes(
    layout: str, upstream: Upstream, truss: Truss
) -> None:
    """Of a Hub repo `revision` is edited, of a bucket the prefix, which makes it another entry."""
    upstream.give(truss)
    upstream.put("v1", BEFORE)
    upstream.put("v2", AFTER)
    for version, files in (("v1", BEFORE), ("v2", AFTER), ("v1", BEFORE)):
        truss.config(config(layout, upstream.entry(version, layout, "m")))
        run(truss)
        check(truss, layout, {"m": files}, more=not isinstance(upstream, OnHub))


@pytest.mark.parametrize(
    ("upstream", "layout", "command"),
    [
        ("hub", "volume", "truss-cache"),
        ("hub", "mount", "doit"),
        ("disk", "volume", "truss-cache"),
    ],
    indirect=["upstream"],
)
def test_two_entries_that_swap_their_versions_show_each_its_own(
    command: str, layout: str, upstream: Upstream, truss: Truss
) -> None:
    """The names of entries go with their versions, so that one is gone each time, and what it left may stay."""
    upstream.give(truss)
    upstream.put("v1", BEFORE)
    upstream.put("v2", AFTER)
    for one, two in (("v1", "v2"), ("v2", "v1"), ("v1", "v2")):
        truss.config(config(layout, upstream.entry(one, layout, "one"), upstream.entry(two, layout, "two")))
        ran = truss.cli() if command == "truss-cache" else truss.doit("cache_weights")
        assert ran.code == 0, ran
        states = {"v1": BEFORE, "v2": AFTER}
        check(truss, layout, {"one": states[one], "two": states[two]}, more=True)


def test_a_moving_repo_whose_hub_cache_is_on_another_disk_shows_each_name_its_own_bytes(
    hub: Hub, truss: Truss, other_disk: Path
) -> None:
    upstream = OnHub(hub)
    upstream.give(truss)
    use_disk(truss, other_disk)
    truss.config(config("mount", upstream.entry("main", "mount", "m")))
    upstream.put("main", BEFORE)
    run(truss)
    for files in (AFTER, BEFORE):
        upstream.put("main", files)
        run(truss, "-a")
        check(truss, "mount", {"m": files})


def test_full_commits_as_revisions_show_each_name_its_own_bytes(hub: Hub, truss: Truss) -> None:
    """They need no pin, and no ref tells of them."""
    upstream = OnHub(hub)
    upstream.put("v1", BEFORE)
    upstream.put("v2", AFTER)
    one, two = (hub.repos[upstream.name].resolve(version) for version in ("v1", "v2"))
    for commit, files in ((one, BEFORE), (two, AFTER), (one, BEFORE)):
        assert commit is not None
        truss.config(config("mount", upstream.entry(commit, "mount", "m")))
        run(truss)
        check(truss, "mount", {"m": files})


# Files of one size and one time: of one tick of the kernel's clock, or of an image whose times are all set to one


def at_one_time(truss: Truss, layout: str) -> None:
    """Give every visible file the same mtime, and let a run hash and record them so."""
    for path in (root_of(truss, layout) / "m").rglob("*"):
        if path.is_file():
            os.utime(path, ns=(10**18 + 5, 10**18 + 5))
    run(truss)


@pytest.mark.parametrize(
    ("upstream", "layout"), [("hub", "volume"), ("hub", "mount"), ("disk", "volume")], indirect=["upstream"]
)
def test_an_edit_is_undone_right_where_size_and_time_tell_no_file_from_another(
    layout: str, upstream: Upstream, truss: Truss
) -> None:
    upstream.give(truss)
    for version, files in (("v1", BEFORE), ("v2", AFTER)):
        upstream.put(version, files)
        truss.config(config(layout, upstream.entry(version, layout, "m")))
        run(truss)
        at_one_time(truss, layout)
        check(truss, layout, {"m": files}, more=not isinstance(upstream, OnHub))
    truss.config(config(layout, upstream.entry("v1", layout, "m")))
    run(truss)
    check(truss, layout, {"m": BEFORE}, more=not isinstance(upstream, OnHub))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_projects_version_passes_for_ours_nowhere_though_size_and_time_are_equal(
    layout: str, hub: Hub, truss: Truss
) -> None:
    upstream, other = OnHub(hub), beside(truss, "other")
    for version, files, project in (("v1", BEFORE, truss), ("v2", AFTER, other)):
        upstream.put(version, files)
        project.config(config(layout, upstream.entry(version, layout, "m")))
        run(project)
        at_one_time(project, layout)
    check(other, layout, {"m": AFTER}, more=True)
    assert "stale" in truss.cli("why").out
    run(truss)
    check(truss, layout, {"m": BEFORE}, more=True)
