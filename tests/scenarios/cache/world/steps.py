"""The steps of the stateful test: what users, stores, time and chance do to a world, in any order."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from servers.hub import Hub
from servers.objects import Objects

from scenarios.cache.world.invariants import (
    check,
    check_clean,
    check_excuse,
    check_exit,
    check_fresh,
    check_no_claims,
    check_no_records_are_left,
    check_nothing_is_left,
    check_prune,
    check_run,
    current_roots,
    excuses,
    fresh_entries,
    told,
    wanted,
)
from scenarios.cache.world.model import DONE, FAILED, INCOMPLETE, PROJECTS, ROOTS, Broken, Figures, World, look
from scenarios.cache.world.records import FOLDERS, RECORDS
from scenarios.cache.world.sources import BUCKET, HUB, MOUNT, STORE, VOLUME, Entry, HubRepo
from truss_cache_tasks.app.commands.table import COMMANDS

RANDOM = random.Random(9)
BYTES = {
    "nothing": b"",
    "forty a": b"a" * 40,
    "forty b": b"b" * 40,
    "json": b"{}",
    "lfs": RANDOM.randbytes(300),
    "other lfs": RANDOM.randbytes(300),
    "in parts": RANDOM.randbytes(2_000),
}
NAMES = ("model.bin", "old.bin", "config.json", "sub/model.bin", "sub", "in/model.bin")
PLACES = ("m", "m/in")  # prefixes in the bucket
PATTERNS = (None, ("*.bin",), ("*.json", "sub/*"), ("**/*.bin",), ("*",))
IGNORED = ((), ("old*",))
SOURCES = ("org/one", "org/two", "s3://store/m", "gs://store/m", "s3://store/m/in", "file://../files", "file://./own")
VOLUMES = ("vol", "vol/in", "store/m")
MOUNTS = ("/mounts/m", "/mounts/m/in", "/cache/vol", "/cache", "/mounts/n")

projects = st.sampled_from(PROJECTS)
contents = st.sampled_from(sorted(BYTES))
names = st.sampled_from(NAMES)
commands = st.sampled_from([("run",), ("run", "-a"), ("run", "-a"), ("clean",)])
picks = st.integers(0, 40)  # which of the things that are there, counted round


@st.composite
def entries(draw: Any, layouts: tuple[str, ...]) -> Entry:
    uri, layout = draw(st.sampled_from(SOURCES)), draw(st.sampled_from(layouts))
    is_hub = "://" not in uri
    layout = {HUB: HUB if is_hub else BUCKET}.get(layout, layout)
    folder = {VOLUME: draw(st.sampled_from(VOLUMES)), MOUNT: draw(st.sampled_from(MOUNTS))}.get(layout, "")
    revision = draw(st.sampled_from(["main", "main", "v1"])) if is_hub else ""
    return Entry(uri, layout, folder, revision, draw(st.sampled_from(PATTERNS)), draw(st.sampled_from(IGNORED)))


Edit = Callable[[Entry, str], Entry]  # (entry, the first commit of its repo, "" elsewhere) -> the entry as edited


def _patterns(allow: tuple[str, ...] | None, ignore: tuple[str, ...]) -> Edit:
    return lambda entry, _commit: replace(entry, allow=allow, ignore=ignore)


def _revision(revision: str) -> Edit:
    return lambda entry, commit: replace(entry, revision=(revision or commit) if entry.is_hub else "")


def _folder(volume: str, mount: str) -> Edit:
    return lambda entry, _commit: replace(entry, folder={VOLUME: volume, MOUNT: mount}.get(entry.layout, ""))


edits = st.one_of(
    st.builds(_patterns, st.sampled_from(PATTERNS), st.sampled_from(IGNORED)),
    st.builds(_revision, st.sampled_from(["main", "v1", ""])),
    st.builds(_folder, st.sampled_from(VOLUMES), st.sampled_from(MOUNTS)),
)


@dataclass(frozen=True)
class Change:
    """A change of a source. `source`, `one` and `other` count round: which source, and which of the files there."""

    source: int
    what: str
    one: int
    other: int
    name: str
    content: str


upstream_changes = st.builds(
    Change,
    picks,
    st.sampled_from(
        [*["upload", "swap names", "rename and reuse the name"] * 2, "remove", "roll back", "move the tag"]
    ),
    picks,
    picks,
    names,
    contents,
)


Place = tuple[str, str]  # (source, prefix): where files can be changed
PREFIXES = {"s3://store/m": "m/", "gs://store/m": "m/", "s3://store/m/in": "m/in/"}


def places_of(world: World, project: str) -> list[Place]:
    """Return the sources of this project's entries."""
    named = {upstream: name for name, upstream in world.upstreams.all.items()}
    entries = world.projects[project]
    return [(named[world.upstreams.of(entry, project)], PREFIXES.get(entry.uri, "")) for entry in entries]


