"""`model_cache.lock` of buckets and folders: replaced objects, versions, digests, and what is asked of the store."""

from __future__ import annotations

import gzip
import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from in_process import Cli, cli
from servers.gcs import Gcs
from servers.s3 import S3Server
from servers.shelf import SHELF, Shelf
from trusses import Ran, Truss, tree

from scenarios.buckets.front import Front
from scenarios.buckets.stores import Folder, GcsStore, S3Store, Store, multipart, own_prefix
from truss_cache_tasks.model.stores import registered

__all__ = ["cli"]
FILES = {"a.bin": b"a" * 3_000, "sub/b.bin": b"b" * 2_000}


@pytest.fixture
def versioned_s3(moto: S3Server, before_moto: Front) -> S3Store:
    bucket = f"versions-{uuid.uuid4().hex[:12]}"
    client = moto.client()
    client.create_bucket(Bucket=bucket)
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    return S3Store(before_moto, bucket, own_prefix(), moto)


@pytest.fixture
def versioned_gcs(gcs: Gcs, before_gcs: Front) -> GcsStore:
    return GcsStore(before_gcs, gcs.bucket(f"b-{uuid.uuid4().hex[:12]}", versions=True), own_prefix(), gcs)


@pytest.fixture(params=["s3", "gcs"])
def versioned(request: pytest.FixtureRequest) -> Store:
    store: Store = request.getfixturevalue(f"versioned_{request.param}")
    return store


@pytest.fixture(params=["gcs", "disk"])
def either(request: pytest.FixtureRequest) -> Store:
    """A store that tells its digests in the listing, and one that has none."""
    store: Store = request.getfixturevalue(f"on_{request.param}")
    return store


def given(truss: Truss, store: Store, files: dict[str, bytes] = FILES, who: str = "ro") -> None:
    """Put the files, and write a config with one entry that has them all."""
    for path, data in files.items():
        store.put(f"m/{path}", data)
    if not isinstance(store, Folder):
        store.give(truss, who)
    truss.config(f"model_cache:\n  - repo_id: {store.uri('m')}\n")


def done(ran: Ran) -> Ran:
    assert ran.code == 0, ran
    return ran


def locked(truss: Truss) -> dict[str, dict[str, Any]]:
    """Return the lines of the lock file, by path."""
    (entry,) = json.loads((truss.folder / "model_cache.lock").read_text())["entries"]
    return {file["path"]: file for file in entry["files"]}


def shown(truss: Truss, store: Store) -> dict[str, bytes]:
    return tree(truss.model_cache / store.visible("m", ""))


def test_a_lock_is_made_without_reading_a_byte_and_an_empty_cache_needs_no_listing(
    cli: Cli, truss: Truss, vendor: Store
) -> None:
    given(truss, vendor)
    vendor.front.asked.clear()
    done(cli("lock"))
    assert "get" not in vendor.front.kinds()
    vendor.front.asked.clear()
    done(cli(TRUSS_CACHE_LOCKED="1"))
    listings = ["list"] if vendor.scheme == "s3" else []  # S3: one page of one object, which finds the bucket's region
    assert sorted(set(vendor.front.kinds())) == sorted({*listings, "get"})
    assert vendor.front.kinds().count("list") == len(listings)
    assert shown(truss, vendor) == FILES
    vendor.front.asked.clear()
    done(cli())
    done(cli("-a"))
    assert vendor.front.asked == []
    assert done(cli("why", "--check")).out.endswith(": fresh\n")


def test_a_lock_of_what_is_here_is_that_of_the_store(cli: Cli, truss: Truss, vendor: Store) -> None:
    given(truss, vendor)
    done(cli("lock"))
    asked = (truss.folder / "model_cache.lock").read_text()
    (truss.folder / "model_cache.lock").unlink()
    done(cli())
    done(cli("lock"))
    assert (truss.folder / "model_cache.lock").read_text() == asked


