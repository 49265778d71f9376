"""The table of the commands: what the command line, the help and the completion know of each."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

from truss_cache_tasks.config.settings import parse_age, parse_size


class Option(NamedTuple):
    """An option: what `add_argument` gets. One that takes a value has a `metavar`."""

    flags: tuple[str, ...]
    keywords: dict[str, Any]


class Command(NamedTuple):
    """One command of `truss-cache`.

    Attributes:
        purpose: one line for the list of commands.
        run: `module:function` of this package, imported when the command runs: it takes the Options, and returns the
            exit status.
        options: of this command alone.
        takes: the metavar and the help of its positional arguments; None for a command without any.
        examples: (command line, what it does).
    """

    purpose: str
    run: str
    options: tuple[Option, ...] = ()
    takes: tuple[str, str] | None = ("ENTRY", "entries by name; default: all")
    examples: tuple[tuple[str, str], ...] = ()


def _flag(*flags: str, what: str) -> Option:
    return Option(flags, {"action": "store_true", "help": what})


_CONFIG_HELP = "config.yaml, or the folder that holds it; may be given several times"
COMMON: tuple[Option, ...] = (
    Option(("-f", "--config"), {"action": "append", "default": [], "metavar": "CONFIG", "help": _CONFIG_HELP}),
    _flag("--json", what="write one JSON document to stdout, messages to stderr"),
)
VERSION = _flag("--version", what="print the version")  # without a command

_QUIET = _flag("-q", "--quiet", what="print only failures")
_VERBOSE = _flag("-v", "--verbose", what="print a line for each file")
_ALWAYS = _flag("-a", "--always", what="hash and resolve everything again")
_STRICT = _flag("--strict", what="fail an entry if one of its patterns matches no file")
_FETCHING = (
    _QUIET,
    _ALWAYS,
    _STRICT,
    _flag("--replace", what="replace foreign files at paths of an entry"),
    _flag("--accept-unverified", what="accept files whose MD5-like ETag is not their MD5"),
)


def _option(flag: str, metavar: str, rule: Callable[[str], Any], what: str) -> Option:
    def parse(text: str) -> Any:
        try:
            return rule(text)
        except ValueError as want:
            raise argparse.ArgumentTypeError(f"got {text!r}, expected {want}") from None

    return Option((flag,), {"metavar": metavar, "type": parse, "help": what})


COMMANDS = {
    "run": Command(
        "fetch what is stale (the default)",
        "fetch:run",
        (
            *_FETCHING,
            _VERBOSE,
            _flag("--dry-run", what="the same as `plan`"),
            Option(("--events",), {"metavar": "PATH", "help": "append the events to PATH, as JSON lines"}),
        ),
        examples=(
            ("truss-cache", "fetch what is stale"),
            ("truss-cache run -f sd -f whisper", "of two Trusses"),
            ("truss-cache run org/one -a", "hash one entry again, and resolve it"),
            ("truss-cache run --json >result.json", "for a script"),
        ),
    ),
    "plan": Command(
        "say what a run would fetch, and if there is room; write nothing",
        "queries:plan",
        _FETCHING,
        examples=(("truss-cache plan", "before a long fetch"), ("truss-cache plan -a", "of a run that resolves again")),
    ),
    "path": Command(
        "print the folder to open of each entry",
        "queries:path",
        examples=(("truss-cache path org/one", "exit 1 where it is not fetched"),),
    ),
    "clean": Command(
        "invalidate: remove these weights and their claims",
        "changes:clean",
        (
            _QUIET,
            _flag("-n", "--dry-run", what="print what would go, remove nothing"),
        ),
        examples=(("truss-cache clean -n", "print what would go"), ("truss-cache clean org/one", "one entry")),
    ),
    "why": Command(
        "say which entries are fresh, or which input changed",
        "queries:why",
        (
            _flag("--check", what="exit 1 if a run would have to read a store"),
            _flag("--remote", what="ask the stores what has moved; with --check: exit 1 if anything has"),
        ),
        examples=(
            ("truss-cache why", "what a run would do, and why"),
            ("truss-cache why --check", "the gate before `truss push`"),
            ("truss-cache why --remote", "what has moved in the stores"),
        ),
    ),
    "lock": Command(
        "write, move or check model_cache.lock, which pins files",
        "changes:lock",
        (
            _flag("--upgrade", what="lock what the stores have now, for all or the named entries"),
            _flag("--check", what="write nothing; exit 1 if the file is missing or outdated"),
            _flag("--remote", what="with --check: ask the stores; exit 1 if something has moved"),
            _STRICT,
        ),
        examples=(
            ("truss-cache lock", "add what is missing, move nothing"),
            ("truss-cache lock --upgrade org/one", "move one entry"),
            ("truss-cache lock --check --remote", "what has moved in the stores"),
        ),
    ),
    "verify": Command(
        "hash everything again, and name each bad file",
        "queries:verify",
        (
            _QUIET,
            _VERBOSE,
            _flag("--quick", what="compare the sizes alone, and look at the headers of safetensors files"),
        ),
        examples=(
            ("truss-cache verify", "hash all files"),
            ("truss-cache verify --quick -q", "only what is bad, by size"),
        ),
    ),
    "du": Command(
        "say what the cache holds, shares, and no claim lists",
        "queries:du",
        examples=(("truss-cache du", "of this config, or else of this machine"),),
    ),
    "prune": Command(
        "remove what no living claim lists; dry without --yes",
        "changes:prune",
        (
            _QUIET,
            _flag("--yes", what="remove it; without this, only print what would go"),
            _option("--older-than", "AGE", parse_age, "drop claims of other hosts not renewed for AGE (30d, 12h, 8w)"),
            _option("--keep-bytes", "SIZE", parse_size, "remove the least recently used first, down to SIZE (500G)"),
        ),
        takes=None,
        examples=(
            ("truss-cache prune", "print what would go"),
            ("truss-cache prune --yes --keep-bytes 500G", "down to 500 GB"),
        ),
    ),
    "key": Command(
        "print the portable cache key for CI",
        "queries:key",
        takes=None,
        examples=(("truss-cache key -f sd -f whisper", "one key over both"),),
    ),
    "init": Command(
        "write dodo.py beside the config, and the lines of .gitignore",
        "changes:init",
        takes=None,
        examples=(("truss-cache init", "in the current folder"), ("truss-cache init -f sd", "in the folder sd")),
    ),
    "migrate": Command(
        "print the config with `weights` for `model_cache`, as a diff",
        "queries:migrate",
        takes=None,
        examples=(
            ("truss-cache migrate", "look at it"),
            ("truss-cache migrate | patch -p0", "change config.yaml"),
        ),
    ),
    "completion": Command(
        "print the script for completion in bash or zsh",
        "completion:completion",
        (_flag("--words", what=argparse.SUPPRESS),),
        takes=("SHELL", "bash or zsh"),
        examples=(
            ('eval "$(truss-cache completion bash)"', "in ~/.bashrc"),
            ('eval "$(truss-cache completion zsh)"', "in ~/.zshrc, after compinit"),
        ),
    ),
    "help": Command(
        "list the commands, `help env` our environment variables",
        "help:print_topic",
        takes=("TOPIC", "env, or a command"),
        examples=(("truss-cache help run", "the options of a command"), ("truss-cache help env", "the variables")),
    ),
}
