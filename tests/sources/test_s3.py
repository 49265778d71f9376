"""S3 against two real servers that check keys; boto3 puts the objects there and is the judge of what they are."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from entries import entry, open_with, settings
from servers.s3 import MOTO_PAGE, Keys, PartChecksums, S3Server, Watched, region_stub, watched

from sources.s3_places import UNKNOWN, Place, S3Contract, config_with, place
from truss_cache_tasks.errors import (
    AccessDenied,
    ConfigError,
    CredentialError,
    NotFound,
    SourceChanged,
    TransientError,
)
from truss_cache_tasks.model.listing import Digest, FilePin, Pins, RemoteFile
from truss_cache_tasks.network.exchange import ExchangeLimits
from truss_cache_tasks.network.retry import RetryLimits
from truss_cache_tasks.sources.s3 import S3Source
from truss_cache_tasks.sources.s3.digests import digest_of_head
from truss_cache_tasks.sources.s3.refusals import is_transient
from truss_cache_tasks.sources.testing import DATA, by_path, digest_of, read, read_digest, text_of

pytest_plugins = ["servers.fixtures_s3"]

MIB = 1 << 20
QUICK = ExchangeLimits(retry=RetryLimits(backoff_s=0.01, backoff_cap_s=0.05))


class TestSeaweedFS(S3Contract):
    many = 1200  # two pages; each object is a write to a disk here

    @pytest.fixture
    def store(self, seaweed: S3Server, tmp_path: Path) -> Place:
        return place(seaweed, tmp_path)


class TestMoto(S3Contract):
    many = 2 * MOTO_PAGE + 50
    test_a_public_place_is_read_without_a_credential = None  # type: ignore[assignment]  # moto with IAM on answers 500 to requests without keys

    @pytest.fixture
    def store(self, moto: S3Server, tmp_path: Path) -> Place:
        return place(moto, tmp_path)


@pytest.fixture(params=["seaweed", "moto"])
def versioned(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A place in a bucket of its own that keeps replaced and deleted versions."""
    server: S3Server = request.getfixturevalue(request.param)
    found = place(server, tmp_path)
    found.bucket = f"versions-{uuid.uuid4().hex[:12]}"
    found.keys = server.identities["admin"]
    client = server.client()
    client.create_bucket(Bucket=found.bucket)
    client.put_bucket_versioning(Bucket=found.bucket, VersioningConfiguration={"Status": "Enabled"})
    return found


def put_version(store: Place, path: str, data: bytes, **extra: Any) -> FilePin:
    """Store a version and return its pin, as a lock file has it."""
    key = f"{store.prefix}/{path}"
    made = store.server.client().put_object(Bucket=store.bucket, Key=key, Body=data, **extra)
    return FilePin(key, made["ETag"].strip('"'), made["VersionId"])


def test_pinned_versions_are_listed_and_read_and_none_else(versioned: Place) -> None:
    first = put_version(versioned, "a.bin", b"first")
    gone = put_version(versioned, "sub/b+ ~.bin", b"deleted")
    put_version(versioned, "a.bin", b"second, longer")
    put_version(versioned, "c.bin", b"another")
    versioned.delete("sub/b+ ~.bin")
    source = versioned.source()
    files = by_path(source.listing(Pins(files=(first, gone))))
    assert {path: (file.size, file.version_id) for path, file in files.items()} == {
        "a.bin": (5, first.version_id),
        "sub/b+ ~.bin": (7, gone.version_id),
    }
    assert {path: read(source.locate(file)).data for path, file in files.items()} == {
        "a.bin": b"first",
        "sub/b+ ~.bin": b"deleted",
    }
    assert read(source.locate(files["a.bin"]), "bytes=1-2").data == b"ir"
    assert by_path(versioned.source().listing())["a.bin"].size == 14  # without pins: what is there now


def test_the_digest_of_a_pinned_version_is_its_own(versioned: Place) -> None:
    first = put_version(versioned, "a.bin", b"first", ChecksumAlgorithm="SHA256")
    put_version(versioned, "a.bin", b"second", ChecksumAlgorithm="SHA256")
    source = versioned.source()
    (file,) = source.listing(Pins(files=(first,))).files
    location = source.locate(file)
    assert location.fetch_digest is not None
    for digest in (location.fetch_digest(), read_digest(location, read(location))):
        assert digest is not None
        assert digest_of(b"first", digest) == digest


def test_a_pinned_version_that_is_gone_or_another_is_not_found(versioned: Place) -> None:
    first = put_version(versioned, "a.bin", b"first")
    versioned.server.client().delete_object(Bucket=versioned.bucket, Key=first.key, VersionId=first.version_id)
    second = put_version(versioned, "a.bin", b"second")
    with pytest.raises(NotFound, match=f"a.bin is pinned at {first.version_id}, and it is gone") as caught:
        versioned.source().listing(Pins(files=(first,)))
    S3Contract.assert_clear_error(caught.value, versioned)
    other = replace(second, version=first.version)
    with pytest.raises(NotFound, match=f"and the store has {second.version}"):
        versioned.source().listing(Pins(files=(other,)))


