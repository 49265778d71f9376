"""Patterns of `weights` entries select one set of files, for the mount and for the hub cache behind it alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from servers.hub import Hub
from trusses import Truss, tree

from truss_cache_tasks.model.keys import canonical, request_key
from truss_cache_tasks.model.request import Dialect, Layout, Request, SourceRef

FILES = {
    "config.json": b"{}",
    "model.safetensors": b"m" * 2_000,
    "fp16/model.safetensors": b"h" * 30_000,
    "onnx/deep/model.safetensors": b"o" * 50_000,
}
TOP = {"model.safetensors"}
ALL = {path for path in FILES if path.endswith(".safetensors")}

selections = pytest.mark.parametrize(
    ("allow", "ignore", "selected"),
    [
        (["**/*.safetensors"], None, ALL),
        (["*.safetensors"], None, TOP),
        (["*.safetensors", "onnx/*/*.safetensors"], None, {*TOP, "onnx/deep/model.safetensors"}),
        (None, ["*.safetensors"], set(FILES) - TOP),
        (None, ["**/*.safetensors"], {"config.json"}),
        (["fp16/"], None, {"fp16/model.safetensors"}),
    ],
    ids=["all", "top", "one folder below one", "ignore top", "ignore all", "a folder"],
)


def config(truss: Truss, allow: list[str] | None, ignore: list[str] | None) -> None:
    fields = {"allow_patterns": allow, "ignore_patterns": ignore}
    lines = "".join(f"    {name}: {json.dumps(value)}\n" for name, value in fields.items() if value is not None)
    truss.config(f"weights:\n  - source: hf://org/name\n    mount_location: /m\n{lines}")


def in_hub_cache(truss: Truss) -> set[str]:
    """Return the paths of the one snapshot, whatever their links lead to."""
    return {path.split("/", 3)[3] for path in tree(truss.hub_cache) if "/snapshots/" in path}


def downloaded(hub: Hub) -> set[str]:
    return {r.path.split("/resolve/")[1].split("/", 1)[1] for r in hub.asked("GET") if "/resolve/" in r.path}


@pytest.fixture
def named(truss: Truss, hub: Hub) -> Truss:
    hub.create("org/name").commit(FILES)
    return truss


@selections
def test_a_weights_entry_on_one_disk_brings_the_hub_cache_exactly_what_it_selects(
    named: Truss, hub: Hub, allow: list[str] | None, ignore: list[str] | None, selected: set[str]
) -> None:
    config(named, allow, ignore)
    ran = named.cli()
    assert ran.code == 0, ran.text
    assert tree(named.mounts / "m") == {path: FILES[path] for path in selected}
    assert in_hub_cache(named) == selected
    assert downloaded(hub) == selected
    hub.requests.clear()
    for command in (["why", "--check"], ["verify"]):
        assert named.cli(*command).code == 0
    assert named.cli().err == "1 entry fresh, nothing to do\n"
    assert hub.requests == []
    assert named.cli("clean").code == 0
    assert (in_hub_cache(named), tree(named.mounts)) == (set(), {})


@selections
def test_a_weights_entry_on_two_disks_fetches_exactly_what_it_selects(
    named: Truss,
    hub: Hub,
    small_disk: Callable[[Path, int], Path],
    allow: list[str] | None,
    ignore: list[str] | None,
    selected: set[str],
) -> None:
    small_disk(named.mounts, 4096)
    config(named, allow, ignore)
    ran = named.cli()
    assert ran.code == 0, ran.text
    assert tree(named.mounts / "m") == {path: FILES[path] for path in selected}
    assert downloaded(hub) == selected
    assert named.cli("why", "--check").code == 0


def test_a_weights_and_a_model_cache_entry_of_the_same_patterns_share_bytes_and_no_record(
    named: Truss, hub: Hub
) -> None:
    config(named, ["*.safetensors"], None)
    other = Truss(named.root / "other", hub=hub, HF_HOME=named.env["HF_HOME"])
    other.config("model_cache:\n  - repo_id: org/name\n    allow_patterns: ['*.safetensors']\n")
    assert named.cli().code == 0
    assert other.cli("why", "--check").code == 1, "it selects more files"
    ran = other.cli()
    assert ran.code == 0, ran.text
    assert "2 files, 80.0 kB in" in ran.err, "the one that is there is not fetched again"
    assert in_hub_cache(named) == ALL
    for truss in (named, other):
        assert truss.cli("why", "--check").code == 0
    assert other.cli("clean").code == 0
    assert in_hub_cache(named) == TOP
    assert (named.cli("why", "--check").code, named.cli("verify").code) == (0, 0)


def test_only_a_request_whose_patterns_read_otherwise_than_its_layout_says_has_its_dialect_in_the_key() -> None:
    source = SourceRef("hf", "org/name")
    for form in Layout:
        for allow in (None, (), ("*.bin",)):
            own = Request(source, "main", allow, (), form)
            assert "dialect" not in canonical(own)
            other = Request(source, "main", allow, (), form, dialect=next(d for d in Dialect if d is not own.dialect))
            assert (request_key(own) != request_key(other)) == bool(allow)
