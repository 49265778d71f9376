"""The cases of the goals' table: which weights, which store, who runs against whom, and what is to be reached."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import peers
import servers
from measuring import Contender, Measured, Sample, Track
from resetting import resetting_s3
from weights import Weights

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
    goal: float
    unit: str = ""


@dataclass(frozen=True)
class Table:
    """What a case found. Ours is the first row."""

    title: str
    rows: list[Row]
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


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
        yield Table(title, rows)


def gcs(bench: Bench) -> Iterator[Table]:
    """GCS with crc32c: fake-gcs-server is slower than nginx, the same for all."""
    packages = next(peers.VENV.glob("lib/python*/site-packages"))
    with bench.weights(4, bench.sizes.large) as weights, bench.folder("gcs") as folder:
        title = f"GCS with crc32c, {weights.label}"
        with servers.gcs(weights, folder, packages) as env:
            rows = bench.race(
                title,
                (peers.ours(f"gs://{servers.BUCKET}/{servers.PREFIX}", weights, env), None),
                *((one, None) for one in peers.transfer_managers(weights, env)),
            )
        best = min(rows[1:], key=lambda row: row.measured.wall_s)
        yield Table(title, [replace(row, goal=0.5) if row is best else row for row in rows])


def azure(bench: Bench) -> Iterator[Table]:
    """Azure Blob Storage without md5, as most large blobs have none: Azurite, and nginx over the same files."""
    python = [str(peers.VENV / "bin" / "python"), str(peers.PROGRAMS)]
    with bench.weights(4, bench.sizes.large // 4) as weights, bench.folder("azure") as folder:
        stores = {
            "Azurite": servers.azurite(weights, folder, python),
            "nginx": servers.azure(weights, folder / "nginx"),
        }
        for name, store in stores.items():
            title = f"Azure, {name}, {weights.label}"
            with store as env:
                ours, *theirs = bench.race(
                    title,
                    (peers.ours_azure(weights, env), None),
                    *((one, None) for one in peers.azure_sdk(weights, env)),
                )
            best = min(theirs, key=lambda row: row.measured.wall_s)
            goal = 1.0 if name == "Azurite" else 0.5
            cpu = ours.measured.cpu_s / min(row.measured.cpu_s for row in theirs)
            yield Table(
                title,
                [ours, *(replace(row, goal=goal) if row is best else row for row in theirs)],
                [Check("CPU of ours / least CPU of azure-storage-blob", cpu, 0.5)],
            )


def hub(bench: Bench) -> Iterator[Table]:
    """The Hub with sha256, and the limit: hashing and reading, as if nothing else had to be done."""
    with bench.weights(4, bench.sizes.large) as weights, bench.folder("hub") as folder:
        title = f"Hub with sha256, {weights.label}"
        with servers.hub(weights, folder, lfs=True) as store, peers.truss_transfer(weights, store) as transfer:
            urls = [f"{store.cdn}/{name}" for name in weights.names]
            served = servers.Meter(store.pid)
            reading = peers.limit("raw", "raw sockets, 4 streams, nothing kept", "4", str(weights.size), *urls)
            rows = bench.race(
                title,
                (peers.ours_hub(weights, store), None),
                (peers.hf(weights, store), 0.5),
                *((one, 1.0) for one in transfer),
                (peers.limit("sha256-in-memory", "sha256 of the bytes, one process", str(weights.total)), None),
                (replace(reading, before=served.start, after=served.stop), None),
            )
        hashed, read = rows[-2].measured, rows[-1].measured
        serving_s = served.median_s
        cores = os.cpu_count() or 1
        limit_s = (hashed.cpu_s + read.cpu_s + serving_s) / cores
        limit = Measured(f"limit: CPU of hashing, reading, serving / {cores}", [Sample(limit_s, limit_s * cores, 0)])
        yield Table(
            title,
            [*rows, Row(limit, 1.25)],
            notes=[f"in the limit, nginx's share of the CPU: {serving_s:.2f} s"]
            + (
                []
                if transfer
                else ["truss-transfer was not measured: it reads /static-bptr, which is not ours to make here"]
            ),
        )


def one(bench: Bench) -> Iterator[Table]:
    """One large file against several of the same total, and against its hash alone."""
    with (
        bench.weights(1, bench.sizes.single) as single,
        bench.weights(4, bench.sizes.single // 4) as several,  # not alike: a source of as many bytes
        bench.folder("s3") as folder,
    ):
        title = f"S3, {single.label}"
        with servers.s3(single, folder / "one") as env, servers.s3(several, folder / "four") as env_of_several:
            rows = bench.race(
                title,
                (peers.ours_s3(single, env), None),
                (peers.ours_s3(several, env_of_several, f"{peers.OURS}, {several.label}"), 1.05),
                (peers.s5cmd(single, env), None),
            )
        yield Table(title, rows, [Check("RSS of ours", rows[0].measured.rss / 1e6, 150, "MB")])
        title = f"Hub, {single.label}"
        with servers.hub(single, folder / "hub", lfs=True) as store:
            path = str(single.folder / single.names[0])
            rows = bench.race(
                title,
                (peers.ours_hub(single, store), None),
                (peers.limit("sha256-of-file", "sha256 of the file, nothing else", path), 1.1),
            )
        yield Table(title, rows)


def small(bench: Bench) -> Iterator[Table]:
    """Many small files: on the Hub as git's own, which no redirect leads away from."""
    with bench.weights(bench.sizes.small, 20_000) as weights, bench.folder("small") as folder:
        title = f"Hub, {weights.label}"
        with servers.hub(weights, folder / "hub", lfs=False) as store:
            rows = bench.race(title, (peers.ours_hub(weights, store), None), (peers.hf(weights, store), 0.25))
        yield Table(title, rows)
        title = f"S3, {weights.label}"
        with servers.s3(weights, folder / "s3") as env:
            rows = bench.race(title, (peers.ours_s3(weights, env), None), (peers.s5cmd(weights, env), 2.0))
        yield Table(title, rows)


