"""Read one item of `weights`, generation 2 of Truss, into an Entry."""

from __future__ import annotations

from truss_cache_tasks.config.entries import DEFAULT_SECRET, Entry
from truss_cache_tasks.config.fields import Value, did_you_mean
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
_METHODS = ("CUSTOM_SECRET", "AWS_OIDC", "GCP_OIDC", "AWS_ASSUME_ROLE")  # truss.base.truss_config.WeightsAuthMethod
_AUTH_KNOWN = (
    "auth_method",
    "auth_secret_name",
    "aws_oidc_role_arn",
    "aws_oidc_region",
    "gcp_oidc_service_account",
    "gcp_oidc_workload_id_provider",
    "aws_assume_role_arn",
    "aws_assume_role_region",
)


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
    secret = _secret(members)
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
    )


def _secret(members: dict[str, Value]) -> Value | None:
    """Return the value with the secret's name, from the item or its `auth`; None for methods that take no secret."""
    outer, auth = members.get("auth_secret_name"), members.get("auth")
    if auth is None:
        return outer
    if not auth.is_mapping:
        auth.fail(f"got {auth.shown()}, expected a mapping", "Write `auth_secret_name: NAME` beside source.")
    inside = auth.known_members(_AUTH_KNOWN, {})
    method = _method(inside.get("auth_method"))
    inner = inside.get("auth_secret_name")
    if outer and inner:
        inner.fail(f"auth_secret_name is given twice, here and on line {outer.line}", "Keep one of the two.")
    secret = inner or outer
    if method == "CUSTOM_SECRET" and not secret:
        auth.fail("CUSTOM_SECRET without auth_secret_name", "Add `auth_secret_name: NAME`.")
    if method not in (None, "CUSTOM_SECRET") and secret:
        secret.fail(f"{method} takes no secret", "Remove auth_secret_name, or use CUSTOM_SECRET.")
    return secret


def _method(value: Value | None) -> str | None:
    """Return the `auth_method` in capital letters; None where it is not given."""
    if value is None:
        return None
    method = value.string().upper()
    if method not in _METHODS:
        near = did_you_mean(method, [m.lower() for m in _METHODS])
        value.fail(
            f"unknown method {value.shown()}",
            near.upper().replace("DID YOU MEAN", "Did you mean") if near else f"Use one of {', '.join(_METHODS)}.",
        )
    return method
