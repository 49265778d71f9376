"""The files that are fetched, and what stores tell about them."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

BLOCK = 1 << 20  # little at a time: a child's memory is counted from what its parent has


@dataclass(frozen=True)
class Weights:
    """`count` files of `size` bytes in `folder`; with `alike` all are one file under several names."""

    folder: Path
    count: int
    size: int
    alike: bool = False

    @property
    def names(self) -> list[str]:
        return [f"model-{number:05}.safetensors" for number in range(self.count)]

    @property
    def total(self) -> int:
        return self.count * self.size

    @property
    def label(self) -> str:
        return f"{self.count:,} x {human(self.size)}"

    def make(self) -> Weights:
        """Write them: random blocks, so that no file and no part of one is like another."""
        self.folder.mkdir(parents=True)
        for name in self.names:
            if self.alike and name != self.names[0]:
                os.link(self.folder / self.names[0], self.folder / name)
                continue
            with (self.folder / name).open("wb") as file:
                left = self.size
                while left:
                    left -= file.write(os.urandom(min(BLOCK, left)))
        return self

    @cached_property
    def crc64nvme(self) -> dict[str, str]:
        """Base64, as S3 says it, by name."""
        from awscrt import checksums

        found = {}
        for name in self.names:
            crc = 0
            for block in _blocks(self.folder / name):
                crc = checksums.crc64nvme(block, crc)
            found[name] = base64.b64encode(crc.to_bytes(8, "big")).decode()
        return found

    @cached_property
    def sha256(self) -> dict[str, str]:
        return {name: self._hash(name, hashlib.sha256()) for name in self.names}

    @cached_property
    def git_sha1(self) -> dict[str, str]:
        """What git calls a file of these bytes."""
        return {name: self._hash(name, hashlib.sha1(b"blob %d\0" % self.size)) for name in self.names}

    def _hash(self, name: str, hasher: hashlib._Hash) -> str:
        for block in _blocks(self.folder / name):
            hasher.update(block)
        return hasher.hexdigest()


def human(size: int) -> str:
    """Return a size in the unit that fits.

    >>> human(1 << 30), human(64 << 20), human(20_000)
    ('1 GiB', '64 MiB', '20 kB')
    """
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB")):
        if size >= unit:
            return f"{size / unit:g} {name}"
    return f"{size / 1000:g} kB"


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK):
            yield block
