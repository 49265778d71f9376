"""Workload identity federation: credential files that exchange a token of this machine at a token service.

Such a file (`type: external_account`) names the workload identity provider (`audience`), where the token is
(`credential_source`), the token service (`token_url`), and the service account that is impersonated, if any.
https://google.aip.dev/auth/4117
"""

from __future__ import annotations

import importlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from truss_cache_tasks.errors import CredentialError
from truss_cache_tasks.model.credentials import Role
from truss_cache_tasks.network.imports import IMPORTS

VARIABLE = "GOOGLE_APPLICATION_CREDENTIALS"
_LARGEST = 1 << 20  # bytes of a credential file
_AWS_TOKENS = "urn:ietf:params:aws:token-type:aws4_request"


def read_external_account(path: str) -> dict[str, Any] | None:
    """Return what a credential file for federation holds; None for "", and for a file that is of another type."""
    try:
        with open(path, "rb") as stream:
            found = json.loads(stream.read(_LARGEST))
    except (OSError, ValueError, RecursionError):
        return None  # google.auth says what is wrong with it
    return found if isinstance(found, dict) and found.get("type") == "external_account" else None


def impersonating(info: Mapping[str, Any], role: Role) -> dict[str, Any]:
    """Return `info` with the service account of `role`, if the file is for the same provider and impersonates one.

    A file for another provider is complete in itself: this machine has another way to the bucket (docs/adr/0036).
    """
    url = info.get("service_account_impersonation_url")
    if not isinstance(url, str) or _provider(str(info.get("audience"))) != _provider(role.scope):
        return dict(info)
    account = f"/serviceAccounts/{quote(role.account, safe='@')}:"
    return {**info, "service_account_impersonation_url": re.sub("/serviceAccounts/[^/:]*:", lambda _: account, url)}


def make_credentials(info: Mapping[str, Any], path: str, scopes: Sequence[str]) -> Any:
    """Return google.auth's credentials of such a file. `google.auth.default` would also ask for the project's name.

    Raises:
        CredentialError: the file, or the file of its token, cannot be used.
    """
    source = info.get("credential_source")
    token = source.get("file") if isinstance(source, dict) else None
    if isinstance(token, str) and not (os.path.isfile(token) and os.access(token, os.R_OK)):
        raise CredentialError(
            f"{VARIABLE}: {path}: the token file {token} cannot be read",
            hint="Let what writes the token write it, or correct credential_source.",
        )
    try:
        with IMPORTS:
            module = importlib.import_module(f"google.auth.{_module(info)}")
        return module.Credentials.from_info(info, scopes=scopes)
    except Exception as exc:  # several classes of google.auth, and what wrong types of fields raise; no text is shown
        raise CredentialError(
            f"{VARIABLE}: {path} cannot be used as a credential ({type(exc).__name__})",
            hint="Make it again: `gcloud iam workload-identity-pools create-cred-config`.",
        ) from None


def _module(info: Mapping[str, Any]) -> str:
    """Return the module of google.auth for this kind of token, by the rule of `google.auth.default`."""
    if info.get("subject_token_type") == _AWS_TOKENS:
        return "aws"
    return "pluggable" if (info.get("credential_source") or {}).get("executable") is not None else "identity_pool"


def describe(info: Mapping[str, Any], path: str) -> str:
    """Return what a message says of such a credential: the file, the provider and the service account."""
    found = re.search("/serviceAccounts/([^/:]*):", str(info.get("service_account_impersonation_url")))
    return f"{VARIABLE} ({path}: {f'{found[1]} by ' if found else ''}{_provider(str(info.get('audience')))})"


def _provider(name: str) -> str:
    """Return a provider without the name of the service.

    >>> _provider("//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q")
    'projects/1/locations/global/workloadIdentityPools/p/providers/q'
    """
    return re.sub("^(https?:)?//iam[.][^/]*/", "", name).strip("/")
