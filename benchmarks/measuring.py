"""Whole processes from a cold start: wall time, CPU and memory; contenders take turns on an empty folder."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Contender:
    """A command that fills the folder it is started in.

    Args:
        name: as the tables show it.
        command: relative paths are below the wiped folder, which is HOME too.
        size: bytes that must lie there afterwards; else the run is no run.
        env: beside PATH and HOME; nothing of the machine's own environment comes through.
        files: what lies in the folder at the start.
        before, after: called outside of the measured time.
    """

    name: str
    command: Sequence[str]
    size: int = 0
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    before: Callable[[], None] = lambda: None
    after: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Sample:
    """What one process took, its children included; `rss` (bytes) is that of the largest of them."""

    wall_s: float
    cpu_s: float
    rss: int


@dataclass(frozen=True)
class Measured:
    """All samples of one contender."""

    name: str
    samples: Sequence[Sample]

    @property
    def wall_s(self) -> float:
        return statistics.median(sample.wall_s for sample in self.samples)

    @property
    def least_s(self) -> float:
        return min(sample.wall_s for sample in self.samples)

    @property
    def most_s(self) -> float:
        return max(sample.wall_s for sample in self.samples)

    @property
    def cpu_s(self) -> float:
        return statistics.median(sample.cpu_s for sample in self.samples)

    @property
    def rss(self) -> int:
        return max(sample.rss for sample in self.samples)


class NotDone(Exception):
    """A contender failed, or left less than it should."""


@dataclass(frozen=True)
class Track:
    """Where contenders run.

    Args:
        out: the folder that is wiped before each run.
        runs: measured ones; one more goes before them, and warms the page cache.
        path: PATH of the commands.
        synced: end each command with `sync -f`, as ours ends by itself (for a folder on a disk).
        say: told what runs.
    """

    out: Path
    runs: int
    path: str
    synced: bool
    say: Callable[[str], None]

    def race(self, contenders: Sequence[Contender]) -> list[Measured]:
        """Run all of them, turn by turn, and return what they took, in the same order. Raises NotDone."""
        samples: dict[str, list[Sample]] = {contender.name: [] for contender in contenders}
        for turn in range(self.runs + 1):
            for contender in contenders:
                sample = self._run(contender)
                self.say(f"{turn or 'warm'} {contender.name}: {sample.wall_s:.2f} s")
                if turn:
                    samples[contender.name].append(sample)
        self._wipe()
        return [Measured(name, taken) for name, taken in samples.items()]

    def _run(self, contender: Contender) -> Sample:
        self._wipe()
        for name, text in contender.files.items():
            (self.out / name).write_text(text)
        command = list(contender.command)
        if self.synced:
            command = ["sh", "-c", '"$@" && sync -f .', "sh", *command]
        env = {"PATH": self.path, "HOME": str(self.out), "LANG": "C.UTF-8", **contender.env}
        contender.before()
        with (self.out / ".output").open("w+") as output:
            began = time.perf_counter()
            process = subprocess.Popen(command, cwd=self.out, env=env, stdout=output, stderr=output)
            _, status, spent = os.wait4(process.pid, 0)
            wall_s = time.perf_counter() - began
            process.returncode = os.waitstatus_to_exitcode(status)
            output.seek(0)
            tail = output.read()[-2000:]
        contender.after()
        arrived = _bytes_below(self.out)
        if process.returncode or arrived < contender.size:
            raise NotDone(
                f"{contender.name}: exit {process.returncode}, {arrived} bytes of {contender.size} arrived\n{tail}"
            )
        return Sample(wall_s, spent.ru_utime + spent.ru_stime, spent.ru_maxrss * 1024)

    def _wipe(self) -> None:
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir(parents=True)


def _bytes_below(folder: Path) -> int:
    """Return the bytes that files below `folder` occupy; holes and second names of a file do not count."""
    found = {status.st_ino: min(status.st_size, status.st_blocks * 512) for status in map(os.lstat, _files(folder))}
    return sum(found.values())


def _files(folder: Path) -> Iterable[str]:
    for parent, _, names in os.walk(folder):
        yield from (os.path.join(parent, name) for name in names)
