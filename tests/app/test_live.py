"""The block on a terminal: what its rows say at each width, and that nothing else on the screen is touched."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from terminal import NAME, Screen, is_obeyed

from truss_cache_tasks.app.display.live import LiveBlock, block
from truss_cache_tasks.app.display.progress import Progress, fold
from truss_cache_tasks.events import Committed, Event, Hashing, Planned, Received, Retrying, Started, Verified, Waiting

MB = 1_000_000
STARTED = Started(reasons=(), lists=True, forced=False)
PLAN = Planned(files=12, size=366 * MB, missing_files=12, missing_size=366 * MB)
NOW = 10.0


def progress(*events: Event, resumed: int = 0) -> Progress:
    """Return an entry that received 16 MB a second for 10 s."""
    entry = fold(Progress(began=0.0), STARTED, 0.0)
    entry = fold(entry, PLAN, 0.0)
    if resumed:
        entry = fold(entry, Received(path="w", size=resumed * MB, resumed=True), 0.0)
    for second in range(11):
        entry = fold(entry, Received(path="w", size=16 * MB), float(second))
    for event in events:
        entry = fold(entry, event, NOW)
    return entry


ENTRIES = [
    ("org/one", progress(resumed=80)),
    ("meta-llama/Llama-3.1-8B-Instruct", progress(*[Verified(path="a", size=1, digest="")] * 3)),
    ("org/limited", progress(Retrying(path="w", cause="429", attempt=1, delay_s=12, is_requested=True))),
    ("org/waits", fold(Progress(began=0.0), Waiting(lock="entry", path="/cache"), 0.0)),
    ("org/hashes", fold(Progress(began=0.0), Hashing(size=0, total=40_000 * MB), 0.0)),
    ("org/done", progress(Committed(how="fetched", files=12, size=366 * MB, unverified=0))),
]


def rows(columns: int, *, height: int = 20, unicode: bool = True) -> list[str]:
    found = block(ENTRIES, NOW, columns=columns, height=height, unicode=unicode)
    assert len(found) <= height
    assert all(row.cell_len <= columns for row in found)
    return [row.plain.rstrip() for row in found]


def test_forty_columns_have_percent_rate_and_time() -> None:
    assert rows(39) == [
        "org/one      69 % 16.0 MB/s, 7 s left",
        "meta-…truct  48 % 16.0 MB/s, 12 s left",
        "org/limited  48 % rate limited, 12 s",
        "org/waits         waiting",
        "org/hashes    0 % hashing",
        "total        53 % 48.0 MB/s, 15 s left",
    ]


def test_eighty_columns_have_sizes_too() -> None:
    assert rows(79) == [
        "org/one                  256 of 366 MB   69 %  fetching, 16.0 MB/s, 7 s left",
        "meta-llama/…8B-Instruct  176 of 366 MB   48 %  fetching, 16.0 MB/s, 12 s left",
        "org/limited              176 of 366 MB   48 %  rate limited, next try in 12 s",
        "org/waits                                      waiting for another process",
        "org/hashes                                0 %  hashing 0.0 of 40.0 GB",
        "total                    0.8 of 1.5 GB   53 %  48.0 MB/s, 15 s left",
    ]


def test_two_hundred_columns_have_a_bar_and_all_there_is_to_say() -> None:
    assert rows(199) == [
        f"org/one                           256 of 366 MB   69 %  {bar(16)}  "
        "fetching, 16.0 MB/s, 7 s left, 0 of 12 files, 80.0 MB resumed",
        f"meta-llama/Llama-3.1-8B-Instruct  176 of 366 MB   48 %  {bar(11)}  "
        "fetching, 16.0 MB/s, 12 s left, 3 of 12 files",
        f"org/limited                       176 of 366 MB   48 %  {bar(11)}  rate limited, next try in 12 s",
        f"org/waits                                               {' ' * 24}  "
        "waiting for another process that fetches this entry",
        f"org/hashes                                         0 %  {bar(0)}  hashing 0.0 of 40.0 GB",
        f"total                             0.8 of 1.5 GB   53 %  {bar(12)}  "
        "48.0 MB/s, 15 s left, 15 of 48 files, 1 of 6 entries",
    ]


def bar(full: int) -> str:
    return "━" * full + "─" * (24 - full)


def test_without_unicode_all_is_ascii() -> None:
    for columns in (39, 79, 199):
        assert all(row.isascii() for row in rows(columns, unicode=False))


def test_entries_that_have_no_room_are_counted() -> None:
    found = rows(79, height=4)
    assert (found[0].split()[0], found[2], found[3].split()[0]) == ("org/one", "and 3 further entries", "total")


def test_one_entry_has_no_total() -> None:
    assert len(block(ENTRIES[:1], NOW, columns=79, height=10)) == 1
    assert block([], NOW, columns=79, height=10) == []


@settings(max_examples=50)
@given(st.text(min_size=1, max_size=80), st.integers(4, 220), st.integers(1, 30), st.booleans())
def test_no_row_is_wider_than_the_terminal_whatever_the_name(
    name: str, columns: int, height: int, unicode: bool
) -> None:
    found = block([(name, ENTRIES[0][1]), *ENTRIES], NOW, columns=columns, height=height, unicode=unicode)
    assert all(row.cell_len <= columns and "\n" not in row.plain for row in found)


# -- on a screen


class Drawn:
    """A block on a screen of its own."""

    def __init__(self, columns: int = 80, rows: int = 12) -> None:
        self.screen = Screen(columns, rows)
        self.size: tuple[int, int] | None = (columns, rows)
        self.block = LiveBlock(self.screen.feed, lambda: self.size, colors=True, unicode=True)

    def draw(self, entries: list[tuple[str, Progress]] = ENTRIES) -> None:
        self.block.draw(entries, NOW)

    def resize(self, columns: int, rows: int) -> None:
        self.size = (columns, rows)
        self.screen.pyte.resize(rows, columns)


def test_lines_of_others_scroll_above_the_block_and_are_all_kept() -> None:
    drawn = Drawn()
    said = []
    for number in range(100):
        drawn.draw(ENTRIES[: 1 + number % 5])  # its height changes all the time
        line = f"line {number} of another task"
        drawn.screen.feed(f"{line}\r\n")
        said.append(line)
    drawn.draw()
    assert drawn.screen.rows[-1].startswith("total")
    drawn.block.erase()
    assert drawn.screen.everything == said
    assert drawn.screen.scrolls_whole


def test_a_line_that_is_not_complete_is_gone_on_with() -> None:
    drawn = Drawn()
    drawn.screen.feed("$ make\r\nconfigure")
    drawn.draw(ENTRIES[:1])
    drawn.screen.feed(" ... ")
    drawn.draw()
    drawn.screen.feed("\x1b[31mdone\x1b[0m\r\n")
    drawn.block.erase()
    assert drawn.screen.everything == ["$ make", "configure ... done"]


def test_a_resize_moves_the_block_and_leaves_nothing_behind() -> None:
    drawn = Drawn(100, 20)
    drawn.screen.feed("first\r\n")
    for columns, rows in ((40, 10), (120, 30), (60, 8), (80, 24)):
        drawn.draw()
        drawn.resize(columns, rows)
        drawn.draw()
        assert drawn.screen.text.count("total") == 1
        assert drawn.screen.rows[-1].startswith("total")
    drawn.block.erase()
    assert "total" not in drawn.screen.text


def test_nothing_is_drawn_while_the_terminal_is_anothers_or_too_small() -> None:
    drawn = Drawn(80, 3)
    drawn.draw()
    drawn.size = None
    drawn.draw()
    drawn.block.erase()
    assert drawn.screen.everything == []


def test_a_name_of_a_store_sends_no_control_character() -> None:
    drawn = Drawn(200, 20)
    drawn.draw([(NAME, ENTRIES[0][1])])
    assert not [character for character in drawn.screen.text if is_obeyed(character)]
    assert r"\x1b[2J" in drawn.screen.text


def test_colors_are_standard_ones() -> None:
    drawn = Drawn(200, 20)
    drawn.draw()
    assert drawn.screen.colors == {"default", "green", "brown"}  # pyte's word for yellow


def test_wide_characters_are_counted_as_two_columns() -> None:
    (row,) = block([("模型" * 20, replace(ENTRIES[0][1]))], NOW, columns=79, height=1)
    assert cell_len(row.plain.split("  ")[0]) <= 24


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_redraw_changes_no_other_row(columns: int) -> None:
    drawn = Drawn(columns, 16)
    drawn.screen.feed("".join(f"row {number}\r\n" for number in range(5)))
    drawn.draw()
    before = drawn.screen.rows
    cursor = (drawn.screen.pyte.cursor.x, drawn.screen.pyte.cursor.y)
    drawn.draw()
    assert drawn.screen.rows == before
    assert (drawn.screen.pyte.cursor.x, drawn.screen.pyte.cursor.y) == cursor
