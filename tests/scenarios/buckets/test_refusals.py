"""What goes wrong at the store, on the way, on the disk: exit 1, one cause, one remedy, and the others are fetched."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fast_clock import FastClock
from servers.s3 import region_stub
from trusses import Ran, Truss, tree

from scenarios.buckets.stores import GcsStore, S3Store, Store


def beside_a_good_one(truss: Truss, bad: str) -> None:
    """An entry that cannot work, and a local one that can."""
    (truss.folder / "good").mkdir(exist_ok=True)
    (truss.folder / "good" / "g.bin").write_bytes(b"good")
    truss.config(f"model_cache:\n  - repo_id: {bad}\n  - repo_id: file://good\n")


def refused(ran: Ran, truss: Truss, *words: str) -> None:
    assert ran.code == 1, ran
    assert "Traceback" not in ran.text
    assert ran.err.count("hint: ") == 1, ran.err
    for word in words:
        assert word in ran.err, (word, ran.err)
    assert tree(truss.model_cache) == {"good/g.bin": b"good"}


def test_a_bucket_that_is_not_there_is_named(vendor: Store, truss: Truss) -> None:
    vendor.give(truss)
    beside_a_good_one(truss, vendor.uri("m").replace(vendor.bucket, vendor.missing_bucket))
    refused(truss.cli(), truss, "no-such-bucket-here", "bucket")


def test_a_prefix_with_nothing_says_so(vendor: Store, truss: Truss) -> None:
    vendor.put("m-hf/x.bin", b"sibling")
    vendor.give(truss)
    beside_a_good_one(truss, vendor.uri("m"))
    refused(truss.cli(), truss, vendor.name("m"), "has nothing at")


def test_a_prefix_with_folder_markers_alone_says_so(vendor: Store, truss: Truss) -> None:
    vendor.put("m/", b"")
    vendor.put("m/sub/", b"")
    vendor.give(truss)
    beside_a_good_one(truss, vendor.uri("m"))
    refused(truss.cli(), truss, "only folder markers")


def test_a_local_folder_that_is_missing_or_empty_is_named(truss: Truss) -> None:
    beside_a_good_one(truss, "file://nowhere/m")
    refused(truss.cli(), truss, "nowhere/m does not exist")
    (truss.folder / "nowhere" / "m").mkdir(parents=True)
    refused(truss.cli(), truss, "no file below")


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [("http://127.0.0.1:9", "127.0.0.1:9 cannot be reached"), ("http://no-such-host.invalid", "cannot be reached")],
)
def test_a_store_that_cannot_be_reached_is_named(
    truss: Truss, fast_clock: FastClock, endpoint: str, words: str
) -> None:
    beside_a_good_one(truss, "s3://b/m")
    truss.env["AWS_ENDPOINT_URL_S3"] = endpoint
    refused(truss.cli(**fast_clock(50)), truss, words, "(tried 8 times)")


def test_doit_stops_at_a_failed_entry_and_with_c_goes_on_to_the_others(on_gcs: GcsStore, truss: Truss) -> None:
    on_gcs.give(truss)
    beside_a_good_one(truss, on_gcs.uri("m"))
    ran = truss.doit("cache_weights")
    assert ran.code == 1, ran
    assert tree(truss.model_cache) == {}
    ran = truss.doit("-c", "cache_weights")
    assert ran.code == 2, ran
    assert tree(truss.model_cache) == {"good/g.bin": b"good"}
    assert "Traceback" not in ran.text
    assert "has nothing at" in ran.text


def test_a_bucket_in_another_region_is_followed_once(truss: Truss) -> None:
    listing = b"""<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated>
        <Contents><Key>m/a.bin</Key><Size>3</Size><ETag>"e"</ETag></Contents></ListBucketResult>"""
    with region_stub("eu-west-1", listing=listing, objects={"/far/m/a.bin": b"abc"}) as stub:
        truss.env.update(AWS_ENDPOINT_URL_S3=stub.url, AWS_ACCESS_KEY_ID="AK", AWS_SECRET_ACCESS_KEY="SK")
        truss.config("model_cache:\n  - repo_id: s3://far/m\n")
        ran = truss.cli()
    assert ran.code == 0, ran
    assert tree(truss.model_cache) == {"far/m/a.bin": b"abc"}
    wrong = [asked for asked in stub.asked if asked[0] != "eu-west-1"]
    assert len(wrong) <= 2  # each kind of call learns it once at the most


def test_both_regions_are_named_where_following_does_not_help(truss: Truss) -> None:
    beside_a_good_one(truss, "s3://far/m")
    with region_stub("moving") as stub:
        truss.env.update(AWS_ENDPOINT_URL_S3=stub.url, AWS_ACCESS_KEY_ID="AK", AWS_SECRET_ACCESS_KEY="SK")
        refused(truss.cli(), truss, "eu-west-", "following it once did not help")


# The disk


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A tmpfs at `folder`; skips where this user may not mount."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("may not mount a tmpfs here")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a disk of a size of its own; CI is root")
def test_too_small_a_disk_is_known_before_the_first_byte(on_seaweed: S3Store, truss: Truss) -> None:
    on_seaweed.put("m/big.bin", bytes(3_000_000))
    on_seaweed.put("m/small.bin", b"small")
    on_seaweed.give(truss)
    truss.config(f"model_cache:\n  - repo_id: {on_seaweed.uri('m')}\n")
    with mounted(truss.model_cache, "size=2m"):
        with on_seaweed.front.watching() as front:
            ran = truss.cli()
        assert ran.code == 1, ran
        assert "not enough space" in ran.err
        assert "3,000,005 bytes are to come" in ran.err
        assert front.fetched() == []
        subprocess.run(["mount", "-o", "remount,size=20m", truss.model_cache], check=True)
        assert truss.cli().code == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a disk of a size of its own; CI is root")
def test_a_cache_that_is_not_writable_is_known_before_anybody_is_asked(on_seaweed: S3Store, truss: Truss) -> None:
    on_seaweed.put("m/a.bin", b"a")
    on_seaweed.give(truss)
    truss.config(f"model_cache:\n  - repo_id: {on_seaweed.uri('m')}\n")
    with mounted(truss.model_cache, "ro"), on_seaweed.front.watching() as front:
        ran = truss.cli()
        assert front.asked == []
    assert ran.code == 1, ran
    assert f"{truss.model_cache} is not writable" in ran.err
    assert "TRUSS_MODEL_CACHE_DIR" in ran.err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a disk of a size of its own; CI is root")
def test_a_whole_cache_that_is_read_only_is_fresh_for_another_project_too(on_gcs: GcsStore, truss: Truss) -> None:
    on_gcs.put("m/a.bin", b"a")
    on_gcs.give(truss)
    truss.config(f"model_cache:\n  - repo_id: {on_gcs.uri('m')}\n")
    with mounted(truss.model_cache, "size=9m"):
        assert truss.cli().code == 0
        subprocess.run(["mount", "-o", "remount,ro", truss.model_cache], check=True)
        with on_gcs.front.watching() as front:
            assert truss.cli("why", "--check", TRUSS_CACHE_PROJECT="another").code == 0
            assert truss.doit("cache_weights", TRUSS_CACHE_PROJECT="another").code == 0
        assert front.asked == []


@pytest.mark.parametrize("what", ["the cache", "a folder in it"])
def test_a_file_where_a_folder_is_needed_is_named(on_gcs: GcsStore, truss: Truss, what: str) -> None:
    on_gcs.put("m/a.bin", b"a")
    on_gcs.give(truss)
    truss.config(f"model_cache:\n  - repo_id: {on_gcs.uri('m')}\n")
    blocking = truss.model_cache if what == "the cache" else truss.model_cache / on_gcs.bucket
    blocking.parent.mkdir(exist_ok=True)
    blocking.write_text("in the way")
    ran = truss.cli()
    assert ran.code == 1, ran
    assert str(blocking) in ran.err
    assert ran.err.count("hint: ") == 1
    assert blocking.read_text() == "in the way"


def test_a_folder_where_a_file_is_to_come_is_named(on_gcs: GcsStore, truss: Truss) -> None:
    on_gcs.put("m/a.bin", b"a")
    on_gcs.give(truss)
    truss.config(f"model_cache:\n  - repo_id: {on_gcs.uri('m')}\n")
    blocking = truss.model_cache / on_gcs.visible("m", "a.bin")
    blocking.mkdir(parents=True)
    (blocking / "mine.txt").write_text("a folder that holds nothing would make way")
    ran = truss.cli()
    assert ran.code == 1, ran
    assert ran.err.count("hint: ") == 1
    assert "a.bin" in ran.err
