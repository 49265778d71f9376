"""Credentials: the values that a source gets, and what the row of a store says about its credential files."""

# No `from __future__ import annotations`: of each annotation that is a text, NamedTuple compiles a ForwardRef

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple


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


class Credential(NamedTuple):
    """What an entry authenticates with.

    Attributes:
        origin: where it was found, for people (`data/s3_credentials.json`, `HF_TOKEN`); never a value.
        fields: by the names of the store's row: `token`, `json`, or those of its JsonCredential.
    """

    origin: str
    fields: Mapping[str, Secret]


class AuthMethod(StrEnum):
    """The values of `auth_method` in Truss's `weights` that name a role, not a secret."""

    AWS_OIDC = "AWS_OIDC"
    AWS_ASSUME_ROLE = "AWS_ASSUME_ROLE"
    GCP_OIDC = "GCP_OIDC"


class Role(NamedTuple):
    """Rights of a cloud's account that the source obtains with what this machine has; it never asks without them.

    Attributes:
        method: how.
        account: whose rights: the ARN of a role, or the name of a service account.
        scope: where that is asked: a region, or a workload identity provider.
    """

    method: AuthMethod
    account: str
    scope: str


class NoCredential(NamedTuple):
    """No credential was found in a file, a variable or a login; the source may look elsewhere, or use none.

    Attributes:
        looked_at: the places, in order, those where the source looks included.
        note: why other places were not looked at; "" where there are none.

    >>> str(NoCredential(("/secrets/hf_access_token", "HF_TOKEN")))
    'looked at /secrets/hf_access_token and HF_TOKEN'
    """

    looked_at: tuple[str, ...] = ()
    note: str = ""

    def __str__(self) -> str:
        *others, last = self.looked_at or ("no place",)
        return f"looked at {', '.join(others)}{' and ' if others else ''}{last}{'; ' if self.note else ''}{self.note}"


class TokenCredential(NamedTuple):
    """A credential that is one token, alone in a file or a variable. The source gets it as the field `token`.

    Attributes:
        variables: names; the first that is set is taken, after the secret.
        begins_with: what a token begins with that a secret named by the config holds; () takes any.
        is_hub: the store of Truss's default secret, of huggingface_hub's login, and of the variable that disables both.
    """

    variables: tuple[str, ...] = ()
    begins_with: tuple[str, ...] = ()
    is_hub: bool = False


class JsonCredential(NamedTuple):
    """A credential that is a JSON object of texts, in the Truss's data folder or in the secret that the entry names.

    Attributes:
        file: its name in the data folder.
        required, optional: the names of its fields. The source gets those that are there.
        alternatives: sets of further fields, of which a file holds all of one set, and none of the others.
        prefix: of these names, which a file may leave out.
        fixed: (name, value) of fields that may be left out and must have this value.
        defaults: (name, value) of fields that get this value where they are left out.
        is_whole: the source gets the whole document as the field `json` instead of single fields.
        remedy: the hint where a field is wrong; "" names the field that has to be added.
        ambient: where the source itself looks after these files, for messages.
    """

    file: str
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    alternatives: tuple[tuple[str, ...], ...] = ()
    prefix: str = ""
    fixed: tuple[tuple[str, str], ...] = ()
    defaults: tuple[tuple[str, str], ...] = ()
    is_whole: bool = False
    remedy: str = ""
    ambient: tuple[str, ...] = ()


class LoginCredential(NamedTuple):
    """A login at a web server, in the secret that the entry names, or in netrc.

    The source gets the field `authorization`, the value of that header, the field `query`, which is added to the
    query of the URL (a signature), or both.

    Attributes:
        variables: that name the netrc file, the first that is set; else it is `~/.netrc`.
    """

    variables: tuple[str, ...] = ()