def test_an_object_that_was_replaced_is_an_error_with_both_digests(cli: Cli, truss: Truss, anywhere: Store) -> None:
    given(truss, anywhere)
    done(cli("lock"))
    before = locked(truss)["a.bin"]["digest"]
    anywhere.put("m/a.bin", b"A" * 3_000)
    ran = cli()
    assert ran.code == 1, ran
    assert shown(truss, anywhere) == {}
    assert "a.bin: the store has " in ran.text
    assert before in ran.text
    assert "Traceback" not in ran.text
    done(cli("lock", "--upgrade"))
    assert locked(truss)["a.bin"]["digest"] in ran.text
    done(cli())
    assert shown(truss, anywhere)["a.bin"] == b"A" * 3_000


def test_an_object_that_was_deleted_is_an_error_that_names_its_digest(cli: Cli, truss: Truss, either: Store) -> None:
    given(truss, either)
    done(cli("lock"))
    either.delete("m/a.bin")
    ran = cli()
    assert ran.code == 1, ran
    assert f"a.bin: the store has no such file, expected {locked(truss)['a.bin']['digest']}" in ran.err
    assert shown(truss, either) == {}


def test_a_replaced_object_does_not_touch_what_is_cached(cli: Cli, truss: Truss, either: Store) -> None:
    given(truss, either)
    done(cli("lock"))
    done(cli())
    either.put("m/a.bin", b"A" * 3_000)
    assert "fresh" in done(cli()).err
    again = cli("-a")
    if isinstance(either, Folder):  # whose versions are those of this machine: it is read again
        assert again.code == 1, again
    else:
        done(again)
    assert shown(truss, either) == FILES


def test_equal_bytes_that_were_uploaded_again_are_the_locked_ones(cli: Cli, truss: Truss, anywhere: Store) -> None:
    given(truss, anywhere)
    done(cli("lock"))
    text = (truss.folder / "model_cache.lock").read_text()
    for path, data in FILES.items():
        anywhere.put(f"m/{path}", data)
    done(cli())
    assert shown(truss, anywhere) == FILES
    assert done(cli("why", "--check")).out.endswith(": fresh\n")
    assert done(cli("lock", "--check", "--remote")).out.endswith(": unchanged\n")
    assert (truss.folder / "model_cache.lock").read_text() == text


def test_a_bucket_that_keeps_versions_still_gives_what_was_replaced_and_deleted(
    cli: Cli, truss: Truss, versioned: Store
) -> None:
    given(truss, versioned, who="admin" if isinstance(versioned, S3Store) else "ro")
    done(cli("lock"))
    versioned.put("m/a.bin", b"replaced")
    versioned.delete("m/sub/b.bin")
    versioned.put("m/new.bin", b"new")
    done(cli())
    assert shown(truss, versioned) == FILES
    remote = cli("lock", "--check", "--remote")
    assert remote.code == 1, remote
    assert remote.out.endswith(": 1 file changed, 1 new, 1 gone, 11 B to fetch\n")


def test_a_change_of_one_file_is_a_diff_of_one_line(cli: Cli, truss: Truss, either: Store) -> None:
    given(truss, either)
    done(cli("lock"))
    before = (truss.folder / "model_cache.lock").read_text().splitlines()
    either.put("m/a.bin", b"A" * 3_000)
    done(cli("lock", "--upgrade"))
    after = (truss.folder / "model_cache.lock").read_text().splitlines()
    assert len(before) == len(after)
    assert [line for line in after if line not in before] == [
        after[before.index(next(line for line in before if line not in after))]
    ]


def test_a_lock_that_names_another_digest_makes_the_entry_stale_by_name(cli: Cli, truss: Truss, either: Store) -> None:
    given(truss, either)
    done(cli("lock"))
    done(cli())
    either.put("m/a.bin", b"A" * 3_000)
    old = locked(truss)["a.bin"]["digest"]
    done(cli("lock", "--upgrade"))
    new = locked(truss)["a.bin"]["digest"]
    why = done(cli("why"))
    assert f"model_cache.lock: a.bin: {old} -> {new}\n" in why.out
    done(cli())
    assert shown(truss, either)["a.bin"] == b"A" * 3_000


