"""R2 and CoreWeave under their own names, and other servers with the S3 API: addresses, regions, keys, refusals.

SeaweedFS and moto are behind a proxy that has certificates for these names, so no endpoint is set.
"""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

import pytest
from servers.named import Named
from servers.s3 import MOTO_PAGE, R2_ACCOUNT, S3Server

from sources.s3_places import UNKNOWN, Place, S3Contract, place, region_of
from truss_cache_tasks.errors import AccessDenied, NotFound, SourceChanged
from truss_cache_tasks.model.credentials import JsonCredential
from truss_cache_tasks.model.s3_service import S3Service
from truss_cache_tasks.model.stores import registered, store_of
from truss_cache_tasks.network.exchange import ExchangeLimits
from truss_cache_tasks.network.retry import RetryLimits
from truss_cache_tasks.sources.s3 import S3Source
from truss_cache_tasks.sources.testing import DATA, read

R2_HOST = f"{R2_ACCOUNT}.r2.cloudflarestorage.com"
ACCOUNTS = {"s3": "", "r2": f"{R2_ACCOUNT}.", "cw": ""}
SERVERS = ("seaweed", "moto")
ONCE = ExchangeLimits(retry=RetryLimits(attempts=1))


@dataclass
class Services:
    """A server that is reached under the names of the services, also by the reads of the tests."""

    server: S3Server
    by: Named
    folder: Path

    def place(self, scheme: str, **env: str) -> Place:
        env = {**self.by.env, "AWS_EC2_METADATA_DISABLED": "true", **env}
        return place(self.server, self.folder, scheme=scheme, account=ACCOUNTS.get(scheme, ""), env=env)


