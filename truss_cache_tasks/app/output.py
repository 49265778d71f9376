"""Write lines for people: to the process's stderr, even where a task runner captures sys.stderr, and to stdout.

Names and messages come from stores, so `escaped` is applied to every text for a terminal or for doit, line by line:
no text can add a line or send a terminal a control character.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, TextIO

from truss_cache_tasks.config.settings import read_settings
from truss_cache_tasks.errors import CacheTaskError, ConfigError

Write = Callable[..., object]  # what writes the lines of a report, as `write`

_lock = threading.Lock()
_warned: set[str] = set()
_write_errors: list[OSError] = []  # of stdout

# C0, DEL, C1, the separators of lines and paragraphs, the controls of bidirectional text (which change the order that
# text is shown in), and lone surrogates, which cannot be encoded.
_CONTROL = "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"


def escaped(*lines: str) -> str:
    r"""Return the lines joined by newlines, each control character inside a line escaped, such as `\x1b`.

    >>> print(escaped("org/one: a\nb.bin\x1b[2J", "hint: \u202elook"))
    org/one: a\nb.bin\x1b[2J
    hint: \u202elook
    """
    # none of these characters is printable, and the expression takes a millisecond to compile
    return "\n".join(line if line.isprintable() else re.sub(_CONTROL, _escape, line) for line in lines)


def _escape(character: re.Match[str]) -> str:
    return repr(character[0])[1:-1]  # as `!r` in messages does


def notify(*lines: str) -> None:
    """Write lines to the process's stderr. A stderr that is closed, full or no longer read is ignored."""
    emit(escaped(*lines) + "\n")


def emit(text: str) -> None:
    """Write text to the process's stderr as it is, with control characters of ours; else as `notify`."""
    stream = sys.__stderr__
    if stream is None:
        return
    with _lock:
        try:
            stream.write(text)
            stream.flush()
        except (OSError, ValueError):
            _redirect_to_null(stream)


def emit_now(text: str) -> None:
    """Write ASCII text to the descriptor of stderr, for signal handlers: without Python's buffers, and no lock.

    The descriptor is not simply 2: in a process without stderr, that may be any file.
    """
    with contextlib.suppress(OSError, ValueError):
        if sys.__stderr__ is not None:
            os.write(sys.__stderr__.fileno(), text.encode("ascii"))


def annotate(level: Literal["error", "warning"], message: str) -> None:
    """Annotate the place in a config that the message begins with (`file:line: `), if the CI service does that."""
    if os.environ.get("GITHUB_ACTIONS") != "true":
        return
    from truss_cache_tasks.app.display.ci import service_of  # imported here: a run outside of CI does not need it

    if service := service_of(os.environ):
        emit(service.annotate(level, "truss_cache_tasks", message, ""))


def open_closed_streams() -> None:
    """Open /dev/null for each standard stream that is closed, before another file gets its descriptor.

    Only for the console script: in doit's process the streams are doit's.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # as long as the process
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # as long as the process


def escape_unknown_characters() -> None:
    """Let stdout print a character that its encoding does not have as `\\xe9` or `\\u202e`, as stderr does."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def write(*lines: str) -> None:
    """Write lines to stdout. An error does not end the work; `flush_output` returns it."""
    write_as_it_is(escaped(*lines) + "\n")


def write_nothing(*lines: str) -> None:
    """Take the place of `write`, where stdout is for a JSON document alone."""


def write_as_it_is(text: str) -> None:
    """Write text with its line ends to stdout; an error as in `write`."""
    try:
        sys.stdout.write(text)
    except OSError as exc:
        _write_errors.append(exc)
        _redirect_to_null(sys.stdout)


def flush_output() -> OSError | None:
    """Flush stdout and stderr at the end of the process; return the first error of writing to stdout, or None.

    A stream that failed is redirected to /dev/null: the interpreter flushes once more, and would exit with 120.
    """
    for stream in (sys.stderr, sys.stdout):
        try:
            stream.flush()
        except OSError as exc:
            _redirect_to_null(stream)
            if stream is sys.stdout:
                _write_errors.append(exc)
    return _write_errors[0] if _write_errors else None


def _redirect_to_null(stream: TextIO) -> None:
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def warn_once(warnings: Iterable[str]) -> None:
    """Write each warning to stderr, once a process."""
    for warning in warnings:
        if warning not in _warned:
            _warned.add(warning)
            notify(f"warning: {warning}")
            annotate("warning", warning)


def format_error(error: CacheTaskError, label: str = "") -> list[str]:
    """Return the line with the cause and, where there is a hint, the line with it.

    >>> format_error(CacheTaskError("org/one: no such repo", hint="Check the name."), "org/one")
    ['org/one: no such repo', 'hint: Check the name.']

    Args:
        label: the name of what failed, put before a cause that does not begin with it.
    """
    cause = str(error)
    source, _, found = cause.partition(": ")
    if label and source.partition("://")[2] == label:  # the name of an entry is its URI without the scheme
        cause = f"{label}: {found}"
    if label and not cause.startswith(f"{label}: "):
        cause = f"{label}: {cause}"
    return [cause, f"hint: {error.hint}"] if error.hint else [cause]


def format_internal_error(exc: Exception) -> str:
    """Return one line about an internal error; with TRUSS_CACHE_DEBUG=1 write its traceback to stderr too."""
    try:
        debug = read_settings(os.environ, Path.cwd()).debug
    except ConfigError:
        debug = False
    if debug:
        import traceback

        notify(*"".join(traceback.format_exception(exc)).rstrip().split("\n"))
    return f"internal error: {type(exc).__name__}" + ("" if debug else " (TRUSS_CACHE_DEBUG=1 shows where)")


def format_bytes(size: float) -> str:
    """Return a size in units of 1000 bytes.

    >>> format_bytes(1239748)
    '1.2 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def format_count(count: int, one: str, many: str = "") -> str:
    """Return `1 file`, `2 files`, `3 entries`.

    >>> format_count(1, "file"), format_count(2000, "file"), format_count(3, "entry", "entries")
    ('1 file', '2,000 files', '3 entries')
    """
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"
