"""Groups, annotations and the summary of a job: of each service what it documents, and nothing elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from terminal import NAME, is_obeyed

from truss_cache_tasks.app.display.ci import Buildkite, GitHub, GitLab, service_of
from truss_cache_tasks.app.display.progress import Progress, fold
from truss_cache_tasks.errors import NotFound
from truss_cache_tasks.events import Committed, Failed, Received, Started

BEGUN = fold(Progress(began=0.0), Started(reasons=(), lists=True, forced=False), 0.0)
DONE = fold(
    fold(BEGUN, Received(path="w", size=4_000_000), 1.0),
    Committed(how="fetched", files=3, size=5_000_000, unverified=1, fetched_files=2, fetched_size=4_000_000),
    2.0,
)


def test_a_service_is_known_by_its_own_variable_alone() -> None:
    assert isinstance(service_of({"GITHUB_ACTIONS": "true"}), GitHub)
    assert isinstance(service_of({"GITLAB_CI": "true"}), GitLab)
    assert isinstance(service_of({"BUILDKITE": "true"}), Buildkite)
    for env in ({}, {"CI": "true"}, {"GITHUB_ACTIONS": ""}, {"GITHUB_STEP_SUMMARY": "/tmp/summary"}):
        assert service_of(env) is None


def test_groups_are_those_that_the_services_document() -> None:
    assert (GitHub("", "").begin_group("weights", 7), GitHub("", "").end_group(8)) == (
        "::group::weights\n",
        "::endgroup::\n",
    )
    gitlab = GitLab()
    (first, end) = gitlab.begin_group("weights", 7), gitlab.end_group(8)
    section = first.split(":")[2].split("\r")[0]
    assert first == f"\x1b[0Ksection_start:7:{section}\r\x1b[0Kweights\n"
    assert end == f"\x1b[0Ksection_end:8:{section}\r\x1b[0K\n"
    assert section not in gitlab.begin_group("weights", 9), "each section has a name of its own"
    assert (Buildkite().begin_group("weights", 7), Buildkite().end_group(8)) == ("--- weights\n", "+++ Weights\n")
    assert Buildkite().annotate("error", "org/one", "gone", "") == "^^^ +++\n"


@pytest.mark.parametrize(
    ("where", "message", "properties"),
    [
        ("config.yaml:14: model_cache[1]", "org/one: gone", "file=config.yaml,line=14,title=t"),
        ("", "sd/config.yaml:3: hf_cache: no", "file=sd/config.yaml,line=3,title=t"),
        ("a,b.yaml:1: x", "org/one: gone", "file=a%2Cb.yaml,line=1,title=t"),
        ("", "no place", "title=t"),
    ],
)
def test_an_annotation_names_file_and_line(where: str, message: str, properties: str) -> None:
    assert GitHub("", "").annotate("error", "t", message, where) == f"::error {properties}::{message}\n"


def test_a_file_is_relative_to_the_workspace(tmp_path: Path) -> None:
    annotation = GitHub("", str(tmp_path)).annotate("warning", "t", "m", f"{tmp_path}/sd/config.yaml:2: x")
    assert annotation == "::warning file=sd/config.yaml,line=2,title=t::m\n"


def test_a_message_of_a_store_begins_no_command() -> None:
    github = GitHub("", "")
    text = github.annotate("error", NAME, f"{NAME}\n::set-env name=A::b 100 %", "") + github.begin_group(NAME, 1)
    assert "100 %25" in text
    assert text.count("\n") == 2
    assert not [character for character in text if is_obeyed(character)]


def test_the_summary_is_one_table_of_all_entries(tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    path.write_text("what another step said\n")
    github = GitHub(str(path), "")
    github.summarize("org/one", DONE)
    github.summarize("org/<b>|two", fold(BEGUN, Failed(error=NotFound("org/<b>|two: gone")), 0.5))
    assert path.read_text().splitlines() == [
        "what another step said",
        "",
        "| entry | result | files | fetched | reused | time | rate |",
        "|---|---|--:|--:|--:|--:|--:|",
        "| org/one | fetched, 1 unverified | 3 | 2 files, 4.0 MB | 1 file, 1.0 MB | 2.0 s | 2.0 MB/s |",
        r"| org/\<b\>\|two | failed: gone |  |  |  | 0.5 s |  |",
    ]


@pytest.mark.parametrize("path", ["", "/no/such/folder/summary.md", "/dev/full"])
def test_a_summary_that_cannot_be_written_fails_nothing(path: str) -> None:
    GitHub(path, "").summarize("org/one", DONE)