@pytest.fixture(params=["seaweed", "moto"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return place(request.getfixturevalue(request.param), tmp_path)


@pytest.fixture
def on_seaweed(seaweed: S3Server, tmp_path: Path) -> Place:
    return place(seaweed, tmp_path)


@pytest.fixture
def on_moto(moto: S3Server, tmp_path: Path) -> Place:
    return place(moto, tmp_path)


# What is listed


def test_the_listing_is_what_boto3_lists(store: Place) -> None:
    for name, data in {"a.bin": b"a", "sub/b.bin": DATA, "ü #%+.bin": b"", "sub/": b""}.items():
        store.put(name, data)
    pages = (
        store.server.client().get_paginator("list_objects_v2").paginate(Bucket=store.bucket, Prefix=store.prefix + "/")
    )
    judged = {
        item["Key"]: (item["Size"], item["ETag"].strip('"'))
        for page in pages
        for item in page["Contents"]
        if not item["Key"].endswith("/")
    }
    assert {file.key: (file.size, file.version) for file in store.source().listing().files} == judged
    assert len(judged) == 3


def test_keys_that_climb_are_listed_as_they_are(on_moto: Place) -> None:
    on_moto.put("../../evil.bin", b"x")
    on_moto.put("/absolute.bin", b"x")
    assert set(by_path(on_moto.source().listing())) == {"../../evil.bin", "/absolute.bin"}


def test_a_versioned_bucket_lists_and_reads_the_newest(store: Place) -> None:
    bucket = f"versioned-{uuid.uuid4().hex[:8]}"
    client = store.server.client()
    client.create_bucket(Bucket=bucket)
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for data in (b"old", b"new!"):
        client.put_object(Bucket=bucket, Key="m/a.bin", Body=data)
    client.put_object(Bucket=bucket, Key="m/gone.bin", Body=b"gone")
    client.delete_object(Bucket=bucket, Key="m/gone.bin")
    source = store.at(f"s3://{bucket}/m", store.keys)
    (file,) = source.listing().files
    assert (file.path, file.size) == ("a.bin", 4)
    assert read(source.locate(file)).data == b"new!"


# Digests


def upload(store: Place, path: str, parts: list[bytes], client: Any = None, **create: Any) -> list[str]:
    """Upload `parts` as one multipart object; return the checksums of the parts, where there are."""
    client, where = client or store.server.client(), {"Bucket": store.bucket, "Key": f"{store.prefix}/{path}"}
    upload_id = client.create_multipart_upload(**where, **create)["UploadId"]
    done = []
    for number, data in enumerate(parts, 1):
        algorithm = {"ChecksumAlgorithm": create["ChecksumAlgorithm"]} if "ChecksumAlgorithm" in create else {}
        answer = client.upload_part(**where, UploadId=upload_id, PartNumber=number, Body=data, **algorithm)
        checksums = {name: value for name, value in answer.items() if name.startswith("Checksum")}
        done.append({"PartNumber": number, "ETag": answer["ETag"], **checksums})
    client.complete_multipart_upload(**where, UploadId=upload_id, MultipartUpload={"Parts": done})
    return [part[f"Checksum{create['ChecksumAlgorithm']}"] for part in done] if "ChecksumAlgorithm" in create else []


def look(source: S3Source, file: RemoteFile) -> Digest | None:
    """Ask for what is known of a file before it comes in parts."""
    asks = source.locate(file).fetch_digest
    assert asks is not None
    return asks()


def only_digest(source: S3Source) -> tuple[Digest | None, bytes]:
    (file,) = source.listing().files
    assert file.digest is None
    location = source.locate(file)
    assert location.digest is None
    assert location.fetch_digest is not None
    answer = read(location)
    digest = read_digest(location, answer)
    looked = location.fetch_digest()
    assert looked is None or looked == digest or looked == digest_of(answer.data, looked), "moto's HEAD tells less"
    return digest, answer.data


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
def test_the_checksum_of_a_whole_object_is_that_of_its_bytes(store: Place, algorithm: str) -> None:
    store.put("w.bin", DATA, ChecksumAlgorithm=algorithm)
    digest, data = only_digest(store.source())
    assert digest is not None
    assert (digest.algorithm, digest.parts) == (algorithm.lower(), ())
    assert digest_of(data, digest) == digest
    assert data == DATA


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "SHA256"])
@pytest.mark.parametrize("sizes", [(5 * MIB, 5 * MIB, 7), (5 * MIB, 6 * MIB, 5 * MIB, 1), (5 * MIB,)])
def test_a_composite_checksum_comes_with_the_exact_sizes_of_its_parts(
    on_seaweed: Place, algorithm: str, sizes: tuple[int, ...]
) -> None:
    parts = [hashlib.shake_128(b"%d" % number).digest(size) for number, size in enumerate(sizes)]
    upload(on_seaweed, "w.bin", parts, ChecksumAlgorithm=algorithm, ChecksumType="COMPOSITE")
    digest, data = only_digest(on_seaweed.source())
    assert digest is not None
    assert (digest.algorithm, digest.parts) == (algorithm.lower(), sizes)
    assert digest_of(data, digest) == digest
    assert data == b"".join(parts)


