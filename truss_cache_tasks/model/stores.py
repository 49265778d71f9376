"""The registry of stores: one row each, found by the scheme of a URI.

A store is added by a row here and the class that its row names; no other module has a list of the stores. Rows are
values: `config/` reads URIs and credentials by them, `sources/registry.py` imports the class. The row of another
package is added by `config/plugins.py`, when a config has its scheme.
"""

# No `from __future__ import annotations`: of each annotation that is a text, NamedTuple compiles a ForwardRef

import re
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, StrEnum
from typing import NamedTuple

from truss_cache_tasks.model.credentials import AuthMethod, JsonCredential, LoginCredential, TokenCredential
from truss_cache_tasks.model.s3_service import AWS, S3Service


class StoreKind(StrEnum):
    """The stores of this package, by the name that `kind:` has in a Truss config. Other rows have other names."""

    HUGGINGFACE = "hf"
    GCS = "gcs"
    S3 = "s3"
    AZURE = "azure"
    LOCAL = "file"


class UriForm(Enum):
    """What a URI of a store names."""

    REPO = "repo"  # scheme://org/name[@revision]: the Hugging Face Hub alone, whose cache has a layout of its own
    BUCKET = "bucket"  # scheme://bucket/prefix; a store may have more than one name in place of `bucket`
    FOLDER = "folder"  # scheme://path on this machine, relative to the config
    FILE = "file"  # scheme://host[:port]/path[?query]: one file of a web server, whose names are a part of the path


class NamePart(NamedTuple):
    """One name in the URIs of a store, between two slashes.

    Attributes:
        what: it names, for messages: `bucket`.
        pattern: regular expression of the whole name.
        rule: the pattern in words.
        example: stands for a name in hints; "" for `what` in capitals.
    """

    what: str
    pattern: str
    rule: str
    example: str = ""


_BUCKET = NamePart(what="bucket", pattern="[A-Za-z0-9][A-Za-z0-9._-]{0,254}", rule="letters, digits, '-', '_', '.'")


class Store(NamedTuple):
    """One row of the registry.

    Attributes:
        schemes: of its URIs; the first is the one that keys, names and messages have, except for UriForm.FILE, whose
            scheme is a part of the address.
        opens: `module:Class` of its `Source`, imported when something is to be asked.
        uri_form: what its URIs name. BUCKET for every row that is not of this package.
        names: of UriForm.BUCKET, what is before the prefix; joined by slashes, they are `SourceRef.root`.
        kind: the value of `kind:` in a config that means this store; "" where there is none.
        credential: what its credential files hold; None for a store without any.
        variables: names of the environment that its source reads; one that ends in `_` stands for all that begin so.
        cache_folder: folder of the model cache in which `{bucket}/{key}` lies; "" for the model cache itself, None for
            one that is called like the scheme.
        versions: regular expression of `RemoteFile.version`, which becomes a part of headers and URLs.
        lists_known: its source returns `Pins.known` without a request.
        version_is_all: a lock needs no more than `RemoteFile.version` to name bytes: it can be made of a manifest.
        auth_methods: of a `Role` that its source may get in place of a credential.
        refused: (end of a bucket's name in lower case, what such a bucket is, hint) of buckets that it cannot read.
        s3: how its server is reached, where `opens` is the source of S3.
    """

    schemes: tuple[str, ...]
    opens: str
    uri_form: UriForm = UriForm.BUCKET
    names: tuple[NamePart, ...] = (_BUCKET,)
    kind: str = ""
    credential: TokenCredential | JsonCredential | LoginCredential | None = None
    variables: tuple[str, ...] = ()
    cache_folder: str | None = None
    versions: str = "[!-~]+"
    lists_known: bool = False
    version_is_all: bool = False
    auth_methods: tuple[AuthMethod, ...] = ()
    refused: tuple[tuple[str, str, str], ...] = ()
    s3: S3Service = AWS

    @property
    def scheme(self) -> str:
        """The scheme by which the store is known."""
        return self.schemes[0]

    @property
    def is_hub(self) -> bool:
        """Whether it is the Hugging Face Hub: its repos have revisions, and go to the hub cache."""
        return self.uri_form is UriForm.REPO

    @property
    def is_bucket(self) -> bool:
        """Whether its URIs name a bucket and a prefix."""
        return self.uri_form is UriForm.BUCKET

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine: the same URI names another one beside another config."""
        return self.uri_form is UriForm.FOLDER

    def split(self, rest: str) -> tuple[list[str], str]:
        """Return the names, "" for one that is not there, and the prefix of a bucket's URI without its scheme."""
        parts = rest.split("/", len(self.names))
        names = [*parts, *[""] * len(self.names)][: len(self.names)]
        return names, "".join(parts[len(self.names) :])

    @property
    def is_web(self) -> bool:
        """Whether each of its URIs names one file of a web server."""
        return self.uri_form is UriForm.FILE

    @property
    def folder(self) -> str:
        """Where its buckets lie, relative to the model cache; "" for the model cache itself."""
        return self.scheme if self.cache_folder is None else self.cache_folder


