"""Find the identity for Google Cloud Storage: a key, application-default credentials, or anonymous."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC
from typing import Any
from urllib.parse import urlsplit

from truss_cache_tasks.errors import RUN_LATER, CredentialError, TransientError
from truss_cache_tasks.model.credentials import Credential, NoCredential, Role
from truss_cache_tasks.model.request import SourceRef
from truss_cache_tasks.network.cancel import NEVER
from truss_cache_tasks.network.imports import IMPORTS
from truss_cache_tasks.network.retry import is_transient_status, retry_after_s
from truss_cache_tasks.network.settings import Network
from truss_cache_tasks.sources.gcs import federation

SCOPES = ("https://www.googleapis.com/auth/devstorage.read_only",)
METADATA_S = 1.0  # for the one request that finds out whether there is a metadata server; google.auth waits 3 x 3 s

# google.auth.default() reads these variables; its result is kept for each set of their values
AMBIENT_VARIABLES = (
    "GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_CONFIG", "HOME", "NO_GCE_CHECK", "GCE_METADATA_HOST", "GCE_METADATA_IP",
)  # fmt: skip
_ambient: dict[tuple[str | None, ...], Identity | None] = {}
_ambient_lock = threading.Lock()


class Identity:
    """Credentials of google.auth, and where they were found. Entries share one, so `headers` holds a lock."""

    def __init__(self, credentials: Any, origin: str, request: Any) -> None:
        self.credentials = credentials
        self.origin = origin
        self._request = request
        self._lock = threading.Lock()

    def headers(self) -> tuple[dict[str, str], float | None]:
        """Return headers for a request now, and when they expire (seconds since the epoch). Raises google's errors."""
        with self._lock:
            if not self.credentials.valid:
                self.credentials.refresh(self._request)
            found: dict[str, str] = {}
            self.credentials.apply(found)
            expiry = self.credentials.expiry  # naive, in UTC
        return {name.title(): value for name, value in found.items()}, (
            expiry.replace(tzinfo=UTC).timestamp() if expiry else None
        )


def identify(credential: Credential | Role | NoCredential, network: Network, source: SourceRef) -> Identity | None:
    """Return the identity for requests; None for anonymous, which it never is for a role.

    Raises:
        CredentialError: a key or an application-default credential cannot be used, or a role has none.
    """
    if isinstance(credential, Credential):
        return _from_key(credential, network)
    return _of_role(credential, network, source) if isinstance(credential, Role) else _from_environment(network)


def _of_role(role: Role, network: Network, source: SourceRef) -> Identity:
    """Return the identity that the machine has for a role: a token that is exchanged, or any other credential."""
    path = network.variable(federation.VARIABLE)
    if (info := federation.read_external_account(path)) is not None:
        return _federated(federation.impersonating(info, role), path, network)
    if (identity := _from_environment(network)) is not None:
        return identity
    raise CredentialError(
        f"{source}: found no credential of Google on this machine, expected one for {role.method} ({role.account})",
        hint=f"Set {federation.VARIABLE} to a credential file for {role.scope}, run "
        "`gcloud auth application-default login`, or put service_account.json into the data folder.",
    )


def _federated(info: Mapping[str, Any], path: str, network: Network) -> Identity:
    credentials = federation.make_credentials(info, path, SCOPES)
    return Identity(credentials, federation.describe(info, path), make_transport(network))


def _from_key(credential: Credential, network: Network) -> Identity:
    """Return the identity of a service account. Its JSON was checked when it was read; its private key is checked here.

    Raises:
        CredentialError: the private key is not a readable RSA key.
    """
    with IMPORTS:
        from google.oauth2 import service_account

    info = json.loads(credential.fields["json"].reveal())
    try:
        credentials = service_account.Credentials.from_service_account_info(info, scopes=SCOPES)
        credentials.sign_bytes(b"")  # a key that is not RSA loads, and fails only here
    except Exception:  # a dozen classes of google.auth and cryptography; no text is fit to show
        raise CredentialError(
            f"{credential.origin}: private_key is not a readable RSA key",
            hint="Download the key of the service account again.",
        ) from None
    return Identity(credentials, f"{credential.origin} ({info['client_email']})", make_transport(network))


