"""What a person would see: the raw output of a command, whether a terminal would obey any of it, and its screen."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence

import pyte
from trusses import BIN, Ran, Truss, checked, refuse_secrets, secrets_of

OBEYED = {"Cc", "Zl", "Zp", "Cs"}  # categories: C0, C1 and DEL; line and paragraph separators; lone surrogates
REORDERING = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}  # bidirectional classes
MARKS = "\u200e\u200f\u061c"  # of a direction
# A name that would clear the screen, colour it by C1, forge a line of ours (twice), and turn its own end round.
NAME = "a\nforged: fresh\x1b[2J\x9b31m\r\u2028forged: fresh\u202enib.\u2066b\u200f\u061c\x7f.bin"
SHOWN = r"a\nforged: fresh\x1b[2J\x9b31m\r\u2028forged: fresh\u202enib.\u2066b\u200f\u061c\x7f.bin"

DOIT = (sys.executable, "-m", "doit")
CLI = (str(BIN / "truss-cache"),)


def is_obeyed(character: str) -> bool:
    if character == "\n":
        return False
    found = unicodedata.category(character) in OBEYED or unicodedata.bidirectional(character) in REORDERING
    return found or character in MARKS


def printed(truss: Truss, *command: str, code: int = 0, **env: str) -> str:
    """Run a command and return its stdout and stderr, with no byte translated; it ends with `code`.

    No character of it is one that a terminal obeys, and no line is one that NAME would forge.
    """
    done = subprocess.run(
        command,
        cwd=truss.folder,
        env={**truss.env, **env, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        timeout=100,
        check=False,
    )
    text = (done.stdout + done.stderr).decode()
    checked(truss, {**truss.env, **env}, Ran(done.returncode, text, ""))
    assert done.returncode == code, text
    assert {character for character in text if is_obeyed(character)} == set(), repr(text)
    assert not [line for line in text.split("\n") if line.lstrip().startswith("forged")], text
    return text


class Screen:
    """A terminal in memory: feed it what a program writes, and look at the rows."""

    def __init__(self, columns: int, rows: int) -> None:
        self.pyte = pyte.HistoryScreen(columns, rows, history=10_000, ratio=1)
        self._stream = pyte.ByteStream(self.pyte)

    def feed(self, data: bytes | str) -> None:
        self._stream.feed(data.encode() if isinstance(data, str) else data)

    @property
    def rows(self) -> list[str]:
        return [row.rstrip() for row in self.pyte.display]

    @property
    def text(self) -> str:
        """What is on the screen, without the blank rows."""
        return "\n".join(row for row in self.rows if row)

    @property
    def everything(self) -> list[str]:
        """The rows that were scrolled out at the top, and those on the screen, without the blank ones."""
        columns = range(self.pyte.columns)
        history = ["".join(row[column].data for column in columns).rstrip() for row in self.pyte.history.top]
        return [row for row in history + self.rows if row]

    @property
    def colors(self) -> set[str]:
        """The colours of the characters on the screen."""
        return {cell.fg for row in self.pyte.buffer.values() for cell in row.values()} | {
            cell.bg for row in self.pyte.buffer.values() for cell in row.values()
        }

    @property
    def scrolls_whole(self) -> bool:
        """Whether no rows are kept from scrolling."""
        margins = self.pyte.margins
        return margins is None or margins == (0, self.pyte.lines - 1)


class Terminal:
    """A command in a session of its own, whose standard streams are a terminal."""

    def __init__(self, truss: Truss, command: Sequence[str], columns: int, rows: int, **env: str) -> None:
        self.screen = Screen(columns, rows)
        self.raw = b""
        self._truss = truss
        truss.secrets_used |= secrets_of(truss, {**truss.env, **env})
        self._fd, side = pty.openpty()
        self._resize_descriptor(columns, rows)
        self.child = subprocess.Popen(
            command,
            cwd=truss.folder,
            env={**truss.env, "TERM": "xterm-256color", "LANG": "C.UTF-8", **env},
            stdin=side,
            stdout=side,
            stderr=side,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - one call of the kernel
        )
        os.close(side)

    def wait_for(self, seen: Callable[[str], object], timeout_s: float = 60) -> str:
        """Read until `seen` is true of the text on the screen, and return that text."""
        until = time.monotonic() + timeout_s
        while not seen(self.screen.text):
            if time.monotonic() > until or not self._read(0.2):
                raise AssertionError(f"not seen on:\n{self.screen.text}")
        return self.screen.text

    def end(self) -> int:
        """Read to the end, and return the exit status."""
        while self._read(60):
            pass
        refuse_secrets(self._truss.secrets_used, self.raw.decode(errors="replace"))
        return self.child.wait(60)

    def send(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def resize(self, columns: int, rows: int) -> None:
        self.screen.pyte.resize(rows, columns)
        self._resize_descriptor(columns, rows)

    def close(self) -> None:
        if self.child.poll() is None:
            os.killpg(self.child.pid, signal.SIGKILL)
            self.child.wait()
        os.close(self._fd)

    def _resize_descriptor(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def _read(self, timeout_s: float) -> bool:
        """Feed what comes within the time; return False at the end."""
        if not select.select([self._fd], [], [], timeout_s)[0]:
            return True
        try:
            data = os.read(self._fd, 65536)
        except OSError as exc:
            if exc.errno != errno.EIO:  # the other side is closed
                raise
            return False
        self.raw += data
        self.screen.feed(data)
        return bool(data)


@contextlib.contextmanager
def on_terminal(truss: Truss, *command: str, columns: int = 80, rows: int = 24, **env: str) -> Iterator[Terminal]:
    terminal = Terminal(truss, command, columns, rows, **env)
    try:
        yield terminal
    finally:
        terminal.close()
