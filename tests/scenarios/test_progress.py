"""What people see while weights are fetched: on terminals of three widths, in the log of CI, and beside other tasks."""

from __future__ import annotations

import random
import re
import shutil
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers.hub import Hub
from terminal import CLI, DOIT, on_terminal
from trusses import BIN, Truss

from truss_cache_tasks import load_config
from truss_cache_tasks.store.files.locks import FileLock, try_lock
from truss_cache_tasks.store.files.tree import FileTree

NAME = "meta-llama/Llama-3.1-8B-Instruct"
BIG = random.Random(12).randbytes((24 << 20) + 5)  # 4 parts
ONE = f"model_cache:\n  - repo_id: {NAME}\n"
HERE = {"a.bin": b"a" * 1000, "b.bin": b"b" * 2000}


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Truss, Hub]]:
    """A Truss whose run came as far as the first of four parts, and two small files that it had before."""
    with Hub() as hub:
        env = {"TRUSS_CACHE_CONNECTIONS": "1", "TRUSS_CACHE_PROJECT": "p"}
        truss = Truss(tmp_path_factory.mktemp("first"), hub=hub, **env)
        repo = hub.create(NAME)
        repo.commit(HERE)
        truss.config(ONE)
        assert truss.cli("-q").text == ""
        repo.commit({"big.safetensors": BIG})
        hub.fail("big.safetensors", "pass", *["403"] * 9, host="cdn")
        assert truss.cli("-a", "-q").code == 1
        yield truss, hub


@pytest.fixture
def broken_off(first_run: tuple[Truss, Hub], tmp_path: Path) -> Iterator[tuple[Truss, Hub]]:
    """A copy of `first_run`, and its Hub, which brings 2 MB a second until it is `released`."""
    first, hub = first_run
    shutil.copytree(first.root, tmp_path, symlinks=True, dirs_exist_ok=True)
    hub.faults.clear()
    hub.released.clear()
    hub.rate = 2_000_000
    env = {name: first.env[name] for name in ("TRUSS_CACHE_CONNECTIONS", "TRUSS_CACHE_PROJECT")}
    yield Truss(tmp_path, hub=hub, **env), hub
    hub.released.set()


def hold_entry(truss: Truss) -> Callable[[], None]:
    """Hold the lock of the entry, as another process would that fetches it; return what releases it."""
    (entry,) = load_config(truss.folder).entries
    folder = truss.hub_cache / f"models--{NAME.replace('/', '--')}"
    release = try_lock(FileLock(FileTree(folder), f".truss_cache/locks/entry-{entry.key}.lock"))
    assert release is not None
    return release


def rows_of(text: str, start: str) -> list[str]:
    return [row for row in text.splitlines() if row.startswith(start)]


@pytest.mark.parametrize(
    ("columns", "waits", "limited", "fetches"),
    [
        (
            40,
            r"meta-…truct waiting for another process",
            r"meta-…truct  33 % rate limited, \d s",
            r"meta-…truct  \d\d % [\d.]+ [kM]B/s, \d+ s left",
        ),
        (
            80,
            r"meta-llama/…8B-Instruct  waiting for another process that fetches this entry",
            r"meta-llama/…8B-Instruct   8\.4 of 25\.2 MB   33 %  rate limited, next try in \d s",
            r"meta-llama/…8B-Instruct +[\d.]+ of 25\.2 MB   \d\d %  fetching, [\d.]+ [kM]B/s, \d+ s left",
        ),
        (
            200,
            rf"{NAME}  waiting for another process that fetches this entry",
            rf"{NAME}   8\.4 of 25\.2 MB   33 %  ━{{7}}─{{17}}  rate limited, next try in \d s",
            rf"{NAME} +[\d.]+ of 25\.2 MB   \d\d %  ━+─+  "
            r"fetching, [\d.]+ [kM]B/s, \d+ s left, 2 of 3 files, 8\.4 MB resumed",
        ),
    ],
)
def test_a_terminal_shows_a_wait_a_retry_and_a_resume(
    broken_off: tuple[Truss, Hub], columns: int, waits: str, limited: str, fetches: str
) -> None:
    truss, hub = broken_off
    hub.fail("big.safetensors", "429 Retry-After=2", host="cdn")
    release = hold_entry(truss)
    with on_terminal(truss, *CLI, "-a", columns=columns) as terminal:
        terminal.wait_for(lambda text: re.search(f"^{waits}$", text, re.M))
        release()
        terminal.wait_for(lambda text: re.search(f"^{limited}$", text, re.M))
        seen = terminal.wait_for(lambda text: re.search(f"^{fetches}$", text, re.M))
        assert all(len(row) < columns for row in rows_of(seen, "meta-…") + rows_of(seen, "meta-llama/…"))
        hub.released.set()
        assert terminal.end() == 0
    screen = terminal.screen
    assert screen.scrolls_whole
    lines = "".join(screen.everything).replace(" ", "")  # the terminal wraps them, also at blanks
    assert "%" not in lines
    assert "1file,25.2MB;2files,3.0kBherealready" in lines
    end = r":fetched1file,25\.2MB\(8\.4MBbyanearlierrun\)in[\d.]+s,[\d.]+[kM]B/s;reused2files,3\.0kB\(allverified\)"
    assert re.search(NAME + end, lines)
    assert f"{NAME}:in{truss.hub_cache}/models--{NAME.replace('/', '--')}/snapshots/" in lines


