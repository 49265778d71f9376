"""Files that are cut into parts: side by side, out of order, started over, and what each fault costs then."""

import random
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from servers.faults import FaultServer

from transfer.conftest import FAST, Scratch, content_of, job_for, on_received, pull_one
from truss_cache_tasks import transfer
from truss_cache_tasks.errors import AccessDenied, IntegrityError, SourceChanged
from truss_cache_tasks.model.hashing import Span
from truss_cache_tasks.model.listing import Digest, Location

PART = 64 << 10
BODY = random.Random(5).randbytes(10 * PART + 777)  # 11 parts
CUT = replace(FAST, part_min=PART, part_max=PART, buffer=16 << 10, connections=4)


def whole(result: Any, body: bytes = BODY) -> bool:
    assert isinstance(result, transfer.Done), result
    assert content_of(result.job) == body
    assert result.xxh3 == xxh3(body)
    return True


def xxh3(body: bytes) -> str:
    span = Span(None, block=PART)
    span.update(body)
    return span.xxh3()


def test_a_large_file_is_asked_for_in_parts_each_once(server: FaultServer) -> None:
    counted = []

    @on_received
    def report(path: str, size: int) -> None:
        counted.append(size)
        if len(server.asked) > 5:
            server.go.set()

    assert whole(pull_one(job_for(server.add("/w", BODY, "", "pause:100"), BODY), CUT, report))
    assert sorted(map(str, server.ranges())) == sorted(
        f"bytes={n * PART}-{(n + 1) * PART - 1 if n < 10 else ''}" for n in range(11)
    )
    assert server.sent == sum(counted) == len(BODY)
    assert 1 < server.most_in_flight <= 4
    assert server.connections <= 4


@pytest.mark.parametrize("algorithm", ["sha256", "git-sha1", "md5", "crc32", "crc32c", "crc64nvme", None])
def test_every_digest_is_right_whatever_order_the_parts_come_in(server: FaultServer, algorithm: str | None) -> None:
    from truss_cache_tasks.model.hashing import Hasher

    want = None
    if algorithm is not None:
        hasher = Hasher(len(BODY), Digest(algorithm, ""))
        hasher.update(BODY)
        want = hasher.digest()
    paused = server.add("/w", BODY, "", "pause:100")  # the second request is the second part, most often
    job = job_for(paused, BODY, digest=want, validator='"v1"')
    threading.Timer(0.1, server.go.set).start()
    result = pull_one(job, CUT)
    assert whole(result)
    assert result.digest == want


