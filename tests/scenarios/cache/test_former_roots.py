"""The cache roots that a project has used are known to its clean, wherever an edit or a variable has led since."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from servers.hub import Hub
from trusses import Truss, tree

from scenarios.buckets.stores import Folder
from scenarios.cache.disk import clean_tells, leftovers, paths_below, said_bytes
from scenarios.cache.upstreams import beside, run

FILES = {"a.bin": b"a" * 20_000, "sub/b.txt": b"b" * 300}
SIZE = 20_300
HUB, VOLUME, MOUNT, FOLDER, BUCKET = (
    "model_cache:\n  - repo_id: org/name\n",
    "model_cache:\n  - repo_id: org/name\n    use_volume: true\n    volume_folder: v\n",
    "weights:\n  - source: hf://org/name@main\n    mount_location: /one\n",
    "weights:\n  - source: file://../source/m\n    mount_location: /one\n",
    "model_cache:\n  - repo_id: file://../source/m\n",
)


@pytest.fixture
def filled(hub: Hub, on_disk: Folder, truss: Truss) -> Truss:
    hub.create("org/name").commit(FILES)
    for path, data in FILES.items():
        on_disk.put(f"m/{path}", data)
    return truss


def state(truss: Truss, project: str = "") -> Path:
    """Return the file in which the roots of a project are kept."""
    name = project or hashlib.sha256(os.path.realpath(truss.folder / "config.yaml").encode()).hexdigest()[:16]
    return truss.root / "home" / ".local" / "state" / "truss-cache" / f"{name}.json"


def roots(truss: Truss) -> set[str]:
    """Return the roots that the file names, relative to the test's folder; its other fields must be right."""
    kept: dict[str, Any] = json.loads(state(truss).read_text())
    assert kept.keys() == {"format", "config", "host", "roots"}
    assert (kept["format"], kept["config"]) == (1, str(truss.folder / "config.yaml"))
    return {str(Path(root).relative_to(truss.root)) for root in kept["roots"]}


def test_a_run_keeps_the_roots_that_it_uses_and_those_before(filled: Truss) -> None:
    filled.config(HUB)
    run(filled)
    assert roots(filled) == {"hf/hub/models--org--name"}
    filled.config(VOLUME)
    run(filled)
    assert roots(filled) == {"hf/hub/models--org--name", "model_cache"}
    filled.config(MOUNT)
    run(filled)
    assert roots(filled) == {"hf/hub/models--org--name", "model_cache", "mounts/one"}
    clean_tells(filled)
    assert leftovers(filled) == []
    assert not state(filled).exists()


def test_only_a_run_that_writes_writes_it(filled: Truss) -> None:
    filled.config(MOUNT)
    for command in (["why"], ["verify"], ["clean", "-n"], ["clean"]):
        filled.cli(*command)
        assert not state(filled).exists(), command
    run(filled)
    path = state(filled)
    os.utime(path, ns=(1, 1))
    written = path.read_bytes()
    for command in ([], ["why", "--check"], ["verify"], ["clean", "-n"]):
        run(filled, *command)
    assert filled.doit("cache_weights").code == 0
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (written, 1)
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_it_lies_where_xdg_state_home_says(filled: Truss) -> None:
    filled.env["XDG_STATE_HOME"] = str(filled.root / "my state")
    filled.config(MOUNT)
    run(filled)
    (path,) = (filled.root / "my state" / "truss-cache").iterdir()
    assert path.name == state(filled).name
    assert not state(filled).parent.exists()
    run(filled, "clean")
    assert not path.exists()


def mount_location(truss: Truss) -> None:
    truss.config(FOLDER.replace("/one", "/two"))


def mount_root(truss: Truss) -> None:
    truss.env["TRUSS_MOUNT_ROOT"] = str(truss.root / "other")


def model_cache_dir(truss: Truss) -> None:
    truss.env["TRUSS_MODEL_CACHE_DIR"] = str(truss.root / "other")


def hf_home(truss: Truss) -> None:
    truss.env["HF_HOME"] = str(truss.root / "other")


def to_a_bucket(truss: Truss) -> None:
    truss.config(BUCKET)


def to_nothing(truss: Truss) -> None:
    truss.config("model_cache: []\n")


def everywhere(truss: Truss) -> list[Path]:
    """Return what lies in the caches, old and new, huggingface_hub's lock files apart."""
    folders = (truss.root / "hf", truss.root / "model_cache", truss.root / "mounts", truss.root / "other")
    return [path for path in paths_below(*folders) if ".locks" not in path.parts]


