"""Patterns of `weights` mean the same wherever the hub cache is: `*` stays within a folder, `**` crosses."""

from __future__ import annotations

from pathlib import Path

import pytest
from servers.hub import Hub
from trusses import Truss

from scenarios.cache.upstreams import OnHub, check, config, run, use_disk

TOP, DEEP = b"t" * 20_000, b"d" * 300_000
FILES = {
    "model.safetensors": TOP,
    "unet/model.safetensors": DEEP,
    "unet/deep/more.safetensors": DEEP[:-1],
    "config.json": b"{}",
    "unet/config.json": b"[]",
}
ALLOW = "allow_patterns"
WANTED = {
    (ALLOW, '["**/*.safetensors"]'): {"model.safetensors", "unet/model.safetensors", "unet/deep/more.safetensors"},
    (ALLOW, '["*.safetensors"]'): {"model.safetensors"},
    (ALLOW, '["unet/*"]'): {"unet/model.safetensors", "unet/config.json"},
    (ALLOW, '["unet/**"]'): {"unet/model.safetensors", "unet/deep/more.safetensors", "unet/config.json"},
    ("ignore_patterns", '["*.json", "unet/deep/**"]'): {
        "model.safetensors",
        "unet/model.safetensors",
        "unet/config.json",
    },
}


@pytest.fixture(params=["one disk", "two disks"])
def placed(request: pytest.FixtureRequest, truss: Truss) -> Truss:
    if request.param == "two disks":
        other_disk: Path = request.getfixturevalue("other_disk")
        use_disk(truss, other_disk)
    return truss


def test_patterns_select_and_fetch_the_same_files_on_one_disk_and_on_two(placed: Truss, hub: Hub) -> None:
    entries = []
    for number, fields in enumerate(WANTED):
        upstream = OnHub(hub, f"org/name{number}")
        upstream.put("main", FILES)
        entries.append(upstream.entry("main", "mount", f"m{number}", **dict([fields])))
    placed.config(config("mount", *entries))
    run(placed)
    wanted = [{path: FILES[path] for path in paths} for paths in WANTED.values()]
    check(placed, "mount", {f"m{number}": files for number, files in enumerate(wanted)})
    fetched = {r.path for r in hub.requests if r.host == "hub" and "/resolve/" in r.path}
    for number, files in enumerate(wanted):
        came = {path.split("/", 5)[5] for path in fetched if path.startswith(f"/org/name{number}/")}
        assert came == files.keys(), "nothing else came, into whichever cache"
