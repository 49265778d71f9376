"""The kill sweep: a command dies by SIGKILL at each change that it makes to the disk; what is left is checked.

A death between two changes leaves the disk as the one just before the next change does, and the locks of a dead process
are free. So a death at each change stands for a death at each file-system call. A write dies with half of its bytes.

    for death in deaths("fetch", "hub", lives, hub, forks, stride=41):      # the machines on which it died
        check_rerun(death); check_clean(death)
    interleaving(90, ("run", "clean"), "hub", lives, hub, forks)            # one stands still while the other runs
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from odd_disk import variables
from servers.hub import Hub, Request
from trusses import tree

from scenarios.cache.disk import clean_tells, leftovers, paths_below
from scenarios.cache.forks import ForkedTruss, Forks, calls_of, interleave
from scenarios.cache.upstreams import OnHub, beside, check, config, root_of, run
from scenarios.cache.world.records import RECORDS, read_records
from truss_cache_tasks.app.commands.table import COMMANDS

PART = 8 << 20  # transfer.Limits.part_min
LAYOUTS = ("hub", "volume", "mount")

Files = dict[str, bytes]
_numbers = itertools.count()
_chance = random.Random(1)
A, B = _chance.randbytes(30_000), _chance.randbytes(20_000)
BEFORE: Files = {"model.bin": A, "sub/twin.bin": A, "other.bin": B, "config.json": b"{}", "x": b"x"}
AFTER: Files = {
    "model.bin": B,
    "other.bin": A,
    "old/model.bin": A,
    "config.json": b"[]",
    "x/new.bin": b"now in a folder",
}
LARGE: Files = {**BEFORE, "large.bin": _chance.randbytes(PART + 70_000)}


@dataclass(frozen=True)
class Act:
    """A command that dies.

    Args:
        command: of `truss-cache`.
        before: the commands before it.
        changes: whether the source gets other files then.
        then: the commands after that.
        rerun: the command after the death that ends what it began.
    """

    command: tuple[str, ...]
    before: tuple[tuple[str, ...], ...] = (("run",),)
    changes: bool = False
    then: tuple[tuple[str, ...], ...] = ()
    rerun: tuple[str, ...] = ("run",)


ACTS = {
    "fetch": Act(("run",), before=()),
    "update": Act(("run", "-a"), changes=True, rerun=("run", "-a")),
    "clean": Act(("clean",)),
    "prune": Act(("prune", "--yes"), changes=True, then=(("run", "-a"),), rerun=("prune", "--yes")),
    "lock": Act(("lock",), rerun=("lock",)),
}
ACTS = {name: act for name, act in ACTS.items() if act.command[0] in COMMANDS}
# What takes away what a rerun left that found its files whole.
TIDY = ("prune", "--yes") if "prune" in COMMANDS else ("run", "-a")


@dataclass
class Death:
    """A machine on which the act died; with code 0, it did not come that far.

    Args:
        number: before which change, or -1 for a moment of its own.
        wanted: the files of the source now; `known`, of all times.
        requests: of the Hub, before the act began.
    """

    act: Act
    layout: str
    truss: ForkedTruss
    upstream: OnHub
    number: int
    code: int
    wanted: Files
    known: list[Files] = field(default_factory=list)
    requests: int = 0

    @property
    def was_killed(self) -> bool:
        return self.code == -signal.SIGKILL


@contextmanager
def fast_folder() -> Iterator[Path]:
    """Yield a folder where fsync costs nothing, as far as this machine has one."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


def death_at(number: int, name: str, layout: str, lives: Path, hub: Hub, forks: Forks, disk: str = "") -> Death:
    """Let an act die just before its change `number`; 1 is the first.

    Args:
        lives: the folder for all machines.
        disk: what its disk lacks, as rules of tests/odd_disk.c.
    """
    death = machine(name, layout, lives, hub, forks, BEFORE)
    death.number = number
    if disk:
        death.truss.env |= variables(death.truss.root, disk)
    death.code = (
        death.truss.fork(*death.act.command, **variables(death.truss.root, f"{disk},change=kill@{number}")).end().code
    )
    assert death.code in (0, -signal.SIGKILL), death
    return death


