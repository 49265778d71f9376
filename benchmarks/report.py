"""Tables in Markdown, and a picture of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from cases import Check, Row, Table

HEAD = "| command | s (least to most) | ours / this | goal | | CPU s | RSS MB |\n|---|---|---|---|---|---|---|"
WIDTH, LEFT, BAR, GAP = 840, 330, 18, 26  # of the picture, in pixels
OURS_COLOUR, PEER_COLOUR = "#2563eb", "#9ca3af"


def markdown(table: Table, *, judged: bool) -> str:
    """Return the section of one table; without goals where it is not `judged`."""
    lines = [f"### {table.title}\n", HEAD, *(_line(row, table.rows[0], judged) for row in table.rows)]
    remarks = [*(_check(check, judged) for check in table.checks), *table.notes]
    if remarks:
        lines += ["", *(f"- {remark}" for remark in remarks)]
    return "\n".join(lines) + "\n"


def _line(row: Row, ours: Row, judged: bool) -> str:
    one = row.measured
    times = f"{one.wall_s:.2f} ({one.least_s:.2f} to {one.most_s:.2f})"
    ratio = ours.measured.wall_s / one.wall_s
    shown = "" if row is ours else f"{ratio:.2f}"
    goal, verdict = ("", "") if row.goal is None or not judged else (f"≤ {row.goal:.2f}", _verdict(ratio, row.goal))
    name = f"**{one.name}**" if row is ours else one.name
    rss = f"{one.rss / 1e6:.0f}" if one.rss else ""
    return f"| {name} | {times} | {shown} | {goal} | {verdict} | {one.cpu_s:.2f} | {rss} |"


def _check(check: Check, judged: bool) -> str:
    unit = f" {check.unit}" if check.unit else ""
    says = f"{check.what}: {check.value:.4g}{unit}"
    return f"{says}, goal ≤ {check.goal:g}{unit}: {_verdict(check.value, check.goal)}" if judged else says


def _verdict(value: float, goal: float) -> str:
    return "met" if value <= goal else "**missed**"


def svg(tables: Sequence[Table]) -> str:
    """Return bars of the median times, a group for each table, each group to its own scale."""
    y, parts = 10, []
    for table in tables:
        parts += [f'<text x="10" y="{y + 14}" font-weight="bold">{escape(table.title)}</text>']
        y += GAP
        longest = max(row.measured.wall_s for row in table.rows)
        for row in table.rows:
            parts += _bar(row, y, (WIDTH - LEFT - 80) / longest, OURS_COLOUR if row is table.rows[0] else PEER_COLOUR)
            y += BAR + 4
        y += 14
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}" '
        'font-family="sans-serif" font-size="13">\n<rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _bar(row: Row, y: float, scale: float, colour: str) -> Iterator[str]:
    one = row.measured
    length = max(one.wall_s * scale, 1)
    yield f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end">{escape(one.name)}</text>'
    yield f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR}" fill="{colour}"/>'
    yield f'<text x="{LEFT + length + 6:.1f}" y="{y + 14}">{one.wall_s:.2f} s</text>'
