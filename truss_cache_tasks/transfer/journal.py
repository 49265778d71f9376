"""What a file's journal says: which parts are complete, so that the next run need not fetch them again.

One line a part, appended once it is written: start, end, xxh3-128, validator. A part that is to come again gets a line
with an xxh3 that no bytes have. Nothing is synced: after a power cut the xxh3 finds what was lost.
"""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """A part that was complete once.

    Args:
        xxh3: of its bytes, hex.
        validator: of the answer that brought it; "" for none.
    """

    start: int
    end: int
    xxh3: str
    validator: str


class Journal:
    """The lines behind one descriptor, which appends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self) -> list[Entry]:
        """Return what is noted; of a part that is noted twice the later entry. A torn last line is cut off."""
        text = os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)
        whole = text[: text.rfind(b"\n") + 1]
        if whole != text:
            os.ftruncate(self._descriptor, len(whole))
        entries = (_parse(line) for line in whole.decode("latin-1").split("\n"))
        return list({(entry.start, entry.end): entry for entry in entries if entry is not None}.values())

    def note(self, entry: Entry) -> None:
        """Append a line."""
        line = f"{entry.start} {entry.end} {entry.xxh3} {entry.validator}\n"
        os.write(self._descriptor, line.encode("latin-1", "replace"))

    def forget(self, start: int, end: int, validator: str) -> None:
        """Append a line that takes back what is noted of a part."""
        self.note(Entry(start, end, "0" * 32, validator))

    def clear(self) -> None:
        """Forget all lines."""
        os.ftruncate(self._descriptor, 0)


def _parse(line: str) -> Entry | None:
    start, _, rest = line.partition(" ")
    end, _, rest = rest.partition(" ")
    xxh3, _, validator = rest.partition(" ")
    if not (start.isdecimal() and end.isdecimal() and len(xxh3) == 32):
        return None
    return Entry(int(start), int(end), xxh3, validator)
