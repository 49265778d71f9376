"""`truss-cache`: the console script, which does the work of the doit tasks without doit."""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from truss_cache_tasks.app import output, signals
from truss_cache_tasks.app.workspace import Workspace, is_config_named, open_workspace
from truss_cache_tasks.config.settings import VARIABLES, parse_age, parse_size
from truss_cache_tasks.errors import CacheTaskError, ConfigError, DiskError, Stopped
from truss_cache_tasks.model.records import FORMAT
from truss_cache_tasks.operations.context import EntryContext

if TYPE_CHECKING:
    from truss_cache_tasks.operations.fetch import Outcome

DONE, FAILED, INTERNAL, MISUSED = 0, 1, 2, 3

_EPILOG = """\
`truss-cache COMMAND --help` lists the options of a command.

exit status: 0 done; 1 an entry failed, the others were fetched; 2 internal
error; 3 config or command line wrong, or a clean incomplete; 130, 143 stopped
by SIGINT, SIGTERM: run the command again for the rest"""


class Command(NamedTuple):
    """One command of `truss-cache`.

    Attributes:
        purpose: one line for the list of commands.
        run: runs the command and returns the exit status.
        options: of this command alone: (flags, keywords of `add_argument`).
        takes: the metavar and the help of its positional arguments; None for a command without any.
    """

    purpose: str
    run: Callable[[argparse.Namespace], int]
    options: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = ()
    takes: tuple[str, str] | None = ("ENTRY", "entries by name; default: all")


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser that writes through `output`, and exits with 3 for a wrong command line."""

    def error(self, message: str) -> NoReturn:
        output.notify(*self.format_usage().splitlines(), f"{self.prog}: {message}")
        raise SystemExit(MISUSED)

    def print_help(self, file: Any = None) -> None:
        output.write(*self.format_help().splitlines())


# A fixed width: to ask the terminal for its width, argparse imports shutil.
_formatter = partial(argparse.RawDescriptionHelpFormatter, width=80)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, and return the exit status (docs/contract.md)."""
    output.open_closed_streams()
    output.escape_unknown_characters()
    try:
        status = _run_command(argv)
    except SystemExit as exc:  # --help, a refused command line, a signal
        status = int(exc.code or DONE)
    unwritten = output.flush_output()
    if unwritten is None:
        return status
    if not isinstance(unwritten, BrokenPipeError):  # the reader, such as `head`, closed the pipe on purpose
        output.notify(f"cannot write to stdout: {unwritten.strerror}")
    return status or FAILED


def _run_command(argv: Sequence[str] | None) -> int:
    name, arguments = _split(sys.argv[1:] if argv is None else argv)
    if name is None and not {"-h", "--help"}.isdisjoint(arguments):
        return _print_help()
    command = COMMANDS[name or "run"]
    parser = _parser(name or "run", command)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options, unknown = parser.parse_known_intermixed_args(arguments[:end])  # intermixed, for `why NAME --check NAME`
    if command.takes is None:
        unknown += arguments[end + 1 :]
    else:  # added after parsing: the second of the parser's two passes takes what follows `--` for options
        options.names += arguments[end + 1 :]
    options.command = name
    if unknown:
        parser.error(f"{unknown[0]}: not known to `{name or 'run'}`{_hint_of_owner(unknown[0])}")
    try:
        return command.run(options)
    except ConfigError as error:
        output.notify(*output.format_error(error))
        output.annotate("error", str(error))
        return MISUSED
    except CacheTaskError as error:
        output.notify(*output.format_error(error))
        return FAILED
    except Exception as exc:
        output.notify(output.format_internal_error(exc))
        return INTERNAL