def deaths(name: str, layout: str, lives: Path, hub: Hub, forks: Forks, *, stride: int) -> Iterator[Death]:
    """Yield the deaths of an act, each `stride` changes later, and last the machine on which it did not die."""
    for number in itertools.count(random.Random(f"{name} {layout}").randrange(stride) + 1, stride):
        death = death_at(number, name, layout, lives, hub, forks)
        yield death
        if not death.was_killed:
            return


# A disk as of FUSE or a network that has no links and no locks.
BARE = "symlink=ENOSYS,link=ENOSYS,clone=EOPNOTSUPP,flock=ENOSYS"


def changes_of(name: str, layout: str, lives: Path, hub: Hub, forks: Forks) -> int:
    """Return how many changes an act makes to the disk; a few more or less where threads take turns."""
    death = machine(name, layout, lives, hub, forks, BEFORE)
    return calls_of(death.truss, *death.act.command)["change"]


def death_at_a_moment(
    name: str, layout: str, lives: Path, hub: Hub, forks: Forks, *, chance: random.Random, files: Files = BEFORE
) -> Death:
    """Return the death of an act at a random moment: of its time, and not of its changes."""
    death = machine(name, layout, lives, hub, forks, files)
    running = death.truss.fork(*death.act.command)
    running.has_news(chance.random() * 0.25)
    running.kill()
    death.code = running.end().code
    assert death.code in (0, -signal.SIGKILL), death
    return death


def machine(name: str, layout: str, lives: Path, hub: Hub, forks: Forks, files: Files) -> Death:
    """Return a machine just before the act."""
    act, number = ACTS[name], next(_numbers)
    upstream = OnHub(hub, f"org/{number}")
    truss = ForkedTruss(lives / f"{number:05}", forks=forks, hub=hub)
    text = config(layout, upstream.entry("main", layout, "m"))
    truss.config(f"model_cache:\n  - repo_id: {upstream.name}\n" if layout == "hub" else text)
    upstream.put("main", files)
    known = [files]
    for command in act.before:
        run(truss, *command)
    if act.changes:
        upstream.put("main", AFTER)
        known.append(AFTER)
    for command in act.then:
        run(truss, *command)
    return Death(act, layout, truss, upstream, -1, 0, known[-1], known, len(hub.requests))


# What must hold


def check_visible(death: Death) -> None:
    """Every file at a final path has all bytes of the file of this name in a version of the source."""
    if death.layout != "hub":
        for path, data in tree(root_of(death.truss, death.layout) / "m").items():
            assert data in [files.get(path) for files in death.known], f"{death.number}: {path} has wrong bytes"
    for repo in death.truss.hub_cache.glob("models--*"):
        for blob in [path for path in (repo / "blobs").glob("*") if not path.is_symlink()]:
            assert blob.name in digests(blob.read_bytes()), f"{death.number}: {blob} has wrong bytes"
        for snapshot in repo.glob("snapshots/*"):
            right = {
                path: file.data
                for path, file in death.upstream.hub.repos[death.upstream.name].trees[snapshot.name].items()
            }
            for path, data in tree(snapshot).items():
                assert data == right[path], f"{death.number}: {path} of {snapshot.name} has wrong bytes"


def digests(data: bytes) -> set[str]:
    """Return the names that these bytes may have as a blob of a Hub repo."""
    git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False)
    return {hashlib.sha256(data).hexdigest(), git.hexdigest()}


def whole_files(death: Death) -> set[str]:
    """Return the SHA-256 of every whole file in the caches, visible or not; partials are none."""
    truss = death.truss
    paths = [p for p in paths_below(truss.hub_cache, truss.model_cache, truss.mounts) if "partials" not in p.parts]
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()}


