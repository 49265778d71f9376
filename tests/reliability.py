"""Run the long forms of the proofs, two at a time, and write their figures: `doit reliability [--quick] [--seed N]`.

A proof is a function of a seed and the time when it is to end. It takes its points in a random order, says how many of
them it came to, and raises AssertionError for a fault; the other proofs go on.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

from scenarios.cache import faults, sweep
from scenarios.cache.forks import Forks
from scenarios.cache.storm import PROCESSES, Storm
from scenarios.cache.world.fuzz import LENGTH, SHARE
from scenarios.cache.world.model import Figures
from scenarios.cache.world.steps import explore
from servers.hub import Hub
from servers.objects import Objects

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
BEGIN, END = "<!-- figures: written by `doit reliability` -->", "<!-- end of figures -->"
SIDE_BY_SIDE = 2


@contextmanager
def machine() -> Iterator[tuple[Hub, Forks]]:
    forks = Forks()
    with Hub() as hub:
        yield hub, forks
    forks.end()


Point = tuple[int, str]  # (number of the change or call, layout)


def points_of(numbers: dict[str, int], seed: int, until: float) -> Iterator[Point]:
    """Yield all points, 1 to the number of each layout, in a random order, until the time is over."""
    points = [(number, layout) for layout, last in numbers.items() for number in range(1, last + 1)]
    random.Random(seed).shuffle(points)
    return (point for point in points if time.monotonic() < until)


def kill_sweep(act: str, seed: int, until: float) -> str:
    """Kill the act before each change in each layout; check the rerun, and then the clean."""
    with machine() as (hub, forks), sweep.fast_folder() as lives:
        numbers = {layout: sweep.changes_of(act, layout, lives, hub, forks) for layout in sweep.LAYOUTS}
        points = kills = again = 0
        for number, layout in points_of(numbers, seed, until):
            death = sweep.death_at(number, act, layout, lives, hub, forks)
            points, kills = points + 1, kills + death.was_killed
            again += sweep.check_rerun(death)
            sweep.check_clean(death)
            sweep.forget(death)
    changes = ", ".join(f"{number} in {layout}" for layout, number in numbers.items())
    return f"{points} of {sum(numbers.values())} changes ({changes}), {kills} kills; {again} parts fetched again"


def bare_disk_sweep(seed: int, until: float) -> str:
    """Kill each act before each change on a disk that has no links and no locks; check the rerun, and the clean."""
    points = kills = 0
    numbers = {f"{act} {layout}": 120 for act in sweep.ACTS for layout in sweep.LAYOUTS}
    with machine() as (hub, forks), sweep.fast_folder() as lives:
        for number, named in points_of(numbers, seed, until):
            act, layout = named.split()
            death = sweep.death_at(number, act, layout, lives, hub, forks, disk=sweep.BARE)
            points, kills = points + 1, kills + death.was_killed
            sweep.check_rerun(death)
            sweep.check_clean(death)
            sweep.forget(death)
    return f"{points} points of {', '.join(sweep.ACTS)}, {kills} kills"


def clean_sweep(seed: int, until: float) -> str:
    """Kill a fetch and an update before each change, and clean without a rerun."""
    with machine() as (hub, forks), sweep.fast_folder() as lives:
        numbers = {
            f"{act} {layout}": sweep.changes_of(act, layout, lives, hub, forks)
            for act in ("fetch", "update")
            for layout in sweep.LAYOUTS
        }
        points = kills = 0
        for number, named in points_of(numbers, seed, until):
            act, layout = named.split()
            death = sweep.death_at(number, act, layout, lives, hub, forks)
            points, kills = points + 1, kills + death.was_killed
            sweep.check_cleaned(death)
            sweep.forget(death)
    return f"{points} of {sum(numbers.values())} changes of fetch and update, {kills} kills"


def random_kills(seed: int, until: float) -> str:
    """Kill a fetch with a large file at random moments; count at the server what the rerun fetches again."""
    chance, kills, again, moments = random.Random(seed), 0, 0, 0
    with machine() as (hub, forks), sweep.fast_folder() as lives:
        while moments < 300 and time.monotonic() < until:
            layout = sweep.LAYOUTS[moments % len(sweep.LAYOUTS)]
            death = sweep.death_at_a_moment("fetch", layout, lives, hub, forks, chance=chance, files=sweep.LARGE)
            moments, kills = moments + 1, kills + death.was_killed
            again += sweep.check_rerun(death)
            sweep.check_clean(death)
            sweep.forget(death)
    return f"{moments} moments, {kills} kills; {again} parts fetched again, all of them in flight"


def interleavings(seed: int, until: float) -> str:
    """Stop a command before a call, and run another one meanwhile."""
    numbers = {f"{' + '.join(pair)} in {layout}": 600 for pair in sweep.PAIRS for layout in sweep.LAYOUTS}
    points = stops = 0
    with machine() as (hub, forks), sweep.fast_folder() as lives:
        for number, named in points_of(numbers, seed, until):
            pair, _, layout = named.partition(" in ")
            one, _, other = pair.partition(" + ")
            stops += sweep.interleaving(number, (one, other), layout, lives, hub, forks)
            points += 1
    return f"{points} of {sum(numbers.values())} calls of {len(sweep.PAIRS)} pairs of commands, {stops} stops"


def storm(seed: int, until: float) -> str:
    """Run commands of two projects, eight at a time: first runs and kills, then cleans and prunes too."""
    found: list[str] = []
    with machine() as (hub, forks):
        while time.monotonic() < until:
            hub.repos.clear()
            hub.requests.clear()
            with sweep.fast_folder() as folder:
                one = Storm(folder, hub, forks, seed=seed + len(found))
                for removes in (False, True):
                    one.blow(commands=100, removes=removes)
                one.check_right()
                one.check_nothing_left()
            found.append(f"{one.figures}")
    return f"{PROCESSES} at a time, {len(found)} caches from the first command to the last clean: " + "; ".join(found)


def state_machine(seed: int, until: float) -> str:
    """Take random steps of users, stores, commands and deaths; check every promise after each."""
    figures = Figures()
    with Hub() as hub, Objects() as objects:
        while figures.steps < 3_000 and time.monotonic() < until:
            explore(hub, objects, figures, steps=SHARE, length=LENGTH, seed=seed)
            seed += 1
    return str(figures)


def disk_faults(seed: int, until: float) -> str:
    """Let the disk fail in any call of a fetch, an update and a clean, with each of the errors."""
    points = failed = refetched = 0
    while points < 3_000 and time.monotonic() < until:
        figures = faults.sweep(seed + points, 30)
        points, failed = points + figures.points, failed + figures.failed
        refetched = max(refetched, figures.refetched)
    return f"{points} points, {failed} commands failed in words; at most {refetched:,} bytes fetched again"


PROOFS: dict[str, tuple[float, Callable[[int, float], str]]] = {  # by name: the share of the time, the proof
    **{f"kill sweep: {act}": (0.09, partial(kill_sweep, act)) for act in sweep.ACTS},
    "state machine": (0.17, state_machine),
    "interleavings": (0.11, interleavings),
    "kill sweep: then clean": (0.09, clean_sweep),
    "kill sweep: no links, no locks": (0.06, bare_disk_sweep),
    "random kills": (0.05, random_kills),
    "disk faults": (0.1, disk_faults),
    "eight processes": (0.07, storm),
}


class Outcome(NamedTuple):
    """How a proof ended."""

    name: str
    seconds: float
    held: bool
    said: str


def in_a_process(name: str, seed: int, minutes: float) -> Outcome:
    """Run one proof in a process of its own."""
    began = time.monotonic()
    command = [sys.executable, __file__, "--only", name, "--seed", str(seed), "--minutes", str(minutes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stdout.strip() if done.returncode == 0 else done.stderr.strip()
    outcome = Outcome(name, time.monotonic() - began, done.returncode == 0, said)
    print(f"{name}: {'held' if outcome.held else 'FAULT'}, {outcome.seconds:.0f} s\n  {said}", flush=True)
    return outcome


def report(outcomes: list[Outcome], seed: int) -> str:
    """Return the figures as Markdown."""
    names = ("truss_cache_tasks", "huggingface_hub", "doit", "hypothesis")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    python, system = platform.python_version(), f"{platform.system()} {platform.release()}"
    rows = [
        f"| {one.name} | {one.seconds:.0f} | {'held' if one.held else 'fault'} | {_cell(one)} |" for one in outcomes
    ]
    return "\n".join(
        [
            f"{datetime.date.today()}, seed {seed}; {versions}; Python {python}; {system}, {os.cpu_count()} cores.",
            "",
            "| proof | s | outcome | what was done |",
            "|---|---|---|---|",
            *rows,
        ]
    )


def _cell(outcome: Outcome) -> str:
    lines = outcome.said.splitlines() or [""]
    return (lines[0] if outcome.held else lines[-1][:300]).replace("|", "/")


def write(text: str) -> None:
    """Put the figures between the marks of the page."""
    page = PAGE.read_text()
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    PAGE.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{tail}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=17.0, help="of the clock, all proofs together")
    parser.add_argument("--quick", action="store_true", help="one minute; the page is not written")
    parser.add_argument("--only", choices=PROOFS, help="one proof, in this process")
    options = parser.parse_args()
    if options.only:
        share, proof = PROOFS[options.only]
        print(proof(options.seed, time.monotonic() + share * options.minutes * 60 * SIDE_BY_SIDE))
        return 0
    minutes = 1.0 if options.quick else options.minutes
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        outcomes = list(pool.map(lambda name: in_a_process(name, options.seed, minutes), PROOFS))
    text = report(outcomes, options.seed)
    print(text)
    if not options.quick:
        write(text)
    return int(not all(outcome.held for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
