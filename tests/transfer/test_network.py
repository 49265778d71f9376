"""Redirects, proxies and certificates: who is asked, and who is shown the credential."""

import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from servers.faults import FaultServer, fault_server
from servers.proxy import proxying

from transfer.conftest import FAST, content_of, error_of, job_for, pull_one
from truss_cache_tasks import transfer
from truss_cache_tasks.errors import ConfigError, PermanentError, TransientError

BODY = bytes(range(256)) * 1024
SECRETS = {"Authorization": "Bearer hush", "Cookie": "hush", "x-amz-security-token": "hush", "If-Match": '"v1"'}


@pytest.fixture
def other() -> Iterator[FaultServer]:
    with fault_server() as running:
        yield running


def is_done(result: Any) -> bool:
    return isinstance(result, transfer.Done) and content_of(result.job) == BODY


def test_a_redirect_keeps_range_and_if_match_and_drops_secrets_at_another_host(
    server: FaultServer, other: FaultServer
) -> None:
    target = other.add("/cdn", BODY, "cut:1000")
    url = server.add("/resolve", BODY, f"redirect:{target}", f"redirect:{target}")
    assert is_done(pull_one(job_for(url, BODY, headers=SECRETS, validator='"v1"')))
    assert [asked.headers.get("authorization") for asked in server.asked] == ["Bearer hush"] * 2
    assert other.ranges() == [None, "bytes=1000-"]
    for asked in other.asked:
        assert "hush" not in asked.headers.values()
        assert not {"authorization", "cookie", "x-amz-security-token"} & set(asked.headers)
        assert asked.headers["if-match"] == '"v1"'


def test_a_redirect_within_the_host_keeps_the_credential_and_the_connection(server: FaultServer) -> None:
    server.add("/there", BODY, needs="Bearer hush")
    url = server.add("/here", BODY, "redirect:/there")
    assert is_done(pull_one(job_for(url, BODY, headers=SECRETS)))
    assert server.connections == 1


def test_a_secret_does_not_come_back_by_way_of_another_host(server: FaultServer, other: FaultServer) -> None:
    back = server.add("/back", BODY)
    url = server.add("/w", BODY, f"redirect:{other.add('/there', b'', f'redirect:{back}')}")
    assert is_done(pull_one(job_for(url, BODY, headers=SECRETS)))
    assert "authorization" not in server.asked[-1].headers


def test_a_redirect_from_https_to_http_is_not_followed(
    secure: FaultServer, server: FaultServer, fault_authority: tuple[Path, ssl.SSLContext]
) -> None:
    url = secure.add("/w", BODY, f"redirect:{server.add('/plain', BODY)}?hush")
    network = transfer.Network(ca_bundle=str(fault_authority[0]))
    error = error_of(pull_one(job_for(url, BODY, headers=SECRETS), network=network))
    assert isinstance(error, PermanentError)
    assert str(error) == "w.bin: 127.0.0.1 redirects from https to http, expected https"
    assert server.asked == []


@pytest.mark.parametrize("target", ["http://exa mple.com/", "http://@/", "http://[::1]x/", "http://%ff.example/"])
def test_a_redirect_to_a_host_that_can_be_none_fails_its_own_file_alone(server: FaultServer, target: str) -> None:
    bad = job_for(server.add("/bad", BODY, *[f"redirect:{target}"] * 9), BODY, path="bad")
    good = job_for(server.add("/good", BODY), BODY, path="good")
    ends = {end.job.file.path: end for end in transfer.pull([bad, good], limits=FAST)}
    assert isinstance(error_of(ends["bad"]), PermanentError | TransientError)
    assert isinstance(ends["good"], transfer.Done)


def test_an_early_hint_is_not_taken_for_the_next_files_answer(server: FaultServer) -> None:
    server.go.set()
    one, two = b"1" * 1000, b"2" * 1000
    jobs = [job_for(server.add("/1", one, "early-hints"), one, path="1", digest=None),
            job_for(server.add("/2", two), two, path="2", digest=None)]  # fmt: skip
    ends = list(transfer.pull(jobs, limits=replace(FAST, connections=1)))
    assert {end.job.file.path: content_of(end.job) for end in ends} == {"1": one, "2": two}


def test_a_redirects_password_is_not_in_the_host_that_a_proxy_sees(server: FaultServer) -> None:
    with proxying("me", "mine") as proxy:
        target = f"http://us:hush@127.0.0.1:{server.port}/there"
        server.add("/there", BODY)
        network = transfer.Network.from_env({"http_proxy": f"http://me:mine@127.0.0.1:{proxy.server_port}"})
        url = server.add("/w", BODY, f"redirect:{target}")
        assert isinstance(pull_one(job_for(url, BODY), network=network), transfer.Done)
        assert not any("hush" in line for line in proxy.asked)
        assert all("hush" not in asked.headers["host"] for asked in server.asked)


