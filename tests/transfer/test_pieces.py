"""Composite digests whose parts the store tells: what is wrong costs the parts that hold it, once."""

import hashlib
import random
from dataclasses import replace
from itertools import accumulate
from typing import Any

import pytest
from servers.faults import FaultServer

from transfer.conftest import FAST, Scratch, content_of, job_for, on_received, pull_one
from transfer.test_resume import Journalled
from truss_cache_tasks import transfer
from truss_cache_tasks.errors import IntegrityError, TransientError
from truss_cache_tasks.events import Reporter
from truss_cache_tasks.model.hashing import Hasher
from truss_cache_tasks.model.listing import Digest

PART = 64 << 10
BODY = random.Random(8).randbytes(12 * PART + 99)  # 13 parts
CUT = replace(FAST, part_min=PART, part_max=PART, buffer=16 << 10, connections=4)


def digest_of(algorithm: str, data: bytes | bytearray, parts: tuple[int, ...] = ()) -> Digest:
    hasher = Hasher(len(data), Digest(algorithm, "", parts))
    hasher.update(data)
    digest = hasher.digest()
    assert digest is not None
    return digest


def composite(algorithm: str, body: bytes, length: int) -> Digest:
    """The digest of `body`, uploaded in parts of `length` bytes, with those of its parts."""
    parts = [body[at : at + length] for at in range(0, len(body), length)]
    want = digest_of(algorithm, body, tuple(map(len, parts)))
    return replace(want, part_values=tuple(digest_of(algorithm, part).value for part in parts))


