"""What a no-op costs: `truss-cache` and `doit cache_weights` on a fresh cache, as whole processes.

    python benchmarks/noop.py [RUNS]        # default 21; prints the tables of docs/explanation/benchmarks.md

The measure is the CPU time of a process (user and system), which other work on the machine disturbs less than its wall
time; commands take turns. They are compared with doit that has as many tasks without actions, in a dodo.py without us:
ADR 31.
"""

from __future__ import annotations

import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

BIN = Path(sys.executable).parent
SIZES = ((1, 20), (20, 20), (200, 10))  # entries of a config, files of each
GOALS = {1: 1.3, 20: 1.3, 200: 2.0}  # of `doit cache_weights`, as parts of what it is compared with
EMPTY = """
def task_cache_weights():
    for number in range({entries}):
        yield {{"name": f"weights{{number}}", "actions": None, "uptodate": [True]}}
"""


def make_truss(folder: Path, entries: int, files: int) -> Path:
    """Write a Truss whose entries are folders of small files, fetch them, and return it."""
    folder.mkdir()
    lines = ["model_cache:"]
    for number in range(entries):
        weights = folder / f"weights{number}"
        weights.mkdir()
        for name in range(files):
            (weights / f"{name}.bin").write_bytes(os.urandom(1000))
        lines.append(f"  - repo_id: file://./weights{number}")
    (folder / "config.yaml").write_text("\n".join(lines) + "\n")
    (folder / "dodo.py").write_text(
        "from truss_cache_tasks import cache_tasks\ntask_cache_weights = cache_tasks(model_cache_dir='cache')\n"
    )
    run([str(BIN / "doit"), "cache_weights"], folder)
    return folder


def run(command: list[str], folder: Path) -> float:
    """Return the CPU time of one process in ms; it must succeed."""
    env = {**os.environ, "TRUSS_MODEL_CACHE_DIR": str(folder / "cache")}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # each run would compile again
    before = cpu_seconds()
    subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True)
    return (cpu_seconds() - before) * 1000


def cpu_seconds() -> float:
    """Return what all children that have ended took."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def measure(commands: dict[str, tuple[list[str], Path]], runs: int) -> dict[str, float]:
    """Return the median CPU time of each command in ms; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(runs + 1):
        for name, (command, folder) in commands.items():
            took = run(command, folder)
            if turn:  # the first round warms the page cache
                times[name].append(took)
    return {name: statistics.median(took) for name, took in times.items()}


def main(runs: int) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for entries, files in SIZES:
            truss = make_truss(Path(temporary, f"{entries}"), entries, files)
            empty = Path(temporary, f"empty{entries}")
            empty.mkdir()
            (empty / "dodo.py").write_text(EMPTY.format(entries=entries))
            commands = {
                "empty": ([str(BIN / "doit"), "cache_weights"], empty),
                "doit": ([str(BIN / "doit"), "cache_weights"], truss),
                "alone": ([str(BIN / "truss-cache")], truss),
                "find": (["find", str(truss / "cache"), "-printf", "%s"], truss),
            }
            took = measure(commands, runs)
            base = took["empty"] + (took["find"] if entries == SIZES[-1][0] else 0)
            rows.append((entries, files, took, took["doit"] / base, took["alone"] / took["empty"]))
    load = os.getloadavg()[0]
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, load {load:.1f}, {runs} runs, medians in ms\n")
    print("| entries of files | doit, empty tasks | `doit cache_weights` | ratio | goal | `truss-cache` | ratio |")
    print("|---|---|---|---|---|---|---|")
    for entries, files, took, ratio, alone in rows:
        times = f"{took['empty']:.0f} | {took['doit']:.0f} | {ratio:.2f} | {GOALS[entries]:.1f}"
        print(f"| {entries} of {files} | {times} | {took['alone']:.0f} | {alone:.2f} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 21)
