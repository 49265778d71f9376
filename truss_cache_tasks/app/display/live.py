"""LiveBlock: the last rows of a terminal, which show one line for each entry and one for all of them.

The block is below a scroll region (DECSTBM), as apt's progress bar is: what any process prints meanwhile, doit's
reporter, other tasks and their children, scrolls above it and is never torn. The cursor stays where the output is;
each drawing saves and restores it, in one write. docs/adr/0028 has the reasons.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from truss_cache_tasks.app.display.lines import format_part, format_percent, format_state, speed_of
from truss_cache_tasks.app.display.progress import Progress, Total, total_of
from truss_cache_tasks.app.output import escaped, format_bytes, format_count

Shown = Sequence[tuple[str, Progress]]  # (label, progress) of each entry

_SAVE, _RESTORE = "\x1b7", "\x1b8"  # the cursor, with its colours (DECSC, DECRC)
_HIDE, _SHOW = "\x1b[?25l", "\x1b[?25h"  # the cursor
_INDEX = "\x1bD"  # the cursor moves one row down, and the rows up where it is on the last one; it keeps its column
_WHOLE, _BELOW, _END = "\x1b[r", "\x1b[J", "\x1b[K"  # scroll everything; erase below the cursor; to the end of the row
_LEAST = 4  # rows and columns of a terminal that is drawn on
_WITH_SIZES, _WITH_BAR = 60, 104  # columns of the terminal from which the rows have sizes, and a bar
_BAR = 24  # columns
_KEPT_STATE = 8  # columns of a state that are never given to the name


class LiveBlock:
    """The block on one terminal. Not safe for threads."""

    def __init__(
        self, write: Callable[[str], object], size: Callable[[], tuple[int, int] | None], *, colors: bool, unicode: bool
    ) -> None:
        """Draw nothing yet.

        Args:
            write: takes the text, with its control sequences, in one write.
            size: returns the columns and rows of the terminal now; None while it is another process's.
            colors: False: bold and dim alone.
            unicode: False: only ASCII.
        """
        self._write = write
        self._size = size
        self._colors = colors
        self._unicode = unicode
        self._drawn: tuple[int, int, int] | None = None  # columns and rows of the terminal, rows of the block

    def draw(self, entries: Shown, now: float) -> None:
        """Draw the block of these entries, those that ended are only part of the total."""
        size = self._size()
        if size is None or min(size) < _LEAST:
            return
        columns, rows = size
        texts = block(entries, now, columns=columns - 1, height=rows // 2, unicode=self._unicode)
        lines = self._rendered(texts, columns)
        top = rows - len(lines)  # rows above the block
        move = ""
        if self._drawn != (columns, rows, len(lines)):
            # Erase below the cursor: wherever a resize has put the old block, it is there. Then make room.
            move = f"{_SAVE}{_WHOLE}{_RESTORE}{_BELOW}{_INDEX * len(lines)}\x1b[{len(lines)}A"
            self._drawn = (columns, rows, len(lines))
        body = "".join(f"\x1b[{top + at};1H\x1b[0m{line}{_END}" for at, line in enumerate(lines, 1))
        self._write(f"{_HIDE}{move}{_SAVE}\x1b[1;{top}r{body}{_RESTORE}{_SHOW}")

    def erase(self, write: Callable[[str], object] | None = None) -> None:
        """Remove the block, and let the whole terminal scroll again. It is drawn anew by the next `draw`.

        Args:
            write: in place of that of the block.
        """
        if self._drawn:
            self._drawn = None
            (write or self._write)(f"{_SAVE}{_WHOLE}{_RESTORE}{_BELOW}")

    def _rendered(self, texts: Sequence[Text], columns: int) -> list[str]:
        console = Console(
            file=io.StringIO(),
            width=columns,
            force_terminal=True,
            color_system="standard",
            no_color=not self._colors,
            legacy_windows=False,
            _environ={},
        )
        with console.capture() as captured:
            for text in texts:
                console.print(text, no_wrap=True, overflow="crop", crop=True, highlight=False)
        return captured.get().splitlines()


def block(entries: Shown, now: float, *, columns: int, height: int, unicode: bool = True) -> list[Text]:
    """Return the rows for the entries that have not ended, and one for the total if there are several entries.

    Args:
        columns: of a row at most.
        height: rows at most.
        unicode: False: only ASCII.
    """
    running = [(escaped(label), progress) for label, progress in entries if progress.ended is None]
    several = len(entries) > 1
    room = max(1, height - several)
    hidden = len(running) - room + 1 if len(running) > room else 0
    shown = running[: len(running) - hidden]
    total = total_of((progress for _, progress in entries), now)
    layout = _Layout(shown, total if several else None, columns, unicode)
    rows = [layout.entry(label, progress, now) for label, progress in shown]
    if hidden:
        rows.append(Text(layout.shorten(f"and {format_count(hidden, 'further entry', 'further entries')}", columns)))
    if several:
        rows.append(layout.total(total))
    return rows


class _Layout:
    """The columns of the rows: name, sizes, percent, bar, state. A narrow terminal has fewer of them."""

    def __init__(self, shown: Shown, total: Total | None, columns: int, unicode: bool) -> None:
        self._columns = columns
        self._unicode = unicode
        self._gap = "  " if columns >= _WITH_SIZES - 1 else " "
        names = [label for label, _ in shown] + (["total"] if total else [])
        self._name = min(max(map(cell_len, names), default=0), max(11, columns * 3 // 10))
        self._name = min(self._name, max(columns - _KEPT_STATE, 1))
        amounts = [(progress.done, progress.total) for _, progress in shown]
        hashed = any(progress.to_hash for _, progress in shown)
        if total is not None:
            amounts.append((total.done, total.total))
        has_sizes = any(size for _, size in amounts)
        self._sizes = max((cell_len(_amount(size, size)) for _, size in amounts), default=0)  # as wide as it gets
        self._sizes = self._sizes if columns >= _WITH_SIZES - 1 else 0
        self._percent = len("100 %") if has_sizes or hashed else 0
        self._bar = _BAR if self._percent and columns >= _WITH_BAR - 1 else 0

    def entry(self, label: str, progress: Progress, now: float) -> Text:
        """Return the row of an entry."""
        done, total = progress.done, progress.total
        state = progress.state(now)
        if state == "hashing":  # its sizes are in the text
            row = self._start(label, "", progress.hashed, progress.to_hash)
        else:
            row = self._start(label, _amount(done, total), done, total, progress.resumed)
        if state == "fetching":
            speed = speed_of(done, total, progress.rate(now))
            files = f"{progress.files_done:,} of {format_count(progress.files, 'file')}"
            resumed = [f"{format_bytes(progress.resumed)} resumed"] if progress.resumed else []
            self._append(
                row,
                ["fetching", *speed, files, *resumed],
                ["fetching", *speed, *(resumed or [files])],
                ["fetching", *speed],
                speed or ["fetching"],
                speed_of(done, total, progress.rate(now), brief=True) or ["fetching"],
                speed[-1:] or ["fetching"],
            )
        else:
            is_held_up = progress.waiting is not None or progress.retrying is not None
            states = [[escaped(text)] for text in format_state(progress, now)]
            self._append(row, *states, style="yellow" if is_held_up else "")
        return row

    def total(self, total: Total) -> Text:
        """Return the row of all entries together."""
        row = self._start("total", _amount(total.done, total.total), total.done, total.total, total.resumed)
        speed = speed_of(total.done, total.total, total.rate)
        files = f"{total.files_done:,} of {format_count(total.files, 'file')}"
        entries = f"{total.entries_done:,} of {format_count(total.entries, 'entry', 'entries')}"
        self._append(row, [*speed, files, entries], [*speed, files], speed or [files], speed[-1:] or [entries])
        return row

    def shorten(self, text: str, width: int) -> str:
        """Return `text` with its middle left out, if it is wider than `width` columns."""
        if cell_len(text) <= width:
            return text
        gap = "…" if self._unicode else "..."
        left = max(width - cell_len(gap), 0)
        head = set_cell_size(text, left - left // 2).rstrip(" ")
        tail = set_cell_size(text[::-1], left // 2).rstrip(" ")[::-1] if left // 2 else ""
        return set_cell_size(f"{head}{gap}{tail}", width).rstrip(" ")

    def _start(self, label: str, sizes: str, done: int, total: int, resumed: int = 0) -> Text:
        """Return the part of a row before the state."""
        row = Text.assemble((set_cell_size(self.shorten(label, self._name), self._name), "bold"))
        if self._sizes:
            row.append(self._gap + sizes.rjust(self._sizes))
        if self._percent:
            row.append(self._gap + format_percent(done, total).rjust(self._percent))
        if self._bar:
            row.append(self._gap)
            row.append_text(self._bar_of(done, total, resumed))
        row.append(self._gap)
        return row

    def _bar_of(self, done: int, total: int, resumed: int) -> Text:
        if not total:
            return Text(" " * self._bar)
        cells = self._bar * done // total
        earlier = min(self._bar * resumed // total, cells)
        full, empty = ("━", "─") if self._unicode else ("#", "-")
        return Text.assemble(
            (full * earlier, "green dim"), (full * (cells - earlier), "green"), (empty * (self._bar - cells), "dim")
        )

    def _append(self, row: Text, *variants: Sequence[str], style: str = "") -> None:
        """Append the first of `variants`, each a list of phrases, that fits; else the last one, shortened."""
        room = max(self._columns - row.cell_len, 0)
        texts = [", ".join(phrases) for phrases in variants]
        row.append(next((text for text in texts if cell_len(text) <= room), self.shorten(texts[-1], room)), style)
        row.truncate(self._columns)


def _amount(done: int, total: int) -> str:
    return format_part(done, total) if total else ""
