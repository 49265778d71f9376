"""Read what a credential file, a connection string or the environment says of a storage account: values, no I/O."""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from truss_cache_tasks.errors import CredentialError
from truss_cache_tasks.model.credentials import Secret

_PUBLIC_CLOUD = "core.windows.net"
# The emulator's one account, known to everybody: https://learn.microsoft.com/azure/storage/common/storage-use-azurite
_EMULATOR = "devstoreaccount1"
_EMULATOR_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

# Variables of the az command line, adlfs, obstore and KServe; the first that is set is used
ACCOUNTS = ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME")
KEYS = ("AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCESS_KEY")
SAS_TOKENS = ("AZURE_STORAGE_SAS_TOKEN",)
CONNECTION_STRINGS = ("AZURE_STORAGE_CONNECTION_STRING",)
ENDPOINTS = ("AZURE_STORAGE_SERVICE_ENDPOINT", "AZURE_STORAGE_ENDPOINT")


@dataclass(frozen=True, kw_only=True, slots=True)
class AccountAccess:
    """What is known of an account before Entra is asked.

    Attributes:
        origin: of `key` or `sas`, for messages; "" for none.
        endpoint: URL of the account's blobs, without a slash at its end.
        key: of the account, decoded.
        sas: a shared access signature of the user, as the query of a URL.
        note: why variables that are set were not used, for messages; "" where there are none.
    """

    origin: str
    endpoint: str
    key: bytes | None = None
    sas: Secret | None = None
    note: str = ""

    def __repr__(self) -> str:
        return f"AccountAccess({self.endpoint!r}, {self.origin!r})"


def access_of_file(account: str, origin: str, fields: Mapping[str, Secret], env: Mapping[str, str]) -> AccountAccess:
    """Return what a credential file says; neither key nor SAS where it holds a service principal.

    Args:
        fields: of the store's row.
        env: variables, of which an endpoint of this account is read.

    Raises:
        CredentialError: a value cannot be used, or is of another account.
    """
    if (named := fields.get("account_name")) is not None and named.reveal() != account:
        raise _other_account(origin, "account_name", named.reveal(), account)
    if (text := fields.get("connection_string")) is not None:
        return _of_connection_string(account, origin, text.reveal())
    endpoint = _endpoint_of_env(account, env) or _cloud_endpoint(account)
    if (key := fields.get("account_key")) is not None:
        return AccountAccess(origin=origin, endpoint=endpoint, key=_decoded(key.reveal(), f"{origin}: account_key"))
    if (sas := fields.get("sas_token")) is not None:
        return AccountAccess(origin=origin, endpoint=endpoint, sas=_checked(sas.reveal(), f"{origin}: sas_token"))
    return AccountAccess(origin=origin, endpoint=endpoint)


def access_of_env(account: str, env: Mapping[str, str]) -> AccountAccess:
    """Return what the variables `AZURE_STORAGE_*` say of this account; those of another account are not used.

    Raises:
        CredentialError: a value of this account cannot be used.
    """
    note = ""
    name, text = _first(env, CONNECTION_STRINGS)
    if text:
        if _account_of(members_of(text), account) == account:
            return _of_connection_string(account, name, text)
        note = f"{name} is of another account"
    endpoint = _endpoint_of_env(account, env) or _cloud_endpoint(account)
    readers: list[tuple[tuple[str, ...], Callable[[str, str], AccountAccess]]] = [
        (KEYS, lambda name, key: AccountAccess(origin=name, endpoint=endpoint, key=_decoded(key, name))),
        (SAS_TOKENS, lambda name, sas: AccountAccess(origin=name, endpoint=endpoint, sas=_checked(sas, name))),
    ]
    for names, read in readers:
        name, text = _first(env, names)
        if text and _first(env, ACCOUNTS)[1] == account:
            return read(name, text)
        if text:
            note = f"{name} is not used, as {ACCOUNTS[0]} is {_first(env, ACCOUNTS)[1] or 'not set'}"
    return AccountAccess(origin="", endpoint=endpoint, note=note)


