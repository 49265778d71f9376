"""Files of several parts in real stores: whole, verified by what the store says, replaced under way."""

from __future__ import annotations

import hashlib
import io
import json
import random
import threading
from pathlib import Path
from typing import Any

import pytest
from servers.nginx import Nginx
from trusses import Truss, tree

from scenarios.buckets.front import Asked
from scenarios.buckets.stores import S3Store, Store

PART = 8 << 20
OLD, NEW = (random.Random(seed).randbytes(3 * PART + 5) for seed in (1, 2))


def give(store: Store, truss: Truss) -> None:
    store.give(truss)
    truss.config(f"model_cache:\n  - repo_id: {store.uri('m')}\n")


def put(store: Store, body: bytes, **extra: str) -> None:
    """Put the large file; in parts of 8 MiB, as `aws s3 cp` does, where `extra` says how they are summed."""
    if not extra:
        store.put("m/big.bin", body)
        return
    from boto3.s3.transfer import TransferConfig

    assert isinstance(store, S3Store)
    config = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART)
    key = f"{store.base}/m/big.bin"
    store.server.client().upload_fileobj(io.BytesIO(body), store.bucket, key, ExtraArgs=extra, Config=config)


def recorded(truss: Truss) -> Any:
    """Return the digest that the only manifest has of its only file."""
    (path,) = (truss.model_cache / ".truss_cache/manifests").glob("*.json")
    (file,) = json.loads(path.read_bytes())["files"]
    return file["digest"]


def digest_of(algorithm: str, body: bytes) -> str:
    """Return what is to be recorded, computed anew."""
    from awscrt import checksums

    if algorithm.endswith("-composite"):
        of = getattr(hashlib, algorithm.removesuffix("-composite"))
        parts = [of(body[at : at + PART]).digest() for at in range(0, len(body), PART)]
        return f"{algorithm}:{of(b''.join(parts)).hexdigest()}"
    functions = {"crc32": (checksums.crc32, 8), "crc32c": (checksums.crc32c, 8), "crc64nvme": (checksums.crc64nvme, 16)}
    function, digits = functions[algorithm]
    return f"{algorithm}:{function(body):0{digits}x}"


@pytest.mark.parametrize(
    ("server", "extra", "algorithm"),
    [
        ("seaweed", {}, "crc32"),
        ("seaweed", {"ChecksumAlgorithm": "SHA256"}, "sha256-composite"),
        ("moto", {"ChecksumAlgorithm": "CRC64NVME"}, "crc64nvme"),
        ("moto", {"ChecksumAlgorithm": "SHA256"}, "md5-composite"),  # its parts have no checksums, and sizes
        ("gcs", {}, "crc32c"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value.values()),
)
def test_a_large_file_comes_in_parts_and_is_judged_by_the_stores_digest(
    server: str, extra: dict[str, str], algorithm: str, truss: Truss, request: pytest.FixtureRequest
) -> None:
    store: Store = request.getfixturevalue(f"on_{server}")
    put(store, OLD, **extra)
    give(store, truss)
    with store.front.watching() as front:
        ran = truss.doit("cache_weights")
        assert front.kinds().count("get") == 4
    assert ran.code == 0, ran.text
    assert "unverified" not in ran.err
    assert recorded(truss) == digest_of(algorithm, OLD)
    assert tree(truss.model_cache) == {store.visible("m", "big.bin"): OLD}
    assert truss.cli("verify").code == 0


class Replacing:
    """Puts other bytes before the second part of a listing's file is answered.

    Args:
        bodies: what is put after each listing, one after the other.
    """

    def __init__(self, store: Store, *bodies: bytes) -> None:
        self._store = store
        self._bodies = list(bodies)
        self._lock = threading.Lock()
        self._parts = 0

    def __call__(self, asked: Asked) -> None:
        with self._lock:
            if asked.kind == "list":
                self._parts = 0
            if asked.kind == "get":
                self._parts += 1
                if self._parts == 2 and self._bodies:
                    self._store.put("m/big.bin", self._bodies.pop(0))


def test_a_large_file_that_is_replaced_under_way_is_listed_again_and_comes_anew(bucket: Store, truss: Truss) -> None:
    put(bucket, OLD)
    give(bucket, truss)
    with bucket.front.watching() as front:
        front.before = Replacing(bucket, NEW)
        ran = truss.doit("cache_weights")
    assert ran.code == 0, ran.text
    assert ran.text.count("the source changed meanwhile: listing it again") == 1
    assert tree(truss.model_cache) == {bucket.visible("m", "big.bin"): NEW}
    assert truss.cli("verify").code == 0
    assert list((truss.model_cache / ".truss_cache/partials").glob("*")) == []


def test_a_large_file_that_is_replaced_again_and_again_is_an_error_that_shows_nothing(
    vendor: Store, truss: Truss
) -> None:
    put(vendor, OLD)
    give(vendor, truss)
    with vendor.front.watching() as front:
        front.before = Replacing(vendor, NEW, OLD)
        ran = truss.cli()
    assert ran.code == 1, ran.text
    assert "replaced or deleted since it was listed" in ran.err
    assert ran.err.count("hint: Run") == 1
    assert tree(truss.model_cache) == {}


def test_signed_reads_of_a_large_file_come_over_tls(
    on_seaweed: S3Store, truss: Truss, web: Nginx, authority: Path
) -> None:
    put(on_seaweed, OLD)
    give(on_seaweed, truss)
    web.say(f"proxy_pass {on_seaweed.server.url}; proxy_set_header Host $http_host;")
    truss.env |= {"AWS_ENDPOINT_URL_S3": web.secure_url, "AWS_CA_BUNDLE": str(authority / "ca.pem")}
    ran = truss.doit("cache_weights")
    assert ran.code == 0, ran.text
    assert tree(truss.model_cache) == {on_seaweed.visible("m", "big.bin"): OLD}
    web.stop()
    assert sum(asked.sent for asked in web.log() if asked.status == 206) == len(OLD)