@pytest.mark.parametrize("service", ["", "GITHUB_ACTIONS"])
def test_a_log_has_the_plan_the_retry_and_the_result(
    broken_off: tuple[Truss, Hub], tmp_path: Path, service: str
) -> None:
    truss, hub = broken_off
    hub.rate = None
    hub.fail("big.safetensors", "429 Retry-After=1", host="cdn")
    summary = tmp_path / "summary.md"
    truss.env |= {"GITHUB_STEP_SUMMARY": str(summary)} | ({service: "true"} if service else {})
    truss.config(f"{ONE}  - repo_id: org/none\n")
    done = truss.cli("-a")
    assert done.code == 1
    lines = done.err.splitlines()
    (plan,) = [line for line in lines if "fetching" in line]
    assert plan == f"{NAME}: fetching 1 file, 25.2 MB; 2 files, 3.0 kB here already"
    (retry,) = [line for line in lines if "retrying" in line]
    assert re.fullmatch(rf"{NAME}: retrying big\.safetensors in [12]\.\d s: .*429.*", retry)
    first, where, total = lines[-4:-1]
    assert re.fullmatch(rf"{NAME}: fetched 1 file, 25\.2 MB \(8\.4 MB by an earlier run\) in .*\(all verified\)", first)
    assert where.startswith(f"{NAME}: in {truss.hub_cache}/")
    assert re.fullmatch(r"2 entries \(1 failed\): fetched 1 file, 25\.2 MB \(8\.4 MB by an earlier run\) in .*", total)
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", done.err), "a control character"
    annotations = [line for line in lines if line.startswith("::error")]
    if service:
        assert lines[0] == "::group::weights of 2 entries"
        assert lines[lines.index(first) - 1] == "::endgroup::", "results are not folded"
        (annotation,) = annotations
        assert annotation.startswith("::error file=config.yaml,line=3,title=org/none::org/none: no such repo")
        table = summary.read_text().splitlines()
        assert table[1] == "| entry | result | files | fetched | reused | time | rate |"
        assert [row.split(" | ")[0] for row in table[3:]] == ["| org/none", f"| {NAME}"]
    else:
        assert annotations == []
        assert not [line for line in lines if line.startswith("::")]
        assert not summary.exists()


def two_repos(truss: Truss, hub: Hub) -> Truss:
    for name in ("org/one", "org/two"):
        hub.create(name).commit({"w.bin": BIG[: 1 << 20]})
    hub.rate = 50_000  # so that a fetch lasts until it is `released`
    truss.config("model_cache:\n  - repo_id: org/one\n  - repo_id: org/two\n")
    return truss


OTHERS = """
    import pathlib, time
    from truss_cache_tasks import task_cache_weights
    DOIT_CONFIG = {"default_tasks": ["cache_weights", "other"]}
    def task_other():
        loop = "for n in $(seq 60); do echo {name} says $n; test -e go && break; sleep 0.05; done"
        yield {"name": "shell", "verbosity": 2, "actions": [loop.format(name="shell")]}
        # What a child writes to the terminal by itself, unseen by doit.
        yield {"name": "direct", "io": {"capture": False}, "actions": [loop.format(name="direct") + " >/dev/tty"]}
"""


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_lines_of_other_tasks_are_never_torn(truss: Truss, hub: Hub, kind: str) -> None:
    two_repos(truss, hub)
    truss.dodo(textwrap.dedent(OTHERS))
    with on_terminal(truss, *DOIT, "-n", "4", "-P", kind, columns=80, rows=12) as terminal:
        if kind == "thread":
            terminal.wait_for(lambda text: "total" in text and len(rows_of(text, "cache_weights:org/")) >= 2)
        terminal.wait_for(lambda text: len(re.findall(" says ", text)) > 5)
        (truss.folder / "go").touch()
        hub.released.set()
        assert terminal.end() == 0
    rows = terminal.screen.everything
    for name in ("shell", "direct"):
        said = [row for row in rows if "says" in row and name in row]
        assert said == [f"{name} says {n}" for n in range(1, len(said) + 1)]
    fetched = [row for row in rows if re.match("cache_weights:.*: fetched ", row)]
    assert sorted(row.split(": ")[0] for row in fetched) == ["cache_weights:org/one", "cache_weights:org/two"]
    assert not rows_of("\n".join(rows), "total")
    assert terminal.screen.scrolls_whole


