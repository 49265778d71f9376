"""`truss-cache completion`: a script for bash or zsh, which asks truss-cache for the words at each Tab."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence

from truss_cache_tasks.app import output
from truss_cache_tasks.app.commands.choice import open_named_configs
from truss_cache_tasks.app.commands.command_line import (
    Options,
    WrongCommandLine,
    option_of_value,
    parse,
    parser_of,
    split,
)
from truss_cache_tasks.app.commands.exit_status import DONE
from truss_cache_tasks.app.commands.table import COMMANDS, COMMON, VERSION
from truss_cache_tasks.app.facts import Facts
from truss_cache_tasks.errors import CacheTaskError

FILES = "/"  # in place of the words: the shell completes a path
_OF_FILES = ("CONFIG", "PATH")  # metavars of options

# $2 is the end of the word that bash replaces: what follows a `:`, `=` or an open quote. `compopt` is not in bash 3.2.
_BASH = """\
_truss_cache() {
    local tool="${1-}" word line="${COMP_LINE-${COMP_WORDS[*]}}"
    [[ $tool == "~/"* ]] && tool="$HOME/${tool:2}"
    tool=$(type -P "$tool") || tool=truss-cache
    COMPREPLY=()
    while IFS= read -r word; do
        if [[ $word == / ]]; then
            compopt -o default 2>/dev/null
        else
            COMPREPLY+=("$word")
        fi
    done < <("$tool" completion bash --words -- \\
        "$line" "${COMP_POINT-${#line}}" "${2-${COMP_WORDS[COMP_CWORD]}}" 2>/dev/null)
}
complete -F _truss_cache truss-cache
"""
_ZSH = """\
_truss_cache() {
    local tool="${(Q)words[1]}"
    local -a found
    tool="${tool/#\\~\\//$HOME/}"
    whence -p -- "$tool" >/dev/null || tool=truss-cache
    found=(${(f)"$("$tool" completion zsh --words -- $((CURRENT - 1)) "${(@Q)words}" 2>/dev/null)"})
    if [[ "$found" == / ]]; then
        compset -P '--*='
        _files
    else
        compadd -a found
    fi
}
compdef _truss_cache truss-cache
"""
_SCRIPTS = {"bash": _BASH, "zsh": _ZSH}


def completion(options: Options) -> int:
    """Print the script of a shell; with --words, what that script asks for: words for a place of a command line."""
    match options.names:
        case [shell] if shell in _SCRIPTS and not options.words:
            lines = _SCRIPTS[shell].splitlines()
        case ["bash", line, point, word] if options.words and point.isdecimal():
            lines = _words_for_bash(line, int(point), word)
        case ["zsh", at, *words] if options.words and at.isdecimal():
            lines = find_words(words, int(at))
        case names:
            found = " ".join(names) or "no shell"
            parser_of("completion", COMMANDS["completion"]).error(f"found {found}, expected bash or zsh")
    options.facts.put(text=lines)
    for line in lines:
        options.write(line)
    return DONE


def find_words(words: Sequence[str], at: int) -> list[str]:
    """Return all words that may be at a place of a command line, or [FILES] for paths.

    Args:
        words: of the line, the program's name first, without quotes.
        at: index of the place; of a word there, only its first character counts, and what is before a `=`.
    """
    before, place = words[1:at], "".join(words[at : at + 1])
    flag, equals, _ = place.partition("=")
    name, arguments = split([*before, *words[at + 1 :]])
    if "--" not in before:
        if option := option_of_value(flag if equals else "".join(before[-1:])):
            return [FILES] if option.keywords["metavar"] in _OF_FILES else []
        if place.startswith("-"):
            return _flags(name)
    return _positional(name, arguments)


def _flags(name: str | None) -> list[str]:
    """Return the options of a command; None: of the default one, and --version."""
    options = [*COMMON, *COMMANDS[name or "run"].options, *([] if name else [VERSION])]
    shown = [flag for option in options if option.keywords["help"] != argparse.SUPPRESS for flag in option.flags]
    return [*shown, "-h", "--help"]


def _positional(name: str | None, arguments: list[str]) -> list[str]:
    """Return what a command takes besides options, less what `arguments` have of it; None: the default one."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    try:
        options = parse(name, arguments[:end], arguments[end + 1 :], Facts(""), output.write_nothing)
    except (WrongCommandLine, SystemExit):  # SystemExit: it has --help
        return []
    match COMMANDS[name or "run"].takes:
        case ("ENTRY", _):
            commands = [] if name or options.names or "--" in arguments else COMMANDS
            return [*commands, *(label for label in _labels(options) if label not in options.names)]
        case ("TOPIC", _) if not options.names:
            return ["env", *COMMANDS]
        case ("SHELL", _) if not options.names:
            return list(_SCRIPTS)
    return []


def _labels(options: Options) -> list[str]:
    """Return the names of the entries of the configs that the options name; none if a config is wrong."""
    options.quiet = True
    options.config = [os.path.expanduser(os.path.expandvars(path)) for path in options.config]  # as the shell does
    try:
        labels = [label for label, _, _ in open_named_configs(options).labelled()]
    except CacheTaskError:
        return []
    return [label for label in labels if label.isprintable()]


def _words_for_bash(line: str, point: int, word: str) -> list[str]:
    """Return what bash may put in place of `word`, quoted as it stands there.

    Args:
        line: as it is typed.
        point: index of the cursor.
        word: the characters before the cursor that bash replaces, a part of a word or all of it.
    """
    if re.search(r"[<>]\s*\S*$", line[:point]):
        return [FILES]
    words, quote = read_words(line[:point])
    after, _ = read_words(f"-{quote}{line[point:]}")  # the first is what the cursor is in, or a lone `-`
    kept, quote = read_words(line[:point].removesuffix(word))
    at = len(words) - 1
    found = find_words([*words, *after[1:]], at)
    if found == [FILES]:
        return found
    return [_quoted(one[len(kept[at]) :], quote) for one in found if one.startswith(words[at])]


def read_words(line: str) -> tuple[list[str], str]:
    r"""Return the words of a line as a shell reads them, at least one, and the quote that is open at its end.

    >>> read_words(r"a 'b c'd\ e "), read_words('a "b c')
    ((['a', 'b cd e', ''], ''), (['a', 'b c'], '"'))
    """
    words, quote, is_escaped = [""], "", False
    for character in line:
        if is_escaped:
            words[-1] += character if quote == "" or character in '$`"\\' else f"\\{character}"
            is_escaped = False
        elif character == "\\" and quote != "'":
            is_escaped = True
        elif character == quote:
            quote = ""
        elif character in "'\"" and not quote:
            quote = character
        elif character in " \t\n" and not quote:
            words += [""] if words[-1] else []
        else:
            words[-1] += character
    return words, quote


def _quoted(text: str, quote: str) -> str:
    match quote:
        case "'":
            return text.replace("'", r"'\''")
        case '"':
            return re.sub(r'[$`"\\]', r"\\\g<0>", text)
    return re.sub(r"^#|[^\w@%+=:,./#-]", r"\\\g<0>", text)
