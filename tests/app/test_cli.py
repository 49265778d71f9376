"""`truss-cache`: commands, exit statuses, what they print, and what a no-op imports."""

from __future__ import annotations

import os
import pty
import re
from pathlib import Path

import pytest
from servers.hub import Hub
from trusses import BIN, Ran, Truss, tree

from truss_cache_tasks.app.commands.table import COMMANDS

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


def test_run_fetches_all_and_then_nothing(two: Truss, hub: Hub) -> None:
    first = two.cli()
    assert (first.code, first.out) == (0, "")
    assert "org/one: fetched 2 files, 21.5 kB in " in first.err
    assert first.err.count("(all verified)\n") == 2
    hub.requests.clear()
    second = two.cli("run")
    assert (second.code, second.out, second.err) == (0, "", "2 entries fresh, nothing to do\n")
    assert hub.requests == []
    assert two.doit().out.count("-- ") == 3, "doit and truss-cache share their records"


def test_run_takes_names_and_the_config_by_f(two: Truss, hub: Hub) -> None:
    moved = two.root / "elsewhere"
    two.folder.rename(moved)
    two.folder.mkdir()
    done = two.cli("run", "org/two", "-f", str(moved))
    assert done.code == 0, done.text
    assert not (two.hub_cache / "models--org--one").exists()
    other = two.cli("-f", str(moved / "config.yaml"))
    assert (other.code, "1 entry fresh already\n" in other.err) == (0, True), other.text


def test_a_failed_entry_is_named_and_the_others_are_fetched(two: Truss) -> None:
    two.config(TWO + "      - repo_id: org/none\n")
    done = two.cli()
    assert (done.code, done.out) == (1, "")
    assert done.err.count("hint: ") == 1
    assert done.err.count("org/none: ") == 1
    assert done.err.endswith("1 entry of 3 failed\n")
    assert "Traceback" not in done.err
    assert sorted(path.name for path in two.hub_cache.glob("models--*")) == ["models--org--one", "models--org--two"]


@pytest.mark.parametrize(
    "line",
    [
        "org/two",
        "-f CONFIG org/two",
        "-a org/two -f CONFIG",
        "-af CONFIG org/two",
        "org/two -a --config CONFIG",
        "run org/two",
        "-f CONFIG run org/two",
        "--config CONFIG run org/two",
        "-fCONFIG run -a org/two",
        "-a run -f CONFIG -- org/two",
    ],
)
def test_a_run_is_the_default_and_options_stand_anywhere(two: Truss, line: str) -> None:
    done = two.cli(*line.replace("CONFIG", str(two.folder)).split())
    assert (done.code, done.out) == (0, ""), done.text
    assert [path.name for path in two.hub_cache.glob("models--*")] == ["models--org--two"]


@pytest.mark.parametrize(
    "line", ["why --check org/two", "--check why org/two", "why org/two --check", "-f . why --check org/two -f ."]
)
def test_options_of_a_command_stand_anywhere(two: Truss, line: str) -> None:
    done = two.cli(*line.split())
    assert (done.code, done.out.splitlines()[0]) == (1, "org/two: stale"), done.text
    assert two.cli(*line.replace("--check", "").split()).code == 0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("-n", "truss-cache run: -n: not known to `run`, it belongs to `clean`"),
        ("why -a", "truss-cache why: -a: not known to `why`, it belongs to `run`"),
        ("--nope", "truss-cache run: --nope: not known to `run`"),
        ("key org/one", "truss-cache key: org/one: not known to `key`"),
        ("-f", "truss-cache run: argument -f/--config: expected one argument"),
        ("help me", "truss-cache help: no such topic: me"),
    ],
)
def test_a_wrong_command_line_says_what_is_wrong(two: Truss, line: str, said: str) -> None:
    done = two.cli(*line.split())
    assert (done.code, done.err.splitlines()[-1]) == (3, said)
    assert max(map(len, done.err.splitlines())) <= 80


@pytest.mark.parametrize("line", ["-fsurf key", "key -fsurf", "-f surf key --"])
def test_a_command_is_found_beside_a_config_whose_name_ends_in_f(two: Truss, line: str) -> None:
    (two.folder / "surf").symlink_to(two.folder)
    assert two.cli(*line.split()).out == two.cli("key").out