def whole_parts(death: Death) -> set[tuple[str, str]]:
    """Return (SHA-256, range) of each part that a journal says is whole."""
    by_name = {name: sha for sha, data in hashes(death).items() for name in names_of(data, sha)}
    found = set()
    for journal in paths_below(death.truss.hub_cache, death.truss.model_cache, death.truss.mounts):
        if "partials" in journal.parts and journal.suffix == ".parts":
            sha = by_name.get(journal.name.partition(".")[0], "")
            for line in journal.read_text(errors="replace").splitlines(keepends=True):
                start, end, xxh3, *_ = [*line.split(" "), "", "", ""]
                part = (sha, f"bytes={start}-{int(end or 1) - 1}")
                if line.endswith("\n") and xxh3.strip("0"):  # a line that a kill cut says nothing
                    found.add(part)
                else:
                    found.discard(part)
    return found


def names_of(data: bytes, sha256: str) -> set[str]:
    """Return the names that the blob of these bytes has: in the hub layout, and in ours."""
    return digests(data) | {hashlib.sha256(f"sha256:{sha256}".encode()).hexdigest()[:40]}


def hashes(death: Death) -> Files:
    """Return the files of the source that its CDN has, by their SHA-256."""
    tree_of_main = death.upstream.hub.repos[death.upstream.name].trees.values()
    return {file.sha256: file.data for files in tree_of_main for file in files.values() if file.lfs}


def parts_of(requests: list[Request]) -> Counter[tuple[str, str]]:
    """Return how often each part, (SHA-256, range), was asked for at the CDN."""
    return Counter(
        (one.path.split("/")[2], one.headers.get("range", ""))
        for one in requests
        if one.host == "cdn" and one.method == "GET"
    )


def check_rerun(death: Death) -> int:
    """Let the act be run again: all is right, and only parts in flight are fetched again. Return how many."""
    truss, hub = death.truss, death.upstream.hub
    check_visible(death)
    whole, recorded = whole_files(death), whole_parts(death)
    died = parts_of(hub.requests[death.requests :])
    before = len(hub.requests)
    run(truss, *death.act.rerun)
    again = parts_of(hub.requests[before:])
    is_clean = death.act.command[0] == "clean"
    for sha, part in again:
        assert is_clean or (sha not in whole and (sha, part) not in recorded), (
            f"{death.number}: a whole part is fetched again: {part}"
        )
    assert max(again.values(), default=0) <= 1, f"{death.number}: a part is fetched twice by one run: {again}"
    check_right(death)
    run(truss, *TIDY)
    check_owners(death)
    if death.act.command == ("lock",):
        run(truss, "lock", "--check")
    return sum((died & again).values())


def check_right(death: Death) -> None:
    """Every visible byte is what the source has now, by its own files and by our own two judges."""
    check(death.truss, death.layout, {"m": death.wanted} if death.layout != "hub" else {})
    if death.layout == "hub":
        shown = [tree(path) for path in death.truss.hub_cache.glob("*/snapshots/*")]
        assert death.wanted in shown, f"{death.number}: no snapshot is right"


def check_owners(death: Death) -> None:
    """After a rerun and TIDY nothing unfinished is left, and a manifest that a claim names lists every file."""
    truss = death.truss
    tops = (truss.hub_cache, truss.model_cache, truss.mounts)
    records = read_records(tops)
    owned = records.owned()
    for path in paths_below(*tops):
        if ".locks" in path.parts or "refs" in path.parts:
            continue
        if RECORDS not in path.parts:
            assert path in owned, f"{death.number}: no manifest lists {path}"
            continue
        root = Path(*path.parts[: path.parts.index(RECORDS)])
        kind = path.parts[path.parts.index(RECORDS) + 1]
        assert kind in ("manifests", "claims", "blobs", "pins.json", "runs.jsonl"), f"{death.number}: {path} is left"
        name = path.name.partition(".")[0]
        assert kind != "manifests" or name in records.claimed[root], f"{death.number}: no claim names {path}"
        assert kind != "blobs" or name in records.blob_ids(root), f"{death.number}: no manifest lists {path}"


