"""Refs: the files refs/REVISION of a repo of the hub cache, each with the commit that the revision stands for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from typing import TYPE_CHECKING, Protocol

from truss_cache_tasks.errors import ForeignFile
from truss_cache_tasks.store.files.disk import MOVE_AWAY, token
from truss_cache_tasks.store.files.names import PARTIALS, is_commit
from truss_cache_tasks.store.files.tree import FileTree

if TYPE_CHECKING:
    from truss_cache_tasks.model.plan import Plan


class Refs(Protocol):
    """The refs of one root.

    Attributes:
        folder: that holds them, relative to the root; "" where there are none.
    """

    folder: str

    def read(self, revision: str, /) -> str | None:
        """Return the commit that refs/REVISION names, "" without one; None where the root has no refs."""

    def point(self, revision: str, commit: str, /) -> None:
        """Write refs/REVISION as huggingface_hub does: no ref for a full commit."""

    def drop(self, paths: Collection[str], /) -> None:
        """Remove the refs to snapshots that hold nothing but `paths`, before these are removed."""

    def refuse_foreign(self, plan: Plan, /, *, replace: bool) -> None:
        """Raise ForeignFile for a file at refs/REVISION that is no ref of the hub cache."""


class HubRefs:
    """The refs of a repo, as huggingface_hub reads and writes them."""

    folder = "refs"

    def __init__(self, tree: FileTree) -> None:
        self.tree = tree

    def read(self, revision: str) -> str:
        """Return the commit that refs/REVISION names, "" without one."""
        return self._read_short(f"refs/{revision}").strip()

    def point(self, revision: str, commit: str) -> None:
        """Write refs/REVISION as huggingface_hub does: no ref for a full commit. Empty folders there are removed."""
        if is_commit(revision) or self.read(revision) == commit:
            return
        temporary = f"{PARTIALS}/ref.{token()}"
        descriptor = self.tree.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, make=True)
        with open(descriptor, "w", encoding="ascii") as out:
            out.write(commit)
        self.tree.rename_over(temporary, f"refs/{revision}")

    def drop(self, paths: Collection[str]) -> None:
        """Remove the refs to snapshots that hold nothing but `paths`: scan_cache_dir() would warn of them."""
        leaving = set(paths)
        snapshots = {"/".join(path.split("/")[:2]) for path in leaving}
        for path in list(self.tree.files_below("refs")):
            snapshot = f"snapshots/{self._read_short(path).strip()}"
            if snapshot in snapshots and set(self.tree.files_below(snapshot)) <= leaving:
                with contextlib.suppress(OSError):
                    self.tree.unlink(path)
                    self.tree.remove_empty_parents(path)

    def refuse_foreign(self, plan: Plan, *, replace: bool) -> None:
        """Raise ForeignFile for a file at refs/REVISION that is not a commit alone, as huggingface_hub writes it."""
        path = f"refs/{plan.request.revision}"
        if is_commit(plan.request.revision) or replace:
            return
        stat = self.tree.lstat(path)
        if stat is not None and stat.st_size and not is_commit(self._read_short(path)):
            raise ForeignFile(
                f"{self.tree.path / path}: found a file that is no ref of the Hub's cache", hint=MOVE_AWAY
            )

    def _read_short(self, path: str) -> str:
        try:
            with open(self.tree.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                return file.read(1000).decode("ascii")
        except (OSError, UnicodeDecodeError):
            return ""


class NoRefs:
    """Refs for a root that has none: nothing is read or written."""

    folder = ""

    def read(self, revision: str) -> None:
        """Return None: the root has no refs."""

    def point(self, revision: str, commit: str) -> None:
        """Do nothing: the root has no refs."""

    def drop(self, paths: Collection[str]) -> None:
        """Do nothing: there are no refs."""

    def refuse_foreign(self, plan: Plan, *, replace: bool) -> None:
        """Do nothing: there are no refs."""
