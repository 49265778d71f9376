"""`truss-cache migrate`: the same files as `weights`, checked against Truss 0.18.36's own `truss migrate`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from in_process import Cli, cli
from servers.tools import require
from trusses import Truss

from truss_cache_tasks import load_config
from truss_cache_tasks.config.migration import migrate, translate_pattern
from truss_cache_tasks.errors import ConfigError
from truss_cache_tasks.model.patterns import matcher
from truss_cache_tasks.model.request import Dialect

__all__ = ["cli"]

HERE = Path(__file__).parent
JUDGE = HERE.parents[1] / ".venv-truss" / "bin" / "python"
NOT_READ = {"natural-sql-7b@2bc92238a", "truss-caching@006a4cfe8"}
TRUSSES = sorted(path for path in (HERE / "trusses").glob("*.yaml") if path.stem not in NOT_READ)
# What `truss migrate` makes of each config, or null where it refuses it; and whether Truss takes our own weights.
TRUSS = """
import json, sys, yaml
from pathlib import Path
from truss.base.truss_config import Weights
from truss.cli.migrate_commands import migrate_config
for path in map(Path, sys.argv[1:]):
    before, after = (yaml.safe_load(text) for text in json.loads(path.read_text()))
    Weights.model_validate(after["weights"])
    try:
        print(json.dumps(migrate_config(before)[0].get("weights", [])))
    except ValueError:
        print("null")