# Buckets whose requests sessions sign, and whose listings have neither order nor digests
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/s3-express-differences.html
_DIRECTORY_BUCKET = (
    "an S3 directory bucket (S3 Express One Zone), which is not supported",
    "Copy the weights to a general purpose bucket.",
)

HUGGINGFACE = Store(
    schemes=("hf",),
    kind=StoreKind.HUGGINGFACE,
    uri_form=UriForm.REPO,
    opens="truss_cache_tasks.sources.huggingface:HuggingFaceSource",
    credential=TokenCredential(
        variables=("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
        begins_with=("hf_", "api_org_"),  # tokens of users and of organisations
        is_hub=True,
    ),
    variables=("HF_ENDPOINT",),
    lists_known=True,
)
GCS = Store(
    schemes=("gs", "gcs"),
    kind=StoreKind.GCS,
    opens="truss_cache_tasks.sources.gcs:GcsSource",
    credential=JsonCredential(
        file="service_account.json",
        required=("client_email", "private_key"),
        fixed=(("type", "service_account"),),
        defaults=(("token_uri", "https://oauth2.googleapis.com/token"),),  # generation 2 of Truss leaves it out
        is_whole=True,
        remedy="Download the key of the service account again.",
        ambient=("GOOGLE_APPLICATION_CREDENTIALS", "gcloud's login", "the metadata server"),
    ),
    variables=(
        "STORAGE_EMULATOR_HOST",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "CLOUDSDK_",
        "GCE_METADATA_",
        "NO_GCE_CHECK",
        "HOME",
    ),
    cache_folder="",
    versions="[0-9]{1,19}",  # generations
    lists_known=True,
    version_is_all=True,
    auth_methods=(AuthMethod.GCP_OIDC,),
)
_S3_SOURCE = "truss_cache_tasks.sources.s3:S3Source"
_S3_KEYS = ("aws_access_key_id", "aws_secret_access_key")
S3 = Store(
    schemes=("s3",),
    kind=StoreKind.S3,
    opens=_S3_SOURCE,
    credential=JsonCredential(
        file="s3_credentials.json",
        required=_S3_KEYS,
        optional=("aws_region", "aws_session_token"),
        prefix="aws_",
        ambient=("boto3's own chain",),
    ),
    variables=("AWS_", "HOME"),
    cache_folder="",
    lists_known=True,
    auth_methods=(AuthMethod.AWS_OIDC, AuthMethod.AWS_ASSUME_ROLE),
    refused=(("--x-s3", *_DIRECTORY_BUCKET), ("--xa-s3", *_DIRECTORY_BUCKET)),
)
# https://learn.microsoft.com/azure/azure-resource-manager/management/resource-name-rules#microsoftstorage
AZURE = Store(
    schemes=("azure", "az"),
    kind=StoreKind.AZURE,
    names=(
        NamePart(what="account", pattern="[a-z0-9]{3,24}", rule="3 to 24 lower-case letters and digits"),
        NamePart(
            what="container",
            pattern=r"(?!.*--)[a-z0-9][a-z0-9-]{1,61}[a-z0-9]|\$root|\$web",
            rule="3 to 63 lower-case letters, digits and single '-'",
        ),
    ),
    opens="truss_cache_tasks.sources.azure:AzureSource",
    credential=JsonCredential(
        file="azure_credentials.json",
        optional=("account_name",),
        alternatives=(
            ("account_key",),
            ("sas_token",),
            ("connection_string",),
            ("tenant_id", "client_id", "client_secret"),
        ),
        ambient=("AZURE_STORAGE_*", "Entra"),
    ),
    # those of the account, and those that azure-identity reads
    variables=("AZURE_", "IDENTITY_", "MSI_", "IMDS_ENDPOINT", "HOME"),
    cache_folder="",
    lists_known=True,
    version_is_all=True,
)
# A bucket of a jurisdiction is missing or refused at the plain endpoint.
_JURISDICTION = (
    "For a bucket of a jurisdiction (eu, us, fedramp) set "
    "TRUSS_CACHE_R2_ENDPOINT=https://{account_id}.eu.r2.cloudflarestorage.com."
)
R2 = Store(  # https://developers.cloudflare.com/r2/api/s3/api/
    schemes=("r2",),
    opens=_S3_SOURCE,
    credential=JsonCredential(
        file="r2_credentials.json", required=_S3_KEYS, optional=("aws_session_token",), prefix="aws_"
    ),
    variables=("TRUSS_CACHE_R2_ENDPOINT",),
    cache_folder="",
    lists_known=True,
    names=(
        NamePart(
            what="bucket",
            pattern=r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}\.[A-Za-z0-9][A-Za-z0-9._-]{0,190}",
            rule="the id of the account, '.', the name of the bucket",
            example="ACCOUNT_ID.BUCKET",
        ),
    ),
    s3=S3Service(
        endpoint="https://{account_id}.r2.cloudflarestorage.com",
        variables=("TRUSS_CACHE_R2_ENDPOINT",),
        region="auto",
        has_account=True,
        reads_aws=False,
        is_anonymous=False,
        permission="Object Read",
        denied=f"Give the API token Object Read on this bucket. {_JURISDICTION}",
        elsewhere=_JURISDICTION,
    ),
)
COREWEAVE = Store(  # https://docs.coreweave.com/products/storage/object-storage
    schemes=("cw",),
    opens=_S3_SOURCE,
    credential=JsonCredential(
        file="cw_credentials.json",
        required=_S3_KEYS,
        optional=("aws_region", "aws_session_token"),
        prefix="aws_",
        ambient=("boto3's own chain",),
    ),
    variables=("AWS_", "HOME"),
    cache_folder="",
    lists_known=True,
    names=(
        NamePart(
            what="bucket",
            pattern="[a-z0-9][a-z0-9-]{1,61}[a-z0-9]",
            rule="3 to 63 lower-case letters, digits, '-'",  # a name of a host
        ),
    ),
    s3=S3Service(
        endpoint="https://cwobject.com",
        region="auto",
        in_host=True,
        denied="Grant {action} by a policy of the organization or the bucket.",
        elsewhere="If AWS_ENDPOINT_URL_S3 is set for another store, unset it.",
    ),
)
LOCAL = Store(
    schemes=("file",),
    kind=StoreKind.LOCAL,
    uri_form=UriForm.FOLDER,
    opens="truss_cache_tasks.sources.local:LocalSource",
    cache_folder="",
)
HTTPS = Store(
    schemes=("https", "http"),  # http for loopback addresses alone
    uri_form=UriForm.FILE,
    opens="truss_cache_tasks.sources.https:HttpsSource",
    credential=LoginCredential(variables=("NETRC",)),
    cache_folder="",
    # a strong ETag, or a Last-Modified with '_' in place of blanks
    versions=r'"[!#-~]+"|[A-Z][a-z]{2},_[0-9]{2}_[A-Z][a-z]{2}_[0-9]{4}_[0-9]{2}:[0-9]{2}:[0-9]{2}_GMT',
    lists_known=True,
)

