"""Google Cloud Storage against fake-gcs-server behind a door that checks tokens; google-cloud-storage is the judge."""

from __future__ import annotations

import base64
import gzip
import json
import os
import pickle
import socket
import ssl
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import entries
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from servers.certificates import make_authority
from servers.faults import FaultServer
from servers.gcs import GET_ONLY, LIST_ONLY, READER, REVOKED, Gcs, new_key

from truss_cache_tasks.errors import (
    AccessDenied,
    CacheTaskError,
    CredentialError,
    NotFound,
    NothingSelected,
    PermanentError,
    SourceChanged,
    TransientError,
)
from truss_cache_tasks.model.listing import FilePin, Pins, RemoteFile
from truss_cache_tasks.network.exchange import ExchangeLimits
from truss_cache_tasks.network.retry import RetryLimits
from truss_cache_tasks.sources.gcs import GcsSource
from truss_cache_tasks.sources.testing import ODD_NAMES, PLAIN_NAMES, SourceContract, by_path, digest_of, pins_of, read

pytest_plugins = ["servers.fixtures_gcs"]

QUICK = ExchangeLimits(retry=RetryLimits(attempts=3, backoff_s=0.1))


class Place:
    """A prefix of a bucket of its own, and a Truss folder whose `data/` holds the credential."""

    def __init__(
        self, gcs: Gcs, env: dict[str, str], root: Path, *, public: bool = False, versions: bool = False
    ) -> None:
        self.gcs, self.env, self.root, self.prefix = gcs, env, root, "models/m"
        self.bucket = gcs.bucket(f"b-{uuid.uuid4().hex[:12]}", public=public, versions=versions)
        self.secrets: tuple[str, ...] = ("Bearer good",)
        root.mkdir(parents=True, exist_ok=True)
        if not public:
            self.credential(gcs.service_account())

    def credential(self, info: Any, where: str = "data/service_account.json") -> Path:
        path = self.root / where
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(info if isinstance(info, str) else json.dumps(info))
        if isinstance(info, dict) and isinstance(info.get("private_key"), str):
            self.secrets += (info["private_key"], *info["private_key"].splitlines()[1:3])
        return path

    def put(self, path: str, data: bytes) -> None:
        self.gcs.put(self.bucket, f"{self.prefix}/{path}", data)

    def put_beside(self, suffix: str, data: bytes) -> None:
        self.gcs.put(self.bucket, self.prefix + suffix, data)

    def delete(self, path: str) -> None:
        self.gcs.delete(self.bucket, f"{self.prefix}/{path}")

    def at(self, uri: str, **fields: Any) -> GcsSource:
        entry = entries.entry(uri, config=self.root / "config.yaml", **fields)
        return entries.open_with(GcsSource, entry, entries.settings(self.root / "secrets", **self.env), limits=QUICK)

    def source(self, **fields: Any) -> GcsSource:
        return self.at(f"gs://{self.bucket}/{self.prefix}", **fields)

    def whole(self) -> GcsSource:
        return self.at(f"gs://{self.bucket}")

    def source_of(self, path: str) -> GcsSource:
        return self.at(f"gs://{self.bucket}/{self.prefix}/{path}")

    def missing(self) -> GcsSource:
        return self.at(f"gs://no-such-{self.bucket}/m")

    def refused(self) -> GcsSource:
        self.credential(self.gcs.service_account(key=new_key()))
        return self.source()

    def public(self) -> Place:
        return Place(self.gcs, self.env, self.root / "public", public=True)


@pytest.fixture
def store(gcs: Gcs, gcs_env: dict[str, str], tmp_path: Path) -> Iterator[Place]:
    yield Place(gcs, gcs_env, tmp_path)
    assert gcs.faults == [], "a test left a fault for the next one"


