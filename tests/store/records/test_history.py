"""The history of a root: one line of bounded size a run, the last 200 runs, no line lost, and no run fails for it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from truss_cache_tasks.errors import DiskError
from truss_cache_tasks.store.files.locks import locked
from truss_cache_tasks.store.layouts.flat_layout import flat_root
from truss_cache_tasks.store.layouts.layout import CacheRoot
from truss_cache_tasks.store.records.history import append_line, append_removal, new_line, shortened
from truss_cache_tasks.store.removal.clean import remove_empty_folders


@pytest.fixture
def root(tmp_path: Path) -> CacheRoot:
    """A root with a record: without one there is no history."""
    (tmp_path / ".truss_cache" / "claims").mkdir(parents=True)
    (tmp_path / ".truss_cache" / "claims" / "ours.json").touch()
    return flat_root(tmp_path)


def history(root: CacheRoot) -> Path:
    return root.records / "runs.jsonl"


def runs(root: CacheRoot) -> list[str]:
    return [json.loads(line)["run"] for line in history(root).read_text().splitlines()]


def add(root: CacheRoot, run: str, **fields: Any) -> None:
    append_line(root, {**new_line(run, "ours", "fetched"), **fields})


def test_the_last_200_runs_stay_each_with_all_its_lines(root: CacheRoot) -> None:
    for number in range(205):
        add(root, f"{number}")
        add(root, f"{number}")
    assert runs(root) == [f"{number}" for number in range(5, 205) for _ in range(2)]


def test_a_run_of_thousands_of_entries_is_cut_to_what_a_mebibyte_holds(root: CacheRoot) -> None:
    for number in range(3000):
        add(root, "one", entry=f"{number}", text="t" * 600)
    assert history(root).stat().st_size <= (1 << 20) + 2000
    entries = [int(json.loads(line)["entry"]) for line in history(root).read_text().splitlines()]
    assert entries == list(range(entries[0], 3000))


def test_what_is_no_line_goes_with_the_cut_and_a_newer_format_stays(root: CacheRoot) -> None:
    newer = json.dumps({"format": 9, "run": "newer", "other": [1]})
    deep = "[" * 100_000
    history(root).write_bytes(f'{newer}\nno json\n[1]\n{{"run": 1}}\n{deep}\n\n{{"run": "cut'.encode() + b"\0\xff")
    add(root, "ours")
    assert runs(root) == ["newer", "ours"]
    assert history(root).read_text().startswith(newer)


def test_a_line_that_was_cut_does_not_take_the_next_one_with_it(root: CacheRoot) -> None:
    add(root, "one")
    with open(history(root), "a") as file:
        file.write('{"format": 1, "run": "tw')
    add(root, "three")
    assert runs(root) == ["one", "three"]


def test_no_line_of_another_writer_is_lost_by_the_cut(root: CacheRoot) -> None:
    for number in range(200):
        add(root, f"old {number}")

    def write(name: str) -> None:
        for number in range(40):
            with locked(root.lock("root")):
                add(root, f"{name} {number}")

    writers = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = runs(root)
    assert len(found) == 200
    assert {run for run in found if not run.startswith("old")} == {f"{n} {i}" for n in "abcd" for i in range(40)}


def folder(path: Path) -> None:
    path.mkdir()


def link(path: Path) -> None:
    path.symlink_to(path.parent.parent / "precious")


def hard_link(path: Path) -> None:
    os.link(path.parent.parent / "precious", path)


@pytest.mark.parametrize("make", [folder, link, hard_link, os.mkfifo])
def test_what_lies_in_its_place_is_left_alone_and_named(root: CacheRoot, make: Callable[[Path], None]) -> None:
    precious = root.path / "precious"
    precious.write_text("precious")
    make(history(root))
    with pytest.raises(DiskError, match=r"runs\.jsonl"):
        add(root, "one")
    assert precious.read_text() == "precious"


def test_a_root_without_any_other_record_gets_no_history(tmp_path: Path) -> None:
    root = flat_root(tmp_path)
    append_removal(root, "run", "ours", "cleaned", ["one"], files=1, size=2)
    assert list(tmp_path.iterdir()) == []


def test_a_history_that_is_left_alone_goes(root: CacheRoot) -> None:
    add(root, "one")
    remove_empty_folders(root)
    assert history(root).exists()
    (root.records / "claims" / "ours.json").unlink()
    remove_empty_folders(root)
    assert list(root.path.iterdir()) == []


def test_a_removal_is_a_line_of_bounded_size(root: CacheRoot) -> None:
    names = [f"{number}{'n' * 5000}\ud800\x1b" for number in range(5000)]
    append_removal(root, "run", "ours", "pruned", names, files=7, size=8)
    (line,) = history(root).read_text().splitlines()
    assert len(line) < 5000
    told = json.loads(line)
    assert (told["did"], told["files"], told["size"], len(told["entries"])) == ("pruned", 7, 8, 10)


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("https://u:p@h.com:8/a/b?X-Amz-Signature=abc&x#y said 403", "https://h.com:8/a/b said 403"),
        ("http://user:p@ss@h.com/a: refused", "http://h.com/a: refused"),
        ("HTTPS://h/a?q", "HTTPS://h/a"),
        ("hf://org/name@main, s3://b/k", "hf://org/name@main, s3://b/k"),
        ("e" * 300, "e" * 200 + "..."),
    ],
)
def test_a_text_of_a_line_has_no_query_no_user_and_an_end(text: str, short: str) -> None:
    assert shortened(text) == short
