"""`truss-cache`: the console script, which does the work of the doit tasks without doit."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from truss_cache_tasks.app import output, signals
from truss_cache_tasks.app.configs import Configs, Labelled, is_there_a_config, named_configs, open_configs
from truss_cache_tasks.app.facts import Facts, facts_of_manifest
from truss_cache_tasks.config.settings import VARIABLES, parse_age, parse_size
from truss_cache_tasks.errors import RESUME, CacheTaskError, ConfigError, DiskError, Stopped, missing_package
from truss_cache_tasks.model.records import FORMAT
from truss_cache_tasks.operations.context import EntryContext
from truss_cache_tasks.version import __version__

if TYPE_CHECKING:
    from truss_cache_tasks.app.workspace import Workspace
    from truss_cache_tasks.operations.fetch.online_fetch import Outcome
    from truss_cache_tasks.store.removal.removal import Cleaned

DONE, FAILED, INTERNAL, MISUSED = 0, 1, 2, 3

_EPILOG = """\
`truss-cache COMMAND --help` lists the options of a command, with examples.

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
        examples: (command line, what it does).
    """

    purpose: str
    run: Callable[[Any], int]
    options: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = ()
    takes: tuple[str, str] | None = ("ENTRY", "entries by name; default: all")
    examples: tuple[tuple[str, str], ...] = ()


class _WrongCommandLine(Exception):
    """What is wrong with the command line: the usage, and a line."""


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser that writes its help by a function, and raises _WrongCommandLine."""

    write: output.Write = staticmethod(output.write)

    def error(self, message: str) -> NoReturn:
        raise _WrongCommandLine(self.format_usage(), f"{self.prog}: {message}")

    def print_help(self, file: Any = None) -> None:
        self.write(*self.format_help().splitlines())


_CONFIG_HELP = "config.yaml, or the folder that holds it; may be given several times"