def _from_environment(network: Network) -> Identity | None:
    """Return application-default credentials, looked up once a process; None for anonymous."""
    key = tuple(network.variables.get(name) for name in AMBIENT_VARIABLES)
    with _ambient_lock:
        if key not in _ambient:
            _ambient[key] = _application_default(network)
        return _ambient[key]


def _application_default(network: Network) -> Identity | None:
    with IMPORTS:
        import google.auth
        from google.auth import compute_engine
        from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError

    # google.auth warns that a login of gcloud has no quota project. Cloud Storage needs none.
    warnings.filterwarnings("ignore", "Your application has authenticated using end user credentials", UserWarning)
    named = network.variable(federation.VARIABLE)
    if (info := federation.read_external_account(named)) is not None:
        return _federated(info, named, network)
    try:
        credentials, _ = google.auth.default(scopes=SCOPES, request=make_transport(network, seeking=True))
    except (DefaultCredentialsError, ValueError, OSError) as exc:
        if named:
            raise CredentialError(
                f"GOOGLE_APPLICATION_CREDENTIALS: {named} cannot be used as a credential", hint="Correct the variable."
            ) from exc
        if "were not found" not in str(exc):  # the message if there are none; other failures have the same class
            raise CredentialError(
                "gcloud's application-default login cannot be used",
                hint="Run `gcloud auth application-default login` again.",
            ) from exc
        return None
    if isinstance(credentials, compute_engine.Credentials):
        identity = Identity(credentials, "the metadata server's service account", make_transport(network))
        try:
            identity.headers()
        except GoogleAuthError:  # a machine without a service account
            return None
        return identity
    origin = "GOOGLE_APPLICATION_CREDENTIALS" if named else "gcloud's login"
    return Identity(credentials, origin, make_transport(network))


def make_transport(network: Network, *, seeking: bool = False) -> Any:
    """Return google.auth's transport, bounded in time and size; a busy token server raises TransientError.

    Args:
        seeking: whether it is used to search for credentials: then a metadata server that does not answer the first
            request within a second counts as absent, and is not asked again.
    """
    with IMPORTS:
        from google.auth.exceptions import TransportError
        from google.auth.transport.requests import Request

        from truss_cache_tasks.sources.requests_session import bounded_session

    network = replace(network, cancel=NEVER)  # entries share it: cancelling one must not cancel the others
    shortly = replace(network.limits, connect_s=METADATA_S, head_s=METADATA_S)
    ask = Request(bounded_session(network))
    seek = Request(bounded_session(replace(network, limits=shortly)))
    absent = network.variable("NO_GCE_CHECK") == "true"

    def request(
        url: str, method: str = "GET", body: Any = None, headers: Any = None, timeout: float | None = None, **more: Any
    ) -> Any:
        nonlocal absent
        if not (seeking and "metadata-flavor" in (headers or {})):
            return _unless_busy(url, ask(url, method, body=body, headers=headers, **more))
        try:
            if not absent:
                return seek(url, method, body=body, headers=headers, **more)
        except TransportError:
            absent = True
        return _NoMetadataServer()

    return request


def _unless_busy(url: str, response: Any) -> Any:
    """Return `response`; raise TransientError for a status that google's libraries would retry by their own rules."""
    if not is_transient_status(response.status):
        return response
    error = TransientError(f"{urlsplit(url).netloc}: the token server answered {response.status}", hint=RUN_LATER)
    error.retry_after_s = retry_after_s(response.headers)
    raise error


class _NoMetadataServer:
    """The answer in place of an absent metadata server: 404 is the one error that google.auth does not retry."""

    status = 404
    headers: Mapping[str, str] = {}
    data = b""
