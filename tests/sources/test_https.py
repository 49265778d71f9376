"""Files of web servers: nginx for what servers do, and a server with a script of faults for what few of them do."""

from __future__ import annotations

import base64
import hashlib
import os
import urllib.parse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import entries
import pytest
from servers.faults import FaultServer
from servers.nginx import Nginx, nginx
from servers.proxy import proxying

from truss_cache_tasks.errors import (
    AccessDenied,
    CacheTaskError,
    IntegrityError,
    NotFound,
    PermanentError,
    SourceChanged,
    Stopped,
    TransientError,
    WrongAnswer,
)
from truss_cache_tasks.model.listing import UNVERSIONED, Pins, RemoteFile
from truss_cache_tasks.network.cancel import StopPoll
from truss_cache_tasks.network.exchange import ExchangeLimits
from truss_cache_tasks.network.retry import RetryLimits
from truss_cache_tasks.sources.https import HttpsSource
from truss_cache_tasks.sources.https.validators import version_of
from truss_cache_tasks.sources.testing import ODD_NAMES, PLAIN_NAMES, SourceContract, read, text_of

QUICK = ExchangeLimits(retry=RetryLimits(attempts=3, backoff_s=0.01, backoff_cap_s=0.02))
TOKEN = "good-token-0123456789"


def quoted(path: str) -> str:
    return urllib.parse.quote(path)


class Place:
    """A folder of nginx behind a token, and a Truss folder whose secret holds it."""

    secrets = (TOKEN, "wrong-token-9876543210")

    def __init__(self, web: Nginx, authority: Path, root: Path, folder: str) -> None:
        self.web, self.authority, self.root, self.folder = web, authority, root, folder
        self.last = ""
        self.token: str | None = TOKEN
        self._age = 0

    def put(self, path: str, data: bytes) -> None:
        file = self.web.put(f"{self.folder}/{path}", data)
        self._age += 1
        os.utime(file, (1_700_000_000 + self._age,) * 2)  # in seconds, as an ETag of nginx has it
        self.last = path

    def delete(self, path: str) -> None:
        (self.web.folder / "www" / self.folder / path).unlink()

    def source_of(self, path: str, **fields: Any) -> HttpsSource:
        if self.token is not None:
            (self.root / "secrets").mkdir(exist_ok=True)
            (self.root / "secrets" / "web").write_text(self.token + "\n")
            fields["runtime_secret_name"] = "web"
        url = f"{self.web.url}/{self.folder}/{quoted(path)}"
        settings = entries.settings(self.root / "secrets", HOME="/nowhere")
        return entries.open_with(HttpsSource, entries.entry(url, **fields), settings, limits=QUICK)

    def source(self, **fields: Any) -> HttpsSource:
        return self.source_of(self.last, **fields)

    def missing(self) -> HttpsSource:
        return self.source_of("no/such.bin")

    def refused(self) -> HttpsSource:
        self.token = self.secrets[1]
        return self.source()

    def public(self) -> Place:
        public = Place(self.web, self.authority, self.root, "public")
        public.token = None
        return public


@pytest.fixture(scope="module")
def behind_a_token(tmp_path_factory: pytest.TempPathFactory, authority: Path) -> Iterator[Nginx]:
    with nginx(tmp_path_factory.mktemp("web") / "nginx", authority) as web:
        web.say(server=f'location /private/ {{ if ($http_authorization != "Bearer {TOKEN}") {{ return 401; }} }}')
        yield web


@pytest.mark.slow
class TestHttps(SourceContract):
    folder = prefixes = digests = False
    names = (*PLAIN_NAMES, *ODD_NAMES, "a\\b.bin", "p//y.bin")

    @pytest.fixture
    def store(self, behind_a_token: Nginx, authority: Path, tmp_path: Path) -> Place:
        return Place(behind_a_token, authority, tmp_path, f"private/{tmp_path.name}")


# With a script of faults


BODY = bytes(range(256)) * 40
SHA256 = hashlib.sha256(BODY).hexdigest()
OLD, NOW = "Thu, 01 Jan 1970 00:00:09 GMT", "Sat, 28 Nov 2026 10:00:00 GMT"


