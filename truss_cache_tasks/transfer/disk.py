"""The few operations on a partial's descriptor, and their errors in our words."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from truss_cache_tasks.errors import DiskError
from truss_cache_tasks.model.listing import RemoteFile

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV, errno.ESPIPE}


@contextmanager
def disk_errors(file: RemoteFile) -> Iterator[None]:
    """Word an OSError of the block as a DiskError. Never around the network: a full disk is not to be tried again."""
    try:
        yield
    except OSError as exc:
        said = (exc.strerror or str(exc)).lower()
        hint = "Free space on the cache's disk." if exc.errno in _FULL else "Look after the cache's disk."
        raise DiskError(f"{file.path}: cannot write to the cache: {said}", hint=hint) from exc


def allocate(descriptor: int, size: int) -> None:
    """Reserve `size` bytes, so that a full disk is known now; where the disk cannot do that, it is known later."""
    if not hasattr(os, "posix_fallocate"):  # macOS
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as exc:
        if exc.errno not in _UNSUPPORTED:
            raise


def write(descriptor: int, chunk: memoryview, offset: int) -> None:
    """Write all of `chunk` at `offset`."""
    while chunk:
        written = os.pwrite(descriptor, chunk, offset)
        chunk = chunk[written:]
        offset += written


def seal(descriptor: int, size: int) -> None:
    """Make the file exactly `size` bytes long, and its bytes survive a power cut."""
    if os.fstat(descriptor).st_size != size:
        os.ftruncate(descriptor, size)
    try:
        os.fsync(descriptor)
    except OSError as exc:  # EINVAL of some FUSE: this disk has none
        if exc.errno not in _UNSUPPORTED:
            raise