def all_places(world: World) -> list[Place]:
    """Return every source: those in use are there once more for each use."""
    used = [place for project in PROJECTS for place in places_of(world, project)]
    return [*used, *used, *((name, "m/" if name == STORE else "") for name in world.upstreams.all)]


def change_upstream(world: World, change: Change, places: Sequence[Place] = ()) -> None:
    """Change one of these sources; without any, one of all."""
    places = places or all_places(world)
    name, prefix = places[change.source % len(places)]
    source = world.upstreams[name]
    there = {path.removeprefix(prefix): data for path, data in source.files.items() if path.startswith(prefix)}
    if change.what == "roll back":
        source.become(source.past[-min(change.one % 4 + 2, len(source.past))])
        world.note(f"{name}: rolled back, and now has {', '.join(sorted(source.files))}")
    elif change.what == "move the tag" and isinstance(source, HubRepo):
        source.tag()
        world.note(f"{name}: the tag v1 moves to main")
    elif wanted := changed(there, change):
        for path in [path for path, data in wanted.items() if data is not None]:  # a name is a file or a folder
            wanted |= dict.fromkeys(p for p in there if p.startswith(f"{path}/") or path.startswith(f"{p}/"))
        source.change({prefix + path: data for path, data in wanted.items()})
        what = ", ".join(f"{prefix}{p} {'is gone' if d is None else 'is ' + told(d)}" for p, d in wanted.items())
        world.note(f"{name}: {change.what}: {what}")


def changed(there: Mapping[str, bytes], change: Change) -> dict[str, bytes | None]:
    """Return what is put and removed (None) by a change of a source that has these files; nothing if it cannot be."""
    paths = sorted(there)
    data = BYTES[change.content]
    if not paths or change.what == "upload":
        return {change.name: data}
    one, other = paths[change.one % len(paths)], paths[change.other % len(paths)]
    match change.what:
        case "swap names":
            return {one: there[other], other: there[one]} if one != other else {}
        case "rename and reuse the name":
            clash = f"{one}/".startswith(f"{change.name}/") or f"{change.name}/".startswith(f"{one}/")
            return {change.name: there[one], one: data} if not clash else {}
        case "remove" if len(there) > 1:
            return {one: None}
    return {}


configs = st.one_of(
    st.lists(entries(layouts=(HUB, VOLUME)), max_size=3, unique_by=lambda e: e.slot),
    st.lists(entries(layouts=(MOUNT,)), max_size=3, unique_by=lambda e: e.folder),
)

BEGINNING = {
    "p0": [Entry("org/one", HUB, revision="main"), Entry("s3://store/m", BUCKET)],
    "p1": [Entry("org/one", MOUNT, "/mounts/m", "main"), Entry("gs://store/m", MOUNT, "/cache/vol")],
    "p2": [
        Entry("org/one", VOLUME, "vol", "v1"),
        Entry("file://../files", BUCKET),
        Entry("s3://store/m", BUCKET, allow=("*.bin",)),
    ],
}


def begin(world: World, *, fetched: bool) -> None:
    """Fill the sources, and write the configs; with `fetched` run them all once."""
    small = {"model.bin": BYTES["lfs"], "config.json": BYTES["json"], "sub/model.bin": BYTES["in parts"]}
    for name in ("org/one", "org/two", "files", *(f"{project}/own" for project in PROJECTS)):
        world.upstreams[name].change({**small, "old.bin": f"the old one of {name}".encode()})
    for repo in ("org/one", "org/two"):
        world.upstreams[repo].tag()  # type: ignore[attr-defined]  # of the Hub alone
    world.upstreams[STORE].change({f"{place}/{name}": data for place in PLACES for name, data in small.items()})
    for project, config in BEGINNING.items():
        world.edit(project, config)
        if fetched:
            assert world.run(project).code == DONE