def base64_of(algorithm: str, data: bytes = BODY) -> str:
    return base64.b64encode(hashlib.new(algorithm, data).digest()).decode()


def open_url(url: str, root: Path, secret: str = "", digest: str = "", **env: str) -> HttpsSource:
    fields: dict[str, Any] = {"digest": digest}
    if secret:
        (root / "secrets").mkdir(exist_ok=True)
        (root / "secrets" / "web").write_text(secret)
        fields["runtime_secret_name"] = "web"
    settings = entries.settings(root / "secrets", HOME=str(root), **env)
    return entries.open_with(HttpsSource, entries.entry(url, **fields), settings, limits=QUICK)


def listed(source: HttpsSource) -> RemoteFile:
    (file,) = source.listing().files
    return file


def refused(source: HttpsSource, kind: type[CacheTaskError], *secrets: str) -> str:
    """Return cause and hint of the error of a listing; no text of it has one of the secrets."""
    with pytest.raises(kind) as caught:
        source.listing()
    assert type(caught.value) is kind
    text = text_of(caught.value)
    assert not [secret for secret in secrets if secret in text]
    return f"{caught.value} | {caught.value.hint}"


def test_one_get_of_the_first_byte_without_encoding_tells_all(server: FaultServer, tmp_path: Path) -> None:
    source = open_url(server.add("/w.bin", BODY), tmp_path)
    file = listed(source)
    assert (file.path, file.size, file.version, file.digest) == ("w.bin", len(BODY), '"v1"', None)
    (asked,) = server.asked
    assert (asked.headers["range"], asked.headers["accept-encoding"]) == ("bytes=0-0", "identity")
    location = source.locate(file)
    assert location.headers["If-Match"] == '"v1"'
    assert (location.validator, location.validator_header, location.pins_version) == ('"v1"', "ETag", False)
    assert len(server.asked) == 1


def test_a_server_that_ignores_ranges_tells_the_size_by_the_length(server: FaultServer, tmp_path: Path) -> None:
    assert listed(open_url(server.add("/w.bin", BODY, "ignore-range"), tmp_path)).size == len(BODY)


def test_an_empty_file_has_no_first_byte_and_is_a_file(server: FaultServer, tmp_path: Path) -> None:
    file = listed(open_url(server.add("/w.bin", b""), tmp_path))  # 416, then 200
    assert (file.size, file.version) == (0, '"v1"')
    assert server.ranges() == ["bytes=0-0", None]


@pytest.mark.parametrize("fault", ["no-length", "chunked"])
def test_an_answer_without_a_size_is_refused(fault: str, server: FaultServer, tmp_path: Path) -> None:
    server.add("/w.bin", b"", "416", fault)  # what the second request gets, which asks for the whole file
    assert "no size of the file, expected Content-Length or Content-Range" in refused(
        open_url(f"{server.base}/w.bin", tmp_path), WrongAnswer
    )


@pytest.mark.parametrize(
    ("headers", "etag", "version"),
    [
        ({"Last-Modified": OLD}, '"v1"', '"v1"'),
        ({"Last-Modified": OLD}, 'W/"v1"', OLD.replace(" ", "_")),
        ({"Last-Modified": OLD}, None, OLD.replace(" ", "_")),
        ({"Last-Modified": OLD}, '""', OLD.replace(" ", "_")),
        ({"Last-Modified": OLD}, "v1", OLD.replace(" ", "_")),  # no quotes: no ETag by the rule
        ({"Last-Modified": "yesterday"}, None, ""),
        ({}, 'W/"v1"', ""),
        ({}, None, ""),
    ],
)
def test_a_version_is_a_strong_etag_else_the_time_of_the_last_change_else_nothing(
    headers: dict[str, str], etag: str | None, version: str, server: FaultServer, tmp_path: Path
) -> None:
    url = server.add("/w.bin", BODY, etag=etag)
    server.files["/w.bin"].headers = headers
    source = open_url(url, tmp_path)
    file = listed(source)
    location = source.locate(file)
    if version:
        assert file.version == version
        assert read(location).headers[location.validator_header] == location.validator
    else:
        assert file.is_unversioned
        assert listed(source).version != file.version
        assert location.validator is None
        assert not {"if-match", "if-unmodified-since"} & {name.lower() for name in location.headers}


