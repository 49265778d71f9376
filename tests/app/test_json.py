"""`--json`: one document on stdout, valid for its schema, whatever happens."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from in_process import Cli, cli
from schema import checked, definitions
from servers.hub import Hub
from trusses import Ran, Truss, ended

from truss_cache_tasks.app.commands.table import COMMANDS
from truss_cache_tasks.app.facts import Facts, to_json
from truss_cache_tasks.errors import ConfigError

__all__ = ["cli"]

TWO = """
    model_cache:
      - repo_id: org/one
      - repo_id: org/two
"""


@pytest.fixture
def two(truss: Truss, hub: Hub) -> Truss:
    hub.create("org/one").commit({"one.bin": b"1" * 20_000, "sub/more.bin": b"m" * 1_500})
    hub.create("org/two").commit({"two.bin": b"2" * 20_000})
    truss.config(TWO)
    return truss


def document(ran: Ran, name: str) -> Any:
    found = checked(ran.out, name)
    assert found["exit_status"] == ran.code, ran.text
    return found


def test_a_run_tells_of_each_entry(two: Truss, cli: Cli) -> None:
    two.config(TWO + "      - repo_id: org/none\n")
    first = document(cli("run", "--json"), "run")
    assert first["configs"] == [str(two.folder / "config.yaml")]
    one, second, none = first["entries"]
    assert (one["name"], one["status"], one["files"], one["fetched_size"]) == ("org/one", "fetched", 2, 21_500)
    assert Path(one["path"], "one.bin").stat().st_size == 20_000
    assert (second["status"], none["status"], first["exit_status"]) == ("fetched", "failed", 1)
    (error,) = first["errors"]
    assert (error["entry"], error["class"]) == ("org/none", "NotFound")
    assert "org/none" in error["message"]
    assert error["hint"].endswith(".")
    again = document(cli("--json", "org/one"), "run")
    assert again["entries"] == [{**one, "status": "fresh", "fetched_files": 0, "fetched_size": 0}]


def test_every_command_has_a_document(two: Truss, cli: Cli) -> None:
    why = document(cli("why", "--json", "--check"), "why")
    assert [(entry["fresh"], entry["reads_store"]) for entry in why["entries"]] == [(False, True)] * 2
    assert cli().code == 0
    assert [entry["reasons"] for entry in document(cli("why", "--json"), "why")["entries"]] == [[], []]
    locked = document(cli("lock", "--json"), "lock")
    assert [entry["state"] for entry in locked["entries"]] == ["locked", "locked"]
    assert locked["locks"] == [{"path": str(two.folder / "model_cache.lock"), "state": "written", "notes": []}]
    assert document(cli("lock", "--check", "--json"), "lock")["locks"][0]["state"] == "up to date"
    verified = document(cli("verify", "--json"), "verify")
    assert [(entry["good"], entry["files"]) for entry in verified["entries"]] == [(True, 2), (True, 1)]
    used = document(cli("du", "--json"), "du")
    assert {entry["name"]: entry["size"] for entry in used["entries"]} == {"org/one": 21_500, "org/two": 20_000}
    assert used["total"]["claimed"] == 41_500
    assert document(cli("prune", "--json"), "prune")["dry"] is True
    assert document(cli("key", "--json"), "key")["key"] == cli("key").out.strip()
    dry = document(cli("clean", "-n", "--json"), "clean")
    assert (dry["dry"], dry["size"]) == (True, 41_500)
    assert document(cli("init", "--json"), "init")["files"][0]["state"] == "unchanged"
    assert document(cli("migrate", "--json"), "migrate")["files"][0]["diff"][0].startswith("--- ")
    assert {"name", "meaning", "default"} == set(document(cli("help", "env", "--json"), "help")["variables"][0])
    assert document(cli("help", "--json"), "help")["text"]
    assert document(cli("--version", "--json"), "run")["text"] == [cli("--version").out.strip()]
    assert set(COMMANDS) <= set(definitions())
    for name in COMMANDS:
        assert document(cli(name, "--help", "--json"), name)["text"][0].startswith("usage: ")


def test_what_has_moved_is_told_by_file(two: Truss, cli: Cli, hub: Hub) -> None:
    assert cli("lock").code == 0
    hub.repos["org/one"].commit({"one.bin": b"x" * 30_000, "new.bin": b"n"})
    found = document(cli("lock", "--check", "--remote", "--json"), "lock")
    assert found["exit_status"] == 1
    moves = found["entries"][0]["moves"]
    assert (moves["changed"], moves["new"], moves["size"]) == (["one.bin"], ["new.bin"], 30_001)
    assert found["entries"][1]["state"] == "unchanged"


def test_a_plan_tells_what_would_be_fetched_and_where(two: Truss, cli: Cli, hub: Hub) -> None:
    for line in (["plan", "--json"], ["run", "--dry-run", "--json"]):
        found = document(cli(*line), "plan")
        assert [entry["missing_size"] for entry in found["entries"]] == [21_500, 20_000]
        assert found["entries"][1]["missing"] == [{"path": "two.bin", "size": 20_000}]
        assert [disk["fits"] for disk in found["disks"]] == [True]
    assert document(cli("path", "--json"), "path")["exit_status"] == 1
    assert cli().code == 0
    paths = document(cli("path", "--json"), "path")["entries"]
    assert "".join(f"{entry['path']}\n" for entry in paths) == cli("path").out
    hub.repos["org/one"].commit({"one.bin": b"x" * 30_000})
    one, second = document(cli("why", "--remote", "--json"), "why")["entries"]
    assert (one["state"], one["moves"]["changed"], one["fresh"]) == ("moved", ["one.bin"], True)
    assert (one["commit"], second["state"]) == (one["moves"]["before"], "unchanged")
    theirs = document(two.doit("cache-plan", "--json"), "plan")
    assert [entry["status"] for entry in theirs["entries"]] == ["fresh", "fresh"]
    assert document(two.doit("cache-path", "--json"), "path")["entries"][0]["path"] == paths[0]["path"]


def test_damage_is_told_by_file(two: Truss, cli: Cli) -> None:
    assert cli().code == 0
    (one,) = two.hub_cache.glob("models--org--one/snapshots/*/one.bin")
    one.resolve().unlink()
    found = document(cli("verify", "--json"), "verify")
    assert (found["exit_status"], found["entries"][0]["good"]) == (1, False)
    assert "one.bin: missing" in found["entries"][0]["bad_files"][0]


@pytest.mark.parametrize(
    "line",
    [
        "--json --nope",
        "run --json org/tow",
        "help --json me",
        "verfy --json",
        "-f nowhere --json",
        "lock --check --upgrade --json",
    ],
)
def test_a_wrong_command_line_has_a_document_too(two: Truss, cli: Cli, line: str) -> None:
    ran = cli(*line.split())
    name = next((word for word in line.split() if word in COMMANDS), "run")
    found = document(ran, name)
    assert (ran.code, [error["class"] for error in found["errors"]]) == (3, ["ConfigError"])
    assert found["errors"][0]["message"] in ran.err


def test_a_broken_config_has_a_document_in_both_front_ends(two: Truss, cli: Cli) -> None:
    two.config("model_cache:\n  - repo_id: org/one\n    revison: v1\n")
    error = {
        "entry": None,
        "class": "ConfigError",
        "message": "config.yaml:3: model_cache[0].revison: unknown key",
        "hint": "Did you mean revision?",
    }
    for name in ("run", "why", "lock", "verify", "clean", "du", "prune", "key"):
        assert document(cli(name, "--json"), name)["errors"] == [error]
    ran = two.doit("cache-why", "--json")
    assert (document(ran, "why")["errors"], ran.code) == ([error], 3)


def test_the_commands_of_doit_have_the_same_documents(two: Truss, cli: Cli) -> None:
    assert cli().code == 0
    two.dodo("print('a line of the dodo.py')\nfrom truss_cache_tasks import task_cache_weights\n")
    for name in ("why", "lock", "verify", "du", "prune"):
        ran = two.doit(f"cache-{name}", "--json")
        theirs = document(ran, name)
        ours = document(cli(name, "--json"), name)
        assert "a line of the dodo.py" in ran.err
        assert ran.code == 0
        assert set(theirs) == set(ours)
        assert theirs["configs"] == ours["configs"]
    wrong = two.doit("cache-why", "--json", "--nope")
    assert (document(wrong, "why")["errors"][0]["class"], wrong.code) == ("ConfigError", 3)


def test_an_interrupted_run_has_a_document(two: Truss, hub: Hub) -> None:
    hub.create("org/slow").commit({"slow.bin": b"s" * 30_000_000})
    two.config("model_cache: [{repo_id: org/slow}]\n")
    child = two.start(["truss-cache", "--json", "--events", "/dev/stderr"], TRUSS_CACHE_MAX_RATE="1M")
    with ended(child):
        assert child.stderr is not None
        while '"event":"planned"' not in child.stderr.readline():
            pass
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    found = document(Ran(child.returncode, out, err), "run")
    assert child.returncode == 130
    assert [entry["status"] for entry in found["entries"]] == ["unfinished"]
    assert found["errors"][-1]["class"] == "Stopped"


def test_numbers_and_texts_that_are_no_json_become_some() -> None:
    odd = {"a": [float("nan"), float("inf"), -0.5], "b": "\ud800 \x00\x1b\x7f\u2028\U0001f600", Path("\udcff"): {1}}
    text = to_json(odd)
    assert text.isascii()
    assert json.loads(text) == {
        "a": [None, None, -0.5],
        "b": "\\ud800 \x00\x1b\x7f\u2028\U0001f600",
        "\\udcff": [1],
    }
    facts = Facts("run")
    facts.error(ConfigError("odd \udcff\x1b[2J", hint="\n"))
    assert checked(facts.document(3), "run")["errors"][0]["message"] == "odd \\udcff\x1b[2J"


def test_a_path_that_is_not_utf_8_is_told(two: Truss) -> None:
    folder = os.fsencode(two.folder) + b"/odd\xff\n"
    os.mkdir(folder)
    Path(os.fsdecode(folder), "config.yaml").write_text("model_cache: []\n")
    ran = two.run(["truss-cache", "why", "--json", "-f", os.fsdecode(folder)])
    assert document(ran, "why")["configs"] == [f"{two.folder}/odd\\udcff\n/config.yaml"]


def test_doit_r_json_carries_the_facts_of_each_task(two: Truss) -> None:
    two.config(TWO + "      - repo_id: org/none\n")
    for how in ([], ["-n", "2", "-P", "thread"], ["-n", "2", "-P", "process"]):
        ran = two.doit("run", "-c", "-r", "json", *how)
        tasks = {task["name"]: task for task in json.loads(ran.out)["tasks"]}
        one = checked(tasks["cache_weights:org/one"]["out"], "task")
        assert (one["files"], one["error"]) == (2, None)
        assert one["status"] == ("fetched" if not how else "fresh")
        none = checked(tasks["cache_weights:org/none"]["out"], "task")
        assert (none["status"], none["error"]["class"]) == ("failed", "NotFound")
    assert '"schema"' not in two.doit("run", "-c").text, "doit's other reporters print the output of a failed task"
