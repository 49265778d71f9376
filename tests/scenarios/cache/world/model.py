"""The model: three projects on one machine, and all that their users, their stores and `truss-cache` do.

    with World(hub, objects) as world:
        world.projects["p0"] = [Entry("org/one", "hub", revision="main"), ...]
        world.upstreams["org/one"].change({...})
        world.run("p0"); world.clean("p0"); world.killed("p0", ["run"], at=40); ...
        check(world)                                  # scenarios.world.invariants

Below `world.base`: `p0` to `p2` hold a config.yaml each; they share `cache` (the model cache), `hub` and `mounts`;
mounts may also lie in `cache`. `outside` is the user's alone. The model knows nothing of how our records are made: it
reads of them (scenarios.world.records) only which paths are ours, which the contract says they tell.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from servers.hub import Hub
from servers.objects import Objects

from scenarios.cache.world.records import RECORDS, Records, is_payload, read_records
from scenarios.cache.world.sources import HUB, MOUNT, Entry, Upstreams, Version

PROJECTS = ("p0", "p1", "p2")
ROOTS = ("cache", "hub", "mounts")  # below these is all that may be written
OUTSIDE = {"docs/letter.txt": b"a letter", "docs/a.b": b"with a dot in its name", "weights.bin": b"a" * 40}

DONE, FAILED, INTERNAL, INCOMPLETE = 0, 1, 2, 3  # exit codes; 3 of a clean
HUNG_S = 60  # a child that takes longer than this hangs
PATIENCE_S = 0.5  # a command that takes longer beside a stopped one waits for it

Command = tuple[str, tuple[str, ...]]  # (project, arguments)
User = tuple[str, tuple[str, str, str], str]  # (project, Entry.slot, which of its id)

# The changes of a disk at which a process can die (https://docs.python.org/3/library/audit_events.html).
CHANGES = frozenset(
    {"os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir", "os.mkdir", "os.utime", "os.truncate"}
)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True)
class Node:
    """A file, link or folder as it is on disk. `content`: the bytes, or where the link leads."""

    kind: str  # "file", "link", "folder"
    content: bytes = b""
    inode: int = 0
    mtime_ns: int = 0


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    text: str

    @property
    def failed(self) -> set[str]:
        """The entries whose errors a run tells: a line before a hint, of an entry and not of a path."""
        return set(re.findall(r"(?m)^([^/\s]\S*): .*\nhint: ", self.text))

    @property
    def removed(self) -> tuple[int, int]:
        """(paths, bytes) that a clean says it removed, or would remove."""
        found = re.search(r"(?:removed|would remove) ([\d,]+) paths?, ([\d,]+) bytes", self.text)
        return (int(found[1].replace(",", "")), int(found[2].replace(",", ""))) if found else (0, 0)


@dataclass(frozen=True)
class Child:
    """A command in a child process; `said` is the file for its text."""

    pid: int
    said: Path


@dataclass
class Figures:
    """What a whole test did, for its report."""

    steps: int = 0
    worlds: int = 0
    runs: int = 0
    failed: int = 0
    cleans: int = 0
    kills: int = 0
    prunes: int = 0
    locks: int = 0
    hashed: int = 0  # bytes of visible files that were compared with their source
    broken: list[str] = field(default_factory=list)  # what did not hold, with the steps that led there

    def __str__(self) -> str:
        return (
            f"{self.steps:,} steps in {self.worlds:,} worlds: {self.runs:,} runs ({self.failed:,} failed as they had "
            f"to), {self.cleans:,} cleans, {self.prunes:,} prunes, {self.locks:,} locks, {self.kills:,} kills; "
            f"{self.hashed:,} visible bytes compared with the source"
        )


class Broken(AssertionError):
    """A promise does not hold. The message ends with the steps that led there."""


@dataclass
class World:
    """One machine.

    Args:
        foreign: the user's files and links below the roots.
        made: folders that the user made above something of their own, and that may stay or go when that is gone.
        flipped: inode -> bytes of files that rotted without a trace in their stat; only `-a` finds them.
        debris: roots in which a killed or failed run may have left what the next one takes.
        killed_in: roots in which a killed run may have said that paths are ours, and not shown them yet.
        lost: roots whose records the user removed, so that nobody can say what is ours there.
        resolved: (project, entry) -> index of the version that its last `-a` found.
        locked: projects with a model_cache.lock, which may name any version that was.
        users: folder -> who ever had files in it.
        roots_of: project -> every root that it ever used.
    """

    hub: Hub
    objects: Objects
    figures: Figures = field(default_factory=Figures)
    projects: dict[str, list[Entry]] = field(default_factory=lambda: {name: [] for name in PROJECTS})
    foreign: dict[Path, Node] = field(default_factory=dict)
    made: set[Path] = field(default_factory=set)
    flipped: dict[int, bytes] = field(default_factory=dict)
    debris: set[Path] = field(default_factory=set)
    killed_in: set[Path] = field(default_factory=set)
    lost: set[Path] = field(default_factory=set)
    resolved: dict[tuple[str, Entry], int] = field(default_factory=dict)
    locked: set[str] = field(default_factory=set)
    users: dict[Path, set[User]] = field(default_factory=dict)
    roots_of: dict[str, set[Path]] = field(default_factory=lambda: {name: set() for name in PROJECTS})
    log: list[str] = field(default_factory=list)

    def __enter__(self) -> World:
        self.figures.worlds += 1
        memory = Path("/dev/shm")  # where an fsync costs nothing, if this machine has it
        folder = memory if os.access(memory, os.W_OK) else None
        self.base = Path(os.path.realpath(tempfile.mkdtemp(prefix="world-", dir=folder)))
        for name in (*PROJECTS, *ROOTS, "outside/docs", "home", "state", "secrets"):
            (self.base / name).mkdir(parents=True)
        for path, data in OUTSIDE.items():
            (self.base / "outside" / path).write_bytes(data)
        self.upstreams = Upstreams(self.hub, self.objects, self.base)
        self.upstreams.create(PROJECTS)
        self._environment = dict(os.environ)
        os.environ.clear()
        os.environ.update(self.env)
        return self

    def __exit__(self, *_: object) -> None:
        os.environ.clear()
        os.environ.update(self._environment)
        shutil.rmtree(self.base)

    @property
    def env(self) -> dict[str, str]:
        """The variables of every command on this machine."""
        return {
            "PATH": self._environment.get("PATH", os.defpath),
            "HOME": str(self.base / "home"),
            "XDG_STATE_HOME": str(self.base / "state"),
            "HF_HUB_CACHE": str(self.base / "hub"),
            "HF_ENDPOINT": self.hub.url,
            "HF_HUB_DISABLE_XET": "1",
            "TRUSS_MODEL_CACHE_DIR": str(self.base / "cache"),
            "TRUSS_MOUNT_ROOT": str(self.base),
            "TRUSS_SECRETS_DIR": str(self.base / "secrets"),
            **self.objects.env,
        }

    # Saying what happened

    def note(self, line: str) -> None:
        """Add a line to the list of steps."""
        self.log.append(line)

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Let whatever the block raises end with the steps that led there."""
        try:
            yield
        except Exception as exc:
            steps = "\n".join(f"  {number:3} {line}" for number, line in enumerate(self.log, 1))
            said = f"{exc}" if isinstance(exc, Broken) else f"{type(exc).__name__}: {exc}"
            said = said.replace(f"{self.base}/", "")
            broken = Broken(f"{said}\nafter these steps:\n{steps}")
            self.figures.broken.append(str(broken))
            raise broken from exc

    def short(self, path: Path) -> str:
        return path.relative_to(self.base).as_posix() if path.is_relative_to(self.base) else str(path)

    # Configs

    def write_config(self, project: str) -> Path:
        """Write the project's config.yaml, and return its path. `weights` entries and others never stand together."""
        entries = self.projects[project]
        mounts = any(entry.layout == MOUNT for entry in entries)
        path = self.base / project / "config.yaml"
        path.write_text(json.dumps({"weights" if mounts else "model_cache": [entry.yaml() for entry in entries]}))
        return path

    def edit(self, project: str, entries: Sequence[Entry]) -> bool:
        """Let the user edit the config, if the config alone shows nothing wrong with it."""
        from truss_cache_tasks import errors, load_config

        before, self.projects[project] = self.projects[project], list(entries)
        try:
            load_config(self.write_config(project))
        except errors.ConfigError:
            self.projects[project] = before
            self.write_config(project)
            return False
        self.note(f"{project}: config.yaml is now: {'; '.join(map(str, entries)) or 'empty'}")
        return True

    def versions(self, project: str, entry: Entry) -> list[Version]:
        """Return every version that this entry's source ever had."""
        return self.upstreams.of(entry, project).versions(entry.revision)

    # Commands

    def targets(self, project: str) -> list[tuple[Entry, Any, bool]]:
        """Return the project's entries as (entry, our EntryContext, whether it is judged fresh)."""
        from truss_cache_tasks.app.workspace import open_workspace
        from truss_cache_tasks.operations.context import read_status

        found = open_workspace(self.base / project).contexts
        return [
            (e, target, read_status(target).verdict.fresh)
            for e, target in zip(self.projects[project], found, strict=True)
        ]

    def command(self, project: str, *arguments: str) -> Ran:
        """Run `truss-cache` on the project's config, in this process."""
        from truss_cache_tasks.app import cli

        out, err = io.StringIO(), io.StringIO()
        before, sys.__stderr__ = sys.__stderr__, err  # type: ignore[misc, assignment]  # the display writes past captured ones
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = cli.main([*arguments, "-f", str(self.base / project)])
        finally:
            sys.__stderr__ = before  # type: ignore[misc]  # as above
        if code > 128:  # Ctrl-C, or the end of the test run: from now on no command in this process would do anything
            raise KeyboardInterrupt
        return Ran(code, out.getvalue() + err.getvalue())

    def run(self, project: str, *arguments: str) -> Ran:
        """Run what is stale, or the one entry that is named, with `-a` or `--replace`; note and return how it ended."""
        self.about_to_run(project)
        ran = self.command(project, "run", *arguments)
        self.figures.runs += 1
        self.figures.failed += ran.code == FAILED
        self.note(f"{project}: run {' '.join(arguments)} -> exit {ran.code}{self._reasons(ran)}")
        if ran.code != DONE:
            self.debris |= self.reach(project)
        return ran

    def clean(self, project: str, *names: str, dry: bool = False) -> Ran:
        """Clean the whole config, or the entries that are named."""
        ran = self.command(project, "clean", *(["-n"] if dry else []), *names)
        if not dry:
            self.figures.cleans += 1
            self.note(f"{project}: clean {' '.join(names)} -> exit {ran.code}{self._reasons(ran)}")
        return ran

    def prune(self, project: str, *options: str) -> Ran:
        """Prune what no living claim lists, with the variables of this project; without `--yes` only say what."""
        ran = self.command(project, "prune", *options)
        if "--yes" in options:
            self.figures.prunes += 1
        self.note(f"{project}: prune {' '.join(options)} -> exit {ran.code}{self._reasons(ran)}")
        return ran

    def lock(self, project: str, *options: str) -> Ran:
        """Write or move the lock file of a project: its entries may be at any version from now on."""
        ran = self.command(project, "lock", *options)
        self.figures.locks += 1
        self.note(f"{project}: lock {' '.join(options)} -> exit {ran.code}{self._reasons(ran)}")
        if self.lock_file(project).exists():
            self.locked.add(project)
            for entry in self.projects[project]:
                self.resolved.pop((project, entry), None)
        return ran

    def unlock(self, project: str) -> None:
        """Let the user remove the lock file of a project."""
        self.lock_file(project).unlink(missing_ok=True)
        self.locked.discard(project)
        self.note(f"{project}: model_cache.lock is removed")

    def lock_file(self, project: str) -> Path:
        return self.base / project / "model_cache.lock"

    def killed(self, project: str, arguments: Sequence[str], at: int) -> Ran | None:
        """Run a command that dies by SIGKILL at its change number `at`; return how it ended if it did before."""
        return self.ended(self.start(project, arguments, at), project, f"{' '.join(arguments)}, to die at change {at}")

    def interleaved(self, one: Command, at: int, meanwhile: Callable[[], None], other: Command) -> tuple[Ran, Ran]:
        """Stop the command `one` just before its change number `at`; let `meanwhile` and `other` happen; let it go on.

        Where `other` waits for a lock that `one` holds, both go on together.
        """
        first = self.start(*one, at, signal.SIGSTOP)
        os.waitid(os.P_PID, first.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        meanwhile()
        second = self.start(*other)
        until = time.monotonic() + PATIENCE_S
        while (
            os.waitid(os.P_PID, second.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None and time.monotonic() < until
        ):
            time.sleep(0.002)
        os.kill(first.pid, signal.SIGCONT)
        rans = (
            self.ended(first, one[0], f"{' '.join(one[1])}, stopped at change {at} while:"),
            self.ended(second, other[0], f"{' '.join(other[1])}, meanwhile"),
        )
        assert rans[0] is not None
        assert rans[1] is not None
        return rans[0], rans[1]

    def start(
        self, project: str, arguments: Sequence[str], at: int | None = None, by: signal.Signals = signal.SIGKILL
    ) -> Child:
        """Start a command in a child of this process, which has all modules loaded.

        Args:
            at: number of the change of the disk before which the child sends itself the signal `by`.
        """
        self.about_to_run(project)
        said = Path(tempfile.mktemp(dir=self.base / "home"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads: those of the servers are not needed there
            pid = os.fork()
        if pid:
            return Child(pid, said)
        code = INTERNAL
        try:
            if at is not None:
                signal_at(at, by)
            ran = self.command(project, *arguments)
            code = ran.code
            said.write_text(ran.text)
        finally:
            os._exit(code)

    def ended(self, child: Child, project: str, what: str) -> Ran | None:
        """Wait for a child, and note how it ended; None: it was killed."""
        until = time.monotonic() + HUNG_S
        while (found := os.waitpid(child.pid, os.WNOHANG)) == (0, 0):
            if time.monotonic() > until:
                os.kill(child.pid, signal.SIGKILL)
                os.waitpid(child.pid, 0)
                raise Broken(f"{project}: {what}: did not end within {HUNG_S} s")
            time.sleep(0.002)
        text = child.said.read_text() if child.said.exists() else ""
        child.said.unlink(missing_ok=True)
        ran = Ran(os.waitstatus_to_exitcode(found[1]), text)
        if ran.code == -signal.SIGKILL:
            self.figures.kills += 1
            self.killed_in |= self.reach(project)
        if ran.code != DONE:
            self.debris |= self.reach(project)
        self.note(f"{project}: {what} -> {'killed' if ran.code < 0 else f'exit {ran.code}'}{self._reasons(ran)}")
        return ran if ran.code >= 0 else None

    def about_to_run(self, project: str) -> None:
        """Take note of the places that this project uses from now on, and of the pins that its lock may move back."""
        if project in self.locked:  # one pin for all entries of a repo and revision
            mine = {(entry.uri, entry.revision) for entry in self.projects[project]}
            self.resolved = {key: at for key, at in self.resolved.items() if (key[1].uri, key[1].revision) not in mine}
        for entry in self.projects[project]:
            self.roots_of[project] |= entry.roots(self.base)
            if entry.layout != HUB:
                self.users.setdefault(entry.place(self.base), set()).add(self.user(project, entry))

    def user(self, project: str, entry: Entry) -> User:
        """Return who an entry is to our claims: another name, as a second entry of one id has, is another entry."""
        entries = self.projects[project]
        before = [one for one in entries[: entries.index(entry)] if one.uri == entry.uri]
        return project, entry.slot, f"{len(before)}@{entry.revision}" if before else ""

    def reach(self, project: str) -> set[Path]:
        """Return the roots where a command of this project may leave something: its own, and those above and below."""
        mine = self.roots_of[project]
        known = set().union(*self.roots_of.values())
        return mine | {root for root in known if any(root in one.parents or one in root.parents for one in mine)}

    def _reasons(self, ran: Ran) -> str:
        if ran.code == DONE:
            return ""
        lines = [line for line in ran.text.splitlines() if ": " in line and not line.startswith(("hint:", "warning:"))]
        return " (" + " | ".join(line.replace(f"{self.base}/", "")[:240] for line in lines[-4:]) + ")"

    # The disk

    def scan(self) -> dict[Path, Node]:
        """Return everything below the roots, and the user's own files outside, as it is now."""
        found: dict[Path, Node] = {}
        for top in (*ROOTS, "outside"):
            found.update(scan(self.base / top))
        return found

    def records(self) -> Records:
        """Return what our records below the roots list."""
        return read_records([self.base / top for top in ROOTS])

    def payload(self) -> dict[Path, os.stat_result]:
        """Return the files and links below the roots that are weights, not records: what a clean counts."""
        found = {}
        for top in ROOTS:
            for parent, _, names in os.walk(self.base / top):
                for path in (Path(parent, name) for name in names):
                    if is_payload(path.relative_to(self.base / top)):
                        found[path] = path.lstat()
            for parent, names, _ in os.walk(self.base / top):
                for path in (Path(parent, name) for name in names):
                    if path.is_symlink() and is_payload(path.relative_to(self.base / top)):
                        found[path] = path.lstat()
        return found

    def put(self, path: Path, kind: str, content: bytes) -> None:
        """Let the user make a file, or a link (`content`: where to), with the folders above it."""
        self.made |= {parent for parent in path.parents if not parent.exists()}
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "file":
            path.write_bytes(content)
        else:
            path.symlink_to(content.decode())
        self.foreign[path] = look(path)

    def damage(self, path: Path, how: str) -> None:
        """Let a file be removed, rot, or be changed in place; save for rot, its mtime shows it."""
        if how == "is removed":
            path.unlink()
            return
        stat, data = path.stat(), path.read_bytes()
        later = stat.st_mtime_ns + 1_234_567_000
        if how == "is truncated":
            os.truncate(path, len(data) // 2)
        elif how != "is touched":
            rotten = bytes([data[0] ^ 1]) + data[1:]
            with open(path, "r+b") as out:
                out.write(rotten)
            if how == "rots":
                later = stat.st_mtime_ns
                self.flipped[stat.st_ino] = rotten
        os.utime(path, ns=(later, later))

    def take_away(self, path: Path) -> None:
        """Let the user remove something of their own."""
        del self.foreign[path]
        path.unlink()


def scan(top: Path) -> dict[Path, Node]:
    """Return everything below `top`, links not followed."""
    found = {}
    for parent, folders, files in os.walk(top):
        for name in (*folders, *files):
            path = Path(parent, name)
            found[path] = look(path)
    return found


def look(path: Path) -> Node:
    """Return what is at `path`, which must be there."""
    if path.is_symlink():
        return Node("link", os.readlink(path).encode())
    if path.is_dir():
        return Node("folder")
    stat = path.stat()
    return Node("file", path.read_bytes(), stat.st_ino, stat.st_mtime_ns)


def signal_at(number: int, by: signal.Signals) -> None:
    """Let this process send itself a signal just before its change of the disk number `number` (1 is the first)."""
    left = number

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event in CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), by)

    sys.addaudithook(hook)


def is_record(path: Path) -> bool:
    """Whether `path` lies in a folder of our records."""
    return RECORDS in path.parts
