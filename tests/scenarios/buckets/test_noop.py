"""A fresh run asks nobody and writes nothing, wherever the cache came from."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from trusses import Truss, tree

from scenarios.buckets.stores import Folder, Store


def fetched(store: Store, truss: Truss, prefix: str = "m") -> None:
    store.put(f"{prefix}/a.bin", b"a" * 1000)
    store.put(f"{prefix}/sub/b.bin", b"b" * 2000)
    store.give(truss)
    truss.config(f"model_cache:\n  - repo_id: {store.uri(prefix)}\n")
    ran = truss.doit("cache_weights")
    assert ran.code == 0, ran


def stats(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Every file and folder below `folder`, our records included, by what a write would change."""
    found = {}
    for path in sorted([folder, *folder.rglob("*")]):
        seen = path.lstat()
        found[str(path)] = (seen.st_ino, seen.st_mtime_ns, seen.st_size)
    return found


def lose_database(truss: Truss) -> None:
    lost = list(truss.folder.glob(".doit.db*"))
    assert lost
    for path in lost:
        path.unlink()


def test_a_second_run_asks_nobody_and_writes_nothing(anywhere: Store, truss: Truss) -> None:
    fetched(anywhere, truss)
    before = stats(truss.model_cache)
    with anywhere.front.watching() as front:
        for ran in (
            truss.doit("cache_weights"),
            truss.cli(),
            truss.cli("why", "--check"),
        ):
            assert ran.code == 0, ran
        lose_database(truss)
        ran = truss.doit("cache_weights")
    assert ran.code == 0
    assert "fetching" not in ran.text
    assert front.asked == []
    assert stats(truss.model_cache) == before


def test_a_fresh_run_imports_no_sdk(vendor: Store, truss: Truss) -> None:
    fetched(vendor, truss)
    code = """
        import sys
        from truss_cache_tasks.app.cli import main
        assert main([]) == 0
        heavy = {"boto3", "botocore", "google", "huggingface_hub", "urllib3", "requests", "doit"}
        print(sorted(heavy & set(sys.modules)))
    """
    assert truss.python(code).out == "[]\n"


def moved_by(way: str, old: Path, new: Path) -> None:
    if way == "cp -a":
        subprocess.run(["cp", "-a", old, new], check=True)
    else:
        archive = old.parent / "cache.tar"
        subprocess.run([*way.split(), "-cf", archive, "-C", old, "."], check=True)
        new.mkdir()
        subprocess.run(["tar", "-xf", archive, "-C", new], check=True)
    shutil.rmtree(old)


@pytest.mark.parametrize(
    ("way", "project"),
    [("cp -a", "the same"), ("tar", "the same"), ("tar --posix", "the same"), ("tar", "another")],
)
def test_a_cache_that_was_moved_asks_nobody(on_gcs: Store, truss: Truss, way: str, project: str) -> None:
    fetched(on_gcs, truss)
    moved = truss.root / "elsewhere"
    moved_by(way, truss.model_cache, moved)
    lose_database(truss)
    truss.env["TRUSS_MODEL_CACHE_DIR"] = str(moved)
    if project == "another":
        truss.env["TRUSS_CACHE_PROJECT"] = "another-project"
    with on_gcs.front.watching() as front:
        why = truss.cli("why", "--check")
        first, again = truss.doit("cache_weights"), truss.doit("cache_weights")
    assert (why.code, first.code, again.code) == (0, 0, 0), (why, first)
    assert front.asked == []
    assert "fetching" not in again.text
    if project == "the same":
        assert "fetching" not in first.text
    assert tree(moved) == {on_gcs.visible("m", "a.bin"): b"a" * 1000, on_gcs.visible("m", "sub/b.bin"): b"b" * 2000}


def test_a_file_that_was_only_touched_is_hashed_and_nobody_is_asked(on_gcs: Store, truss: Truss) -> None:
    fetched(on_gcs, truss)
    path = truss.model_cache / on_gcs.visible("m", "a.bin")
    path.touch()
    with on_gcs.front.watching() as front:
        why, ran, again = truss.cli("why"), truss.cli(), truss.cli()
    assert "touched" in why.out
    assert (ran.code, again.code) == (0, 0)
    assert "fetching" not in again.err
    assert front.asked == []


def test_a_file_that_was_damaged_or_removed_comes_again_alone(on_seaweed: Store, truss: Truss) -> None:
    fetched(on_seaweed, truss)
    damaged = truss.model_cache / on_seaweed.visible("m", "a.bin")
    damaged.write_bytes(b"x" * 1000)
    verify = truss.cli("verify")
    assert verify.code == 1
    assert "a.bin" in verify.out
    with on_seaweed.front.watching() as front:
        assert truss.cli("why", "--check").code == 1
        assert truss.cli().code == 0
    assert [name.rpartition("/")[2] for name in front.fetched()] == ["a.bin"]
    (truss.model_cache / on_seaweed.visible("m", "sub/b.bin")).unlink()
    with on_seaweed.front.watching() as front:
        assert truss.cli().code == 0
    assert [name.rpartition("/")[2] for name in front.fetched()] == ["b.bin"]
    assert truss.cli("verify").code == 0


def test_other_bytes_of_the_same_size_and_mtime_are_found_by_force(on_seaweed: Store, truss: Truss) -> None:
    fetched(on_seaweed, truss)
    path = truss.model_cache / on_seaweed.visible("m", "a.bin")
    seen = path.stat()
    path.write_bytes(b"x" * 1000)
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert truss.cli("why", "--check").code == 0  # by stat alone it looks right
    assert truss.cli("verify").code == 1
    with on_seaweed.front.watching() as front:
        assert truss.cli("run", "-a").code == 0
    assert [name.rpartition("/")[2] for name in front.fetched()] == ["a.bin"]
    assert path.read_bytes() == b"a" * 1000


def test_the_local_source_may_be_gone_after_the_fetch(on_disk: Folder, truss: Truss) -> None:
    fetched(on_disk, truss)
    shutil.rmtree(on_disk.root)
    assert truss.doit("cache_weights").code == 0