class TestGcs(SourceContract):
    names = (*PLAIN_NAMES, *ODD_NAMES, "p/../x", "p//y", "./z", "a\\b.bin", "new\nline.bin")

    @pytest.fixture
    def store(self, store: Place) -> Place:
        return store

    def test_a_listing_longer_than_a_page_is_whole(self, store: Place) -> None:  # type: ignore[override]  # its Place is the Store
        with store.gcs.watching() as seen:
            super().test_a_listing_longer_than_a_page_is_whole(store)
        assert kinds(seen) == ["token", "list", "list", "list"]


class TestGcsWithVersions(SourceContract):
    versions = True

    @pytest.fixture
    def store(self, gcs: Gcs, gcs_env: dict[str, str], tmp_path: Path) -> Place:
        return Place(gcs, gcs_env, tmp_path, versions=True)


def test_a_deleted_generation_is_read_by_its_pin(gcs: Gcs, gcs_env: dict[str, str], tmp_path: Path) -> None:
    store = Place(gcs, gcs_env, tmp_path, versions=True)
    store.put("a.bin", b"first")
    pins = pins_of(store.source().listing())
    store.delete("a.bin")
    source = store.source()
    (file,) = source.listing(pins).files
    assert read(source.locate(file)).data == b"first"


def test_a_pin_without_a_generation_takes_the_one_that_is_there(store: Place) -> None:
    store.put("a.bin", b"a")
    store.put("b.bin", b"b")
    listing = store.source().listing()
    (first, _) = listing.files
    assert store.source().listing(Pins(files=(FilePin(first.key),))).files == (first,)


def refusal_of(ask: Callable[[], Any], kind: type[CacheTaskError], store: Place) -> str:
    """Return cause and hint of the error that `ask` raises."""
    with pytest.raises(kind) as caught:
        ask()
    assert type(caught.value) is kind
    SourceContract.assert_clear_error(caught.value, store)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    return f"{caught.value} | {caught.value.hint}"


def kinds(seen: list[Any]) -> list[str]:
    return [request.kind for request in seen]


def get(store: Place, source: GcsSource, file: RemoteFile) -> CacheTaskError:
    """GET the bytes of `file`, which the store must refuse, and return what `explain` makes of the answer."""
    answer = read(source.locate(file))
    assert answer.status >= 400
    error = source.explain(file, answer.status, answer.headers, answer.data)
    SourceContract.assert_clear_error(error, store)
    return error


# What is asked


def test_a_listing_is_one_token_and_one_request_and_nothing_behind_our_back(store: Place) -> None:
    store.put("a.bin", b"a")
    before = set(threading.enumerate())
    with store.gcs.watching() as seen:
        source = store.source()
        (file,) = source.listing().files
        source.locate(file)
        source.listing()
    new = [thread.name for thread in set(threading.enumerate()) - before]
    assert not [name for name in new if "process_request_thread" not in name], "only the store's own threads"
    assert kinds(seen) == ["token", "list", "list"]
    assert seen[1].query["prefix"] == store.prefix
    assert seen[1].query["fields"] == "items(name,size,generation,crc32c,contentEncoding),nextPageToken"


