"""The errors that this package raises: one class for each thing that the reader of a message can do next.

```text
CacheTaskError
|-- ConfigError        edit config.yaml, or one of our variables
|-- NothingSelected    fix a pattern
|-- NotFound           fix a name
|-- AccessDenied       fix the credential, or get the permission
|-- CredentialError    fix a credential file
|-- WrongAnswer        check the server, or what is on the way to it
|-- IntegrityError     run again, then check the server
|-- LockMismatch       put the locked bytes back, or move the lock
|-- DiskError          free space, or make the disk writable
|   `-- ForeignFile    move the file away, or allow its replacement
|-- Collision          give one of two entries a folder of its own
|-- UnsafeName         ignore the name by a pattern
|-- LeadsOut           copy what a link leads to, ignore or allow it
|-- TransientError     wait: the only class that is retried
|-- MissingPackage     install it
|-- BrokenStore        install another version of the package that has the store
|-- PermanentError     fix the network, the proxy or the endpoint
|-- SourceChanged      list again
`-- Stopped            run again
```
"""

from __future__ import annotations

import sys

RUN_AGAIN = "Run the command again."  # the hints that more than one error has
RUN_LATER = "Wait, then run the command again."
RESUME = f"{RUN_AGAIN} What is complete is kept."


class CacheTaskError(Exception):
    """Base class; `hint` is the reader's next step, one imperative sentence.

    Message and attributes survive pickling, because doit moves them between processes.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), str(self), self.hint))


def _rebuild(kind: type[CacheTaskError], message: str, hint: str | None) -> CacheTaskError:
    return kind(message, hint=hint)


class ConfigError(CacheTaskError):
    """config.yaml or one of our variables is wrong: edit it. Nothing was fetched."""


class NothingSelected(CacheTaskError):
    """The patterns, or the prefix, select no file: fix a pattern."""


class NotFound(CacheTaskError):
    """The store has no such repo, revision, bucket or object: fix a name."""


class AccessDenied(CacheTaskError):
    """The store refuses this credential: fix it, or get the permission that the message names."""


class CredentialError(CacheTaskError):
    """A credential file cannot be used as it is: fix the file (values are never shown)."""


class WrongAnswer(CacheTaskError):
    """A response has an invalid value (a size that is text, a digest that is a path): look at the server."""


class IntegrityError(CacheTaskError):
    """Wrong bytes arrived, twice: nothing was published."""


class LockMismatch(CacheTaskError):
    """The store no longer has what model_cache.lock names: put it back, or move the lock. Nothing was published."""


class DiskError(CacheTaskError):
    """The cache's disk refuses: free space, or make it writable."""


class ForeignFile(DiskError):
    """A file that this package did not make is at a path of an entry: move it away, or allow its replacement."""


class Collision(CacheTaskError):
    """Two entries of one config want other bytes at the same path: give one a folder of its own."""


class UnsafeName(CacheTaskError):
    """A name in the store that would be written outside the entry's folder: ignore it by a pattern."""


class LeadsOut(CacheTaskError):
    """A link in a `file://` source leads out of it: copy, ignore it, or allow such links."""


class TransientError(CacheTaskError):
    """The network or the store fails for now: wait. The only class that is retried.

    Attributes:
        retry_after_s: seconds to wait, as the server asks (`Retry-After`); None where it does not ask.
    """

    retry_after_s: float | None = None


class PermanentError(CacheTaskError):
    """The network or the endpoint fails and waiting does not help (an untrusted certificate, a proxy that refuses)."""


class MissingPackage(CacheTaskError):
    """A package that this one depends on is not installed: install it."""


class BrokenStore(CacheTaskError):
    """The store of another package does not work: install another version of that package, or tell its author."""


class SourceChanged(CacheTaskError):
    """The object was replaced after it was listed: list again."""


class Stopped(CacheTaskError):
    """The run was told to stop (a signal, or a closed iterator)."""


_PACKAGES = {  # the modules that are imported -> what to install
    **{name: name for name in ("awscrt", "botocore", "certifi", "doit", "huggingface_hub", "requests", "rich")},
    **{name: name for name in ("urllib3", "xxhash")},
    "google": "google-auth",
    "yaml": "pyyaml",
}


def missing_package(exc: BaseException) -> MissingPackage | None:
    """Return the error for an import that failed because a package of our dependencies is not there; else None."""
    module = (exc.name or "").partition(".")[0] if isinstance(exc, ModuleNotFoundError) else ""
    if module not in _PACKAGES:
        return None
    package = _PACKAGES[module]
    message = f"{package}: found no such Python package, expected it beside truss-cache-tasks"
    return MissingPackage(message, hint=f"Run `{sys.executable} -m pip install {package}`.")
