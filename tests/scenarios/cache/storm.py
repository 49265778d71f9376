"""Eight processes of two projects on one cache, 20 entries that overlap, random kills, cleans and prunes.

with Storm(folder, hub, forks, seed=1) as storm:
    storm.blow(commands=20, removes=False)      # runs alone: each blob is fetched once, unless its fetcher was killed
    storm.blow(commands=20, removes=True)       # cleans and prunes beside them
    storm.check_right(); storm.check_nothing_left()
"""

from __future__ import annotations

import contextlib
import random
import signal
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from odd_disk import variables
from servers.hub import Hub, Request, Rights
from trusses import Ran, tree

from scenarios.cache.disk import leftovers
from scenarios.cache.forks import ForkedTruss, Forks
from scenarios.cache.upstreams import run
from truss_cache_tasks.app.commands.table import COMMANDS

PROCESSES = 8
REPOS = 5
KILLED = 0.4  # of the commands
RUNS = (("run",), ("run",), ("run", "-a"))
REMOVALS = (("clean",), ("clean", "-n"), *([("prune", "--yes")] if "prune" in COMMANDS else []))


@dataclass(frozen=True)
class Command:
    """A command that ended.

    Args:
        first, last: how many requests the Hub had when it began, and when it ended.
    """

    text: str
    token: str
    ran: Ran
    first: int
    last: int
    removes: bool

    @property
    def was_killed(self) -> bool:
        return self.ran.code == -signal.SIGKILL


@dataclass
class StormFigures:
    """What was done."""

    commands: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    fetches: int = 0
    again: int = 0  # of a blob whose fetcher was killed, or that was removed

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {name}" for name, count in sorted(self.commands.items()))
        return (
            f"{self.commands.total():,} commands ({kinds}), {self.kills:,} killed; {self.fetches:,} fetches of a blob, "
            f"{self.again:,} of them after a kill of the one before or a removal"
        )


class Storm:
    """Two projects, whose entries share repos, folders and files, and what their commands did."""

    def __init__(self, folder: Path, hub: Hub, forks: Forks, *, seed: int) -> None:
        self.hub = hub
        self.chance = random.Random(seed)
        self.figures = StormFigures()
        self.projects = []
        self.files: dict[str, dict[str, bytes]] = {}
        common = self.chance.randbytes(25_000)
        for number in range(REPOS):
            own = {name: self.chance.randbytes(15_000 + 5_000 * number) for name in ("m.bin", "n.bin")}
            self.files[f"org/r{number}"] = {**own, "common.bin": common, "twin.bin": own["m.bin"], "config.json": b"{}"}
            hub.create(f"org/r{number}").commit(dict(self.files[f"org/r{number}"]))
        for name, kept in (("one", "[mt]*"), ("two", "n*")):
            truss = ForkedTruss(folder, forks=forks, hub=hub)
            truss.folder = folder / name
            truss.folder.mkdir()
            truss.config("model_cache:\n" + "".join(_entries(kept)))
            self.projects.append(truss)

    def blow(self, *, commands: int, removes: bool) -> None:
        """Run so many commands, as many at a time as there are processes; check how each ended, and what was fetched.

        Args:
            removes: clean and prune too.
        """
        since, ended = len(self.hub.requests), list[Command]()
        plans, taking = iter([self._plan(removes) for _ in range(commands)]), threading.Lock()

        def work() -> None:
            with contextlib.suppress(StopIteration):
                while True:
                    with taking:
                        plan = next(plans)
                    ended.append(self._one(*plan))

        workers = [threading.Thread(target=work) for _ in range(PROCESSES)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert len(ended) == commands
        self.figures.commands.update(command.text for command in ended)
        self.figures.kills += sum(command.was_killed for command in ended)
        for command in ended:
            assert command.ran.code in (0, -signal.SIGKILL), (
                f"{command.text}: exit {command.ran.code}: {command.ran.text}"
            )
        self._check_fetches(since, ended)

    def _plan(self, removes: bool) -> tuple[ForkedTruss, tuple[str, ...], str, float]:
        """Return project, command, the rules of its disk, and the seconds after which it is killed; 0 for never."""
        chance, rules, after = self.chance, "", 0.0
        if chance.random() < KILLED:
            if chance.random() < 0.5:
                rules = f"change=kill@{chance.randint(1, 400)}"
            else:
                after = chance.random()
        return chance.choice(self.projects), chance.choice(RUNS + REMOVALS if removes else RUNS), rules, after

    def _one(self, truss: ForkedTruss, command: tuple[str, ...], rules: str, after: float) -> Command:
        token = f"hf_{len(self.hub.tokens)}_{threading.get_ident()}"
        self.hub.tokens[token] = Rights()
        first = len(self.hub.requests)
        running = truss.fork(*command, HF_TOKEN=token, **(variables(truss.root, rules) if rules else {}))
        if after:
            running.has_news(after)
            running.kill()
        ran = running.end()
        return Command(" ".join(command), token, ran, first, len(self.hub.requests), command[0] in ("clean", "prune"))

    def _check_fetches(self, since: int, ended: list[Command]) -> None:
        """Each blob of a repo is fetched once, unless its fetcher was killed, or it was removed meanwhile."""
        by_token = {command.token: command for command in ended}
        removals = [command for command in ended if command.removes]
        fetches: dict[tuple[str, str], list[tuple[int, Command]]] = defaultdict(list)
        for index, request in enumerate(self.hub.requests[since:], since):
            if (blob := self._blob_of(request)) is not None:
                fetches[blob].append((index, by_token[request.token or ""]))
        for blob, found in fetches.items():
            self.figures.fetches += len(found)
            for (before, one), (after, other) in pairwise(found):
                was_removed = any(command.first <= after and command.last >= before for command in removals)
                self.figures.again += 1
                assert one.was_killed or was_removed, f"{blob} is fetched by {one}, and again by {other}"

    def _blob_of(self, request: Request) -> tuple[str, str] | None:
        """Return (repo, ETag) of the file that a request fetches."""
        if request.host != "hub" or request.method != "GET" or "/resolve/" not in request.path:
            return None
        name, _, rest = request.path.strip("/").partition("/resolve/")
        commit, _, path = rest.partition("/")
        return name, self.hub.repos[name].trees[commit][path].etag

    def check_right(self) -> None:
        """After a run of each project to its end, every file is right."""
        for truss in self.projects:
            run(truss)
        for truss in self.projects:
            for command in (["why", "--check"], ["verify"]):
                ran = truss.cli(*command)
                assert ran.code == 0, ran.text
        for number in range(REPOS):
            files = self.files[f"org/r{number}"]
            truss = self.projects[0]
            assert tree(truss.model_cache / f"v{number}") == files
            (snapshot,) = (truss.hub_cache / f"models--org--r{number}" / "snapshots").iterdir()
            assert tree(snapshot) == files

    def check_nothing_left(self) -> None:
        """A clean of both projects leaves nothing of ours."""
        for truss in self.projects:
            ran = truss.cli("clean")
            assert ran.code == 0, ran.text
        left = leftovers(self.projects[0])
        assert left == [], f"left after a clean: {', '.join(left)}"


def _entries(kept: str) -> Iterator[str]:
    """Yield ten entries: each repo in the hub cache, and in a folder that the other project has too."""
    for number in range(REPOS):
        patterns = f"    allow_patterns: ['{kept}', 'c*']\n"
        yield f"  - repo_id: org/r{number}\n{patterns}"
        yield f"  - repo_id: org/r{number}\n    use_volume: true\n    volume_folder: v{number}\n{patterns}"
