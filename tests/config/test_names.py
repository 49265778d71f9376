"""Names of sub-tasks, and the Hub's rule for repo ids."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from truss_cache_tasks import load_config
from truss_cache_tasks.config.names import name_entries
from truss_cache_tasks.config.uris import is_repo_id
from truss_cache_tasks.model.request import SourceRef


def names(folder: Path, *entries: str) -> list[str]:
    path = folder / "config.yaml"
    path.write_text("model_cache:\n" + "".join(f"- {{{entry}}}\n" for entry in entries))
    return [entry.name for entry in load_config(path).entries]


def test_the_first_entry_of_an_id_has_the_bare_name_and_later_ones_their_revision(tmp_path: Path) -> None:
    found = names(
        tmp_path,
        "repo_id: org/name",
        "repo_id: org/name, revision: v1",
        "repo_id: org/name, revision: v1, allow_patterns: [a]",
        "repo_id: org/name, allow_patterns: [a]",
    )
    assert found == ["org/name", "org/name@v1", "org/name#3", "org/name@main"]


@pytest.mark.parametrize(
    ("repo_id", "name"),
    [
        ("hf://org/name@v1", "org/name"),
        ("gs://bucket/a/b/", "bucket/a/b"),
        ("s3://bucket", "bucket"),
        ("s3://bucket/a=1/*.bin", "bucket/a-1/-.bin"),
        ("s3://bucket/a b", "bucket/a-b"),
        ("file://./weights/", "weights"),
        ("file:///srv/models/sd", "sd"),
        ("file://-x", "_x"),
        ("file://=x", "_x"),
    ],
)
def test_a_name_is_the_id_without_its_scheme_and_safe_for_doit(repo_id: str, name: str, tmp_path: Path) -> None:
    assert names(tmp_path, f"repo_id: '{repo_id}'") == [name]


def test_a_suffix_never_takes_the_name_that_another_id_has(tmp_path: Path) -> None:
    found = names(
        tmp_path,
        "repo_id: a/b",
        "repo_id: a/b, revision: v1",
        "repo_id: 's3://a/b@v1'",
        "repo_id: 's3://a/b#2'",
        "repo_id: s3://a/b",
    )
    assert found == ["a/b", "a/b#3", "a/b@v1", "a/b#2", "a/b#4"]


def test_names_that_become_equal_by_replacement_stay_apart(tmp_path: Path) -> None:
    assert names(tmp_path, "repo_id: s3://b/x=y", "repo_id: s3://b/x-y") == ["b/x-y", "b/x-y#2"]


SOURCES = st.builds(
    SourceRef,
    st.sampled_from(["hf", "s3", "file"]),
    st.sampled_from(["a/b", "a", "-", "a/b@v1", "a/b#2", "=", "*"]),
    st.sampled_from(["", "p", "p@v1", "p#2", "p\t*"]),
)


@given(st.lists(st.tuples(SOURCES, st.sampled_from(["", "main", "v1", "a=b"]))))
def test_names_are_unique_and_hold_nothing_that_doit_reads(asked: Any) -> None:
    found = name_entries(asked)
    assert len(set(found)) == len(found) == len(asked)
    assert not [name for name in found if re.search(r"[=*\s]", name) or name.startswith("-")]
    assert name_entries(asked) == found


def the_hub_takes(text: Any) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return True


@settings(deadline=None)  # the first example imports huggingface_hub
@given(st.one_of(st.text(max_size=12), st.text("aZ09_-./é\n", max_size=12), st.text("ab/.", min_size=94, max_size=200)))
@example("a/b")
@example("a" * 96)
@example("a" * 97)
@example("a/b.git")
@example("_a_/b")
@example("a/b\n")
def test_a_repo_id_is_taken_exactly_when_huggingface_hub_takes_it(text: Any) -> None:
    assert is_repo_id(text) is the_hub_takes(text)