def test_what_follows_two_dashes_is_no_option(two: Truss) -> None:
    done = two.cli("clean", "--", "-n")
    assert (done.code, done.out, done.err.splitlines()[0]) == (3, "", "no entry is called '-n'")
    assert two.cli("--", "-a").err.startswith("no entry is called '-a'\n")


def test_a_misspelt_command_names_the_entries_and_the_commands(two: Truss) -> None:
    done = two.cli("verfy")
    commands = "run, plan, path, clean, why, lock, verify, du, prune, key, init, migrate, completion, help"
    near = "Did you mean `truss-cache verify`?"
    hint = f"hint: {near} Name one of this config: org/one, org/two. The commands: {commands}."
    assert (done.code, done.err.splitlines()) == (3, ["no entry is called 'verfy'", hint])
    assert two.cli("run", "verfy").err.endswith("hint: Name one of this config: org/one, org/two.\n")


@pytest.mark.parametrize(
    "line",
    [
        ["fetch"],
        ["--chek"],
        ["-n"],
        ["why", "--dry-run"],
        ["--check"],
        ["clean", "-a"],
        ["clean", "--replace"],
        ["why", "--accept-unverified"],
        ["--follow-links"],
        ["why", "-n"],
        ["key", "org/one"],
        ["run", "org/tow"],
        ["clean", "org/tow"],
        ["help", "me"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_refused_and_nothing_is_fetched(two: Truss, hub: Hub, line: list[str]) -> None:
    done = two.cli(*line)
    assert (done.code, done.out if line[0] != "help" else "") == (3, "")
    assert "Traceback" not in done.err
    assert hub.requests == []


def test_a_broken_config_is_one_line_and_a_hint(two: Truss) -> None:
    two.config("model_cache:\n  - repo_id: org/one\n    revison: v1\n")
    for command in (["run"], ["why"], ["verify"], ["clean"], ["key"]):
        done = two.cli(*command)
        said = "config.yaml:3: model_cache[0].revison: unknown key\nhint: Did you mean revision?\n"
        assert (done.code, done.out, done.err) == (3, "", said)


def test_a_config_without_entries_says_so_once(two: Truss) -> None:
    two.config("model_name: none\n")
    for command in (["run"], ["why", "--check"], ["verify"], ["clean"]):
        done = two.cli(*command)
        assert (done.code, done.err) == (0, "warning: config.yaml: no model_cache entries, nothing to fetch\n")


def test_a_character_that_stdout_does_not_have_is_printed_escaped(two: Truss) -> None:
    (two.folder / "config.yaml").write_text("model_cache:\n  - repo_id: file://ж\n")
    ran = two.cli("why", PYTHONIOENCODING="latin-1")
    assert (ran.code, ran.err) == (0, "")
    assert "\\u0436: stale" in ran.out


def test_why_names_what_changed_and_what_a_run_would_do(two: Truss, hub: Hub) -> None:
    assert two.cli("why").out.count("not fetched yet") == 2
    assert two.cli("why", "--check").code == 1
    assert two.cli().code == 0
    hub.requests.clear()
    fresh = two.cli("why", "--check")
    pins = [repo.refs["refs/heads/main"] for repo in (hub.repos["org/one"], hub.repos["org/two"])]
    both = [f"org/{name}: fresh\n  main: pinned at {pin}\n" for name, pin in zip(("one", "two"), pins, strict=True)]
    assert (fresh.code, fresh.out) == (0, "".join(both))

    (one,) = two.hub_cache.glob("models--org--one/snapshots/*/one.bin")
    os.utime(one)
    touched = two.cli("why", "--check", "org/one")
    assert touched.code == 0, "whole and only touched: --check hashes it to know"
    assert re.search(r"one\.bin is touched .*\n  -> a run puts it right and asks no server\n  main: ", touched.out)
    one.resolve().write_bytes(b"x" * 20_000)
    damaged = two.cli("why", "--check")
    assert damaged.code == 1
    assert f"  -> a run fetches 20.0 kB\n  main: pinned at {pins[0]}\norg/two: fresh\n" in damaged.out, damaged.out
    two.config(TWO.replace("org/two", "org/two\n        revision: v2"))
    changed = two.doit("cache-why", "--check", "cache_weights:org/two")
    assert changed.code == 1
    assert changed.out.startswith("cache_weights:org/two: stale\n  revision: 'main' -> 'v2'\n  -> a run ")
    assert hub.requests == [], "it asks no network"


def test_on_a_terminal_reasons_wrap(two: Truss) -> None:
    assert two.cli().code == 0
    names = ", ".join(f'"part-{number}.bin"' for number in range(20))
    two.config(TWO.replace("org/one", f"org/one\n        allow_patterns: [{names}]"))
    piped = two.cli("why", "org/one")
    assert any("part-0.bin" in line and "part-19.bin" in line for line in piped.out.splitlines())
    ours, theirs = pty.openpty()
    command = ["sh", "-c", f"stty cols 80 <{os.ttyname(theirs)}; exec truss-cache why org/one >{os.ttyname(theirs)}"]
    assert two.run(command).code == 0
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    lines = shown.replace("\r", "").splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) >= 6
    assert all(line.startswith("  ") for line in lines[1:])


def test_verify_names_each_bad_file(two: Truss, hub: Hub) -> None:
    assert two.cli("verify").code == 1
    assert two.cli().code == 0
    hub.requests.clear()
    good = two.cli("verify")
    assert (good.code, good.out) == (0, "org/one: good, 2 files, 21.5 kB\norg/two: good, 1 file, 20.0 kB\n")
    (one,) = two.hub_cache.glob("models--org--one/snapshots/*/one.bin")
    stat = one.stat()
    one.resolve().write_bytes(b"x" + b"1" * 19_999)
    os.utime(one, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    for bad in (two.cli("verify"), two.doit("cache-verify")):
        assert bad.code == 1
        assert "org/one: 1 bad of 2 files" in bad.out
        assert f"  {one.relative_to(two.hub_cache / 'models--org--one')}: got xxh3-128 " in bad.out
        assert bad.err.count("hint: ") == 1
    assert hub.requests == []


def test_clean_takes_names_and_dry_runs(two: Truss) -> None:
    assert two.cli().code == 0
    dry = two.cli("clean", "-n")
    assert (dry.code, dry.out) == (0, "would remove 6 paths, 41,500 bytes\n")
    assert two.cli("clean", "org/two").out == "removed 2 paths, 20,000 bytes\n"
    assert two.cli("clean").out == "removed 4 paths, 21,500 bytes\n"
    assert two.cli("clean").out == "nothing to remove\n"
    assert not list(two.hub_cache.glob("models--*"))


def test_key_is_the_same_everywhere_and_changes_with_what_is_asked(two: Truss, hub: Hub, tmp_path: Path) -> None:
    key = two.cli("key").out
    assert re.fullmatch(r"[0-9a-f]{64}\n", key)
    other = Truss(tmp_path / "elsewhere", hub=hub)
    other.config(TWO.replace("org/one", "org/one\n        ignore_patterns: []"))
    assert other.cli("key").out == key
    other.config(TWO.replace("org/two", "org/two\n        revision: v2"))
    assert other.cli("key").out not in ("", key)


def test_help_fits_80_columns_and_lists_our_variables(two: Truss) -> None:
    ours = [[name, "--help"] for name in COMMANDS] + [["help", name] for name in COMMANDS]
    for command in (*ours, ["--help"], ["help"], ["help", "env"]):
        done = two.cli(*command)
        assert (done.code, done.err) == (0, "")
        assert [line for line in done.out.splitlines() if len(line) > 80] == []
    assert "TRUSS_CACHE_DEBUG" in done.out


# Raises in the midst of our code: when it opens a file whose name matches, as a bug in that line would.
BUG = """
import os, re, sys
def bug(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        if re.search({name!r}, os.fsdecode(arguments[0])):
            raise ZeroDivisionError("secret-value")
sys.addaudithook(bug)
"""
RUNS = (
    BUG
    + """
from truss_cache_tasks.app.cli import main
sys.exit(main([]))
"""
)
BUGS = {"config": r"config\.yaml$", "judge": r"^[0-9a-f]{64}\.json$", "fetch": r"^entry-[0-9a-f]{64}\.lock$"}


@pytest.fixture
def touched(two: Truss) -> Truss:
    """Both entries were fetched, and have to be looked at again."""
    assert two.cli().code == 0
    for shown in two.hub_cache.glob("models--*/snapshots/*/*.bin"):
        os.utime(shown)
    return two


@pytest.mark.parametrize("where", BUGS)
def test_a_bug_is_one_line_and_2(touched: Truss, where: str) -> None:
    done = touched.python(RUNS.format(name=BUGS[where]))
    assert done.code == 2, done.text
    assert "Traceback" not in done.text
    assert "secret-value" not in done.text
    assert "internal error: ZeroDivisionError" in done.err
    debug = touched.python(RUNS.format(name=BUGS[where]), TRUSS_CACHE_DEBUG="1")
    assert (debug.code, "Traceback" in debug.err) == (2, True)


@pytest.mark.parametrize("where", ["judge", "fetch"])
@pytest.mark.parametrize("how", [[], ["-n", "2", "-P", "process"]])
def test_a_bug_in_a_task_is_one_line_and_2(touched: Truss, how: list[str], where: str) -> None:
    touched.dodo(
        BUG.format(name=BUGS[where])
        + """
import multiprocessing
multiprocessing.set_start_method("fork")  # a child has the bug too, as with the default before 3.14
from truss_cache_tasks import task_cache_weights
"""
    )
    done = touched.doit("run", *how)
    assert done.code == 2, done.text
    assert "internal error: ZeroDivisionError" in done.err
    listed = touched.doit("list", "--all", "--status")
    assert (listed.code, listed.out.count("R ")) == (0, 3)
    for text in (done.text, listed.text):
        assert "Traceback" not in text
        assert "secret-value" not in text


HEAVY = {"boto3", "botocore", "awscrt", "google", "huggingface_hub", "urllib3", "requests", "httpx", "xxhash", "rich"}
HEAVY |= {"concurrent.futures", "socket", "ssl", "http", "asyncio", "subprocess", "random", "logging", "shutil", "uuid"}
HEAVY |= {"dataclasses", "inspect"}


# All that a no-op of two Hub entries imports of this package; a new name here has to be needed by each such run.
OURS = """
app app.output app.signals app.workspace
config config.collisions config.credentials config.document config.entries config.fields config.files config.folders
config.loader config.model_cache config.names config.settings config.uris
errors
model model.credentials model.keys model.records model.request model.s3_service model.status model.stores
network network.cancel
operations operations.context
store store.files store.files.disk store.files.locks store.files.names store.files.open_folders store.files.record_file
store.files.tree store.layouts store.layouts.blob store.layouts.flat_layout store.layouts.hub_layout
store.layouts.layout store.layouts.refs store.records store.records.claims store.records.evidence
store.records.manifest
"""
CONSOLE = {"app.cli", "app.configs", "app.facts", "config.search"}
CONSOLE |= {"app.commands"} | {
    f"app.commands.{name}" for name in ("choice", "command_line", "exit_status", "fetch", "table")
}
PLUGIN = {"plugin", "plugin.actions", "plugin.tasks", "plugin.uptodate"}


def ours(text: str) -> set[str]:
    names = (name.partition("truss_cache_tasks.") for name in text.split())
    return {rest for before, found, rest in names if found and not before}


def test_a_no_op_imports_no_sdk(two: Truss) -> None:
    assert two.cli().code == 0
    code = """
        import sys
        from {module} import {main} as main
        status = {call}
        print(*sorted(sys.modules))
        sys.exit(status)
    """
    alone = two.python(code.format(module="truss_cache_tasks.app.cli", main="main", call="main([])"))
    assert (alone.code, alone.err) == (0, "2 entries fresh, nothing to do\n")
    assert not (HEAVY | {"doit"}) & set(alone.out.split())
    assert ours(alone.out) == {*OURS.split(), *CONSOLE}
    why = two.python(code.format(module="truss_cache_tasks.app.cli", main="main", call="main(['why'])"))
    assert not (HEAVY | {"doit"}) & set(why.out.split())
    doit = two.python(code.format(module="doit.doit_cmd", main="DoitMain", call="main().run([])"))
    assert doit.code == 0, doit.text
    assert ours(doit.out) == {*OURS.split(), *PLUGIN}
    two.dodo("def task_plain(): return {'actions': ['true'], 'uptodate': [True]}")
    for _ in range(2):  # a no-op of doit without us, its database included
        plain = two.python(code.format(module="doit.doit_cmd", main="DoitMain", call="main().run([])"))
    its_own = set(plain.out.split())
    assert not (HEAVY & set(doit.out.split())) - its_own


def in_shell(truss: Truss, line: str, **env: str) -> Ran:
    return truss.run(["bash", "-c", line.replace("CLI", str(BIN / "truss-cache"))], **env)


def test_a_closed_pipe_is_no_traceback(two: Truss) -> None:
    for unbuffered in ("", "1"):
        done = in_shell(two, "CLI why | true; exit ${PIPESTATUS[0]}", PYTHONUNBUFFERED=unbuffered)
        assert done.code in (0, 1)
        assert done.err == ""


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_change_no_exit_status(two: Truss, closed: str) -> None:
    for command in ("", "", "why --check", "verify", "key", "help", "clean -n", "clean"):
        done = in_shell(two, f"CLI {command} {closed}")
        assert done.code == 0, (command, done.text)
        assert "internal error" not in done.err
    assert in_shell(two, f"CLI why --check {closed}").code == 1
    assert in_shell(two, f"CLI --no {closed}").code == 3
    assert sorted(path.name for path in two.folder.iterdir()) == ["config.yaml", "dodo.py"]


@pytest.mark.parametrize("how", ["2>&1 >/dev/null | true; exit ${PIPESTATUS[0]}", "2>/dev/full"])
def test_nobody_who_reads_stderr_changes_no_exit_status(two: Truss, how: str) -> None:
    for command, code in (("", 0), ("", 0), ("why", 0), ("run org/none", 3), ("--no", 3), ("clean", 0)):
        done = in_shell(two, f"CLI {command} {how}")
        assert (done.code, done.err) == (code, ""), command


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_stdout_is_one_line_and_1(two: Truss, unbuffered: str) -> None:
    assert two.cli().code == 0
    for command in ("why", "verify", "key", "help", "--help", "help env", "clean -n", "clean"):
        done = in_shell(two, f"CLI {command} >/dev/full", PYTHONUNBUFFERED=unbuffered)
        assert done.code == 1, command
        assert done.err == "cannot write to stdout: No space left on device\n", command
    assert not list(two.hub_cache.glob("models--*")), "the work is done all the same"
    assert in_shell(two, "CLI >/dev/full").code == 0, "a run writes nothing there"
    assert in_shell(two, "CLI why >/dev/full 2>/dev/full").code == 1


def test_what_is_published_is_what_the_hub_has(two: Truss) -> None:
    assert two.cli().code == 0
    assert {path.rsplit("/", 1)[-1] for path in tree(two.hub_cache) if "/snapshots/" in path} == {
        "one.bin",
        "more.bin",
        "two.bin",
    }


@pytest.mark.slow  # starts processes
@pytest.mark.parametrize("way", ["{0}/source/inner", "./link/inner", "{0}/source/../link/inner/.", "./last"])
def test_a_cache_folder_in_its_own_source_is_refused_by_whatever_links_it_is_reached(way: str, tmp_path: Path) -> None:
    truss = Truss(tmp_path)
    inner = truss.folder / "source" / "inner"
    inner.mkdir(parents=True)
    (inner / "w.bin").write_bytes(b"w")
    (truss.folder / "link").symlink_to("source")
    (truss.folder / "last").symlink_to(inner)
    (truss.folder / "plain").mkdir()
    (truss.folder / "plain" / "w.bin").write_bytes(b"w")
    entries = ["./plain", way.format(truss.folder)]
    lines = [
        f"  - repo_id: file://{path}\n    use_volume: true\n    volume_folder: v{n}" for n, path in enumerate(entries)
    ]
    truss.config("model_cache:\n" + "\n".join(lines) + "\n")
    done = truss.cli("run", TRUSS_MODEL_CACHE_DIR=str(inner / "cache"))
    assert done.code == 3
    assert f"model_cache[1].repo_id: the cache folder {inner}/cache/v1 is, or lies in, the source {inner}" in done.err
    assert truss.cli("run", TRUSS_MODEL_CACHE_DIR=str(tmp_path / "cache")).code == 0
