"""What stores with the S3 API answer, as far as their documentation tells, from a server with a script."""

from __future__ import annotations

import hashlib
import html
import re
import socket
import threading
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from entries import entry, open_with, settings
from servers.s3_script import Reply, error, page, scripted_s3

from sources.s3_places import UNKNOWN, config_with, region_of
from truss_cache_tasks.errors import AccessDenied, CacheTaskError, NotFound, TransientError
from truss_cache_tasks.model.listing import Digest
from truss_cache_tasks.network.exchange import ExchangeLimits
from truss_cache_tasks.network.retry import RetryLimits
from truss_cache_tasks.sources.s3 import S3Source
from truss_cache_tasks.sources.testing import by_path, read, text_of

pytestmark = pytest.mark.slow  # each starts a server of its own

ONCE = ExchangeLimits(retry=RetryLimits(attempts=1))


def scripted(scheme: str, folder: Path, url: str, **env: str) -> S3Source:
    """Return the source of `0a1b.weights/m` or `weights/m` at a scripted server."""
    variable = "TRUSS_CACHE_R2_ENDPOINT" if scheme == "r2" else "AWS_ENDPOINT_URL_S3"
    config = config_with(folder, UNKNOWN, scheme)
    uri = f"{scheme}://{'0a1b.' if scheme == 'r2' else ''}weights/m"
    return open_with(S3Source, entry(uri, config=config), settings(**{variable: url, **env}), limits=ONCE)


JURISDICTION = "TRUSS_CACHE_R2_ENDPOINT=https://{account_id}.eu.r2.cloudflarestorage.com"


def ask(source: S3Source, what: str) -> None:
    """List, then ask for the digest of the file or read it; raise what the source makes of a refusal."""
    (file,) = source.listing().files
    location = source.locate(file)
    if what == "read":
        answer = read(location)
        raise source.explain(file, answer.status, answer.headers, answer.data)
    assert location.fetch_digest is not None
    location.fetch_digest()


TOO_LONG = error("InvalidArgument", "Credential access key has length 20, should be 32")


REFUSALS = {
    "length": (400, TOO_LONG, AccessDenied, "its access key has 20 characters, expected 32 (InvalidArg", "this store"),
    "unknown": (401, error("Unauthorized", "x"), AccessDenied, "the access key is unknown there", "renew"),
    "secret": (403, error("SignatureDoesNotMatch", "x"), AccessDenied, "secret key does not match", "renew"),
    "denied": (403, error("AccessDenied", "x"), AccessDenied, "missing permission Object Read on buc", JURISDICTION),
    "no-plan": (403, error("NotEntitled", "x"), AccessDenied, "the account may not use this store", "Enable"),
    "clock": (400, error("ExpiredRequest", "x"), AccessDenied, "this machine's clock differs", "NTP"),
    "bucket": (404, error("NoSuchBucket", "x"), NotFound, "no bucket 'weights' at 127.0.0.1", JURISDICTION),
    "rate": (429, error("TooManyRequests", "x"), TransientError, "answered 429 TooManyRequests", "Wait"),
    "busy": (503, error("ServiceUnavailable", "x"), TransientError, "answered 503 ServiceUnavailable", "Wait"),
}
ASKED = [
    *(("listing", name) for name in REFUSALS),
    *(("digest", name) for name in ("length", "unknown", "denied")),  # by a HEAD, which has no body
    *(("read", name) for name in ("length", "denied", "bucket", "rate")),
]


@pytest.mark.parametrize(("asked", "name"), ASKED)
def test_what_r2_answers_is_explained(asked: str, name: str, tmp_path: Path) -> None:
    status, body, kind, words, hint = REFUSALS[name]
    listing = Reply("list-type=2", page("m/a.bin")) if asked != "listing" else Reply("list-type=2", body, status)
    with scripted_s3([listing, Reply("", body, status)]) as server:
        source = scripted("r2", tmp_path, server.url)
        with pytest.raises(CacheTaskError) as caught:
            ask(source, asked)
    assert type(caught.value) is kind
    assert words in str(caught.value)
    assert str(caught.value).startswith("r2://0a1b.weights/m")
    assert hint in str(caught.value.hint)
    assert not [secret for secret in (UNKNOWN.access, UNKNOWN.secret) if secret in text_of(caught.value)]


