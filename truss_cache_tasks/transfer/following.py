"""Digests that follow the written prefix of a file whose parts come in any order.

SHA-256, SHA-1 and MD5 want a file's bytes in order. A part that comes next is hashed from memory; what came before its
turn is read back while the page cache has it (about 0.2 CPU seconds a GiB: docs/adr/0007).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from truss_cache_tasks.model.hashing import InOrder


class Follower:
    """Feeds `digests` the bytes that they want, each once and in order, from whichever thread has them."""

    def __init__(self, digests: InOrder, descriptor: int) -> None:
        self.digests = digests
        self._descriptor = descriptor
        self._lock = threading.Lock()

    @property
    def at(self) -> int:
        """Offset of the byte that is wanted next; the file's size at the end."""
        return self.digests.at

    @property
    def is_busy(self) -> bool:
        """Whether a thread is hashing now."""
        return self._lock.locked()

    def pass_on(self, chunk: memoryview, offset: int) -> None:
        """Hash `chunk` if it comes next."""
        if self.at != offset:  # most often, where a file has several connections: not worth a lock
            return
        with self._lock:
            self.digests.update(chunk, offset)

    def catch_up(self, end: int, buffer: memoryview, check: Callable[[], None]) -> None:
        """Hash what is written up to `end`, which is known to be whole.

        Args:
            buffer: scratch memory.
            check: called now and then; may raise.
        """
        with self._lock:
            while (at := self.at) < end:
                check()
                size = os.preadv(self._descriptor, [buffer[: end - at]], at)
                if not size:
                    raise OSError(f"the temporary is shorter than {end} bytes")
                self.digests.update(buffer[:size], at)
