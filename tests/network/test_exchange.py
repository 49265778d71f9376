"""The clock and the counter of one request, and what its body decodes to."""

from __future__ import annotations

import gzip
import os
import socket

import pytest

from truss_cache_tasks.network.cancel import NEVER
from truss_cache_tasks.network.exchange import (
    Exchange,
    ExchangeLimits,
    ReadTimeout,
    TooSlow,
    UnreadableAnswer,
    decode_body,
)

PACKED = gzip.compress(b"a" * 100, mtime=0)


@pytest.mark.parametrize("encoding", ["gzip", " GZIP ", "x-gzip"])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_gzip_body_is_decoded_however_it_comes(encoding: str, size: int) -> None:
    chunks = [PACKED[at : at + size] for at in range(0, len(PACKED), size)]
    assert decode_body(chunks, encoding, 100) == b"a" * 100


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (b"a" * 101, ""),
        (b"a" * 101, "identity"),
        pytest.param(gzip.compress(b"a" * 101), "gzip", id="a byte more"),
        pytest.param(gzip.compress(bytes(64 << 20)), "gzip", id="a bomb"),
        (b"no gzip", "gzip"),
        (b"a", "br"),
        pytest.param(gzip.compress(PACKED), "gzip, gzip", id="packed twice"),
        (b"a", "\x1b]0;evil"),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_a_body_that_is_too_large_or_in_an_unknown_encoding_is_a_bad_response(body: bytes, encoding: str) -> None:
    with pytest.raises(UnreadableAnswer) as caught:
        decode_body([body], encoding, 100)
    assert str(caught.value).isprintable()


def test_a_body_of_exactly_the_limit_is_taken() -> None:
    data = os.urandom(100)
    assert decode_body([data], "", 100) == decode_body([gzip.compress(data)], "gzip", 100) == data


def test_a_socket_asks_the_exchange_before_each_read() -> None:
    one, other = socket.socketpair()
    with one, other:
        timeout = ReadTimeout(Exchange(ExchangeLimits(head_s=7.2), NEVER))
        one.settimeout(timeout)  # type: ignore[arg-type]  # any callable is its clock
        assert one.gettimeout() == 8.0
        spent = ReadTimeout(Exchange(ExchangeLimits(head_s=0), NEVER))
        with pytest.raises(TooSlow):
            one.settimeout(spent)  # type: ignore[arg-type]  # as above


def test_a_head_has_an_end_also_where_nobody_tells_its_bytes() -> None:
    timeout = ReadTimeout(Exchange(ExchangeLimits(head=10_000), NEVER))
    with pytest.raises(UnreadableAnswer):
        all(timeout.__index__() for _ in range(1000))