def test_a_redirect_loop_ends_at_once(server: FaultServer) -> None:
    error = pull_one(job_for(server.add("/w", BODY, "redirect-loop"), BODY)).error
    assert isinstance(error, PermanentError)
    assert len(server.asked) == FAST.redirects + 1


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://x/y", "http://[bad", "http://h:port/", "http://a..b/"])
def test_a_redirect_to_something_else_is_not_followed(server: FaultServer, target: str) -> None:
    error = pull_one(job_for(server.add("/w", BODY, f"redirect:{target}"), BODY)).error
    assert isinstance(error, PermanentError)
    assert len(server.asked) == 1


def test_https_with_the_bundle_of_the_network(
    secure: FaultServer, fault_authority: tuple[Path, ssl.SSLContext]
) -> None:
    for variable in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE"):
        network = transfer.Network.from_env({variable: str(fault_authority[0])})
        faults = ("reset:1000", "cut:1000", "503")
        assert is_done(pull_one(job_for(secure.add("/w", BODY, *faults), BODY), network=network))


def test_an_untrusted_certificate_is_final_at_once_and_names_the_remedy(secure: FaultServer) -> None:
    error = pull_one(job_for(secure.add("/w", BODY), BODY)).error
    assert isinstance(error, PermanentError)
    assert "certificate is not trusted" in str(error)
    assert "tried" not in str(error)
    assert "SSL_CERT_FILE" in str(error.hint)
    assert secure.connections == 1


def test_a_bundle_that_is_none_is_a_config_error(secure: FaultServer, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("no certificate")
    for bundle in (tmp_path / "none.pem", tmp_path / "empty.pem"):
        network = transfer.Network(ca_bundle=str(bundle))
        error = pull_one(job_for(secure.add("/w", BODY), BODY), network=network).error
        assert type(error) is ConfigError
        assert str(bundle) in str(error)


@pytest.mark.parametrize("fault", ["silence", "stall:1000"])
def test_closing_ends_a_job_inside_of_tls(
    secure: FaultServer, server: FaultServer, fault_authority: tuple[Path, ssl.SSLContext], fault: str
) -> None:
    jobs = [
        job_for(secure.add("/w", BODY, fault), BODY),
        job_for(server.add("/quick", BODY), BODY, path="quick"),
    ]
    limits = replace(FAST, answer_s=600, stall_s=600, stop_s=60)
    pull = transfer.pull(jobs, limits=limits, network=transfer.Network(ca_bundle=str(fault_authority[0])))
    assert next(pull).job.file.path == "quick"
    pull.close()


def test_a_proxy_with_a_password_is_used_for_both_schemes_and_never_printed(
    server: FaultServer, secure: FaultServer, fault_authority: tuple[Path, ssl.SSLContext]
) -> None:
    with proxying("us@er", "hush") as proxy:
        address = f"http://us%40er:hush@127.0.0.1:{proxy.server_port}"
        env = {"HTTPS_PROXY": address, "http_proxy": address, "SSL_CERT_FILE": str(fault_authority[0])}
        network = transfer.Network.from_env(env)
        assert "hush" not in repr(network)
        assert is_done(pull_one(job_for(server.add("/w", BODY), BODY), network=network))
        assert is_done(pull_one(job_for(secure.add("/w", BODY), BODY), network=network))
        assert [line.rpartition(" ")[0] for line in proxy.asked] == [
            f"GET {server.base}/w",
            f"CONNECT 127.0.0.1:{secure.port}",
        ]
        assert not any("proxy-authorization" in asked.headers for asked in (*server.asked, *secure.asked))
        wrong = transfer.Network.from_env(
            {"ALL_PROXY": address.replace("hush", "hush2"), "SSL_CERT_FILE": str(fault_authority[0])}
        )
        for url in (server.add("/w", BODY), secure.add("/w", BODY)):
            error = pull_one(job_for(url, BODY), replace(FAST, attempts=2), network=wrong).error
            assert "407" in str(error)
            assert "hush" not in f"{error} {error.hint} {error.__cause__!r}"
        assert len(proxy.asked) == 4  # a refused password is not sent again


def test_no_proxy_names_who_is_asked_directly(server: FaultServer) -> None:
    env = {"ALL_PROXY": "http://127.0.0.1:9", "NO_PROXY": "example.org, 127.0.0.1"}
    assert is_done(pull_one(job_for(server.add("/w", BODY), BODY), network=transfer.Network.from_env(env)))


def test_a_proxy_that_is_none_is_a_config_error(server: FaultServer) -> None:
    network = transfer.Network.from_env({"http_proxy": "socks5://u:hush@127.0.0.1:9"})
    error = pull_one(job_for(server.add("/w", BODY), BODY), network=network).error
    assert type(error) is ConfigError
    assert "hush" not in str(error)


def test_the_process_environment_itself_is_not_read(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.delenv("no_proxy", raising=False)
    assert is_done(pull_one(job_for(server.add("/w", BODY), BODY)))
