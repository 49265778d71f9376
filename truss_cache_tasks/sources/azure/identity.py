"""Find the identity for requests to Azure: an account key, a SAS, Entra, or anonymous."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import urlsplit

from truss_cache_tasks.errors import CredentialError
from truss_cache_tasks.model.credentials import Credential, NoCredential, Secret
from truss_cache_tasks.model.request import SourceRef
from truss_cache_tasks.network.imports import IMPORTS
from truss_cache_tasks.network.settings import Network
from truss_cache_tasks.sources.azure.account import AccountAccess, access_of_env, access_of_file
from truss_cache_tasks.sources.azure.signing import VERSION, container_sas

SIGNED_FOR_S = 2 * 3600  # of a signature of ours: clocks may differ by 15 minutes, and a request may have to wait
RENEWED_AFTER_S = 3600  # a signature that is used goes on to be valid for an hour


class Method(Enum):
    """How requests are authorised."""

    KEY = "the account key"
    SAS = "the SAS"
    ENTRA = "the Entra identity"
    ANONYMOUS = "anonymous access"


def _headers() -> dict[str, str]:
    return {"x-ms-version": VERSION}  # without it an anonymous request may have that of 2009


@dataclass(frozen=True, kw_only=True, slots=True)
class Authorization:
    """What a request needs, for every range of every blob of the container.

    Attributes:
        headers: of the request; never printed.
        query: what is added to the URL; None where nothing is.
        expires: seconds since the epoch; None for never, or where that is not known.
    """

    headers: Mapping[str, str] = field(default_factory=_headers, repr=False)
    query: Secret | None = None
    expires: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """Who asks, and where.

    Attributes:
        method: how its requests are authorised.
        origin: where the credential was found, for messages; "" for anonymous.
        endpoint: URL of the account's blobs, without a slash at its end.
        authorize: returns the Authorization of a request now. May ask a token server.
        note: which places were not used and why, for messages; "" where there are none.
    """

    method: Method
    origin: str
    endpoint: str
    authorize: Callable[[], Authorization]
    note: str = ""

    def __repr__(self) -> str:
        return f"Identity({self.method.name}, {self.origin!r})"


def identify(source: SourceRef, credential: Credential | NoCredential, network: Network) -> Identity:
    """Return the identity for requests to the container of `source`.

    A credential file, else the variables of this account, else Entra where its package is installed and finds an
    identity, else anonymous.

    Raises:
        CredentialError: a credential cannot be used, or is of another account.
        MissingPackage: a service principal needs azure-identity, which is not installed.
        TransientError: a token server does not answer for now.
    """
    account, _, container = source.root.partition("/")
    if isinstance(credential, Credential):
        access = access_of_file(account, credential.origin, credential.fields, network.variables)
    else:
        access = access_of_env(account, network.variables)
    if access.key is not None:
        return _by(Method.KEY, access, _Signer(account, container, access.key, access.endpoint))
    if access.sas is not None:
        return _by(Method.SAS, access, lambda: Authorization(query=access.sas))
    with IMPORTS:
        from truss_cache_tasks.sources.azure import entra

    tokens: entra.Tokens | None
    if isinstance(credential, Credential):
        tokens = entra.of_service_principal(credential, network)
    else:
        tokens, note = entra.of_environment(network)
        if tokens is None:
            notes = "; ".join(filter(None, (access.note, note)))
            return Identity(
                method=Method.ANONYMOUS, origin="", endpoint=access.endpoint, authorize=Authorization, note=notes
            )
    return Identity(
        method=Method.ENTRA,
        origin=tokens.origin,
        endpoint=_checked_for_tokens(access.endpoint, tokens.origin),
        authorize=lambda: _bearer(*tokens.get()),
    )


def _by(method: Method, access: AccountAccess, authorize: Callable[[], Authorization]) -> Identity:
    return Identity(method=method, origin=access.origin, endpoint=access.endpoint, authorize=authorize)


class _Signer:
    """Signs with an account key; the signature is kept and renewed."""

    def __init__(self, account: str, container: str, key: bytes, endpoint: str) -> None:
        self._account, self._container, self._key = account, container, key
        self._is_https = endpoint.startswith("https:")
        self._lock = threading.Lock()
        self._signed: Authorization | None = None

    def __call__(self) -> Authorization:
        with self._lock:
            now = time.time()
            if self._signed is None or (self._signed.expires or 0) <= now:
                sas = container_sas(
                    self._account, self._container, self._key, expires=now + SIGNED_FOR_S, is_https=self._is_https
                )
                self._signed = Authorization(query=Secret(sas), expires=now + RENEWED_AFTER_S)
            return self._signed


def _bearer(token: str, expires: float) -> Authorization:
    return Authorization(headers={**_headers(), "Authorization": f"Bearer {token}"}, expires=expires)


def _checked_for_tokens(endpoint: str, origin: str) -> str:
    """Return the endpoint; raise CredentialError where a token would be sent in the clear."""
    if endpoint.startswith("https:"):
        return endpoint
    raise CredentialError(
        f"{origin}: a token of Entra is sent over https alone, and {urlsplit(endpoint).netloc} is reached by http",
        hint="Correct the endpoint: AZURE_STORAGE_SERVICE_ENDPOINT, or BlobEndpoint of the connection string.",
    )
