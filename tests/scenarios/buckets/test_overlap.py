"""Two entries, or two projects, at one path: the same object is no collision, other bytes are."""

from __future__ import annotations

import pytest
from trusses import BIN, Truss, tree

from scenarios.buckets.stores import GcsStore, Store


def two(first: str, second: str) -> str:
    return f"model_cache:\n  - {first}\n  - {second}\n"


def in_volume(store: Store, prefix: str, folder: str) -> str:
    return f"repo_id: {store.uri(prefix)}\n    use_volume: true\n    volume_folder: {folder}"


def nested(store: Store, truss: Truss, *, same: bool = False) -> None:
    """Two entries whose folders are one inside the other, and whose listings meet at vol/sub/x.bin."""
    store.put("m/sub/x.bin", b"one")
    store.put("m/a.bin", b"a")
    store.put("n/x.bin", b"one" if same else b"two")
    store.put("n/y.bin", b"y")
    store.give(truss)


def test_a_prefix_and_a_prefix_inside_it_share_their_objects(vendor: Store, truss: Truss) -> None:
    vendor.put("m/a.bin", b"a")
    vendor.put("m/sub/x.bin", b"x" * 500)
    vendor.give(truss)
    truss.config(two(f"repo_id: {vendor.uri('m')}", f"repo_id: {vendor.uri('m/sub')}"))
    with vendor.front.watching() as front:
        ran = truss.cli()
        assert ran.code == 0, ran
    assert [name.rpartition("/")[2] for name in front.fetched()] == ["a.bin", "x.bin"]
    assert truss.cli("why", "--check").code == 0
    ran = truss.cli("clean", vendor.name("m"))
    assert ran.code == 0, ran
    assert tree(truss.model_cache) == {vendor.visible("m", "sub/x.bin"): b"x" * 500}  # the other entry's still


def test_what_another_entry_commits_after_this_one_looked_for_it_is_not_fetched_again(
    on_gcs: GcsStore, truss: Truss
) -> None:
    on_gcs.put("m/sub/x.bin", b"x" * 500)
    on_gcs.give(truss)
    truss.config(two(f"repo_id: {on_gcs.uri('m')}", f"repo_id: {on_gcs.uri('m/sub')}"))
    fetch_meanwhile = """
        import subprocess, sys
        from truss_cache_tasks import fetch
        from truss_cache_tasks.events import Planned

        def fetch_the_other(event):
            if isinstance(event, Planned):
                assert event.missing_files == 1
                subprocess.run([sys.argv[2], "run", sys.argv[3]], check=True)

        result = fetch(names=[sys.argv[1]], reporter=fetch_the_other).entries[sys.argv[1]]
        assert (result.status, result.bytes_fetched) == ("fetched", 0), result
    """
    with on_gcs.front.watching() as front:
        ran = truss.python(fetch_meanwhile, on_gcs.name("m/sub"), str(BIN / "truss-cache"), on_gcs.name("m"))
        assert ran.code == 0, ran
    assert front.kinds().count("get") == 1


def test_of_one_object_seen_at_two_times_the_newer_wins_and_the_other_entry_is_put_right(
    vendor: Store, truss: Truss
) -> None:
    vendor.put("m/a.bin", b"a")
    vendor.put("m/sub/x.bin", b"older")
    vendor.give(truss)
    truss.config(f"model_cache:\n  - repo_id: {vendor.uri('m')}\n")
    assert truss.cli().code == 0
    vendor.put("m/sub/x.bin", b"newer")
    truss.config(two(f"repo_id: {vendor.uri('m')}", f"repo_id: {vendor.uri('m/sub')}"))
    ran = truss.cli("run", vendor.name("m/sub"))
    assert ran.code == 0, ran
    newer = {vendor.visible("m", "a.bin"): b"a", vendor.visible("m", "sub/x.bin"): b"newer"}
    assert tree(truss.model_cache) == newer
    why = truss.cli("why", vendor.name("m"), "--check")
    assert why.code == 1  # which of the two is the newer one, only a listing can tell
    assert "sub/x.bin is replaced by another entry" in why.out
    with vendor.front.watching() as front:
        ran = truss.cli()
    assert ran.code == 0, ran
    assert front.fetched() == []
    assert tree(truss.model_cache) == newer
    assert truss.cli("why", "--check").code == 0