def test_widened_patterns_take_known_files_from_the_lock_and_new_ones_from_the_bucket(
    cli: Cli, truss: Truss, versioned_gcs: GcsStore
) -> None:
    given(truss, versioned_gcs)
    truss.config(f"model_cache:\n  - repo_id: {versioned_gcs.uri('m')}\n    allow_patterns: ['*.bin']\n")
    done(cli("lock"))
    versioned_gcs.put("m/a.bin", b"replaced")
    versioned_gcs.put("m/c.json", b"{}")
    truss.config(f"model_cache:\n  - repo_id: {versioned_gcs.uri('m')}\n")
    ran = done(cli())
    assert "model_cache.lock: 1 entry is not in it" in ran.err
    assert shown(truss, versioned_gcs) == {**FILES, "c.json": b"{}"}
    done(cli("lock"))
    assert cli("lock", "--check").code == 0


def test_a_composite_checksum_is_locked_and_compared(cli: Cli, truss: Truss, on_moto: S3Store) -> None:
    on_moto.give(truss)
    parts = [b"x" * (5 << 20), b"y" * 1000]
    multipart(on_moto, "m/a.bin", parts, "SHA256")
    truss.config(f"model_cache:\n  - repo_id: {on_moto.uri('m')}\n")
    done(cli("lock"))
    assert locked(truss)["a.bin"]["digest"].startswith("sha256-composite:")
    done(cli())
    assert shown(truss, on_moto) == {"a.bin": b"".join(parts)}
    multipart(on_moto, "m/a.bin", [parts[0], b"z" * 1000], "SHA256")
    done(cli("clean"))
    ran = cli()
    assert ran.code == 1, ran
    assert ran.err.count("sha256-composite:") == 2, ran


def test_an_object_that_is_stored_as_gzip_is_locked_as_it_is_stored(cli: Cli, truss: Truss, on_gcs: GcsStore) -> None:
    given(truss, on_gcs)
    stored = gzip.compress(b"decoded " * 100, mtime=0)
    on_gcs.gcs.put(on_gcs.bucket, f"{on_gcs.base}/m/z.json", stored, encoding="gzip")
    done(cli("lock"))
    line = locked(truss)["z.json"]
    assert (line["size"], line["encoding"], line["digest"].split(":")[0]) == (len(stored), "gzip", "crc32c-gzip")
    done(cli())
    assert shown(truss, on_gcs)["z.json"] == b"decoded " * 100
    assert done(cli("why", "--check")).out.endswith(": fresh\n")
    text = (truss.folder / "model_cache.lock").read_text()
    (truss.folder / "model_cache.lock").unlink()
    done(cli("lock"))
    assert (truss.folder / "model_cache.lock").read_text() == text


def test_a_single_object_is_locked(cli: Cli, truss: Truss, vendor: Store) -> None:
    vendor.put("m/a.bin", b"one")
    vendor.give(truss)
    truss.config(f"model_cache:\n  - repo_id: {vendor.uri('m')}/a.bin\n    allow_patterns: ['a.*']\n")
    done(cli("lock"))
    text = (truss.folder / "model_cache.lock").read_text()
    done(cli())
    assert shown(truss, vendor) == {"a.bin": b"one"}
    (truss.folder / "model_cache.lock").unlink()
    done(cli("lock"))
    assert (truss.folder / "model_cache.lock").read_text() == text
    assert done(cli("why", "--check")).out.endswith(": fresh\n")


def test_a_file_of_another_machine_is_told_by_our_own_digest(
    cli: Cli, truss: Truss, on_disk: Folder, tmp_path: Path
) -> None:
    given(truss, on_disk)
    done(cli("lock"))
    assert {path: (line["digest"].split(":")[0], "version" in line) for path, line in locked(truss).items()} == {
        "a.bin": ("xxh3-128", False),
        "sub/b.bin": ("xxh3-128", False),
    }
    other = Truss(tmp_path / "other")
    for path, data in FILES.items():
        Folder(on_disk.front, "", "", tmp_path / "other" / "source").put(f"m/{path}", data)
    other.config((truss.folder / "config.yaml").read_text())
    (other.folder / "model_cache.lock").write_text((truss.folder / "model_cache.lock").read_text())
    done(other.cli(TRUSS_CACHE_LOCKED="1"))
    assert shown(other, on_disk) == FILES


