"""A forward proxy with a password before the Hub and its CDN, and certificates of a network's own."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from servers.hub import Hub
from servers.nginx import Nginx
from servers.tinyproxy import Tinyproxy
from trusses import Truss

from scenarios.large.conftest import BIG, check_whole

WRONG = "wrong-word"


@pytest.fixture
def secure(large: Truss, hub: Hub, web: Nginx) -> Truss:
    """The Hub and its CDN over TLS alone: nginx at 127.0.0.1 before the Hub, and at localhost with the large file."""
    web.put(f"lfs/{hashlib.sha256(BIG).hexdigest()}/big.bin", BIG)
    web.say(server="".join(f"location /{of}/ {{ proxy_pass {hub.url}; proxy_redirect off; }}" for of in ("api", "org")))
    hub.cdn_url = web.secure_url
    large.env["HF_ENDPOINT"] = f"https://127.0.0.1:{web.secure_port}"
    return large


def kept_secret(truss: Truss, *passwords: str) -> bool:
    """Whether no file that a run left holds a password, in any of its spellings."""
    words = [word.encode() for word in passwords]
    files = [
        path for path in truss.root.rglob("*") if path.is_file() and path.relative_to(truss.root).parts[0] != "proxy"
    ]
    return not [path for path in files for word in words if path.stat().st_size < 1 << 20 and word in path.read_bytes()]


def refused(truss: Truss, words: str) -> None:
    """Both ways to run end in one cause and one remedy for each entry, soon, and say no password."""
    for ran in (truss.doit("run", "-c", "cache_weights"), truss.cli()):
        assert ran.code in (1, 2), ran.text
        assert "Traceback" not in ran.text
        assert len(re.findall(f"{words}", ran.text)) == 2
        assert ran.text.count("hint: ") == 2
        assert WRONG not in ran.text
    assert kept_secret(truss, WRONG)


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE"])
def test_a_large_file_comes_by_tunnels_of_a_proxy_with_a_password(
    secure: Truss, web: Nginx, proxy: Tinyproxy, authority: Path, variable: str
) -> None:
    secure.env[variable] = str(authority / "ca.pem")
    ran = secure.doit("cache_weights", HTTPS_PROXY=proxy.address())
    assert ran.code == 0, ran.text
    assert sum(asked.sent for asked in web.log() if asked.path.startswith("/lfs/")) == len(BIG)
    assert len([asked for asked in web.log() if asked.status == 206]) == 6
    assert set(proxy.asked()) == {f"CONNECT {host}:{web.secure_port}" for host in ("127.0.0.1", "localhost")}
    check_whole(secure)
    assert proxy.password not in ran.text
    assert kept_secret(secure, proxy.password)


def test_plain_http_goes_by_the_proxy_too_save_for_whom_no_proxy_names(
    large: Truss, hub: Hub, web: Nginx, proxy: Tinyproxy
) -> None:
    web.put(f"lfs/{hashlib.sha256(BIG).hexdigest()}/big.bin", BIG)
    hub.cdn_url = web.url
    large.env["http_proxy"] = proxy.address()
    ran = large.cli("run", "org/last", NO_PROXY="127.0.0.1")
    assert ran.code == 0, ran.text
    assert len(proxy.asked()) == 6
    assert all(line.startswith(f"GET {web.url}/lfs/") for line in proxy.asked())
    ran = large.cli("run", "org/first", NO_PROXY="localhost")
    assert ran.code == 0, ran.text
    assert all(line.startswith(f"GET {hub.url}/") for line in proxy.asked()[6:])
    assert len(proxy.asked()) > 6
    check_whole(large)
    assert kept_secret(large, proxy.password)


def test_a_wrong_password_is_refused_once_and_not_said(secure: Truss, proxy: Tinyproxy, authority: Path) -> None:
    secure.env["SSL_CERT_FILE"] = str(authority / "ca.pem")
    secure.env["HTTPS_PROXY"] = proxy.address(WRONG)
    refused(secure, r"127.0.0.1:\d+: the proxy refuses \(40[17]\)\nhint: Check the proxy and its password")
    assert len(proxy.asked()) == 4  # for each run and entry


def test_a_wrong_password_that_only_the_cdn_needs_is_refused_once_and_not_said(
    large: Truss, hub: Hub, web: Nginx, proxy: Tinyproxy, authority: Path
) -> None:
    hub.cdn_url = web.secure_url
    ran = large.cli(HTTPS_PROXY=proxy.address(WRONG), SSL_CERT_FILE=str(authority / "ca.pem"))
    assert ran.code == 1, ran.text
    assert "big.bin: localhost: the proxy refuses (40" in ran.err
    assert "Traceback" not in ran.err
    assert WRONG not in ran.text
    assert len(proxy.asked()) == 1
    assert kept_secret(large, WRONG)


def test_no_password_is_told_as_the_proxys_refusal(large: Truss, proxy: Tinyproxy) -> None:
    ran = large.cli("run", "org/last", http_proxy=f"http://127.0.0.1:{proxy.port}")
    assert ran.code == 1, ran.text
    assert "the proxy refuses (407)\nhint: Check the proxy and its password" in ran.err


@pytest.mark.parametrize("of", ["Hub", "CDN"])
def test_an_untrusted_certificate_is_one_error_and_not_tried_again(
    secure: Truss, hub: Hub, proxy: Tinyproxy, of: str
) -> None:
    if of == "CDN":
        secure.env["HF_ENDPOINT"] = hub.url
    ran = secure.cli("run", "org/last", HTTPS_PROXY=proxy.address())
    assert ran.code == 1, ran.text
    assert ran.err.count("its certificate is not trusted") == 1
    assert ran.err.count("hint: ") == 1
    assert "SSL_CERT_FILE" in ran.err
    assert len(proxy.asked()) == 1


def test_a_bundle_or_a_proxy_that_is_none_is_named_before_anybody_is_asked(secure: Truss, tmp_path: Path) -> None:
    (tmp_path / "none.pem").write_text("no certificate")
    ran = secure.cli("run", "org/last", REQUESTS_CA_BUNDLE=str(tmp_path / "none.pem"))
    assert ran.code == 1, ran.text
    assert f"REQUESTS_CA_BUNDLE: the CA bundle {tmp_path}/none.pem cannot be used" in ran.err
    assert "hint: Set REQUESTS_CA_BUNDLE to a PEM file" in ran.err
    ran = secure.cli("run", "org/last", HTTPS_PROXY=f"socks5://u:{WRONG}@127.0.0.1:9")
    assert ran.code == 1, ran.text
    assert "the proxy variables name a proxy that cannot be used" in ran.err
    assert WRONG not in ran.text
