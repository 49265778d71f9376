"""The command line of `truss-cache`: which command it names, with which options and arguments."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NoReturn

from truss_cache_tasks.app import output
from truss_cache_tasks.app.commands.table import COMMANDS, COMMON, Command, Option
from truss_cache_tasks.app.facts import Facts


class WrongCommandLine(Exception):
    """What is wrong with the command line: the usage, and a line."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that writes its help by a function, and raises WrongCommandLine."""

    write: output.Write = staticmethod(output.write)

    def error(self, message: str) -> NoReturn:
        """Raise WrongCommandLine, in place of an exit with 2."""
        raise WrongCommandLine(self.format_usage(), f"{self.prog}: {message}")

    def print_help(self, file: Any = None) -> None:
        """Write the help by `write`."""
        self.write(*self.format_help().splitlines())


# A fixed width: to ask the terminal for its width, argparse imports shutil.
formatter = partial(argparse.RawDescriptionHelpFormatter, width=80)


class Options(argparse.Namespace):
    """What a command gets: its options, and

    Attributes:
        command: the name of the command; None for the default one.
        config: the values of -f.
        names: the positional arguments.
        facts: collects what it finds, for --json.
        write: writes lines to stdout; with --json it does not.
        json: whether a JSON document is written.
    """

    command: str | None
    config: list[str]
    names: list[str]
    facts: Facts
    write: output.Write
    json: bool


def parse(name: str | None, arguments: list[str], rest: list[str], facts: Facts, write: output.Write) -> Options:
    """Return the options of one command line.

    Args:
        name: of the command; None for the default one.
        arguments, rest: before and after `--`.
        facts, write: for the command.

    Raises:
        WrongCommandLine: an argument is not known, or has no or a wrong value.
    """
    command = COMMANDS[name or "run"]
    parser = parser_of(name or "run", command)
    if write is output.write_nothing:
        parser.write = lambda *lines: facts.put(text=lines)
    options = Options(facts=facts, write=write, command=name)
    _, unknown = parser.parse_known_intermixed_args(arguments, options)  # intermixed, for `why NAME --check NAME`
    if command.takes is None:
        unknown += rest
    else:  # added after parsing: the second of the parser's two passes takes what follows `--` for options
        options.names += rest
    if unknown:
        parser.error(f"{unknown[0]}: not known to `{name or 'run'}`{_hint_of_owner(unknown[0])}")
    return options


def split(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the command, None without one, and the arguments for its parser. Options may precede the command.

    >>> split(["-f", "sd", "why", "--check", "org/one"])
    ('why', ['-f', 'sd', '--check', 'org/one'])
    >>> split(["-a", "org/one"])
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
            is_value = option_of_value(argument) is not None
    return None, list(argv)


def option_of_value(argument: str) -> Option | None:
    """Return the option whose value is the argument after this one; None if there is none."""
    flag = "-f" if re.fullmatch("-[a-eg-z]*f", argument) else argument
    options = [*COMMON, *(option for command in COMMANDS.values() for option in command.options)]
    return next((option for option in options if flag in option.flags and "metavar" in option.keywords), None)


def _hint_of_owner(option: str) -> str:
    """Return the end of a sentence that names the command which has the option; "" where none has it."""
    owners = [name for name, command in COMMANDS.items() for flags, _ in command.options if option in flags]
    return f", it belongs to `{owners[0]}`" if owners else ""


def parser_of(name: str, command: Command) -> Parser:
    """Return the parser of one command: the common options, and its own."""
    parser = Parser(
        prog=f"truss-cache {name}",
        description=command.purpose[0].upper() + command.purpose[1:] + ".",
        epilog="\n".join(["examples:", *(f"  {line:36}  {what}" for line, what in command.examples)]),
        formatter_class=formatter,
        allow_abbrev=False,
    )
    add_options(parser, (*COMMON, *command.options))
    if command.takes is not None:
        metavar, what = command.takes
        parser.add_argument("names", nargs="*", metavar=metavar, help=what)
    return parser


def add_options(parser: Parser, options: Iterable[Option]) -> None:
    """Add options of the table to a parser."""
    for flags, keywords in options:
        parser.add_argument(*flags, **keywords)
