"""What huggingface_hub left in the cache is adopted: Machine, verified, and stays its own; both may run at once."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from entries import entry
from machine import BIG, FILES, Judge, Machine, eventually
from servers.hub import Hub, Repo

HF = "import sys; from huggingface_hub import hf_hub_download as get; print(get('org/name', sys.argv[1]))"
LISTING = 2  # requests: what main is, and one page of its tree


@pytest.fixture
def adopted(machine: Machine, repo: Repo) -> Machine:
    """The machine after huggingface_hub's own cold snapshot_download."""
    from huggingface_hub import snapshot_download

    snapshot_download("org/name", cache_dir=machine.hub_cache, endpoint=machine.hub.url)
    machine.asked()
    return machine


def test_what_huggingface_hub_downloaded_is_adopted_for_the_price_of_a_listing(
    adopted: Machine, repo: Repo, judge: Judge
) -> None:
    truss = adopted.truss(entry("org/name"))
    done = truss.run()["org/name"]
    assert (done.files, len(adopted.asked())) == (0, LISTING)
    assert truss.fresh
    assert judge.snapshot(adopted) == FILES
    assert judge.scan(adopted) == {repo.refs["refs/heads/main"]: {"main"}}


@pytest.mark.parametrize("damage", ["cut", "flip", "other"])
def test_a_bad_blob_that_huggingface_hub_left_is_found_and_fetched_again(
    damage: str, adopted: Machine, repo: Repo, judge: Judge
) -> None:
    blob = (adopted.repo() / "snapshots" / repo.refs["refs/heads/main"] / "model.bin").resolve()
    wrong = {"cut": BIG[:100], "flip": bytes([BIG[0] ^ 1]) + BIG[1:], "other": bytes(len(BIG))}
    blob.write_bytes(wrong[damage])
    adopted.truss(entry("org/name")).run()
    assert adopted.downloads() == ["model.bin"]
    assert judge.snapshot(adopted) == FILES


def test_clean_leaves_what_huggingface_hub_downloaded_and_names_it(adopted: Machine, repo: Repo, judge: Judge) -> None:
    repo.commit({"new.bin": b"ours"})
    truss = adopted.truss(entry("org/name"))
    truss.run()
    assert adopted.downloads() == ["new.bin"]
    done = truss.clean()
    assert done.size == len(b"ours")
    assert not [line for line in done.kept if "new.bin" in line]
    assert {
        path for path in FILES if any(path in line for line in done.kept)
    } == set()  # the new commit's links are ours
    old = next(commit for commit in repo.trees if commit != repo.refs["refs/heads/main"])
    assert judge.snapshot(adopted, old) == FILES
    judge.scan(adopted)


def test_clean_keeps_links_and_blobs_that_huggingface_hub_made(adopted: Machine, judge: Judge) -> None:
    truss = adopted.truss(entry("org/name"))
    truss.run()
    done = truss.clean()
    assert (done.size, done.files) == (0, 0)
    assert all(any(path in line and "huggingface_hub" in line for line in done.kept) for path in FILES)
    assert judge.snapshot(adopted) == FILES
    judge.scan(adopted)


def test_a_shared_blob_is_never_written_through_and_never_removed_as_ours(
    machine: Machine, repo: Repo, judge: Judge
) -> None:
    """A blob that is a link into {hub}/blobs is huggingface_hub's (utils/_shared_blobs.py)."""
    from huggingface_hub.utils._shared_blobs import publish_blob_to_shared_store, shared_blob_path

    truss = machine.truss(entry("org/name"))
    truss.run()
    file = repo.trees[repo.refs["refs/heads/main"]]["model.bin"]
    blob, xet = machine.repo() / "blobs" / file.etag, "ab" * 32
    assert publish_blob_to_shared_store(
        blob_path=str(blob), xet_hash=xet, cache_dir=machine.hub_cache, expected_size=len(BIG)
    )
    shared = shared_blob_path(machine.hub_cache, xet)
    assert blob.is_symlink()
    truss.run()  # adopts the link as it is
    mounted = machine.truss(entry("org/name"), entry("org/name", name="m", mount_location="/m"))
    machine.asked()
    mounted.run()
    assert machine.downloads() == []
    plain = machine.mounts / "m" / "model.bin"
    assert not plain.is_symlink()
    assert plain.samefile(shared)  # the payload is linked, not huggingface_hub's link to it
    plain.unlink()
    shared.chmod(0o644)
    shared.write_bytes(bytes(len(BIG)))  # somebody breaks the payload
    machine.truss(entry("org/name")).run()
    assert machine.downloads() == ["model.bin"]
    assert not blob.is_symlink()
    assert shared.read_bytes() == bytes(len(BIG))
    judge.scan(machine)