_rows: dict[str, Store] = {
    scheme: store for store in (HUGGINGFACE, GCS, S3, R2, COREWEAVE, AZURE, LOCAL, HTTPS) for scheme in store.schemes
}
OURS = tuple(dict.fromkeys(_rows.values()))  # the rows of this package
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_OPENS = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", re.ASCII)


def stores() -> tuple[Store, ...]:
    """Return every row, those of this package first."""
    return tuple(dict.fromkeys(_rows.values()))


def find_store(scheme: str) -> Store | None:
    """Return the row of a scheme, None where there is none."""
    return _rows.get(scheme)


def store_of(scheme: str) -> Store:
    """Return the row of a scheme that was found before. Raises LookupError."""
    if (store := find_store(scheme)) is None:
        raise LookupError(f"no store is registered for {scheme}://")
    return store


def register_store(store: Store) -> None:
    """Add a row, from now on and for the whole process, before a config is read that uses it.

    Raises:
        ValueError: a scheme or the kind is taken; a field has no value that it can have; `cache_folder` is no folder
            below the model cache; or its URIs name no buckets: the layouts of repos and folders are those of the Hub
            and of `file://`.
    """
    _check_row(store)
    for scheme in store.schemes:
        if scheme in _rows:
            raise ValueError(f"{scheme}:// is registered already, for {_rows[scheme].opens}")
    if store.kind and store.kind in (row.kind for row in stores()):
        raise ValueError(f"{store.scheme}://: kind {store.kind!r} is registered already")
    _rows.update(dict.fromkeys(store.schemes, store))


