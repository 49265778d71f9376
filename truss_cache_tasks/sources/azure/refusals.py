"""The errors for answers of Azure Blob Storage: without values of a credential, and without the server's own text.

https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes. The text of a refusal may quote what was
signed, so only its code is shown.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import parse_qs, urlsplit

from truss_cache_tasks.errors import (
    RUN_AGAIN,
    RUN_LATER,
    AccessDenied,
    CacheTaskError,
    NotFound,
    SourceChanged,
    TransientError,
)
from truss_cache_tasks.model.listing import wrong_answer
from truss_cache_tasks.model.request import SourceRef
from truss_cache_tasks.network.proxies import proxy_refuses
from truss_cache_tasks.network.retry import is_transient_status, retry_after_s
from truss_cache_tasks.sources.azure.identity import Identity, Method

LIST = "List (l)"
READ = "Read (r)"

_BUSY = ("ServerBusy", "OperationTimedOut", "InternalError")
_PRIVATE = ("NoAuthenticationInformation", "ResourceNotFound", "PublicAccessNotPermitted", "AuthenticationFailed",
            "AuthorizationFailure")  # fmt: skip
_RENEW = "Give a credential that is valid now."


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What an error message says about the request that failed.

    Attributes:
        source: the entry's URI.
        what: the URI of the blob that was read; that of the entry for a listing.
        permission: LIST or READ.
        identity: that asked.
        looked_at: the places where a credential was looked for; "" where there is one.
    """

    source: SourceRef
    what: str
    permission: str
    identity: Identity
    looked_at: str = ""

    @property
    def host(self) -> str:
        """Host and port of the account."""
        return urlsplit(self.identity.endpoint).netloc

    @property
    def account(self) -> str:
        """The account of the source."""
        return self.source.root.partition("/")[0]

    @property
    def container(self) -> str:
        """The container of the source."""
        return self.source.root.partition("/")[2]


def refusal(  # noqa: PLR0911 - a table of answers, read from top to bottom
    asked: Asked, status: int, headers: Mapping[str, str], body: bytes
) -> CacheTaskError:
    """Return the error for an answer that is neither a page nor the bytes of a blob."""
    code = _code(headers, body)
    answered = f"{status} {code}".strip()
    if code in _BUSY or is_transient_status(status):
        busy = "throttles requests" if code == "ServerBusy" or status == 429 else "fails for now"
        error = TransientError(f"{asked.what}: {asked.host} {busy} ({answered})", hint=RUN_LATER)
        error.retry_after_s = retry_after_s(headers)
        return error
    if 300 <= status < 400:
        return wrong_answer(asked.what, f"a redirect ({answered})", "none of Azure Blob Storage")
    if status == 407:
        return proxy_refuses(asked.what, status)
    if asked.identity.method is Method.ANONYMOUS and (status == 401 or code in _PRIVATE):
        return _not_public(asked, code, answered)
    found = _of_code(asked, code, answered)
    if found is not None:
        return found
    if status in (404, 412) and asked.permission == READ:
        return SourceChanged(f"{asked.what}: replaced or deleted since it was listed ({answered})", hint=RUN_AGAIN)
    if status in (401, 403):
        return AccessDenied(
            f"{asked.what}: {asked.host} refuses {_credential(asked)} ({answered})",
            hint="Check the credential, and what it may do with this container.",
        )
    return CacheTaskError(
        f"{asked.what}: {asked.host} answered {answered}", hint="Check repo_id, and the endpoint of the account."
    )


def archived(what: str, status: str) -> AccessDenied:
    """Return the error for a blob whose bytes cannot be read, as its `status` says."""
    if status.startswith("rehydrate-pending"):
        return AccessDenied(
            f"{what}: the blob is being moved out of the archive tier ({status})",
            hint=f"Wait, which may take 15 hours. {RUN_AGAIN}",
        )
    return AccessDenied(
        f"{what}: the blob is in the archive tier and cannot be read ({status})",
        hint=f"Move it to the hot or cool tier (az storage blob set-tier), or ignore it by a pattern. {RUN_AGAIN}",
    )


def _not_public(asked: Asked, code: str, answered: str) -> AccessDenied:
    """Return the error for anonymous access: Azure does not tell whether a private container is there."""
    why = f"no credential was found ({asked.looked_at}{'; ' if asked.identity.note else ''}{asked.identity.note})"
    if code == "PublicAccessNotPermitted":
        return AccessDenied(
            f"{asked.what}: public access is switched off for the account {asked.account!r}, and {why} ({answered})",
            hint=_GIVE,
        )
    return AccessDenied(
        f"{asked.what}: the container is private or absent, and {why} ({answered})",
        hint=_GIVE,
    )


