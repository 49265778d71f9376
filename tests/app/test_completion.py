"""`truss-cache completion`: what Tab does in a real bash and a real zsh, each on a terminal of its own."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator

import pytest
from servers.hub import Hub
from servers.tools import require
from trusses import BIN, Ran, Truss, tree

from truss_cache_tasks.app.commands.command_line import parser_of
from truss_cache_tasks.app.commands.completion import find_words
from truss_cache_tasks.app.commands.table import COMMANDS

ALL = "\x1b*"  # insert all completions (bash)
LEFT = "\x02"
SHOW = "\x18d"  # print the line, as it is now
START = {"bash": ["bash", "--norc", "--noprofile"], "zsh": ["zsh", "-f"]}
SETUP = {
    "bash": r"""
        eval "$(truss-cache completion bash)"
        bind 'set bell-style none' 'set enable-bracketed-paste off'
        bind -x '"\C-xd": printf "SHOWN[%s]SHOWN\n" "$READLINE_LINE"'
    """,
    "zsh": r"""
        autoload -U compinit && compinit -u -D
        eval "$(truss-cache completion zsh)"
        show() { print -r -- "SHOWN[$BUFFER]SHOWN" }
        zle -N show && bindkey '^Xd' show && bindkey '^U' kill-whole-line
        unsetopt zle_bracketed_paste 2>/dev/null; setopt no_beep no_prompt_sp
    """,
}


class Shell:
    """An interactive shell in the folder of a Truss, which has run the script of its completion."""

    def __init__(self, name: str, truss: Truss) -> None:
        setup = truss.root / f"setup.{name}"
        setup.write_text(f"{SETUP[name]}\nprintf 'SHOWN[%s]SHOWN\\n' ready\n")
        self._program = require(name, f"apt-get install {name}")
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.chdir(truss.folder)
            os.execve(self._program, START[name], {**truss.env, "TERM": "dumb", "PS1": "$ ", "LANG": "C.UTF-8"})
        os.write(self._terminal, f". {shlex.quote(str(setup))}\n".encode())
        assert self._read() == "ready"

    def line_after(self, keys: str) -> str:
        """Return what the line holds after these keys; it is then cleared."""
        os.write(self._terminal, f"{keys}{SHOW}".encode())
        line = self._read()
        os.write(self._terminal, b"\x05\x15")  # to the end, and cut all before
        return line

    def words_after(self, keys: str) -> list[str]:
        """Return the words that the shell makes of that line."""
        line = self.line_after(keys)
        return subprocess.check_output([self._program, "-c", f"printf '%s\\n' {line}"], text=True).splitlines()

    def _read(self) -> str:
        text = ""
        while not (found := re.search(r"SHOWN\[(.*?)\]SHOWN", text, re.DOTALL)):
            text += os.read(self._terminal, 4096).decode(errors="replace")
        return found[1]

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._terminal)


Start = Callable[[str], Shell]

CONFIG = """
    model_cache:
      - repo_id: org/one
      - repo_id: org/two
      - repo_id: org/two
        revision: v1
