"""What a plan says when it refuses: the nearest names, and names that one disk cannot tell apart."""

from __future__ import annotations

import pytest

from truss_cache_tasks.errors import NothingSelected
from truss_cache_tasks.model.listing import Listing, RemoteFile
from truss_cache_tasks.model.plan import Plan, case_clashes, find_unmatched, make_plan
from truss_cache_tasks.model.request import Layout, Request, SourceRef

NAMES = (".gitattributes", "README.md", "config.json", "model-q4.GGUF", "model.safetensors")


def plan_of(*names: str, allow: tuple[str, ...] | None = None) -> Plan:
    files = tuple(RemoteFile(name, 1, "v", name) for name in names)
    return make_plan(Request(SourceRef("s3", "b"), "", allow, (), Layout.BUCKET), Listing("", files))


@pytest.mark.parametrize(("pattern", "nearest"), [("*.gguf", "model-q4.GGUF"), ("*.sfetensors", "model.safetensors")])
def test_nothing_selected_names_the_nearest_path_first(pattern: str, nearest: str) -> None:
    with pytest.raises(NothingSelected, match=f"the nearest are {nearest}"):
        plan_of(*NAMES, allow=(pattern,))


def test_where_nothing_is_near_it_says_what_is_there() -> None:
    with pytest.raises(NothingSelected, match=r"it holds \.gitattributes, README\.md, config\.json"):
        plan_of(*NAMES, allow=("qqqq*",))


def test_names_that_differ_in_case_only_are_found() -> None:
    assert case_clashes(plan_of("a/Model.bin", "a/model.bin").files) == ("b/a/Model.bin", "b/a/model.bin")
    assert case_clashes(plan_of("a/x.bin", "b/x.bin").files) is None


def unmatched_of(
    *names: str,
    allow: tuple[str, ...] | None = None,
    ignore: tuple[str, ...] = (),
    mount: bool = False,
    prefix: str = "",
) -> list[str]:
    layout = Layout.MOUNT if mount else Layout.BUCKET
    request = Request(SourceRef("s3", "b", prefix), "", allow, ignore, layout, "/mnt" if mount else "")
    listing = Listing("", tuple(RemoteFile(name, 1, "v", f"{prefix}/{name}") for name in names))
    return find_unmatched(make_plan(request, listing), listing)


def test_an_allow_pattern_that_matches_nothing_beside_others_is_named_with_the_nearest_paths() -> None:
    assert unmatched_of(*NAMES, allow=("*.json", "*.safetensor", "*.json")) == [
        "allow_patterns: '*.safetensor' matches no file of 5, expected one at least; the nearest are model.safetensors"
    ]


def test_an_allow_pattern_whose_files_are_ignored_matches_them() -> None:
    assert unmatched_of(*NAMES, allow=("*.json", "*.md"), ignore=("README*",)) == []


def test_a_folder_that_is_misspelt_is_named() -> None:
    (line,) = unmatched_of("fp16/a.bin", "b.bin", allow=("b.bin", "fp61/*"))
    assert "'fp61/*' matches no file of 2" in line
    assert line.endswith("the nearest are fp16/a.bin")


@pytest.mark.parametrize(
    "guard", ["*.h5", "*.msgpack", "tf_model.h5", "pytorch_model-*.bin", "onnx/", "**/*.ot", "*.jsn"]
)
def test_an_ignore_pattern_that_guards_against_files_that_are_not_there_is_right(guard: str) -> None:
    assert unmatched_of(*NAMES, "pytorch_model.bin", ignore=(guard, "config.json")) == []


@pytest.mark.parametrize("pattern", ["orignal/*", "*.safetensor", "READNE.md"])
def test_an_ignore_pattern_that_looks_misspelt_is_named_while_the_files_are_fetched(pattern: str) -> None:
    names = (*NAMES, "original/a.pth")
    (line,) = unmatched_of(*names, ignore=("*.h5", pattern))
    assert line.startswith(f"ignore_patterns: {pattern!r} matches no file of 6")
    assert unmatched_of(*names, ignore=(pattern, "original/*", "*.safetensors", "README.md")) == []


def test_in_weights_a_star_that_would_have_to_cross_a_folder_matches_nothing() -> None:
    names = ("a.bin", "fp16/b.safetensors")
    assert unmatched_of(*names, allow=("*.bin", "*.safetensors")) == []
    (line,) = unmatched_of(*names, allow=("*.bin", "*.safetensors"), mount=True)
    assert "'*.safetensors' matches no file of 2" in line
    assert line.endswith("the nearest are fp16/b.safetensors")
    assert unmatched_of(*names, allow=("*.bin", "**/*.safetensors"), mount=True) == []


def test_a_pattern_of_truss_without_use_volume_is_told_from_a_misspelt_one() -> None:
    names = ("a.bin", "b.json")
    assert unmatched_of(*names, allow=("m/*.bin", "*.json"), prefix="m") == []
    (line,) = unmatched_of(*names, allow=("*/m/*.bin", "*.json"), prefix="x/m")
    assert line.endswith("on the full key, as Truss without use_volume reads it, it matches 1")


def test_of_many_patterns_that_match_nothing_a_few_are_named_and_the_others_counted() -> None:
    lines = unmatched_of("a.bin", allow=("*.bin", *(f"{number}.txt" for number in range(20))))
    assert len(lines) == 6
    assert lines[-1] == "15 more patterns match no file"
