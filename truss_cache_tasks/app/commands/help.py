"""`truss-cache help`, `--help` and `--version`."""

from __future__ import annotations

from truss_cache_tasks.app.commands.command_line import Options, Parser, add_options, formatter, parser_of
from truss_cache_tasks.app.commands.exit_status import DONE
from truss_cache_tasks.app.commands.table import COMMANDS, COMMON, VERSION
from truss_cache_tasks.app.facts import Facts
from truss_cache_tasks.app.output import Write
from truss_cache_tasks.config.settings import VARIABLES
from truss_cache_tasks.version import __version__

_EPILOG = """\
`truss-cache COMMAND --help` lists the options of a command, with examples.

exit status: 0 done; 1 an entry failed, the others were fetched; 2 internal
error; 3 config or command line wrong, or a clean incomplete; 130, 143 stopped
by SIGINT, SIGTERM: run the command again for the rest"""


def print_version(facts: Facts, write: Write) -> int:
    """Print the version; return the exit status."""
    facts.put(text=[f"truss-cache {__version__}"])
    write(f"truss-cache {__version__}")
    return DONE


def print_help(facts: Facts, write: Write) -> int:
    """Print the list of commands, and what all of them take; return the exit status."""
    about = "\n".join(f"  {name:12}{command.purpose}" for name, command in COMMANDS.items())
    parser = Parser(
        prog="truss-cache",
        usage="%(prog)s [COMMAND] [-f CONFIG] [--json] [OPTION ...] [ENTRY ...]",
        description="Fetch the weights of a Truss's model_cache entries, once, verified.\n\ncommands:\n" + about,
        epilog=_EPILOG,
        formatter_class=formatter,
    )
    add_options(parser, (*COMMON, VERSION))
    text = parser.format_help().splitlines()
    facts.put(text=text)
    write(*text)
    return DONE


def print_topic(options: Options) -> int:
    """Print the list of commands, the environment variables, or the options of one command."""
    write, facts = options.write, options.facts
    match options.names:
        case []:
            return print_help(facts, write)
        case ["env"]:
            facts.put(variables=[variable._asdict() for variable in VARIABLES])
            for variable in VARIABLES:
                write(variable.name, f"    {variable.meaning}", f"    default: {variable.default}")
            return DONE
        case [name] if name in COMMANDS:
            text = parser_of(name, COMMANDS[name]).format_help().splitlines()
            facts.put(text=text)
            write(*text)
            return DONE
        case names:
            parser_of("help", COMMANDS["help"]).error(f"no such topic: {' '.join(names)}")