def lost(want: Digest, *offsets: int) -> int:
    """Bytes of those parts of ours that hold bytes of the store's parts that hold the bytes at `offsets`."""
    ends = list(accumulate(want.parts))
    ours = set()
    for at in offsets:
        n = next(n for n, end in enumerate(ends) if end > at)
        ours |= set(range((ends[n] - want.parts[n]) // PART * PART, ends[n], PART))
    return sum(min(PART, len(BODY) - start) for start in ours)


def pulled(
    server: FaultServer,
    want: Digest | None,
    spoilt: dict[int, str],
    limits: transfer.Limits = CUT,
    partial: transfer.Partial | None = None,
    body: bytes = BODY,
    reporter: Reporter | None = None,
) -> Any:
    url = server.add("/w", body)
    server.files["/w"].spoilt |= spoilt
    return pull_one(job_for(url, body, digest=want, partial=partial), limits, reporter)


def whole(result: Any, body: bytes = BODY) -> bool:
    assert isinstance(result, transfer.Done), result
    assert content_of(result.job) == body
    return True


@pytest.mark.parametrize("algorithm", ["crc32", "sha256"])
@pytest.mark.parametrize("fault", ["ignore-range", "etag-stray"])
def test_a_part_of_no_bytes_counts_when_the_file_starts_over(server: FaultServer, algorithm: str, fault: str) -> None:
    want = digest_of(algorithm, BODY, (PART, len(BODY) - PART, 0))
    url = server.add("/w", BODY, fault)
    assert whole(pull_one(job_for(url, BODY, digest=want, validator='"v1"'), CUT))


@pytest.mark.parametrize("algorithm", ["crc32", "crc32c", "crc64nvme", "sha256", "sha1"])
@pytest.mark.parametrize("length", [40_000, PART, 100_000, 5 * PART + 5])
@pytest.mark.parametrize("connections", [1, 4])
def test_a_wrong_byte_costs_our_parts_that_hold_the_stores_part_once(
    server: FaultServer, algorithm: str, length: int, connections: int
) -> None:
    want, at, counted = composite(algorithm, BODY, length), 7 * PART + 9, []
    result = pulled(
        server,
        want,
        {at: "x"},
        replace(CUT, connections=connections),
        reporter=on_received(lambda path, size: counted.append(size)),
    )
    assert whole(result)
    assert result.digest == want
    assert result.xxh3 == pulled(server, None, {}, CUT).xxh3
    assert [size for size in counted if size < 0] == [-lost(want, at)]
    assert sum(counted) == len(BODY)


@pytest.mark.parametrize("algorithm", ["crc32", "sha256"])
@pytest.mark.parametrize("at", [0, 99_999, 100_000, len(BODY) - 1])
def test_the_server_sends_no_more_than_that(server: FaultServer, algorithm: str, at: Any) -> None:
    want = composite(algorithm, BODY, 100_000)
    assert whole(pulled(server, want, {at: "x"}))
    assert server.sent == len(BODY) + lost(want, at)


@pytest.mark.parametrize("algorithm", ["crc32", "sha256"])
def test_several_wrong_parts_come_again_together(server: FaultServer, algorithm: str) -> None:
    want, spoilt = composite(algorithm, BODY, 40_000), dict.fromkeys((3, PART * 5, PART * 5 + 45_000, PART * 9), "x")
    assert whole(pulled(server, want, spoilt))
    assert server.sent == len(BODY) + lost(want, *spoilt)


@pytest.mark.parametrize("algorithm", ["crc32", "sha256"])
def test_a_part_that_is_wrong_again_is_an_error_that_names_it(server: FaultServer, algorithm: str) -> None:
    want, partial = composite(algorithm, BODY, 100_000), Scratch()
    error = pulled(server, want, {250_000: "x" * 99}, partial=partial).error
    assert type(error) is IntegrityError
    spoilt = bytearray(BODY[200_000:300_000])
    spoilt[50_000] ^= 1
    got = digest_of(algorithm, spoilt)
    assert str(error) == f"w.bin: got {got}, expected {algorithm} {want.part_values[2]} in bytes 200000-299999"
    assert server.sent == len(BODY) + lost(want, 250_000)


@pytest.mark.parametrize("algorithm", ["crc32", "sha256"])
def test_what_comes_again_with_a_wrong_part_is_judged_again_too(server: FaultServer, algorithm: str) -> None:
    want = composite(algorithm, BODY, 40_000)  # the second ends in our second part, and so does the third begin there
    assert whole(pulled(server, want, {70_000: "x", 81_000: ".x", 131_000: ".x"}))
    assert server.sent == len(BODY) + lost(want, 70_000) + lost(want, 81_000, 131_000)


@pytest.mark.parametrize("algorithm", ["crc32", "sha256"])
def test_digests_of_parts_that_do_not_make_the_composite_are_ignored(server: FaultServer, algorithm: str) -> None:
    want = composite(algorithm, BODY, 100_000)
    other = composite(algorithm, BODY[::-1], 100_000).part_values
    for values in (other, (*want.part_values[:-1], other[-1]), want.part_values[:-1], ()):
        server.asked.clear()
        assert whole(pulled(server, replace(want, part_values=values), {250_000: "x"}))
        assert server.sent == 2 * len(BODY)


def test_a_composite_of_crcs_asks_for_no_order(server: FaultServer) -> None:
    """The first part comes last; nothing may wait for it, or be read back."""
    want = replace(composite("crc32", BODY, 100_000), part_values=())
    url = server.add("/w", BODY, "pause:10")

    @on_received
    def report(path: str, size: int) -> None:
        if len(server.asked) == 13:
            server.go.set()

    job = job_for(url, BODY, digest=want, validator='"v1"', partial=Scratch())
    assert whole(pull_one(job, replace(CUT, ahead=PART), report))
    assert len(server.asked) == 13


@pytest.mark.parametrize("algorithm", ["crc32", "sha256"])
def test_a_file_that_comes_whole_comes_whole_again(server: FaultServer, algorithm: str) -> None:
    body = BODY[:50_000]
    want = composite(algorithm, body, 20_000)
    assert whole(pulled(server, want, {30_000: "x"}, body=body), body)
    assert server.ranges() == [None, None]
    assert type(pulled(server, want, {30_000: "xx"}, body=body).error) is IntegrityError


def broken_off(server: FaultServer, want: Digest, spoilt: dict[int, str], after: int) -> Journalled:
    """A partial and journal, of which `spoilt` is wrong, left when the server refuses all that comes `after`."""
    partial = Journalled()
    url = server.add("/w", BODY, *[""] * after, *["503"] * 99)
    server.files["/w"].spoilt |= spoilt
    job = job_for(url, BODY, digest=want, partial=partial)
    assert type(pull_one(job, replace(CUT, attempts=2, connections=1)).error) is TransientError
    transfer.reset()
    server.asked.clear()
    return partial


@pytest.mark.parametrize("algorithm", ["crc32", "sha256"])
def test_what_a_dead_run_left_is_judged_as_if_it_came_now(server: FaultServer, algorithm: str) -> None:
    want = composite(algorithm, BODY, 100_000)
    partial = broken_off(server, want, {250_000: "x"}, after=6)
    assert len(partial.lines) == 6
    assert whole(pulled(server, want, {}, partial=partial))
    assert server.sent == len(BODY) - 6 * PART + lost(want, 250_000)


@pytest.mark.parametrize("algorithm", ["crc32", "sha256"])
def test_what_was_found_wrong_before_a_run_died_is_not_adopted(server: FaultServer, algorithm: str) -> None:
    want, counted = composite(algorithm, BODY, 100_000), []
    partial = broken_off(server, want, {250_000: "x"}, after=13)
    assert whole(
        pulled(server, want, {}, partial=partial, reporter=on_received(lambda path, size: counted.append(size)))
    )
    assert server.sent == lost(want, 250_000)
    assert min(counted) > 0
    assert counted[0] == len(BODY) - lost(want, 250_000)


@pytest.mark.parametrize("seed", range(60))
def test_whatever_is_spoilt_the_bytes_are_right_or_it_is_an_error(server: FaultServer, seed: int) -> None:
    """What is wrong in the first answer alone always comes right; what is wrong later may be wrong twice."""
    dice = random.Random(seed)
    body = BODY[: dice.choice([PART, 2 * PART + 1, len(BODY)])]
    want = composite(dice.choice(["crc32", "crc64nvme", "sha1", "sha256"]), body, dice.randrange(5_000, 3 * PART))
    is_mild = dice.random() < 0.5
    answers = ["x"] if is_mild else ["x", ".x", "xx", "..x", ".xx"]
    spoilt = {dice.randrange(len(body)): dice.choice(answers) for _ in range(dice.randrange(1, 9))}
    counted = []
    limits = replace(CUT, connections=dice.randrange(1, 7), ahead=dice.choice([PART, CUT.ahead]))
    count = on_received(lambda path, size: counted.append(size))
    result = pulled(server, want, spoilt, limits, Journalled(), body, count)
    if is_mild or isinstance(result, transfer.Done):
        assert whole(result, body)
        assert sum(counted) == len(body)
    else:
        assert type(result.error) is IntegrityError
    assert server.sent <= len(body) * (2 + sum(map(len, spoilt.values())))


def test_a_composite_digest_is_what_hashlib_makes_of_it() -> None:
    digests = [hashlib.sha256(BODY[at : at + 100_000]).digest() for at in range(0, len(BODY), 100_000)]
    want = composite("sha256", BODY, 100_000)
    assert want.value == hashlib.sha256(b"".join(digests)).hexdigest()
    assert want.part_values == tuple(digest.hex() for digest in digests)
