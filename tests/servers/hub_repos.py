"""The repos of the Hub stand-in: files with their git, LFS and Xet names, commits, refs, and how a tree is listed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class Rights:
    """What a token may: list repos, read their files, read the files of gated repos, see private repos at all."""

    list: bool = True
    read: bool = True
    gated: bool = True
    private: bool = True


ANYONE = Rights(gated=False, private=False)


@dataclass(frozen=True)
class File:
    """The bytes of a file with the names that git, LFS and Xet have for them."""

    data: bytes
    lfs: bool
    xet: bool

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n"
        return text.encode()

    @cached_property
    def git_oid(self) -> str:
        blob = self.pointer if self.lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob, usedforsecurity=False).hexdigest()

    @cached_property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.git_oid

    def lfs_info(self, name_of_sha256: str) -> dict[str, Any]:
        if not self.lfs:
            return {}
        info = {name_of_sha256: self.sha256, "size": len(self.data), "pointerSize": len(self.pointer)}
        return {"lfs": info}


class Repo:
    """A model repo with its history. A file is LFS from `lfs_size` bytes on, or when named in `lfs` or `xet`."""

    def __init__(self, name: str, gated: bool, private: bool) -> None:
        self.name, self.gated, self.private = name, gated, private
        self.lfs_size = 10_000
        self.lfs: set[str] = set()
        self.xet: set[str] = set()
        self.refs: dict[str, str] = {}  # refs/heads/main, refs/tags/v1, refs/pr/1 -> commit
        self.trees: dict[str, dict[str, File]] = {}  # commit -> path -> file

    def commit(self, changes: Mapping[str, bytes | None], branch: str = "main") -> str:
        """Apply `changes` to `branch` (`refs/pr/N` too) and return the new commit."""
        ref = branch if branch.startswith("refs/") else f"refs/heads/{branch}"
        parent = self.refs.get(ref) or self.refs.get("refs/heads/main", "")
        tree = dict(self.trees.get(parent, {}))
        for path, data in changes.items():
            tree.pop(path, None)
            if data is not None:
                xet = path in self.xet
                tree[path] = File(data, xet or path in self.lfs or len(data) >= self.lfs_size, xet)
        seed = f"{parent} {len(self.trees)} {sorted(changes)}".encode()
        commit = hashlib.sha1(seed, usedforsecurity=False).hexdigest()
        self.trees[commit] = tree
        self.refs[ref] = commit
        return commit

    def tag(self, name: str, commit: str | None = None) -> None:
        """Let tag `name` stand for `commit`, or for the head of main."""
        self.refs[f"refs/tags/{name}"] = commit or self.refs["refs/heads/main"]

    def resolve(self, revision: str) -> str | None:
        """Return the commit of a branch, tag, ref, full or short (7 digits) commit; None if there is none."""
        for ref in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if ref in self.refs:
                return self.refs[ref]
        found = [commit for commit in self.trees if len(revision) >= 7 and commit.startswith(revision)]
        return found[0] if len(found) == 1 else None


def tree_item(path: str, file: File) -> dict[str, Any]:
    item = {"type": "file", "path": path, "size": len(file.data), "oid": file.git_oid, **file.lfs_info("oid")}
    return {**item, "xetHash": file.sha256[::-1]} if file.xet else item


def tree_items(tree: dict[str, File], folder: str, recursive: bool) -> Iterator[dict[str, Any]]:
    """Yield the files and folders below `folder` by path, folders once, as the Hub lists them."""
    inside = f"{folder}/" if folder else ""
    seen: set[str] = set()
    for path in sorted(path for path in tree if path.startswith(inside)):
        names = path.removeprefix(inside).split("/")
        for depth in range(1, len(names) if recursive else min(len(names), 2)):
            parent = inside + "/".join(names[:depth])
            if parent not in seen:
                seen.add(parent)
                oid = hashlib.sha1(parent.encode(), usedforsecurity=False).hexdigest()
                yield {"type": "directory", "path": parent, "size": 0, "oid": oid}
        if recursive or len(names) == 1:
            yield tree_item(path, tree[path])
