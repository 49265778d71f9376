"""`file://`: a folder of this machine, looked at again only when somebody asks."""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path

import pytest
from recorder import Recorder
from trusses import BIN, Ran, Truss, tree

from scenarios.buckets.stores import Folder
from truss_cache_tasks.app.workspace import open_workspace
from truss_cache_tasks.events import Committed, Event, Planned, Relisting
from truss_cache_tasks.operations.fetch.fetch import fetch
from truss_cache_tasks.operations.run import RunContext


def fetched(ran: Ran) -> int:
    """How many files a run says that it brought."""
    assert ran.code == 0, ran
    return sum(map(int, re.findall(r"fetched (\d+) file", ran.err)))


@pytest.fixture
def source(on_disk: Folder, truss: Truss) -> Folder:
    for path in ("a.bin", "b.bin", "sub/c.txt"):
        on_disk.put(f"m/{path}", path.encode() * 50)
    truss.config("model_cache:\n  - repo_id: file://../source/m\n")
    return on_disk


def test_editing_the_config_fetches_only_what_changed(source: Folder, truss: Truss) -> None:
    assert fetched(truss.cli()) == 3
    truss.config("model_cache:\n  - repo_id: file://../source/m\n    allow_patterns: ['*.bin']\n")
    assert fetched(truss.cli()) == 0
    assert set(tree(truss.model_cache)) == {"m/a.bin", "m/b.bin"}
    source.put("m/sub/d.bin", b"new")
    truss.config("model_cache:\n  - repo_id: file://../source/m\n    ignore_patterns: ['a.bin']\n")
    assert fetched(truss.cli()) == 1
    assert set(tree(truss.model_cache)) == {"m/b.bin", "m/sub/c.txt", "m/sub/d.bin"}


def test_a_changed_source_is_seen_when_it_is_asked_for(source: Folder, truss: Truss) -> None:
    assert fetched(truss.doit("cache_weights")) == 3
    source.put("m/a.bin", b"another a")
    source.put("m/new.bin", b"new")
    source.delete("m/b.bin")
    assert "fetching" not in truss.doit("cache_weights").text
    assert fetched(truss.doit("run", "-a", "cache_weights")) == 2
    there = {f"m/{path}": data for path, data in source.objects("m").items()}
    assert tree(truss.model_cache) == there
    assert fetched(truss.cli("run", "-a")) == 0


def test_a_copy_is_a_copy_whatever_happens_to_the_source(source: Folder, truss: Truss) -> None:
    before = {f"m/{path}": data for path, data in source.objects("m").items()}
    assert truss.cli().code == 0
    for path in (source.root / "m").rglob("*.bin"):
        with open(path, "r+b") as file:  # in place: a hard link would show it
            file.write(b"XXXX")
    assert tree(truss.model_cache) == before
    shutil.rmtree(source.root)
    assert tree(truss.model_cache) == before


def test_links_in_the_source_are_followed_and_come_as_files(source: Folder, truss: Truss) -> None:
    (source.root / "elsewhere").mkdir()
    (source.root / "elsewhere" / "x.bin").write_bytes(b"x")
    (source.root / "m" / "linked.bin").symlink_to("a.bin")
    (source.root / "m" / "folder").symlink_to("../elsewhere")
    (source.root / "m" / "dangling").symlink_to("nowhere")
    (source.root / "m" / "sub" / "loop").symlink_to("..")
    refused = truss.cli()
    assert refused.code == 1
    assert "m: file://../source/m: folder is a link that leads out of the folder" in refused.err
    assert tree(truss.model_cache) == {}
    ran = truss.cli(TRUSS_CACHE_FOLLOW_LINKS="1")
    assert ran.code == 0, ran
    seen = tree(truss.model_cache)
    assert seen["m/linked.bin"] == seen["m/a.bin"]
    assert seen["m/folder/x.bin"] == b"x"
    assert not [path for path in truss.model_cache.rglob("*") if path.is_symlink()]
    assert "dangling is a link to nothing" in ran.err
    assert "loop links to a folder around it" in ran.err


def test_a_source_file_that_changes_during_the_copy_is_copied_anew(source: Folder, truss: Truss) -> None:
    source.put("m/big.bin", b"1" * 3_000_000)
    with truss.start([str(BIN / "truss-cache")], TRUSS_CACHE_MAX_RATE="2M") as child:
        partials = truss.model_cache / ".truss_cache" / "partials"
        until = time.monotonic() + 60
        while not any(path.stat().st_blocks > 200 for path in partials.glob("*")) and time.monotonic() < until:
            time.sleep(0.005)
        source.put("m/big.bin", b"2" * 3_000_000)
        _, said = child.communicate(timeout=60)
    assert child.returncode == 0, said
    assert "listing it again" in said
    assert tree(truss.model_cache)["m/big.bin"] == b"2" * 3_000_000


def test_local_files_have_no_digest_of_a_store_and_are_said_to_be_unverified(source: Folder, truss: Truss) -> None:
    assert "3 unverified" in truss.cli().err
    verify = truss.cli("verify")
    assert verify.code == 0
    assert "3 unverified by the store" in verify.out


def test_the_same_config_has_the_same_key_wherever_it_lies(source: Folder, truss: Truss, tmp_path: Path) -> None:
    key = truss.cli("key").out
    other = Truss(tmp_path / "other")
    shutil.copy(truss.folder / "config.yaml", other.folder)
    assert other.cli("key").out == key
    other.config(f"model_cache:\n  - repo_id: file://{source.root}/m\n")
    assert other.cli("key").out != key


def test_a_file_that_this_user_may_not_read_is_denied(source: Folder, truss: Truss) -> None:
    if os.geteuid() == 0:
        pytest.skip("a command that root starts may read everything; tests/sources/test_local.py becomes another user")
    (source.root / "m" / "a.bin").chmod(0)
    ran = truss.cli()
    assert ran.code == 1
    assert "a.bin" in ran.err


def test_files_that_came_before_the_source_was_listed_again_are_counted(
    on_disk: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    on_disk.put("m/a.bin", b"a" * 5000)
    on_disk.put("m/b.bin", b"b")
    (tmp_path / "config.yaml").write_text(f"model_cache:\n  - repo_id: file://{on_disk.root}/m\n")
    recorder = Recorder()

    def change_b_once(event: Event) -> None:
        recorder(event)
        if isinstance(event, Planned) and len(recorder.of(Planned)) == 1:
            on_disk.put("m/b.bin", b"another b")

    (context,) = open_workspace(tmp_path / "config.yaml", tmp_path / "cache").contexts
    fetch(context, RunContext(id="run", reporter=change_b_once))
    assert len(recorder.of(Relisting)) == 1
    (committed,) = recorder.of(Committed)
    assert (committed.fetched_files, committed.fetched_size) == (2, 5009)