def test_no_secret_and_no_url_is_in_the_lock(cli: Cli, truss: Truss, vendor: Store) -> None:
    given(truss, vendor)
    done(cli("lock"))
    text = (truss.folder / "model_cache.lock").read_text()
    assert not [secret for secret in vendor.secrets() if secret in text]
    assert vendor.front.url not in text


def test_a_store_of_another_package_is_locked_by_its_digests(cli: Cli, truss: Truss) -> None:
    with registered(SHELF), Shelf() as shelf:
        for path, data in FILES.items():
            shelf.put("books", f"m/{path}", data)
        truss.env |= {"SHELF_URL": shelf.url, "SHELF_TOKEN": shelf.token}
        truss.config("model_cache:\n  - repo_id: shelf://books/m\n")
        done(cli("lock"))
        shelf.put("books", "m/new.bin", b"new")
        done(cli(TRUSS_CACHE_LOCKED="1"))
        assert tree(truss.model_cache / "shelf/books/m") == FILES
        assert "fresh" in done(cli("why", "--check")).out
        done(cli("clean"))
        shelf.put("books", "m/a.bin", b"A" * 3_000)
        ran = cli()
        assert ran.code == 1, ran
        assert ran.err.count("sha256:") == 2, ran
        assert "model_cache.lock" in ran.err


def test_an_edited_digest_is_named_and_an_upgrade_puts_it_right(cli: Cli, truss: Truss, vendor: Store) -> None:
    given(truss, vendor)
    done(cli("lock"))
    path = truss.folder / "model_cache.lock"
    good, right = path.read_text(), locked(truss)["a.bin"]["digest"]
    wrong = right[:-1] + ("1" if right.endswith("0") else "0")
    path.write_text(good.replace(right, wrong))
    ran = cli()
    assert ran.code == 1, ran
    assert f"a.bin: the store has {right}" in ran.err
    assert f"expected {wrong} (3,000 bytes) of model_cache.lock" in ran.err
    assert shown(truss, vendor) == {}
    done(cli("lock", "--upgrade"))
    assert path.read_text() == good
    done(cli())


def test_equal_bytes_that_were_put_again_serve_when_the_locked_version_is_deleted(
    cli: Cli, truss: Truss, versioned_s3: S3Store
) -> None:
    given(truss, versioned_s3, who="admin")
    done(cli("lock"))
    old = locked(truss)["a.bin"]["version_id"]
    versioned_s3.put("m/a.bin", FILES["a.bin"])
    key = f"{versioned_s3.base}/m/a.bin"
    versioned_s3.server.client().delete_object(Bucket=versioned_s3.bucket, Key=key, VersionId=old)
    done(cli())
    assert shown(truss, versioned_s3) == FILES
    done(cli("lock", "--upgrade"))
    assert locked(truss)["a.bin"]["version_id"] != old
    assert "fresh" in done(cli()).err


def test_why_remote_compares_a_store_with_what_was_fetched_where_nothing_is_locked(
    cli: Cli, truss: Truss, anywhere: Store
) -> None:
    given(truss, anywhere)
    assert "nothing of it is locked or fetched" in done(cli("why", "--remote")).out
    done(cli())
    assert done(cli("why", "--remote", "--check")).out.endswith(": fresh\n  in the store: unchanged\n")
    anywhere.put("m/a.bin", b"A" * 3_000)
    anywhere.put("m/new.bin", b"n")
    moved = cli("why", "--remote", "--check")
    assert (moved.code, moved.out.splitlines()[-1]) == (1, "  in the store: 1 file changed, 1 new, 3.0 kB to fetch")
    assert "run -a" in moved.err
