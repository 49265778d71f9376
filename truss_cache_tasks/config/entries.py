"""Entry and Config: the values that config.yaml is read into."""

# No `from __future__ import annotations`: of each annotation that is a text, NamedTuple compiles a ForwardRef

from pathlib import Path
from typing import NamedTuple

from truss_cache_tasks.model.credentials import Role
from truss_cache_tasks.model.keys import RequestKey, request_key
from truss_cache_tasks.model.request import Request

DEFAULT_SECRET = "hf_access_token"  # Truss's default for runtime_secret_name


class Entry(NamedTuple):
    """One `model_cache` (or `weights`) item: the fields as written, and the `Request` made of them.

    Attributes:
        name: stable, readable, unique in its config: the sub-task's name (docs/contract.md).
        repo_id: the user's `repo_id`, or `source` of a `weights` item, as written.
        revision: as written; "main" for a Hub entry that gives none, "" for a bucket that gives none.
        allow_patterns, ignore_patterns: as written; None where not given.
        use_volume, volume_folder, mount_location: fields of the layout; mount_location is None except for `weights`.
        runtime_secret_name: `hf_access_token` unless given; safe as a file name.
        secret_is_named: the entry itself sets the secret's name (a bucket looks at the secret only then).
        request: the canonical request of the entry.
        where: ``config.yaml:14: model_cache[1]``, for messages.
        config: absolute path of the config file.
        data_dir: absolute path of the Truss's `data_dir`.
        hub_env: the hub variables of the config's `environment_variables`, as sorted pairs; when not empty they alone
            decide where the hub cache is. Relative paths are already relative to the config's folder.
        role: of `auth`, else None; where it is set, no secret is named.
    """

    name: str
    repo_id: str
    revision: str
    allow_patterns: tuple[str, ...] | None
    ignore_patterns: tuple[str, ...] | None
    use_volume: bool
    volume_folder: str | None
    mount_location: str | None
    runtime_secret_name: str
    secret_is_named: bool
    request: Request
    where: str
    config: Path
    data_dir: Path
    hub_env: tuple[tuple[str, str], ...] = ()
    role: Role | None = None

    @property
    def key(self) -> RequestKey:
        """The request key, the same on every machine."""
        return request_key(self.request)


class Config(NamedTuple):
    """The part of a config.yaml that this package reads.

    Attributes:
        path: absolute path of the file.
        entries: 0..N, in the order of the file.
        warnings: one sentence each, with `file:line`, for people.
    """

    path: Path
    entries: tuple[Entry, ...]
    warnings: tuple[str, ...] = ()
