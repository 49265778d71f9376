"""The arguments of cache_tasks(), where config and caches are looked for, and broken configs."""

from __future__ import annotations

import pytest
from servers.hub import Hub
from trusses import BIN, Truss, tree

BROKEN = "model_cache:\n  - repo_id: org/one\n    revison: v1\n"


@pytest.fixture
def weights(truss: Truss) -> Truss:
    """A Truss of a local folder: no server is needed to see where things go."""
    (truss.folder / "weights").mkdir()
    (truss.folder / "weights" / "a.bin").write_bytes(b"weights")
    truss.config("model_cache:\n  - repo_id: file://./weights\n")
    return truss


def test_a_broken_config_stops_every_doit_command_in_one_line(truss: Truss) -> None:
    truss.config(BROKEN)
    for command in (["cache_weights"], ["list"], ["clean"], ["cache-why"], ["cache-verify"]):
        done = truss.doit(*command)
        assert (done.code, done.out) == (3, "")
        assert done.err == "ERROR: config.yaml:3: model_cache[0].revison: unknown key\nhint: Did you mean revision?\n"


def test_with_defer_errors_the_other_tasks_work_on(weights: Truss, hub: Hub) -> None:
    (weights.folder / "broken").mkdir()
    (weights.folder / "broken" / "config.yaml").write_text(BROKEN)
    weights.dodo("""
        from truss_cache_tasks import cache_tasks
        task_a = cache_tasks("broken", basename="a", defer_errors=True)
        task_b = cache_tasks("config.yaml", basename="b", defer_errors=True)
    """)
    listed = weights.doit("list", "--all", "--status")
    assert (listed.code, listed.err) == (0, "")
    assert [line.split()[:2] for line in listed.out.splitlines()] == [["R", "a"], ["R", "b"], ["R", "b:weights"]]
    assert weights.doit("b").code == 0
    failed = weights.doit("a")
    assert failed.code == 1
    assert "config.yaml:3: model_cache[0].revison: unknown key\nhint: Did you mean revision?" in failed.err
    assert "Traceback" not in failed.text
    info = weights.doit("info", "a")
    assert (info.code, "revison: unknown key" in info.out) == (1, True), info.text
    assert weights.doit("clean", "-a").code == 0
    assert hub.requests == []


def test_two_trusses_in_one_dodo_file_each_with_its_own_cache(weights: Truss) -> None:
    other = weights.folder / "trusses" / "other"
    (other / "more").mkdir(parents=True)
    (other / "more" / "b.bin").write_bytes(b"more")
    (other / "config.yaml").write_text("model_cache:\n  - repo_id: file://./more\n")
    weights.dodo("""
        from truss_cache_tasks import cache_tasks
        task_one = cache_tasks("config.yaml", basename="one", model_cache_dir="cache/one")
        task_two = cache_tasks("trusses/other", basename="two", model_cache_dir="cache/two")
    """)
    env = {"TRUSS_MODEL_CACHE_DIR": ""}
    done = weights.doit("run", "-n", "2", **env)
    assert done.code == 0, done.text
    cache = weights.folder / "cache"
    assert tree(cache) == {"one/weights/a.bin": b"weights", "two/more/b.bin": b"more"}
    assert weights.doit("clean", "two", **env).code == 0
    assert tree(cache) == {"one/weights/a.bin": b"weights"}
    assert weights.doit("two", TRUSS_MODEL_CACHE_DIR=str(weights.model_cache)).code == 0
    assert tree(weights.model_cache) == {"more/b.bin": b"more"}, "the variable is above the argument"


def test_with_clean_false_doit_clean_leaves_the_weights(weights: Truss) -> None:
    weights.dodo("from truss_cache_tasks import cache_tasks\ntask_weights = cache_tasks(clean=False)\n")
    assert weights.doit().code == 0
    for command in (["clean"], ["clean", "-a"], ["clean", "cache_weights"]):
        assert weights.doit(*command).out == ""
    assert tree(weights.model_cache) == {"weights/a.bin": b"weights"}
    assert weights.cli("clean").code == 0
    assert tree(weights.model_cache) == {}


