"""What HubLayout and FlatLayout promise alike: one protocol, asked of both."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import xxhash

from truss_cache_tasks.model.keys import ContentId
from truss_cache_tasks.model.listing import Digest, RemoteFile
from truss_cache_tasks.model.plan import PlannedFile
from truss_cache_tasks.model.records import FileRecord
from truss_cache_tasks.network.cancel import NEVER
from truss_cache_tasks.store.files.locks import ignore_wait
from truss_cache_tasks.store.layouts.blob import LocalBlob, Taken, local_blob
from truss_cache_tasks.store.layouts.flat_layout import flat_root
from truss_cache_tasks.store.layouts.hub_layout import hub_root
from truss_cache_tasks.store.layouts.layout import CacheRoot

BODY = b"weights"
SHA256 = hashlib.sha256(BODY).hexdigest()
XXH3 = xxhash.xxh3_128_hexdigest(BODY)


@pytest.fixture(params=["hub", "flat"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> CacheRoot:
    return hub_root(tmp_path / "hub" / "models--org--name") if request.param == "hub" else flat_root(tmp_path / "cache")


def planned(root: CacheRoot, name: str = "a.bin") -> PlannedFile:
    folder = f"snapshots/{'c' * 40}" if root.layout.hub else "volume"
    file = RemoteFile(name, len(BODY), name, "1", Digest("sha256", SHA256))
    return PlannedFile(file, f"{folder}/{name}", ContentId(f"sha256:{SHA256}"), f"hf://org/name/{name}")


def published(root: CacheRoot) -> LocalBlob:
    path = root.layout.blob_path(planned(root).content_id, XXH3, f"sha256:{SHA256}")
    (root.path / path).parent.mkdir(parents=True)
    (root.path / path).write_bytes(BODY)
    os.utime(root.path / path, ns=(0, 1_700_000_000_123_456_789))
    stat = (root.path / path).stat()
    root.layout.before_publish(path, stat.st_mtime_ns)
    return local_blob(root.tree, path, stat, XXH3, f"sha256:{SHA256}")


def show(root: CacheRoot, blob: LocalBlob, *, is_over: bool = False) -> FileRecord:
    wanted = planned(root)
    staged = root.layout.stage(wanted, blob, (), NEVER)
    stat = root.layout.show(wanted, blob, staged, NEVER, is_over=is_over, is_last=True)
    path, made_blob = root.layout.record_of_blob(wanted, blob, is_made=True)
    mtime = stat.st_mtime_ns
    return FileRecord(
        wanted.path, blob.size, mtime, wanted.content_id, wanted.origin, blob.digest, blob.xxh3, path, True, made_blob
    )


def test_a_published_blob_is_a_candidate_and_shown_as_the_very_same_file(root: CacheRoot) -> None:
    blob = published(root)
    (candidate,) = root.layout.unlisted_candidates(planned(root))
    assert candidate.ours
    assert blob.is_file(candidate.file.stat)
    record = show(root, blob)
    assert (root.path / record.path).read_bytes() == BODY
    for found in (root.layout.find_bytes(record.path), root.layout.recorded_bytes(record, is_hidden=False)):
        assert found is not None
        assert blob.is_file(found.stat)


def test_what_came_to_a_path_meanwhile_is_not_replaced(root: CacheRoot) -> None:
    blob, path = published(root), root.path / planned(root).path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"theirs")
    with pytest.raises(Taken):
        show(root, blob)
    assert path.read_bytes() == b"theirs"
    show(root, blob, is_over=True)
    assert path.read_bytes() == BODY


def test_the_bytes_of_a_hidden_path_stay_as_a_blob(root: CacheRoot) -> None:
    blob = published(root)
    record = show(root, blob)
    root.layout.release_blobs([blob])
    root.layout.hide(record, is_regular=not root.layout.hub)
    assert root.layout.find_bytes(record.path) is None
    assert (root.path / root.layout.blob_path(record.content_id, XXH3, record.digest)).read_bytes() == BODY


def test_a_link_that_leads_out_of_the_root_shows_nothing(root: CacheRoot, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(BODY)
    path = root.path / planned(root).path
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "secret")
    assert root.layout.find_bytes(planned(root).path) is None
    assert not root.layout.is_replaceable_link(planned(root).path)


def test_a_blob_is_swept_when_nothing_owns_it_and_no_process_holds_its_lock(root: CacheRoot) -> None:
    blob = published(root)
    name = root.layout.blob_id(planned(root).content_id)
    root.layout.sweep_blobs({name})
    assert root.layout.has_unlisted_blob(name)
    root.layout.sweep_blobs(())
    assert not root.layout.has_unlisted_blob(name)
    assert not (root.path / blob.path).exists()


def test_a_candidate_is_not_ours_unless_a_name_or_a_mark_says_so(root: CacheRoot) -> None:
    path = root.path / ("blobs/" + SHA256 if root.layout.hub else planned(root).path)
    path.parent.mkdir(parents=True)
    path.write_bytes(BODY)
    (candidate,) = root.layout.unlisted_candidates(planned(root))
    assert not candidate.ours


def test_a_repo_adopts_bytes_from_elsewhere_with_no_second_name_on_the_way(tmp_path: Path) -> None:
    mount, repo = flat_root(tmp_path / "mount"), hub_root(tmp_path / "hub" / "models--org--name")
    path = mount.path / "a.bin"
    path.parent.mkdir()
    path.write_bytes(BODY)
    blob = local_blob(mount.tree, "a.bin", path.stat(), XXH3, f"sha256:{SHA256}")
    for _ in range(2):
        adopted = repo.layout.adopt_blob(planned(repo), blob, NEVER, ignore_wait)
        assert adopted.is_file(path.stat())
        assert path.stat().st_nlink == 2
        assert repo.layout.has_unlisted_blob(SHA256), "it is marked as ours before it can be lost"
    assert not (repo.records / "partials").exists(), "a kill would leave there what no sweep takes for ours"
