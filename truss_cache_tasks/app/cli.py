"""`truss-cache`: the console script, which does the work of the doit tasks without doit."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from truss_cache_tasks.app import output
from truss_cache_tasks.app.commands.command_line import WrongCommandLine, parse, split
from truss_cache_tasks.app.commands.exit_status import DONE, FAILED, INTERNAL, MISUSED, report_error
from truss_cache_tasks.app.commands.table import COMMANDS
from truss_cache_tasks.app.facts import Facts
from truss_cache_tasks.errors import RESUME, CacheTaskError, ConfigError, Stopped, missing_package


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, and return the exit status (docs/contract.md)."""
    output.open_closed_streams()
    output.escape_unknown_characters()
    name, arguments = split(sys.argv[1:] if argv is None else argv)
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
            from truss_cache_tasks.app.commands.help import print_help, print_version  # no other command needs it

            return print_version(facts, write) if "--version" in arguments else print_help(facts, write)
        options = parse(name, arguments, rest, facts, write)
        module, _, function = COMMANDS[name or "run"].run.partition(":")
        status: int = getattr(import_module(f"truss_cache_tasks.app.commands.{module}"), function)(options)
        return status
    except WrongCommandLine as exc:
        usage, message = exc.args
        output.notify(*usage.splitlines(), message)
        facts.error(ConfigError(message))
        return MISUSED
    except CacheTaskError as error:
        return report_error(error, facts)
    except Exception as exc:
        if (missing := missing_package(exc)) is not None:
            return report_error(missing, facts)
        output.notify(message := output.format_internal_error(exc))
        facts.error(exc, message=message)
        return INTERNAL
