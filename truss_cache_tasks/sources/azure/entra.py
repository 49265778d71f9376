"""Get tokens of Entra by azure-identity, an optional dependency that is imported when a token is asked for."""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from truss_cache_tasks.errors import RUN_LATER, CredentialError, MissingPackage, TransientError
from truss_cache_tasks.model.credentials import Credential
from truss_cache_tasks.network.cancel import NEVER
from truss_cache_tasks.network.imports import IMPORTS
from truss_cache_tasks.network.retry import is_transient_status
from truss_cache_tasks.network.settings import Network

SCOPE = "https://storage.azure.com/.default"
INSTALL = f"Run `{sys.executable} -m pip install 'truss-cache-tasks[azure]'`."

_EARLY_S = 300.0  # a token this near to its expiry is asked for again
_LOCAL_S = 2.0  # for a managed identity, which is asked at an address of this machine or its network
# One of these says that an identity is meant to be there: its failure is an error, and not anonymous access
_CONFIGURES = ("AZURE_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE", "IDENTITY_ENDPOINT", "AZURE_TOKEN_CREDENTIALS")

_ambient: dict[tuple[tuple[str, str], ...], tuple[Tokens | None, str]] = {}
_ambient_lock = threading.Lock()


class Tokens:
    """Tokens of one identity, kept until they expire. Entries share one, so `get` holds a lock."""

    def __init__(self, origin: str, make: Callable[[], Any]) -> None:
        """Begin without a token.

        Args:
            origin: for messages.
            make: returns a credential of azure-identity.
        """
        self.origin = origin
        self._make = make
        self._credential = make()
        self._lock = threading.Lock()
        self._token: tuple[str, float] = ("", 0.0)

    def get(self) -> tuple[str, float]:
        """Return a token for blobs, and when it is to be asked for again (seconds since the epoch).

        Raises:
            CredentialError: Entra refuses the identity.
            TransientError: it does not answer for now.
        """
        with self._lock:
            if self._token[1] <= time.time():
                try:
                    with _translate_errors(self.origin):
                        found = self._credential.get_token(SCOPE)
                except TransientError:
                    self._credential = self._make()  # the old one repeats a 503 for 60 s, and asks nobody (msal)
                    raise
                self._token = found.token, max(found.expires_on - _EARLY_S, time.time() + 1)
            return self._token


def of_service_principal(credential: Credential, network: Network) -> Tokens:
    """Return the tokens of a service principal (tenant_id, client_id, client_secret).

    Raises:
        MissingPackage: azure-identity is not installed.
        CredentialError: an id cannot be one.
    """
    try:
        with IMPORTS:
            from azure.identity import ClientSecretCredential
    except ImportError as exc:
        raise _not_installed(credential.origin) from exc
    fields = {name: credential.fields[name].reveal() for name in ("tenant_id", "client_id", "client_secret")}
    try:
        return Tokens(credential.origin, lambda: ClientSecretCredential(**fields, **_options(network)))
    except ValueError:
        raise CredentialError(
            f"{credential.origin}: tenant_id or client_id is no id of Entra", hint="Copy the ids again."
        ) from None  # its text may quote a field


def of_environment(network: Network) -> tuple[Tokens | None, str]:
    """Return the tokens of what azure-identity finds on this machine, or None, and why there are none.

    Looked for once a process for each environment: each time takes up to seconds, and failures are not kept.

    Raises:
        CredentialError: variables name an identity, and Entra refuses it.
        TransientError: Entra does not answer for now.
    """
    names = (name for name in network.variables if not name.startswith("AZURE_STORAGE_"))
    key = tuple(sorted((name, network.variables[name]) for name in names))
    with _ambient_lock:
        if key not in _ambient:
            _ambient[key] = _look(network)
        return _ambient[key]


def _look(network: Network) -> tuple[Tokens | None, str]:
    try:
        with IMPORTS:
            from azure.identity import DefaultAzureCredential
    except ImportError as exc:
        if any(map(network.variable, _CONFIGURES)):
            raise _not_installed("Entra, which AZURE_* variables of this machine name") from exc
        return None, f"Entra is not asked without azure-identity: {INSTALL.rstrip('.')}"
    tokens = Tokens(
        "Entra (DefaultAzureCredential)", lambda: DefaultAzureCredential(**_options(network), process_timeout=5)
    )
    try:
        tokens.get()
    except CredentialError:
        if any(map(network.variable, _CONFIGURES)):
            raise
        return None, "azure-identity finds no identity"
    return tokens, ""


def _options(network: Network) -> dict[str, Any]:
    """Return what azure-identity's credentials need to send their requests as all others of ours are sent."""
    with IMPORTS:
        from azure.core.pipeline.transport import RequestsTransport

        from truss_cache_tasks.sources.requests_session import bounded_session, mount_limits

    logging.getLogger("azure").addHandler(logging.NullHandler())  # else a failure prints a dozen lines to stderr
    network = replace(network, cancel=NEVER)  # entries share it: cancelling one must not cancel the others
    session = bounded_session(network)
    limits = network.limits
    shortly = replace(limits, connect_s=min(limits.connect_s, _LOCAL_S), head_s=min(limits.head_s, _LOCAL_S))
    mount_limits(session, "http://", replace(network, limits=shortly))
    return {
        "transport": RequestsTransport(session=session, session_owner=False),
        "retry_total": 0,  # repeated by our own rules
        # a private cloud is unknown to the public one
        "disable_instance_discovery": bool(network.variable("AZURE_AUTHORITY_HOST")),
    }


def _not_installed(what: str) -> MissingPackage:
    return MissingPackage(f"{what}: found no azure-identity, expected it beside truss-cache-tasks", hint=INSTALL)


@contextmanager
def _translate_errors(origin: str) -> Iterator[None]:
    """Translate errors of azure-identity, whose texts may quote a whole page, into ours."""
    with IMPORTS:
        from azure.core.exceptions import AzureError, HttpResponseError

    try:
        yield
    except HttpResponseError as exc:  # ClientAuthenticationError is one, and tells the status in its text alone
        status = re.search(r"HTTP Error: ([0-9]{3})", str(exc))
        if status and is_transient_status(int(status[1])):
            raise TransientError(f"{origin}: Entra answered {status[1]}", hint=RUN_LATER) from None
        code = re.search(r"AADSTS[0-9]{4,8}", str(exc))
        raise CredentialError(
            f"{origin}: Entra gives no token ({code[0] if code else type(exc).__name__})",
            hint="Renew the secret of the application, or try `az account get-access-token --resource "
            "https://storage.azure.com`.",
        ) from None
    except AzureError as exc:
        raise TransientError(
            f"{origin}: Entra cannot be reached ({type(exc).__name__})",
            hint=f"Check the network, proxies and AZURE_AUTHORITY_HOST. {RUN_LATER}",
        ) from None
