"""Azure Blob Storage against Azurite, which checks keys, SAS and tokens."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import logging
import pickle
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote

import pytest
from azure.storage.blob._shared_access_signature import BlobSharedAccessSignature
from entries import entry, open_with, settings
from servers.azurite import (
    ACCOUNT,
    CLIENT,
    CLIENT_SECRET,
    KEYS,
    OTHER_ACCOUNT,
    TENANT,
    VERSION,
    WRONG_KEY,
    Azurite,
    Entra,
    connection_string,
    token,
)
from servers.hostile import hostile_server
from servers.tools import serving

from truss_cache_tasks import __version__, transfer
from truss_cache_tasks.errors import (
    AccessDenied,
    CacheTaskError,
    CredentialError,
    MissingPackage,
    NotFound,
    NothingSelected,
    PermanentError,
    SourceChanged,
    TransientError,
    WrongAnswer,
)
from truss_cache_tasks.events import ignore_events
from truss_cache_tasks.model.credentials import Secret
from truss_cache_tasks.model.listing import Digest, RemoteFile
from truss_cache_tasks.network.exchange import ExchangeLimits
from truss_cache_tasks.network.retry import RetryLimits
from truss_cache_tasks.sources.azure import AzureSource, entra, source
from truss_cache_tasks.sources.azure.account import ACCOUNTS, access_of_file
from truss_cache_tasks.sources.azure.identity import Authorization
from truss_cache_tasks.sources.azure.signing import container_sas
from truss_cache_tasks.sources.testing import DATA, ODD_NAMES, PLAIN_NAMES, SourceContract, by_path, read, text_of

pytest_plugins = ["servers.fixtures_azure"]
pytestmark = pytest.mark.slow  # some of them start a server of their own

QUICK = ExchangeLimits(retry=RetryLimits(attempts=3, backoff_s=0.01))


@dataclass
class Place:
    """A prefix of a container of its own, and the credential of its sources."""

    azure: Azurite
    folder: Path
    credential: Mapping[str, str] | None
    wrong: Mapping[str, str]
    public_access: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    prefix: str = "models/m"
    secrets: tuple[str, ...] = (*KEYS.values(), WRONG_KEY, CLIENT_SECRET, "sig=")

    def __post_init__(self) -> None:
        self.container = self.azure.container(public=self.public_access)

    def put(self, path: str, data: bytes) -> None:
        self.azure.put(self.container, f"{self.prefix}/{path}", data)

    def put_beside(self, suffix: str, data: bytes) -> None:
        self.azure.put(self.container, self.prefix + suffix, data)

    def delete(self, path: str) -> None:
        self.azure.delete(self.container, f"{self.prefix}/{path}")

    def at(self, uri: str, credential: Mapping[str, str] | None, **fields: Any) -> AzureSource:
        truss = self.folder / uuid.uuid4().hex
        (truss / "data").mkdir(parents=True)
        if credential is not None:
            (truss / "data" / "azure_credentials.json").write_text(json.dumps(credential))
        network = settings(**{**self.azure.env, **self.env})
        return open_with(AzureSource, entry(uri, config=truss / "config.yaml", **fields), network, limits=QUICK)

    def source(self, **fields: Any) -> AzureSource:
        return self.at(f"azure://{ACCOUNT}/{self.container}/{self.prefix}", self.credential, **fields)

    def by(self, credential: Mapping[str, str] | None) -> AzureSource:
        return self.at(f"azure://{ACCOUNT}/{self.container}/{self.prefix}", credential)

    def whole(self) -> AzureSource:
        return self.at(f"azure://{ACCOUNT}/{self.container}", self.credential)

    def source_of(self, path: str) -> AzureSource:
        return self.at(f"azure://{ACCOUNT}/{self.container}/{self.prefix}/{path}", self.credential)

    def missing(self) -> AzureSource:
        return self.at(f"azure://{ACCOUNT}/no-such-container/m", self.credential)

    def refused(self) -> AzureSource:
        return self.by(self.wrong)

    def public(self) -> Place:
        return replace(self, credential=None, public_access="container")


class TestSharedKey(SourceContract):
    many = 120  # with pages of 50
    names = (*PLAIN_NAMES, *ODD_NAMES, "p//y", "tab\tbed.bin", "dot.")

    def test_a_listing_longer_than_a_page_is_whole(  # type: ignore[override]  # a page of the store has 5,000
        self, store: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(source, "PAGE", 50)
        super().test_a_listing_longer_than_a_page_is_whole(store)

    @pytest.fixture
    def store(self, azure: Azurite, tmp_path: Path) -> Place:
        return Place(azure, tmp_path, {"account_key": KEYS[ACCOUNT]}, {"account_key": WRONG_KEY})


class OtherCredential(SourceContract):
    """The contract for another credential: names and pages, which take long, are the same for all."""

    many = 3
    names = (*PLAIN_NAMES, "a b+#%2F?x&y=;.bin")


class TestSas(OtherCredential):
    @pytest.fixture
    def store(self, azure: Azurite, tmp_path: Path) -> Place:
        sas = azure.sas()
        tampered = sas.replace("sig=", "sig=A")
        return Place(azure, tmp_path, {"sas_token": sas}, {"sas_token": tampered})


class TestEntra(OtherCredential):
    @pytest.fixture
    def store(self, azure_tls: Azurite, token_server: Entra, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
        monkeypatch.setenv("SSL_CERT_FILE", str(azure_tls.bundle))
        ours = {"tenant_id": TENANT, "client_id": CLIENT, "client_secret": CLIENT_SECRET}
        return Place(azure_tls, tmp_path, ours, {"account_key": WRONG_KEY}, env=token_server.env)


# Listing


@pytest.fixture
def store(azure: Azurite, tmp_path: Path) -> Place:
    return Place(azure, tmp_path, {"account_key": KEYS[ACCOUNT]}, {"account_key": WRONG_KEY})


def test_our_signature_is_the_one_of_the_sdk() -> None:
    key = base64.b64decode(KEYS[ACCOUNT])
    ours = parse_qs(container_sas(ACCOUNT, "box", key, expires=4_000_000_000, is_https=True))
    until = datetime.fromtimestamp(4_000_000_000, UTC)
    signer = BlobSharedAccessSignature(ACCOUNT, KEYS[ACCOUNT])
    theirs = parse_qs(signer.generate_container("box", permission="rl", expiry=until, protocol="https"))
    assert {**theirs, "sv": [VERSION], "sig": []} == {**ours, "sig": []}
    # the SDK signs for its own version alone, which is the one line that differs
    text = "\n".join(
        ["rl", "", ours["se"][0], f"/blob/{ACCOUNT}/box", "", "", "https", theirs["sv"][0], "c", *[""] * 7]
    )
    assert base64.b64encode(hmac.digest(key, text.encode(), "sha256")).decode() == theirs["sig"][0]
    signed = text.replace(theirs["sv"][0], VERSION)
    assert base64.b64encode(hmac.digest(key, signed.encode(), "sha256")).decode() == ours["sig"][0]


def test_the_md5_of_the_listing_is_the_digest_and_a_blob_of_blocks_has_none(store: Place) -> None:
    store.put("small.bin", b"small")
    store.azure.put_in_blocks(store.container, f"{store.prefix}/large.bin", b"a" * 10, b"b" * 10)
    told = hashlib.md5(b"told", usedforsecurity=False).digest()
    store.azure.put_in_blocks(store.container, f"{store.prefix}/told.bin", b"other", md5=told)
    files = by_path(store.source().listing())
    assert files["small.bin"].digest == Digest("md5", hashlib.md5(b"small", usedforsecurity=False).hexdigest())
    assert files["large.bin"].digest is None
    assert files["told.bin"].digest == Digest("md5", told.hex())  # as it was told, which the service does not check


def test_a_folder_of_a_hierarchical_namespace_is_no_file(store: Place) -> None:
    for folder in ("", "/sub", "/sub/deep"):
        store.azure.put(store.container, store.prefix + folder, b"", metadata="hdi_isfolder")
    with pytest.raises(NothingSelected, match="only folder markers"):
        store.source().listing()
    store.put("sub/deep/w.bin", b"w")
    store.put("empty.bin", b"")
    store.azure.put(store.container, f"{store.prefix}/named.bin", b"n", metadata="hdi_isfolder")
    assert set(by_path(store.source().listing())) == {"sub/deep/w.bin", "empty.bin", "named.bin"}
    assert store.source().listing().warnings == ()


def test_an_archived_blob_fails_where_it_is_located_and_others_do_not(store: Place) -> None:
    store.put("cold.bin", b"cold")
    store.put("warm.bin", b"warm")
    store.azure.archive(store.container, f"{store.prefix}/cold.bin")
    source = store.source()
    files = by_path(source.listing())
    assert read(source.locate(files["warm.bin"])).data == b"warm"
    said = refusal_of(lambda: source.locate(files["cold.bin"]), AccessDenied)
    assert f"{store.prefix}/cold.bin: the blob is in the archive tier and cannot be read (archived)" in said
    assert "az storage blob set-tier" in said
    fresh = store.source()  # as where a lock file gave the listing
    answer = read(fresh.locate(files["cold.bin"]))
    error = fresh.explain(files["cold.bin"], answer.status, answer.headers, answer.data)
    assert "the blob is in the archive tier and cannot be read (409 BlobArchived)" in str(error)


def test_a_replaced_or_deleted_blob_has_changed(store: Place) -> None:
    store.put("w.bin", b"before")
    source = store.source()
    (file,) = source.listing().files
    changes: list[Callable[[], None]] = [lambda: store.put("w.bin", b"after!"), lambda: store.delete("w.bin")]
    for change in changes:
        change()
        answer = read(source.locate(file))
        error = source.explain(file, answer.status, answer.headers, answer.data)
        assert isinstance(error, SourceChanged)
        assert "replaced or deleted since it was listed (412 ConditionNotMet)" in str(error)


def test_one_signature_serves_all_blobs_and_none_is_in_a_url(store: Place) -> None:
    for name in ("a.bin", "b.bin"):
        store.put(name, b"x")
    source = store.source()
    first, second = (source.locate(file) for file in source.listing().files)
    assert first.secret_query is second.secret_query
    assert first.secret_query is not None
    assert "sig=" in first.secret_query.reveal()
    assert first.headers["x-ms-version"] == VERSION
    assert first.expires is not None
    assert 3000 < first.expires - time.time() <= 3600
    assert "sig" not in f"{first!r}{first.url}{source!r}{source.locate(by_path(source.listing())['a.bin'])}"


# Answers that Azurite does not give: those of the service, as its documentation has them

PAGE = "<?xml version='1.0' encoding='utf-8'?><EnumerationResults>{}<NextMarker>{}</NextMarker></EnumerationResults>"
BLOB = (
    "<Blob><Name{}>{}</Name><Properties><Content-Length>1</Content-Length><Etag>0x8D1</Etag>"
    "<Content-MD5>{}</Content-MD5><Content-CRC64 />{}</Properties><Metadata /></Blob>"
)
MD5 = base64.b64encode(bytes(16)).decode()


def page(*blobs: tuple[str, str], marker: str = "") -> bytes:
    """Return a page of (attributes of the name, name)."""
    found = "".join(BLOB.format(*blob, MD5, "") for blob in blobs)
    return b"\xef\xbb\xbf" + PAGE.format(f"<Blobs>{found}</Blobs>", marker).encode()


@dataclass
class Script:
    """Answers in turn, the last one again and again: (status, headers, body)."""

    answers: list[tuple[int, dict[str, str], bytes]]
    url: str = ""
    asked: list[str] = field(default_factory=list)
    sent: list[dict[str, str]] = field(default_factory=list)


@contextlib.contextmanager
def script(*answers: tuple[int, dict[str, str], bytes]) -> Iterator[Script]:
    running = Script(list(answers))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            running.asked.append(self.path)
            running.sent.append(dict(self.headers.items()))
            status, headers, body = running.answers.pop(0) if len(running.answers) > 1 else running.answers[0]
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    with serving(Handler) as url:
        running.url = f"{url}/{ACCOUNT}"
        yield running


def at(
    url: str, folder: Path, credential: Mapping[str, str] | None, uri: str = f"azure://{ACCOUNT}/box/m", **env: str
) -> AzureSource:
    """Return a source of `uri` at an endpoint."""
    if credential is not None:
        (folder / "data").mkdir(exist_ok=True)
        (folder / "data" / "azure_credentials.json").write_text(json.dumps(credential))
    there = {"AZURE_STORAGE_SERVICE_ENDPOINT": url, **env}
    return open_with(AzureSource, entry(uri, config=folder / "config.yaml"), settings(**there), limits=QUICK)


def refusal_of(ask: Callable[[], Any], kind: type[CacheTaskError]) -> str:
    """Return cause and hint of the error that `ask` raises."""
    with pytest.raises(kind) as caught:
        ask()
    assert type(caught.value) is kind
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    text = text_of(caught.value)
    for secret in (*KEYS.values(), WRONG_KEY, CLIENT_SECRET, "sig=", "hush"):
        assert secret not in text
    return f"{caught.value} | {caught.value.hint}"


KEY = {"account_key": KEYS[ACCOUNT]}
SAS = {"sas_token": "sv=2021-12-02&sr=c&sp=rl&se=2099-01-01T00%3A00%3A00Z&sig=hush%2Bhush%3D"}
ENDED = {"sas_token": "sv=2021-12-02&sr=c&sp=rl&se=2020-01-01T00%3A00%3A00Z&sig=hush"}


@pytest.mark.parametrize(
    ("credential", "status", "code", "kind", "words"),
    [
        (KEY, 404, "ContainerNotFound", NotFound, "no container 'box' in the account 'acctone'"),
        (KEY, 403, "AuthenticationFailed", AccessDenied, "does not accept the account key of data/azure_credentials"),
        (SAS, 403, "AuthenticationFailed", AccessDenied, "does not accept the SAS of data/azure_credentials.json"),
        (
            ENDED,
            403,
            "AuthenticationFailed",
            AccessDenied,
            "the SAS of data/azure_credentials.json ended at 2020-01-01",
        ),
        (SAS, 403, "AuthorizationPermissionMismatch", AccessDenied, "is missing the permission List (l)"),
        (SAS, 403, "AuthorizationProtocolMismatch", AccessDenied, "is for https alone"),
        (SAS, 403, "AuthorizationSourceIPMismatch", AccessDenied, "is not for the address of this machine"),
        (SAS, 403, "AuthorizationResourceTypeMismatch", AccessDenied, "is not for containers and blobs"),
        (KEY, 403, "AuthorizationFailure", AccessDenied, "firewall and private endpoints"),
        (KEY, 403, "KeyBasedAuthenticationNotPermitted", AccessDenied, "are switched off for 'acctone'"),
        (KEY, 403, "AccountIsDisabled", AccessDenied, "the account 'acctone' is disabled"),
        (KEY, 403, "SomethingNew", AccessDenied, "refuses the account key of data/azure_credentials.json (403 Some"),
        (
            None,
            401,
            "NoAuthenticationInformation",
            AccessDenied,
            "the container is private or absent, and no credential",
        ),
        (None, 404, "ResourceNotFound", AccessDenied, "the container is private or absent, and no credential"),
        (
            None,
            409,
            "PublicAccessNotPermitted",
            AccessDenied,
            "public access is switched off for the account 'acctone'",
        ),
        (KEY, 503, "ServerBusy", TransientError, "throttles requests (503 ServerBusy) (tried 3 times)"),
        (KEY, 500, "OperationTimedOut", TransientError, "fails for now (500 OperationTimedOut) (tried 3 times)"),
        (KEY, 400, "OutOfRangeInput", CacheTaskError, "answered 400 OutOfRangeInput"),
        (KEY, 307, "", WrongAnswer, "a redirect (307)"),
        (KEY, 407, "", PermanentError, "the proxy refuses (407)"),
    ],
)
def test_each_refusal_of_a_listing_has_its_own_message(
    credential: Mapping[str, str] | None,
    status: int,
    code: str,
    kind: type[CacheTaskError],
    words: str,
    tmp_path: Path,
    without_azure_identity: None,
) -> None:
    quoted = "<AuthenticationErrorDetail>Signature did not match: sig=hush</AuthenticationErrorDetail>"
    body = f"\ufeff<?xml version='1.0'?><Error><Code>{code}</Code><Message>sig=hush</Message>{quoted}</Error>".encode()
    with script((status, {"x-ms-error-code": code} if code else {}, body)) as azure:
        said = refusal_of(at(azure.url, tmp_path, credential).listing, kind)
        assert words in said
        assert all(sent["x-ms-version"] == VERSION for sent in azure.sent)


@pytest.mark.parametrize(
    ("code", "status", "kind", "words"),
    [
        ("AuthorizationPermissionMismatch", 403, AccessDenied, "is missing the permission Read (r)"),
        ("BlobArchived", 409, AccessDenied, "is in the archive tier and cannot be read (409 BlobArchived)"),
        ("BlobBeingRehydrated", 409, AccessDenied, "is being moved out of the archive tier"),
        ("ServerBusy", 503, TransientError, "throttles requests"),
        ("ConditionNotMet", 412, SourceChanged, "replaced or deleted since it was listed"),
        ("BlobNotFound", 404, SourceChanged, "replaced or deleted since it was listed"),
    ],
)
def test_each_refusal_of_a_blob_has_its_own_message(
    code: str, status: int, kind: type[CacheTaskError], words: str, tmp_path: Path
) -> None:
    source = at("http://127.0.0.1:9/acctone", tmp_path, SAS)
    body = f"<Error><Code>{code}</Code><Message>sig=hush</Message></Error>".encode()
    error = source.explain(RemoteFile("w", 1, "0x8D1", "m/w"), status, {"retry-after": "7"}, body)
    assert type(error) is kind
    assert f"azure://{ACCOUNT}/box/m/w: " in str(error)
    assert words in str(error)
    assert "hush" not in f"{error}{error.hint}"
    assert not isinstance(error, TransientError) or error.retry_after_s == 7


def test_a_server_that_is_busy_is_asked_again_after_the_time_that_it_names(tmp_path: Path) -> None:
    busy = 503, {"x-ms-error-code": "ServerBusy", "Retry-After": "0"}, b""
    with script(busy, (200, {}, page(("", "m/w.bin"))), (200, {}, page())) as azure:
        assert set(by_path(at(azure.url, tmp_path, SAS).listing())) == {"w.bin"}
        assert len(azure.asked) == 3


def test_a_page_that_is_short_or_empty_is_not_the_last_one(tmp_path: Path) -> None:
    pages = [page(marker="one"), page(("", "m/a.bin"), marker="two"), page(marker="three"), page(("", "m/b.bin"))]
    with script(*((200, {}, body) for body in [*pages, page(marker="x"), page()])) as azure:
        assert set(by_path(at(azure.url, tmp_path, SAS).listing())) == {"a.bin", "b.bin"}
        assert [parse_qs(asked.partition("?")[2]).get("marker") for asked in azure.asked] == [
            None, ["one"], ["two"], ["three"], None, ["x"],
        ]  # fmt: skip


def test_a_name_that_xml_cannot_hold_is_decoded(tmp_path: Path) -> None:
    with script(
        (200, {}, page((' Encoded="true"', "m/a%EF%BF%BEb%25.bin"), ("", "m/100%25.bin"))), (200, {}, page())
    ) as azure:
        assert set(by_path(at(azure.url, tmp_path, SAS).listing())) == {"a\ufffeb%.bin", "100%25.bin"}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "a page that is no XML"),
        (b"<EnumerationResults><Blobs>", "a page that is no XML"),
        (b"\xff\xfe<\0a\0/\0>\0", "a page that begins with 'a'"),
        (b"<!DOCTYPE e [<!ENTITY a 'aa'>]><EnumerationResults>&a;</EnumerationResults>", "a page that is no XML"),
        (b"<EnumerationResults>" + b"<a>" * 1000 + b"</a>" * 1000 + b"</EnumerationResults>", "a page that is no XML"),
        (page(("", "m/w")).replace(b"<Metadata />", b"".join(b"<a%d />" % n for n in range(2000))), "that is no XML"),
        (b"<html>log in</html>", "begins with 'html'"),
        (page(("", "")), "path ''"),
        (page(("", "m/w")).replace(b">1<", b">-1<"), "size '-1'"),
        (page(("", "m/w")).replace(b">1<", b">" + b"9" * 30 + b"<"), "size '9999"),
        (page(("", "m/w")).replace(b"0x8D1", b"0x 8D1"), "version '0x 8D1'"),
        (page(("", "m/w")).replace(b"<Etag>0x8D1</Etag>", b""), "version ''"),
        (page(("", "m/w")).replace(MD5.encode(), b"../../etc"), "md5 '../../etc'"),
        (page(("", "m/w")).replace(MD5.encode(), b"AAAA"), "md5 '000000'"),
        (page(("", "m/w"), marker="again"), "names an earlier one as the next"),
    ],
)
def test_a_page_that_cannot_be_right_is_refused(body: bytes, words: str, tmp_path: Path) -> None:
    with script((200, {}, body)) as azure:
        assert words in refusal_of(at(azure.url, tmp_path, SAS).listing, WrongAnswer)


def test_an_account_that_is_not_there_is_named_by_its_host(tmp_path: Path) -> None:
    source = at("", tmp_path, KEY, uri="azure://nosuchaccount/box/m", AZURE_STORAGE_ACCOUNT="nosuchaccount",
                AZURE_STORAGE_SERVICE_ENDPOINT="http://nosuchaccount.localhost.invalid")  # fmt: skip
    said = refusal_of(source.listing, NotFound)
    assert "there is no account 'nosuchaccount': the name nosuchaccount.localhost.invalid cannot be resolved" in said


# Credentials


@pytest.fixture
def without_azure_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "azure.identity", None)
    monkeypatch.setattr(entra, "_ambient", {})


def test_a_connection_string_brings_its_endpoint(store: Place) -> None:
    store.put("a.bin", b"a")
    for text in (
        connection_string(store.azure),
        f"BlobEndpoint={store.azure.url};SharedAccessSignature={store.azure.sas()}",
    ):
        store.env = {"AZURE_STORAGE_SERVICE_ENDPOINT": ""}
        assert set(by_path(store.by({"connection_string": text}).listing())) == {"a.bin"}
        store.env = {"AZURE_STORAGE_SERVICE_ENDPOINT": "", "AZURE_STORAGE_CONNECTION_STRING": text}
        assert set(by_path(store.by(None).listing())) == {"a.bin"}


@pytest.mark.parametrize(
    "env",
    [
        {"AZURE_STORAGE_ACCOUNT": ACCOUNT, "AZURE_STORAGE_KEY": KEYS[ACCOUNT]},
        {"AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT, "AZURE_STORAGE_ACCOUNT_KEY": KEYS[ACCOUNT]},
        {"AZURE_STORAGE_ACCOUNT": ACCOUNT, "AZURE_STORAGE_ACCESS_KEY": KEYS[ACCOUNT]},
        {"AZURE_STORAGE_ACCOUNT": ACCOUNT, "AZURE_STORAGE_SAS_TOKEN": "of the account"},
    ],
)
def test_variables_are_used_for_their_account(store: Place, env: dict[str, str], without_azure_identity: None) -> None:
    store.put("a.bin", b"a")
    store.env = {name: store.azure.sas() if text == "of the account" else text for name, text in env.items()}
    assert set(by_path(store.by(None).listing())) == {"a.bin"}
    for other in (OTHER_ACCOUNT, ""):
        store.env = {**store.env, **{name: other for name in env if name in ACCOUNTS}}
        said = refusal_of(store.by(None).listing, AccessDenied)
        name = next(name for name in env if name not in ACCOUNTS)
        assert f"{name} is not used, as AZURE_STORAGE_ACCOUNT is {other or 'not set'}" in said
        assert "pip install 'truss-cache-tasks[azure]'" in said


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"account_name": OTHER_ACCOUNT, **KEY},
            f"account_name is of the account '{OTHER_ACCOUNT}', expected '{ACCOUNT}'",
        ),
        ({"connection_string": f"AccountName={OTHER_ACCOUNT};AccountKey=aGk="}, f"is of the account '{OTHER_ACCOUNT}'"),
        ({"connection_string": "UseDevelopmentStorage=true"}, "is of the account 'devstoreaccount1'"),
        ({"connection_string": f"AccountName={ACCOUNT}"}, "found neither AccountKey nor SharedAccessSignature"),
        ({"connection_string": f"AccountName={ACCOUNT};AccountKey=a;BlobEndpoint=ftp://x"}, "the endpoint is no URL"),
        (
            {"connection_string": f"AccountName={ACCOUNT};AccountKey=a;BlobEndpoint=https://u:p@x"},
            "the endpoint is no URL",
        ),
        ({"connection_string": "hush"}, "is of the account ''"),
        ({"account_key": "hush hush"}, "account_key: the account key is not base64"),
        ({"account_key": "hush\u201d"}, "account_key: the account key is not base64"),
        ({"sas_token": "https://acc.blob.core.windows.net/box?sv=1&sig=hush"}, "found no shared access signature"),
        ({"sas_token": "sv=1&sp=rl"}, "found no shared access signature"),
        ({"sas_token": "sv=1&sig=hush hush"}, "found no shared access signature"),
    ],
)
def test_a_credential_that_cannot_be_used_is_refused_without_its_value(
    fields: dict[str, str], words: str, tmp_path: Path
) -> None:
    said = refusal_of(at("", tmp_path, fields).listing, CredentialError)
    assert words in said
    assert said.startswith("data/azure_credentials.json: ")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "holds none of its fields, expected one of account_key | sas_token | connection_string | tenant_id + "),
        ({"account_key": None}, "holds none of its fields"),
        ({**KEY, **SAS}, "holds account_key and sas_token, expected one of"),
        ({"tenant_id": "t", "client_id": "c"}, "client_secret is missing"),
        ({"account_key": 7}, "account_key: expected a string"),
    ],
)
def test_a_credential_file_holds_one_credential(fields: dict[str, Any], words: str, tmp_path: Path) -> None:
    assert words in refusal_of(lambda: at("", tmp_path, fields), CredentialError)


def test_a_question_mark_before_a_sas_is_not_a_part_of_it(store: Place) -> None:
    store.put("a.bin", b"a")
    assert set(by_path(store.by({"sas_token": f"?{store.azure.sas(store.container)}"}).listing())) == {"a.bin"}


def test_a_wrong_endpoint_is_named(tmp_path: Path) -> None:
    assert "AZURE_STORAGE_SERVICE_ENDPOINT: the endpoint is no URL" in refusal_of(
        at("acctone.blob.core.windows.net?sig=hush", tmp_path, KEY).listing, CredentialError
    )


def test_an_endpoint_of_another_account_is_not_used(tmp_path: Path) -> None:
    for url in ("http://127.0.0.1:9/accttwo", "https://accttwo.blob.core.windows.net", "https://blobs.example.com"):
        (file,) = [RemoteFile("w", 1, "0x8D1", "m/w x")]
        assert at(url, tmp_path, KEY).locate(file).url == "https://acctone.blob.core.windows.net/box/m/w%20x"
    assert at("https://blobs.example.com", tmp_path, KEY, AZURE_STORAGE_ACCOUNT=ACCOUNT).locate(file).url == (
        "https://blobs.example.com/box/m/w%20x"
    )


# Entra

PRINCIPAL = {"tenant_id": TENANT, "client_id": CLIENT, "client_secret": CLIENT_SECRET}


def by_entra(
    azure: Azurite, server: Entra, folder: Path, credential: Mapping[str, str] | None, **env: str
) -> AzureSource:
    known = {**azure.env, **server.env, **env}
    uri = f"azure://{ACCOUNT}/{azure.container()}/m"
    azure.put(uri.split("/")[3], "m/w.bin", b"w")
    url = known.pop("AZURE_STORAGE_SERVICE_ENDPOINT")
    return at(url, folder, credential, uri=uri, **known)


def test_without_azure_identity_the_error_is_how_to_install_it(tmp_path: Path, without_azure_identity: None) -> None:
    said = refusal_of(at("", tmp_path, PRINCIPAL).listing, MissingPackage)
    assert "data/azure_credentials.json: found no azure-identity" in said
    assert said.endswith("-m pip install 'truss-cache-tasks[azure]'`.")
    (tmp_path / "data" / "azure_credentials.json").unlink()
    said = refusal_of(at("", tmp_path, None, AZURE_CLIENT_ID=CLIENT).listing, MissingPackage)
    assert "found no azure-identity" in said


def test_an_application_that_entra_does_not_know_is_named_without_its_secret(
    azure_tls: Azurite, token_server: Entra, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = by_entra(azure_tls, token_server, tmp_path, {**PRINCIPAL, "client_secret": "hush"})
    said = refusal_of(source.listing, CredentialError)
    assert "data/azure_credentials.json: Entra gives no token (AADSTS7000215)" in said


def test_a_token_server_that_fails_for_now_is_asked_again(
    azure_tls: Azurite, token_server: Entra, tmp_path: Path
) -> None:
    token_server.faults[:] = [503]
    source = by_entra(azure_tls, token_server, tmp_path, PRINCIPAL)
    (file,) = source.listing().files
    location = source.locate(file)
    assert location.headers["Authorization"].startswith("Bearer ")
    assert location.secret_query is None
    assert location.expires is not None
    assert 3000 < location.expires - time.time() <= 3600 - 300
    assert sum("token" in path for path in token_server.asked) == 2  # and not one for each request
    token_server.faults[:] = [503] * 3
    said = refusal_of(by_entra(azure_tls, token_server, tmp_path, PRINCIPAL).listing, TransientError)
    assert "Entra answered 503" in said


def test_a_token_goes_over_https_alone(azure: Azurite, token_server: Entra, tmp_path: Path) -> None:
    said = refusal_of(by_entra(azure, token_server, tmp_path, PRINCIPAL).listing, CredentialError)
    assert "a token of Entra is sent over https alone" in said
    assert token_server.asked == []


def test_a_machines_own_identity_is_used_where_there_is_no_other(
    azure_tls: Azurite, token_server: Entra, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entra, "_ambient", {})
    env = {"AZURE_TENANT_ID": TENANT, "AZURE_CLIENT_ID": CLIENT, "AZURE_CLIENT_SECRET": CLIENT_SECRET}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    source = by_entra(azure_tls, token_server, tmp_path, None, **env)
    assert set(by_path(source.listing())) == {"w.bin"}
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "hush")
    source = by_entra(azure_tls, token_server, tmp_path, None, **{**env, "AZURE_CLIENT_SECRET": "hush"})
    assert "Entra (DefaultAzureCredential): Entra gives no token" in refusal_of(source.listing, CredentialError)


def test_a_workload_identity_is_used_by_the_token_in_its_file(
    azure_tls: Azurite, token_server: Entra, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entra, "_ambient", {})
    (tmp_path / "token").write_text("a.b.c")
    env = {
        "AZURE_TENANT_ID": TENANT,
        "AZURE_CLIENT_ID": CLIENT,
        "AZURE_FEDERATED_TOKEN_FILE": str(tmp_path / "token"),
    }
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert set(by_path(by_entra(azure_tls, token_server, tmp_path, None, **env).listing())) == {"w.bin"}


def test_a_managed_identity_is_used_by_the_metadata_server(
    azure_tls: Azurite, token_server: Entra, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entra, "_ambient", {})
    answer = {"access_token": token(), "expires_in": "3600", "resource": entra.SCOPE, "token_type": "Bearer"}
    with script((200, {"Content-Type": "application/json"}, json.dumps(answer).encode())) as metadata:
        here = metadata.url.removesuffix(f"/{ACCOUNT}")
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", here)
        source = by_entra(azure_tls, token_server, tmp_path, None, AZURE_POD_IDENTITY_AUTHORITY_HOST=here)
        assert set(by_path(source.listing())) == {"w.bin"}
    assert token_server.asked == []


def test_a_machine_without_an_identity_is_anonymous_and_is_not_searched_twice(
    azure_tls: Azurite, token_server: Entra, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setattr(entra, "_ambient", {})
    for name in ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_FEDERATED_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    said = refusal_of(by_entra(azure_tls, token_server, tmp_path, None).listing, AccessDenied)
    assert "azure-identity finds no identity" in said
    assert len(entra._ambient) == 1
    refusal_of(by_entra(azure_tls, token_server, tmp_path, None).listing, AccessDenied)
    assert len(entra._ambient) == 1
    assert capfd.readouterr() == ("", "")  # azure-identity warns of it in a dozen lines


# Secrets


def test_no_signature_is_in_a_log_or_an_error_of_any_library(store: Place, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    store.put("w.bin", DATA)
    source = store.source()
    (file,) = source.listing().files
    with tempfile.TemporaryFile() as partial:
        job = transfer.Job(file, lambda: source.locate(file), Scratch(partial.fileno()), source.explain)
        (done,) = transfer.pull([job], ignore_events)
        assert isinstance(done, transfer.Done)
    for text, kind in {
        "http://127.0.0.1:9/acctone": TransientError,
        "http://acctone.localhost.invalid": NotFound,
        "http://acctone..bad": PermanentError,
    }.items():
        refusal_of(at(text, store.folder, SAS).listing, kind)
    assert "Starting new HTTP connection" in caplog.text  # what is logged at all
    assert "sig" not in caplog.text
    assert "hush" not in caplog.text


@dataclass
class Scratch:
    """A partial for one pull."""

    descriptor: int
    journal: int | None = None


def test_no_value_of_an_identity_is_printed(store: Place) -> None:
    source = store.source()
    identity = source._identity()
    access = access_of_file(ACCOUNT, "here", {"account_key": Secret(KEYS[ACCOUNT])}, {})
    for value in (
        source,
        identity,
        identity.authorize(),
        access,
        Authorization(headers={"Authorization": "Bearer hush"}),
    ):
        for secret in ("sig=", "hush", KEYS[ACCOUNT], repr(access.key)):
            assert secret not in f"{value!r}{value}"


def test_a_metadata_server_that_is_mute_is_not_waited_for(
    token_server: Entra, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entra, "_ambient", {})
    with hostile_server(lambda _path: (b"", "")) as mute:
        mute.always = "silence"
        env = {"AZURE_POD_IDENTITY_AUTHORITY_HOST": mute.url, "AZURE_TOKEN_CREDENTIALS": "prod"}
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        hasty = replace(QUICK, head_s=0.2)
        network = settings(**{name: value for name, value in env.items() if "TOKEN" not in name}).network
        assert entra.of_environment(replace(network, limits=hasty)) == (None, "azure-identity finds no identity")
        assert 1 <= len(mute.asked) <= 2


def test_every_request_says_which_program_sends_it(tmp_path: Path) -> None:
    with script((200, {}, page(("", "m/w.bin"))), (200, {}, page())) as azure:
        at(azure.url, tmp_path, SAS).listing()
        assert {sent["User-Agent"] for sent in azure.sent} == {f"truss-cache-tasks/{__version__}"}


def test_no_secret_of_an_application_and_no_token_is_in_a_log(
    azure_tls: Azurite, token_server: Entra, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    source = by_entra(azure_tls, token_server, tmp_path, PRINCIPAL)
    (file,) = source.listing().files
    bearer = source.locate(file).headers["Authorization"].removeprefix("Bearer ")
    assert "msal" in caplog.text  # what is logged at all
    for secret in (CLIENT_SECRET, quote(CLIENT_SECRET), bearer, bearer.split(".")[1]):
        assert secret not in caplog.text