def test_composite_digests_are_judged_over_parts_of_another_length(server: FaultServer) -> None:
    from truss_cache_tasks.model.hashing import Hasher

    sizes = (PART // 2, PART * 3 + 5, len(BODY) - PART // 2 - PART * 3 - 5)
    hasher = Hasher(len(BODY), Digest("crc32c", "", sizes))
    hasher.update(BODY)
    assert whole(pull_one(job_for(server.add("/w", BODY), BODY, digest=hasher.digest()), CUT))


@pytest.mark.parametrize("fault", ["503", "hang-up", "cut:5000", "reset:5000", "408", "429"])
def test_a_fault_of_a_connection_costs_at_most_the_part(server: FaultServer, fault: str) -> None:
    assert whole(pull_one(job_for(server.add("/w", BODY, "", fault, "", fault), BODY), CUT))
    assert server.sent <= len(BODY) + 2 * PART


def test_ranges_that_are_ignored_from_the_start_cost_nothing(server: FaultServer) -> None:
    assert whole(pull_one(job_for(server.add("/w", BODY, "ignore-range"), BODY), CUT))
    assert len(server.asked) == 1


def test_a_range_that_is_ignored_mid_file_costs_the_file_once(server: FaultServer) -> None:
    counted = []
    faults = ["", "", "", *["ignore-range"] * 8]
    job = job_for(server.add("/w", BODY, *faults), BODY)
    assert whole(pull_one(job, CUT, on_received(lambda path, size: counted.append(size))))
    assert sum(counted) == len(BODY)
    assert sum(size for size in counted if size > 0) <= 2 * len(BODY) + 4 * PART


def test_corrupted_bytes_cost_the_file_once_and_are_final_twice(server: FaultServer) -> None:
    counted = []
    job = job_for(server.add("/w", BODY, "", "flip"), BODY)
    assert whole(pull_one(job, CUT, on_received(lambda path, size: counted.append(size))))
    assert server.sent == 2 * len(BODY)
    assert sum(counted) == len(BODY)
    error = pull_one(job_for(server.add("/w", BODY, *["flip"] * 22), BODY), CUT).error
    assert type(error) is IntegrityError


def test_an_object_that_was_replaced_mid_file_is_told_as_such(server: FaultServer) -> None:
    job = job_for(server.add("/w", BODY, "", "", "", "etag-change"), BODY, validator='"v1"')
    assert type(pull_one(job, CUT).error) is SourceChanged


def test_a_stray_etag_costs_the_file_once(server: FaultServer) -> None:
    assert whole(pull_one(job_for(server.add("/w", BODY, "", "", "etag-stray"), BODY), CUT))
    assert server.sent <= 2 * len(BODY)


def test_without_digest_and_promised_validator_a_file_is_not_cut(server: FaultServer) -> None:
    assert whole(pull_one(job_for(server.add("/w", BODY), BODY, digest=None), CUT))
    assert server.ranges() == [None]


@pytest.mark.parametrize("refusal", ["401", "403"])
def test_a_location_that_goes_stale_mid_file_is_asked_for_once_for_all_parts(server: FaultServer, refusal: str) -> None:
    old = server.add("/old", BODY, "", "", *[refusal] * 99)
    new = server.add("/new", BODY)
    asked: list[None] = []

    def locate() -> Location:
        asked.append(None)
        return Location(old if len(asked) == 1 else new, expires=4e9)

    assert whole(pull_one(job_for(old, BODY, locate=locate), CUT))
    assert len(asked) == 2
    assert server.sent <= len(BODY)


def test_a_refused_part_fails_the_file_and_ends_its_other_parts(server: FaultServer) -> None:
    error = pull_one(job_for(server.add("/w", BODY, "", "", *["404"] * 99), BODY, validator='"v1"'), CUT).error
    assert type(error) is SourceChanged
    job = job_for(server.add("/w", BODY, "", "", *["403"] * 99), BODY)
    assert type(pull_one(job, CUT).error) is AccessDenied


def test_files_share_the_connections(server: FaultServer) -> None:
    jobs = [job_for(server.add(f"/{n}", BODY[n:]), BODY[n:], path=str(n)) for n in range(5)]
    results = list(transfer.pull(jobs, limits=CUT))
    assert all(whole(result, BODY[int(result.job.file.path) :]) for result in results)
    assert server.most_in_flight <= 4
    assert server.sent == sum(len(content_of(job)) for job in jobs)


def test_closing_ends_all_parts(server: FaultServer) -> None:
    quick = job_for(server.add("/quick", b"x"), b"x", path="quick")
    slow = job_for(server.add("/slow", BODY, "", *["stall:9000"] * 99), BODY, path="slow")
    limits = replace(CUT, stall_s=60, answer_s=60, stop_s=60)
    arrived = threading.Semaphore(0)
    pull = transfer.pull([slow, quick], on_received(lambda path, size: arrived.release()), limits=limits)
    next(pull)
    for _ in range(6):
        arrived.acquire()
    pull.close()
    content = content_of(slow)
    assert content != BODY
    assert content_of(slow) == content


def test_a_trickle_is_replaced(server: FaultServer) -> None:
    url = server.add("/w", BODY, "", "trickle:1000")
    assert whole(pull_one(job_for(url, BODY), replace(CUT, floor=100_000, floor_s=0.2)))
    assert server.sent <= len(BODY) + PART


def test_a_local_file_is_cut_too(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(BODY)
    assert whole(pull_one(job_for((tmp_path / "w").as_uri(), BODY), CUT))


def test_what_was_in_the_partial_before_does_not_matter(server: FaultServer) -> None:
    assert whole(pull_one(job_for(server.add("/w", BODY), BODY, partial=Scratch(b"x" * (len(BODY) + 99))), CUT))


def test_one_resolve_serves_all_parts_and_is_asked_again_when_its_target_goes_stale(server: FaultServer) -> None:
    target = server.add("/cdn", BODY, *[""] * 4, "403")
    url = server.add("/resolve", BODY, *[f"redirect:{target}"] * 99)
    assert whole(pull_one(job_for(url, BODY, headers={"Authorization": "Bearer t"}), replace(CUT, connections=1)))
    asked = [asked.path for asked in server.asked]
    assert asked.count("/resolve") == 2
    assert asked.count("/cdn") == 12
