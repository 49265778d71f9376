"""Which configs a command line is about: several `-f`, and the search for the nearest one."""

from __future__ import annotations

from pathlib import Path

import pytest
from in_process import Cli, cli
from schema import checked
from servers.hub import Hub
from trusses import Truss, tree

__all__ = ["cli"]


@pytest.fixture
def several(truss: Truss, hub: Hub) -> Truss:
    """Two Trusses beside each other; both have org/both."""
    for name in ("org/both", "org/one", "org/two"):
        hub.create(name).commit({"a.bin": name.encode() * 1000})
    for folder, name in (("sd", "org/one"), ("whisper", "org/two")):
        (truss.folder / folder).mkdir()
        truss.config(f"model_cache: [{{repo_id: org/both}}, {{repo_id: {name}}}]\n", f"{folder}/config.yaml")
    return truss


def test_one_run_fetches_several_trusses(several: Truss, cli: Cli) -> None:
    ran = cli("run", "-f", "sd", "-f", "whisper", "--json")
    found = checked(ran.out, "run")
    assert ran.code == 0, ran.text
    names = [(entry["name"], Path(entry["config"]).parent.name) for entry in found["entries"]]
    assert names == [("sd:org/both", "sd"), ("org/one", "sd"), ("whisper:org/both", "whisper"), ("org/two", "whisper")]
    assert sum(entry["fetched_files"] for entry in found["entries"]) == 3, "what both need is fetched once"
    alone = [line for line in cli("why", "--check", "-f", "sd").out.splitlines() if line.endswith("fresh")]
    assert alone == ["org/both: fresh", "org/one: fresh"]
    both = [line for line in cli("why", "-f", "sd", "-f", "whisper").out.splitlines() if line.endswith("fresh")]
    assert both == ["sd:org/both: fresh", "org/one: fresh", "whisper:org/both: fresh", "org/two: fresh"]
    again = cli("-f", "sd", "-f", "whisper", "-f", "sd/config.yaml")
    assert again.err == "4 entries fresh, nothing to do\n", "two names of one config are one"


def test_a_name_that_two_configs_have_is_refused(several: Truss, cli: Cli, hub: Hub) -> None:
    two = ["-f", "sd", "-f", "whisper"]
    refused = cli("run", *two, "org/both")
    said = "org/both: found in 2 configs, expected one\nhint: Write sd:org/both or whisper:org/both.\n"
    assert (refused.code, refused.err) == (3, said)
    assert cli("run", *two, "org/none").code == 3
    assert hub.requests == []
    assert cli("why", *two, "whisper:org/both", "org/one", "sd:org/one").out.count("stale") == 2
    assert cli("run", *two, "sd:org/both").code == 0
    assert cli("why", *two).out.count(": fresh") == 1, "the other project has made no claim"


def test_configs_under_one_id_are_refused_where_they_would_have_one_claim(several: Truss, cli: Cli, hub: Hub) -> None:
    two = ["-f", "sd", "-f", "whisper"]
    several.config("model_cache: [{repo_id: org/both, ignore_patterns: [b]}]\n", "whisper/config.yaml")
    refused = cli(*two, TRUSS_CACHE_PROJECT="ours")
    assert (refused.code, refused.err.startswith("TRUSS_CACHE_PROJECT: found org/both in two configs")) == (3, True)
    assert hub.requests == []
    assert cli(*two).code == 0


def test_the_other_commands_take_several_configs(several: Truss, cli: Cli) -> None:
    two = ["-f", "sd", "-f", "whisper"]
    assert cli(*two).code == 0
    assert cli("lock", *two).code == 0
    assert [(several.folder / name / "model_cache.lock").exists() for name in ("sd", "whisper")] == [True, True]
    assert cli("lock", "--check", *two).code == 0
    assert cli("verify", *two).out.count(": good, ") == 4
    assert "whisper:org/both" in cli("du", *two).out
    assert cli("prune", *two).code == 0
    assert cli("clean", *two, "sd:org/both").code == 0
    assert cli("why", *two).out.splitlines()[0] == "sd:org/both: stale"
    assert cli("clean", *two).code == 0
    assert not list(several.hub_cache.glob("models--*"))


def test_a_key_over_several_configs_is_that_of_all_their_requests(several: Truss, cli: Cli) -> None:
    sd, whisper = (cli("key", "-f", name).out for name in ("sd", "whisper"))
    both = cli("key", "-f", "sd", "-f", "whisper").out
    assert len({sd, whisper, both}) == 3
    assert cli("key", "-f", "whisper", "-f", "sd", "-f", "sd").out == both
    several.config("model_cache: [{repo_id: org/two}, {repo_id: org/one}, {repo_id: org/both}]\n")
    assert cli("key").out == both
    assert cli("key", "-f", "sd", "-f", "sd").out == sd


def test_the_nearest_config_above_is_found_and_named(several: Truss) -> None:
    deep = several.folder / "sd" / "a" / "b"
    deep.mkdir(parents=True)
    found = several.run(["sh", "-c", "cd sd/a/b && truss-cache why"])
    assert (found.code, found.err) == (0, "config: the one in ../..\n")
    assert found.out.startswith("org/both: stale\n")
    assert several.run(["sh", "-c", "cd sd/a/b && truss-cache -q"]).err == ""
    named = several.run(["sh", "-c", "cd sd/a/b && truss-cache why -f ../../../whisper"])
    assert ("org/two: stale" in named.out, named.err) == (True, "")
    variable = several.run(["sh", "-c", "cd sd/a/b && truss-cache why"], TRUSS_CONFIG="../../../whisper")
    assert ("org/two: stale" in variable.out, variable.err) == (True, "")


@pytest.mark.parametrize("line", ["clean", "clean -n", "prune", "prune --yes", "lock --upgrade", "clean --json"])
def test_what_removes_or_moves_refuses_a_config_that_was_found_above(several: Truss, line: str) -> None:
    (several.folder / "sd" / "a").mkdir()
    assert several.cli("-f", "sd").code == 0
    before = tree(several.hub_cache)
    refused = several.run(["sh", "-c", f"cd sd/a && truss-cache {line}"])
    assert (refused.code, refused.err.splitlines()[-1]) == (3, "hint: Add -f ...")
    assert tree(several.hub_cache) == before
    assert not (several.folder / "sd" / "model_cache.lock").exists()
    allowed = several.run(["sh", "-c", f"cd sd/a && truss-cache {line} -f .."])
    assert allowed.code == 0, allowed.text
    assert several.run(["sh", "-c", f"cd sd && truss-cache {line}"]).code == 0, "it is in the current folder"


def test_the_search_ends_at_git_and_at_home(several: Truss) -> None:
    several.config("model_cache: [{repo_id: org/one}]\n")
    deep = several.folder / "project" / "a"
    deep.mkdir(parents=True)
    why = ["sh", "-c", "cd project/a && truss-cache why"]
    assert "org/one: stale" in several.run(why).out
    assert several.run(why, HOME=str(several.folder / "project")).code == 3
    assert several.run(why, HOME=str(several.folder)).code == 0, "the home folder itself is searched"
    (several.folder / "project" / ".git").write_text("gitdir: elsewhere\n")
    ended = several.run(why)
    assert (ended.code, ended.err.splitlines()[0]) == (3, "config.yaml: not found")
