"""Digests that a user gives for files of web servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from truss_cache_tasks.app.workspace import Workspace, open_workspace
from truss_cache_tasks.errors import ConfigError

ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64
CONFIG = "model_cache:\n- repo_id: https://h/w.bin?id=7\n- repo_id: org/name\n"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return path


def keys(workspace: Workspace) -> list[str]:
    return [context.entry.key for context in workspace.contexts]


def test_a_digest_is_a_part_of_the_key_of_its_file_alone(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without = keys(open_workspace(config))
    given = keys(open_workspace(config, digests={"https://H:443/w.bin?id=7": ONE.upper().replace("SHA256", "sha256")}))
    assert given[0] != without[0]
    assert given[1] == without[1]
    assert keys(open_workspace(config, digests={})) == without
    assert keys(open_workspace(config, digests={"https://h/w.bin?id=7": TWO})) != given
    monkeypatch.setenv("TRUSS_CACHE_DIGESTS", f"https://h/w.bin?id=7={ONE}")
    assert keys(open_workspace(config)) == given
    assert keys(open_workspace(config, digests={"https://h/w.bin?id=7": ONE})) == given


@pytest.mark.parametrize(
    ("digests", "says"),
    [
        ({"https://h/w.bin?id=8": ONE}, r"https://h/w.bin\?sha256:[0-9a-f]{16}: no entry of config.yaml has this"),
        ({"https://h/w.bin": ONE}, "https://h/w.bin: no entry of config.yaml has this source"),
        ({"https://h/w.bin?id=7": "md5:00"}, "found another digest, expected sha256:HEX"),
        ({"https://h/w.bin?id=7": ONE[:-1]}, "found another digest, expected sha256:HEX"),
        ({"https://h/w.bin?id=7": ONE.removeprefix("sha256:")}, "found another digest, expected sha256:HEX"),
        ({"https://h/w.bin?id=7": None}, "found another digest, expected sha256:HEX"),
        ({"https://h/w.bin?token=hush": ONE}, "digests: item 1: its query has token"),
        ({"org/name": ONE}, "digests: item 1: found no URL"),
        ({"hf://org/name": ONE}, "its store has digests of its own"),
        ({"https://h/w.bin?id=7": ONE, "https://h:443/w.bin?id=7": TWO}, "given two digests"),
        ([("https://h/w.bin?id=7", ONE)], "digests: found a list, expected"),
    ],
)
def test_a_digest_that_cannot_be_is_refused(digests: dict[str, str], says: str, config: Path) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        open_workspace(config, digests=digests)
    assert caught.value.hint
    assert "hush" not in f"{caught.value}{caught.value.hint}"


def test_the_variable_may_name_files_of_other_configs_and_no_two_digests(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUSS_CACHE_DIGESTS", f"https://h/w.bin?id=7={ONE} https://h/other.bin={TWO}")
    assert open_workspace(config).warnings == (
        "TRUSS_CACHE_DIGESTS: https://h/other.bin: no entry of config.yaml has this source",
    )
    with pytest.raises(ConfigError, match="given two digests"):
        open_workspace(config, digests={"https://h/w.bin?id=7": TWO})
    monkeypatch.setenv("TRUSS_CACHE_DIGESTS", "hush")
    with pytest.raises(ConfigError, match="TRUSS_CACHE_DIGESTS: word 1 is not URL=sha256:HEX") as caught:
        open_workspace(config)
    assert "hush" not in str(caught.value)