"""


def in_weights(folder: Path, text: str) -> tuple[list[dict[str, Any]], tuple[str, ...], str]:
    """Return the items of `weights`, the notes and the text that a config is migrated to."""
    path = folder / "config.yaml"
    path.write_bytes(text.encode())
    found = migrate(path)
    assert found.before == text
    return yaml.safe_load(found.after)["weights"], found.notes, found.after


NAMES = st.text("ab.-", min_size=1, max_size=4)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
PATTERNS = st.lists(st.sampled_from(["*", "**", "a", "b", ".", "-", "/", "[ab]", "[*]"]), min_size=1, max_size=6).map(
    "".join
)


@settings(deadline=None, derandomize=True, database=None, max_examples=200)
@given(PATTERNS, st.lists(PATHS, max_size=30))
def test_the_patterns_of_weights_select_what_those_of_model_cache_do(pattern: str, paths: list[str]) -> None:
    old = matcher(pattern, "", Dialect.FNMATCH)
    new = [matcher(one, "", Dialect.GLOBSTAR) for one in translate_pattern(pattern)]
    assert [bool(old(path)) for path in paths] == [any(one(path) for one in new) for path in paths]


@pytest.mark.slow
def test_what_truss_migrates_is_migrated_to_the_same_places(tmp_path: Path) -> None:
    require(str(JUDGE), "VENV=.venv-truss sh .ci/venv truss==0.18.36")
    found = {path: migrate(path) for path in TRUSSES}
    changed = {path: one for path, one in found.items() if one.before != one.after}
    for number, one in enumerate(changed.values()):
        (tmp_path / f"{number}.json").write_text(json.dumps([one.before, one.after]))
    texts = [tmp_path / f"{number}.json" for number in range(len(changed))]
    done = subprocess.run([JUDGE, "-c", TRUSS, *texts], capture_output=True, text=True, timeout=100, check=True)
    compared = 0
    for path, line in zip(changed, done.stdout.splitlines(), strict=True):
        for one, theirs in zip(yaml.safe_load(changed[path].after)["weights"], json.loads(line) or [], strict=False):
            assert one["source"] == theirs["source"].rstrip("/")
            assert one["mount_location"] == theirs["mount_location"]
            assert one["auth_secret_name"] == theirs["auth_secret_name"]
            for name in ("allow_patterns", "ignore_patterns"):
                assert one.get(name, []) == [new for old in theirs.get(name, []) for new in translate_pattern(old)]
            compared += 1
    assert compared >= 4


@pytest.mark.parametrize("path", TRUSSES, ids=lambda path: path.stem)
def test_a_migrated_config_asks_for_the_same_and_keeps_the_rest(path: Path, tmp_path: Path) -> None:
    found = migrate(path)
    (tmp_path / "config.yaml").write_text(found.after)
    before, after = load_config(path), load_config(tmp_path)
    assert [(e.request.source, e.request.revision) for e in after.entries] == [
        (e.request.source, e.request.revision) for e in before.entries
    ]
    kept = [line for line in found.before.splitlines() if line.startswith("#") or line.startswith("model_name")]
    assert all(line in found.after.splitlines() for line in kept)
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "config.yaml").write_text(found.after)
    assert migrate(tmp_path / "again" / "config.yaml").notes == ()


def test_a_bucket_keeps_its_paths_and_names_a_secret_only_if_it_did(tmp_path: Path) -> None:
    text = (
        "model_cache:\n- {repo_id: gcs://b/p/q/, allow_patterns: ['p/q/*.bin']}\n"
        "- {repo_id: s3://b/m, runtime_secret_name: k}\n- {repo_id: s3://b/n, use_volume: true, volume_folder: v}\n"
    )
    items, notes, _ = in_weights(tmp_path, text)
    assert items == [
        {"source": "gs://b/p/q", "mount_location": "/app/model_cache/b/p/q", "allow_patterns": ["**/*.bin"]},
        {"source": "s3://b/m", "mount_location": "/app/model_cache/b/m", "auth_secret_name": "k"},
        {"source": "s3://b/n", "mount_location": "/app/model_cache/v"},
    ]
    assert notes == ()


def test_entries_of_one_repo_get_folders_of_their_own(tmp_path: Path) -> None:
    text = "hf_cache:\n- {repo_id: a/b}\n- {repo_id: a/b, revision: v1}\n- {repo_id: 'hf://a/b@v2'}\n"
    text += "- {repo_id: c, revision: main}\n"
    items, notes, _ = in_weights(tmp_path, text)
    assert [(item["source"], item["mount_location"]) for item in items] == [
        ("hf://a/b", "/app/model_cache/a_b"),
        ("hf://a/b@v1", "/app/model_cache/a_b-2"),
        ("hf://a/b@v2", "/app/model_cache/a_b-3"),
        ("hf://c@main", "/app/model_cache/c"),
    ]
    assert len(notes) == 4
    assert "load them there" in notes[0]


def test_an_empty_list_of_patterns_still_keeps_nothing(tmp_path: Path) -> None:
    items, _, _ = in_weights(tmp_path, "model_cache: [{repo_id: a/b, allow_patterns: [], ignore_patterns: []}]\n")
    assert (items[0]["allow_patterns"], items[0]["ignore_patterns"]) == ([], [])


@pytest.mark.parametrize("pattern", ["a?b", "[!a]b", "a*b*c*d*e*f"])
def test_a_pattern_without_an_equal_is_kept_and_named(pattern: str, tmp_path: Path) -> None:
    text = f"model_cache: [{{repo_id: a/b, use_volume: true, volume_folder: v, ignore_patterns: ['{pattern}']}}]"
    items, (note,), _ = in_weights(tmp_path, text)
    assert pattern in items[0]["ignore_patterns"]
    assert f"model_cache[0].ignore_patterns: '{pattern}' may select other files" in note


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("# top\na: 1\nmodel_cache: # here\n  - repo_id: a/b\n\n# end\nb: 2\n", "# top\na: 1\n{}\n# end\nb: 2\n"),
        ("model_cache:\n- repo_id: a/b", "{}"),
        ("model_cache: {repo_id: a/b}\nz: |\n  model_cache:\n", "{}z: |\n  model_cache:\n"),
        ("weights: []\nb: 2\nmodel_cache:\n- repo_id: >-\n    a/b\n", "{}b: 2\n"),
        ("hf_cache: [\n  {repo_id: a/b},\n]\nmodel_cache: \n", None),
        ("a: 1\r\nmodel_cache:\r\n- repo_id: a/b\r\nb: 2\r\n", "a: 1\r\n{}b: 2\r\n"),
        ("\ufeffmodel_cache:\n- repo_id: a/b\nb: 2\n", "{}b: 2\n"),
    ],
)
def test_only_the_lines_of_the_section_change(text: str, after: str | None, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(text.encode())
    if after is None:
        with pytest.raises(ConfigError):
            in_weights(tmp_path, text)
        return
    _, _, found = in_weights(tmp_path, text)
    section = (
        "weights:\n- source: hf://a/b\n  mount_location: /app/model_cache/a_b\n  auth_secret_name: hf_access_token\n"
    )
    assert found == after.replace("{}", section.replace("\n", "\r\n") if "\r" in text else section)


@pytest.mark.parametrize(
    "text",
    [
        "{a: 1, model_cache: [{repo_id: a/b}]}",
        "model_cache: &m\n- repo_id: a/b\nother: *m\n",
        "a: &m {repo_id: a/b}\nmodel_cache: [*m]\nb: !custom x\n",
    ],
)
def test_a_section_that_is_not_lines_of_its_own_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be replaced line by line") as caught:
        in_weights(tmp_path, text)
    assert caught.value.hint


@pytest.mark.slow
def test_the_command_prints_a_diff_that_can_be_applied_and_writes_nothing(truss: Truss, cli: Cli) -> None:
    before = "a: 1\nmodel_cache:\n- repo_id: a/b\n  use_volume: true\n  volume_folder: v\nb: 2"
    path = truss.config(before)
    ran = cli("migrate")
    assert (ran.code, ran.err) == (0, "")
    assert path.read_text() == before
    subprocess.run(["git", "apply", "-p0"], input=ran.out.encode(), cwd=truss.folder, check=True)
    assert yaml.safe_load(path.read_text())["weights"][0]["mount_location"] == "/app/model_cache/v"
    ran = cli("migrate")
    assert (ran.code, ran.out) == (0, "")
    assert "nothing to migrate" in ran.err
