"""Read one item of `weights`, generation 2 of Truss, into an Entry."""

from __future__ import annotations

from truss_cache_tasks.config.entries import DEFAULT_SECRET, Entry
from truss_cache_tasks.config.fields import Value
from truss_cache_tasks.config.folders import parse_mount_location
from truss_cache_tasks.config.model_cache import ConfigContext, parse_secret_name, patterns, warn_of_source
from truss_cache_tasks.config.uris import parse_source
from truss_cache_tasks.model.request import Layout, Request

KNOWN = ("source", "mount_location", "allow_patterns", "ignore_patterns", "auth_secret_name", "auth")
_ELSEWHERE = {
    "repo_id": "Did you mean source? `repo_id` belongs to `model_cache`.",
    "revision": "Write it into the source: hf://org/name@REVISION.",
    "volume_folder": "Did you mean mount_location? `volume_folder` belongs to `model_cache`.",
    "use_volume": "Remove it: `use_volume` belongs to `model_cache`.",
    "kind": "Remove it: the scheme of the source says it.",
    "runtime_secret_name": "Did you mean auth_secret_name? `runtime_secret_name` belongs to `model_cache`.",
}


def read_weights(value: Value, context: ConfigContext) -> Entry:
    """Return the Entry, still without a name. Raises ConfigError."""
    if not value.is_mapping:
        hint = "Write `- source: hf://org/name` and `mount_location: /models/name`."
        value.fail(f"got {value.shown()}, expected a mapping with source and mount_location", hint)
    members = value.known_members(KNOWN, _ELSEWHERE)
    for name, example in (("source", "hf://org/name"), ("mount_location", "/models/name")):
        if name not in members:
            value.fail(f"{name} is missing", f"Add `{name}: {example}`.")
    source, revision = members["source"].parsed(parse_source)
    warn_of_source(members["source"], source, context)
    folder = members["mount_location"].parsed(parse_mount_location)
    allow, ignore = patterns(members)
    secret, role = members.get("auth_secret_name"), None
    if "auth" in members:
        from truss_cache_tasks.config.auth import read_auth  # few entries have it, and a fresh run is to import little

        secret, role = read_auth(members["auth"], secret, context.warnings)
    wanted = (revision or "main") if source.store.is_hub else ""
    return Entry(
        name="",
        repo_id=members["source"].string(),
        revision=wanted,
        allow_patterns=allow,
        ignore_patterns=ignore,
        use_volume=False,
        volume_folder=None,
        mount_location=members["mount_location"].string(),
        runtime_secret_name=secret.parsed(parse_secret_name) if secret else DEFAULT_SECRET,
        secret_is_named=secret is not None,
        request=Request(source, wanted, allow, ignore or (), Layout.MOUNT, folder),
        where=value.where,
        config=context.config,
        data_dir=context.data_dir,
        hub_env=context.hub_env,
        role=role,
    )
