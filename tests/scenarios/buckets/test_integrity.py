"""Promises 1, 4 and 6: wrong bytes never show, names cannot climb, and a failure leaves what was good before."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from servers.s3 import PartChecksums
from trusses import Truss, tree

from scenarios.buckets.stores import S3Store, Store, client_without_checksums, multipart

MIB = 1 << 20


def entry(store: Store, truss: Truss, fields: str = "") -> None:
    truss.config(f"model_cache:\n  - repo_id: {store.uri('m')}\n{fields}")


def manifests(truss: Truss) -> list[dict[str, Any]]:
    return [json.loads(path.read_bytes()) for path in (truss.model_cache / ".truss_cache/manifests").glob("*.json")]


def test_one_spoilt_answer_is_asked_for_again_and_two_are_an_error_that_shows_nothing(
    vendor: Store, truss: Truss
) -> None:
    vendor.put("m/a.bin", b"a" * 300_000)
    vendor.put("m/b.bin", b"b" * 1000)
    vendor.give(truss)
    entry(vendor, truss)
    with vendor.front.watching() as front:
        front.flips["a.bin"] = 9
        ran = truss.cli()
        assert front.fetched().count(f"{vendor.base}/m/a.bin") == 2
    assert ran.code == 1, ran
    assert "a.bin: got " in ran.err
    assert "hint: " in ran.err
    assert tree(truss.model_cache) == {}
    assert manifests(truss) == []
    with vendor.front.watching() as front:
        front.flips["a.bin"] = 1
        ran = truss.cli()
        assert front.fetched().count(f"{vendor.base}/m/b.bin") <= 1
    assert ran.code == 0, ran
    assert tree(truss.model_cache)[vendor.visible("m", "a.bin")] == b"a" * 300_000


def test_a_failed_refresh_leaves_the_earlier_state_whole(on_seaweed: Store, truss: Truss) -> None:
    for path in ("a.bin", "b.bin"):
        on_seaweed.put(f"m/{path}", b"old " + path.encode())
    on_seaweed.give(truss)
    entry(on_seaweed, truss)
    assert truss.cli().code == 0
    before = tree(truss.model_cache)
    for path in ("a.bin", "b.bin"):
        on_seaweed.put(f"m/{path}", b"new " + path.encode())
    with on_seaweed.front.watching() as front:
        front.flips["b.bin"] = 9
        assert truss.cli("run", "-a").code == 1
    assert tree(truss.model_cache) == before
    assert truss.cli("verify").code == 0
    with on_seaweed.front.watching() as front:
        assert truss.cli("run", "-a").code == 0
    assert set(tree(truss.model_cache).values()) == {b"new a.bin", b"new b.bin"}


@pytest.mark.parametrize(
    ("store", "key", "words"),
    [
        ("moto", "../climbed.bin", "outside this entry's folder"),
        ("gcs", "../climbed.bin", "outside this entry's folder"),
        ("gcs", "sub/../../climbed.bin", "outside this entry's folder"),
        ("gcs", "/absolute.bin", "outside this entry's folder"),
        ("moto", "a.bin/below.bin", "'a.bin' is a file"),
        ("gcs", "a.bin/below.bin", "'a.bin' is a file"),
        ("gcs", "p//a.bin", None),  # an empty component means nothing
    ],
)
def test_a_key_that_climbs_or_needs_a_folder_where_a_file_is_writes_nothing_outside(
    request: pytest.FixtureRequest, truss: Truss, store: str, key: str, words: str | None
) -> None:
    there: Store = request.getfixturevalue(f"on_{store}")
    there.put("m/a.bin", b"a")
    there.put(f"m/{key}", b"beware")
    there.give(truss)
    truss.config(f"model_cache:\n  - repo_id: {there.uri('m')}\n    use_volume: true\n    volume_folder: in/side\n")
    state = truss.root / "home" / ".local"  # where a run that comes through notes the roots that it used
    before = {path for path in truss.root.rglob("*") if truss.model_cache not in path.parents}
    ran = truss.cli()
    after = {path for path in truss.root.rglob("*") if truss.model_cache not in path.parents}
    notes = {path for path in after if words is None and state in (path, *path.parents)}
    assert after - before - notes <= {truss.model_cache}
    if words is None:
        assert ran.code == 0, ran
        assert tree(truss.model_cache) == {"in/side/a.bin": b"a", "in/side/p/a.bin": b"beware"}
        return
    assert ran.code == 1, ran
    assert words in ran.err
    assert tree(truss.model_cache) == {}
    entry(there, truss, f"    use_volume: true\n    volume_folder: in/side\n    ignore_patterns: ['{key}']\n")
    assert truss.cli().code == 0
    assert tree(truss.model_cache) == {"in/side/a.bin": b"a"}


def put_without_checksum(store: S3Store, key: str, data: bytes) -> str:
    """Upload as other tools do; return the ETag, the MD5 of `data`."""
    client = client_without_checksums(store)
    return str(client.put_object(Bucket=store.bucket, Key=f"{store.base}/{key}", Body=data)["ETag"]).strip('"')


def test_an_etag_that_is_no_md5_is_told_from_wrong_bytes_and_the_file_is_taken_where_the_user_says_so(
    on_seaweed: S3Store, truss: Truss
) -> None:
    data = random.Random(1).randbytes(300_000)
    etag = put_without_checksum(on_seaweed, "m/a.bin", data)
    on_seaweed.give(truss)
    entry(on_seaweed, truss)
    with on_seaweed.front.watching() as front:
        front.etags[etag] = "0" * 32
        ran = truss.cli()
        assert ran.code == 1, ran
        assert f"two fetches brought the same bytes, of md5 {etag}, expected md5 {'0' * 32} by the ETag" in ran.err
        assert "--accept-unverified" in ran.err
        assert ran.err.count("hint: ") == 1
        assert len(front.fetched()) == 2
        assert tree(truss.model_cache) == {}
        ran = truss.cli("run", "--accept-unverified")
        assert ran.code == 0, ran
        assert "a.bin: taken unverified" in ran.err
        assert list(tree(truss.model_cache).values()) == [data]
        (manifest,) = manifests(truss)
        assert [file["digest"] for file in manifest["files"]] == [""]
        asked = len(front.fetched())
        assert truss.cli("run").code == 0
        assert truss.cli("run", "-a").code == 0
        assert truss.cli("verify").code == 0
        assert len(front.fetched()) == asked


def test_a_real_checksum_is_never_given_up(on_seaweed: S3Store, truss: Truss) -> None:
    on_seaweed.put("m/a.bin", b"a" * 300_000, ChecksumAlgorithm="CRC32")
    on_seaweed.give(truss)
    entry(on_seaweed, truss)
    with on_seaweed.front.watching() as front:
        front.flips["a.bin"] = 9
        ran = truss.cli("run", "--accept-unverified")
    assert ran.code == 1, ran
    assert "a.bin: got crc32 " in ran.err
    assert tree(truss.model_cache) == {}


PARTS = [b"p" * (5 * MIB), b"q" * 1000]


def test_an_object_without_any_digest_is_said_to_be_unverified_everywhere(on_seaweed: S3Store, truss: Truss) -> None:
    multipart(on_seaweed, "m/parts.bin", PARTS, None)
    on_seaweed.put("m/a.bin", b"a")
    on_seaweed.give(truss)
    entry(on_seaweed, truss)
    with on_seaweed.front.watching() as front:
        front.refused["head"] = 403  # so that nobody knows the sizes of the parts, which the ETag is made of
        ran = truss.cli()
    assert ran.code == 0, ran
    assert "1 unverified" in ran.err
    (manifest,) = manifests(truss)
    assert manifest["unverified"] == 1
    assert {Path(f["path"]).name: f["digest"] == "" for f in manifest["files"]} == {"parts.bin": True, "a.bin": False}
    verify = truss.cli("verify")
    assert verify.code == 0
    assert "1 unverified by the store" in verify.out
    path = truss.model_cache / on_seaweed.visible("m", "parts.bin")
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert truss.cli("verify").code == 1  # our own hash still tells


@pytest.mark.parametrize("algorithm", ["SHA256", "CRC32", None])
def test_a_composite_checksum_is_verified(on_seaweed: S3Store, truss: Truss, algorithm: str | None) -> None:
    multipart(on_seaweed, "m/parts.bin", PARTS, algorithm)
    on_seaweed.give(truss)
    entry(on_seaweed, truss)
    name = (algorithm or "md5").lower()  # without a checksum there is the ETag, the MD5 of the parts' MD5s
    with on_seaweed.front.watching() as front:
        front.flips["parts.bin"] = 2
        ran = truss.cli()
    assert ran.code == 1
    assert f"{name} (composite of 2)" in ran.err
    assert tree(truss.model_cache) == {}
    ran = truss.cli()
    assert ran.code == 0, ran
    assert "all verified" in ran.err
    (manifest,) = manifests(truss)
    assert manifest["files"][0]["digest"].startswith(f"{name}-composite:")
    assert truss.cli("verify").code == 0


LARGE = [random.Random(number).randbytes(5 * MIB) for number in range(5)]  # comes in four parts, of 8 MiB at most


@pytest.mark.parametrize("store", ["seaweed", "moto"])
@pytest.mark.parametrize("algorithm", ["SHA256", "CRC32"])
def test_a_spoilt_part_comes_again_alone_where_the_store_tells_checksums_of_parts(
    request: pytest.FixtureRequest, truss: Truss, store: str, algorithm: str
) -> None:
    there: S3Store = request.getfixturevalue(f"on_{store}")
    told = PartChecksums(algorithm.lower(), multipart(there, "m/big.bin", LARGE, algorithm))
    there.give(truss)
    entry(there, truss)
    with there.front.watching() as front:
        front.parts, front.flips["big.bin"] = told, 99
        ran = truss.cli()
        assert front.kinds().count("get") == 8, "each part was spoilt, twice"
    assert ran.code == 1, ran
    assert f"big.bin: got {algorithm.lower()} " in ran.err
    assert " in bytes 0-5242879" in ran.err
    assert tree(truss.model_cache) == {}
    assert manifests(truss) == []
    there.put("m/big.bin", b"")  # another object: nothing of the first is of use
    multipart(there, "m/big.bin", LARGE[::-1], algorithm)
    with there.front.watching() as front:
        front.parts, front.flips["big.bin"] = PartChecksums(told.algorithm, told.values[::-1]), 1
        ran = truss.cli()
        assert front.kinds().count("get") in (5, 6), "a part of the store lies in one or two of ours"
    assert ran.code == 0, ran
    assert "all verified" in ran.err
    assert tree(truss.model_cache) == {there.visible("m", "big.bin"): b"".join(LARGE[::-1])}
    assert truss.cli("verify").code == 0


def test_an_object_replaced_after_it_was_listed_is_listed_anew(vendor: Store, truss: Truss) -> None:
    vendor.put("m/a.bin", b"older")
    vendor.give(truss)
    entry(vendor, truss)
    with vendor.front.watching() as front:

        def replace(asked: Any) -> None:
            if asked.kind == "get":
                front.before = lambda _asked: None
                vendor.put("m/a.bin", b"newer, and longer")

        front.before = replace
        ran = truss.cli()
    assert ran.code == 0, ran
    assert "listing it again" in ran.err
    assert tree(truss.model_cache) == {vendor.visible("m", "a.bin"): b"newer, and longer"}