def verify_cost(bench: Bench) -> Iterator[Table]:
    """The same bytes where the store tells a digest, and where it tells none."""
    with bench.weights(4, bench.sizes.large) as weights, bench.folder("s3") as folder:
        title = f"What verifying costs, S3, {weights.label}"
        with servers.s3(weights, folder / "with") as told, servers.s3(weights, folder / "none", digests=False) as none:
            rows = bench.race(
                title,
                (peers.ours_s3(weights, told, "CRC64NVME told and compared"), None),
                (peers.ours_s3(weights, none, "no digest told"), None),
            )
        yield Table(title, rows)


def wan(bench: Bench) -> Iterator[Table]:
    """A far link: 40 ms there and back, 200 Mbit/s, nothing lost."""
    streams = 16
    with (
        bench.weights(4, bench.sizes.wan // 4) as weights,
        bench.folder("s3") as folder,
        servers.link(40, 0, 200) as (client, server),
        servers.s3(weights, folder, host="10.78.0.2", inside=server) as env,
    ):
        title = f"S3 at 40 ms and 200 Mbit/s, {weights.label}"
        urls = [f"{env['AWS_ENDPOINT_URL_S3']}/{servers.BUCKET}/{servers.PREFIX}/{name}" for name in weights.names]
        raw = peers.limit("raw", f"raw sockets, {streams} streams", str(streams), str(weights.size), *urls)
        far = [
            (replace(one, command=[*client, *one.command]), goal)
            for one, goal in (
                (peers.ours_s3(weights, env), None),
                (peers.s5cmd(weights, env), 1.0),
                (raw, 1 / 0.9),  # 0.9 of what they reach
            )
        ]
        rows = bench.race(title, *far)
        yield Table(title, rows)


def resets(bench: Bench) -> Iterator[Table]:
    """Connections that break in the midst of a body; the seeds are the numbers of the runs."""
    with bench.weights(1, bench.sizes.resets) as weights, resetting_s3(weights) as (server, env):
        title = f"S3 with resets, {weights.label}"
        seeds, spent = itertools.count(1), dict[str, list[tuple[int, int]]]()

        def never(_: random.Random) -> Callable[[int], bool]:
            return lambda number: False

        def one_percent(dice: random.Random) -> Callable[[int], bool]:
            return lambda number: dice.random() < 0.01

        def one_in_a_hundred(dice: random.Random) -> Callable[[int], bool]:
            first = dice.randrange(8)  # early enough for every size to meet it
            return lambda number: number % 100 == first

        def ours(name: str, hits: Callable[[random.Random], Callable[[int], bool]]) -> Contender:
            return replace(
                peers.ours_s3(weights, env, name),
                before=lambda: server.begin(hits(random.Random(next(seeds)))),
                after=lambda: spent.setdefault(name, []).append((server.sent, server.resets)),
            )

        rows = bench.race(
            title,
            (ours("one request in a hundred reset, at least one", one_in_a_hundred), None),
            (ours("no resets", never), 1.3),
            (ours("each request reset with 1 %", one_percent), None),
        )
        checks = [
            Check(
                f"bytes sent / size, {name} ({sum(resets for _, resets in counts)} resets in {len(counts)} runs)",
                max(sent for sent, _ in counts) / weights.total,
                1.05,
            )
            for name, counts in spent.items()
        ]
        yield Table(title, rows, checks)


CASES: dict[str, Callable[[Bench], Iterator[Table]]] = {
    "s3": s3,
    "s3-https": s3_https,
    "gcs": gcs,
    "azure": azure,
    "hub": hub,
    "one": one,
    "small": small,
    "wan": wan,
    "resets": resets,
    "verify-cost": verify_cost,
}