def test_a_path_is_relative_to_the_file_that_calls_wherever_doit_was_started(weights: Truss) -> None:
    inner = weights.folder / "inner"
    inner.mkdir()
    (inner / "tasks.py").write_text(
        "from truss_cache_tasks import cache_tasks\ntask_weights = cache_tasks('../config.yaml')\n"
    )
    weights.dodo("from inner.tasks import task_weights\n")
    elsewhere = weights.root / "elsewhere"
    elsewhere.mkdir()
    run = ["env", "-C", str(elsewhere), str(BIN / "python"), "-m", "doit"]
    for how in (["-f", str(weights.folder / "dodo.py")], ["-f", "../truss/dodo.py", "-d", str(elsewhere)]):
        done = weights.run([*run, *how, "list", "--all"], PYTHONPATH=str(weights.folder))
        assert (done.code, "cache_weights:weights" in done.out) == (0, True), done.text


def test_truss_config_is_relative_to_where_doit_was_started(weights: Truss) -> None:
    elsewhere = weights.root / "elsewhere"
    (elsewhere / "w").mkdir(parents=True)
    (elsewhere / "other.yaml").write_text("model_cache:\n  - repo_id: file://./w\n")
    run = ["env", "-C", str(elsewhere), str(BIN / "python"), "-m", "doit", "-f", str(weights.folder / "dodo.py")]
    by_variable = weights.run([*run, "list", "--all"], TRUSS_CONFIG="other.yaml")
    assert "cache_weights:w " in by_variable.out
    beside_dodo = weights.run([*run, "list", "--all"])
    assert "cache_weights:weights" in beside_dodo.out
    in_d = weights.run([*run, "-d", str(elsewhere), "list", "--all"])
    assert (in_d.code, "no config.yaml" in in_d.err or "config.yaml" in in_d.err) == (3, True), in_d.text


def test_a_bad_value_of_one_of_our_variables_is_named_by_doit_and_truss_cache(weights: Truss) -> None:
    for ran in (
        weights.doit(TRUSS_CACHE_CONNECTIONS="many"),
        weights.cli(TRUSS_CACHE_CONNECTIONS="many"),
        weights.cli("why", TRUSS_CACHE_CONNECTIONS="many"),
    ):
        assert (ran.code, ran.out) == (3, "")
        assert "TRUSS_CACHE_CONNECTIONS: got 'many'" in ran.err
        assert ran.err.count("hint: ") == 1
    assert not weights.model_cache.exists()


SETTINGS_OF_ENTRIES = """
    import dodo
    for task in dodo.task_weights():
        for action in task.get("actions", []):
            settings = action.context.settings
            print(settings.replace, settings.follow_links, settings.accept_unverified)
"""


@pytest.mark.parametrize(
    ("arguments", "env", "shown"),
    [
        ("", {}, "False False False"),
        ("", {"TRUSS_CACHE_REPLACE": "1"}, "True False False"),
        ("", {"TRUSS_CACHE_FOLLOW_LINKS": "1"}, "False True False"),
        ("", {"TRUSS_CACHE_ACCEPT_UNVERIFIED": "1"}, "False False True"),
        ("replace=True", {}, "True False False"),
        ("replace=True", {"TRUSS_CACHE_REPLACE": "0"}, "True False False"),
        ("follow_links=True", {}, "False True False"),
        ("accept_unverified=True", {}, "False False True"),
    ],
)
def test_what_is_less_safe_is_said_by_the_call_or_the_variable_never_by_the_config(
    weights: Truss, arguments: str, env: dict[str, str], shown: str
) -> None:
    weights.config("""
        environment_variables:
          TRUSS_CACHE_REPLACE: "1"
          TRUSS_CACHE_FOLLOW_LINKS: "1"
          TRUSS_CACHE_ACCEPT_UNVERIFIED: "1"
        model_cache:
          - repo_id: file://./weights
    """)
    weights.dodo(f"from truss_cache_tasks import cache_tasks\ntask_weights = cache_tasks({arguments})\n")
    done = weights.python(SETTINGS_OF_ENTRIES, **env)
    assert (done.code, done.out) == (0, f"{shown}\n"), done.text
    for key in ("replace", "follow_links", "accept_unverified"):
        weights.config(f"model_cache:\n  - repo_id: file://./weights\n    {key}: true\n")
        refused = weights.cli("key")
        assert (refused.code, f"{key}: unknown key" in refused.err) == (3, True), refused.text


def test_truss_cache_run_takes_replace(weights: Truss) -> None:
    assert weights.cli("run", "--replace").code == 0
    assert weights.cli("--replace").err == "1 entry fresh, nothing to do\n"