# A fixed width: to ask the terminal for its width, argparse imports shutil.
_formatter = partial(argparse.RawDescriptionHelpFormatter, width=80)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, and return the exit status (docs/contract.md)."""
    output.open_closed_streams()
    output.escape_unknown_characters()
    name, arguments = _split(sys.argv[1:] if argv is None else argv)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    facts = Facts(name or "run")
    is_json = "--json" in arguments[:end]
    write = output.write_nothing if is_json else output.write
    try:
        status = _run_command(name, arguments[:end], arguments[end + 1 :], facts, write)
    except SystemExit as exc:  # --help, a signal
        status = int(exc.code or DONE)
        if status:
            facts.error(Stopped("stopped by a signal", hint=RESUME))
    if is_json:
        output.write_as_it_is(facts.document(status))
    unwritten = output.flush_output()
    if unwritten is None:
        return status
    if not isinstance(unwritten, BrokenPipeError):  # the reader, such as `head`, closed the pipe on purpose
        output.notify(f"cannot write to stdout: {unwritten.strerror}")
    return status or FAILED


def _run_command(name: str | None, arguments: list[str], rest: list[str], facts: Facts, write: output.Write) -> int:
    """Run a command; return the exit status, after the error was written.

    Args:
        name: of the command; None for the default one.
        arguments, rest: before and after `--`.
        write: writes lines to stdout; with --json it does not.
    """
    try:
        if name is None and not {"-h", "--help", "--version"}.isdisjoint(arguments):
            return _print_version(facts, write) if "--version" in arguments else _print_help(facts, write)
        return _parsed(name, arguments, rest, facts, write).run_command()
    except _WrongCommandLine as exc:
        usage, message = exc.args
        output.notify(*usage.splitlines(), message)
        facts.error(ConfigError(message))
        return MISUSED
    except CacheTaskError as error:
        return _tell(error, facts)
    except Exception as exc:
        if (missing := missing_package(exc)) is not None:
            return _tell(missing, facts)
        output.notify(message := output.format_internal_error(exc))
        facts.error(exc, message=message)
        return INTERNAL


def _tell(error: CacheTaskError, facts: Facts) -> int:
    """Write the error of a whole command; return the exit status."""
    output.notify(*output.format_error(error))
    facts.error(error)
    if not isinstance(error, ConfigError):
        return FAILED
    output.annotate("error", str(error))
    return MISUSED


class _Options(argparse.Namespace):
    """What a command gets: its options, and

    Attributes:
        command: the name of the command; None for the default one.
        config: the values of -f.
        names: the positional arguments.
        facts: collects what it finds, for --json.
        write: writes lines to stdout; with --json it does not.
        json: whether a JSON document is written.
        run_command: runs it, and returns the exit status.
    """

    command: str | None
    config: list[str]
    names: list[str]
    facts: Facts
    write: output.Write
    json: bool
    run_command: Callable[[], int]


def _parsed(name: str | None, arguments: list[str], rest: list[str], facts: Facts, write: output.Write) -> _Options:
    command = COMMANDS[name or "run"]
    parser = _parser(name or "run", command)
    if write is output.write_nothing:
        parser.write = lambda *lines: facts.put(text=lines)
    options = _Options(facts=facts, write=write, command=name)
    _, unknown = parser.parse_known_intermixed_args(arguments, options)  # intermixed, for `why NAME --check NAME`
    if command.takes is None:
        unknown += rest
    else:  # added after parsing: the second of the parser's two passes takes what follows `--` for options
        options.names += rest
    if unknown:
        parser.error(f"{unknown[0]}: not known to `{name or 'run'}`{_hint_of_owner(unknown[0])}")
    if getattr(options, "quiet", False) and command.run in (_clean, _prune):  # what fails is written to stderr
        options.write = output.write_nothing
    options.run_command = partial(command.run, options)
    return options


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
            is_value = argument in _options_with_value() or re.fullmatch("-[a-eg-z]*f", argument) is not None
    return None, list(argv)


def _options_with_value() -> set[str]:
    """Return the long options whose value is the next argument."""
    options = [option for command in COMMANDS.values() for option in command.options]
    return {"--config"} | {flag for flags, keywords in options if "action" not in keywords for flag in flags}


def _hint_of_owner(option: str) -> str:
    """Return the end of a sentence that names the command which has the option; "" where none has it."""
    owners = [name for name, command in COMMANDS.items() for flags, _ in command.options if option in flags]
    return f", it belongs to `{owners[0]}`" if owners else ""


def _parser(name: str, command: Command) -> _Parser:
    """Return the parser of one command: the common options, and its own."""
    parser = _Parser(
        prog=f"truss-cache {name}",
        description=command.purpose[0].upper() + command.purpose[1:] + ".",
        epilog="\n".join(["examples:", *(f"  {line:36}  {what}" for line, what in command.examples)]),
        formatter_class=_formatter,
        allow_abbrev=False,
    )
    _add_common(parser)
    for flags, keywords in command.options:
        parser.add_argument(*flags, **keywords)
    if command.takes is not None:
        metavar, what = command.takes
        parser.add_argument("names", nargs="*", metavar=metavar, help=what)
    return parser


def _add_common(parser: _Parser) -> None:
    parser.add_argument("-f", "--config", action="append", default=[], help=_CONFIG_HELP)
    parser.add_argument("--json", action="store_true", help="write one JSON document to stdout, messages to stderr")


def _print_version(facts: Facts, write: output.Write) -> int:
    facts.put(text=[f"truss-cache {__version__}"])
    write(f"truss-cache {__version__}")
    return DONE


def _print_help(facts: Facts, write: output.Write) -> int:
    about = "\n".join(f"  {name:8}{command.purpose}" for name, command in COMMANDS.items())
    parser = _Parser(
        prog="truss-cache",
        usage="%(prog)s [COMMAND] [-f CONFIG] [--json] [OPTION ...] [ENTRY ...]",
        description="Fetch the weights of a Truss's model_cache entries, once, verified.\n\ncommands:\n" + about,
        epilog=_EPILOG,
        formatter_class=_formatter,
    )
    _add_common(parser)
    parser.add_argument("--version", action="store_true", help="print the version")
    text = parser.format_help().splitlines()
    facts.put(text=text)
    write(*text)
    return DONE


def _configs(options: _Options, *, changes: str = "") -> Configs:
    """Open the configs that the command line names, or the nearest one.

    Args:
        changes: see `named_configs`.
    """
    given = vars(options)
    paths = named_configs(options.config, changes=changes, quiet=given.get("quiet", False))
    configs = open_configs(
        paths,
        replace=given.get("replace", False),
        accept_unverified=given.get("accept_unverified", False),
        strict_patterns=given.get("strict", False),
        events=None if (events := given.get("events")) is None else Path(os.path.abspath(events)),
    )
    for workspace in configs.workspaces.values():
        options.facts.config(workspace)
    return configs


def _chosen(options: _Options, configs: Configs) -> list[Labelled]:
    """Return the entries that the command line names, after the warnings of their configs were written."""
    try:
        chosen = configs.choose(options.names)
    except ConfigError as error:
        if options.command is None:  # the name may be a misspelt command
            from difflib import get_close_matches  # not needed if the name is right

            near = get_close_matches(options.names[0], COMMANDS, 1)
            meant = f"Did you mean `truss-cache {near[0]}`? " if near else ""
            error.hint = f"{meant}{error.hint} The commands: {', '.join(COMMANDS)}."
        raise
    if not getattr(options, "quiet", False):
        for workspace in configs.workspaces.values():
            workspace.warn()
    return chosen


def _run(options: _Options) -> int:
    if options.dry_run:
        return _plan(options)
    configs = _configs(options)
    chosen = _chosen(options, configs)
    configs.require_claims_of_their_own()
    signals.install()
    for workspace in configs.workspaces.values():
        workspace.require_lock()
        if options.json and workspace.settings.events is not None:
            _refuse_events_on_stdout(workspace.settings.events)
        workspace.require_event_log(is_running=True)
    stale: list[Labelled] = []
    for label, workspace, context in chosen:
        status = workspace.read_status(context)
        if not status.verdict.fresh or options.always:
            stale.append((label, workspace, context))
            options.facts.entry(label, context, status="unfinished")
        elif options.json:
            there = facts_of_manifest(context, status.fresh_manifest) if status.fresh_manifest else {}
            options.facts.entry(label, context, status="fresh", **there, fetched_files=0, fetched_size=0)
    for _, workspace, context in stale:
        workspace.require_server(context)
    failed = _fetch_all(stale, options) if stale else {}
    if (fresh := len(chosen) - len(stale)) and not options.quiet:
        output.notify(f"{_entries(fresh)} fresh{' already' if stale else ', nothing to do'}")
    if failed and len(chosen) > 1:  # the names are in the lines of the errors
        output.notify(f"{_entries(len(failed))} of {len(chosen)} failed")
    return max(failed.values(), default=DONE)


def _refuse_events_on_stdout(path: Path) -> None:
    from truss_cache_tasks.app.event_log import names_stdout

    if names_stdout(path):
        raise ConfigError(
            f"--json and events to {path}: found both, expected one of them on stdout", hint="Log the events to a file."
        )


def _entries(count: int) -> str:
    return output.format_count(count, "entry", "entries")


def _fetch_all(stale: Sequence[Labelled], options: _Options) -> dict[str, int]:
    """Fetch these entries side by side; return the exit status of each that failed, by label."""
    from truss_cache_tasks.app.fetch import fetch_side_by_side, fetch_with_display  # not needed if all are fresh

    group, run_id = f"weights of {_entries(len(stale))}", stale[0][1].run_id
    show = {"quiet": options.quiet, "verbose": options.verbose, "group": group}

    def fetch_one(label: str, context: EntryContext) -> Outcome:
        try:
            outcome = fetch_with_display(context, run_id, label, force=options.always, **show)
        except Stopped:  # the handler of the signal wrote the message
            raise
        except CacheTaskError as error:
            output.notify(*output.format_error(error, label))
            failed(label, context, error)
            raise
        except Exception as exc:
            output.notify(f"{label}: {(message := output.format_internal_error(exc))}")
            failed(label, context, exc, message)
            raise
        came = {"fetched_files": outcome.files, "fetched_size": outcome.size}
        options.facts.entry(label, context, status=outcome.how, **facts_of_manifest(context, outcome.manifest), **came)
        return outcome

    def failed(label: str, context: EntryContext, error: Exception, message: str = "") -> None:
        options.facts.entry(label, context, status="failed")
        options.facts.error(error, label, message)

    ended = fetch_side_by_side([(label, context) for label, _, context in stale], fetch_one)
    return {
        label: FAILED if isinstance(end, CacheTaskError) else INTERNAL
        for label, end in ended.items()
        if isinstance(end, BaseException)
    }


def _plan(options: _Options) -> int:
    from truss_cache_tasks.app.preview import write_plan

    options.facts.command = "plan"  # also of `run --dry-run`
    chosen = _chosen(options, _configs(options))
    return write_plan(chosen, options.write, options.facts, force=options.always, quiet=options.quiet)


def _path(options: _Options) -> int:
    from truss_cache_tasks.app.reports import write_paths

    return write_paths(_chosen(options, _configs(options)), options.write, options.facts)


def _clean(options: _Options) -> int:
    from truss_cache_tasks.app.reports import format_cleaned, format_left

    configs = _configs(options, changes="clean")
    chosen = _chosen(options, configs)
    signals.install()
    failed = False
    done: list[Cleaned] = []
    for workspace in configs.workspaces.values():
        names = [context.name for _, its, context in chosen if its is workspace] if options.names else None
        if names == []:
            continue
        try:
            workspace.clean(names, dry=options.dry_run)
        except DiskError as error:  # one root failed, the others were cleaned
            _tell(error, options.facts)
            failed = True
        done.append(workspace.cleaned)
        options.facts.warn(workspace.cleaned.warnings)
    files, size = sum(one.files for one in done), sum(one.size for one in done)
    kept, left = [line for one in done for line in one.kept], [line for one in done for line in one.left]
    options.facts.put(dry=options.dry_run, files=files, size=size, kept=kept, left=left)
    options.write(*format_cleaned(files, size, kept, dry=options.dry_run))
    if left:
        output.notify(*format_left(left))
    return MISUSED if left or failed else DONE


def _why(options: _Options) -> int:
    from truss_cache_tasks.app import reports

    chosen = _chosen(options, _configs(options))
    return reports.why(chosen, options.write, options.facts, check=options.check, remote=options.remote)


def _lock(options: _Options) -> int:
    from truss_cache_tasks.app.lockfile import lock

    configs = _configs(options, changes="lock --upgrade" if options.upgrade else "")
    chosen = configs.choose(options.names)
    status = DONE
    for workspace in configs.workspaces.values():
        contexts = [context for _, its, context in chosen if its is workspace] if options.names else None
        if contexts == []:
            continue
        status |= lock(
            workspace,
            contexts,
            options.write,
            options.facts,
            upgrade=options.upgrade,
            check=options.check,
            remote=options.remote,
        )
    return status


def _verify(options: _Options) -> int:
    from truss_cache_tasks.app import reports

    chosen = _chosen(options, _configs(options))
    return reports.verify(
        chosen, options.write, options.facts, quick=options.quick, quiet=options.quiet, verbose=options.verbose
    )


def _du(options: _Options) -> int:
    from truss_cache_tasks.app import usage

    if not is_there_a_config(options.config) and not options.names:
        return usage.write_usage(usage.scope_of_machine(), options.write, options.facts)
    configs = _configs(options)
    chosen = _chosen(options, configs)
    scope = usage.scope_of(configs.workspaces.values(), ((label, context) for label, _, context in chosen))
    return usage.write_usage(scope, options.write, options.facts)


def _prune(options: _Options) -> int:
    from truss_cache_tasks.app import usage

    if is_there_a_config(options.config):
        scope = usage.scope_of(_configs(options, changes="prune").workspaces.values())
    else:
        scope = usage.scope_of_machine()
    return usage.write_prune(
        scope,
        options.write,
        options.facts,
        older_than_s=options.older_than,
        keep_bytes=options.keep_bytes,
        yes=options.yes,
    )


def _key(options: _Options) -> int:
    configs = _configs(options)
    for workspace in configs.workspaces.values():
        workspace.warn()
        workspace.require_readable_lock()
    key = cache_key(*configs.workspaces.values())
    options.facts.put(key=key)
    options.write(key)
    return DONE


def _migrate(options: _Options) -> int:
    from truss_cache_tasks.app.migration import print_migration

    for workspace in _configs(options).workspaces.values():
        print_migration(workspace.path, options.write, options.facts)
    return DONE


def _init(options: _Options) -> int:
    from truss_cache_tasks.app.init import init

    return max(init(Path(path), options.write, options.facts) for path in options.config or ["."])


def cache_key(*workspaces: Workspace) -> str:
    """Return 64 hex digits that are equal for configs whose entries make equal requests, in any order.

    What a lock file names for a request counts too. What several configs request counts once.
    """
    contexts = [context for workspace in workspaces for context in workspace.contexts]
    keys = sorted({f"{c.entry.key} {c.locked.snapshot}" if c.locked else c.entry.key for c in contexts})
    return hashlib.sha256("\n".join([f"format {FORMAT}", *keys]).encode()).hexdigest()


def _help(options: _Options) -> int:
    write, facts = options.write, options.facts
    match options.names:
        case []:
            return _print_help(facts, write)
        case ["env"]:
            facts.put(variables=[variable._asdict() for variable in VARIABLES])
            for variable in VARIABLES:
                write(variable.name, f"    {variable.meaning}", f"    default: {variable.default}")
            return DONE
        case [name] if name in COMMANDS:
            text = _parser(name, COMMANDS[name]).format_help().splitlines()
            facts.put(text=text)
            write(*text)
            return DONE
        case names:
            _parser("help", COMMANDS["help"]).error(f"no such topic: {' '.join(names)}")


def _flag(*flags: str, what: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    return flags, {"action": "store_true", "help": what}


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
            *_FETCHING,
            _VERBOSE,
            _flag("--dry-run", what="the same as `plan`"),
            (("--events",), {"metavar": "PATH", "help": "append the events to PATH, as JSON lines"}),
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
        _plan,
        _FETCHING,
        examples=(("truss-cache plan", "before a long fetch"), ("truss-cache plan -a", "of a run that resolves again")),
    ),
    "path": Command(
        "print the folder to open of each entry",
        _path,
        examples=(("truss-cache path org/one", "exit 1 where it is not fetched"),),
    ),
    "clean": Command(
        "invalidate: remove these weights and their claims",
        _clean,
        (
            _QUIET,
            _flag("-n", "--dry-run", what="print what would go, remove nothing"),
        ),
        examples=(("truss-cache clean -n", "print what would go"), ("truss-cache clean org/one", "one entry")),
    ),
    "why": Command(
        "say which entries are fresh, or which input changed",
        _why,
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
        _lock,
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
        _verify,
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
        _du,
        examples=(("truss-cache du", "of this config, or else of this machine"),),
    ),
    "prune": Command(
        "remove what no living claim lists; dry without --yes",
        _prune,
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
        _key,
        takes=None,
        examples=(("truss-cache key -f sd -f whisper", "one key over both"),),
    ),
    "init": Command(
        "write dodo.py beside the config, and the lines of .gitignore",
        _init,
        takes=None,
        examples=(("truss-cache init", "in the current folder"), ("truss-cache init -f sd", "in the folder sd")),
    ),
    "migrate": Command(
        "print the config with `weights` in place of `model_cache`, as a diff",
        _migrate,
        takes=None,
        examples=(
            ("truss-cache migrate", "look at it"),
            ("truss-cache migrate | patch -p0", "change config.yaml"),
        ),
    ),
    "help": Command(
        "list the commands, `help env` our environment variables",
        _help,
        takes=("TOPIC", "env, or a command"),
        examples=(("truss-cache help run", "the options of a command"), ("truss-cache help env", "the variables")),
    ),
}