def test_a_change_within_the_second_of_the_answer_has_no_version() -> None:
    assert version_of({"Last-Modified": NOW, "Date": NOW}).startswith(UNVERSIONED)
    assert version_of({"Last-Modified": OLD, "Date": NOW}) == OLD.replace(" ", "_")


@pytest.mark.parametrize(
    ("headers", "faults", "digest", "asked"),
    [
        ({"Repr-Digest": f"sha-256=:{base64_of('sha256')}:"}, (), f"sha256 {SHA256}", 1),
        ({"Repr-Digest": f"md5=:AAAA:, sha-256=:{base64_of('sha256')}:;q=1"}, (), f"sha256 {SHA256}", 1),
        ({"Digest": f"SHA-256={base64_of('sha256')}, md5={base64_of('md5')}"}, (), f"sha256 {SHA256}", 1),
        ({"Digest": f"md5={base64_of('md5')}"}, (), f"md5 {hashlib.md5(BODY).hexdigest()}", 1),
        ({"Content-MD5": base64_of("md5")}, ("ignore-range",), f"md5 {hashlib.md5(BODY).hexdigest()}", 1),
        ({"Content-Digest": f"sha-256=:{base64_of('sha256')}:"}, ("ignore-range",), f"sha256 {SHA256}", 1),
        ({"Content-MD5": base64_of("md5")}, (), f"md5 {hashlib.md5(BODY).hexdigest()}", 2),  # of a part, or of all?
        ({"Content-Digest": f"sha-256=:{base64_of('sha256')}:"}, (), f"sha256 {SHA256}", 2),
        ({"Repr-Digest": f"sha-512=:{base64_of('sha512')}:"}, (), "None", 1),
        ({"Repr-Digest": "sha-256=:AAAA:"}, (), "None", 1),
        ({"Repr-Digest": f"sha-256=:{'A' * 20_000}:"}, (), "None", 1),
        ({"Digest": f"sha-256={SHA256}"}, (), "None", 1),  # hex
        ({"Digest": "=,;:,sha-256,,="}, (), "None", 1),
    ],
)
def test_digests_of_the_whole_file_are_taken_from_the_headers(
    headers: dict[str, str], faults: tuple[str, ...], digest: str, asked: int, server: FaultServer, tmp_path: Path
) -> None:
    url = server.add("/w.bin", BODY, *faults)
    server.files["/w.bin"].headers = headers
    source = open_url(url, tmp_path)
    assert str(listed(source).digest) == digest
    assert len(server.asked) == asked


def test_a_given_digest_counts_and_must_not_contradict_the_server(server: FaultServer, tmp_path: Path) -> None:
    url = server.add("/w.bin", BODY)
    assert str(listed(open_url(url, tmp_path, digest=f"sha256:{SHA256}")).digest) == f"sha256 {SHA256}"
    server.files["/w.bin"].headers = {"Repr-Digest": f"sha-256=:{base64_of('sha256')}:"}
    assert "expected sha256 000" in refused(open_url(url, tmp_path, digest="sha256:" + "0" * 64), IntegrityError)


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({"Content-Encoding": "gzip"}, "the server sends the encoding 'gzip', expected none"),
        ({"Content-Encoding": "gzip", "ETag": '"plain"'}, "the encoding 'gzip'"),
        ({"Content-Type": "text/html; charset=utf-8"}, "a page (text/html) of 127.0.0.1, expected the file"),
    ],
)
def test_encoded_bytes_and_pages_are_refused(
    headers: dict[str, str], says: str, server: FaultServer, tmp_path: Path
) -> None:
    url = server.add("/w.bin", BODY, etag=None)
    server.files["/w.bin"].headers = headers
    assert says in refused(open_url(url, tmp_path), WrongAnswer)