class Steps(RuleBasedStateMachine):
    """Rules end with the world's own checks; `check` comes after each of them."""

    hub: ClassVar[Hub]
    objects: ClassVar[Objects]
    figures: ClassVar[Figures] = Figures()

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.hub, self.objects, self.figures)
        self.world.__enter__()
        self.settled = False

    def teardown(self) -> None:
        self.world.__exit__()

    @contextmanager
    def step(self) -> Iterator[World]:
        self.figures.steps += 1
        self.settled = False
        with self.world.explained():
            yield self.world

    @invariant()
    def what_must_be_true(self) -> None:
        with self.world.explained():
            check(self.world, settled=self.settled)

    @initialize(fetched=st.booleans())
    def begin(self, fetched: bool) -> None:
        with self.world.explained():
            begin(self.world, fetched=fetched)

    # What users do with their configs

    @rule(project=projects, pick=picks, edit=edits)
    def edit_entry(self, project: str, pick: int, edit: Edit) -> None:
        with self.step() as world:
            there = list(world.projects[project])
            if there:
                entry = there[pick % len(there)]
                there[pick % len(there)] = edit(entry, world.versions(project, entry)[0].label)
                world.edit(project, there)

    @rule(project=projects, pick=picks, config=st.sampled_from(["reversed", "one less"]) | configs)
    def rewrite_config(self, project: str, pick: int, config: str | list[Entry]) -> None:
        with self.step() as world:
            there = world.projects[project]
            if config == "reversed":
                config = there[::-1]
            elif config == "one less":
                config = [entry for number, entry in enumerate(there) if number != pick % max(1, len(there))]
            assert isinstance(config, list)
            world.edit(project, config)

    # What happens in the stores

    @rule(change=upstream_changes)
    def change_files(self, change: Change) -> None:
        with self.step() as world:
            change_upstream(world, change)

    @rule(changes=st.lists(upstream_changes, min_size=1, max_size=2))
    def change_files_and_ask_for_the_newest(self, changes: list[Change]) -> None:
        with self.step() as world:
            for change in changes:
                change_upstream(world, change)
            self._run_all(world, ("-a",))

    # Commands

    @rule(project=projects, options=st.sampled_from([(), (), ("-a",), ("--replace",)]))
    def run(self, project: str, options: tuple[str, ...]) -> None:
        with self.step() as world:
            self._run(world, project, options, None)

    @rule(project=projects, pick=picks, options=st.sampled_from([(), ("-a",)]))
    def run_one(self, project: str, pick: int, options: tuple[str, ...]) -> None:
        with self.step() as world:
            there = world.targets(project)
            if there:
                self._run(world, project, options, there[pick % len(there)][1].name)

    @rule(options=st.sampled_from([(), ("-a",)]))
    def run_all(self, options: tuple[str, ...]) -> None:
        with self.step() as world:
            self._run_all(world, options)

    def _run_all(self, world: World, options: tuple[str, ...]) -> None:
        codes = [self._run(world, project, options, None) for project in PROJECTS]
        self.settled = "-a" in options and codes == [DONE] * len(PROJECTS)

    def _run(self, world: World, project: str, options: tuple[str, ...], name: str | None) -> int:
        targets = world.targets(project)
        named = {target.name: entry for entry, target, _ in targets}
        chosen = [entry for entry, target, _ in targets if name in (None, target.name)]
        forced = [entry for entry, target, fresh in targets if entry in chosen and fresh and "-a" in options]
        ran = world.run(project, *options, *([name] if name else []))
        if "--replace" in options:
            self._forget_replaced(world, project)
        check_run(world, ran, project, entries=chosen, names=named)
        self._check_forced(world, project, forced, failed={named[one] for one in ran.failed})
        return ran.code

    def _check_forced(self, world: World, project: str, forced: list[Entry], failed: set[Entry]) -> None:
        """What `-a` ran although it was fresh is hashed, whole, and at the newest version."""
        fresh = [entry for entry, _, is_fresh in world.targets(project) if is_fresh]
        for entry in forced:
            if entry in failed or entry not in fresh:
                continue
            if project in world.locked:
                check_fresh(world, world.scan(), project, entry, flips=False)
                continue
            world.resolved[project, entry] = len(world.versions(project, entry)) - 1
            check_fresh(world, world.scan(), project, entry, flips=False)

    def _forget_replaced(self, world: World, project: str) -> None:
        """What `--replace` replaced is ours from then on; a folder it never replaces."""
        mine = {path for entry in world.projects[project] for path in wanted(world, project, entry)}
        for path, node in tuple(world.foreign.items()):
            now = look(path) if os.path.lexists(path) else None
            if path in mine and now != node and now is not None:
                del world.foreign[path]

    @rule(project=projects, pick=picks, scope=st.sampled_from(["one", "project", "all"]))
    def clean(self, project: str, pick: int, scope: str) -> None:
        with self.step() as world:
            there = world.targets(project)
            if scope == "one" and there:
                check_clean(world, project, there[pick % len(there)][1].name)
            elif scope == "project":
                check_clean(world, project)
            elif scope == "all":
                codes = [check_clean(world, project).code for project in PROJECTS]
                if codes == [DONE] * len(PROJECTS):
                    check_nothing_is_left(world)
                    if "prune" in COMMANDS and check_prune(world, project).code == DONE:  # of what a lost claim held
                        check_no_records_are_left(world)
                    world.debris.clear()
                    world.killed_in.clear()

    @rule(
        project=projects,
        arguments=commands,
        at=st.one_of(st.integers(1, 40), st.integers(1, 250)),
    )
    def kill(self, project: str, arguments: tuple[str, ...], at: int) -> None:
        with self.step() as world:
            ran = world.killed(project, arguments, at)
            if ran is not None:
                check_exit(world, ran, allowed={DONE, INCOMPLETE if "clean" in arguments else FAILED})

    @rule(
        pair=st.permutations(PROJECTS),
        arguments=st.tuples(commands, commands),
        at=st.one_of(st.integers(1, 60), st.integers(1, 250)),
        changes=st.lists(upstream_changes, max_size=2),
    )
    def interleave(
        self, pair: list[str], arguments: tuple[tuple[str, ...], tuple[str, ...]], at: int, changes: list[Change]
    ) -> None:
        """One command stops in its midst; meanwhile its store changes once more, and another project's command runs."""
        with self.step() as world:
            both = list(zip(pair, arguments, strict=False))
            places = places_of(world, pair[0])
            for change in changes[:1]:
                change_upstream(world, change, places)
            allowed = {p: {e for e in world.projects[p] if excuses(world, p, e)} for p in pair[:2]}

            def meanwhile() -> None:
                for first, then in pairwise(changes):
                    change_upstream(world, replace(then, source=first.source), places)

            rans = world.interleaved(both[0], at, meanwhile, both[1])
            for (project, asked), ran in zip(both, rans, strict=True):
                check_exit(world, ran, allowed={DONE, INCOMPLETE if "clean" in asked else FAILED})
                named = {target.name: entry for entry, target, _ in world.targets(project)}
                for entry in {named[name] for name in ran.failed} - allowed[project]:
                    check_excuse(world, ran, project, entry)

    # What looks after a cache for months

    @precondition(lambda _self: "prune" in COMMANDS)
    @rule(project=projects, options=st.sampled_from([(), (), ("--keep-bytes", "0"), ("--keep-bytes", "1K")]))
    def prune(self, project: str, options: tuple[str, ...]) -> None:
        with self.step() as world:
            check_prune(world, project, *options)

    @precondition(lambda _self: "prune" in COMMANDS)
    @rule(pair=st.permutations(PROJECTS), returns=st.booleans())
    def prune_after_a_config_is_gone(self, pair: list[str], returns: bool) -> None:
        """A workspace is thrown away without a clean; another project prunes; perhaps it is made again."""
        with self.step() as world:
            gone, other = pair[:2]
            there = world.projects[gone]
            world.projects[gone] = []
            config = world.base / gone / "config.yaml"
            config.unlink(missing_ok=True)
            world.note(f"{gone}: config.yaml is removed")
            ran = world.prune(other, "--yes")
            check_exit(world, ran, allowed={DONE, INCOMPLETE} if world.foreign else {DONE})
            if ran.code == DONE and not world.reach(gone) & (world.lost | world.killed_in):
                check_no_claims(world, gone)
            world.edit(gone, there if returns else [])

    @precondition(lambda _self: "prune" in COMMANDS)
    @rule(project=projects, budget=st.sampled_from(["1K", "3K", "10K", "1G"]), options=st.sampled_from([(), ("-a",)]))
    def run_with_a_budget(self, project: str, budget: str, options: tuple[str, ...]) -> None:
        """A run evicts what nobody claims; one that does not fit fails, and says so."""
        with self.step() as world:
            fresh = fresh_entries(world, but=project)
            os.environ["TRUSS_CACHE_MAX_BYTES"] = budget
            try:
                ran = world.run(project, *options)
            finally:
                del os.environ["TRUSS_CACHE_MAX_BYTES"]
            world.note(f"that was with TRUSS_CACHE_MAX_BYTES={budget}")
            check_exit(world, ran, allowed={DONE, FAILED})
            named = {target.name: entry for entry, target, _ in world.targets(project)}
            for entry in {named[name] for name in ran.failed} if "TRUSS_CACHE_MAX_BYTES" not in ran.text else ():
                check_excuse(world, ran, project, entry)
            if "-a" not in options and (lost := fresh - fresh_entries(world, but=project)):
                mine = set().union(*(wanted(world, project, e) for e in world.projects[project]), set())
                lost = {(p, e) for p, e in lost if not mine & set(wanted(world, p, e)) and not e.is_hub}
                if lost:
                    raise Broken(f"{project}: a run with a budget took files of {sorted(lost, key=str)[0]}")

    @precondition(lambda _self: "lock" in COMMANDS)
    @rule(project=projects, options=st.sampled_from([(), (), ("--upgrade",)]))
    def lock(self, project: str, options: tuple[str, ...]) -> None:
        with self.step() as world:
            allowed = {e for e in world.projects[project] if excuses(world, project, e)}
            ran = world.lock(project, *options)
            check_exit(world, ran, allowed={DONE, FAILED} if allowed or project in world.locked else {DONE})
            if ran.code == DONE and world.projects[project]:
                checked = world.command(project, "lock", "--check")
                check_exit(world, checked, allowed={DONE})

    @precondition(lambda _self: "lock" in COMMANDS)
    @rule(project=projects)
    def remove_the_lock(self, project: str) -> None:
        with self.step() as world:
            world.unlock(project)

    # Damage

    @rule(
        pick=picks,
        how=st.sampled_from(["rots", "is touched", "is truncated", "is overwritten", "is removed", "loses its record"]),
    )
    def damage(self, pick: int, how: str) -> None:
        """Something happens to a visible file of ours, a blob or a record; rot does not show in a file's stat."""
        with self.step() as world:
            if how == "loses its record":
                self._remove_record(world, pick)
                return
            users = {node.inode for node in world.foreign.values()}
            there = sorted(path for path in world.records().ours() - world.foreign.keys() if os.path.lexists(path))
            if how == "is removed":
                there = [path for path in there if path.is_symlink() or not path.is_dir()]
            else:
                there = [path for path in there if path.is_file() and not path.is_symlink() and path.stat().st_size]
                there = [path for path in there if path.stat().st_ino not in users]
            if there:
                path = there[pick % len(there)]
                world.damage(path, how)
                world.note(f"{world.short(path)} {how}")

    def _remove_record(self, world: World, pick: int) -> None:
        found = [
            p
            for top in ROOTS
            for kind in (
                "manifests/*.json",
                "claims/*.json",
                "fetches/*.json",
                "published/*",
                "pins.json",
                "runs.jsonl",
            )
            for p in (world.base / top).rglob(f"{RECORDS}/{kind}")
        ]
        if there := sorted(path for path in found if path not in world.foreign and path.is_file()):
            path = there[pick % len(there)]
            path.unlink()
            if path.parent.name != RECORDS:  # what says whose the files are
                world.lost.add(path.parents[2])
            world.note(f"{world.short(path)} is removed")

    # The user's own files

    @rule(
        pick=picks,
        where=st.sampled_from(["in our way", "in our way", "in our records", "beside ours"]),
        name=st.sampled_from(["user.txt", "a.b", "link.x", "x.tmp", ".hidden", "0123.4567"]),
        kind=st.sampled_from(["file", "equal file", "link", "linked folder", "folder"]),
    )
    def put(self, pick: int, where: str, name: str, kind: str) -> None:
        with self.step() as world:
            spots = {
                "in our way": lambda: spots_in_our_way(world, above=kind != "equal file"),
                "in our records": lambda: spots_in_our_records(world),
                "beside ours": lambda: spots_beside_ours(world, name),
            }[where]()
            paths = sorted(path for path in spots if can_be_made(world, path))
            if paths:
                path = paths[pick % len(paths)]
                self._put(path, spots[path], kind)

    def _put(self, path: Path, data: bytes, kind: str) -> None:
        world, outside = self.world, self.world.base / "outside"
        match kind:
            case "file":
                world.put(path, "file", b"the user's own")
            case "equal file":
                world.put(path, "file", data)
            case "link":
                world.put(path, "link", str(outside / "weights.bin").encode())
            case "linked folder":
                world.put(path, "link", str(outside / "docs").encode())
            case "folder":  # an empty one is nobody's: ours are empty too, after a kill
                world.put(path / "kept.txt", "file", b"the user's own")
        world.note(f"the user makes a {kind} at {world.short(path)}")

    @rule(pick=picks)
    def take_away(self, pick: int) -> None:
        with self.step() as world:
            if there := sorted(world.foreign):
                path = there[pick % len(there)]
                world.take_away(path)
                world.note(f"the user removes {world.short(path)}")