_GIVE = (
    "Put account_key or sas_token into azure_credentials.json in the data folder, or into the secret that the entry "
    "names; Entra needs the extra: pip install 'truss-cache-tasks[azure]'."
)


def _of_code(asked: Asked, code: str, answered: str) -> CacheTaskError | None:  # noqa: PLR0911 - a table of codes, read from top to bottom
    """Return the error for a code of Azure; None for one that says no more than its status."""
    who, what = _credential(asked), asked.what
    match code:
        case "ContainerNotFound" | "ContainerBeingDeleted":
            return NotFound(
                f"{what}: no container {asked.container!r} in the account {asked.account!r} ({answered})",
                hint="Correct the container in repo_id.",
            )
        case "BlobArchived" | "BlobBeingRehydrated":
            return archived(what, "rehydrate-pending" if code == "BlobBeingRehydrated" else answered)
        case "AuthenticationFailed" | "InvalidAuthenticationInfo":
            return _not_authenticated(asked, answered)
        case "AuthorizationPermissionMismatch" | "InsufficientAccountPermissions":
            return _not_permitted(asked, answered)
        case "AuthorizationFailure":
            return AccessDenied(
                f"{what}: {asked.host} lets neither this network nor {who} in ({answered})",
                hint="Check the account's firewall and private endpoints, then the credential.",
            )
        case "KeyBasedAuthenticationNotPermitted":
            return AccessDenied(
                f"{what}: account keys, and every SAS made of one, are switched off for {asked.account!r} ({answered})",
                hint="Use Entra: tenant_id, client_id and client_secret, or the identity of this machine.",
            )
        case "AuthorizationProtocolMismatch":
            return AccessDenied(f"{what}: {who} is for https alone ({answered})", hint="Use the https endpoint.")
        case "AuthorizationSourceIPMismatch":
            return AccessDenied(
                f"{what}: {who} is not for the address of this machine ({answered})", hint="Make a SAS without sip."
            )
        case "AuthorizationServiceMismatch" | "AuthorizationResourceTypeMismatch":
            return AccessDenied(
                f"{what}: {who} is not for containers and blobs ({answered})",
                hint="Make a SAS of the container, or one of the account with ss=b and srt=sco.",
            )
        case "AccountIsDisabled":
            return AccessDenied(
                f"{what}: the account {asked.account!r} is disabled ({answered})", hint="Enable it in the portal."
            )
    return None


def _not_authenticated(asked: Asked, answered: str) -> AccessDenied:
    said = f"{asked.what}: {asked.host} does not accept {_credential(asked)} ({answered})"
    match asked.identity.method:
        case Method.SAS if ended := _end_of_sas(asked.identity):
            return AccessDenied(
                f"{asked.what}: {_credential(asked)} ended at {ended} ({answered})", hint="Make a new SAS."
            )
        case Method.SAS:
            return AccessDenied(said, hint="Copy the SAS again, or make a new one; check this machine's clock.")
        case Method.KEY:
            return AccessDenied(
                said,
                hint="Copy the key of this account again, as it may have been rotated; check this machine's clock.",
            )
        case Method.ENTRA | Method.ANONYMOUS:
            return AccessDenied(said, hint=_RENEW)


def _not_permitted(asked: Asked, answered: str) -> AccessDenied:
    if asked.identity.method is Method.ENTRA:
        return AccessDenied(
            f"{asked.what}: {_credential(asked)} is missing a data role on this container ({answered})",
            hint="Grant it the role Storage Blob Data Reader; Owner and Contributor do not let it read blobs.",
        )
    hint = "Make a SAS of the container (sr=c) with sp=rl."
    return AccessDenied(
        f"{asked.what}: {_credential(asked)} is missing the permission {asked.permission} ({answered})", hint=hint
    )


def _credential(asked: Asked) -> str:
    identity = asked.identity
    return f"{identity.method.value} of {identity.origin}" if identity.origin else identity.method.value


def _end_of_sas(identity: Identity) -> str:
    """Return when a user's SAS ended; "" where it says nothing, or has not ended yet."""
    query = identity.authorize().query
    end = parse_qs(query.reveal()).get("se", [""])[0] if query is not None else ""
    try:
        is_over = datetime.fromisoformat(end).timestamp() < time.time()
    except (ValueError, OverflowError):
        return ""
    return end if is_over else ""


def _code(headers: Mapping[str, str], body: bytes) -> str:
    """Return Azure's code, of the header or the body; "" where there is none."""
    for name, value in headers.items():
        if name.lower() == "x-ms-error-code":
            return re.sub(r"\W", "", value)[:80]
    found = re.search(r"<Code>(\w{1,80})</Code>", body[:4096].decode("utf-8", "replace"))
    return found[1] if found else ""
