"""A cache that cannot be written serves what is whole: every command that only reads succeeds, and writes nothing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from entry_cases import FILES, make_case
from rights import without_rights_on_files
from servers.hub import Hub
from trusses import BIN

from scenarios.cache.test_odd_disks import Make

__all__ = ["make_case"]

FETCH = """
import sys
from truss_cache_tasks import fetch
result = fetch(sys.argv[1])
print([entry.status for entry in result.entries.values()], [str(entry.error) for entry in result.entries.values()])
"""


@contextmanager
def mounted_read_only(root: Path) -> Iterator[Callable[[], None] | None]:
    """EROFS, for root too."""
    if os.geteuid():
        assert not os.environ.get("CI"), "CI must be able to mount"
        pytest.skip("needs root: a read-only mount")
    subprocess.run(["mount", "--bind", root, root], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", root], check=True)
        yield None
    finally:
        subprocess.run(["umount", root], check=True)


@contextmanager
def not_writable(root: Path) -> Iterator[Callable[[], None] | None]:
    """EACCES, as an ordinary user meets it: the children of the test lose what root may do."""
    folders = [root, *(path for path in root.rglob("*") if path.is_dir() and not path.is_symlink())]
    for path in folders:
        path.chmod(0o555)
    try:
        yield without_rights_on_files
    finally:
        for path in folders:
            path.chmod(0o755)


@pytest.mark.parametrize(("layout", "how"), [("hub", mounted_read_only), ("mount", not_writable)])
def test_a_read_only_cache_serves_what_is_whole_to_every_project(
    layout: str, how: Callable[[Path], AbstractContextManager[Callable[[], None] | None]], make_case: Make, hub: Hub
) -> None:
    case = make_case(layout)
    truss = case.truss
    assert truss.cli().code == 0
    caches = [truss.hub_cache, truss.mounts] if layout == "mount" else [truss.hub_cache]

    def seen() -> dict[Path, int]:
        return {path: path.lstat().st_mtime_ns for cache in caches for path in cache.rglob("*")}

    before = seen()
    with how(caches[0]) as preexec, how(caches[-1]) if len(caches) > 1 else how(caches[0]):
        hub.requests.clear()
        for command, code, words in (
            ([str(BIN / "truss-cache")], 0, "1 entry fresh, nothing to do"),
            ([str(BIN / "truss-cache"), "why", "--check"], 0, "fresh"),
            ([str(BIN / "truss-cache"), "verify"], 0, ""),
            ([str(BIN / "doit"), "cache_weights"], 0, ""),
            ([str(BIN / "python"), "-c", FETCH, str(truss.folder)], 0, "['fresh'] ['None']"),
            ([str(BIN / "truss-cache"), "-a"], 1, "is not writable"),
        ):
            for env in (truss.env, {**truss.env, "TRUSS_CACHE_PROJECT": "another"}):
                ran = subprocess.run(
                    command, cwd=truss.folder, env=env, capture_output=True, text=True, check=False, preexec_fn=preexec
                )
                assert ran.returncode == code, (command, ran)
                assert words in ran.stdout + ran.stderr, (command, ran)
        assert hub.requests == []
    assert seen() == before
    case.is_whole(FILES)
