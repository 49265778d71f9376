"""The client for listings without an SDK: every request ends, and nothing is sent to another host."""

from __future__ import annotations

import gzip
import ssl
from pathlib import Path
from typing import Any

import pytest
from servers.faults import FaultServer
from servers.proxy import proxying

from truss_cache_tasks.errors import CacheTaskError, PermanentError, Stopped, TransientError, WrongAnswer
from truss_cache_tasks.network.cancel import StopPoll
from truss_cache_tasks.network.client import HttpClient
from truss_cache_tasks.network.exchange import ExchangeLimits
from truss_cache_tasks.network.settings import Network

BODY = b"<list/>" * 1000
QUICK = ExchangeLimits(head_s=0.5, stall_s=0.5, head=1 << 17, page=1 << 16, refusal=1 << 10)
SECRET = {"Authorization": "Basic c2VjcmV0"}


def ask(url: str, **network: Any) -> bytes:
    with HttpClient(url, Network(**{"limits": QUICK, **network})) as client:
        answer = client.send("GET", url, SECRET, "x://b/m")
    return answer.body if answer.status == 200 else b"%d" % answer.status


def failure(url: str, **network: Any) -> CacheTaskError:
    with pytest.raises(CacheTaskError) as caught:
        ask(url, **network)
    assert str(caught.value).startswith("x://b/m: ")
    assert "c2VjcmV0" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("fault", ["", "chunked", "no-length", "range-200"])
def test_an_answer_is_read_whole(server: FaultServer, fault: str) -> None:
    assert ask(server.add("/list", BODY, fault)) == BODY
    assert server.asked[0].headers["authorization"] == SECRET["Authorization"]
    assert server.asked[0].headers["user-agent"].startswith("truss-cache-tasks/")


def test_a_packed_answer_is_unpacked_within_its_limit(server: FaultServer) -> None:
    url = server.add("/list", gzip.compress(BODY))
    server.files["/list"].headers["Content-Encoding"] = "gzip"
    assert ask(url) == BODY
    server.files["/list"].body = gzip.compress(b"x" * (1 << 17))
    assert type(failure(url)) is WrongAnswer


def test_a_refusal_is_an_answer(server: FaultServer) -> None:
    assert ask(server.add("/list", BODY, "403")) == b"403"


@pytest.mark.parametrize("fault", ["hang-up", "cut", "reset", "silence", "stall:10", "drip-head"])
def test_a_broken_or_slow_answer_may_be_asked_for_again(server: FaultServer, fault: str) -> None:
    assert type(failure(server.add("/list", BODY, fault))) is TransientError


@pytest.mark.parametrize("fault", ["flood:200", "flood:500", "huge-head"])
def test_an_answer_without_an_end_is_wrong(server: FaultServer, fault: str) -> None:
    assert isinstance(failure(server.add("/list", BODY, fault)), WrongAnswer | TransientError)
    assert server.sent < 20 << 20


def test_a_redirect_within_the_server_is_followed(server: FaultServer) -> None:
    server.add("/list/", BODY)
    assert ask(server.add("/list", b"", "redirect:/list/")) == BODY
    assert [asked.headers["authorization"] for asked in server.asked] == [SECRET["Authorization"]] * 2


def test_a_redirect_to_another_server_is_not(server: FaultServer) -> None:
    other = server.add("/other", BODY).replace("127.0.0.1", "localhost")
    assert ask(server.add("/list", b"", f"redirect:{other}")) == b"302"
    assert [asked.path for asked in server.asked] == ["/list"]


def test_redirects_without_an_end_are_refused(server: FaultServer) -> None:
    assert "redirects more than 5 times" in str(failure(server.add("/list", b"", "redirect-loop")))
    assert len(server.asked) == 6


@pytest.mark.parametrize("target", ["http://[::1", "http://127.0.0.1:99999/"])
def test_a_redirect_that_is_no_url_leads_nowhere(server: FaultServer, target: str) -> None:
    assert type(failure(server.add("/list", b"", f"redirect:{target}"))) is PermanentError
    assert len(server.asked) == 1


def test_a_server_that_is_not_there_may_come_back() -> None:
    error = failure("http://127.0.0.1:9/list")
    assert type(error) is TransientError
    assert "connection refused" in str(error)


def test_a_certificate_is_checked(secure: FaultServer, fault_authority: tuple[Path, ssl.SSLContext]) -> None:
    url = secure.add("/list", BODY)
    assert type(failure(url)) is PermanentError
    assert ask(url, ca_bundle=str(fault_authority[0])) == BODY


def test_requests_go_through_the_proxy_with_its_password(server: FaultServer) -> None:
    url = server.add("/list", BODY)
    with proxying("us-er", "hush") as proxy:
        here = f"127.0.0.1:{proxy.server_port}"
        assert ask(url, proxies=(("http", f"http://us-er:hush@{here}"),)) == BODY
        assert len(proxy.asked) == 1
        assert ask(url, proxies=(("http", f"http://us-er:wrong@{here}"),)) == b"407"


def test_a_cancelled_run_ends_a_request_that_hangs(server: FaultServer) -> None:
    asked: list[bool] = []

    def stopped() -> bool:
        asked.append(True)
        return len(asked) > 3

    with pytest.raises(Stopped):
        ask(server.add("/list", BODY, "silence"), cancel=StopPoll(stopped), limits=ExchangeLimits())