def test_a_server_that_ends_the_handshake_of_an_unknown_account_is_told_as_such(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"https://127.0.0.1:{server.getsockname()[1]}"

        def refuse() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"\x15\x03\x03\x00\x02\x02\x28")  # an alert: handshake failure

        thread = threading.Thread(target=refuse)
        thread.start()
        with pytest.raises(TransientError, match="TLS failed") as caught:
            scripted("r2", tmp_path, url).listing()
        thread.join()
    assert "Check the id of the account in repo_id." in str(caught.value.hint)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("AuthorizationHeaderMalformed", "<Region>garage</Region>"),
        ("AuthorizationHeaderMalformed", ""),
        ("InvalidRegion", ""),  # CoreWeave
    ],
)
def test_a_server_that_wants_its_own_region_is_followed_or_names_it(code: str, told: str, tmp_path: Path) -> None:
    wrong = error(code, "unexpected scope", told)
    replies = [Reply("list-type=2", page("m/a.bin"), region="garage"), Reply("", wrong, 400)]
    with scripted_s3(replies) as server:
        source = scripted("s3", tmp_path, server.url)
        if told:
            assert region_of(source) == "garage"
            return
        with pytest.raises(AccessDenied, match="expected that of bucket 'weights', which") as caught:
            source.listing()
        assert "Set aws_region in the credential file" in str(caught.value.hint)


@pytest.mark.parametrize(
    "pages",
    [
        (page("m/a.bin", token="m/a.bin[minio_cache:v2,return:]"), page("m/b.bin")),
        (page("m/a.bin", token="k="), page(token="+/ =&amp;é"), page("m/b.bin")),  # a page without a key
        (page("m/a.bin", token="x", etag="e"), page("m/b.bin", etag="&quot;e&quot;")),  # without quotes
    ],
    ids=["MinIO", "empty", "ETag"],
)
def test_pages_are_followed_by_whatever_token_a_store_has(pages: Sequence[str], tmp_path: Path) -> None:
    tokens = [re.search("<NextContinuationToken>(.*)</NextContinuationToken>", text) for text in pages[:-1]]
    names = [html.unescape(token[1]) for token in tokens if token]
    replies = [
        Reply(f"continuation-token={urllib.parse.quote(name, safe='')}&", text)
        for name, text in zip(names, pages[1:], strict=True)
    ]
    with scripted_s3([*replies, Reply("prefix=m&", page()), Reply("list-type=2", pages[0])]) as server:
        files = by_path(scripted("s3", tmp_path, server.url).listing())
    assert set(files) == {"a.bin", "b.bin"}
    assert {file.version for file in files.values()} == {"e"}


@pytest.mark.parametrize(
    ("encoding", "key"),
    [("<EncodingType>url</EncodingType>", "m/a%20b%2Bc%C3%A9.bin"), ("", "m/a b+cé.bin")],
    ids=["encoded", "plain"],
)
def test_keys_are_read_as_a_store_encodes_them(encoding: str, key: str, tmp_path: Path) -> None:
    with scripted_s3([Reply("prefix=m&", page()), Reply("list-type=2", page(key, encoding=encoding))]) as server:
        (file,) = scripted("s3", tmp_path, server.url).listing().files
    assert file.key == "m/a b+cé.bin"


CRC64 = {"x-amz-checksum-crc64nvme": "AAAAAAAAAAA=", "x-amz-checksum-type": "FULL_OBJECT"}
MD5 = hashlib.md5(b"a", usedforsecurity=False).hexdigest()
MD5S = f"{hashlib.md5(bytes.fromhex(MD5) * 2, usedforsecurity=False).hexdigest()}-2"


@pytest.mark.parametrize(
    ("etag", "headers", "part", "digest"),
    [
        (MD5, CRC64, {}, Digest("crc64nvme", "0" * 16)),
        (MD5, {}, {}, Digest("md5", MD5, is_guess=True)),
        (MD5S, CRC64, {}, Digest("crc64nvme", "0" * 16)),
        (MD5S, {}, {"x-amz-mp-parts-count": "2"}, Digest("md5", MD5S[:-2], (1, 1), is_guess=True)),
        (MD5S, {}, {}, None),  # a HEAD of a part that does not tell how many there are
        (MD5S, {"x-amz-checksum-crc32": "AAAAAA=="}, {}, None),  # of the whole, or of the parts?
    ],
    ids=["crc64", "md5", "crc64-parts", "md5-parts", "parts-untold", "kind-untold"],
)
def test_what_a_store_tells_of_an_object_is_its_digest(
    etag: str, headers: Mapping[str, str], part: Mapping[str, str], digest: Digest | None, tmp_path: Path
) -> None:
    size = 2 if "-" in etag else 1
    whole = {"ETag": f'"{etag}"', "Content-Length": str(size), **headers}
    replies = [
        Reply("attributes", error("NotImplemented"), 501),  # Garage
        Reply("partNumber=", "", 206, {**whole, "Content-Length": "1", **part}),
        Reply("HEAD ", "", 200, whole),
        Reply("list-type=2", page("m/a.bin", etag=etag, size=size)),
    ]
    with scripted_s3(replies) as server:
        source = scripted("r2", tmp_path, server.url)
        (file,) = source.listing().files
        asks = source.locate(file).fetch_digest
        assert asks is not None
        assert asks() == digest
