"""Entries and settings for tests, built from the dataclasses themselves: no YAML, no environment of the machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from truss_cache_tasks.config.credentials import find_credential
from truss_cache_tasks.config.entries import Entry
from truss_cache_tasks.config.settings import Settings
from truss_cache_tasks.config.web_urls import parse_web_url
from truss_cache_tasks.model.request import Layout, Request, SourceRef
from truss_cache_tasks.model.stores import store_of

T = TypeVar("T")


def entry(uri: str, *, config: Path = Path("/nowhere/config.yaml"), **fields: Any) -> Entry:
    """Return the entry of `uri` (`org/name`, `hf://org/name`, `gs://b/p`, `s3://b/p`, `file://path`).

    `fields` are Entry's own: `revision`, `allow_patterns` (or `allow`, as Request has it), `volume_folder`,
    `runtime_secret_name`, ... `data_dir` is `data` beside `config` unless given. A `runtime_secret_name` counts as set
    by the entry.

    >>> str(entry("gcs://b/m/fp16/").request.source), entry("org/name").revision
    ('gs://b/m/fp16', 'main')
    """
    scheme, found, rest = uri.partition("://")
    store = store_of(scheme if found else "hf")
    rest = rest if found else uri
    names, prefix = store.split(rest) if store.is_bucket else ([rest], "")
    source = SourceRef(store.scheme, "/".join(names), prefix.strip("/"))
    if store.is_web:
        source = parse_web_url(scheme, rest)
    revision = fields.pop("revision", "main" if store.is_hub else "")
    allow = fields.pop("allow", fields.pop("allow_patterns", None))
    ignore = fields.pop("ignore", fields.pop("ignore_patterns", None))
    volume, mount = fields.get("volume_folder"), fields.get("mount_location")
    plain = Layout.HUB if store.is_hub else Layout.BUCKET
    form = Layout.MOUNT if mount else Layout.VOLUME if fields.get("use_volume") else plain
    request = Request(
        source=source,
        revision=revision if store.is_hub else "",
        allow=None if allow is None else tuple(allow),
        ignore=tuple(ignore or ()),
        layout=form,
        digest=fields.pop("digest", ""),
        folder={Layout.MOUNT: mount, Layout.VOLUME: volume}.get(form) or "",
    )
    values: dict[str, Any] = {
        "name": uri.partition("://")[2] or uri,
        "repo_id": uri,
        "revision": revision,
        "allow_patterns": request.allow,
        "ignore_patterns": None if ignore is None else request.ignore,
        "use_volume": False,
        "volume_folder": None,
        "mount_location": None,
        "runtime_secret_name": "hf_access_token",
        "secret_is_named": "runtime_secret_name" in fields,
        "request": request,
        "where": f"{config.name}:2: model_cache[0]",
        "config": config,
        "data_dir": config.parent / "data",
    }
    return Entry(**{**values, **fields})


def settings(*secrets_dirs: Path, **env: str) -> Settings:
    """Return the settings of a process whose environment is `env` alone; no secret folder but those given."""
    offline = env.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    return Settings(secrets_dirs=secrets_dirs, offline=offline, environment=env)


def open_with(source: Callable[..., T], entry: Entry, settings: Settings, **network: Any) -> T:
    """Return `source` for `entry`, as `operations` opens it; `network` are fields of Network that it gets besides."""
    reached = replace(settings.network, base=entry.config.parent, **network)
    return source(entry.request, find_credential(entry, settings), reached)