def test_part_sizes_are_learnt_without_the_permission_for_attributes(on_seaweed: Place) -> None:
    sizes = (5 * MIB, 6 * MIB, 5 * MIB, 1)
    parts = [bytes([number]) * size for number, size in enumerate(sizes)]
    upload(on_seaweed, "w.bin", parts, ChecksumAlgorithm="CRC32", ChecksumType="COMPOSITE")
    with watched(on_seaweed.server, denied="attributes") as seen:
        digest, data = only_digest(through(seen, on_seaweed))
    assert digest is not None
    assert digest.parts == sizes
    assert digest_of(data, digest) == digest
    assert any("attributes" in path for _, path in seen.asked)


@pytest.mark.parametrize(("algorithm", "denied"), [("CRC32", None), ("SHA256", "attributes")])
def test_what_the_store_tells_of_each_part_comes_with_the_digest(
    on_seaweed: Place, algorithm: str, denied: str | None
) -> None:
    parts = [bytes([number]) * size for number, size in enumerate((5 * MIB, 6 * MIB, 1))]
    told = upload(on_seaweed, "w.bin", parts, ChecksumAlgorithm=algorithm, ChecksumType="COMPOSITE")
    with watched(on_seaweed.server, denied=denied, parts=PartChecksums(algorithm.lower(), told)) as seen:
        digest, _ = only_digest(through(seen, on_seaweed))
    assert digest is not None
    plain = Digest(algorithm.lower(), "")
    assert digest.part_values == tuple(digest_of(part, plain).value for part in parts)


def test_where_part_sizes_cannot_be_learnt_the_file_is_unverified(on_seaweed: Place) -> None:
    upload(on_seaweed, "w.bin", [bytes(5 * MIB), b"x"], ChecksumAlgorithm="CRC32", ChecksumType="COMPOSITE")
    with watched(on_seaweed.server, denied="partNumber") as seen:
        assert only_digest(through(seen, on_seaweed))[0] is None


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA256"])
def test_a_multipart_digest_is_right_or_absent(store: Place, algorithm: str) -> None:
    parts = [bytes(5 * MIB), DATA]
    upload(store, "w.bin", parts, ChecksumAlgorithm=algorithm)
    digest, data = only_digest(store.source())
    assert data == b"".join(parts)
    assert digest is None or digest_of(data, digest) == digest


def test_an_object_without_checksums_has_its_md5_etag(store: Place) -> None:
    client = plain_client(store.server)
    client.put_object(Bucket=store.bucket, Key=f"{store.prefix}/w.bin", Body=DATA)
    digest, data = only_digest(store.source())
    assert digest is not None
    assert digest.is_guess == (digest.algorithm == "md5")
    if digest.algorithm != "md5":  # a server may add a checksum of its own, as S3 does
        assert digest_of(data, digest) == digest
    else:
        assert digest.value == hashlib.md5(DATA, usedforsecurity=False).hexdigest()


def test_an_etag_of_a_kms_encrypted_object_is_not_taken_for_md5(on_moto: Place) -> None:
    client = plain_client(on_moto.server)
    where = {"Bucket": on_moto.bucket, "Key": f"{on_moto.prefix}/w.bin"}
    client.put_object(**where, Body=DATA, ServerSideEncryption="aws:kms")
    assert only_digest(on_moto.source()) == (None, DATA)


@pytest.mark.parametrize("sizes", [(5 * MIB, 6 * MIB, 5 * MIB, 1), (5 * MIB, 7), (17 * MIB,)])
@pytest.mark.parametrize("denied", [None, "attributes"])
def test_an_object_in_parts_without_checksums_has_the_md5_of_its_parts_md5s(
    on_seaweed: Place, sizes: tuple[int, ...], denied: str | None
) -> None:
    parts = [hashlib.shake_128(b"%d" % number).digest(size) for number, size in enumerate(sizes)]
    upload(on_seaweed, "w.bin", parts, client=plain_client(on_seaweed.server))
    with watched(on_seaweed.server, denied=denied) as seen:
        digest, data = only_digest(through(seen, on_seaweed))
    assert digest is not None
    assert (digest.algorithm, digest.parts) == ("md5", sizes)
    assert digest_of(data, digest) == digest
    assert data == b"".join(parts)


