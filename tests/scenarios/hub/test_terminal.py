"""Names of a repo and messages of a Hub are printed escaped: no terminal obeys them, and no line is forged."""

from __future__ import annotations

from pathlib import Path

import pytest
from servers.hub import Hub, Repo
from terminal import CLI, DOIT, NAME, SHOWN, printed
from trusses import Truss

CONFIG = "model_cache:\n  - repo_id: org/name\n"
TASK = "cache_weights:org/name"


@pytest.fixture
def repo(hub: Hub, truss: Truss) -> Repo:
    repo = hub.create("org/name")
    repo.commit({NAME: b"w" * 20_000})
    truss.config(CONFIG)
    return repo


def snapshot(truss: Truss) -> Path:
    (found,) = (truss.hub_cache / "models--org--name" / "snapshots").iterdir()
    return found


def test_a_file_is_fetched_whatever_its_name_and_every_command_prints_it_escaped(repo: Repo, truss: Truss) -> None:
    printed(truss, *CLI)
    path = snapshot(truss) / NAME
    assert path.read_bytes() == b"w" * 20_000
    printed(truss, *CLI, "why")
    printed(truss, *CLI, "verify")

    path.resolve().write_bytes(b"x" * 20_000)
    assert f"  snapshots/{path.parent.name}/{SHOWN}: got xxh3-128" in printed(truss, *CLI, "verify", code=1)
    assert f"{SHOWN}: got xxh3-128" in printed(truss, *DOIT, "cache-verify", code=1)
    path.unlink()
    assert SHOWN in printed(truss, *CLI, "why")
    assert SHOWN in printed(truss, *DOIT, "cache-why")
    assert SHOWN in printed(truss, *DOIT, "info", TASK, code=1)
    assert SHOWN in printed(truss, *DOIT, "cache_weights")  # the reason, at the start of the entry
    printed(truss, *DOIT, "clean", "cache_weights")


@pytest.mark.parametrize("command", [CLI, (*DOIT, "cache_weights")], ids=["truss-cache", "doit"])
def test_a_failure_names_the_file_escaped(repo: Repo, truss: Truss, hub: Hub, command: tuple[str, ...]) -> None:
    hub.fail(NAME, "flip", "flip", "flip", "flip", host="cdn")
    for name in ("", NAME):  # the CDN calls its files by their digest
        hub.fail(name, "flip", "flip", "flip", "flip", host="cdn")
    assert SHOWN in printed(truss, *command, code=1)


@pytest.mark.parametrize("command", [CLI, (*DOIT, "cache_weights")], ids=["truss-cache", "doit"])
def test_the_nearest_names_are_escaped(repo: Repo, truss: Truss, command: tuple[str, ...]) -> None:
    truss.config(CONFIG + "    allow_patterns: [nothing]\n")
    assert r"\x1b[2J" in printed(truss, *command, code=1)


@pytest.mark.parametrize("command", [CLI, (*DOIT, "clean", "cache_weights")], ids=["truss-cache", "doit"])
def test_what_a_clean_keeps_is_named_escaped(repo: Repo, truss: Truss, command: tuple[str, ...]) -> None:
    code = "from huggingface_hub import snapshot_download as get; get('org/name')"
    assert truss.python(code).code == 0
    printed(truss, *CLI)
    cleaned = printed(truss, *command, *(["clean"] if command == CLI else []))
    assert f"{SHOWN}: " in cleaned


def test_what_the_hub_says_is_escaped(repo: Repo, truss: Truss, hub: Hub) -> None:
    message = "X-Error-Message=no\x1b[2J\x9b31m"
    hub.fail("/revision/main", *([f"403 {message}"] * 9))
    hub.fail("/api/models/org/name", *([f"403 {message}"] * 9))
    printed(truss, *CLI, code=1)
    printed(truss, *DOIT, "cache_weights", code=1)


def test_texts_of_the_config_are_escaped(truss: Truss, hub: Hub) -> None:
    (truss.folder / "sub\u202eredlof").mkdir()
    (truss.folder / "sub\u202eredlof" / "w.bin").write_bytes(b"w")
    truss.config('model_cache:\n  - repo_id: "file://./sub\\u202eredlof"\n')
    assert r"file://./sub\u202eredlof" in printed(truss, *DOIT, "list", "--all")
    printed(truss, *DOIT, "cache_weights")
    printed(truss, *DOIT, "info", "cache_weights:sub-redlof")
    printed(truss, *CLI, "why", "sub-redlof")
    assert r"\u202e" in printed(truss, *CLI, "why", "\u202e", code=3)
    (truss.folder / "sub\u202eredlof" / "w.bin").unlink()
    assert r"\u202e" in printed(truss, *DOIT, "run", "-a", "cache_weights", code=1)


def test_a_config_folder_with_a_terminals_commands_in_its_name_is_printed_escaped(truss: Truss, tmp_path: Path) -> None:
    odd = tmp_path / NAME
    odd.mkdir()
    assert SHOWN in printed(truss, *CLI, "-f", str(odd), code=3)
    (odd / "config.yaml").write_text("model_cache: words\n")
    assert SHOWN in printed(truss, *CLI, "-f", str(odd), code=3)
    dodo = "from truss_cache_tasks import cache_tasks\ntask_w = cache_tasks({!r}, basename='w', defer_errors={})\n"
    truss.dodo(dodo.format(str(odd), False))
    assert SHOWN in printed(truss, *DOIT, "list", code=3)
    truss.dodo(dodo.format(str(odd), True))
    assert SHOWN in printed(truss, *DOIT, "list")
    assert SHOWN in printed(truss, *DOIT, "w", code=1)
