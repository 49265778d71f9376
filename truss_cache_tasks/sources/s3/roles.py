"""Exchange what this machine has for the keys of a role, at AWS's token service (STS). This module imports botocore.

| method of the entry | what the machine has | request |
|---|---|---|
| AWS_OIDC | a web identity token (AWS_WEB_IDENTITY_TOKEN_FILE) | AssumeRoleWithWebIdentity |
| AWS_OIDC | credentials in boto3's chain | none: they are used as they are |
| AWS_ASSUME_ROLE | credentials in boto3's chain | AssumeRole |
| AWS_ASSUME_ROLE | a web identity token, and no role of its own for it | AssumeRoleWithWebIdentity |

A machine with none of these is an error; nothing is asked anonymously. The role is that of the entry (docs/adr/0036).
"""

from __future__ import annotations

import errno
import os
import stat
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import botocore
from botocore.config import Config
from botocore.credentials import Credentials, ReadOnlyCredentials
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from truss_cache_tasks.errors import (
    RUN_LATER,
    AccessDenied,
    CacheTaskError,
    ConfigError,
    CredentialError,
    TransientError,
)
from truss_cache_tasks.model.credentials import AuthMethod, NoCredential, Role
from truss_cache_tasks.model.request import SourceRef
from truss_cache_tasks.model.s3_service import S3Service
from truss_cache_tasks.network.retry import retry_after_s
from truss_cache_tasks.network.settings import Network
from truss_cache_tasks.sources.s3.identity import SESSIONS, Identity, identify, new_session
from truss_cache_tasks.sources.s3.refusals import BAD_KEYS, Asked, is_transient, translate_errors
from truss_cache_tasks.sources.s3.session import BoundedSession

TOKEN_FILE = "AWS_WEB_IDENTITY_TOKEN_FILE"
RENEWED_S = 300  # before they expire, keys are renewed: one set has to last for a request
_LARGEST_TOKEN = 20_000  # characters that STS takes
_OTHERWISE = "or put s3_credentials.json into the data folder"

_STS = S3Service(variables=("AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL"))

_REASONS = {  # by STS's code; any other one is a missing permission
    **BAD_KEYS,
    "ExpiredTokenException": "the token has expired",
    "InvalidIdentityToken": "the token is not valid for an identity provider of that account",
    "IDPRejectedClaim": "the identity provider does not accept the token",
    "RegionDisabledException": "STS is switched off in that region",
    "ValidationError": "the role or AWS_ROLE_SESSION_NAME is not what STS takes",
}


def assume(role: Role, network: Network, source: SourceRef) -> Identity:
    """Return the identity of `role`, whose keys renew themselves; or the machine's own, where the module says so.

    Raises:
        CredentialError: the machine has nothing to be exchanged.
        AccessDenied: STS refuses the exchange.
        TransientError: STS cannot be reached, or fails for now.
    """
    by_token = network.variable(TOKEN_FILE) and (role.method is AuthMethod.AWS_OIDC or _has_token_alone(network))
    if by_token:
        return _identity(role, _WebIdentity(role, network, source))
    machine = identify(NoCredential(), network, source)
    if machine.credentials is None:
        raise _nothing_to_exchange(role, source)
    if role.method is AuthMethod.AWS_OIDC or _is_role(machine, role, network):
        return replace(machine, region=role.scope)
    return _identity(role, _AssumedRole(role, network, source, machine))


def _has_token_alone(network: Network) -> bool:
    """Return whether the machine has a token and no role of its own for it, of which botocore makes an error."""
    return not any(map(network.variable, ("AWS_ROLE_ARN", "AWS_ACCESS_KEY_ID", "AWS_PROFILE")))


def _is_role(machine: Identity, role: Role, network: Network) -> bool:
    """Return whether the machine's credentials are those of the role already."""
    with SESSIONS:
        profile = machine.session.get_scoped_config()
    own = (network.variable("AWS_ROLE_ARN"), profile.get("role_arn"))
    return "assume-role" in machine.credentials.method and role.account in own