@pytest.mark.parametrize("public", [False, True])
def test_a_password_of_netrc_is_sent_to_no_store(
    store: Place, public: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login someone password hunter2\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    place = store.public() if public else store
    place.put("a.bin", b"a")
    with store.gcs.watching() as seen:
        place.source().listing()
    given = [request.headers.get("authorization", "") for request in seen]
    assert not [header for header in given if header.startswith("Basic")]


def test_a_public_bucket_is_listed_with_one_request_and_no_token(store: Place) -> None:
    public = store.public()
    public.put("a.bin", b"a")
    with store.gcs.watching() as seen:
        public.source().listing()
    assert kinds(seen) == ["list"]
    assert "authorization" not in seen[0].headers


def test_a_public_bucket_is_also_read_with_a_credential(store: Place) -> None:
    public = store.public()
    public.put("a.bin", b"a")
    public.credential(store.gcs.service_account())
    source = public.source()
    (file,) = source.listing().files
    assert read(source.locate(file)).data == b"a"


def test_pages_do_not_run_on_into_later_siblings(store: Place) -> None:
    store.put("a.bin", b"a")
    for number in range(1100):
        store.gcs.put(store.bucket, f"{store.prefix}x/{number}", b"")
    with store.gcs.watching() as seen:
        (file,) = store.source().listing().files
    assert file.path == "a.bin"
    assert kinds(seen) == ["token", "list"]


def test_locating_asks_nobody_while_the_token_lasts(store: Place) -> None:
    store.put("a.bin", b"a")
    source = store.source()
    (file,) = source.listing().files
    with store.gcs.watching() as seen:
        locations = [source.locate(file) for _ in range(10)]
    assert seen == []
    assert all(location.headers["Authorization"] == "Bearer good" for location in locations)
    assert all(3000 < (location.expires or 0) - time.time() <= 3600 for location in locations)


def test_a_token_that_is_due_is_fetched_once_for_many_threads(store: Place) -> None:
    store.put("a.bin", b"a")
    (file,) = store.source().listing().files
    source = store.source()
    with store.gcs.watching() as seen, ThreadPoolExecutor(16) as pool:
        got = list(pool.map(lambda _: source.locate(file), range(64)))
    assert kinds(seen) == ["token"]
    assert len(set(location.expires for location in got)) == 1


def test_a_token_near_its_end_is_fetched_again(store: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("a.bin", b"a")
    monkeypatch.setattr(store.gcs, "token_lifetime_s", 60)  # google.auth counts the last minutes as gone
    source = store.source()
    (file,) = source.listing().files
    monkeypatch.setattr(store.gcs, "token_lifetime_s", 3600)
    with store.gcs.watching() as seen:
        first, second = source.locate(file), source.locate(file)
    assert kinds(seen) == ["token"]
    assert first.expires == second.expires
    assert (first.expires or 0) > time.time() + 3000


# What is listed


def test_the_listing_says_what_google_cloud_storage_says(store: Place) -> None:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    for name, data in (("a.bin", b"a" * 1000), ("sub/ü #1.bin", b"b"), ("empty", b"")):
        store.put(name, data)
    judge = storage.Client("p", credentials=AnonymousCredentials(), client_options={"api_endpoint": store.gcs.backend})
    try:
        want = {
            blob.name: (blob.size, str(blob.generation), blob.crc32c, blob.download_as_bytes())
            for blob in judge.list_blobs(store.bucket)
        }
    finally:
        judge.close()
    source = store.source()
    got = {}
    for file in source.listing().files:
        assert file.digest is not None
        assert file.digest.algorithm == "crc32c"
        assert len(file.digest.value) == 8
        data = read(source.locate(file)).data
        crc32c = base64.b64encode(bytes.fromhex(file.digest.value)).decode()
        got[file.key] = (file.size, file.version, crc32c, data)
    assert got == want


def test_an_error_on_a_later_page_is_tried_again_and_then_told(store: Place) -> None:
    for number in range(1001):
        store.put(f"{number:04}", b"")
    store.gcs.faults[:] = [503]
    assert len(store.source().listing().files) == 1001
    store.gcs.faults[:] = [503] * 50
    try:
        assert "503" in refusal_of(store.source().listing, TransientError, store)
        assert len(store.gcs.faults) < 49, "it was not tried again"
    finally:
        store.gcs.faults.clear()


@pytest.mark.parametrize("marker", [False, True])
def test_a_prefix_with_nothing_says_so(store: Place, marker: bool) -> None:
    if marker:
        store.put_beside("/", b"")
    said = refusal_of(store.source().listing, NothingSelected, store)
    assert ("folder markers" in said) is marker


def test_a_stored_gzip_object_is_listed_as_one_to_decode_and_comes_as_it_is_stored(store: Place) -> None:
    """Its size and digest are those of the stored bytes; scenarios/cache/test_stored_gzip.py has what users see."""
    packed = gzip.compress(b'{"a": 1}' * 500, mtime=0)
    store.gcs.put(store.bucket, f"{store.prefix}/config.json", packed, encoding="gzip")
    source = store.source()
    (file,) = source.listing().files
    location = source.locate(file)
    assert file.digest is not None
    assert file.encoding == "gzip"
    assert location.headers["Accept-Encoding"] == "gzip"
    answer = read(location)
    assert answer.headers["Content-Encoding"] == "gzip"
    assert len(answer.data) == file.size == len(packed)
    assert digest_of(answer.data, file.digest) == file.digest


@pytest.mark.parametrize(
    ("stored", "listed"), [("gzip", "gzip"), ("GZip", "gzip"), ("br", ""), ("gzip, br", ""), (None, "")]
)
def test_a_listing_tells_which_objects_are_stored_as_gzip(store: Place, stored: str | None, listed: str) -> None:
    store.gcs.put(store.bucket, f"{store.prefix}/w.bin", gzip.compress(b"a"), encoding=stored)
    (file,) = store.source().listing().files
    assert file.encoding == listed


def test_a_url_names_the_generation_and_no_secret(store: Place) -> None:
    store.put("a b/ü#1?.bin", b"a")
    source = store.source()
    (file,) = source.listing().files
    url = urlsplit(source.locate(file).url)
    assert url.path == f"/storage/v1/b/{store.bucket}/o/models%2Fm%2Fa%20b%2F%C3%BC%231%3F.bin"
    assert url.query == f"alt=media&generation={file.version}"


def test_an_emulator_host_without_a_scheme_is_plain_http(store: Place) -> None:
    store.put("a.bin", b"a")
    store.env["STORAGE_EMULATOR_HOST"] = store.gcs.url.removeprefix("http://")
    source = store.source()
    (file,) = source.listing().files
    assert read(source.locate(file)).data == b"a"


# What is refused


def test_a_replaced_object_is_a_changed_source(store: Place) -> None:
    store.put("a.bin", b"before")
    source = store.source()
    (file,) = source.listing().files
    store.put("a.bin", b"after")
    error = get(store, source, file)
    assert isinstance(error, SourceChanged)
    assert file.version in str(error)


def test_a_bucket_that_is_not_there_is_named(store: Place) -> None:
    said = refusal_of(store.missing().listing, NotFound, store)
    assert f"gs://no-such-{store.bucket}: there is no such bucket" in said


def test_a_wrong_key_is_refused_by_name(store: Place) -> None:
    source = store.refused()
    said = refusal_of(source.listing, AccessDenied, store)
    assert "service_account.json" in said
    assert "invalid_grant" in said
    store.credential(store.gcs.service_account())
    store.put("a.bin", b"a")
    assert by_path(store.source().listing())


def test_no_credential_on_a_private_bucket_names_the_places(store: Place) -> None:
    store.put("a.bin", b"a")
    (file,) = store.source().listing().files
    (store.root / "data/service_account.json").unlink()
    source = store.source(runtime_secret_name="gcs-key")
    with store.gcs.watching() as seen:
        said = refusal_of(source.listing, AccessDenied, store)
    assert kinds(seen) == ["list"]
    for place in ("data/service_account.json", "gcs-key", "GOOGLE_APPLICATION_CREDENTIALS", "gcloud", "metadata"):
        assert place in said
    assert "no credential found" in str(get(store, source, file))


def test_a_token_that_the_store_does_not_accept_names_the_credential_and_is_not_tried_thrice(store: Place) -> None:
    store.credential(store.gcs.service_account(REVOKED))
    with store.gcs.watching() as seen:
        said = refusal_of(store.source().listing, AccessDenied, store)
    assert kinds(seen) == ["token", "list"]
    assert "service_account.json" in said
    assert "does not accept" in said


def test_rights_to_list_alone_are_told_when_bytes_are_asked(store: Place) -> None:
    store.put("a.bin", b"a")
    store.credential(store.gcs.service_account(LIST_ONLY))
    source = store.source()
    (file,) = source.listing().files
    error = get(store, source, file)
    assert type(error) is AccessDenied
    assert f"missing storage.objects.get on gs://{store.bucket}/models/m/a.bin" in str(error)
    assert LIST_ONLY in str(error)


def test_rights_to_read_alone_are_told_when_listing(store: Place) -> None:
    store.put("a.bin", b"a")
    (file,) = store.source().listing().files
    store.credential(store.gcs.service_account(GET_ONLY))
    source = store.source()
    said = refusal_of(source.listing, AccessDenied, store)
    assert f"missing storage.objects.list on gs://{store.bucket}" in said
    assert read(source.locate(file)).data == b"a"


def test_requester_pays_is_named(store: Place) -> None:
    store.put("a.bin", b"a")
    source = store.source()
    (file,) = source.listing().files
    store.gcs.requester_pays.add(store.bucket)
    assert "requester pays" in refusal_of(store.source().listing, AccessDenied, store)
    assert "requester pays" in str(get(store, source, file))


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (429, b"", TransientError, "429"),
        (503, b"<html>", TransientError, "503"),
        (403, b'{"error":{"message":"slow","errors":[{"reason":"rateLimitExceeded"}]}}', TransientError, "slow"),
        (
            400,
            b"<Error><Code>UserProjectMissing</Code><Message>Bucket is requester pays.</Message></Error>",
            AccessDenied,
            "requester pays",
        ),
        (403, b"<Error><Code>AccessDenied</Code><Message>No\nway.</Message></Error>", AccessDenied, "No way"),
        (401, b"[]", AccessDenied, "service_account.json"),
        (412, b"", SourceChanged, "generation 7"),
        (400, b'{"error": "text"}', CacheTaskError, "400"),
        (400, b"\xff" * 100_000, CacheTaskError, "400"),
        (400, b"[" * 100_000, CacheTaskError, "400"),
    ],
)
def test_every_answer_to_a_get_is_explained(
    store: Place, status: int, body: bytes, kind: type[CacheTaskError], words: str
) -> None:
    source = store.source()
    file = RemoteFile("w.bin", 1, "7", "models/m/w.bin")
    source.locate(file)
    error = source.explain(file, status, {}, body)
    assert type(error) is kind
    assert words in str(error)
    assert "models/m/w.bin" in str(error)
    SourceContract.assert_clear_error(error, store)


