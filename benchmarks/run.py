"""How fast weights arrive: `doit cache_weights` and its peers, as whole processes, side by side.

    python benchmarks/run.py [--quick] [--full] [--only CASE ...] [--runs N] [--disk DIR] [--write]

Run it with the Python that truss_cache_tasks is installed in. The peers get an environment of their own
(benchmarks/.venv, made of requirements.txt when it is not there); nginx comes from the system (nginx-light).

--quick    all cases with little data, one run each: it shows that everything works; goals are not judged
--full     also what takes long (4 x 2 GiB)
--only     one or some of the cases: see --help
--disk     destinations below DIR in place of tmpfs; each peer is timed with its `sync -f`
--write    into docs/explanation/benchmarks.md, between its bench marks, and docs/explanation/benchmarks.svg

Contenders take turns, each on an empty folder; one round that is not counted warms the page cache. A time is the
median, CPU that of the process and its children, RSS the most of one of them (below 30 MB it cannot be told: a child
starts with what this program has).
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
import shutil
import signal
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import peers
import report
from cases import CASES, FULL, QUICK, Bench, Table
from measuring import NotDone, Track
from servers import Skipped

DOCS = peers.HERE.parent / "docs" / "explanation"
MARKS = re.compile(r"(<!-- bench:begin -->\n).*(<!-- bench:end -->)", re.DOTALL)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--runs", type=int)
    parser.add_argument("--disk", type=Path, metavar="DIR")
    parser.add_argument("--write", action="store_true")
    return parser.parse_args()


def main() -> int:
    asked = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers and memory are given back
    if shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None:
        print("nginx is missing: apt-get install nginx-light", file=sys.stderr)
        return 1
    peers.install_peers()
    runs = asked.runs or (1 if asked.quick else 5)
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    tables, remarks = [], []
    with (
        tempfile.TemporaryDirectory(prefix="truss-bench-", dir=memory) as scratch,
        tempfile.TemporaryDirectory(prefix="truss-bench-", dir=asked.disk or memory) as out,
    ):
        path = f"{peers.VENV}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        track = Track(Path(out, "out"), runs, path, asked.disk is not None, lambda line: print(line, file=sys.stderr))
        bench = Bench(track, Path(scratch), QUICK if asked.quick else FULL, asked.full)
        for name in asked.only:
            try:
                for table in CASES[name](bench):
                    print(report.markdown(table, judged=not asked.quick), flush=True)
                    tables.append(table)
            except (Skipped, NotDone) as why:
                remarks.append(f"{name}: {why}")
                print(remarks[-1], flush=True)
    if asked.write:
        write(tables, remarks, conditions(runs, "on a disk" if asked.disk else "on tmpfs"), judged=not asked.quick)
    return 0


def conditions(runs: int, where: str) -> str:
    """Return what the figures depend on, in a sentence."""
    names = ("truss-cache-tasks", "doit", "urllib3")
    return (
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"{', '.join(f'{name} {version(name)}' for name in names)}; {peers.versions()}. Destination {where}, "
        f"{runs} run{'s' if runs > 1 else ''}, load {os.getloadavg()[0]:.1f} at the end."
    )


def write(tables: list[Table], remarks: list[str], head: str, *, judged: bool) -> None:
    """Replace what stands between the marks of the page, and the picture beside it."""
    (DOCS / "benchmarks.svg").write_text(report.svg(tables))
    sections = [head, "![median times](benchmarks.svg)", *(report.markdown(table, judged=judged) for table in tables)]
    if not judged:
        sections.insert(1, "**Little data (`--quick`): start-up is most of each figure, so no goal is judged.**")
    sections += [f"Not measured: {remark}" for remark in remarks]
    text = "\n\n".join(section.strip() for section in sections)
    page = DOCS / "benchmarks.md"
    page.write_text(MARKS.sub(lambda mark: f"{mark[1]}\n{text}\n\n{mark[2]}", page.read_text()))


if __name__ == "__main__":
    sys.exit(main())
