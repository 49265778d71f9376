"""Read `auth` of a `weights` item: the secret, or the role that the entry is read with."""

from __future__ import annotations

from truss_cache_tasks.config.fields import Value, did_you_mean
from truss_cache_tasks.model.credentials import AuthMethod, Role

_SECRET = "auth_secret_name"
_CUSTOM = "CUSTOM_SECRET"
# Method -> the fields that it takes, all of them required (truss.base.truss_config.WeightsAuth). Those of a role: whose
# rights, and where that is asked.
_FIELDS: dict[str, tuple[str, ...]] = {
    _CUSTOM: (_SECRET,),
    AuthMethod.AWS_OIDC: ("aws_oidc_role_arn", "aws_oidc_region"),
    AuthMethod.AWS_ASSUME_ROLE: ("aws_assume_role_arn", "aws_assume_role_region"),
    AuthMethod.GCP_OIDC: ("gcp_oidc_service_account", "gcp_oidc_workload_id_provider"),
}
_METHODS = f"{', '.join(list(_FIELDS)[:-1])} or {list(_FIELDS)[-1]}"
_KNOWN = ("auth_method", *(name for names in _FIELDS.values() for name in names))


def read_auth(auth: Value, outer: Value | None, warnings: list[str]) -> tuple[Value | None, Role | None]:
    """Return the name of the secret, or the role, of an item that has `auth`.

    A field of `auth` that is empty counts as not given, as in Truss.

    Args:
        auth: the value of `auth`.
        outer: that of `auth_secret_name` beside it.
        warnings: appended to.

    Raises:
        ConfigError: unknown, missing or contradictory fields.
    """
    if not auth.is_mapping:
        auth.fail(f"got {auth.shown()}, expected a mapping", f"Write `{_SECRET}: NAME` beside source.")
    given = {n: v for n, v in auth.known_members(_KNOWN, {}).items() if not (v.is_string and not v.node.value)}
    method = _method(auth, given)
    for name, value in given.items():
        if name not in ("auth_method", *_FIELDS[method]):
            value.fail(f"{method} takes no {name}", f"Remove it, or correct auth_method; {_needs(method)}.")
    inner = given.get(_SECRET)
    if method == _CUSTOM:
        return _one_secret(auth, outer, inner), None
    for name in _FIELDS[method]:
        if name not in given:
            auth.fail(f"{method} without {name}", f"Add `{name}: VALUE`; {_needs(method)}.")
    if outer is not None:
        warnings.append(f"{outer.where}: ignored, {method} takes no secret")
    account, scope = (given[name].string() for name in _FIELDS[method])
    return None, Role(method=AuthMethod(method), account=account, scope=scope)


def _one_secret(auth: Value, outer: Value | None, inner: Value | None) -> Value:
    if outer and inner:
        inner.fail(f"{_SECRET} is given twice, here and on line {outer.line}", "Keep one of the two.")
    return inner or outer or auth.fail(f"{_CUSTOM} without {_SECRET}", f"Add `{_SECRET}: NAME`.")


def _method(auth: Value, given: dict[str, Value]) -> str:
    """Return the `auth_method` in capital letters. An `auth` with a secret alone needs none."""
    value = given.get("auth_method")
    if value is None:
        if given.keys() == {_SECRET}:
            return _CUSTOM
        auth.fail("auth_method is missing", f"Add `auth_method: METHOD`: {_METHODS}.")
    method = value.string().upper()
    if method not in _FIELDS:
        near = did_you_mean(method, [name.lower() for name in _FIELDS])
        value.fail(
            f"found {value.shown()}, expected {_METHODS}",
            near.upper().replace("DID YOU MEAN", "Did you mean") if near else "Write one of them.",
        )
    return method


def _needs(method: str) -> str:
    return f"{method} takes {' and '.join(_FIELDS[method])}"