def spots_in_our_way(world: World, *, above: bool) -> dict[Path, bytes]:
    """Return paths where an entry will have a file, and perhaps those above; with the bytes that it will have."""
    listed = world.records().owned().keys()
    spots: dict[Path, bytes] = {}
    for project in PROJECTS:
        for entry in world.projects[project]:
            root = entry.root(world.base)
            if root in world.killed_in | world.lost:
                continue  # nobody can say whose a file is there
            for path, data in wanted(world, project, entry).items():
                spots[path] = min(data)
                spots.update(dict.fromkeys([p for p in path.parents if above and root in p.parents], b""))
    return {path: data for path, data in spots.items() if path not in listed}


def spots_in_our_records(world: World) -> dict[Path, bytes]:
    """Return `.truss_cache` and the folders in it where there are none; empty ones make way."""
    spots = [root / RECORDS / name for root in current_roots(world) for name in (*FOLDERS, "")]
    for path in spots:
        if can_be_made(world, path.parent / "x") and path.is_dir() and not path.is_symlink() and not os.listdir(path):
            path.rmdir()
    return dict.fromkeys(spots, b"")


def spots_beside_ours(world: World, name: str) -> dict[Path, bytes]:
    """Return a path of this name in every folder below the roots, ours too."""
    folders = [Path(parent) for top in ROOTS for parent, _, _ in os.walk(world.base / top)]
    return {folder / name: b"" for folder in folders if ".locks" not in folder.parts}


