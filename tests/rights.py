"""What root may not do either: the rights of files, for a test that runs as root (in CI most often)."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator

_HEADER = (ctypes.c_uint32 * 2)(0x20080522, 0)  # capset(2), version 3, this thread
_OVERRIDES = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


def give_up_rights() -> None:
    """Make this process, for good, one that a file of mode 0 refuses; access(2) says so too."""
    libc = ctypes.CDLL(None, use_errno=True)
    held = (ctypes.c_uint32 * 6)()
    assert libc.capget(_HEADER, held) == 0, os.strerror(ctypes.get_errno())
    less = (ctypes.c_uint32 * 6)(held[0] & ~_OVERRIDES, held[1] & ~_OVERRIDES, *held[2:])
    assert libc.capset(_HEADER, less) == 0, os.strerror(ctypes.get_errno())


@contextlib.contextmanager
def rights_of_files_count() -> Iterator[None]:
    """In the block, and in this thread alone, a file of mode 0 cannot be read (access(2) says that it can)."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    held = (ctypes.c_uint32 * 6)()
    assert libc.capget(_HEADER, held) == 0, os.strerror(ctypes.get_errno())
    less = (ctypes.c_uint32 * 6)(held[0] & ~_OVERRIDES, *held[1:])
    assert libc.capset(_HEADER, less) == 0, os.strerror(ctypes.get_errno())
    try:
        yield
    finally:
        assert libc.capset(_HEADER, held) == 0


def without_rights_on_files() -> None:
    """Let a program that is started next obey the rights of files, also as root: for `preexec_fn`."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH; PR_CAPBSET_DROP is 24
        libc.prctl(24, capability, 0, 0, 0)