def test_a_store_that_nobody_serves_is_unavailable_soon(store: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    store.env["STORAGE_EMULATOR_HOST"] = f"http://127.0.0.1:{port}"
    said = refusal_of(store.source().listing, TransientError, store)
    assert "refuses the connection" in said


def test_a_token_server_that_nobody_serves_is_unavailable(store: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    store.credential({**store.gcs.service_account(), "token_uri": f"http://127.0.0.1:{port}/token"})
    source = store.source()
    assert "token server refuses the connection" in refusal_of(source.listing, TransientError, store)
    locate = lambda: source.locate(RemoteFile("a", 1, "1", "a"))  # noqa: E731 - a word for it
    refusal_of(locate, TransientError, store)


def broken(info: dict[str, Any], key: str) -> dict[str, Any]:
    match key:
        case "cut private_key":
            return {**info, "private_key": info["private_key"][:300]}
        case "private_key of another kind":
            pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            return {**info, "private_key": pem.decode()}
        case "number private_key":
            return {**info, "private_key": 7}
    return {name: value for name, value in info.items() if name != key}


@pytest.mark.parametrize(
    "key",
    ["cut private_key", "private_key of another kind", "number private_key", "private_key", "client_email"],
)
def test_a_malformed_key_file_names_what_is_wrong_and_no_value(store: Place, key: str) -> None:
    store.credential(broken(store.gcs.service_account(), key))
    said = refusal_of(lambda: store.source().listing(), CredentialError, store)
    assert "service_account.json" in said
    assert key.removeprefix("cut ").removeprefix("number ").split()[0] in said


# Application-default credentials: google.auth reads the process's own environment, so each has a process of its own

SCRIPT = """
import json, sys, time
import entries
from pathlib import Path
from concurrent.futures import ThreadPoolExecutor
import os
from truss_cache_tasks.errors import CacheTaskError
from truss_cache_tasks.network.exchange import ExchangeLimits
from truss_cache_tasks.network.retry import RetryLimits
from truss_cache_tasks.sources.gcs import GcsSource

LIMITS = ExchangeLimits(retry=RetryLimits(attempts=3, backoff_s=0.1))

def ask(uri):
    entry = entries.entry(uri, config=Path(sys.argv[1]) / "config.yaml")
    try:
        source = entries.open_with(GcsSource, entry, entries.settings(**os.environ), limits=LIMITS)
        files = source.listing().files
        return [source.locate(files[0]).headers.get("Authorization"), [file.path for file in files]]
    except CacheTaskError as exc:
        return [type(exc).__name__, f"{exc} | {exc.hint}"]

began = time.monotonic()
with ThreadPoolExecutor(4) as pool:
    answers = list(pool.map(ask, sys.argv[2:]))
print(json.dumps([answers, time.monotonic() - began]))
"""


def ambient(store: Place, *uris: str, **env: str) -> tuple[list[list[Any]], float]:
    """Ask for `uris`, side by side, in a process whose environment is `env`; return the answers and the seconds."""
    env = {
        "PYTHONPATH": str(Path(__file__).parents[1]), "PATH": os.environ["PATH"], "HOME": str(store.root / "home"),
        "STORAGE_EMULATOR_HOST": store.gcs.url, "PYTHONWARNINGS": "error", **env,
    }  # fmt: skip
    command = [sys.executable, "-c", SCRIPT, str(store.root), *uris]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert not [secret for secret in store.secrets if secret in done.stdout.replace('"Bearer good"', "")]
    answers, seconds = json.loads(done.stdout)
    return answers, seconds


@pytest.fixture
def ambient_store(store: Place) -> Place:
    """A private place with one file, and a Truss without a credential."""
    store.put("a.bin", b"a")
    (store.root / "data/service_account.json").unlink()
    return store


def test_google_application_credentials_are_used_also_with_an_emulator_host(ambient_store: Place) -> None:
    path = ambient_store.credential(ambient_store.gcs.service_account(), "adc.json")
    answers, _ = ambient(ambient_store, f"gs://{ambient_store.bucket}", GOOGLE_APPLICATION_CREDENTIALS=str(path))
    assert answers == [["Bearer good", ["models/m/a.bin"]]]


def test_a_google_application_credentials_that_is_not_there_is_an_error_and_not_anonymous(
    ambient_store: Place,
) -> None:
    gone = str(ambient_store.root / "gone.json")
    with ambient_store.gcs.watching() as seen:
        ((kind, said),), _ = ambient(ambient_store, f"gs://{ambient_store.bucket}", GOOGLE_APPLICATION_CREDENTIALS=gone)
    assert kind == "CredentialError"
    assert f"GOOGLE_APPLICATION_CREDENTIALS: {gone}" in said
    assert seen == []


def test_gclouds_login_is_used_and_a_broken_one_is_an_error(ambient_store: Place) -> None:
    place = ambient_store
    login = {"type": "service_account", **place.gcs.service_account()}
    place.credential(login, "gcloud/application_default_credentials.json")
    ask = (f"gs://{place.bucket}",)
    env = {"CLOUDSDK_CONFIG": str(place.root / "gcloud"), "NO_GCE_CHECK": "true"}
    assert ambient(place, *ask, **env)[0] == [["Bearer good", ["models/m/a.bin"]]]
    place.credential("{", "gcloud/application_default_credentials.json")
    ((kind, said),), _ = ambient(place, *ask, **env)
    assert (kind, "gcloud" in said) == ("CredentialError", True)


def test_a_users_login_is_tried_without_a_warning(ambient_store: Place) -> None:
    place = ambient_store
    user = {
        "type": "authorized_user", "client_secret": "s", "refresh_token": "r",
        "client_id": "764086051850-6qr4p6gpi6hn506pt8ejuq83di341hur.apps.googleusercontent.com",  # gcloud itself
    }  # fmt: skip
    place.credential(user, "gcloud/application_default_credentials.json")
    # Google's token server is fixed for users, so it is put out of reach; `ambient` checks that stderr is empty
    env = {"CLOUDSDK_CONFIG": str(place.root / "gcloud"), "HTTPS_PROXY": "http://127.0.0.1:9"}
    ((kind, said),), _ = ambient(place, f"gs://{place.bucket}", **env)
    assert (kind, "through the proxy" in said) == ("TransientError", True)


def test_a_quota_project_pays_where_the_requester_pays(ambient_store: Place) -> None:
    place = ambient_store
    place.gcs.requester_pays.add(place.bucket)
    path = place.credential(place.gcs.service_account(), "adc.json")
    env = {"GOOGLE_APPLICATION_CREDENTIALS": str(path), "GOOGLE_CLOUD_QUOTA_PROJECT": "payer"}
    with place.gcs.watching() as seen:
        answers, _ = ambient(place, f"gs://{place.bucket}", **env)
    assert answers == [["Bearer good", ["models/m/a.bin"]]]
    assert seen[-1].headers["x-goog-user-project"] == "payer"


def test_a_ca_of_ones_own_is_trusted_by_ssl_cert_file(store: Place) -> None:
    place = store.public()
    place.put("a.bin", b"a")
    certificate = own_certificate(place.root / "ca.pem")
    with tls_in_front_of(store.gcs, certificate) as url:
        place.env["STORAGE_EMULATOR_HOST"] = url
        assert "certificate" in refusal_of(place.source().listing, PermanentError, place)
        place.env["SSL_CERT_FILE"] = str(certificate)
        (file,) = place.source().listing().files
        assert file.path == "a.bin"


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_variable_of_requests_does_not_stand_above_ssl_cert_file(
    store: Place, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("a.bin", b"a")
    for name in ("ours", "other"):
        (tmp_path / name).mkdir()
    authority, context = make_authority(tmp_path / "ours")
    monkeypatch.setenv(variable, str(make_authority(tmp_path / "other")[0]))  # requests reads it in the process
    with door_with_tls(store.gcs, context) as url:  # the token server and the store
        store.credential({**store.gcs.service_account(), "token_uri": f"{url}/token"})
        store.env |= {"STORAGE_EMULATOR_HOST": url, variable: os.environ[variable], "SSL_CERT_FILE": str(authority)}
        (file,) = store.source().listing().files
        assert file.path == "a.bin"


def own_certificate(path: Path) -> Path:
    """Write a key and a certificate of its own for 127.0.0.1 into one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    text = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(text + certificate.public_bytes(pem))
    return path


@contextmanager
def tls_in_front_of(gcs: Gcs, certificate: Path) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with door_with_tls(gcs, context) as url:
        yield url


@contextmanager
def door_with_tls(gcs: Gcs, context: ssl.SSLContext) -> Iterator[str]:
    with gcs.another_door() as door:
        door.socket = context.wrap_socket(door.socket, server_side=True)
        thread = threading.Thread(target=door.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield f"https://127.0.0.1:{door.server_port}"
        door.shutdown()
        thread.join()


class Metadata:
    """A metadata server that knows a service account, or answers nothing at all."""

    def __init__(self, *, silent: bool = False, account: bool = True) -> None:
        asked = self.asked = list[str]()
        released = self.released = threading.Event()

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                if silent:
                    released.wait(30)
                    return
                body: dict[str, Any] | str | None = "" if urlsplit(self.path).path == "/" else None
                if "/project/project-id" in self.path:
                    body = "test"
                elif "/universe" in self.path:
                    body = "googleapis.com"
                elif account and "/token" in self.path:
                    body = {"access_token": "good", "expires_in": 3600, "token_type": "Bearer"}
                elif account and "/service-accounts/" in self.path:
                    body = {"email": READER, "scopes": [], "aliases": ["default"]}
                data = (body if isinstance(body, str) else json.dumps(body)).encode()
                self.send_response(404 if body is None else 200)
                self.send_header("Metadata-Flavor", "Google")
                self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.server.daemon_threads = True
        self.env = {f"GCE_METADATA_{name}": f"127.0.0.1:{self.server.server_port}" for name in ("IP", "HOST")}

    def __enter__(self) -> Metadata:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()


def test_a_metadata_server_is_asked_once_for_all_entries(ambient_store: Place) -> None:
    with Metadata() as metadata:
        answers, _ = ambient(ambient_store, *[f"gs://{ambient_store.bucket}/models"] * 4, **metadata.env)
    assert answers == [["Bearer good", ["m/a.bin"]]] * 4
    assert len([path for path in metadata.asked if "/token" in path]) == 1
    assert metadata.asked.count("/") == 1


def test_a_silent_metadata_server_costs_a_second_once_and_means_anonymous(ambient_store: Place) -> None:
    public = ambient_store.public()
    public.put("p.bin", b"p")
    uris = (f"gs://{ambient_store.bucket}", f"gs://{public.bucket}", f"gs://{public.bucket}")
    with Metadata(silent=True) as metadata:
        (private, *publics), seconds = ambient(ambient_store, *uris, **metadata.env)
    assert private[0] == "AccessDenied"
    assert "no credential found" in private[1]
    assert publics == [[None, ["models/m/p.bin"]]] * 2
    assert len(metadata.asked) == 1
    assert seconds < 6


def test_a_machine_without_a_service_account_is_anonymous(ambient_store: Place) -> None:
    with Metadata(account=False) as metadata:
        ((kind, said),), _ = ambient(ambient_store, f"gs://{ambient_store.bucket}", **metadata.env)
    assert (kind, "no credential found" in said) == ("AccessDenied", True)


@pytest.mark.parametrize("why", ["a key file is there", "NO_GCE_CHECK"])
def test_the_metadata_server_is_not_asked_when(ambient_store: Place, why: str) -> None:
    env = {}
    if why == "NO_GCE_CHECK":
        env["NO_GCE_CHECK"] = "true"
    else:
        ambient_store.credential(ambient_store.gcs.service_account())
    with Metadata() as metadata:
        (answer,), _ = ambient(ambient_store, f"gs://{ambient_store.bucket}", **metadata.env, **env)
    assert metadata.asked == []
    assert answer[0] == ("AccessDenied" if env else "Bearer good")


@pytest.mark.slow
def test_importing_and_opening_the_source_imports_nothing_of_google() -> None:
    script = (
        "import sys, entries; from truss_cache_tasks.sources.gcs import GcsSource\n"
        "entries.open_with(GcsSource, entries.entry('gs://b/m'), entries.settings())\n"
        "print([name for name in sys.modules if name.partition('.')[0] in ('google', 'requests', 'urllib3')])"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_listing_follows_no_redirect_from_https_to_http(
    store: Place, secure: FaultServer, fault_authority: Any
) -> None:
    public = store.public()
    secure.add(f"/storage/v1/b/{public.bucket}/o", b"", f"redirect:{store.gcs.url}/storage/v1/b/{public.bucket}/o")
    public.env = {**public.env, "STORAGE_EMULATOR_HOST": secure.base, "SSL_CERT_FILE": str(fault_authority[0])}
    with store.gcs.watching() as seen:
        refused = refusal_of(public.source().listing, PermanentError, public)
    assert "127.0.0.1 redirects from https to http" in refused
    assert kinds(seen) == []