def test_where_part_sizes_cannot_be_learnt_an_md5_of_md5s_is_not_guessed(on_seaweed: Place) -> None:
    upload(on_seaweed, "w.bin", [bytes(5 * MIB), b"x"], client=plain_client(on_seaweed.server))
    with watched(on_seaweed.server, denied="partNumber") as seen:
        assert only_digest(through(seen, on_seaweed))[0] is None


def plain_client(server: S3Server) -> Any:
    """Return a client that sends no checksum, as the older SDKs."""
    import boto3
    from botocore.config import Config

    keys = server.identities["admin"]
    return boto3.session.Session().client(
        "s3",
        endpoint_url=server.url,
        region_name="us-east-1",
        aws_access_key_id=keys.access,
        aws_secret_access_key=keys.secret,
        config=Config(signature_version="s3v4", request_checksum_calculation="when_required"),
    )


MD5 = "0cc175b9c0f1b6a831c399e269772661"
CRC = "6Le+Qw=="  # of b"a", as is MD5
PLAIN: dict[str, Any] = {"ETag": f'"{MD5}"', "ContentLength": 1}
JOINED = {"ETag": f'"{MD5}-2"', "ContentLength": 3}


@pytest.mark.parametrize(
    ("head", "bucket", "digest"),
    [
        (PLAIN, "b", Digest("md5", MD5)),
        ({**PLAIN, "ServerSideEncryption": "AES256"}, "b", Digest("md5", MD5)),
        ({**PLAIN, "ServerSideEncryption": "aws:kms:dsse"}, "b", None),
        ({**PLAIN, "SSECustomerAlgorithm": "AES256"}, "b", None),
        (PLAIN, "b--use1-az4--x-s3", None),  # a directory bucket: the ETag is random
        ({**PLAIN, "ChecksumCRC32": CRC}, "b", Digest("crc32", "e8b7be43")),
        ({**PLAIN, "ChecksumCRC32": "not base64"}, "b", Digest("md5", MD5)),
        ({**PLAIN, "ETag": f'"{MD5}-1"', "ChecksumCRC32": f"{CRC}-1"}, "b", Digest("crc32", "e8b7be43", (1,))),
        ({**JOINED, "ChecksumCRC32": CRC, "ChecksumType": "FULL_OBJECT"}, "b", Digest("crc32", "e8b7be43")),
        ({**JOINED, "ChecksumCRC32": CRC, "ChecksumType": "COMPOSITE"}, "b", Digest("crc32", "e8b7be43", (2, 1))),
        ({**JOINED, "ChecksumCRC32": f"{CRC}-2"}, "b", Digest("crc32", "e8b7be43", (2, 1))),
        ({**JOINED, "ChecksumCRC32": CRC}, "b", Digest("md5", MD5, (2, 1))),  # a CRC of the whole or of the parts?
        ({**JOINED, "ContentLength": 4, "ChecksumCRC32": f"{CRC}-2"}, "b", None),  # parts that do not add up
        (JOINED, "b", Digest("md5", MD5, (2, 1))),
        ({**JOINED, "ServerSideEncryption": "aws:kms"}, "b", None),
        ({**JOINED, "SSECustomerAlgorithm": "AES256"}, "b", None),
        ({**JOINED, "ContentLength": 4}, "b", None),  # parts that do not add up
        ({**PLAIN, "ETag": f'"{MD5}-1"'}, "b", Digest("md5", MD5, (1,))),
        ({**PLAIN, "ETag": f'"{MD5}-0"', "ContentLength": 0}, "b", None),
        ({**JOINED, "ETag": '"' + MD5 + "-" + "9" * 5000 + '"'}, "b", None),
        ({**JOINED, "ETag": '"' + MD5 + "-" + "9" * 5000 + '"', "ChecksumCRC32": f"{CRC}-{'9' * 5000}"}, "b", None),
        ({**JOINED, "ETag": '"W5dTPg3lQ-2"'}, "b", None),
    ],
)
def test_a_head_is_read_for_the_digest_that_can_be_checked(
    head: Mapping[str, Any], bucket: str, digest: Digest | None
) -> None:
    assert digest_of_head(head, bucket, lambda count: [{"Size": 2}, {"Size": 1}]) == digest