def test_a_resize_leaves_nothing_of_the_old_block(truss: Truss, hub: Hub) -> None:
    two_repos(truss, hub)
    with on_terminal(truss, *CLI, columns=120, rows=20) as terminal:
        terminal.wait_for(lambda text: "total" in text)
        for columns, rows in ((50, 14), (100, 24)):
            terminal.resize(columns, rows)
            terminal.wait_for(lambda _: terminal.screen.rows[-1].startswith("total"))
            assert len(rows_of(terminal.screen.text, "total")) == 1
        hub.released.set()
        assert terminal.end() == 0
    assert not rows_of("\n".join(terminal.screen.rows), "total")


def test_ctrl_z_and_ctrl_c_give_the_terminal_back(truss: Truss, hub: Hub) -> None:
    two_repos(truss, hub)
    with on_terminal(truss, "bash", "-mc", f"{CLI[0]}; echo stopped; read; fg; echo status $?") as terminal:
        terminal.wait_for(lambda text: "total" in text)
        terminal.send("\x1a")
        stopped = terminal.wait_for(lambda text: "stopped" in text)
        assert "total" not in stopped
        assert terminal.screen.scrolls_whole
        terminal.send("\n")
        terminal.wait_for(lambda text: "total" in text)
        terminal.send("\x03")
        ended = terminal.wait_for(lambda text: "status" in text)
        assert "total" not in ended
        assert "status 130" in ended
    assert terminal.screen.scrolls_whole


def test_a_simple_terminal_gets_lines(truss: Truss, hub: Hub) -> None:
    two_repos(truss, hub)
    hub.released.set()
    with on_terminal(truss, *CLI, TERM="dumb") as terminal:
        assert terminal.end() == 0
    assert b"\x1b" not in terminal.raw


def test_with_no_color_there_is_none(truss: Truss, hub: Hub) -> None:
    two_repos(truss, hub)
    with on_terminal(truss, *CLI, columns=120, NO_COLOR="1") as terminal:
        terminal.wait_for(lambda text: re.search("━─.*left", text))
        assert terminal.screen.colors == {"default"}
        hub.released.set()
        assert terminal.end() == 0


def test_quiet_prints_failures_alone(truss: Truss, hub: Hub) -> None:
    two_repos(truss, hub)
    hub.released.set()
    truss.config("model_cache:\n  - repo_id: org/one\n  - repo_id: org/none\n")
    done = truss.cli("-q")
    assert (done.code, done.out) == (1, "")
    assert [line.split(":")[0] for line in done.err.splitlines()] == ["org/none", "hint", "1 entry of 2 failed"]
    bad = truss.cli("verify", "-q")
    assert (bad.code, bad.out) == (1, "org/none: not fetched\n")
    truss.config("model_cache:\n  - repo_id: org/two\n")
    by_doit = truss.doit("-v0")
    assert (by_doit.code, by_doit.err) == (0, "")


@pytest.mark.parametrize("redirect", ["2>/dev/full", "2> >(head -c 5 >/dev/null)"])
def test_a_stderr_that_takes_nothing_fails_no_run(truss: Truss, hub: Hub, redirect: str) -> None:
    two_repos(truss, hub)
    hub.released.set()
    done = truss.run(["bash", "-c", f"{BIN / 'truss-cache'} {redirect}"], PYTHONUNBUFFERED="1")
    assert (done.code, done.out) == (0, ""), done.text
    assert len(list(truss.hub_cache.glob("models--*/snapshots/*/w.bin"))) == 2


def test_a_stderr_of_another_encoding_gets_what_it_can_show(truss: Truss, hub: Hub) -> None:
    two_repos(truss, hub)
    with on_terminal(truss, *CLI, columns=120, PYTHONIOENCODING="latin-1") as terminal:
        terminal.wait_for(lambda text: re.search("%  #+-+  fetching, .* left", text))
        hub.released.set()
        assert terminal.end() == 0
    assert terminal.raw.isascii()