def members_of(text: str) -> dict[str, str]:
    """Return the members of a connection string by their names in lower case.

    >>> members_of("AccountName=a;AccountKey=eA==;")
    {'accountname': 'a', 'accountkey': 'eA=='}
    """
    pairs = (part.partition("=") for part in text.strip().split(";") if part.strip())
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _of_connection_string(account: str, origin: str, text: str) -> AccountAccess:
    members = members_of(text)
    where = f"{origin}: connection string"
    if (named := _account_of(members, account)) != account:
        raise _other_account(origin, "the connection string", named, account)
    if members.get("usedevelopmentstorage", "").lower() == "true":
        defaults = {"blobendpoint": f"http://127.0.0.1:10000/{_EMULATOR}", "accountkey": _EMULATOR_KEY}
        members = {**defaults, **members}
    suffix = members.get("endpointsuffix") or _PUBLIC_CLOUD
    protocol = members.get("defaultendpointsprotocol") or "https"
    endpoint = check_endpoint(members.get("blobendpoint") or f"{protocol}://{account}.blob.{suffix}", where)
    if sas := members.get("sharedaccesssignature"):
        return AccountAccess(origin=origin, endpoint=endpoint, sas=_checked(sas, where))
    if key := members.get("accountkey"):
        return AccountAccess(origin=origin, endpoint=endpoint, key=_decoded(key, where))
    raise CredentialError(
        f"{where}: found neither AccountKey nor SharedAccessSignature, expected one of them",
        hint="Copy the connection string again, as the portal shows it.",
    )


def _account_of(members: Mapping[str, str], wanted: str) -> str:
    """Return the account that a connection string names, `wanted` where its endpoint may be that; "" for none."""
    if members.get("usedevelopmentstorage", "").lower() == "true":
        return members.get("accountname") or _EMULATOR
    if named := members.get("accountname"):
        return named
    labels = _labels(members.get("blobendpoint", ""))
    return wanted if wanted in labels else labels[0]


def _labels(endpoint: str) -> tuple[str, str]:
    """Return the two parts of an endpoint that may be its account: the first label of its host, and its path."""
    try:
        parts = urlsplit(endpoint)
    except ValueError:  # a bad address
        return "", ""
    return (parts.hostname or "").partition(".")[0], parts.path.strip("/")


def _other_account(origin: str, what: str, found: str, account: str) -> CredentialError:
    return CredentialError(
        f"{origin}: {what} is of the account {found[:80]!r}, expected {account!r}, that of the source",
        hint="Give the credential of that account, or correct the account in repo_id.",
    )


def _endpoint_of_env(account: str, env: Mapping[str, str]) -> str:
    """Return the endpoint that a variable names for this account: by `AZURE_STORAGE_ACCOUNT`, or in the URL itself."""
    name, text = _first(env, ENDPOINTS)
    if not text:
        return ""
    endpoint = check_endpoint(text, name)
    return endpoint if account in (*_labels(endpoint), _first(env, ACCOUNTS)[1]) else ""


def check_endpoint(text: str, where: str) -> str:
    """Return an endpoint without a slash at its end. Raises CredentialError where it is none."""
    try:
        parts = urlsplit(text.strip())
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:  # a port that is no number
        good = False
    if not good or parts.query or parts.fragment or parts.username is not None or re.search(r"[^!-~]", text.strip()):
        raise CredentialError(
            f"{where}: the endpoint is no URL of an account's blobs, expected such as https://ACCOUNT.blob.{_PUBLIC_CLOUD}",
            hint="Correct the endpoint: it has no user, query or fragment.",
        )
    return text.strip().rstrip("/")


def _cloud_endpoint(account: str) -> str:
    return f"https://{account}.blob.{_PUBLIC_CLOUD}"


def _decoded(key: str, where: str) -> bytes:
    try:
        raw = binascii.a2b_base64(key.strip().encode("ascii"), strict_mode=True)
    except (ValueError, UnicodeEncodeError):  # binascii.Error is a ValueError
        raw = b""
    if not raw:
        raise CredentialError(
            f"{where}: the account key is not base64, expected one as the portal shows it", hint="Copy the key again."
        ) from None
    return raw


def _checked(sas: str, where: str) -> Secret:
    """Return a user's SAS without its question mark. Raises CredentialError where it is none."""
    query = sas.strip().removeprefix("?")
    if re.search(r"[^!-~]|[#?]", query) or "://" in query or not parse_qs(query).get("sig"):
        raise CredentialError(
            f"{where}: found no shared access signature, expected the query of one, with sv, sp and sig",
            hint="Copy the SAS token, not its URL.",
        )
    return Secret(query)


def _first(env: Mapping[str, str], names: tuple[str, ...]) -> tuple[str, str]:
    """Return (name, value) of the first variable that is set; "" where none is."""
    return next(((name, value) for name in names if (value := env.get(name, "").strip())), (names[0], ""))
