"""GCS objects stored with Content-Encoding gzip are shown decoded, as Google's own client and Truss give them."""

from __future__ import annotations

import gzip
import json
import random
import signal
import threading
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import xxhash
from awscrt import checksums
from trusses import Truss, tree

from scenarios.buckets.front import Asked
from scenarios.buckets.stores import GcsStore
from scenarios.cache.moments import end_of, started, wait_for
from scenarios.cache.upstreams import OnStore, beside, check, config, run

MIB = 1 << 20
NOISE = random.Random(1).randbytes(12 * MIB)  # stored in more bytes than come in one part
CONTENT = {
    "config.json": b'{"a": 1}' * 500,
    "empty.txt": b"",
    "sub/two members.txt": b"first" * 99 + b"second" * 99,
    "noise.bin": NOISE,
}
PACKED = {path: gzip.compress(data, 1, mtime=0) for path, data in CONTENT.items()}
PACKED["sub/two members.txt"] = gzip.compress(b"first" * 99) + gzip.compress(b"second" * 99)
SMALL = [path for path in CONTENT if path != "noise.bin"]


@pytest.fixture
def upstream(on_gcs: GcsStore, truss: Truss) -> OnStore:
    upstream = OnStore(on_gcs)
    upstream.give(truss)
    return upstream


def put(store: GcsStore, path: str, packed: bytes) -> None:
    store.gcs.put(store.bucket, f"{store.base}/name-main/{path}", packed, encoding="gzip")


@pytest.fixture
def stored(on_gcs: GcsStore, upstream: OnStore) -> dict[str, bytes]:
    """The small ones, beside an object that is no gzip, and one whose bytes are gzip and said to be nothing else."""
    for path in SMALL:
        put(on_gcs, path, PACKED[path])
    upstream.put("main", {"plain.bin": b"plain", "archive.gz": PACKED["config.json"]})
    return {path: CONTENT[path] for path in SMALL} | {"plain.bin": b"plain", "archive.gz": PACKED["config.json"]}


def record_of(root: Path, path: str) -> dict[str, Any]:
    """Return the one record of this visible path."""
    manifests = [json.loads(found.read_text()) for found in root.glob(".truss_cache/manifests/*.json")]
    (record,) = [record for manifest in manifests for record in manifest["files"] if record["path"] == path]
    return dict(record)


def fields(path: str) -> dict[str, Any]:
    """Return what the record of an object must say."""
    data, packed = CONTENT[path], PACKED[path]
    return {
        "size": len(data),
        "xxh3": xxhash.xxh3_128_hexdigest(data),
        "stored_size": len(packed),
        "digest": f"crc32c-gzip:{checksums.crc32c(packed):08x}",
    }


@pytest.mark.parametrize("layout", ["volume", "mount"])
def test_a_stored_gzip_object_is_shown_decoded_and_its_record_tells_both(
    layout: str, upstream: OnStore, stored: dict[str, bytes], truss: Truss
) -> None:
    truss.config(config(layout, upstream.entry("main", layout, "m")))
    ran = truss.cli()
    assert ran.code == 0, ran.text
    assert "5 files" in ran.err
    assert "all verified" in ran.err
    check(truss, layout, {"m": stored})
    root, before = (truss.mounts / "m", "") if layout == "mount" else (truss.model_cache, "m/")
    for path in SMALL:
        assert record_of(root, before + path).items() >= fields(path).items()
    for path in ("plain.bin", "archive.gz"):
        assert record_of(root, before + path)["digest"] == f"crc32c:{checksums.crc32c(stored[path]):08x}"
    with upstream.store.front.watching() as front:
        run(truss)
        assert front.asked == []
        run(truss, "-a")
        assert front.fetched() == []
    check(truss, layout, {"m": stored})


def test_a_large_one_is_taken_up_again_where_it_was_killed(upstream: OnStore, on_gcs: GcsStore, truss: Truss) -> None:
    put(on_gcs, "noise.bin", PACKED["noise.bin"])
    truss.config(config("volume", upstream.entry("main", "volume", "m")))
    came, released = threading.Semaphore(1), threading.Event()

    def one_part_alone(asked: Asked) -> None:
        if asked.kind == "get" and not came.acquire(blocking=False):
            released.wait()

    def is_journalled() -> bool:
        return any(path.stat().st_size for path in truss.model_cache.glob(".truss_cache/partials/*.parts"))

    with on_gcs.front.watching() as front, started(truss) as child:
        front.before = one_part_alone
        try:
            wait_for(child, is_journalled)
            child.send_signal(signal.SIGKILL)
            end_of(child)
        finally:
            released.set()
    run(truss)
    check(truss, "volume", {"m": {"noise.bin": NOISE}})
    assert list(truss.model_cache.glob(".truss_cache/partials/*")) == []


