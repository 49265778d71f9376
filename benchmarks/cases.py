"""The cases of the goals' table: which weights, which store, who runs against whom, and what is to be reached."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import peers
import servers
from measuring import Contender, Measured, Track
from servers import Weights

GIB, MIB = 1 << 30, 1 << 20


@dataclass(frozen=True)
class Row:
    """A line of a table; `goal` is the most that our time may be as a multiple of this one's."""

    measured: Measured
    goal: float | None = None


@dataclass(frozen=True)
class Check:
    """A goal that is no ratio of times: `value` is to be at most `goal`."""

    what: str
    value: float
    goal: float | None = None
    unit: str = ""


@dataclass(frozen=True)
class Table:
    """What a case found. Ours is the first row."""

    title: str
    rows: list[Row]
    checks: list[Check]


class Skipped(Exception):
    """A case cannot run here; says what is missing."""


@dataclass(frozen=True)
class Sizes:
    """How much is moved."""

    large: int  # bytes of each of four files
    single: int
    small: int  # number of files of 20 kB
    wan: int
    resets: int


FULL = Sizes(GIB, 4 * GIB, 2000, 256 * MIB, GIB)
QUICK = Sizes(64 * MIB, 256 * MIB, 200, 16 * MIB, 256 * MIB)


@dataclass(frozen=True)
class Bench:
    """What a case has to work with.

    Args:
        scratch: for sources and servers; on tmpfs, so that disks have no part in it.
        full: also what takes long.
    """

    track: Track
    scratch: Path
    sizes: Sizes
    full: bool

    @contextlib.contextmanager
    def weights(self, count: int, size: int, *, alike: bool = False) -> Iterator[Weights]:
        """Make source files, and take them away afterwards: memory is scarce."""
        made = Weights(self.scratch / f"weights-{count}-{size}", count, size, alike).make()
        try:
            yield made
        finally:
            shutil.rmtree(made.folder)

    @contextlib.contextmanager
    def folder(self, name: str) -> Iterator[Path]:
        """Yield a path for a server, where nothing is yet."""
        try:
            yield self.scratch / name
        finally:
            shutil.rmtree(self.scratch / name, ignore_errors=True)

    def race(self, title: str, *lanes: tuple[Contender, float | None]) -> list[Row]:
        """Measure contenders and put them beside their goals."""
        self.track.say(title)
        measured = self.track.race([contender for contender, _ in lanes])
        return [Row(one, goal) for one, (_, goal) in zip(measured, lanes, strict=True)]


def s3(bench: Bench) -> Iterator[Table]:
    """S3 with CRC64NVME over http."""
    with bench.weights(4, bench.sizes.large) as weights, bench.folder("s3") as folder:
        title = f"S3 with CRC64NVME, {weights.label}"
        with servers.s3(weights, folder) as env:
            rows = bench.race(
                title,
                (peers.ours_s3(weights, env), None),
                (peers.s5cmd(weights, env), 1.15),
                (peers.boto3(weights, env), 0.3),
                (peers.aws(weights, env), None),
                (peers.cp(weights), None),
            )
        yield Table(title, rows, [Check("RSS of ours", rows[0].measured.rss / 1e6, 150, "MB")])
    if bench.full:
        # One file under four names: as four there would not be memory for them and their copies
        with bench.weights(4, 2 * bench.sizes.large, alike=True) as weights, bench.folder("s3") as folder:
            title = f"S3 with CRC64NVME, {weights.label}"
            with servers.s3(weights, folder) as env:
                rows = bench.race(title, (peers.ours_s3(weights, env), None), (peers.s5cmd(weights, env), 1.0))
            yield Table(title, rows, [Check("RSS of ours", rows[0].measured.rss / 1e6, 150, "MB")])


def s3_https(bench: Bench) -> Iterator[Table]:
    """The same over TLS, with a certificate of its own authority."""
    with bench.weights(4, bench.sizes.large) as weights, bench.folder("s3") as folder:
        title = f"S3 over https, {weights.label}"
        with servers.s3(weights, folder, tls=True) as env:
            rows = bench.race(
                title,
                (peers.ours_s3(weights, env), None),
                (peers.s5cmd(weights, env), 1.0),
                (peers.boto3(weights, env), None),
                (peers.aws(weights, env), None),
            )
        yield Table(title, rows, [])


CASES: dict[str, Callable[[Bench], Iterator[Table]]] = {"s3": s3, "s3-https": s3_https}
