"""Find the identity for requests to S3: a credential file or secret, else boto3's own chain, else anonymous."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from truss_cache_tasks.errors import CredentialError
from truss_cache_tasks.model.request import SourceRef
from truss_cache_tasks.model.stores import Credential, NoCredential, Role
from truss_cache_tasks.network.settings import Network
from truss_cache_tasks.sources.s3.refusals import credential_error
from truss_cache_tasks.version import USER_AGENT

FALLBACK_REGION = "us-east-1"  # its answer about a bucket elsewhere names that bucket's region


@dataclass(frozen=True, repr=False)
class Identity:
    """A credential and where it came from.

    Attributes:
        origin: for messages; "" for anonymous.
        credentials: botocore's, which may refresh themselves; None for anonymous.
        session: botocore's, with these credentials; hold `SESSIONS` while it makes a client.
        region: as configured beside the credential or in the environment.
    """

    origin: str
    credentials: Any
    session: Any
    region: str

    def __repr__(self) -> str:
        return f"Identity({self.origin or 'anonymous'!r})"


SESSIONS = threading.RLock()  # held while a botocore session is used: only its clients are thread-safe
_chains: dict[tuple[tuple[str, str], ...], Identity] = {}


def identify(credential: Credential | Role | NoCredential, network: Network, source: SourceRef) -> Identity:
    """Return the identity for requests: of the credential or the role, else of boto3's chain, else anonymous.

    The chain is searched only if there is no credential, and once a process for each environment, because it may ask
    the metadata server (one attempt, 1 s).

    Raises:
        CredentialError: a file, a profile or a token service cannot be used.
        AccessDenied, TransientError: the token service does not give the role.
    """
    if isinstance(credential, Role):
        from truss_cache_tasks.sources.s3.roles import assume

        return assume(credential, network, source)
    region = network.variable("AWS_REGION") or network.variable("AWS_DEFAULT_REGION")
    with SESSIONS:
        if isinstance(credential, NoCredential):
            return _chain(network.variables, region)
        fields = {name: secret.reveal() for name, secret in credential.fields.items()}
        return _with_keys(
            credential.origin,
            fields["aws_access_key_id"],
            fields["aws_secret_access_key"],
            fields.get("aws_session_token"),
            fields.get("aws_region") or region or FALLBACK_REGION,
        )


def _with_keys(origin: str, key: str, secret: str, token: str | None, region: str) -> Identity:
    if not all(value.isascii() and value.isprintable() and value for value in (key, secret, token or "-")):
        # Checked here: in a header such a value would cause a network error whose text quotes it.
        raise CredentialError(
            f"{origin}: a key is empty or holds a character that no AWS key has (a line break, a typographic quote)",
            hint="Copy the keys again, without what surrounds them.",
        )
    session = new_session()
    session.set_credentials(key, secret, token or None)
    return Identity(origin, session.get_credentials(), session, region)


def _chain(env: Mapping[str, str], region: str) -> Identity:
    """Return what boto3's chain finds. Keys in `env` come first, as in that chain."""
    key, secret = env.get("AWS_ACCESS_KEY_ID"), env.get("AWS_SECRET_ACCESS_KEY")
    if key and secret:
        token = env.get("AWS_SESSION_TOKEN") or env.get("AWS_SECURITY_TOKEN")
        return _with_keys("AWS_ACCESS_KEY_ID", key, secret, token, region or FALLBACK_REGION)
    which = tuple(sorted((name, value) for name, value in env.items() if name.startswith("AWS_") or name == "HOME"))
    if which not in _chains:
        _chains[which] = _ask_chain(env, region)
    return _chains[which]


def _ask_chain(env: Mapping[str, str], region: str) -> Identity:
    from botocore.exceptions import BotoCoreError

    session = new_session()
    session.set_config_variable("metadata_service_timeout", 1)
    session.set_config_variable("metadata_service_num_attempts", 1)
    try:
        if env.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
            session.get_component("credential_provider").remove("iam-role")
        credentials = session.get_credentials()
        region = region or session.get_config_variable("region") or FALLBACK_REGION
    except BotoCoreError as error:
        raise credential_error(error) from error
    origin = f"boto3's chain ({credentials.method})" if credentials else ""
    return Identity(origin, credentials, session, region)


def new_session() -> Any:
    """Return a session of botocore that sends our User-Agent."""
    from botocore.session import Session  # not boto3, which takes longer to import (docs/adr/0020)

    session = Session()
    session.user_agent_name, session.user_agent_version = USER_AGENT.split("/")
    return session