@pytest.mark.parametrize("order", ["one after the other", "side by side"])
def test_other_bytes_at_one_path_fail_the_later_entry_and_publish_nothing_of_it(
    vendor: Store, truss: Truss, order: str
) -> None:
    nested(vendor, truss)
    first, second = in_volume(vendor, "m", "vol"), in_volume(vendor, "n", "vol/sub")
    if order == "one after the other":
        truss.config(f"model_cache:\n  - {first}\n")
        assert truss.cli().code == 0
    truss.config(two(first, second))
    ran = truss.cli()
    assert ran.code == 1, ran
    assert ran.err.count("hint: ") == 1
    assert "collides" in ran.err
    assert "vol/sub/x.bin" in ran.err
    for prefix in ("m", "n"):
        assert vendor.name(prefix) in ran.err
    whole = [
        {"vol/a.bin": b"a", "vol/sub/x.bin": b"one"},
        {"vol/sub/x.bin": b"two", "vol/sub/y.bin": b"y"},  # side by side, either may be the later one
    ]
    seen = tree(truss.model_cache)
    assert seen in (whole if order == "side by side" else whole[:1])
    assert truss.cli("why").out.count(": fresh") == 1


def test_the_same_bytes_from_two_objects_share_a_path(on_seaweed: Store, truss: Truss) -> None:
    nested(on_seaweed, truss, same=True)
    truss.config(two(in_volume(on_seaweed, "m", "vol"), in_volume(on_seaweed, "n", "vol/sub")))
    ran = truss.cli()
    assert ran.code == 0, ran
    assert tree(truss.model_cache) == {"vol/a.bin": b"a", "vol/sub/x.bin": b"one", "vol/sub/y.bin": b"y"}
    assert truss.cli("why", "--check").code == 0


def test_a_folder_of_one_entry_at_a_file_of_the_other_collides(on_gcs: Store, truss: Truss) -> None:
    on_gcs.put("m/sub", b"a file")
    on_gcs.put("n/x.bin", b"below a folder of that name")
    on_gcs.give(truss)
    truss.config(f"model_cache:\n  - {in_volume(on_gcs, 'm', 'vol')}\n")
    assert truss.cli().code == 0
    truss.config(two(in_volume(on_gcs, "m", "vol"), in_volume(on_gcs, "n", "vol/sub")))
    ran = truss.cli()
    assert ran.code == 1
    assert "collides" in ran.err
    assert tree(truss.model_cache) == {"vol/sub": b"a file"}


def test_mounts_one_inside_the_other_collide_too(on_gcs: GcsStore, truss: Truss) -> None:
    nested(on_gcs, truss)
    weights = "weights:\n  - source: {}\n    mount_location: /w\n"
    truss.config(weights.format(on_gcs.uri("m")))
    assert truss.cli().code == 0
    truss.config(weights.format(on_gcs.uri("m")) + f"  - source: {on_gcs.uri('n')}\n    mount_location: /w/sub\n")
    ran = truss.cli()
    assert ran.code == 1, ran
    assert "collides" in ran.err
    assert tree(truss.mounts) == {"w/a.bin": b"a", "w/sub/x.bin": b"one"}


def test_another_projects_file_is_replaced_and_that_project_is_told(on_gcs: Store, truss: Truss) -> None:
    on_gcs.put("m/a.bin", b"mine")
    on_gcs.put("n/a.bin", b"theirs, and longer")
    on_gcs.give(truss)
    truss.config(f"model_cache:\n  - {in_volume(on_gcs, 'm', 'vol')}\n")
    assert truss.cli(TRUSS_CACHE_PROJECT="mine").code == 0
    truss.config(f"model_cache:\n  - {in_volume(on_gcs, 'n', 'vol')}\n")
    assert truss.cli(TRUSS_CACHE_PROJECT="theirs").code == 0
    assert tree(truss.model_cache) == {"vol/a.bin": b"theirs, and longer"}
    truss.config(f"model_cache:\n  - {in_volume(on_gcs, 'm', 'vol')}\n")
    with on_gcs.front.watching() as front:
        assert "vol/a.bin is replaced by another entry" in truss.cli("why", TRUSS_CACHE_PROJECT="mine").out
        assert truss.cli(TRUSS_CACHE_PROJECT="mine").code == 0
    assert front.fetched() == []  # what was replaced is kept while somebody claims it
    assert tree(truss.model_cache) == {"vol/a.bin": b"mine"}


def test_two_local_folders_of_one_name_are_a_config_error(truss: Truss) -> None:
    for side in ("x", "y"):
        (truss.folder / side / "m").mkdir(parents=True)
        (truss.folder / side / "m" / "a.bin").write_text(side)
    truss.config(two("repo_id: file://x/m", "repo_id: file://y/m"))
    ran = truss.cli()
    assert ran.code == 3
    assert "config.yaml:3" in ran.err
    assert "line 2" in ran.err
