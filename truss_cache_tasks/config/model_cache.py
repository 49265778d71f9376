"""Read one item of `model_cache` (or its alias `hf_cache`) into an Entry."""

from __future__ import annotations

import re
from pathlib import Path

from truss_cache_tasks.config.entries import DEFAULT_SECRET, Entry
from truss_cache_tasks.config.fields import InvalidText, Value, did_you_mean, printable
from truss_cache_tasks.config.folders import parse_volume_folder
from truss_cache_tasks.config.uris import ParsedSource, parse_repo_id, parse_revision
from truss_cache_tasks.model.records import RECORDS
from truss_cache_tasks.model.request import Layout, Request, SourceRef
from truss_cache_tasks.model.stores import stores

KNOWN = (
    "repo_id",
    "revision",
    "allow_patterns",
    "ignore_patterns",
    "volume_folder",
    "use_volume",
    "kind",
    "runtime_secret_name",
)
_ELSEWHERE = {
    "source": "Did you mean repo_id? `source` belongs to the `weights` form.",
    "mount_location": "Use volume_folder here; `mount_location` belongs to the `weights` form.",
    "auth_secret_name": "Did you mean runtime_secret_name? `auth_secret_name` belongs to the `weights` form.",
    "auth": "Use runtime_secret_name here; `auth` belongs to the `weights` form.",
}
_SECRET_NAME = r"[-._a-zA-Z0-9]{1,253}"  # Truss's own rule for the names under `secrets:`


class ConfigContext:
    """What all entries of one config have in common.

    Attributes:
        config: absolute path of the file.
        data_dir: absolute path of the Truss's data folder.
        hub_env: as in Entry.
        warnings: appended to while entries are read.
    """

    def __init__(self, config: Path, data_dir: Path, hub_env: tuple[tuple[str, str], ...]) -> None:
        self.config = config
        self.data_dir = data_dir
        self.hub_env = hub_env
        self.warnings: list[str] = []


def read_model(value: Value, context: ConfigContext) -> Entry:
    """Return the Entry, still without a name. Raises ConfigError."""
    if not value.is_mapping:
        hint = (
            f"Write `- repo_id: {printable(value.node.value)}`." if value.is_string else "Write `- repo_id: org/name`."
        )
        value.fail(f"got {value.shown()}, expected a mapping with repo_id", hint)
    members = value.known_members(KNOWN, _ELSEWHERE)
    if "repo_id" not in members:
        value.fail("repo_id is missing", "Add `repo_id: org/name`, or gs://, s3:// or file://.")
    parsed = members["repo_id"].parsed(parse_repo_id)
    _check_kind(members.get("kind"), parsed.source)
    revision = _revision(members.get("revision"), parsed)
    layout, folder = _layout(value, members, parsed.source, context)
    warn_of_source(members["repo_id"], parsed.source, context)
    on_hub = parsed.source.store.is_hub
    if revision and not on_hub:
        context.warnings.append(f"{members['revision'].where}: ignored, only Hugging Face repos have revisions")
    allow, ignore = patterns(members)
    secret = members.get("runtime_secret_name")
    wanted = (revision or "main") if on_hub else revision
    return Entry(
        name="",
        repo_id=members["repo_id"].string(),
        revision=wanted,
        allow_patterns=allow,
        ignore_patterns=ignore,
        use_volume=layout is Layout.VOLUME,
        volume_folder=members["volume_folder"].string() if "volume_folder" in members else None,
        mount_location=None,
        runtime_secret_name=secret.parsed(parse_secret_name) if secret else DEFAULT_SECRET,
        secret_is_named=secret is not None,
        request=Request(parsed.source, wanted if on_hub else "", allow, ignore or (), layout, folder),
        where=value.where,
        config=context.config,
        data_dir=context.data_dir,
        hub_env=context.hub_env,
    )


def patterns(members: dict[str, Value]) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """Return (allow_patterns, ignore_patterns); None where not given, () where the list is empty."""
    allow, ignore = members.get("allow_patterns"), members.get("ignore_patterns")
    return allow.patterns() if allow else None, ignore.patterns() if ignore else None


def parse_secret_name(text: str) -> str:
    """Return the name of a secret, which is also the name of its file. Raises InvalidText."""
    if not re.fullmatch(_SECRET_NAME, text) or text in (".", ".."):
        hint = "Write the secret's name: letters, digits, '-', '_' and '.'; never its value."
        raise InvalidText("is no name of a secret", hint)
    return text


def warn_of_source(value: Value, source: SourceRef, context: ConfigContext) -> None:
    """Add a warning for a wildcard in a prefix, which stores take literally."""
    if source.store.is_bucket and set(source.prefix) & set("*?"):
        message = "a wildcard in the prefix is taken literally; wildcards go into allow_patterns"
        context.warnings.append(f"{value.where}: {message}")


def _check_local_name(value: Value, source: SourceRef) -> None:
    """Raise ConfigError where the last component of a `file://` path is no name for a folder of the model cache."""
    name = source.root.rpartition("/")[2]
    if name in (".", ".."):
        value.fail(f"{source.root!r} ends in no name", "Name the folder itself, or set use_volume and volume_folder.")
    if name.casefold() == RECORDS:
        value.fail(f"{name!r} is where our own records are", "Rename the folder, or set use_volume and volume_folder.")


def _check_kind(value: Value | None, source: SourceRef) -> None:
    if value is None:
        return
    kind = value.string()
    kinds = [store.kind for store in stores() if store.kind]
    if kind not in kinds:
        value.fail(f"unknown kind {kind!r}", did_you_mean(kind, kinds) or "Use hf, gcs, s3 or azure.")
    store = source.store
    if kind != store.kind:
        what = "a plain repo id is hf" if store.is_hub else f"{store.scheme}:// is {store.kind or 'of no kind'}"
        value.fail(f"{kind!r} disagrees with repo_id: {what}", "Remove `kind`, or correct the scheme of repo_id.")


def _revision(value: Value | None, parsed: ParsedSource) -> str:
    """Return the entry's revision, "" where it gives none."""
    if value is None or (value.is_string and not value.node.value):
        return parsed.revision
    revision = value.string() if not parsed.source.store.is_hub else value.parsed(parse_revision)
    if parsed.revision and revision != parsed.revision:
        value.fail(f"{revision!r}, but repo_id says @{parsed.revision}", "Keep one of the two.")
    return revision


def _layout(value: Value, members: dict[str, Value], source: SourceRef, context: ConfigContext) -> tuple[Layout, str]:
    """Return the layout and its volume_folder, "" for another layout."""
    use_volume = "use_volume" in members and members["use_volume"].boolean()
    folder = members["volume_folder"].parsed(parse_volume_folder) if "volume_folder" in members else ""
    if use_volume and not folder:
        value.fail("use_volume without volume_folder", "Add `volume_folder: NAME`, as Truss demands.")
    if use_volume:
        return Layout.VOLUME, folder
    if folder:
        context.warnings.append(f"{members['volume_folder'].where}: ignored without `use_volume: true`, as in Truss")
    if source.store.is_hub:
        return Layout.HUB, ""
    if source.store.is_local:
        _check_local_name(members["repo_id"], source)
    return Layout.BUCKET, ""
