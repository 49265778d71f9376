"""The bytes of an S3 object, where answers never end: the command ends, and the object comes where it can."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from servers.faults import FaultServer, fault_server
from trusses import Truss, tree

from scenarios.buckets.stores import GcsStore, S3Store

BODY = bytes(range(256)) * 100
ETAG = f'"{hashlib.md5(BODY).hexdigest()}"'


@pytest.fixture
def other() -> Iterator[FaultServer]:
    with fault_server() as running:
        yield running


@pytest.fixture
def weights(on_seaweed: S3Store, truss: Truss) -> Truss:
    on_seaweed.put("m/a.bin", BODY)
    on_seaweed.give(truss)
    truss.config(f"model_cache:\n  - repo_id: {on_seaweed.uri('m')}\n")
    return truss


@pytest.mark.parametrize("fault", ["continue", "huge-head", "trailers", "flood:503", "flood:302 /there", "416"])
def test_an_answer_without_an_end_costs_a_request(
    weights: Truss, on_seaweed: S3Store, other: FaultServer, fault: str
) -> None:
    other.add("/there", BODY, etag=ETAG)
    with on_seaweed.front.watching() as front:
        front.elsewhere["get"] = [other.add("/moved", BODY, fault, etag=ETAG)]
        ran = weights.cli()
    assert ran.code == 0, ran
    assert list(tree(weights.model_cache).values()) == [BODY]
    assert other.asked[0].path == "/moved"


def test_a_refusal_without_an_end_is_one_error(weights: Truss, on_seaweed: S3Store, other: FaultServer) -> None:
    with on_seaweed.front.watching() as front:
        url = other.add("/moved", BODY, *["flood:403"] * 9)
        front.elsewhere["get"] = [url] * 9
        ran = weights.cli()
    assert ran.code == 1, ran
    assert "missing permission s3:GetObject" in ran.err
    assert ran.err.count("hint: ") == 1
    assert tree(weights.model_cache) == {}


def test_an_answer_that_names_no_version_is_taken_where_the_checksum_tells(on_seaweed: S3Store, truss: Truss) -> None:
    """A proxy that strips ETag: the file comes in parts, whose bytes are compared with what a HEAD told."""
    data = bytes(range(256)) * 40_000
    on_seaweed.put("m/a.bin", data, ChecksumAlgorithm="CRC32")
    on_seaweed.give(truss)
    truss.config(f"model_cache:\n  - repo_id: {on_seaweed.uri('m')}\n")
    with on_seaweed.front.watching() as front:
        front.stripped["get"] = "ETag"
        ran = truss.cli()
        assert len(front.fetched()) > 1
    assert ran.code == 0, ran
    assert "(all verified)" in ran.err
    assert list(tree(truss.model_cache).values()) == [data]


def test_a_gcs_answer_without_its_generation_is_no_change(on_gcs: GcsStore, truss: Truss) -> None:
    on_gcs.put("m/a.bin", BODY)
    on_gcs.give(truss)
    truss.config(f"model_cache:\n  - repo_id: {on_gcs.uri('m')}\n")
    with on_gcs.front.watching() as front:
        front.stripped["get"] = "X-Goog-Generation"
        ran = truss.cli()
    assert ran.code == 0, ran
    assert list(tree(truss.model_cache).values()) == [BODY]
