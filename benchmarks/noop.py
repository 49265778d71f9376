"""What a no-op costs: `truss-cache` and `doit cache_weights` on a fresh cache, as whole processes.

    python benchmarks/noop.py [RUNS]        # default 15; prints the table of docs/explanation/benchmarks.md

Each row is one process, RUNS times, the commands taking turns: its wall time, and the CPU time that it took itself,
which other work on the machine disturbs less. `python -c pass` and `doit list` of an empty dodo.py are what Python and
doit cost without us.
"""

from __future__ import annotations

import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BIN = Path(sys.executable).parent
SIZES = (1, 20)  # entries of a config


def make_truss(folder: Path, entries: int) -> Path:
    """Write a Truss whose entries are folders of two small files, fetch them, and return it."""
    folder.mkdir()
    lines = ["model_cache:"]
    for number in range(entries):
        weights = folder / f"weights{number}"
        weights.mkdir()
        for name in ("model.safetensors", "config.json"):
            (weights / name).write_bytes(os.urandom(1000))
        lines.append(f"  - repo_id: file://./weights{number}")
    (folder / "config.yaml").write_text("\n".join(lines) + "\n")
    (folder / "dodo.py").write_text(
        "from truss_cache_tasks import cache_tasks\ntask_cache_weights = cache_tasks(model_cache_dir='cache')\n"
    )
    run([str(BIN / "doit"), "cache_weights"], folder)
    return folder


def run(command: list[str], folder: Path) -> tuple[float, float]:
    """Return the wall time and the CPU time (user and system) of one process in ms; it must succeed."""
    env = {**os.environ, "TRUSS_MODEL_CACHE_DIR": str(folder / "cache")}
    began, before = time.perf_counter(), cpu_seconds()
    subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True)
    return (time.perf_counter() - began) * 1000, (cpu_seconds() - before) * 1000


def cpu_seconds() -> float:
    """Return what all children that have ended took."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def main(runs: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        empty = Path(temporary, "empty")
        empty.mkdir()
        (empty / "dodo.py").write_text("")
        rows = {
            "`python -c pass`": ([sys.executable, "-c", "pass"], empty),
            "`doit list`, no tasks": ([str(BIN / "doit"), "list"], empty),
        }
        for size in SIZES:
            truss = make_truss(Path(temporary, str(size)), size)
            count = f"{size} entr{'y' if size == 1 else 'ies'}"
            rows[f"`truss-cache`, {count}"] = ([str(BIN / "truss-cache")], truss)
            rows[f"`doit cache_weights`, {count}"] = ([str(BIN / "doit"), "cache_weights"], truss)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in rows}
        for turn in range(runs + 1):
            for name, (command, folder) in rows.items():
                took = run(command, folder)
                if turn:  # the first round warms the page cache
                    times[name].append(took)
    load = os.getloadavg()[0]
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, load {load:.1f}, {runs} runs, medians in ms\n")
    print("| command | wall | least wall | CPU |\n|---|---|---|---|")
    for name, pairs in times.items():
        wall, cpu = zip(*pairs, strict=True)
        print(f"| {name} | {statistics.median(wall):.0f} | {min(wall):.0f} | {statistics.median(cpu):.0f} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
