"""A disk that fails in the middle of a command: from any call on, or in one call alone, with any of the errors.

figures = sweep(seed=1, points=40)      # what each stage was told; raises AssertionError with the point that went wrong

At each point a command runs on a disk that fails, and again on one that does not. It is checked that
- the command came through, or each entry failed with one cause and one hint;
- no wrong byte is at a final path, whatever happened;
- the second run makes all right, and fetches again one part and the small files at the most;
- `clean` then leaves nothing of ours.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import odd_disk
from servers.hub import Hub
from trusses import Ran, tree

from scenarios.cache.disk import leftovers
from scenarios.cache.forks import ForkedTruss, Forks
from scenarios.cache.upstreams import OnHub, config, root_of

PART = 8 << 20
BIG = random.Random(1).randbytes(2 * PART + 5)  # three parts
A, B = random.Random(2).randbytes(30_000), random.Random(3).randbytes(20_000)
SMALL = {"model.bin": A, "sub/twin.bin": A, "other.bin": B, "config.json": b"{}", "x": b"x"}
BEFORE = {"fetch": {}, "update": SMALL, "clean": SMALL}
AFTER = {
    "fetch": {**SMALL, "big.bin": BIG},
    "update": {"model.bin": B, "other.bin": A, "old/model.bin": A, "config.json": b"[]", "x/new.bin": b"in a folder"},
    "clean": SMALL,
}
COMMANDS = {"fetch": ["run"], "update": ["run", "-a"], "clean": ["clean"]}
CALLS = {"ENOSPC": "change", "EDQUOT": "change", "EROFS": "change", "EACCES": "change", "EIO": "any"}
LAYOUTS = ("hub", "volume", "mount")

# The first that matches names the stage of a call, by its kind and its path.
STAGES = {
    "state folder": r"\S+ .*/\.local/",
    "reservation": r"\S+ .*/(space\.[0-9a-f]{8}|.*space.*lock)|\S+ .*/partials/space",
    "journal": r"\S+ .*\.parts",
    "lock": r"\S+ .*(/locks|\.locks)\b",
    "staging": r"\S+ .*/partials/(put|link|ref)\.",
    "partial": r"\S+ .*/partials\b",
    "record": r"\S+ .*/\.truss_cache/(manifests|claims|fetches|pins)",
    "mark": r"\S+ .*/published\b",
    "publish": r"\S+ .*/blobs\b",
    "our folder": r"\S+ .*/\.truss_cache",
    "ref": r"\S+ .*/refs\b",
    "visible path": r"\S+ .*",
}


class Point(NamedTuple):
    """One try.

    Args:
        code: the error.
        once: only one call fails; else all from that one on.
        part: which call, as a part of all that the command makes (0 to 1).
    """

    act: str
    layout: str
    code: str
    once: bool
    part: float


@dataclass
class Figures:
    """What a sweep found.

    Attributes:
        points: how many were tried.
        stages: (stage, error) -> how many calls of that stage were the first to fail.
        failed: how many commands failed; the others came through.
        refetched: the most bytes that a second run fetched again.
        seconds: how long it took.
    """

    points: int = 0
    stages: Counter[tuple[str, str]] = field(default_factory=Counter)
    failed: int = 0
    refetched: int = 0
    seconds: float = 0.0


def sweep(seed: int, points: int) -> Figures:
    """Try `points` points, evenly over acts, layouts and errors. Raises AssertionError at the first that is wrong."""
    chance, began, figures = random.Random(seed), time.monotonic(), Figures()
    kinds = list(itertools.product(COMMANDS, LAYOUTS, CALLS, (False, True)))
    chance.shuffle(kinds)
    tried = [Point(*kind, chance.random()) for kind in itertools.islice(itertools.cycle(kinds), points)]
    with _machine() as machine:
        for number, point in enumerate(tried):
            try:
                machine.try_point(f"{number:05}", point, figures)
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, point {number}, {point}: {error}") from error
    figures.points, figures.seconds = points, time.monotonic() - began
    return figures


@contextlib.contextmanager
def _machine() -> Iterator[_Machine]:
    memory = Path("/dev/shm")  # where fsync costs nothing
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder, Hub() as hub:
        forks = Forks()
        try:
            yield _Machine(Path(folder), hub, forks)
        finally:
            forks.end()


class _Machine:
    def __init__(self, folder: Path, hub: Hub, forks: Forks) -> None:
        self.folder, self.hub, self.forks = folder, hub, forks
        self.calls: dict[tuple[str, str], dict[str, int]] = {}

    def try_point(self, name: str, point: Point, figures: Figures) -> None:
        act, layout = point.act, point.layout
        if (act, layout) not in self.calls:
            self.calls[act, layout] = self._count(act, layout)
        kind = CALLS[point.code]
        number = 1 + int(point.part * self.calls[act, layout][kind])
        truss = self._truss(name, act, layout)
        failed = truss.root.parent / f"{name}.failed"
        self.hub.sent.clear()
        rule = f"{kind}={point.code}@{number}{'!' if point.once else ''}"
        truss.env |= odd_disk.variables(truss.root, rule, failed=failed)
        ran = truss.cli(*COMMANDS[act])
        truss.env = {name: value for name, value in truss.env.items() if not name.startswith("ODD_DISK_")}
        stage = stage_of(failed.read_text()) if failed.exists() else "none"
        figures.stages[stage, point.code] += 1
        figures.failed += self._is_said_well(ran, act, rule)
        self._is_nothing_wrong(truss, act, layout)
        if act == "clean":
            ran = truss.cli("clean")
            assert ran.code == 0, f"{rule}: the second clean: {ran.text}"
            self._is_nothing_left(truss, point, f"{rule}, {stage}")
        ran = truss.cli(*COMMANDS[act if act == "update" else "fetch"])
        assert ran.code == 0, f"{rule}, {stage}: the second run: {ran.text}"
        again = self.hub.sent["cdn"] - sum(len(data) for data in {*AFTER[act].values()} - {*BEFORE[act].values()})
        if act == "fetch":
            figures.refetched = max(figures.refetched, again)
            assert again <= PART + sum(map(len, SMALL.values())), f"{rule}, {stage}: {again:,} bytes came again"
        assert self._shown(truss, layout) == AFTER[act], f"{rule}, {stage}: {sorted(self._shown(truss, layout))}"
        ran = truss.cli("why", "--check")
        assert ran.code == 0, f"{rule}, {stage}: {ran.text}"
        ran = truss.cli("clean")
        assert ran.code == 0, f"{rule}, {stage}: the clean: {ran.text}"
        self._is_nothing_left(truss, point, f"{rule}, {stage}")
        shutil.rmtree(truss.root)

    def _count(self, act: str, layout: str) -> dict[str, int]:
        truss = self._truss(f"count-{act}-{layout}", act, layout)
        count = truss.root.parent / f"{truss.root.name}.count"
        truss.env |= odd_disk.variables(truss.root, "", count)
        ran = truss.cli(*COMMANDS[act])
        assert ran.code == 0, ran.text
        shutil.rmtree(truss.root)
        return {name: int(number) for name, number in map(str.split, count.read_text().splitlines())}

    def _truss(self, name: str, act: str, layout: str) -> ForkedTruss:
        """Return a machine on which the act is about to be done."""
        upstream = OnHub(self.hub, f"org/{act}-{layout}")
        truss = ForkedTruss(self.folder / name, forks=self.forks, hub=self.hub, TRUSS_CACHE_CONNECTIONS="1")
        truss.folder = self.folder / "config"  # on a good disk
        truss.folder.mkdir(exist_ok=True)
        if layout == "hub":
            truss.config(f"model_cache:\n  - repo_id: {upstream.name}\n")
        else:
            truss.config(config(layout, upstream.entry("main", layout, "m")))
        if BEFORE[act]:
            upstream.put("main", BEFORE[act])
            ran = truss.cli()
            assert ran.code == 0, ran.text
        upstream.put("main", AFTER[act])
        return truss

    @staticmethod
    def _is_said_well(ran: Ran, act: str, rule: str) -> bool:
        """See that a command came through, or failed in words; return whether it failed."""
        assert "internal error" not in ran.text, f"{rule}: {ran.text}"
        assert "Traceback" not in ran.text, f"{rule}: {ran.text}"
        assert ran.code in ((0, 3) if act == "clean" else (0, 1)), f"{rule}: exit {ran.code}: {ran.text}"
        if ran.code:  # a clean tells of what it left, and of the first root that failed
            assert 1 <= ran.err.count("hint: ") <= 1 + (act == "clean"), f"{rule}: {ran.text}"
        return ran.code != 0

    @staticmethod
    def _is_nothing_left(truss: ForkedTruss, point: Point, where: str) -> None:
        """See that nothing of ours is left; an empty folder may be, if one call that would have removed it failed."""
        left = leftovers(truss, folders=not point.once)
        assert left == [], f"{where}: {left}"

    def _is_nothing_wrong(self, truss: ForkedTruss, act: str, layout: str) -> None:
        for path, data in self._shown(truss, layout, every=True).items():
            assert data in (BEFORE[act].get(path), AFTER[act].get(path)), f"{path} shows {len(data):,} wrong bytes"

    @staticmethod
    def _shown(truss: ForkedTruss, layout: str, *, every: bool = False) -> dict[str, bytes]:
        if layout != "hub":
            folder = root_of(truss, layout) / "m"
            return tree(folder) if folder.exists() else {}
        repos = truss.hub_cache.glob("models--*")
        refs = [(repo, ref.read_text()) for repo in repos for ref in (repo / "refs").glob("main")]
        snapshots: Sequence[Path] = [repo / "snapshots" / commit for repo, commit in refs]
        if every:
            snapshots = list(truss.hub_cache.glob("models--*/snapshots/*"))
        return {path: data for snapshot in snapshots if snapshot.exists() for path, data in tree(snapshot).items()}


def stage_of(call: str) -> str:
    """Return the stage that a call belongs to; `call` is `NAME PATH`."""
    return next(stage for stage, pattern in STAGES.items() if re.match(pattern, call))


def table(figures: Figures) -> str:
    """Return the figures as a table of Markdown: stages down, errors across."""
    lines = ["| stage | " + " | ".join(CALLS) + " |", "|---" * (len(CALLS) + 1) + "|"]
    for stage in [*STAGES, "none"]:
        row = [figures.stages[stage, code] for code in CALLS]
        if any(row):
            lines.append(f"| {stage} | " + " | ".join(map(str, row)) + " |")
    return "\n".join(lines)
