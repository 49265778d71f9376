"""Answers that never end, or a byte at a time: each ends by a limit in seconds or in bytes, and is one clear error.

The scripted server sends something every hundredth of a second, so that no single read of a socket is a long one.
"""

import ssl
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from servers.faults import FaultServer

from transfer.conftest import FAST, content_of, job_for, pull_one
from truss_cache_tasks import transfer
from truss_cache_tasks.errors import AccessDenied, CacheTaskError, TransientError
from truss_cache_tasks.model.listing import RemoteFile

BODY = bytes(range(256)) * 1024
# What a healthy answer may take is long: a slow machine must not meet it by chance.
SHORT = replace(FAST, answer_s=0.5, stall_s=0.5, skip_s=0.2, attempts=2)
HEADS = ["continue", "continue:slow", "huge-head", "drip-head"]


def whole(result: Any) -> bool:
    assert isinstance(result, transfer.Done), result
    assert content_of(result.job) == BODY
    return True


@pytest.mark.parametrize("fault", HEADS)
def test_a_head_without_an_end_is_one_error(server: FaultServer, fault: str) -> None:
    error = pull_one(job_for(server.add("/w", BODY, fault, fault), BODY), SHORT).error
    assert type(error) is TransientError
    said = "timed out" if fault in ("continue:slow", "drip-head") else "headers, chunks or trailers without an end"
    assert str(error) == f"w.bin: 127.0.0.1: {said} (tried 2 times)"
    assert len(server.asked) == 2


@pytest.mark.parametrize("fault", HEADS)
def test_a_head_without_an_end_costs_its_connection(server: FaultServer, fault: str) -> None:
    limits = replace(SHORT, attempts=100)
    assert whole(pull_one(job_for(server.add("/w", BODY, fault), BODY), limits))
    assert server.connections >= 2


@pytest.mark.parametrize("fault", HEADS)
def test_a_head_without_an_end_ends_within_tls_too(
    secure: FaultServer, fault_authority: tuple[Path, ssl.SSLContext], fault: str
) -> None:
    network = transfer.Network(ca_bundle=str(fault_authority[0]))
    error = pull_one(job_for(secure.add("/w", BODY, fault, fault), BODY), SHORT, network=network).error
    assert type(error) is TransientError
    assert "tried 2 times" in str(error)


def test_a_proxy_whose_answer_to_connect_does_not_end_is_left(server: FaultServer) -> None:
    network = transfer.Network.from_env({"https_proxy": server.base})
    job = job_for("https://example.invalid/w", BODY)
    error = pull_one(job, replace(SHORT, connect_s=0.3), network=network).error
    assert type(error) is TransientError
    assert "example.invalid: timed out (tried 2 times)" in str(error)


@pytest.mark.parametrize("fault", ["drip:403", "flood:403"])
def test_a_refusal_without_an_end_is_explained_by_what_came(server: FaultServer, fault: str) -> None:
    bodies = []

    def explain(file: RemoteFile, status: int, headers: Mapping[str, str], body: bytes) -> CacheTaskError:
        bodies.append(body)
        return AccessDenied(f"{file.path}: {status}")

    error = pull_one(job_for(server.add("/w", BODY, fault), BODY, explain=explain), SHORT).error
    assert str(error) == "w.bin: 403"
    assert len(server.asked) == 1
    (body,) = bodies
    assert 0 < len(body) <= 4096
    assert set(body) == set(b"x")


@pytest.mark.parametrize("fault", ["drip:503", "flood:503"])
def test_a_passing_refusal_without_an_end_is_asked_again(server: FaultServer, fault: str) -> None:
    limits = replace(SHORT, attempts=100)
    assert whole(pull_one(job_for(server.add("/w", BODY, fault), BODY), limits))


@pytest.mark.parametrize("fault", ["drip:302 /there", "flood:302 /there"])
def test_a_redirect_is_followed_though_its_body_does_not_end(server: FaultServer, fault: str) -> None:
    server.add("/there", BODY)
    limits = replace(SHORT, answer_s=10, stall_s=10)
    assert whole(pull_one(job_for(server.add("/w", BODY, fault), BODY), limits))
    assert [asked.status for asked in server.asked] == [302, 200]


@pytest.mark.parametrize("fault", ["trailers", "trailers:slow"])
def test_a_body_that_is_whole_counts_though_trailers_without_an_end_follow(server: FaultServer, fault: str) -> None:
    assert whole(pull_one(job_for(server.add("/w", BODY, fault), BODY), replace(SHORT, answer_s=10)))
    assert len(server.asked) == 1


def test_a_chunk_whose_size_does_not_end_costs_its_connection(server: FaultServer) -> None:
    url = server.add("/w", BODY, "drip-chunk")
    assert whole(pull_one(job_for(url, BODY), replace(SHORT, attempts=100)))
    error = pull_one(job_for(server.add("/w", BODY, *["drip-chunk"] * 2), BODY), SHORT).error
    assert type(error) is TransientError
    assert "timed out (tried 2 times)" in str(error)


@pytest.mark.parametrize("fault", ["trickle:1", "trickle:20"])
def test_a_body_that_trickles_is_left_and_is_one_error(server: FaultServer, fault: str) -> None:
    limits = replace(SHORT, answer_s=10, stall_s=0.2, floor=100_000, floor_s=0.3)
    error = pull_one(job_for(server.add("/w", BODY, fault, fault), BODY), limits).error
    assert type(error) is TransientError
    assert "the connection brings less than 100000 bytes a second (tried 2 times)" in str(error)