def _nothing_to_exchange(role: Role, source: SourceRef) -> CredentialError:
    return CredentialError(
        f"{source}: found neither a token nor credentials of AWS on this machine, expected one of them for "
        f"{role.method} ({role.account})",
        hint=f"Set {TOKEN_FILE}, AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; {_OTHERWISE}.",
    )


class _AskedSts(Asked):
    """What an error message says about a request to STS."""

    @property
    def service(self) -> S3Service:
        """How STS is reached."""
        return _STS


class _Exchange(ABC):
    """One way to the keys of a role. Call it for a fresh set of them."""

    call = ""  # the permission: `sts:` and the name of the operation

    def __init__(self, role: Role, network: Network, source: SourceRef) -> None:
        self.role = role
        self.network = network
        self.source = source

    @property
    @abstractmethod
    def origin(self) -> str:
        """What the machine has, for messages."""

    def client(self) -> Any:
        """Return a client of STS for the request. Raises CacheTaskError."""
        return _client(self.role, self.network, None)

    @abstractmethod
    def ask(self, client: Any, names: Mapping[str, str]) -> Mapping[str, Any]:
        """Return the answer of STS. Raises errors of botocore, and CredentialError.

        Args:
            names: RoleArn and RoleSessionName.
        """

    def asked(self, endpoint: str) -> Asked:
        """Return what an error message says about a request to `endpoint`."""
        return _AskedSts(
            source=self.source,
            what=str(self.source),
            action=self.call,
            origin=self.origin,
            endpoint=endpoint,
            region=self.role.scope,
        )

    def __call__(self) -> tuple[ReadOnlyCredentials, float]:
        """Return keys, and when they expire (seconds since the epoch). Raises CacheTaskError."""
        client = self.client()
        asked = self.asked(urlsplit(client.meta.endpoint_url).netloc.rpartition("@")[2])
        name = self.network.variable("AWS_ROLE_SESSION_NAME") or "truss-cache-tasks"
        with translate_errors(asked):
            try:
                keys = self.ask(client, {"RoleArn": self.role.account, "RoleSessionName": name})["Credentials"]
            except ClientError as error:
                raise self._refusal(asked, error) from None  # its text is the server's, which may quote the token
            except ParamValidationError:
                raise CredentialError(
                    f"{self.source}: {self.role.account!r} or AWS_ROLE_SESSION_NAME is not what STS takes",
                    hint="Write the ARN of a role into `auth`.",
                ) from None
            return (
                ReadOnlyCredentials(keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"]),
                keys["Expiration"].timestamp(),
            )

    def _refusal(self, asked: Asked, error: ClientError) -> CacheTaskError:
        code = error.response.get("Error", {}).get("Code") or "no code"
        said = f"{self.source}: {asked.endpoint} "
        if is_transient(error.response) or code == "IDPCommunicationError":
            busy = TransientError(f"{said}answered {code}", hint=RUN_LATER)
            busy.retry_after_s = retry_after_s(error.response["ResponseMetadata"].get("HTTPHeaders", {}))
            return busy
        why = _REASONS.get(code, f"missing permission {self.call} on {self.role.account}")
        return AccessDenied(
            f"{said}refuses {self.role.method} to {self.origin}: {why} ({code})",
            hint=f"Let the trust policy of {self.role.account} allow {self.call} to it; {_OTHERWISE}.",
        )


class _WebIdentity(_Exchange):
    call = "sts:AssumeRoleWithWebIdentity"

    @property
    def origin(self) -> str:
        return f"the token in {self.network.variable(TOKEN_FILE)}"

    def ask(self, client: Any, names: Mapping[str, str]) -> Mapping[str, Any]:
        token = _read_token(self.network.variable(TOKEN_FILE))
        answer: Mapping[str, Any] = client.assume_role_with_web_identity(**names, WebIdentityToken=token)
        return answer


class _AssumedRole(_Exchange):
    call = "sts:AssumeRole"

    def __init__(self, role: Role, network: Network, source: SourceRef, machine: Identity) -> None:
        super().__init__(role, network, source)
        self._machine = machine

    @property
    def origin(self) -> str:
        return self._machine.origin

    def client(self) -> Any:
        with translate_errors(self.asked("the token service of boto3's chain")), SESSIONS:
            keys = self._machine.credentials.get_frozen_credentials()  # may use the session, to refresh them
        return _client(self.role, self.network, keys)

    def ask(self, client: Any, names: Mapping[str, str]) -> Mapping[str, Any]:
        answer: Mapping[str, Any] = client.assume_role(**names)
        return answer


def _read_token(path: str) -> str:
    """Return the token in the file; it is read each time, because it rotates. Raises CredentialError."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise OSError(errno.EINVAL, "no file")  # a FIFO would wait for a writer
        with open(path, encoding="utf-8") as stream:
            token = stream.read(_LARGEST_TOKEN + 1).strip()
    except (OSError, ValueError) as error:  # not UTF-8; a NUL in the path
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise CredentialError(
            f"{TOKEN_FILE}: {path} cannot be read ({why})", hint=f"Correct {TOKEN_FILE}, or unset it."
        ) from None
    if not 0 < len(token) <= _LARGEST_TOKEN:
        raise CredentialError(
            f"{TOKEN_FILE}: {path} has {len(token) or 'no'} characters, expected one token",
            hint="Let what writes the file write a new token.",
        )
    return token


def _endpoint(network: Network) -> str | None:
    if network.variable("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS").lower() == "true":
        return None
    return next(filter(None, map(network.variable, _STS.variables)), None)


def _client(role: Role, network: Network, keys: ReadOnlyCredentials | None) -> Any:
    """Return botocore's client of STS in the role's region; with no keys its requests are not signed."""
    session = new_session()
    config = Config(
        signature_version=None if keys else botocore.UNSIGNED, retries={"mode": "standard", "total_max_attempts": 1}
    )
    session.set_credentials(*(keys[:3] if keys else ("none", "none")))  # without any, botocore searches its chain
    try:
        client = session.create_client("sts", region_name=role.scope, endpoint_url=_endpoint(network), config=config)
        verify = network.trusted_bundle() or session.get_config_variable("ca_bundle") or True
    except (ValueError, BotoCoreError) as error:
        raise ConfigError(
            f"no client of STS for region {role.scope!r} and this endpoint ({type(error).__name__})",
            hint="Correct the region in `auth`, or AWS_ENDPOINT_URL_STS (a whole URL).",
        ) from error
    BoundedSession(client.meta.endpoint_url, verify, network).plug_into(client)
    return client


class _RoleCredentials(Credentials):  # type: ignore[misc]  # botocore has no types
    """The keys of a role, renewed before they expire. botocore's own would log a traceback when that fails."""

    def __init__(self, exchange: Callable[[], tuple[ReadOnlyCredentials, float]]) -> None:
        self._exchange = exchange
        self._keys, self._expires = exchange()
        super().__init__(*self._keys[:3], method="role")

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        with SESSIONS:  # no lock of its own: an exchange takes SESSIONS, and `locate` has it when it comes here
            if time.time() > self._expires - RENEWED_S:
                self._keys, self._expires = self._exchange()
            return self._keys


class _Resolver:
    """A `credential_provider` of a botocore session that has one answer."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def load_credentials(self) -> Credentials:
        return self._credentials


def _identity(role: Role, exchange: _Exchange) -> Identity:
    credentials = _RoleCredentials(exchange)
    session = new_session()
    session.register_component("credential_provider", _Resolver(credentials))
    return Identity(f"{role.method} {role.account} (by {exchange.origin})", credentials, session, role.scope)