@pytest.mark.parametrize(
    ("config", "edit", "again"),
    [
        (FOLDER, mount_location, True),
        (FOLDER, mount_location, False),
        (FOLDER, mount_root, True),
        (VOLUME, model_cache_dir, False),
        (HUB, hf_home, True),
        (HUB, hf_home, False),
        (MOUNT, to_a_bucket, True),
        (MOUNT, to_nothing, False),
    ],
    ids=lambda value: "" if isinstance(value, str) else getattr(value, "__name__", "run" if value else "none"),
)
def test_a_clean_finds_the_root_of_before_an_edit(
    config: str, edit: Callable[[Truss], None], again: bool, filled: Truss
) -> None:
    """With a run after the edit, and without."""
    filled.config(config)
    run(filled)
    shown = weights(filled)
    edit(filled)
    if again:
        run(filled)
        shown = weights(filled)
    dry, wet = filled.cli("clean", "-n"), filled.cli("clean")
    assert said_bytes(dry) == said_bytes(wet) == shown
    assert everywhere(filled) == []
    assert not state(filled).exists()


def weights(truss: Truss) -> int:
    """Return the bytes of all weights, each inode once."""
    whole = {path.stat().st_ino: path.stat().st_size for path in everywhere(truss) if ".truss_cache" not in path.parts}
    return sum(size for size in whole.values() if size >= 300)  # refs are smaller


def test_a_clean_of_one_entry_finds_its_root_of_before_an_edit(filled: Truss) -> None:
    two = MOUNT + "  - source: file://../source/m\n    mount_location: /stays\n"
    filled.config(two)
    run(filled)
    filled.config(two.replace("/one", "/two"))
    run(filled)
    assert tree(filled.mounts / "one") == FILES
    dry, wet = filled.cli("clean", "-n", "org/name"), filled.cli("clean", "org/name")
    assert said_bytes(dry) == said_bytes(wet) == SIZE, "links to one file, and its blob in the hub cache"
    assert tree(filled.mounts) == {f"stays/{path}": data for path, data in FILES.items()}
    assert filled.doit("clean", "cache_weights").code == 0
    assert leftovers(filled) == []
    assert not state(filled).exists()


@pytest.mark.parametrize("how", ["a file in its way", "a file above it"])
def test_where_it_cannot_be_written_a_run_warns_and_the_claims_tell_as_before(how: str, filled: Truss) -> None:
    in_the_way = state(filled).parent if how == "a file in its way" else state(filled).parents[1]
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("mine")
    two = MOUNT + "  - source: file://../source/m\n    mount_location: /stays\n"
    filled.config(two)
    ran = filled.cli()
    assert ran.code == 0, ran.text
    warnings = [line for line in ran.err.splitlines() if "warning: " in line]
    assert warnings, ran.err
    assert all(str(state(filled).parent) in line for line in warnings)
    filled.config(two.replace("/one", "/two"))
    ran = filled.cli()
    assert ran.code == 0, ran.text
    ran = filled.cli("clean")  # the mount that both configs have knows of the others
    assert ran.code == 0, ran.text
    assert everywhere(filled) == []
    assert in_the_way.read_text() == "mine"


@pytest.mark.parametrize("text", ["", "[]", '{"format": 1, "config": 5, "roots": ["rel", 5]}'])
def test_a_broken_one_is_none_and_the_next_run_that_writes_replaces_it(text: str, filled: Truss) -> None:
    state(filled).parent.mkdir(parents=True)
    state(filled).write_text(text)
    filled.config(MOUNT)
    for command in (["why"], ["clean", "-n"], []):
        ran = filled.cli(*command)
        assert ran.code == 0, ran.text
        assert "Traceback" not in ran.err
        assert "internal" not in ran.err
    assert roots(filled) == {"hf/hub/models--org--name", "mounts/one"}


def test_a_root_that_is_none_of_ours_or_gone_is_left_alone(filled: Truss) -> None:
    filled.config(MOUNT)
    run(filled)
    mine, theirs = filled.root / "mine", beside(filled, "theirs")
    mine.mkdir()
    (mine / "a.bin").write_bytes(FILES["a.bin"])
    theirs.config(BUCKET)
    run(theirs)
    kept = json.loads(state(filled).read_text())
    kept["roots"] += [str(mine), str(filled.root / "gone"), str(theirs.model_cache), "/"]
    state(filled).write_text(json.dumps(kept))
    filled.config(MOUNT.replace("/one", "/two"))
    run(filled, "clean")
    assert tree(filled.mounts) == {}
    assert tree(mine) == {"a.bin": FILES["a.bin"]}
    assert list(mine.iterdir()) == [mine / "a.bin"]
    assert not (filled.root / "gone").exists()
    assert theirs.cli("why", "--check").code == 0
    assert theirs.cli("verify").code == 0


def test_a_project_whose_config_lies_elsewhere_now_cleans_the_roots_of_before(filled: Truss) -> None:
    """As on a build server that checks out a commit in a folder of its own."""
    filled.env["TRUSS_CACHE_PROJECT"] = "named"
    filled.config(FOLDER)
    run(filled)
    assert state(filled, "named").exists()
    moved = beside(filled, "moved")
    moved.config(FOLDER.replace("/one", "/two"))
    run(moved)
    assert json.loads(state(filled, "named").read_text())["config"] == str(moved.folder / "config.yaml")
    assert clean_tells(moved) == 2 * SIZE
    assert leftovers(filled) == []
    assert not state(filled, "named").exists()
