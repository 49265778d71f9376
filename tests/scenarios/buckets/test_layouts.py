"""Where bucket objects and local files turn up; boto3, google-cloud-storage and the disk say what they must be."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from servers.s3 import MOTO_PAGE
from trusses import Truss, tree

from scenarios.buckets.stores import Folder, GcsStore, S3Store, Store

NAMES = {
    "a.bin": b"a" * 70_000,
    "sub/deep/b.bin": b"b",
    "empty.txt": b"",
    "Ünïcode-日本.bin": b"u",
    "odd #%+ name&=?.txt": b"odd",
    "%41.txt": b"not an A",
}


def fill(store: Store, prefix: str = "m") -> dict[str, bytes]:
    """Put files of all kinds of names, a folder marker, and siblings that begin alike."""
    for path, data in NAMES.items():
        store.put(f"{prefix}/{path}", data)
    for sibling in (f"{prefix}-hf/x.bin", f"{prefix}2.bin", f"{prefix}0/y.bin"):
        store.put(sibling, b"sibling")
    if not isinstance(store, Folder):
        store.put(f"{prefix}/sub/", b"")
    return NAMES


def test_a_prefix_lands_at_bucket_and_full_key_as_the_vendors_client_has_it(bucket: Store, truss: Truss) -> None:
    fill(bucket)
    bucket.give(truss)
    truss.config(f"model_cache:\n  - repo_id: {bucket.uri('m')}\n")
    ran = truss.cli()
    assert ran.code == 0, ran
    there = bucket.objects("m")
    assert there.keys() == NAMES.keys()
    assert tree(truss.model_cache) == {bucket.visible("m", path): data for path, data in there.items()}
    assert "6 files" in ran.err
    assert "all verified" in ran.err
    assert ran.out == ""


def test_with_use_volume_a_prefix_lands_in_its_volume_folder(anywhere: Store, truss: Truss) -> None:
    fill(anywhere)
    anywhere.give(truss)
    truss.config(f"model_cache:\n  - repo_id: {anywhere.uri('m')}\n    use_volume: true\n    volume_folder: vol/one\n")
    ran = truss.doit("cache_weights")
    assert ran.code == 0, ran
    assert tree(truss.model_cache) == {f"vol/one/{path}": data for path, data in anywhere.objects("m").items()}


def test_weights_land_at_their_mount_location(anywhere: Store, truss: Truss) -> None:
    fill(anywhere)
    anywhere.give(truss)
    truss.config(
        f"weights:\n  - source: {anywhere.uri('m')}\n    mount_location: /models/one\n"
        f"    allow_patterns: ['*.bin', 'sub/**']\n"
    )
    ran = truss.cli()
    assert ran.code == 0, ran
    kept = {path: data for path, data in anywhere.objects("m").items() if path.endswith(".bin")}
    assert tree(truss.mounts) == {f"models/one/{path}": data for path, data in kept.items()}
    assert tree(truss.model_cache) == {}


def test_a_local_folder_lands_below_its_own_name(on_disk: Folder, truss: Truss) -> None:
    fill(on_disk)
    truss.config("model_cache:\n  - repo_id: file://../source/m\n")
    assert truss.cli().code == 0
    assert tree(truss.model_cache) == {f"m/{path}": data for path, data in NAMES.items()}


def test_an_absolute_path_and_one_file_are_local_sources_too(on_disk: Folder, truss: Truss) -> None:
    on_disk.put("m/a.bin", b"a")
    on_disk.put("one.bin", b"one")
    truss.config(f"model_cache:\n  - repo_id: file://{on_disk.root}/m\n  - repo_id: file://../source/one.bin\n")
    ran = truss.cli()
    assert ran.code == 0, ran
    assert tree(truss.model_cache) == {"m/a.bin": b"a", "one.bin": b"one"}


@pytest.mark.parametrize(
    ("store", "layout", "where"),
    [
        ("seaweed", "repo_id: {uri}", "model_cache/{visible}"),
        ("gcs", "repo_id: {uri}", "model_cache/{visible}"),
        ("gcs", "repo_id: {uri}\n    use_volume: true\n    volume_folder: vol", "model_cache/vol/a.bin"),
        ("gcs", "source: {uri}\n    mount_location: /mnt", "mounts/mnt/a.bin"),
    ],
)
def test_a_uri_of_one_object_is_that_one_file(
    request: pytest.FixtureRequest, truss: Truss, store: str, layout: str, where: str
) -> None:
    vendor: Store = request.getfixturevalue(f"on_{store}")
    vendor.put("m/a.bin", b"the one")
    vendor.put("m/a.bin.bak", b"another")
    vendor.give(truss)
    form = "weights" if "mount" in layout else "model_cache"
    truss.config(f"{form}:\n  - {layout.format(uri=vendor.uri('m/a.bin'))}\n")
    ran = truss.cli()
    assert ran.code == 0, ran
    found = {**{f"model_cache/{p}": d for p, d in tree(truss.model_cache).items()},
             **{f"mounts/{p}": d for p, d in tree(truss.mounts).items()}}  # fmt: skip
    assert found == {where.format(visible=vendor.visible("m", "a.bin")): b"the one"}


def test_an_object_and_a_prefix_of_one_name_is_the_prefix_and_says_so(vendor: Store, truss: Truss) -> None:
    vendor.put("m/sub/a.bin", b"a")
    vendor.put("m/sub", b"an object where others see a folder")
    vendor.give(truss)
    truss.config(f"model_cache:\n  - repo_id: {vendor.uri('m/sub')}\n")
    ran = truss.cli()
    assert ran.code == 0, ran
    assert tree(truss.model_cache) == {vendor.visible("m/sub", "a.bin"): b"a"}
    assert "is an object and a prefix" in ran.err


def test_a_whole_bucket_lands_below_its_name(on_gcs: GcsStore, truss: Truss) -> None:
    on_gcs.put("m/a.bin", b"a")
    on_gcs.put("b.bin", b"b")
    on_gcs.give(truss)
    truss.config(f"model_cache:\n  - repo_id: gs://{on_gcs.bucket}\n")
    assert truss.cli().code == 0
    below = f"{on_gcs.bucket}/{on_gcs.base}"
    assert tree(truss.model_cache) == {f"{below}/m/a.bin": b"a", f"{below}/b.bin": b"b"}


def test_2500_keys_are_listed_by_pages(on_gcs: GcsStore, truss: Truss) -> None:
    many_keys(on_gcs, 2500)
    on_gcs.give(truss)
    truss.config(f"model_cache:\n  - repo_id: {on_gcs.uri('m')}\n    allow_patterns: ['*99.bin']\n")
    with on_gcs.front.watching() as front:
        ran = truss.cli()
    assert ran.code == 0, ran
    assert front.kinds().count("list") == 3
    assert tree(truss.model_cache) == {on_gcs.visible("m", f"{n:04}.bin"): b"%d" % n for n in range(99, 2500, 100)}


def test_more_keys_of_s3_than_a_page_holds_are_listed(on_moto: S3Store, truss: Truss) -> None:
    count = 2 * MOTO_PAGE + 1
    many_keys(on_moto, count)
    on_moto.give(truss)
    truss.config(f"model_cache:\n  - repo_id: {on_moto.uri('m')}\n    allow_patterns: ['*99.bin']\n")
    ran = truss.cli()
    assert ran.code == 0, ran
    assert tree(truss.model_cache) == {on_moto.visible("m", f"{n:04}.bin"): b"%d" % n for n in range(99, count, 100)}


def many_keys(store: Store, count: int) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.put(f"m/{number:04}.bin", b"%d" % number), range(count)))