def test_a_page_that_is_named_so_or_has_the_given_digest_is_a_file(server: FaultServer, tmp_path: Path) -> None:
    for path, digest in (("/w.html", ""), ("/w.bin", f"sha256:{SHA256}")):
        url = server.add(path, BODY)
        server.files[path].headers = {"Content-Type": "text/html"}
        assert listed(open_url(url, tmp_path, digest=digest)).size == len(BODY)


def test_a_range_that_was_not_asked_for_is_refused(server: FaultServer, tmp_path: Path) -> None:
    source = open_url(server.add("/w.bin", BODY, "wrong-content-range"), tmp_path)
    assert "Content-Range 'bytes 1-0/10240', expected" in refused(source, WrongAnswer)


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        (401, AccessDenied, "401 Unauthorized, and no login was found; looked at "),
        (403, AccessDenied, "403 Forbidden, and no login was found"),
        (404, NotFound, "404 Not Found | Correct the URL"),
        (410, NotFound, "410 Gone"),
        (407, PermanentError, "the proxy refuses (407)"),
        (400, CacheTaskError, "400 Bad Request"),
        (300, CacheTaskError, "300 Multiple Choices"),
        (204, CacheTaskError, "204 No Content"),
        (418, CacheTaskError, "418 I'm a Teapot"),
        (499, CacheTaskError, "the server answers 499 |"),
    ],
)
def test_each_refusal_says_what_to_do(
    status: int, kind: type[CacheTaskError], says: str, server: FaultServer, tmp_path: Path
) -> None:
    assert says in refused(open_url(server.add("/w.bin", BODY, str(status)), tmp_path), kind)
    assert len(server.asked) == 1


def test_what_may_succeed_later_is_asked_again_and_no_longer_than_the_limits_say(
    server: FaultServer, tmp_path: Path
) -> None:
    assert listed(open_url(server.add("/w.bin", BODY, "503", "hang-up"), tmp_path)).size == len(BODY)
    said = refused(open_url(server.add("/v.bin", BODY, "500", "429", "502"), tmp_path), TransientError)
    assert "502 Bad Gateway (tried 3 times)" in said


def test_a_login_is_sent_to_its_host_and_dropped_where_a_redirect_leads_elsewhere(
    server: FaultServer, secure: FaultServer, fault_authority: Any, tmp_path: Path
) -> None:
    url = secure.add("/a.bin", BODY)
    start = server.add("/w.bin", BODY, f"redirect:{server.base}/same.bin")
    server.add("/same.bin", BODY, f"redirect:{url}")
    source = open_url(start, tmp_path, "?sig=hush\n", SSL_CERT_FILE=str(fault_authority[0]))
    assert listed(source).size == len(BODY)
    assert [asked.path for asked in (*server.asked, *secure.asked)] == ["/w.bin?sig=hush", "/same.bin", "/a.bin"]
    server.asked.clear()
    server.files["/w.bin"].faults.append("redirect:/same.bin")
    server.files["/same.bin"].faults.append(f"redirect:{url}")
    listed(open_url(start, tmp_path, "good-token", SSL_CERT_FILE=str(fault_authority[0])))
    assert [asked.headers.get("authorization") for asked in server.asked] == ["Bearer good-token"] * 2
    assert "authorization" not in secure.asked[-1].headers