def _check_row(store: Store) -> None:
    """Raise ValueError for a row that no store of another package can have."""
    if not isinstance(store.schemes, tuple) or not store.schemes:
        raise ValueError(f"schemes is {store.schemes!r}, expected a tuple of one or more")
    for scheme in store.schemes:
        if not isinstance(scheme, str) or not _SCHEME.fullmatch(scheme):
            raise ValueError(f"the scheme {scheme!r} is not in lower case, letters, digits, '+', '-' and '.'")
    if not isinstance(store.opens, str) or not _OPENS.fullmatch(store.opens):
        raise ValueError(f"{store.scheme}://: opens is {store.opens!r}, expected 'package.module:Class'")
    if not isinstance(store.variables, tuple) or not all(isinstance(name, str) and name for name in store.variables):
        raise ValueError(f"{store.scheme}://: variables is {store.variables!r}, expected a tuple of names")
    names = store.names if isinstance(store.names, tuple) else ()
    if not names or not all(isinstance(name, NamePart) and _is_expression(name.pattern) for name in names):
        raise ValueError(f"{store.scheme}://: names is {store.names!r}, expected a tuple of NamePart")
    if not isinstance(store.kind, str) or not isinstance(store.cache_folder, str | None):
        raise ValueError(f"{store.scheme}://: kind or cache_folder is no text")
    if not _is_expression(store.versions):
        raise ValueError(f"{store.scheme}://: versions is {store.versions!r}, expected a regular expression")
    if not isinstance(store.credential, TokenCredential | JsonCredential | LoginCredential | None):
        raise ValueError(f"{store.scheme}://: credential is {store.credential!r}, expected one of the classes")
    if not store.is_bucket:
        raise ValueError(f"{store.scheme}://: a registered store has URIs that name a bucket and a prefix")
    if store.folder and not {"", ".", ".."}.isdisjoint(store.folder.split("/")):
        raise ValueError(f"{store.scheme}://: cache_folder {store.folder!r} is no folder of the model cache")


def _is_expression(text: object) -> bool:
    try:
        return isinstance(text, str) and bool(re.compile(text))
    except re.error:
        return False


@contextmanager
def registered(store: Store) -> Iterator[Store]:
    """Add a row for the length of a `with` block, as a test wants it. Raises as `register_store`."""
    register_store(store)
    try:
        yield store
    finally:
        for scheme in store.schemes:
            del _rows[scheme]