@pytest.mark.parametrize(
    ("told", "values"),
    [
        (({"ChecksumCRC32": CRC}, {"ChecksumCRC32": "AAAAAA=="}), ("e8b7be43", "00000000")),
        (({"ChecksumCRC32": CRC}, {}), ()),
        (({"ChecksumCRC32": CRC}, {"ChecksumCRC32": "AAAA"}), ()),  # of another width
        (({"ChecksumCRC32": CRC}, {"ChecksumCRC32": f"{CRC}-2"}), ()),  # of the whole
        (({"ChecksumSHA256": CRC}, {"ChecksumSHA256": CRC}), ()),
    ],
)
def test_checksums_of_parts_are_taken_all_or_none(told: Sequence[Mapping[str, Any]], values: tuple[str, ...]) -> None:
    head = {**JOINED, "ChecksumCRC32": f"{CRC}-2"}
    parts = [{"Size": size, **part} for size, part in zip((2, 1), told, strict=True)]
    digest = digest_of_head(head, "b", lambda count: parts)
    assert digest is not None
    assert digest.part_values == values


def through(seen: Watched, place: Place) -> S3Source:
    """Return a source of `place` that asks by way of `seen`."""
    env = {**place.server.env, "AWS_ENDPOINT_URL_S3": seen.url}
    uri = f"s3://{place.bucket}/{place.prefix}"
    return open_with(S3Source, entry(uri, config=config_with(place.folder, place.keys)), settings(**env))


# Locations


def test_files_are_located_without_a_request_and_looked_at_once(on_seaweed: Place) -> None:
    on_seaweed.put("a.bin", b"a")
    on_seaweed.put("b.bin", b"b")
    with watched(on_seaweed.server) as seen:
        source = through(seen, on_seaweed)
        files = by_path(source.listing())
        listed = len(seen.asked)
        locations = [source.locate(files["a.bin"]) for _ in range(3)]
        assert len({location.url for location in locations}) == 1
        assert seen.asked[listed:] == []
        assert len({location.fetch_digest() for location in locations if location.fetch_digest is not None}) == 1
    assert seen.asked[listed:] == [("HEAD", f"/{on_seaweed.bucket}/{on_seaweed.prefix}/a.bin")]


def test_a_location_is_signed_in_headers_for_some_minutes(store: Place) -> None:
    store.put("w.bin", DATA)
    source = store.source()
    (file,) = source.listing().files
    location = source.locate(file)
    assert "?" not in location.url
    assert location.headers["Authorization"].startswith("AWS4-HMAC-SHA256 ")
    assert location.headers["If-Match"] == f'"{file.version}"' == location.validator
    assert location.expires is not None


def test_an_object_that_was_replaced_is_not_looked_at(store: Place) -> None:
    store.put("w.bin", b"before")
    source = store.source()
    (file,) = source.listing().files
    store.put("w.bin", b"after!")
    with pytest.raises(SourceChanged, match="replaced since it was listed"):
        look(source, file)


def test_an_object_that_is_gone_is_a_change_too(store: Place) -> None:
    store.put("w.bin", b"before")
    source = store.source()
    (file,) = source.listing().files
    store.delete("w.bin")
    with pytest.raises(SourceChanged):
        look(source, file)


def test_bytes_replaced_after_they_were_located_are_refused_and_explained(on_seaweed: Place) -> None:
    on_seaweed.put("w.bin", b"before")
    source = on_seaweed.source()
    (file,) = source.listing().files
    location = source.locate(file)
    on_seaweed.put("w.bin", b"after!")
    answer = read(location, "bytes=0-3")
    assert answer.status == 412
    assert isinstance(source.explain(file, answer.status, answer.headers, answer.data), SourceChanged)


# Refusals


def test_a_wrong_secret_names_where_the_credential_was_found_and_no_value(store: Place) -> None:
    good = store.server.identities["ro"]
    wrong = Keys(good.access, "SK-that-is-wrong-0123456789")
    store.put("a.bin", b"a")
    with pytest.raises(AccessDenied, match="secret key does not match") as caught:
        store.by(wrong).listing()
    assert "s3_credentials.json" in str(caught.value)
    assert not [value for value in (wrong.secret, good.access) if value in text_of(caught.value)]


def test_an_unknown_key_is_said_to_be_unknown(store: Place) -> None:
    with pytest.raises(AccessDenied, match="access key is unknown") as caught:
        store.refused().listing()
    assert not [value for value in (UNKNOWN.access, UNKNOWN.secret) if value in text_of(caught.value)]


def test_who_may_read_and_not_list_misses_listbucket(store: Place) -> None:
    store.put("a.bin", b"a")
    with pytest.raises(AccessDenied, match=f"missing permission s3:ListBucket on arn:aws:s3:::{store.bucket}"):
        store.by(store.server.identities["getonly"]).listing()