def test_a_signed_query_is_not_in_what_is_shown(
    server: FaultServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    url = server.add("/w.bin", BODY, "", "403")
    source = open_url(f"{url}?id=hush7", tmp_path, "?sig=hush8")
    file = listed(source)
    location = source.locate(file)
    assert read(location).status == 403
    assert [asked.path for asked in server.asked] == ["/w.bin?id=hush7&sig=hush8"] * 2
    error = source.explain(file, 403, {}, b"")
    shown = (repr(location), location.url, repr(source), repr(file), text_of(error))
    listing_log = [record.getMessage() for record in caplog.records][:2]
    assert not [text for text in (*shown, *listing_log) if "hush" in text]
    assert "403 Forbidden to the login of " in str(error)


@pytest.mark.parametrize("status", [404, 410, 412])
def test_a_file_that_is_gone_after_it_was_listed_has_changed(status: int, server: FaultServer, tmp_path: Path) -> None:
    source = open_url(server.add("/w.bin", BODY), tmp_path)
    assert isinstance(source.explain(listed(source), status, {}, b""), SourceChanged)


@pytest.mark.parametrize(
    "target", ["http://127.0.0.1:{port}/w.bin", "http://example.com/w.bin?hush", "HTTP://example.com/w.bin"]
)
def test_a_redirect_from_https_to_http_is_refused(
    target: str, server: FaultServer, secure: FaultServer, fault_authority: Any, tmp_path: Path
) -> None:
    server.add("/w.bin", BODY)
    url = secure.add("/w.bin", BODY, f"redirect:{target.format(port=server.port)}")
    source = open_url(url, tmp_path, SSL_CERT_FILE=str(fault_authority[0]))
    assert "127.0.0.1 redirects from https to http" in refused(source, PermanentError, "hush")
    assert server.asked == []


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("http://example.com/w.bin?hush", "redirects to http, expected https"),
        ("ftp://example.com/hush", "something that is no http(s) URL"),
        ("https://h:99999/hush", "something that is no http(s) URL"),
        ("https://a b/hush", "no host can have this name"),
        ("/w.bin?hush", "redirects more than 5 times"),
    ],
)
def test_a_redirect_to_no_server_that_may_be_asked_is_refused(
    target: str, says: str, server: FaultServer, tmp_path: Path
) -> None:
    url = server.add("/w.bin", BODY, *[f"redirect:{target}"] * 9)
    assert says in refused(open_url(url, tmp_path), PermanentError, "hush")


def test_headers_without_an_end_are_refused(server: FaultServer, tmp_path: Path) -> None:
    said = refused(open_url(server.add("/w.bin", BODY, "huge-head"), tmp_path), WrongAnswer)
    assert "the server sends an answer without an end" in said


def test_a_certificate_that_is_not_trusted_is_named(secure: FaultServer, tmp_path: Path) -> None:
    said = refused(open_url(secure.add("/w.bin", BODY), tmp_path, SSL_CERT_FILE=""), PermanentError)
    assert "its certificate is not trusted" in said


def test_a_server_is_asked_through_the_proxy(secure: FaultServer, fault_authority: Any, tmp_path: Path) -> None:
    url = secure.add("/w.bin", BODY)
    with proxying("user", "pass word") as proxy:
        address = f"127.0.0.1:{proxy.server_address[1]}"
        env = {"SSL_CERT_FILE": str(fault_authority[0]), "HTTPS_PROXY": f"http://user:pass%20word@{address}"}
        assert listed(open_url(url, tmp_path, **env)).size == len(BODY)
        env["HTTPS_PROXY"] = f"http://user:hush@{address}"
        assert "the proxy refuses (407)" in refused(open_url(url, tmp_path, **env), PermanentError, "hush")


def test_a_listing_ends_when_the_run_is_cancelled(server: FaultServer, tmp_path: Path) -> None:
    url = server.add("/w.bin", BODY, "silence")
    settings = entries.settings(tmp_path, HOME=str(tmp_path))
    stop = StopPoll(lambda: bool(server.asked))
    source = entries.open_with(HttpsSource, entries.entry(url), settings, limits=QUICK, cancel=stop)
    with pytest.raises(Stopped):
        source.listing()


def test_a_file_of_a_lock_is_not_asked_for(server: FaultServer, tmp_path: Path) -> None:
    url = server.add("/w.bin", BODY)
    source = open_url(url, tmp_path)
    known = source.listing()
    asked = len(server.asked)
    assert source.listing(Pins(known=known)) == known
    (without,) = source.listing(Pins(known=replace(known, files=(replace(known.files[0], version=""),)))).files
    assert without.is_unversioned
    assert len(server.asked) == asked
