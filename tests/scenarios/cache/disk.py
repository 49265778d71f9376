"""What lies on the disk, counted without our own records' help."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from trusses import Ran, Truss


class Weighed(NamedTuple):
    """Bytes of weights below some folders, each inode once; our small records (JSON, notes, locks) left out.

    Args:
        whole: of whole files, visible or not.
        least, most: of everything: unfinished files as the disk keeps them; as they are long, with journals and refs.
    """

    whole: int
    least: int
    most: int


def paths_below(*folders: Path) -> Iterator[Path]:
    """Yield every file and link below `folders`."""
    for folder in folders:
        for parent, _, names in os.walk(folder):
            yield from (Path(parent, name) for name in names)


def weigh(*folders: Path) -> Weighed:
    """Weigh what lies below `folders`, links not followed."""
    seen: set[tuple[int, int]] = set()
    whole = least = most = 0
    for path in paths_below(*folders):
        stat = path.lstat()
        inode = (stat.st_dev, stat.st_ino)
        if path.is_symlink() or ".locks" in path.parts or inode in seen:
            continue
        seen.add(inode)
        ours = path.parts[path.parts.index(".truss_cache") + 1] if ".truss_cache" in path.parts else ""
        if "refs" in path.parts and not ours:
            most += stat.st_size
        elif ours in ("", "blobs"):
            whole += stat.st_size
        elif ours == "partials":
            most += stat.st_size
            least += 0 if path.suffix == ".parts" else min(stat.st_size, stat.st_blocks * 512)
    return Weighed(whole, whole + least, whole + most)


def leftovers(truss: Truss, *, folders: bool = True) -> list[str]:
    """Return what lies in the caches of `truss`, huggingface_hub's own lock files apart.

    Args:
        folders: those that hold nothing count too, save roots; else `.truss_cache` alone does.
    """
    roots = (truss.hub_cache, truss.model_cache, truss.mounts)
    found = [path for path in paths_below(*roots) if ".locks" not in path.relative_to(truss.root).parts]
    repos = [path for path in truss.hub_cache.glob("*") if path.name != ".locks"]
    below = [path for path in [*truss.model_cache.glob("*"), *truss.mounts.glob("*/*")] if path.is_dir()]
    ours = [path for root in roots for path in root.rglob(".truss_cache")]
    return sorted(str(path.relative_to(truss.root)) for path in {*found, *ours, *(repos + below if folders else ())})


def said_bytes(ran: Ran) -> int:
    """Return how many bytes a clean told of; 0 for nothing to remove."""
    assert ran.code == 0, ran.text
    return sum(int(found.replace(",", "")) for found in re.findall(r"remove.* ([\d,]+) bytes", ran.out))


def clean_tells(truss: Truss, *names: str) -> int:
    """Clean, dry and then for real: both must tell the same bytes, and the disk must have lost those."""
    roots = (truss.hub_cache, truss.model_cache, truss.mounts)
    listed = sorted(paths_below(*roots))
    before = weigh(*roots)
    dry = truss.cli("clean", "-n", *names)
    assert sorted(paths_below(*roots)) == listed, "a dry clean removes nothing"
    wet = truss.cli("clean", *names)
    after = weigh(*roots)
    assert said_bytes(dry) == said_bytes(wet), f"{dry.out}{wet.out}"
    lost = range(before.least - after.least, before.most - after.most + 1)
    assert said_bytes(wet) in lost, f"{wet.out}{before} -> {after}"
    return said_bytes(wet)
