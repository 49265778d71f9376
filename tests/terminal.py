"""What a person would see: the raw output of a command, and whether a terminal would obey any of it."""

from __future__ import annotations

import subprocess
import sys
import unicodedata

from trusses import BIN, Truss

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
    assert done.returncode == code, text
    assert {character for character in text if is_obeyed(character)} == set(), repr(text)
    assert not [line for line in text.split("\n") if line.lstrip().startswith("forged")], text
    return text