def check_clean(death: Death) -> None:
    """What is left is told and taken by `clean`, to the last file and folder of ours."""
    clean_tells(death.truss)
    assert leftovers(death.truss) == [], f"{death.number}: left after a clean"
    assert list(paths_below(death.truss.root / "home" / ".local")) == [], f"{death.number}: left in the state folder"


def check_cleaned(death: Death) -> None:
    """Check a clean without a rerun, and then a run from the start."""
    check_visible(death)
    check_clean(death)
    run(death.truss)
    check_right(death)


def check_both_ways(death: Death) -> None:
    """Check the rerun and then the clean of a death with an even number, the clean and then a run of another."""
    if death.number % 2:
        check_cleaned(death)
    else:
        check_rerun(death)
        check_clean(death)


def forget(death: Death) -> None:
    """Remove the machine, and what its server knows: hundreds are to fit into memory."""
    shutil.rmtree(death.truss.root)
    death.upstream.hub.requests.clear()
    del death.upstream.hub.repos[death.upstream.name]


# Two commands, of which one stands still at each of its calls while the other runs

PAIRS = (("run", "run"), ("run", "clean"), ("clean", "run"), ("run -a", "run -a"), ("run -a", "clean"))
ONE: Files = {"one.bin": A, "both.bin": B, "config.json": b"{}"}
TWO: Files = {"two.bin": A[::-1], "both.bin": B, "config.json": b"{}"}


def interleaving(
    number: int,
    pair: tuple[str, str],
    layout: str,
    lives: Path,
    hub: Hub,
    forks: Forks,
    *,
    calls: str = "any",
    only: str = "",
) -> bool:
    """Stop the first command just before its call `number`, and run the other; return whether it came that far.

    The two are of two projects whose entries share a repo, a folder and a file. After both, each is run again.

    Args:
        calls: which kind of call counts, as tests/odd_disk.c names it.
        only: calls count whose path has this text in it; with `$` after it, at its end.
            `{repo}` stands for the folder of the repo.
    """
    name = next(_numbers)
    upstream, folder = OnHub(hub, f"org/{name}"), lives / f"{name:05}"
    one = ForkedTruss(folder, forks=forks, hub=hub)
    other = beside(one, "other")
    upstream.put("main", {**ONE, **TWO})
    for truss, files in ((one, ONE), (other, TWO)):
        patterns = {"allow_patterns": str(list(files))}
        text = f"model_cache:\n  - repo_id: {upstream.name}\n    allow_patterns: {list(files)}\n"
        truss.config(text if layout == "hub" else config(layout, upstream.entry("main", layout, "m", **patterns)))
    for truss, command in ((one, pair[0]), (other, pair[1])):
        if command != "run":
            run(truss)
    if "run -a" in pair:
        upstream.put("main", {**ONE, **TWO, "both.bin": B[::-1]})
    stops = one.fork(
        *pair[0].split(), **variables(folder, f"{calls}=stop@{number}", only=only.format(repo=f"models--org--{name}"))
    )
    first, second, was_stopped = interleave(stops, lambda: other.fork(*pair[1].split()))
    for ran, command in zip((first, second), pair, strict=True):
        assert ran.code == 0, f"{number}: {command} beside another: {ran.text}"
    for truss in (one, other, one, other):  # twice: the second may have moved the pin of the first
        run(truss, *(["-a"] if "run -a" in pair else []))
    for truss in (one, other):
        check(truss, layout, {})
    for truss in (one, other):
        clean_tells(truss)
    assert leftovers(one) == [], f"{number}: left after both were cleaned"
    return was_stopped
