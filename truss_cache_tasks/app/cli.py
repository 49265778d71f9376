"""`truss-cache`: the same without a dodo.py. Imports no doit; all entries are tried, side by side."""

from __future__ import annotations

import argparse
import hashlib
import threading
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn

from truss_cache_tasks.app import display, signals
from truss_cache_tasks.app import reports as inspect
from truss_cache_tasks.app.workspace import Workspace, open_workspace
from truss_cache_tasks.config.settings import VARIABLES
from truss_cache_tasks.errors import CacheTaskError, ConfigError, DiskError, Stopped
from truss_cache_tasks.model.records import FORMAT
from truss_cache_tasks.operations.context import EntryContext

DONE, FAILED, INTERNAL, MISUSED = 0, 1, 2, 3
_SIDE_BY_SIDE = 4  # entries at once; they share the engine's connections

COMMANDS = {
    "run": "fetch what is stale (the default)",
    "clean": "invalidate: remove these weights and their claims",
    "why": "say which entries are fresh, or which input changed",
    "verify": "hash everything again, and name each bad file",
    "key": "print the portable cache key for CI",
    "help": "`help env` lists our environment variables",
}

# `truss-cache -n` must not fetch
_BELONGS = {"always": "run", "replace": "run", "accept_unverified": "run", "dry_run": "clean", "check": "why"}
_EPILOG = """\
exit status: 0 done; 1 an entry failed, the others were fetched; 2 our mistake;
3 config or command line wrong, or a clean incomplete; 130, 143 stopped by
SIGINT, SIGTERM: run it again for the rest"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        display.say(*self.format_usage().splitlines(), f"{self.prog}: {message}")
        raise SystemExit(MISUSED)

    def print_help(self, file: Any = None) -> None:
        display.write(*self.format_help().splitlines())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status of DESIGN section 4."""
    display.open_closed()
    try:
        status = _answer(argv)
    except SystemExit as exc:  # --help, a refused command line, a signal
        status = int(exc.code or DONE)
    unwritten = display.flush_output()
    if unwritten is None:
        return status
    if not isinstance(unwritten, BrokenPipeError):  # that reader has seen enough
        display.say(f"cannot write to stdout: {unwritten.strerror}")
    return status or FAILED


def _answer(argv: Sequence[str] | None) -> int:
    parser = _parser()
    options = parser.parse_intermixed_args(argv)  # else `why --check NAME` is refused
    for given, command in _BELONGS.items():
        if getattr(options, given) and options.command != command:
            parser.error(f"--{given.replace('_', '-')} belongs to `{command}`, not to `{options.command}`")
    if options.names and options.command == "key":
        parser.error("`key` is for the whole config: it takes no entries")
    try:
        return _dispatch(options)
    except ConfigError as error:
        display.say(*display.worded(error))
        return MISUSED
    except CacheTaskError as error:
        display.say(*display.worded(error))
        return FAILED
    except Exception as exc:
        display.say(display.internal(exc))
        return INTERNAL


def _parser() -> _Parser:
    about = "\n".join(f"  {name:8}{what}" for name, what in COMMANDS.items())
    parser = _Parser(
        prog="truss-cache",
        usage="%(prog)s [COMMAND] [-f CONFIG] [OPTION ...] [ENTRY ...]",
        description="Fetch the weights of a Truss's model_cache entries, once, verified.\n\ncommands:\n" + about,
        epilog=_EPILOG,
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, width=80),  # asking for it imports shutil
        allow_abbrev=False,
    )
    parser.add_argument("command", nargs="?", default="run", choices=COMMANDS, metavar="COMMAND", help="default: run")
    parser.add_argument("names", nargs="*", metavar="ENTRY", help="entries by name; default: all")
    parser.add_argument("-f", "--config", help="config.yaml, or the folder that holds it")
    parser.add_argument("-a", "--always", action="store_true", help="run: hash and resolve everything again")
    parser.add_argument("--replace", action="store_true", help="run: replace files at our paths that we did not make")
    parser.add_argument("--accept-unverified", action="store_true", help="run: take files whose ETag is no MD5 of them")
    parser.add_argument("-n", "--dry-run", action="store_true", help="clean: print what would go, remove nothing")
    parser.add_argument("--check", action="store_true", help="why: exit 1 unless a run would ask no server")
    return parser