def test_clean_leaves_a_link_into_the_shared_store(machine: Machine, repo: Repo, judge: Judge) -> None:
    from huggingface_hub.utils._shared_blobs import publish_blob_to_shared_store, shared_blob_path

    truss = machine.truss(entry("org/name"))
    truss.run()
    file = repo.trees[repo.refs["refs/heads/main"]]["model.bin"]
    blob = machine.repo() / "blobs" / file.etag
    publish_blob_to_shared_store(
        blob_path=str(blob), xet_hash="cd" * 32, cache_dir=machine.hub_cache, expected_size=len(BIG)
    )
    truss.clean()
    assert [path.name for path in (machine.repo() / "blobs").iterdir()] == [file.etag]
    assert shared_blob_path(machine.hub_cache, "cd" * 32).read_bytes() == BIG
    judge.scan(machine)


# Both at once


def hf_download(machine: Machine, path: str) -> subprocess.Popen[str]:
    env = {"HF_ENDPOINT": machine.hub.url, "HF_HUB_CACHE": str(machine.hub_cache), "HF_HUB_DISABLE_XET": "1"}
    env |= {"PATH": os.environ["PATH"], "HOME": str(machine.root), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", HF, path], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)


def test_huggingface_hub_waits_for_the_blob_that_we_are_writing(
    machine: Machine, repo: Repo, hub: Hub, in_background: Callable[[Callable[[], Any]], Callable[[], Any]]
) -> None:
    hub.fail("model.bin", "stall", host="cdn")
    file = repo.trees[repo.refs["refs/heads/main"]]["model.bin"]
    lock = machine.hub_cache / ".locks" / "models--org--name" / f"{file.etag}.lock"
    ours = in_background(machine.truss(entry("org/name", allow_patterns=["model.bin"])).run)
    eventually(lambda: is_locked(lock) and hub.asked("GET", "model.bin"))
    theirs = hf_download(machine, "model.bin")
    eventually(lambda: hub.asked("HEAD", "model.bin"))
    hub.released.set()
    out, err = theirs.communicate(timeout=60)
    assert theirs.returncode == 0, err
    assert Path(out.strip()).read_bytes() == BIG
    assert ours()["org/name"].files == 1
    assert [r.host for r in hub.asked("GET", "/model.bin")].count("cdn") == 1


def test_we_wait_for_the_blob_that_huggingface_hub_is_writing(
    machine: Machine, repo: Repo, hub: Hub, in_background: Callable[[Callable[[], Any]], Callable[[], Any]]
) -> None:
    hub.fail("model.bin", "stall", host="cdn")
    file = repo.trees[repo.refs["refs/heads/main"]]["model.bin"]
    lock = machine.hub_cache / ".locks" / "models--org--name" / f"{file.etag}.lock"
    theirs = hf_download(machine, "model.bin")
    eventually(lambda: is_locked(lock) and [r for r in hub.asked("GET", "model.bin") if r.host == "cdn"])
    ours = in_background(machine.truss(entry("org/name", allow_patterns=["model.bin"])).run)
    eventually(lambda: hub.asked("GET", f"/tree/{repo.refs['refs/heads/main']}"))
    hub.released.set()
    _, err = theirs.communicate(timeout=60)
    assert theirs.returncode == 0, err
    assert ours()["org/name"].files == 0
    assert [r.host for r in hub.asked("GET", "/model.bin")].count("cdn") == 1
