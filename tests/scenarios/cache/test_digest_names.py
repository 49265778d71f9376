"""The store's digest of a file goes with its bytes: through staging, retirement, and records of an older version."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
from servers.hub import Hub
from trusses import Truss

from scenarios.buckets.stores import S3Store, multipart
from scenarios.cache.moments import end_of, started, wait_for
from scenarios.cache.upstreams import OnHub, OnStore, Upstream, check, config, run, use_disk

BIG = b"b" * 60_000
PARTS = [b"p" * (5 << 20), b"q" * 1000]
SNAPSHOT = """
    from truss_cache_tasks.operations.context import read_status
    from truss_cache_tasks.app.workspace import open_workspace
    print([read_status(target).manifest.snapshot for target in open_workspace(None).contexts])
"""


@pytest.fixture(params=["a composite", "git blobs"])
def filled(request: pytest.FixtureRequest, truss: Truss) -> tuple[Upstream, dict[str, bytes]]:
    """An upstream whose digests have a `-` in their algorithm, and its files; none goes through a hub cache."""
    if request.param == "a composite":
        store: S3Store = request.getfixturevalue("on_moto")
        files = {"w.bin": b"".join(PARTS), "big.bin": BIG}
        upstream: Upstream = OnStore(store)
        multipart(store, "name-main/w.bin", PARTS, "SHA256")
        store.put("name-main/big.bin", BIG)
    else:
        hub: Hub = request.getfixturevalue("hub")
        use_disk(truss, request.getfixturevalue("other_disk"))
        files = {"w.bin": b"git", "big.bin": BIG}
        upstream = OnHub(hub)
        upstream.put("main", files)
    upstream.give(truss)
    truss.config(config("volume", upstream.entry("main", "volume", "m")))
    return upstream, files


def manifest_of(truss: Truss) -> Path:
    """Return the one manifest in the model cache that lists w.bin."""
    found = truss.model_cache.glob(".truss_cache/manifests/*.json")
    (path,) = [path for path in found if "m/w.bin" in path.read_text()]
    return path


def digest_of(truss: Truss) -> str:
    files = json.loads(manifest_of(truss).read_text())["files"]
    digest: str = next(record["digest"] for record in files if record["path"] == "m/w.bin")
    return digest


def snapshot_of(truss: Truss) -> str:
    found = truss.python(SNAPSHOT)
    assert found.code == 0, found.text
    return found.out


@pytest.mark.parametrize(
    ("filled", "how"),
    [
        ("a composite", "killed"),
        ("a composite", "narrowed and widened"),
        ("git blobs", "killed"),
        ("git blobs", "stopped"),
        ("git blobs", "narrowed and widened"),
    ],
    indirect=["filled"],
)
def test_a_digest_is_the_same_after_a_run_that_did_not_end(
    how: str, filled: tuple[Upstream, dict[str, bytes]], truss: Truss
) -> None:
    upstream, files = filled
    run(truss)
    digest, snapshot = digest_of(truss), snapshot_of(truss)
    assert re.fullmatch("(sha256-composite|git-sha1):[0-9a-f]+", digest)
    run(truss, "clean")
    if how == "narrowed and widened":
        run(truss)
        truss.config(config("volume", upstream.entry("main", "volume", "m", allow_patterns='["b*"]')))
        run(truss)
    else:
        with upstream.held("big.bin") as hold, started(truss) as child:
            wait_for(child, lambda: hold.is_asked() and any(truss.model_cache.glob(".truss_cache/blobs/*/*")))
            child.send_signal(signal.SIGKILL if how == "killed" else signal.SIGTERM)
            end_of(child)
    names = [path.name for path in truss.model_cache.glob(".truss_cache/blobs/*/*")]
    assert [name.split(".", 2)[2] for name in names] == [digest.replace(":", "-")], "they keep their format"
    truss.config(config("volume", upstream.entry("main", "volume", "m")))
    run(truss)
    assert (digest_of(truss), snapshot_of(truss)) == (digest, snapshot)
    check(truss, "volume", {"m": files})
    assert truss.doit("cache-verify").code == 0


def test_a_digest_that_an_older_version_broke_is_read_as_it_was_meant(
    filled: tuple[Upstream, dict[str, bytes]], truss: Truss
) -> None:
    _, files = filled
    run(truss)
    path = manifest_of(truss)
    written, snapshot = path.read_text(), snapshot_of(truss)
    broken = re.sub(r'"digest": "([a-z0-9]+)-([a-z0-9]+):', r'"digest": "\1:\2-', written)
    assert broken != written
    path.write_text(broken)
    assert snapshot_of(truss) == snapshot
    check(truss, "volume", {"m": files})
    assert truss.doit("cache-verify").code == 0
    run(truss, "-a")
    now, before = (json.loads(text) for text in (path.read_text(), written))
    assert {r["path"]: r["digest"] for r in now["files"]} == {r["path"]: r["digest"] for r in before["files"]}
    assert now["snapshot"] == before["snapshot"]
    check(truss, "volume", {"m": files})