def _split(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the command, None without one, and the arguments for its parser. Options may precede the command.

    >>> _split(["-f", "sd", "why", "--check", "org/one"])
    ('why', ['-f', 'sd', '--check', 'org/one'])
    >>> _split(["-a", "org/one"])
    (None, ['-a', 'org/one'])
    """
    is_value = False
    for at, argument in enumerate(argv):
        if is_value:
            is_value = False
        elif argument == "--" or not argument.startswith("-"):
            if argument not in COMMANDS:
                break
            return argument, [*argv[:at], *argv[at + 1 :]]
        else:
            is_value = argument == "--config" or re.fullmatch("-[a-eg-z]*f", argument) is not None
    return None, list(argv)


def _hint_of_owner(option: str) -> str:
    """Return the end of a sentence that names the command which has the option; "" where none has it."""
    owners = [name for name, command in COMMANDS.items() for flags, _ in command.options if option in flags]
    return f", it belongs to `{owners[0]}`" if owners else ""


def _parser(name: str, command: Command) -> _Parser:
    """Return the parser of one command: the common options, and its own."""
    parser = _Parser(
        prog=f"truss-cache {name}",
        description=command.purpose[0].upper() + command.purpose[1:] + ".",
        formatter_class=_formatter,
        allow_abbrev=False,
    )
    parser.add_argument("-f", "--config", help="config.yaml, or the folder that holds it")
    for flags, keywords in command.options:
        parser.add_argument(*flags, **keywords)
    if command.takes is not None:
        metavar, what = command.takes
        parser.add_argument("names", nargs="*", metavar=metavar, help=what)
    return parser


def _print_help() -> int:
    about = "\n".join(f"  {name:8}{command.purpose}" for name, command in COMMANDS.items())
    parser = _Parser(
        prog="truss-cache",
        usage="%(prog)s [COMMAND] [-f CONFIG] [OPTION ...] [ENTRY ...]",
        description="Fetch the weights of a Truss's model_cache entries, once, verified.\n\ncommands:\n" + about,
        epilog=_EPILOG,
        formatter_class=_formatter,
    )
    parser.add_argument("-f", "--config", help="config.yaml, or the folder that holds it")
    parser.print_help()
    return DONE


def _open(
    options: argparse.Namespace, *, replace: bool = False, accept_unverified: bool = False
) -> tuple[Workspace, list[EntryContext]]:
    """Return the workspace, and the entries that the command line names."""
    workspace = open_workspace(options.config, replace=replace, accept_unverified=accept_unverified)
    try:
        contexts = workspace.choose(options.names or None)
    except ConfigError as error:
        if options.command is None:  # the name may be a misspelt command
            error.hint = f"{error.hint} The commands: {', '.join(COMMANDS)}."
        raise
    if options.command != "lock" and not getattr(options, "quiet", False):  # `lock` says itself what the file lacks
        workspace.warn()
    return workspace, contexts


def _run(options: argparse.Namespace) -> int:
    workspace, contexts = _open(options, replace=options.replace, accept_unverified=options.accept_unverified)
    workspace.require_lock()
    signals.install()
    stale = [context for context in contexts if not workspace.read_status(context).verdict.fresh or options.always]
    failed = _fetch_all(stale, workspace.run_id, force=options.always, quiet=options.quiet) if stale else {}
    if (fresh := len(contexts) - len(stale)) and not options.quiet:
        output.notify(f"{_entries(fresh)} fresh{' already' if stale else ', nothing to do'}")
    if failed:
        output.notify(f"{_entries(len(failed))} of {len(contexts)} failed: {', '.join(failed)}")
    return max(failed.values(), default=DONE)


def _entries(count: int) -> str:
    return output.format_count(count, "entry", "entries")


def _fetch_all(stale: Sequence[EntryContext], run_id: str, *, force: bool, quiet: bool) -> dict[str, int]:
    """Fetch these entries side by side; return the exit status of each that failed, by name."""
    from truss_cache_tasks.app.fetch import fetch_side_by_side, fetch_with_display  # not needed if all are fresh

    group = f"weights of {_entries(len(stale))}"

    def fetch_one(context: EntryContext) -> Outcome:
        try:
            return fetch_with_display(context, run_id, context.name, force=force, quiet=quiet, group=group)
        except Stopped:  # the handler of the signal wrote the message
            raise
        except CacheTaskError as error:
            output.notify(*output.format_error(error, context.name))
            raise
        except Exception as exc:
            output.notify(f"{context.name}: {output.format_internal_error(exc)}")
            raise

    ended = fetch_side_by_side(stale, fetch_one)
    return {
        name: FAILED if isinstance(end, CacheTaskError) else INTERNAL
        for name, end in ended.items()
        if isinstance(end, BaseException)
    }


def _clean(options: argparse.Namespace) -> int:
    from truss_cache_tasks.app.reports import format_cleaned, format_left

    workspace, _ = _open(options)
    signals.install()
    failure: DiskError | None = None
    try:
        workspace.clean(options.names or None, dry=options.dry_run)
    except DiskError as error:  # one root failed, the others were cleaned
        failure = error
    done = workspace.cleaned
    output.write(*format_cleaned(done.files, done.size, done.kept, dry=options.dry_run))
    if done.left:
        output.notify(*format_left(done.left))
    if failure is not None:
        output.notify(*output.format_error(failure))
    return MISUSED if done.left or failure is not None else DONE


def _why(options: argparse.Namespace) -> int:
    from truss_cache_tasks.app import reports

    workspace, contexts = _open(options)
    return reports.why([(context.name, workspace, context) for context in contexts], output.write, check=options.check)


def _lock(options: argparse.Namespace) -> int:
    from truss_cache_tasks.app.lockfile import lock

    workspace, contexts = _open(options)
    return lock(
        workspace,
        contexts if options.names else None,
        output.write,
        upgrade=options.upgrade,
        check=options.check,
        remote=options.remote,
    )


def _verify(options: argparse.Namespace) -> int:
    from truss_cache_tasks.app import reports

    workspace, contexts = _open(options)
    chosen = [(context.name, workspace, context) for context in contexts]
    return reports.verify(chosen, output.write, quick=options.quick, quiet=options.quiet)


def _du(options: argparse.Namespace) -> int:
    from truss_cache_tasks.app import usage

    if not is_config_named(options.config) and not options.names:
        return usage.write_usage(usage.scope_of_machine(), output.write)
    workspace, contexts = _open(options)
    return usage.write_usage(usage.scope_of([workspace], ((one.name, one) for one in contexts)), output.write)


def _prune(options: argparse.Namespace) -> int:
    from truss_cache_tasks.app import usage

    scope = (
        usage.scope_of([open_workspace(options.config)])
        if is_config_named(options.config)
        else usage.scope_of_machine()
    )
    return usage.write_prune(
        scope, output.write, older_than_s=options.older_than, keep_bytes=options.keep_bytes, yes=options.yes
    )


def _key(options: argparse.Namespace) -> int:
    workspace = open_workspace(options.config)
    workspace.warn()
    workspace.require_readable_lock()
    output.write(cache_key(workspace))
    return DONE


def cache_key(workspace: Workspace) -> str:
    """Return 64 hex digits that are equal for configs whose entries make equal requests, in any order.

    What a lock file names for a request counts too.
    """
    keys = sorted(f"{c.entry.key} {c.locked.snapshot}" if c.locked else c.entry.key for c in workspace.contexts)
    return hashlib.sha256("\n".join([f"format {FORMAT}", *keys]).encode()).hexdigest()


def _help(options: argparse.Namespace) -> int:
    match options.names:
        case []:
            return _print_help()
        case ["env"]:
            for variable in VARIABLES:
                output.write(variable.name, f"    {variable.meaning}", f"    default: {variable.default}")
            return DONE
        case [name] if name in COMMANDS:
            _parser(name, COMMANDS[name]).print_help()
            return DONE
        case names:
            _parser("help", COMMANDS["help"]).error(f"no such topic: {' '.join(names)}")


def _flag(*flags: str, what: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    return flags, {"action": "store_true", "help": what}


_QUIET = _flag("-q", "--quiet", what="print only failures")


def _option(flag: str, metavar: str, rule: Callable[[str], Any], what: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    def parse(text: str) -> Any:
        try:
            return rule(text)
        except ValueError as want:
            raise argparse.ArgumentTypeError(f"got {text!r}, expected {want}") from None

    return (flag,), {"metavar": metavar, "type": parse, "help": what}


COMMANDS = {
    "run": Command(
        "fetch what is stale (the default)",
        _run,
        (
            _QUIET,
            _flag("-a", "--always", what="hash and resolve everything again"),
            _flag("--replace", what="replace foreign files at paths of an entry"),
            _flag("--accept-unverified", what="accept files whose MD5-like ETag is not their MD5"),
        ),
    ),
    "clean": Command(
        "invalidate: remove these weights and their claims",
        _clean,
        (_flag("-n", "--dry-run", what="print what would go, remove nothing"),),
    ),
    "why": Command(
        "say which entries are fresh, or which input changed",
        _why,
        (_flag("--check", what="exit 1 if a run would have to read a store"),),
    ),
    "lock": Command(
        "write, move or check model_cache.lock, which pins files",
        _lock,
        (
            _flag("--upgrade", what="lock what the stores have now, for all or the named entries"),
            _flag("--check", what="write nothing; exit 1 if the file is missing or outdated"),
            _flag("--remote", what="with --check: ask the stores; exit 1 if something has moved"),
        ),
    ),
    "verify": Command(
        "hash everything again, and name each bad file",
        _verify,
        (_QUIET, _flag("--quick", what="compare the sizes alone, and look at the headers of safetensors files")),
    ),
    "du": Command("say what the cache holds, shares, and no claim lists", _du),
    "prune": Command(
        "remove what no living claim lists; dry without --yes",
        _prune,
        (
            _flag("--yes", what="remove it; without this, only print what would go"),
            _option("--older-than", "AGE", parse_age, "drop claims of other hosts not renewed for AGE (30d, 12h, 8w)"),
            _option("--keep-bytes", "SIZE", parse_size, "remove the least recently used first, down to SIZE (500G)"),
        ),
        takes=None,
    ),
    "key": Command("print the portable cache key for CI", _key, takes=None),
    "help": Command(
        "list the commands, `help env` our environment variables", _help, takes=("TOPIC", "env, or a command")
    ),
}
