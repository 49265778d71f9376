"""Find the identity for requests to S3: a credential file or secret, else boto3's own chain, else anonymous."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from truss_cache_tasks.errors import AccessDenied, CredentialError
from truss_cache_tasks.model.credentials import Credential, NoCredential, Role
from truss_cache_tasks.model.request import SourceRef
from truss_cache_tasks.network.imports import IMPORTS
from truss_cache_tasks.network.settings import Network
from truss_cache_tasks.sources.s3.refusals import credential_error, give_credential
from truss_cache_tasks.version import USER_AGENT


@dataclass(frozen=True, repr=False)
class Identity:
    """A credential and where it came from.

    Attributes:
        origin: for messages; "" for anonymous.
        credentials: botocore's, which may refresh themselves; None for anonymous.
        session: botocore's, with these credentials; hold `SESSIONS` while it makes a client.
        region: as configured beside the credential or in the environment, else that of the store.
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
    the metadata server (one attempt, 1 s). It is not searched for a store to which the environment of AWS does not
    apply.

    Raises:
        AccessDenied: there is no credential, and the store knows no anonymous access.
        CredentialError: a file, a profile or a token service cannot be used.
        AccessDenied, TransientError: the token service does not give the role.
    """
    if isinstance(credential, Role):
        with IMPORTS:
            from truss_cache_tasks.sources.s3.roles import assume

        return assume(credential, network, source)
    service = source.store.s3
    region = ""
    if service.reads_aws:
        region = network.variable("AWS_REGION") or network.variable("AWS_DEFAULT_REGION")
    with SESSIONS:
        if isinstance(credential, Credential):
            fields = {name: secret.reveal() for name, secret in credential.fields.items()}
            region = fields.get("aws_region") or region
            found = _with_keys(credential.origin, fields, new_session(reads_environment=service.reads_aws), region)
        elif service.reads_aws:
            found = _chain(network.variables, region)
        else:
            found = Identity("", None, new_session(reads_environment=False), region)
    if found.credentials is None and not service.is_anonymous:
        raise AccessDenied(
            f"{source}: found no credential ({credential}), expected one: this store has no anonymous access",
            hint=give_credential(source),
        )
    return replace(found, region=found.region or service.region)


def _with_keys(origin: str, fields: Mapping[str, str], session: Any, region: str) -> Identity:
    """Return the identity of keys, named as in a credential file."""
    key, secret = fields["aws_access_key_id"], fields["aws_secret_access_key"]
    token = fields.get("aws_session_token") or None
    if not all(value.isascii() and value.isprintable() and value for value in (key, secret, token or "-")):
        # Checked here: in a header such a value would cause a network error whose text quotes it.
        raise CredentialError(
            f"{origin}: a key is empty or holds a character that no AWS key has (a line break, a typographic quote)",
            hint="Copy the keys again, without what surrounds them.",
        )
    session.set_credentials(key, secret, token)
    return Identity(origin, session.get_credentials(), session, region)


def _chain(env: Mapping[str, str], region: str) -> Identity:
    """Return what boto3's chain finds. Keys in `env` come first, as in that chain."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    if all(env.get(name) for name in names):
        fields = {name.lower(): env[name] for name in names}
        fields["aws_session_token"] = env.get("AWS_SESSION_TOKEN") or env.get("AWS_SECURITY_TOKEN") or ""
        return _with_keys(names[0], fields, new_session(), region)
    which = tuple(sorted((name, value) for name, value in env.items() if name.startswith("AWS_") or name == "HOME"))
    if which not in _chains:
        _chains[which] = _ask_chain(env, region)
    return _chains[which]


def _ask_chain(env: Mapping[str, str], region: str) -> Identity:
    with IMPORTS:
        from botocore.exceptions import BotoCoreError

    session = new_session()
    session.set_config_variable("metadata_service_timeout", 1)
    session.set_config_variable("metadata_service_num_attempts", 1)
    try:
        if env.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
            session.get_component("credential_provider").remove("iam-role")
        credentials = session.get_credentials()
        region = region or session.get_config_variable("region") or ""
    except BotoCoreError as error:
        raise credential_error(error) from error
    origin = f"boto3's chain ({credentials.method})" if credentials else ""
    return Identity(origin, credentials, session, region)


@lru_cache(1)
def _loader() -> Any:
    """Return the reader of botocore's model of S3, which keeps it: 60 ms of CPU, ten times the rest of a client."""
    with IMPORTS:
        from botocore.loaders import create_loader

    return create_loader()


def new_session(*, reads_environment: bool = True) -> Any:
    """Return a botocore session; one that does not read the environment reads no file of AWS either."""
    with IMPORTS:
        from botocore.configprovider import ConstantProvider
        from botocore.session import Session  # not boto3, which takes longer to import (docs/adr/0020)

    session = Session()
    session.user_agent_name, session.user_agent_version = USER_AGENT.split("/")
    if not reads_environment:
        settings = session.get_component("config_store")
        for name, (_, _, default, _) in session.session_var_map.items():
            value = os.devnull if name in ("config_file", "credentials_file") else default
            settings.set_config_provider(name, ConstantProvider(value))
    session.register_component("data_loader", _loader())
    return session
