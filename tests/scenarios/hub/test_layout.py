"""huggingface_hub is the judge of the hub layout: it finds every file, and has nothing to warn of."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from entries import entry
from machine import FILES, Judge, Machine
from servers.hub import Hub, Repo
from trusses import Truss


def test_after_a_run_huggingface_hub_finds_every_file_offline(machine: Machine, repo: Repo, judge: Judge) -> None:
    done = machine.truss(entry("org/name")).run()["org/name"]
    commit = repo.refs["refs/heads/main"]
    assert (done.files, done.size) == (5, sum(map(len, FILES.values())) - 60_000)  # one blob has two names
    assert judge.snapshot(machine) == FILES
    assert judge.scan(machine) == {commit: {"main"}}
    assert {path: judge.loads(machine, path) for path in FILES} == FILES
    assert judge.loads(machine, "config.json", commit) == b"{}"


def test_links_are_relative_as_huggingface_hub_makes_them(machine: Machine, repo: Repo, tmp_path: Path) -> None:
    from huggingface_hub import snapshot_download

    machine.truss(entry("org/name")).run()
    theirs = snapshot_download("org/name", cache_dir=tmp_path / "hf", endpoint=machine.hub.url)
    ours = machine.repo() / "snapshots" / Path(theirs).name
    for path in FILES:
        assert os.readlink(ours / path) == os.readlink(Path(theirs) / path)
    blobs = {path.name for path in (tmp_path / "hf/models--org--name/blobs").iterdir()}
    assert {path.name for path in (machine.repo() / "blobs").iterdir()} == blobs


@pytest.mark.parametrize(
    ("revision", "ref"), [("v1", "v1"), ("refs/pr/1", "refs/pr/1"), ("dev/x", "dev/x"), ("short", None), ("full", None)]
)
def test_every_kind_of_revision_leaves_the_ref_that_huggingface_hub_leaves(
    revision: str, ref: str | None, machine: Machine, repo: Repo, judge: Judge, tmp_path: Path
) -> None:
    from huggingface_hub import snapshot_download

    main = repo.refs["refs/heads/main"]
    repo.tag("v1")
    pull = repo.commit({"config.json": b"pull"}, branch="refs/pr/1")
    repo.commit({"dev.txt": b"dev"}, branch="dev/x")
    revision = {"short": pull[:9], "full": main}.get(revision, revision)
    machine.truss(entry("org/name", revision=revision)).run()
    theirs = tmp_path / "hf"
    snapshot_download("org/name", revision=revision, cache_dir=theirs, endpoint=machine.hub.url)
    assert refs(machine.repo()) == refs(theirs / "models--org--name")
    if ref is not None:
        assert list(refs(machine.repo())) == [ref]
    assert judge.snapshot(machine, revision) == judge.snapshot(machine_of(theirs), revision)
    judge.scan(machine)


def test_a_failed_first_fetch_leaves_nothing_that_scan_cache_dir_sees(
    machine: Machine, repo: Repo, judge: Judge, hub: Hub
) -> None:
    from truss_cache_tasks.errors import AccessDenied, IntegrityError, NotFound

    hub.create("org/gated", gated=True).commit({"w.bin": b"gated"})
    hub.fail("config.json", "flip", "flip", "flip")
    for uri, error in (("org/none", NotFound), ("org/gated", AccessDenied), ("org/name", IntegrityError)):
        with pytest.raises(error):
            machine.truss(entry(uri, allow_patterns=["*.json", "*.bin"])).run()
    judge.scan(machine)
    assert not machine.repo("org/none").exists()
    assert not machine.repo("org/gated").exists()


def test_records_stay_silent_after_an_edit_a_move_and_a_clean(machine: Machine, repo: Repo, judge: Judge) -> None:
    first = repo.refs["refs/heads/main"]
    repo.tag("v1")
    machine.truss(entry("org/name", revision="v1")).run()
    second = repo.commit({"config.json": b"[]"})
    machine.truss(entry("org/name")).run()  # every link of v1 goes, and with them its ref
    assert judge.scan(machine) == {second: {"main"}}
    machine.truss(entry("org/name", allow_patterns=["*.json"])).run()
    assert judge.scan(machine) == {second: {"main"}}
    assert judge.snapshot(machine) == {"config.json": b"[]"}
    third = repo.commit({"config.json": b"[3]"})
    machine.truss(entry("org/name", allow_patterns=["*.json"])).run(force=True)
    assert judge.scan(machine) == {second: set(), third: {"main"}}
    machine.truss(entry("org/name", revision="v1")).run()
    assert judge.scan(machine)[first] == {"v1"}
    machine.truss(entry("org/name", revision="v1")).clean()
    assert judge.scan(machine) == {}
    assert not machine.repo().exists()


def refs(repo: Path) -> dict[str, str]:
    root = repo / "refs"
    return {p.relative_to(root).as_posix(): p.read_text() for p in root.rglob("*") if p.is_file()}


def machine_of(cache: Path) -> Machine:
    machine = object.__new__(Machine)
    machine.hub_cache = cache
    return machine


# Where the hub cache is


@pytest.mark.parametrize(
    ("env", "want"),
    [
        ({"HF_HUB_CACHE": "{root}/1", "HUGGINGFACE_HUB_CACHE": "{root}/2", "HF_HOME": "{root}/3"}, "1"),
        ({"HUGGINGFACE_HUB_CACHE": "{root}/2", "HF_HOME": "{root}/3", "XDG_CACHE_HOME": "{root}/4"}, "2"),
        ({"HF_HOME": "{root}/3", "XDG_CACHE_HOME": "{root}/4"}, "3/hub"),
        ({"XDG_CACHE_HOME": "{root}/4"}, "4/huggingface/hub"),
        ({}, "home/.cache/huggingface/hub"),
    ],
)
@pytest.mark.parametrize("where", ["process", "config"])
def test_the_hub_cache_is_where_the_strongest_variable_says(
    where: str, env: dict[str, Any], want: str, truss: Truss, hub: Hub
) -> None:
    hub.create("org/name").commit({"config.json": b"{}"})
    env = {name: value.format(root=truss.root) for name, value in env.items()}
    del truss.env["HF_HOME"]
    text = "model_cache:\n  - repo_id: org/name\n"
    if where == "process":
        truss.env |= env
    else:
        if env:
            text += "environment_variables:\n" + "".join(f"  {name}: {value}\n" for name, value in env.items())
            truss.env["HF_HUB_CACHE"] = str(truss.root / "not-this-one")  # the config's alone decide
        text += "" if env else "environment_variables: {OTHER: x}\n"
    truss.config(text)
    ran = truss.cli()
    assert ran.code == 0, ran.text
    assert [p.name for p in (truss.root / want / "models--org--name" / "snapshots").iterdir()]
    assert not (truss.root / "not-this-one").exists()
