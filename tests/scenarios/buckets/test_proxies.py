"""S3, GCS and Azure through a forward proxy with a password, and with certificates of a network's own."""

from __future__ import annotations

import pytest
from servers.nginx import Nginx
from servers.tinyproxy import Tinyproxy
from trusses import Truss, tree

from scenarios.buckets.stores import Store

BODY = bytes(range(256)) * 1000
WRONG = "wrong-word"


@pytest.fixture
def secure(vendor: Store, truss: Truss, web: Nginx) -> Truss:
    """A Truss whose store is reached over TLS, at nginx."""
    vendor.put("m/a.bin", BODY)
    vendor.give(truss, vendor.behind_tls)
    truss.config(f"model_cache:\n  - repo_id: {vendor.uri('m')}\n")
    web.say(f"proxy_pass {vendor.front.url}; proxy_set_header Host $http_host;")
    truss.env |= {name: value.replace(vendor.front.url, web.secure_url) for name, value in vendor.env.items()}
    return truss


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE"])
def test_listing_and_bytes_come_by_tunnels_whatever_variable_names_the_bundle(
    vendor: Store, secure: Truss, web: Nginx, proxy: Tinyproxy, variable: str
) -> None:
    ran = secure.cli(HTTPS_PROXY=proxy.address(), **{variable: str(web.authority / "ca.pem")})
    assert ran.code == 0, ran.text
    assert tree(secure.model_cache) == {vendor.visible("m", "a.bin"): BODY}
    assert set(proxy.asked()) == {f"CONNECT localhost:{web.secure_port}"}
    assert proxy.password not in ran.text


def test_a_proxy_that_refuses_is_told_as_such_and_not_asked_for_long(
    secure: Truss, web: Nginx, proxy: Tinyproxy
) -> None:
    ran = secure.cli(HTTPS_PROXY=proxy.address(WRONG), SSL_CERT_FILE=str(web.authority / "ca.pem"))
    assert ran.code == 1, ran.text
    assert "the proxy refuses (40" in ran.err
    assert "hint: Check the proxy and its password in HTTPS_PROXY." in ran.err
    assert WRONG not in ran.text
    assert 1 <= len(proxy.asked()) <= 4  # boto3 asks four times


def test_an_untrusted_certificate_is_told_as_such_and_not_asked_for_long(secure: Truss, proxy: Tinyproxy) -> None:
    ran = secure.cli(HTTPS_PROXY=proxy.address())
    assert ran.code == 1, ran.text
    assert "certificate" in ran.err.partition("hint: ")[0]
    assert "SSL_CERT_FILE" in ran.err.partition("hint: ")[2]
    assert 1 <= len(proxy.asked()) <= 4


def test_a_bundle_that_is_none_is_named(secure: Truss, tmp_path: object) -> None:
    ran = secure.cli(SSL_CERT_FILE=f"{tmp_path}/none.pem")
    assert ran.code == 1, ran.text
    assert f"SSL_CERT_FILE: the CA bundle {tmp_path}/none.pem cannot be used" in ran.err
