"""A digest that was only guessed, from an ETag: what refutes it, and when that is accepted."""

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from servers.faults import FaultServer

from transfer.conftest import FAST, content_of, job_for, on_warned, pull_one
from truss_cache_tasks import transfer
from truss_cache_tasks.errors import IntegrityError
from truss_cache_tasks.model.listing import Digest

BODY = bytes(range(256)) * 1024
HALF = len(BODY) // 2
RIGHT = Digest("md5", hashlib.md5(BODY).hexdigest(), is_guess=True)
NONE = Digest("md5", "0" * 32, is_guess=True)
WRONG = [NONE, Digest("md5", "0" * 32, (HALF, HALF), is_guess=True)]


@pytest.mark.parametrize("want", WRONG, ids=["whole", "parts"])
def test_two_equal_fetches_refute_a_guess_and_the_error_says_so(server: FaultServer, want: Any) -> None:
    error = pull_one(job_for(server.add("/w", BODY), BODY, digest=want)).error
    assert type(error) is IntegrityError
    assert "two fetches brought the same bytes" in str(error)
    assert f"expected {want} by the ETag: it is no MD5 of the bytes" in str(error)
    assert "--accept-unverified" in str(error.hint)
    assert len(server.asked) == 2


@pytest.mark.parametrize("want", WRONG, ids=["whole", "parts"])
def test_a_refuted_guess_is_given_up_where_the_job_accepts_that(server: FaultServer, want: Any) -> None:
    said: list[str] = []
    job = job_for(server.add("/w", BODY), BODY, digest=want, accept_unverified=True)
    done = pull_one(job, replace(FAST, part_min=64 << 10, part_max=64 << 10), on_warned(said.append))
    assert isinstance(done, transfer.Done), done
    assert (done.digest, content_of(done.job)) == (None, BODY)
    assert server.sent == 2 * len(BODY)
    (line,) = said
    assert line == f"w.bin: taken unverified, as {want} of its ETag is not of the bytes"


def test_a_guess_that_is_right_is_a_digest(server: FaultServer) -> None:
    done = pull_one(job_for(server.add("/w", BODY, "flip"), BODY, digest=RIGHT, accept_unverified=True))
    assert done.digest == RIGHT
    assert server.sent == 2 * len(BODY)


def test_two_fetches_that_differ_refute_no_guess(server: FaultServer) -> None:
    error = pull_one(job_for(server.add("/w", BODY, "flip"), BODY, digest=NONE, accept_unverified=True)).error
    assert type(error) is IntegrityError
    assert f"got {RIGHT}, expected {NONE}" in str(error)


@pytest.mark.parametrize("algorithm", ["md5", "crc32", "sha256"])
def test_a_digest_that_the_store_told_is_never_given_up(server: FaultServer, algorithm: str) -> None:
    want = Digest(algorithm, {"md5": "0" * 32, "crc32": "0" * 8, "sha256": "0" * 64}[algorithm])
    error = pull_one(job_for(server.add("/w", BODY), BODY, digest=want, accept_unverified=True)).error
    assert type(error) is IntegrityError
    assert "two fetches" not in str(error)
