"""`doit clean`: what goes, what it says, and what happens where something cannot be removed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from servers.hub import Hub
from trusses import Ran, Truss, tree

CONFIG = """
    model_cache:
      - repo_id: org/repo
        allow_patterns: ["a.bin", "both.bin"]
      - repo_id: org/repo
        allow_patterns: ["b.bin", "both.bin"]
      - repo_id: file://./weights
"""
SIZES = {"a.bin": 20_000, "b.bin": 30_000, "both.bin": 40_000}
ALL = sum(SIZES.values()) + 7
COMMANDS = (["clean"], ["clean", "-a"], ["clean", "cache_weights"])


@pytest.fixture
def cached(truss: Truss, hub: Hub) -> Truss:
    """Three entries in the cache; the first two share a file."""
    hub.create("org/repo").commit({name: name[:1].encode() * size for name, size in SIZES.items()})
    (truss.folder / "weights").mkdir()
    (truss.folder / "weights" / "w.bin").write_bytes(b"weights")
    truss.config(CONFIG)
    assert truss.doit().code == 0
    return truss


def said_bytes(done: Ran) -> list[int]:
    """The bytes of each line of ours, in the order printed."""
    return [int(found.replace(",", "")) for found in re.findall(r"([\d,]+) bytes", done.out)]


def everything(truss: Truss) -> dict[str, bytes]:
    """All files in the caches, save huggingface_hub's lock files, which are empty and stay."""
    cached = {**tree(truss.root / "hf"), **tree(truss.model_cache)}
    return {path: data for path, data in cached.items() if ".locks/" not in path}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_dry_clean_tells_the_bytes_and_a_clean_frees_them(cached: Truss, hub: Hub, command: list[str]) -> None:
    before = everything(cached)
    dry = cached.doit(command[0], "-n", *command[1:])
    assert (dry.code, sum(said_bytes(dry)), dry.err) == (0, ALL, "")
    assert everything(cached) == before
    assert cached.doit().out.count("-- ") == 4, "a dry clean leaves every entry fresh"

    wet = cached.doit(*command)
    assert (wet.code, said_bytes(wet), wet.err) == (0, said_bytes(dry), "")
    assert "removed" in wet.out
    assert "would" not in wet.out
    assert everything(cached) == {}
    assert not (cached.hub_cache / "models--org--repo").exists()
    again = cached.doit(*command)
    assert (again.code, said_bytes(again), "nothing to remove" in again.out) == (0, [], True)
    hub.requests.clear()
    back = cached.doit()
    assert back.code == 0, back.text
    assert everything(cached) == before


def test_a_clean_of_one_entry_leaves_what_others_use_and_shared_bytes_count_once(cached: Truss) -> None:
    first, second = "cache_weights:org/repo", "cache_weights:org/repo@main"
    assert said_bytes(cached.doit("clean", "-n", first)) == [SIZES["a.bin"]]
    assert said_bytes(cached.doit("clean", "-n", second)) == [SIZES["b.bin"]]
    both = cached.doit("clean", "-n", first, second)
    assert sum(said_bytes(both)) == sum(SIZES.values()), "the shared file goes with the last that uses it"
    done = cached.doit("clean", first)
    assert said_bytes(done) == [SIZES["a.bin"]]
    names = {path.rsplit("/", 1)[-1] for path in everything(cached) if "snapshots" in path}
    assert names == {"b.bin", "both.bin"}
    status = {line.split()[1]: line.split()[0] for line in cached.doit("list", "--all", "--status").out.splitlines()}
    assert status == {"cache_weights": "R", first: "R", second: "U", "cache_weights:weights": "U"}


def test_a_cleaned_entry_resolves_its_revision_again(cached: Truss, hub: Hub) -> None:
    commit = hub.repos["org/repo"].commit({"a.bin": b"A" * 10})
    assert cached.doit().out.count("-- ") == 4
    assert cached.doit("clean", "cache_weights").code == 0
    assert cached.doit().code == 0
    assert (cached.hub_cache / "models--org--repo/refs/main").read_text() == commit


def test_the_groups_clean_takes_what_gone_entries_left(cached: Truss) -> None:
    cached.config("model_cache:\n  - repo_id: file://./weights\n")
    assert cached.doit().code == 0
    assert said_bytes(cached.doit("clean", "-n", "cache_weights:weights")) == [7]
    assert sum(said_bytes(cached.doit("clean", "-n"))) == ALL
    assert sum(said_bytes(cached.doit("clean"))) == ALL
    assert everything(cached) == {}


def test_another_projects_weights_stay(cached: Truss) -> None:
    other = Truss(cached.root, **{k: v for k, v in cached.env.items() if k.startswith(("HF", "TRUSS"))})
    other.folder = cached.root / "other"
    other.folder.mkdir()
    other.dodo("from truss_cache_tasks import task_cache_weights\n")
    other.config('model_cache:\n  - repo_id: org/repo\n    allow_patterns: ["both.bin"]\n')
    claimed = other.doit()
    assert claimed.code == 0, claimed.text
    done = cached.doit("clean")
    assert sum(said_bytes(done)) == ALL - SIZES["both.bin"]
    assert other.doit("cache-why", "--check").code == 0


@pytest.fixture
def blocked(cached: Truss) -> Path:
    """Something that nobody can unlink, not even root: a folder, full, lies where a.bin's link was."""
    (link,) = cached.hub_cache.glob("models--org--repo/snapshots/*/a.bin")
    link.unlink()
    link.mkdir()
    (link / "mine.txt").write_text("a user's own")
    return link


@pytest.mark.parametrize("command", [*COMMANDS, ["cli"]])
def test_a_clean_that_cannot_remove_something_removes_the_rest_and_exits_3(
    cached: Truss, blocked: Path, command: list[str]
) -> None:
    done = cached.cli("clean") if command == ["cli"] else cached.doit(*command)
    assert done.code == 3, done.text
    assert "Traceback" not in done.text
    assert f"could not remove:\n  {blocked}: " in done.err
    assert done.err.count("hint: ") == 1
    left = {path.rsplit("/", 1)[-1] for path in everything(cached)}
    assert "mine.txt" in left
    assert not left & {"b.bin", "both.bin", "w.bin"}, "the rest went"
    assert cached.doit("list", "--all", "--status").out.count("R ") >= 3, "and no entry passes for fresh"

    (blocked / "mine.txt").unlink()
    blocked.rmdir()
    finished = cached.cli("clean") if command == ["cli"] else cached.doit(*command)
    assert finished.code == 0, finished.text
    assert everything(cached) == {}
    assert not (cached.hub_cache / "models--org--repo").exists()