@pytest.fixture(params=SERVERS)
def services(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Services:
    return reached(request.param, request, tmp_path, monkeypatch)


@pytest.fixture
def seaweed_services(
    request: pytest.FixtureRequest, seaweed: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Services:
    return reached("seaweed", request, tmp_path, monkeypatch)


def reached(name: str, request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Services:
    by: Named = request.getfixturevalue(f"named_{name}")
    for variable, value in by.env.items():
        monkeypatch.setenv(variable, value)
    return Services(request.getfixturevalue(name), by, folder)


class TestR2(S3Contract):
    many = MOTO_PAGE + 50
    test_a_public_place_is_read_without_a_credential = None  # type: ignore[assignment]  # R2 has none

    @pytest.fixture
    def store(
        self, moto: S3Server, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Place:
        return reached("moto", request, tmp_path, monkeypatch).place("r2")


class TestCoreWeave(S3Contract):
    many = 20  # of one page; moto has more

    @pytest.fixture
    def store(self, seaweed_services: Services) -> Place:
        return seaweed_services.place("cw")


# Addresses


def only(source: S3Source) -> tuple[str, bytes]:
    """Return the URL of the only file, and its bytes."""
    (file,) = source.listing().files
    location = source.locate(file)
    answer = read(location, "bytes=0-")
    assert answer.status == 206
    return location.url, answer.data


@pytest.mark.parametrize(
    ("scheme", "base"), [("r2", f"https://{R2_HOST}/weights"), ("cw", "https://weights.cwobject.com")]
)
def test_each_service_is_reached_at_its_own_endpoint(services: Services, scheme: str, base: str) -> None:
    store = services.place(scheme)
    store.put("a b.bin", DATA)
    services.by.asked.clear()
    assert only(store.source()) == (f"{base}/{store.prefix}/a%20b.bin", DATA)
    assert {asked for asked in services.by.asked} == {f"{urllib.parse.urlsplit(base).hostname}:443"}


def test_the_endpoint_of_r2_is_a_variable_with_the_account_in_it(seaweed_services: Services) -> None:
    eu = "https://{account_id}.eu.r2.cloudflarestorage.com/"
    store = seaweed_services.place("r2", TRUSS_CACHE_R2_ENDPOINT=eu)
    store.put("a.bin", b"a")
    url, data = only(store.source())
    assert (url, data) == (f"https://{R2_ACCOUNT}.eu.r2.cloudflarestorage.com/weights/{store.prefix}/a.bin", b"a")
    store = seaweed_services.place("r2", TRUSS_CACHE_R2_ENDPOINT=store.server.url)
    store.put("a.bin", b"a")
    assert only(store.source())[0].startswith(f"{store.server.url}/weights/")


@pytest.mark.parametrize("scheme", ["r2", "cw"])
def test_an_endpoint_of_plain_http_is_reached_through_its_proxy(
    services: Services, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = services.server.url  # both servers take the absolute URLs that a proxy gets
    monkeypatch.setenv("HTTP_PROXY", url)
    env = {
        "HTTP_PROXY": url,
        "NO_PROXY": "127.0.0.1",
        "TRUSS_CACHE_R2_ENDPOINT": "http://{account_id}.r2.cloudflarestorage.com",
        "AWS_ENDPOINT_URL_S3": "http://cwobject.com",
    }
    store = services.place(scheme, **env)
    store.put("é #.bin", DATA)
    base = {"r2": f"http://{R2_HOST}/weights", "cw": "http://weights.cwobject.com"}[scheme]
    assert only(store.source()) == (f"{base}/{store.prefix}/%C3%A9%20%23.bin", DATA)


def test_a_bucket_of_coreweave_at_an_address_is_in_the_path(seaweed_services: Services) -> None:
    url = seaweed_services.server.url
    store = seaweed_services.place("cw", AWS_ENDPOINT_URL_S3=url)
    store.put("a.bin", b"a")
    assert only(store.source()) == (f"{url}/weights/{store.prefix}/a.bin", b"a")


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"])
def test_a_variable_names_another_endpoint_of_coreweave(seaweed_services: Services, name: str) -> None:
    store = seaweed_services.place("cw", **{name: "https://s3.test"})
    store.put("a.bin", b"a")
    assert only(store.source()) == (f"https://weights.s3.test/{store.prefix}/a.bin", b"a")
    ignored = {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}
    assert only(store.at(store.uri, store.keys, ignored))[0].startswith("https://weights.cwobject.com/")


def test_a_profile_names_the_endpoint_and_the_keys_of_coreweave(
    seaweed_services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, keys = seaweed_services.place("cw"), seaweed_services.server.identities["ro"]
    store.put("a.bin", b"a")
    config = store.folder / "config"
    config.write_text(
        f"[profile cw]\nendpoint_url = https://s3.test\naws_access_key_id = {keys.access}\n"
        f"aws_secret_access_key = {keys.secret}\ns3 =\n  addressing_style = path\n"
    )
    env = {"AWS_CONFIG_FILE": str(config), "AWS_PROFILE": "cw"}
    for name, value in env.items():
        monkeypatch.setenv(name, value)  # boto3's chain reads the process's environment
    assert only(store.at(store.uri, None, env)) == (f"https://weights.s3.test/{store.prefix}/a.bin", b"a")


@pytest.mark.parametrize(
    ("style", "url"), [("path", "https://s3.test/weights"), ("virtual", "https://weights.s3.test")]
)
def test_the_profile_chooses_how_the_buckets_of_another_server_are_addressed(
    services: Services, style: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = services.place("s3", AWS_ENDPOINT_URL_S3="https://s3.test")
    store.put("é +.bin", DATA)
    config = store.folder / "config"
    config.write_text(f"[default]\ns3 =\n  addressing_style = {style}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    assert only(store.source()) == (f"{url}/{store.prefix}/%C3%A9%20%2B.bin", DATA)


@pytest.mark.parametrize("scheme", ["s3", "r2"])
def test_a_bucket_with_dots_is_read_by_its_path(services: Services, scheme: str) -> None:
    store = services.place(scheme, AWS_ENDPOINT_URL_S3="https://s3.test")
    store.bucket = f"{store.prefix}.with.dots"
    store.server.client().create_bucket(Bucket=store.bucket)
    store.put("a.bin", b"a")
    url, data = only(store.source())
    assert (urllib.parse.urlsplit(url).path, data) == (f"/{store.bucket}/{store.prefix}/a.bin", b"a")
    host = {"s3": "s3.test", "r2": R2_HOST}[scheme]
    assert urllib.parse.urlsplit(url).hostname == host


# Regions and keys


def test_requests_are_signed_for_the_region_of_the_service(seaweed_services: Services) -> None:
    elsewhere = {"AWS_REGION": "US-EAST-04A", "AWS_DEFAULT_REGION": "eu-west-2"}  # a zone of CoreWeave
    r2 = seaweed_services.place("r2", **elsewhere)
    r2.put("a.bin", b"a")
    assert region_of(r2.source()) == "auto"  # whatever the file and the environment say
    keys = r2.server.identities["ro"]
    cw = seaweed_services.place("cw", **keys.env())
    cw.put("a.bin", b"a")
    assert region_of(cw.by(None)) == "auto"
    assert region_of(cw.at(cw.uri, None, elsewhere)) == "US-EAST-04A"
    assert region_of(cw.at(cw.uri, cw.keys, elsewhere)) == "us-east-1"  # of the file


def test_nothing_of_aws_reaches_r2(seaweed_services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    config = seaweed_services.folder / "config"
    config.write_text(
        "[default]\nregion = eu-west-3\nendpoint_url = https://wrong.test\nca_bundle = /none\n"
        "s3 =\n  addressing_style = virtual\n  use_accelerate_endpoint = true\n"
    )
    env = {
        **UNKNOWN.env(), "AWS_PROFILE": "no-such-profile", "AWS_CONFIG_FILE": str(config),
        "AWS_ENDPOINT_URL_S3": "https://wrong.test", "AWS_ENDPOINT_URL": "https://wrong.test",
        "AWS_USE_FIPS_ENDPOINT": "true", "AWS_USE_DUALSTACK_ENDPOINT": "true", "AWS_DEFAULTS_MODE": "auto",
        "AWS_MAX_ATTEMPTS": "x", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true", "AWS_REGION": "eu-west-1",
    }  # fmt: skip
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    store = seaweed_services.place("r2", **env)
    store.put("a.bin", b"a")
    assert only(store.source()) == (f"https://{R2_HOST}/weights/{store.prefix}/a.bin", b"a")
    seaweed_services.by.asked.clear()
    with pytest.raises(AccessDenied) as caught:
        store.by(None).listing()
    assert re.search(
        rf"^r2://{R2_ACCOUNT}\.weights/{store.prefix}: found no credential \(looked at .*/data/r2_credentials\.json\), "
        r"expected one: this store has no anonymous access$",
        str(caught.value),
    )
    assert caught.value.hint == "Give a credential: r2_credentials.json in the data folder or a named secret."
    assert seaweed_services.by.asked == []  # of nobody is anything asked without a credential


def test_the_environment_of_aws_is_the_credential_of_coreweave(services: Services) -> None:
    keys = services.server.identities["ro"]
    store = services.place("cw", **keys.env())
    store.put("a.bin", b"a")
    assert only(store.by(None))[1] == b"a"
    with pytest.raises(AccessDenied, match="refuses the credential of AWS_ACCESS_KEY_ID"):
        services.place("cw", **UNKNOWN.env()).by(None).listing()
    assert only(store.at(store.uri, keys, UNKNOWN.env()))[1] == b"a"  # the file takes precedence


def test_coreweave_without_a_credential_says_where_to_give_one(seaweed_services: Services) -> None:
    store = seaweed_services.place("cw")
    with pytest.raises(AccessDenied, match=r"weights\.cwobject\.com|cwobject\.com refuses anonymous access") as caught:
        store.by(None).listing()
    assert caught.value.hint == (
        "Give a credential: cw_credentials.json in the data folder, a named secret, or AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY."
    )


# Refusals


JURISDICTION = "TRUSS_CACHE_R2_ENDPOINT=https://{account_id}.eu.r2.cloudflarestorage.com"


@pytest.mark.parametrize("scheme", ["r2", "cw"])
def test_a_bucket_that_is_not_there_is_named_with_what_to_do(services: Services, scheme: str) -> None:
    with pytest.raises(NotFound, match="no bucket 'no-such-bucket-here' at ") as caught:
        services.place(scheme).missing().listing()
    assert str(caught.value).startswith(f"{scheme}://{ACCOUNTS[scheme]}no-such-bucket-here/m: ")
    hints = {"r2": JURISDICTION, "cw": "AWS_ENDPOINT_URL_S3"}
    assert hints[scheme] in str(caught.value.hint)


def test_r2_names_the_permission_of_its_tokens_and_coreweave_the_actions_of_s3(services: Services) -> None:
    r2, cw = services.place("r2"), services.place("cw")
    r2.put("a.bin", b"a")
    denied = services.server.identities["getonly"]
    with pytest.raises(AccessDenied, match="missing permission Object Read on bucket 'weights' for the") as caught:
        r2.by(denied).listing()
    assert JURISDICTION in str(caught.value.hint)
    with pytest.raises(AccessDenied, match="missing permission s3:ListBucket on arn:aws:s3:::weights for") as caught:
        cw.by(denied).listing()
    assert caught.value.hint == "Grant s3:ListBucket by a policy of the organization or the bucket."


def test_an_object_that_was_replaced_is_named_by_its_uri(seaweed_services: Services) -> None:
    store = seaweed_services.place("r2")
    store.put("a.bin", b"before")
    source = store.source()
    (file,) = source.listing().files
    store.put("a.bin", b"after!")
    asks = source.locate(file).fetch_digest
    assert asks is not None
    with pytest.raises(SourceChanged, match=f"^{re.escape(store.uri)}/a.bin: replaced since it was listed"):
        asks()


def test_a_row_of_another_package_is_a_store_with_the_api_of_s3(seaweed_services: Services) -> None:
    ours = store_of("s3")
    assert isinstance(ours.credential, JsonCredential)
    row = ours._replace(
        schemes=("minio",),
        kind="",
        credential=ours.credential._replace(file="minio_credentials.json", optional=()),
        variables=("MINIO_URL",),
        s3=S3Service(endpoint="https://s3.test", variables=("MINIO_URL",), region="here", reads_aws=False),
    )
    with registered(row):
        store = seaweed_services.place("minio", AWS_ENDPOINT_URL_S3="https://wrong.test", **UNKNOWN.env())
        store.put("a.bin", b"a")
        assert only(store.source()) == (f"https://s3.test/weights/{store.prefix}/a.bin", b"a")
        assert region_of(store.source()) == "here"
        with pytest.raises(AccessDenied, match=r"s3\.test refuses anonymous access") as caught:
            store.by(None).listing()
    assert caught.value.hint == "Give a credential: minio_credentials.json in the data folder or a named secret."