"""


@pytest.fixture
def start(truss: Truss) -> Iterator[Start]:
    """Start a shell beside a config; the folders `surf` and `my conf` have one with the same names."""
    truss.config(CONFIG)
    for name in ("surf", "my conf"):
        (truss.folder / name).mkdir()
        truss.config(CONFIG, f"{name}/config.yaml")
    with contextlib.ExitStack() as stack:

        def begin(name: str) -> Shell:
            shell = Shell(name, truss)
            stack.callback(shell.close)
            return shell

        yield begin


both = pytest.mark.parametrize("name", START)


@both
def test_tab_completes_commands_options_and_entries(start: Start, name: str, truss: Truss, hub: Hub) -> None:
    shell = start(name)
    before = tree(truss.root)
    assert shell.line_after("truss-cache comp\t") == "truss-cache completion "
    assert shell.line_after("truss-cache completion z\t") == "truss-cache completion zsh "
    assert shell.line_after("truss-cache help en\t") == "truss-cache help env "
    assert shell.line_after("truss-cache why --rem\t") == "truss-cache why --remote "
    assert shell.line_after("truss-cache run --ev\t") == "truss-cache run --events "
    assert shell.line_after("truss-cache --vers\t") == "truss-cache --version "
    assert shell.line_after("truss-cache verify --rep\t") == "truss-cache verify --rep", "an option of run"
    assert shell.line_after("truss-cache org/o\t") == "truss-cache org/one "
    assert shell.line_after("truss-cache verify -q org/two@\t") == "truss-cache verify -q org/two@v1 "
    assert shell.line_after("truss-cache path org/one o\t") == "truss-cache path org/one org/two", "not twice"
    assert shell.line_after("truss-cache -- whi\t") == "truss-cache -- whi"
    assert shell.line_after("truss-cache key or\t") == "truss-cache key or", "it takes no entries"
    assert hub.requests == []
    assert tree(truss.root) == before


@both
def test_tab_completes_paths_of_configs(start: Start, name: str, truss: Truss) -> None:
    shell = start(name)
    assert shell.line_after("truss-cache why -f su\t").rstrip("/ ") == "truss-cache why -f surf"
    assert shell.line_after("truss-cache why --config=su\t").rstrip("/ ") == "truss-cache why --config=surf"
    assert shell.words_after("truss-cache -qf my\t")[2].rstrip("/") == "my conf"
    assert shell.line_after("truss-cache key >su\t").rstrip("/ ") == "truss-cache key >surf"


@both
def test_names_with_the_config_before_a_colon_are_completed(start: Start, name: str) -> None:
    shell = start(name)
    for typed in ("su", "surf:", "surf:o", "my", "my\\ ", "my\\ conf:o", "'my conf:", "'my c", '"my', "my' conf:o"):
        config = "surf" if typed.startswith("su") else "my conf"
        line = shell.line_after(f"truss-cache -f surf -f my\\ conf why {typed}\t")
        for quote in ("", "'", '"'):
            with contextlib.suppress(ValueError):
                assert shlex.split(line + quote)[-1] == f"{config}:org/", (typed, line)
        assert shell.words_after(f"truss-cache -f surf -f my\\ conf why {typed}\to\t")[-1] == f"{config}:org/one", typed


@both
def test_names_with_the_signs_of_a_shell_are_quoted(start: Start, name: str, truss: Truss) -> None:
    shell = start(name)
    odd = "w'x\"y$z&(a)`b`;c|d<e>f\\g{h,i}!j~k[l]?é#m"
    truss.config("model_cache:\n  - repo_id: org/one\n  - " + json.dumps({"repo_id": f"file://{odd}"}))
    assert shell.words_after("truss-cache plan w\t") == ["truss-cache", "plan", odd]
    assert shell.words_after("truss-cache plan w\\'x\t") == ["truss-cache", "plan", odd]
    assert shell.words_after("truss-cache plan 'w\t") == ["truss-cache", "plan", odd]
    in_quotes = shell.words_after('truss-cache plan "w\t')[-1]
    assert in_quotes.replace("\\!", "!") == odd, "an interactive zsh reads \\! as ! between these quotes"


@both
def test_a_config_that_is_wrong_or_empty_is_silent(start: Start, name: str, truss: Truss) -> None:
    shell = start(name)
    for text in ("model_cache: [{repo: org/one}]", "model_cache: [", "", "model_cache: []"):
        truss.config(text)
        assert shell.line_after("truss-cache clean or\t") == "truss-cache clean or", text
    assert shell.line_after("truss-cache -f nowhere clean or\t") == "truss-cache -f nowhere clean or"
    assert shell.line_after("truss-cache clea\t") == "truss-cache clean "


@both
def test_the_config_may_be_named_behind_the_cursor(start: Start, name: str, truss: Truss) -> None:
    shell = start(name)
    truss.config("model_cache: [{repo_id: org/three}]", "my conf/config.yaml")
    for typed in ("", "org/", "'or"):
        rest = "' -f 'my conf'" if "'" in typed else " -f 'my conf'"
        line = shell.line_after(f"truss-cache why {typed}{rest}{LEFT * len(rest)}\t")
        assert line.split()[2].strip("'") == "org/three", (typed, line)


@both
def test_the_program_that_is_named_on_the_line_is_asked(start: Start, name: str, truss: Truss) -> None:
    truss.env["PATH"] = os.pathsep.join([str(truss.root / "tools"), "/usr/bin", "/bin"])
    (truss.root / "tools").mkdir()
    (truss.root / "home" / "truss-cache").symlink_to(BIN / "truss-cache")
    once = truss.root / "tools" / "truss-cache"  # for the setup alone
    once.symlink_to(BIN / "truss-cache")
    shell = start(name)
    once.unlink()
    for program in (str(BIN / "truss-cache"), "~/truss-cache"):
        assert shell.line_after(f"{program} comp\t") == f"{program} completion "
    assert shell.line_after("truss-cache comp\t") == "truss-cache comp", "it is not on the PATH"


@pytest.mark.slow  # it has a Truss
def test_all_words_are_those_of_the_table_and_what_the_parsers_take(start: Start) -> None:
    shell = start("bash")
    assert shell.words_after(f"truss-cache help {ALL}")[2:] == sorted(["env", *COMMANDS])
    for name, command in COMMANDS.items():
        flags = shell.words_after(f"truss-cache {name} -{ALL}")[2:]
        known = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", parser_of(name, command).format_usage()))
        assert known <= set(flags), name
        assert "--words" not in flags


def test_what_is_expected_at_each_place() -> None:
    def words(line: str) -> list[str]:
        parts = line.split(" ")
        return find_words(parts, len(parts) - 1)

    for line in ("-f ", "why -af ", "run --events ", "--config ", "--config=x", "run --events=", "-f a -f "):
        assert words(f"truss-cache {line}") == ["/"], line
    for line in ("prune --older-than ", "prune --keep-bytes=", "run --help ", "key x ", "run --nope ", "help env "):
        assert words(f"truss-cache {line}") == [], line
    assert "--quick" in words("truss-cache -f x verify -")
    assert "-f" in words("truss-cache -f"), "the option itself, before its value begins"
    assert "--quick" not in words("truss-cache -f verify -")
    assert words("truss-cache -- ") == [], "no command, as there is none behind `--`"
    assert find_words(["truss-cache", "", "why", "-"], 3) != find_words(["truss-cache", "-", "why"], 1)[:2]
    assert "--remote" in find_words(["truss-cache", "-", "why"], 1), "the command follows"


@pytest.mark.parametrize("line", ["", "fish", "bash zsh", "bash --words", "zsh --words -- x", "bash --words -- a b c"])
def test_a_wrong_shell_is_refused(truss: Truss, line: str) -> None:
    ran = truss.cli("completion", *line.split())
    assert (ran.code, ran.out) == (3, ""), ran
    assert ran.err.endswith("expected bash or zsh\n")
    assert "Traceback" not in ran.err


@both
def test_a_script_is_a_document_too(truss: Truss, name: str) -> None:
    plain = truss.cli("completion", name)
    assert json.loads(truss.cli("completion", name, "--json").out)["text"] == plain.out.splitlines()
    checked = truss.run([require(name), "-n", "-c", plain.out])
    assert checked == Ran(0, "", ""), checked