def test_who_may_list_and_not_read_misses_getobject(store: Place) -> None:
    store.put("a.bin", b"a")
    source = store.by(store.server.identities["listonly"])
    (file,) = source.listing().files
    wanted = rf"s3:GetObject on arn:aws:s3:::{store.bucket}/{store.prefix}\* .*\(AccessDenied\)"  # HEAD: 403 alone
    with pytest.raises(AccessDenied, match=wanted):
        look(source, file)
    answer = read(source.locate(file))
    refusal = source.explain(file, answer.status, answer.headers, answer.data)
    assert re.search(wanted, str(refusal))


def test_a_server_that_quotes_the_key_is_not_quoted(on_seaweed: Place) -> None:
    with watched(on_seaweed.server, denied="list-type") as seen, pytest.raises(AccessDenied) as caught:
        through(seen, on_seaweed).listing()
    assert on_seaweed.keys
    assert on_seaweed.keys.access not in text_of(caught.value)


def test_without_any_credential_the_error_says_how_to_give_one(on_seaweed: Place) -> None:
    on_seaweed.put("a.bin", b"a")
    with pytest.raises(AccessDenied, match="no credential was found") as caught:
        on_seaweed.by(None).listing()
    assert "s3_credentials.json" in str(caught.value.hint)


@pytest.mark.slow
def test_nobody_at_the_endpoint_is_unavailable_by_name(tmp_path: Path) -> None:
    env = {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9", "AWS_EC2_METADATA_DISABLED": "true"}
    config = config_with(tmp_path, UNKNOWN)
    source = open_with(S3Source, entry("s3://b/m", config=config), settings(**env), limits=QUICK)
    with pytest.raises(TransientError, match=r"127\.0\.0\.1:9 cannot be reached"):
        source.listing()


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
def test_a_listing_goes_through_the_proxy_of_its_settings(variable: str, tmp_path: Path) -> None:
    env = {"AWS_ENDPOINT_URL_S3": "http://s3.invalid", variable: "http://127.0.0.1:9"}
    config = config_with(tmp_path, UNKNOWN)
    once = ExchangeLimits(retry=RetryLimits(attempts=1))
    source = open_with(S3Source, entry("s3://b/m", config=config), settings(**env), limits=once)
    with pytest.raises(TransientError, match=r"cannot be reached \(ProxyConnectionError\)"):
        source.listing()


@pytest.mark.slow
def test_an_endpoint_that_answers_in_html_is_unavailable_by_name(tmp_path: Path) -> None:
    with region_stub("us-east-1", listing=b"<!doctype html><p>Log in") as stub, pytest.raises(TransientError) as caught:
        far(stub.url, tmp_path).listing()
    assert stub.url.removeprefix("http://") in str(caught.value)


@pytest.mark.parametrize("url", ["nonsense", "http://"])
def test_an_endpoint_that_is_no_url_is_a_config_error(url: str, tmp_path: Path) -> None:
    source = open_with(
        S3Source, entry("s3://bkt/m", config=config_with(tmp_path, UNKNOWN)), settings(AWS_ENDPOINT_URL_S3=url)
    )
    with pytest.raises(ConfigError, match="endpoint"):
        source.listing()


def test_a_name_that_no_bucket_can_have_is_not_found(store: Place) -> None:
    with pytest.raises(NotFound, match="not a bucket name"):
        store.at("s3://no such bucket/m", store.keys).listing()


EXPLAINED: list[tuple[int, str, type[Exception], str]] = [
    (403, "<Code>AccessDenied</Code><Message>Access Denied</Message>", AccessDenied, "s3:GetObject on arn:aws:s3:::b"),
    (403, "<Code>AccessDenied</Code><Message>User: arn:aws:iam::1:user/u is not authorized to perform: kms:Decrypt on "
          "resource: arn:aws:kms:eu-west-1:1:key/k because no</Message>", AccessDenied,
     "kms:Decrypt on arn:aws:kms:eu-west-1:1:key/k"),
    (403, "<Code>AccessDenied</Code><Message>u is not authorized to perform: s3:GetObjectVersion on resource: "
          "&quot;arn:aws:s3:::b/m/a&quot; because</Message>", AccessDenied, "s3:GetObjectVersion on arn:aws:s3:::b"),
    (403, "<Code>AccessDenied</Code><Message>The bucket is Requester Pays</Message>", AccessDenied, "requester-pays"),
    (400, "<Code>ExpiredToken</Code>", AccessDenied, "session token has expired"),
    (403, "<Code>RequestTimeTooSkewed</Code>", AccessDenied, "clock"),
    (403, "<Code>InvalidObjectState</Code>", AccessDenied, "archived"),
    (301, "<Code>PermanentRedirect</Code><Region>eu-west-3</Region>", AccessDenied, "eu-west-3"),
    (404, "<Code>NoSuchKey</Code>", SourceChanged, "replaced or deleted"),
    (404, "<Code>NoSuchBucket</Code>", NotFound, "no bucket"),
    (412, "<Code>PreconditionFailed</Code>", SourceChanged, "replaced or deleted"),
    (503, "<Code>SlowDown</Code>", TransientError, "503 SlowDown"),
    (502, "<html>a proxy", TransientError, "502"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "kind", "words"), EXPLAINED)
def test_a_refused_read_is_explained(status: int, body: str, kind: type[Exception], words: str, tmp_path: Path) -> None:
    source = open_with(S3Source, entry("s3://b/m", config=config_with(tmp_path, UNKNOWN)), settings())
    error = source.explain(
        RemoteFile("a", 1, "e", "m/a"), status, {}, f"<?xml version='1.0'?><Error>{body}</Error>".encode()
    )
    assert type(error) is kind
    assert words in str(error)
    assert error.hint


@pytest.mark.parametrize(
    ("status", "code", "transient"),
    [(429, "429", True), (408, "408", True), (503, "503", True), (400, "RequestTimeout", True), (403, "403", False)],
)
def test_a_busy_store_is_no_store_without_parts(status: int, code: str, transient: bool) -> None:
    assert is_transient({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}) is transient


# Whose credential


def test_a_session_token_of_an_assumed_role_is_sent_with_every_request(on_moto: Place) -> None:
    iam = on_moto.server.client("admin", "iam")
    role, everything = uuid.uuid4().hex[:8], {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    anyone = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": "*"}}
    trust = json.dumps({"Version": "2012-10-17", "Statement": [anyone]})
    arn = iam.create_role(RoleName=role, AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    iam.put_role_policy(RoleName=role, PolicyName="p", PolicyDocument=json.dumps(
        {"Version": "2012-10-17", "Statement": [everything]}))  # fmt: skip
    made = on_moto.server.client("admin", "sts").assume_role(RoleArn=arn, RoleSessionName="session")["Credentials"]
    keys = Keys(made["AccessKeyId"], made["SecretAccessKey"], made["SessionToken"])
    on_moto.put("a.bin", b"a")
    source = on_moto.by(keys)
    (file,) = source.listing().files
    location = source.locate(file)
    assert location.headers["X-Amz-Security-Token"] == keys.token
    assert "x-amz-security-token" in location.headers["Authorization"]
    assert read(location).data == b"a"


def test_the_environment_is_the_credential_where_no_file_is(store: Place) -> None:
    store.put("a.bin", b"a")
    uri = f"s3://{store.bucket}/{store.prefix}"
    env = store.server.env | store.server.identities["ro"].env()
    source = open_with(S3Source, entry(uri, config=config_with(store.folder, None)), settings(**env))
    (file,) = source.listing().files
    assert read(source.locate(file)).data == b"a"
    wrong = open_with(
        S3Source, entry(uri, config=config_with(store.folder, None)), settings(**{**env, **UNKNOWN.env()})
    )
    with pytest.raises(AccessDenied, match="AWS_ACCESS_KEY_ID"):
        wrong.listing()


def test_the_file_goes_before_the_environment(store: Place) -> None:
    store.put("a.bin", b"a")
    uri = f"s3://{store.bucket}/{store.prefix}"
    config = config_with(store.folder, store.keys)
    assert open_with(S3Source, entry(uri, config=config), settings(**store.server.env, **UNKNOWN.env())).listing().files


def test_a_profile_is_the_credential_where_nothing_else_is(store: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    good, shared = store.server.identities["ro"], store.folder / "credentials"
    shared.write_text(f"[team]\naws_access_key_id = {good.access}\naws_secret_access_key = {good.secret}\n")
    env = {**store.server.env, "AWS_SHARED_CREDENTIALS_FILE": str(shared), "AWS_PROFILE": "team"}
    for name, value in env.items():
        monkeypatch.setenv(name, value)  # boto3's chain reads the process's environment
    store.put("a.bin", b"a")
    uri = f"s3://{store.bucket}/{store.prefix}"
    assert open_with(S3Source, entry(uri, config=config_with(store.folder, None)), settings(**env)).listing().files


@pytest.mark.parametrize("token", ["tok\nen", "tok“en”"])
def test_a_key_that_no_header_can_carry_is_a_credential_error_and_not_shown(on_moto: Place, token: str) -> None:
    good = on_moto.server.identities["ro"]
    uri = f"s3://{on_moto.bucket}/{on_moto.prefix}"
    env = on_moto.server.env | Keys(good.access, good.secret, token).env()
    with pytest.raises(CredentialError, match="AWS_ACCESS_KEY_ID: a key") as caught:
        open_with(S3Source, entry(uri, config=config_with(on_moto.folder, None)), settings(**env)).listing()
    assert not [value for value in (good.access, good.secret, token) if value in text_of(caught.value)]


@pytest.mark.slow
def test_a_role_that_the_token_service_refuses_is_no_matter_of_the_bucket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("a-web-identity-token")
    with region_stub("us-east-1") as stub:
        env = {
            "AWS_ENDPOINT_URL": stub.url,
            "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/no-such-role-here",
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"),
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        source = open_with(S3Source, entry("s3://bkt/m", config=config_with(tmp_path, None)), settings(**env))
        with pytest.raises(CredentialError) as caught:
            source.listing()
    assert "a-web-identity-token" not in text_of(caught.value)
    assert {method for _, method, _ in stub.asked} == {"POST"}


def test_a_profile_that_does_not_exist_is_a_credential_error(on_moto: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    env = {**on_moto.server.env, "AWS_PROFILE": "no-such-profile", "AWS_CONFIG_FILE": str(on_moto.folder / "none")}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(CredentialError, match="ProfileNotFound"):
        open_with(S3Source, entry("s3://bkt/m", config=config_with(on_moto.folder, None)), settings(**env)).listing()


class Metadata:
    """A machine's metadata server that counts who asks, and knows no role."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                self.send_error(404)

            do_PUT = do_GET

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/"


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Metadata]:
    made = Metadata()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.05,))
    thread.start()
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", made.url)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED", raising=False)
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name, raising=False)
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def listed_by(place: Place, keys: Keys | None, env: Mapping[str, str]) -> None:
    uri = f"s3://{place.bucket}/{place.prefix}"
    open_with(S3Source, entry(uri, config=config_with(place.folder, keys)), settings(**env)).listing()


def test_the_metadata_server_is_not_asked_where_keys_are_given(on_seaweed: Place, metadata: Metadata) -> None:
    on_seaweed.put("a.bin", b"a")
    env = {"AWS_ENDPOINT_URL_S3": on_seaweed.server.url, "AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata.url}
    listed_by(on_seaweed, on_seaweed.keys, env)
    listed_by(on_seaweed, None, env | on_seaweed.server.identities["ro"].env())
    assert metadata.asked == []


def test_the_metadata_server_is_asked_once_for_all_entries(on_seaweed: Place, metadata: Metadata) -> None:
    public = on_seaweed.public()
    public.put("a.bin", b"a")
    env = {"AWS_ENDPOINT_URL_S3": on_seaweed.server.url, "AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata.url}
    listed_by(public, None, env)
    once = list(metadata.asked)
    assert once  # it is asked at all
    listed_by(public, None, env)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: listed_by(public, None, env), range(4)))
    assert metadata.asked == once


def test_a_disabled_metadata_server_is_not_asked(on_seaweed: Place, metadata: Metadata) -> None:
    public = on_seaweed.public()
    public.put("a.bin", b"a")
    listed_by(public, None, on_seaweed.server.env | {"AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata.url})
    assert metadata.asked == []


@pytest.mark.slow
def test_the_module_imports_no_sdk() -> None:
    code = (
        "import sys, truss_cache_tasks.sources.s3; sys.exit(any(name in sys.modules for name in ('boto3', 'botocore')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Regions


LISTING = (
    b"<?xml version='1.0'?><ListBucketResult><Name>far</Name><KeyCount>1</KeyCount><IsTruncated>false</IsTruncated>"
    b"<Contents><Key>m/a.bin</Key><Size>3</Size><ETag>&quot;e&quot;</ETag></Contents></ListBucketResult>"
)


def far(url: str, folder: Path) -> S3Source:
    return open_with(
        S3Source,
        entry("s3://far/m", config=config_with(folder, UNKNOWN)),
        settings(AWS_ENDPOINT_URL_S3=url, AWS_EC2_METADATA_DISABLED="true"),
        limits=QUICK,
    )


@pytest.mark.slow
def test_a_bucket_in_another_region_is_followed_and_its_reads_are_signed_for_it(tmp_path: Path) -> None:
    with region_stub("eu-central-1", listing=LISTING, objects={"/far/m/a.bin": b"abc"}) as stub:
        source = far(stub.url, tmp_path)
        (file,) = source.listing().files
        location = source.locate(file)
        assert "/eu-central-1/s3/aws4_request" in location.headers["Authorization"]
        assert read(location).data == b"abc"
        assert [region for region, _, _ in stub.asked].count("us-east-1") == 1  # learnt once


@pytest.mark.slow
def test_a_region_that_does_not_help_is_named_beside_ours(tmp_path: Path) -> None:
    with region_stub("moving") as stub, pytest.raises(AccessDenied) as caught:
        far(stub.url, tmp_path).listing()
    assert "region eu-west-2, the request was made for us-east-1" in str(caught.value)
    assert len(stub.asked) == 2