def can_be_made(world: World, path: Path) -> bool:
    """Whether nothing is at `path`, and only real folders are above it."""
    above = [parent for parent in path.parents if world.base in parent.parents]
    return not os.path.lexists(path) and all(p.is_dir() and not p.is_symlink() for p in above if os.path.lexists(p))


def explore(
    hub: Hub, objects: Objects, figures: Figures, *, steps: int, length: int, seed: int, shrink: bool = False
) -> None:
    """Take about `steps` steps, in worlds of `length` steps each; the same for the same seed. Raises Broken.

    Args:
        shrink: look for fewer steps that fail too, for five minutes at most.
    """

    class Seeded(Steps):
        pass

    Seeded.hub, Seeded.objects, Seeded.figures = hub, objects, figures
    chosen = settings(
        max_examples=steps // length + 1,  # the first one is the simplest, and short
        stateful_step_count=length,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.normal,
        print_blob=False,
        report_multiple_bugs=False,
        phases=[Phase.generate, *([Phase.shrink] if shrink else [])],
    )
    try:
        run_state_machine_as_test(hypothesis.seed(seed)(Seeded), settings=chosen)
    except Flaky as exc:  # the shrinker met it no more: it took more than these steps, such as who was first at a lock
        if not figures.broken:
            raise
        raise Broken(f"{figures.broken[0]}\n(not when the same steps were taken again)") from exc


__all__ = ["Broken", "Steps", "explore"]
