"""What the next run makes of damage at every kind of file and record, in each layout, and what `verify` says of it.

A run heals: the entry is fresh and `verify` finds nothing, with no more fetched than what was lost. Or it refuses by
name: a folder with files of the user's, a record of a later version, a record that this user may not read. Every
command is that of a user whom a file of mode 0 refuses.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from entry_cases import FILES, Case, before_gcs, make_case, on_gcs
from odd_disk import OddDisk, odd_disk
from trusses import BIN, Ran

from scenarios.cache.forks import ForkedTruss

Make = Callable[..., Case]
Damage = Callable[[Path], object]
__all__ = ["before_gcs", "make_case", "odd_disk", "on_gcs"]

NAME = "model.bin"
DATA = FILES[NAME]


def cli(case: Case, *args: str) -> Ran:
    assert isinstance(case.truss, ForkedTruss)
    ran = case.truss.cli(*args, rights=False)
    assert ran.code in (0, 1, 3), ran
    assert "internal error" not in ran.text, ran
    assert "Traceback" not in ran.text, ran
    return ran


def is_healed(case: Case) -> None:
    assert cli(case, "verify").text.count("good, 4 files") == 1
    assert cli(case, "why").text.count(": fresh\n") == 1
    assert case.tree() == FILES


# What may happen to a file


def with_its_time(change: Damage) -> Damage:
    """Return a change that leaves no trace in the mtime."""

    def changed(path: Path) -> None:
        stat = path.stat()
        change(path)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    return changed


def instead(make: Damage) -> Damage:
    """Return a change that puts something in place of a file."""

    def changed(path: Path) -> None:
        path.unlink()
        make(path)

    return changed


def put_folder_with_file(path: Path) -> None:
    path.mkdir()
    (path / "mine.txt").write_text("mine")


def put_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        here = os.open(path.parent, os.O_RDONLY)  # a path of a socket has at most 107 bytes
        one.bind(f"/proc/self/fd/{here}/{path.name}")
        os.close(here)


LOST = {  # damage -> (how, what `verify` says of a file with it)
    "gone": (Path.unlink, "missing"),
    "cut": (with_its_time(lambda path: os.truncate(path, 9)), "found 9 bytes, expected 30,000"),
    "other": (instead(lambda path: path.write_bytes(b"other")), "found 5 bytes, expected 30,000"),
    "empty folder": (instead(lambda path: (path / "a" / "b").mkdir(parents=True)), "replaced by a folder"),
    "no rights": (lambda path: path.chmod(0), "not readable by this user"),
    "dangling link": (instead(lambda path: path.symlink_to("nowhere")), "replaced by a link"),
    "link elsewhere": (instead(lambda path: path.symlink_to("/etc/hostname")), "replaced by a link"),
    "fifo": (instead(os.mkfifo), "replaced by something that is no file"),
    "socket": (instead(put_socket), "replaced by something that is no file"),
}
IN_PLACE = ("cut", "no rights")  # a change of the bytes, under all names that they have


def blob_of(case: Case) -> Path:
    return next(path for path in (case.truss.hub_cache / "models--org--name" / "blobs").iterdir() if is_model(path))


def is_model(path: Path) -> bool:
    return path.is_file() and path.stat().st_size == len(DATA)


@pytest.mark.parametrize(("layout", "which"), [("hub", "path"), ("hub", "blob"), ("mount", "path"), ("local", "path")])
def test_a_run_heals_a_lost_file_and_fetches_nothing_else(layout: str, which: str, make_case: Make) -> None:
    case = make_case(layout)
    assert cli(case).code == 0
    inodes = {path: (case.shown / path).stat().st_ino for path in FILES if path != NAME}
    for damage, (change, words) in LOST.items():
        change(blob_of(case) if which == "blob" else case.shown / NAME)
        found = cli(case, "verify")
        assert (found.code, found.out.count(words), found.out.count(NAME)) == (1, 1, 1), (damage, found)
        if layout == "local":
            quick = cli(case, "verify", "--quick")
            assert (quick.code, quick.out) == (1, found.out), (damage, quick)
        ran = cli(case)
        has_copy = which == "path" and damage not in IN_PLACE and layout != "local"
        assert f"fetched {'0 files' if has_copy else '1 file'}, " in ran.err, (damage, ran)
        is_healed(case)
    assert {path: (case.shown / path).stat().st_ino for path in FILES if path != NAME} == inodes


@pytest.mark.parametrize("layout", ["hub", "mount", "local"])
def test_a_bit_that_no_stat_shows_is_found_by_verify_and_healed_by_always(layout: str, make_case: Make) -> None:
    case = make_case(layout)
    assert cli(case).code == 0
    with_its_time(lambda path: path.write_bytes(DATA[:-1] + b"?"))(case.shown / NAME)
    assert cli(case, "verify", "--quick").code == 0
    found = cli(case, "verify")
    assert (found.code, found.text.count(f"{NAME}: got xxh3-128 ")) == (1, 1)
    assert "fetched 1 file, " in cli(case, "-a").err
    is_healed(case)


@pytest.mark.parametrize(("layout", "which"), [("hub", "path"), ("hub", "blob"), ("mount", "path"), ("local", "path")])
def test_a_folder_with_files_fails_by_name_before_a_byte_is_fetched(layout: str, which: str, make_case: Make) -> None:
    case = make_case(layout)
    assert cli(case).code == 0
    path = blob_of(case) if which == "blob" else case.shown / NAME
    instead(put_folder_with_file)(path)
    assert cli(case, "verify").code == 1
    for args in ([], ["-a"]):
        ran = cli(case, *args)
        assert ran.code == 1, ran
        assert f"{path}: found a folder, expected a file\nhint: Move it away" in ran.err, ran
    assert (path / "mine.txt").read_text() == "mine"
    assert not list(case.records.glob("partials/*"))
    shutil.rmtree(path)
    assert cli(case).code == 0
    is_healed(case)


# What may happen to a record

UNUSABLE: dict[str, Damage] = {
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "not UTF-8": lambda path: path.write_bytes(b'{"format": 1, "\xff": 1}'),
    "wrong types": lambda path: path.write_text(
        json.dumps({**dict.fromkeys(json.loads(path.read_text()), 7), "format": 1})
    ),
    "deep": lambda path: path.write_text("[" * 200_000),
    "empty folder": instead(Path.mkdir),
    "dangling link": instead(lambda path: path.symlink_to("nowhere")),
    "fifo": instead(os.mkfifo),
}


@dataclass(frozen=True)
class Record:
    """A record of a case.

    Args:
        place: a pattern, below the root.
        fetched: by a run without it; where the store has digests, they tell that the files are whole.
    """

    layout: str
    place: str
    fetched: str = "0 files"


RECORDS = [
    Record("hub", ".truss_cache/claims/*.json"),
    Record("hub", ".truss_cache/pins.json"),
    Record("hub", "refs/main"),
    Record("mount", ".truss_cache/manifests/*.json"),
    Record("local", ".truss_cache/manifests/*.json", "4 files"),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: f"{record.layout}:{record.place}")
def test_a_run_heals_a_record_that_cannot_be_used(record: Record, make_case: Make) -> None:
    case = make_case(record.layout)
    assert cli(case).code == 0
    for damage, change in UNUSABLE.items():
        (path,) = case.root.glob(record.place)
        if damage == "wrong types" and path.name == "main":
            continue
        change(path)
        assert "stale" in cli(case, "why").out, damage
        if path.suffix == ".json":
            found = cli(case, "verify")
            assert (found.code, found.text.count(f"{path.relative_to(case.root)}: ")) == (1, 1), (damage, found)
        ran = cli(case)
        assert ran.code == 0, (damage, ran)
        assert f": fetched {record.fetched}, " in ran.err, (damage, ran)
        is_healed(case)
    assert cli(case, "clean").code == 0
    assert not [path for path in case.records.rglob("*.json")]


def test_a_note_of_an_unfinished_fetch_that_cannot_be_used_is_replaced(make_case: Make) -> None:
    case = make_case("local")
    assert cli(case).code == 0
    (manifest,) = (case.records / "manifests").iterdir()
    note = case.records / "fetches" / manifest.name
    for damage, change in UNUSABLE.items():
        (case.shown / NAME).unlink()
        note.parent.mkdir(exist_ok=True)
        note.write_text('{"format": 1, "claims": [], "blobs": [], "paths": []}')
        change(note)
        ran = cli(case)
        assert ": fetched 1 file, " in ran.err, (damage, ran)
        assert not os.path.lexists(note), damage
        is_healed(case)


@pytest.mark.parametrize("place", ["claims/*.json", "pins.json"])
@pytest.mark.parametrize("change", ["future", "folder", "no rights"])
def test_a_record_that_may_be_needed_is_refused_by_name_and_stays(place: str, change: str, make_case: Make) -> None:
    case = make_case("hub")
    assert cli(case).code == 0
    (path,) = case.records.glob(place)
    before = path.read_bytes()
    if change == "future":
        path.write_bytes(before := before.replace(b'"format": 1', b'"format": 2'))
    elif change == "folder":
        instead(put_folder_with_file)(path)
    else:
        path.chmod(0)
    found = cli(case, "verify")
    assert (found.code, found.text.count(f"{path.name}: it")) == (1, 1) or change == "future", found
    ran = cli(case)
    if place == "pins.json" and change == "no rights":
        assert ran.code == 0  # another user's pins are not missed by an entry that is whole
    else:
        assert ran.code == 1, ran
        assert str(path) in ran.err, ran
    assert cli(case, "clean").code in (0, 3)
    if change == "folder":
        assert (path / "mine.txt").read_text() == "mine"
    else:
        path.chmod(0o600)
        assert path.read_bytes() == before


def test_pins_stay_where_the_claims_of_others_cannot_be_listed(make_case: Make, odd_disk: OddDisk) -> None:
    case = make_case("hub")
    assert cli(case).code == 0
    shutil.rmtree(case.records / "manifests")
    (claims,) = (case.records / "claims").iterdir()
    claims.rename(claims.with_name("other.json"))
    for number in range(5, 11):  # while it looks at the claims, and after that
        env = odd_disk(claims.parent, f"open=EIO@{number}")
        ran = case.truss.run([str(BIN / "truss-cache"), "clean"], **env)
        assert ran.code in (0, 3), ran
        assert (case.records / "pins.json").exists(), number


@pytest.mark.parametrize("change", ["cut", "empty folder", "future", "no rights"])
def test_a_damaged_note_of_a_projects_roots_is_replaced_and_one_of_a_later_version_stays(
    change: str, make_case: Make
) -> None:
    case = make_case("local")
    assert cli(case).code == 0
    (path,) = (case.truss.root / "home" / ".local" / "state" / "truss-cache").glob("*.json")
    if change == "future":
        path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    elif change == "no rights":
        path.chmod(0)
    else:
        UNUSABLE[change](path)
    (case.shown / NAME).unlink()
    ran = cli(case)
    assert ran.code == 0, ran
    is_healed(case)
    stays = change in ("future", "no rights")
    assert ("cannot replace" in ran.err) == stays
    assert cli(case, "clean").code == 0
    assert path.exists() == stays


@pytest.mark.parametrize("change", [*UNUSABLE, "folder", "future", "no rights"])
def test_a_lock_file_is_no_obstacle_or_is_named(change: str, make_case: Make) -> None:
    case = make_case("mount")
    assert cli(case).code == 0
    (case.shown / NAME).unlink()
    lock = case.records / "locks" / "root.lock"
    lock.parent.mkdir(exist_ok=True)
    lock.write_text("{}")
    if change == "folder":
        instead(put_folder_with_file)(lock)
    elif change == "no rights":
        lock.chmod(0)
    elif change != "future":
        UNUSABLE[change](lock)
    ran = cli(case)
    if change in ("folder", "no rights", "dangling link", "fifo"):
        assert ran.code == 1, ran
        assert str(lock) in ran.err, ran
        lock.rename(case.truss.root / "away")
        ran = cli(case)
    assert ran.code == 0, ran
    is_healed(case)


def test_verify_goes_on_after_a_root_that_cannot_be_read(make_case: Make) -> None:
    case = make_case("local")
    config = case.truss.folder / "config.yaml"
    weights = f"weights:\n  - source: file://{case.truss.folder}/weights\n    mount_location: "
    config.write_text(f"{weights}/one\n  - source: file://{case.truss.folder}/weights\n    mount_location: /two\n")
    assert cli(case).code == 0
    records = case.truss.mounts / "one" / ".truss_cache"
    records.rename(case.truss.root / "away")
    records.symlink_to(case.truss.root / "away")
    (case.truss.mounts / "two" / NAME).unlink()
    found = cli(case, "verify")
    assert found.code == 1
    assert f"{records}: a link to" in found.out
    assert f"{NAME}: missing" in found.out