def age(truss: Truss, store: GcsStore, path: str) -> None:
    """Make the cache hold this object as the version before did: gzip bytes under the plain name."""
    name = urllib.parse.quote(f"{store.base}/name-main/{path}", safe="")
    with urllib.request.urlopen(f"{store.gcs.backend}/storage/v1/b/{store.bucket}/o/{name}") as answer:
        generation = json.load(answer)["generation"]
    shown = truss.model_cache / "m" / path
    shown.unlink()
    shown.write_bytes(PACKED[path])
    (manifest,) = truss.model_cache.glob(".truss_cache/manifests/*.json")
    whole = json.loads(manifest.read_text())
    (record,) = [record for record in whole["files"] if record["path"] == f"m/{path}"]
    record.pop("stored_size", None)
    record |= {
        "size": len(PACKED[path]),
        "mtime_ns": shown.stat().st_mtime_ns,
        "xxh3": xxhash.xxh3_128_hexdigest(PACKED[path]),
        "digest": f"crc32c:{checksums.crc32c(PACKED[path]):08x}",
        "identity": f"{record['origin']}@{generation}",
    }
    manifest.write_text(json.dumps(whole))


def test_what_an_older_version_shows_as_gzip_bytes_is_healed_by_force(
    upstream: OnStore, on_gcs: GcsStore, stored: dict[str, bytes], truss: Truss
) -> None:
    truss.config(config("volume", upstream.entry("main", "volume", "m")))
    run(truss)
    for path in SMALL:
        age(truss, on_gcs, path)
    run(truss)
    assert tree(truss.model_cache / "m")["config.json"] == PACKED["config.json"], "it was fresh, and asked nobody"
    run(truss, "-a")
    check(truss, "volume", {"m": stored})
    assert record_of(truss.model_cache, "m/config.json").items() >= fields("config.json").items()


def test_another_entry_does_not_take_the_gzip_bytes_of_an_older_version(
    upstream: OnStore, on_gcs: GcsStore, stored: dict[str, bytes], truss: Truss
) -> None:
    truss.config(config("volume", upstream.entry("main", "volume", "m")))
    run(truss)
    age(truss, on_gcs, "config.json")
    other = beside(truss, "other")
    other.config(config("volume", upstream.entry("main", "volume", "elsewhere")))
    run(other)
    check(other, "volume", {"elsewhere": stored})


def test_a_decoded_file_that_was_out_of_sight_comes_back_with_its_record(
    upstream: OnStore, stored: dict[str, bytes], truss: Truss
) -> None:
    truss.config(config("volume", upstream.entry("main", "volume", "m")))
    run(truss)
    for patterns in ({"allow_patterns": '["plain.bin"]'}, {}):
        truss.config(config("volume", upstream.entry("main", "volume", "m", **patterns)))
        with upstream.store.front.watching() as front:
            run(truss)
            assert front.fetched() == []
    check(truss, "volume", {"m": stored})
    assert record_of(truss.model_cache, "m/config.json").items() >= fields("config.json").items()


def test_an_object_that_is_stored_as_gzip_no_more_is_shown_as_it_is(
    upstream: OnStore, on_gcs: GcsStore, truss: Truss
) -> None:
    put(on_gcs, "config.json", PACKED["config.json"])
    truss.config(config("volume", upstream.entry("main", "volume", "m")))
    run(truss)
    check(truss, "volume", {"m": {"config.json": CONTENT["config.json"]}})
    on_gcs.put("name-main/config.json", PACKED["config.json"])  # the same bytes, which now mean themselves
    run(truss, "-a")
    check(truss, "volume", {"m": {"config.json": PACKED["config.json"]}})


@pytest.mark.parametrize("data", [b"no gzip at all", PACKED["config.json"][:-9]], ids=["no gzip", "cut"])
def test_bytes_that_are_no_gzip_fail_the_entry_by_name_and_are_not_shown(
    data: bytes, upstream: OnStore, on_gcs: GcsStore, truss: Truss
) -> None:
    put(on_gcs, "config.json", data)
    truss.config(config("volume", upstream.entry("main", "volume", "m")))
    ran = truss.cli()
    assert ran.code == 1, ran.text
    assert "config.json" in ran.err
    assert ran.err.count("hint: ") == 1
    assert "Traceback" not in ran.err
    assert tree(truss.model_cache) == {}
