"""Patterns on buckets: relative to the prefix, and a warning where Truss's first generation would choose otherwise."""

from __future__ import annotations

import json

import pytest
from trusses import Truss, tree

from scenarios.buckets.stores import Store

PATHS = ("config.json", "w.bin", "w.safetensors", "fp16/w.bin", "fp16/w.safetensors")


def chosen(store: Store, truss: Truss, prefix: str = "m") -> set[str]:
    below = store.visible(prefix, "")
    return {path.removeprefix(below) for path in tree(truss.model_cache)}


def run(store: Store, truss: Truss, fields: str) -> tuple[set[str], str]:
    for path in PATHS:
        store.put(f"m/{path}", path.encode())
    store.give(truss)
    truss.config(f"model_cache:\n  - repo_id: {store.uri('m')}\n{fields}")
    ran = truss.cli()
    assert ran.code == 0, ran
    return chosen(store, truss), ran.err


@pytest.mark.parametrize(
    ("allow", "ignore", "expected", "warns"),
    [
        (["*.safetensors"], [], {"w.safetensors", "fp16/w.safetensors"}, False),
        (["fp16/*"], [], {"fp16/w.bin", "fp16/w.safetensors"}, True),
        (["fp16/"], ["*.bin"], {"fp16/w.safetensors"}, True),
        (["w.*"], [], {"w.bin", "w.safetensors"}, True),
        (None, ["*.bin"], {"config.json", "w.safetensors", "fp16/w.safetensors"}, False),
        (None, ["fp16/*"], {"config.json", "w.bin", "w.safetensors"}, True),
        (["{full}/fp16/*"], [], {"fp16/w.bin", "fp16/w.safetensors"}, False),
        (["{full}/*.json"], ["{full}/fp16/*"], {"config.json"}, False),
    ],
)
def test_patterns_are_read_below_the_prefix_or_on_the_full_key_that_they_begin_with(
    on_gcs: Store, truss: Truss, allow: list[str] | None, ignore: list[str], expected: set[str], warns: bool
) -> None:
    full = f"{on_gcs.base}/m"
    fields = "" if allow is None else f"    allow_patterns: {json.dumps([p.format(full=full) for p in allow])}\n"
    fields += f"    ignore_patterns: {json.dumps([p.format(full=full) for p in ignore])}\n" if ignore else ""
    got, said = run(on_gcs, truss, fields)
    assert got == expected
    assert ("Truss without use_volume matches the full key" in said) is warns


def test_with_use_volume_truss_and_we_agree_and_nobody_warns(on_gcs: Store, truss: Truss) -> None:
    fields = "    allow_patterns: ['fp16/*']\n    use_volume: true\n    volume_folder: vol\n"
    _, said = run(on_gcs, truss, fields)
    assert set(tree(truss.model_cache)) == {"vol/fp16/w.bin", "vol/fp16/w.safetensors"}
    assert "warning" not in said


def test_s3_patterns_mean_the_same(on_seaweed: Store, truss: Truss) -> None:
    got, said = run(on_seaweed, truss, "    allow_patterns: ['fp16/*']\n    ignore_patterns: ['*.bin']\n")
    assert got == {"fp16/w.safetensors"}
    assert "matches the full key" in said


def test_patterns_that_select_nothing_name_themselves_and_the_nearest_paths(anywhere: Store, truss: Truss) -> None:
    for path in PATHS:
        anywhere.put(f"m/{path}", path.encode())
    anywhere.give(truss)
    truss.config(f"model_cache:\n  - repo_id: {anywhere.uri('m')}\n    allow_patterns: ['*.safetensor']\n")
    ran = truss.cli()
    assert ran.code == 1
    assert "*.safetensor'" in ran.err
    assert "w.safetensors" in ran.err
    assert "hint: " in ran.err
    assert tree(truss.model_cache) == {}


def test_an_empty_list_of_patterns_keeps_nothing_which_is_an_error(on_gcs: Store, truss: Truss) -> None:
    on_gcs.put("m/a.bin", b"a")
    on_gcs.give(truss)
    truss.config(f"model_cache:\n  - repo_id: {on_gcs.uri('m')}\n    allow_patterns: []\n")
    ran = truss.cli()
    assert (ran.code, tree(truss.model_cache)) == (1, {})
    assert "allow_patterns []" in ran.err