def _dispatch(options: argparse.Namespace) -> int:
    if options.command == "help":
        return _help(options.names)
    workspace = open_workspace(options.config, replace=options.replace, accept_unverified=options.accept_unverified)
    targets = _chosen(workspace, options.names)
    labelled = [(target.name, workspace, target) for target in targets]
    workspace.warn()
    match options.command:
        case "run":
            return _run(workspace, targets, always=options.always)
        case "clean":
            return _clean(workspace, options.names or None, dry=options.dry_run)
        case "why":
            return inspect.why(labelled, display.write, check=options.check)
        case "verify":
            return inspect.verify(labelled, display.write)
        case _:
            display.write(cache_key(workspace))
            return DONE


def _chosen(workspace: Workspace, names: Sequence[str]) -> list[EntryContext]:
    known = {target.name: target for target in workspace.targets}
    for name in names:
        if name not in known:
            there = ", ".join(known) or "none"
            raise ConfigError(f"no entry is called {name!r}", hint=f"The entries of this config: {there}.")
    return [known[name] for name in dict.fromkeys(names)] if names else list(workspace.targets)


def _run(workspace: Workspace, targets: Sequence[EntryContext], *, always: bool) -> int:
    signals.install()
    stale = [target for target in targets if not workspace.judge(target).fresh or always]
    failed = _fetch_all(workspace, stale, force=always) if stale else {}
    if fresh := len(targets) - len(stale):
        display.say(f"{in_entries(fresh)} fresh{' already' if stale else ', nothing to do'}")
    if failed:
        display.say(f"{in_entries(len(failed))} of {len(targets)} failed: {', '.join(failed)}")
    return max(failed.values(), default=DONE)


def _fetch_all(workspace: Workspace, stale: Sequence[EntryContext], *, force: bool) -> dict[str, int]:
    """Fetch these entries side by side; return the status of each that failed, by name."""
    work = deque(stale)
    failed: dict[str, int] = {}

    def worker() -> None:
        while not signals.stopped():
            try:
                target = work.popleft()
            except IndexError:
                return
            if status := _fetch_one(target, workspace.run, force=force):
                failed[target.name] = status

    threads = [threading.Thread(target=worker, daemon=True) for _ in range(min(_SIDE_BY_SIDE, len(stale)))]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except signals.Interrupted:
        for thread in threads:
            thread.join(1.0)  # they let go of their temporaries and locks
        raise
    return failed


def _fetch_one(target: EntryContext, run_id: str, *, force: bool) -> int:
    from truss_cache_tasks.app.run import fetch_with_display  # a no-op fetches nothing

    try:
        fetch_with_display(target, run_id, target.name, force=force)
    except Stopped:
        return FAILED  # the signal's handler said it
    except CacheTaskError as error:
        display.say(*display.worded(error, target.name))
        return FAILED
    except Exception as exc:
        display.say(f"{target.name}: {display.internal(exc)}")
        return INTERNAL
    return DONE


def _clean(workspace: Workspace, names: Sequence[str] | None, *, dry: bool) -> int:
    signals.install()
    failure: DiskError | None = None
    try:
        workspace.clean(names, dry=dry)
    except DiskError as error:  # of one root; the others are cleaned
        failure = error
    done = workspace.cleaned
    for line in display.removed(done.files, done.size, done.kept, dry=dry):
        display.write(line)
    if done.left:
        display.say(*display.left_over(done.left))
    if failure is not None:
        display.say(*display.worded(failure))
    return MISUSED if done.left or failure is not None else DONE


def in_entries(count: int) -> str:
    """Return `1 entry`, `2 entries`."""
    return f"{count:,} {'entry' if count == 1 else 'entries'}"


def cache_key(workspace: Workspace) -> str:
    """Return 64 hex digits: equal where the same config would fill a cache in the same way."""
    keys = sorted(target.entry.key for target in workspace.targets)
    return hashlib.sha256("\n".join([f"format {FORMAT}", *keys]).encode()).hexdigest()


def _help(names: Sequence[str]) -> int:
    if list(names) != ["env"]:
        _parser().print_help()
        return DONE if not names else MISUSED
    for variable in VARIABLES:
        display.write(variable.name, f"    {variable.meaning}", f"    default: {variable.default}")
    return DONE
