"""What a plan says when it refuses: the nearest names, and names that one disk cannot tell apart."""

from __future__ import annotations

import pytest

from truss_cache_tasks.errors import NothingSelected
from truss_cache_tasks.model.listing import Listing, RemoteFile
from truss_cache_tasks.model.plan import Plan, case_clashes, make_plan
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
