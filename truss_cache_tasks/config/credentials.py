"""The only reader of secrets; a Secret prints as ***."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from truss_cache_tasks.config.entries import Entry
from truss_cache_tasks.config.settings import Settings


class Secret:
    """A value that must not be printed; `reveal()` is the only way to it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the secret itself, for the one request that needs it."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__


@dataclass(frozen=True)
class Credential:
    """What an entry authenticates with.

    Args:
        origin: where it was found, for people (`data/s3_credentials.json`, `HF_TOKEN`); never a value.
        fields: Hugging Face: `token`. S3: `aws_access_key_id`, `aws_secret_access_key`, and where given `aws_region`,
            `aws_session_token`. GCS: `json`, the whole service-account file as text.
    """

    origin: str
    fields: Mapping[str, Secret]


def find_credential(entry: Entry, settings: Settings) -> Credential | None:
    """Return the entry's credential by the order of DESIGN section 5, as far as it is a file, a variable or the login
    token; None where only the vendor's ambient chain or anonymous access is left.

    Raises:
        CredentialError: the file is there and cannot be used; names the key that is missing, never a value.
    """
    raise NotImplementedError


def fingerprint(entry: Entry, settings: Settings) -> str | None:
    """Return SHA-256 of the bytes of the credential *file* that `find_credential` would use; None if there is none.

    Never raises for what is in the file: judging an entry must not fail on a malformed secret.
    """
    raise NotImplementedError
