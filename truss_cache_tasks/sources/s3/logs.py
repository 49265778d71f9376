"""Keep secrets out of botocore's log: at level DEBUG it has headers, signatures, tokens, and the keys of a role."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from contextvars import ContextVar

_LOGGERS = ("botocore.auth", "botocore.endpoint", "botocore.parsers")  # requests and answers; others log neither

_is_ours: ContextVar[bool] = ContextVar("is_ours", default=False)


class _NotOurs(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is of a request that a user of boto3 in this process sends."""
        return not _is_ours.get()


_FILTER = _NotOurs()


@contextlib.contextmanager
def unlogged() -> Iterator[None]:
    """Let botocore log nothing of the requests that this thread sends in the block."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_FILTER)  # adds it once
    token = _is_ours.set(True)
    try:
        yield
    finally:
        _is_ours.reset(token)
