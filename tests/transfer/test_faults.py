"""What a bad network costs: each fault by a server that does it, and counts."""

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from servers.faults import FaultServer

from transfer.conftest import FAST, Scratch, content_of, job_for, on_received, pull_one
from truss_cache_tasks import transfer
from truss_cache_tasks.errors import (
    AccessDenied,
    CacheTaskError,
    IntegrityError,
    NotFound,
    SourceChanged,
    TransientError,
    WrongAnswer,
)
from truss_cache_tasks.events import Event, Received, Retrying
from truss_cache_tasks.model.listing import Digest, Location, RemoteFile

BODY = bytes(range(256)) * 4096  # 1 MiB
SMALL = replace(FAST, buffer=64 << 10)


def whole(result: Any, body: bytes = BODY) -> bool:
    assert isinstance(result, transfer.Done), result
    assert content_of(result.job) == body
    assert result.digest == result.job.file.digest
    return True


def failure(result: Any) -> CacheTaskError:
    assert isinstance(result, transfer.Failed), result
    return result.error


def test_a_healthy_file_is_one_request_without_a_range(server: FaultServer) -> None:
    assert whole(pull_one(job_for(server.add("/w", BODY), BODY, validator='"v1"')))
    assert server.ranges() == [None]
    assert server.asked[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("fault", ["408", "425", "429", "500", "502", "503", "504", "hang-up"])
def test_a_passing_refusal_is_asked_again(server: FaultServer, fault: str) -> None:
    assert whole(pull_one(job_for(server.add("/w", BODY, fault, fault), BODY)))
    assert len(server.asked) == 3
    assert server.sent == len(BODY)


@pytest.mark.parametrize("fault", ["cut", "reset", "no-length-cut"])
def test_a_broken_connection_costs_what_was_in_flight(server: FaultServer, fault: str) -> None:
    fault = {"no-length-cut": "cut:300000"}.get(fault, fault)
    job = job_for(server.add("/w", BODY, fault, fault), BODY, validator='"v1"')
    assert whole(pull_one(job, SMALL))
    first, *others = server.ranges()
    assert first is None
    assert all(str(asked).startswith("bytes=") for asked in others)
    if fault.startswith("cut"):  # a RST may overtake bytes that were sent
        assert server.sent == len(BODY)


def test_a_cut_is_resumed_by_the_etag_of_the_first_answer_where_the_location_has_none(server: FaultServer) -> None:
    assert whole(pull_one(job_for(server.add("/w", BODY, "cut:300000"), BODY), SMALL))
    assert server.ranges() == [None, "bytes=300000-"]


def test_without_validator_and_digest_a_cut_starts_over_as_nothing_could_tell_a_mixture(server: FaultServer) -> None:
    job = job_for(server.add("/w", BODY, "cut:300000", etag=None), BODY, digest=None)
    assert whole(pull_one(job, SMALL))
    assert server.ranges() == [None, None]


@pytest.mark.parametrize(
    ("fault", "limits"),
    [("stall:300000", replace(SMALL, stall_s=0.2)), ("silence", replace(SMALL, answer_s=0.2))],
)
def test_a_stall_is_left_and_asked_again(server: FaultServer, fault: str, limits: Any) -> None:
    assert whole(pull_one(job_for(server.add("/w", BODY, fault), BODY), replace(limits, attempts=100)))
    assert len(server.asked) >= 2  # a slow machine may leave a healthy answer too


def test_a_range_that_is_ignored_starts_the_file_over_within_that_answer(server: FaultServer) -> None:
    counted = []
    job = job_for(server.add("/w", BODY, "cut:300000", "ignore-range"), BODY, validator='"v1"')
    assert whole(pull_one(job, SMALL, reporter=on_received(lambda path, size: counted.append(size))))
    assert server.sent == 300000 + len(BODY)
    assert sum(counted) == len(BODY)
    assert min(counted) == -300000


def test_a_wrong_content_range_costs_the_file_once(server: FaultServer) -> None:
    job = job_for(server.add("/w", BODY, "cut:300000", "wrong-content-range"), BODY)
    assert whole(pull_one(job, SMALL))
    assert server.ranges() == [None, "bytes=300000-", None]


@pytest.mark.parametrize("fault", ["announce-short", "announce-long", "endless"])
def test_a_body_of_another_length_costs_the_file_once_and_is_final_twice(server: FaultServer, fault: str) -> None:
    assert whole(pull_one(job_for(server.add("/once", BODY, fault), BODY)))
    error = failure(pull_one(job_for(server.add("/twice", BODY, fault, fault), BODY)))
    assert isinstance(error, IntegrityError)
    assert len(server.asked) == 4


def test_an_endless_body_never_writes_beyond_the_listed_size(server: FaultServer) -> None:
    partial = Scratch()
    assert failure(pull_one(job_for(server.add("/w", BODY, "endless", "endless"), BODY, partial=partial)))
    assert len(partial.content) == len(BODY)


def test_bytes_behind_a_body_do_not_reach_the_next_file(server: FaultServer) -> None:
    jobs = [job_for(server.add(f"/{n}", BODY[n : n + 999], "long"), BODY[n : n + 999], path=f"{n}") for n in range(5)]
    for result in transfer.pull(jobs, limits=replace(FAST, files=1)):
        n = int(result.job.file.path)
        assert whole(result, BODY[n : n + 999])


def test_a_body_that_ends_with_its_connection_is_whole(server: FaultServer) -> None:
    assert whole(pull_one(job_for(server.add("/w", BODY, "no-length"), BODY)))


def test_a_flipped_bit_costs_the_file_once(server: FaultServer) -> None:
    counted = []
    job = job_for(server.add("/w", BODY, "flip"), BODY)
    assert whole(pull_one(job, reporter=on_received(lambda path, size: counted.append(size))))
    assert server.sent == 2 * len(BODY)
    assert sum(counted) == len(BODY)


def test_a_second_flipped_bit_is_final_and_says_what_came(server: FaultServer) -> None:
    error = failure(pull_one(job_for(server.add("/w", BODY, "flip", "flip"), BODY)))
    assert type(error) is IntegrityError
    got = hashlib.sha256(b"\1" + BODY[1:]).hexdigest()
    assert str(error) == f"w.bin: got sha256 {got}, expected sha256 {hashlib.sha256(BODY).hexdigest()}"
    assert len(server.asked) == 2


def test_a_digest_that_only_the_location_knows_is_compared_and_returned(server: FaultServer) -> None:
    url = server.add("/w", BODY, "flip", "flip")
    want = Digest("sha256", hashlib.sha256(BODY).hexdigest())
    assert isinstance(
        failure(pull_one(job_for(url, BODY, digest=None, locate=lambda: Location(url, digest=want)))), IntegrityError
    )
    done = pull_one(job_for(url, BODY, digest=None, locate=lambda: Location(url, digest=want)))
    assert done.digest == want


def test_without_any_digest_the_result_says_so(server: FaultServer) -> None:
    done = pull_one(job_for(server.add("/w", b"abc"), b"abc", digest=None))
    assert done.digest is None
    assert done.xxh3 == "06b05ab6733a618578af5f94892f3950"  # xxhsum -H2 of "abc"


def test_another_etag_costs_the_file_once_if_it_was_a_stray_answer(server: FaultServer) -> None:
    job = job_for(server.add("/w", BODY, "cut:300000", "etag-stray"), BODY, validator='"v1"')
    assert whole(pull_one(job, SMALL))
    assert server.ranges() == [None, "bytes=300000-", None]


@pytest.mark.parametrize("faults", [("etag-change",), ("cut:300000", "etag-change")])
def test_an_object_that_was_replaced_is_told_as_such(server: FaultServer, faults: Any) -> None:
    error = failure(pull_one(job_for(server.add("/w", BODY, *faults), BODY, validator='"v1"'), SMALL))
    assert type(error) is SourceChanged
    assert '"v2"' in str(error)


def test_an_answer_without_its_validator_is_not_believed_where_nothing_else_tells_the_version(
    server: FaultServer,
) -> None:
    url = server.add("/w", BODY, etag=None)
    error = failure(pull_one(job_for(url, BODY, digest=None, validator='"v1"')))
    assert type(error) is WrongAnswer
    assert 'answers without ETag, expected "v1"' in str(error)
    assert len(server.asked) == 2
    told = Digest("sha256", hashlib.sha256(BODY).hexdigest())  # by an answer that may be of any version
    location = Location(url, validator='"v1"', digest_from_headers=lambda headers: told)
    assert type(failure(pull_one(job_for(url, BODY, digest=None, locate=lambda: location)))) is WrongAnswer


def test_an_answer_without_its_validator_is_taken_where_a_digest_is_known(server: FaultServer) -> None:
    job = job_for(server.add("/w", BODY, "cut:300000", etag=None), BODY, validator='"v1"')
    assert whole(pull_one(job, SMALL))
    assert server.ranges() == [None, "bytes=300000-"]


def generation(url: str, said: str, **more: Any) -> Location:
    return Location(url, validator=said, validator_header="X-Goog-Generation", pins_version=True, **more)


def test_an_answer_without_its_validator_is_taken_where_the_url_names_the_version(server: FaultServer) -> None:
    url = server.add("/w", BODY, "cut:300000") + "?generation=7"
    assert whole(pull_one(job_for(url, BODY, digest=None, locate=lambda: generation(url, "7")), SMALL))
    assert server.ranges() == [None, "bytes=300000-"]


def test_a_url_that_names_the_version_makes_a_file_come_in_parts_though_no_answer_names_it(server: FaultServer) -> None:
    url = server.add("/w", BODY, "cut:300000", etag=None)
    job = job_for(url, BODY, digest=None, locate=lambda: Location(url, pins_version=True))
    assert whole(pull_one(job, replace(SMALL, part_min=256 << 10)))
    assert len(server.asked) > 2
    assert server.sent == len(BODY)


@pytest.mark.parametrize("digest", ["sha256", None])
def test_another_version_is_one_whatever_else_tells_it(server: FaultServer, digest: str | None) -> None:
    url = server.add("/w", BODY)
    server.files["/w"].headers["X-Goog-Generation"] = "8"
    error = failure(pull_one(job_for(url, BODY, digest=digest, locate=lambda: generation(url, "7"))))
    assert type(error) is SourceChanged
    assert "answers with X-Goog-Generation 8, expected 7" in str(error)
    assert whole(pull_one(job_for(url, BODY, digest=digest, locate=lambda: generation(url, "8"))))


@pytest.mark.parametrize(
    ("status", "error"),
    [("401", AccessDenied), ("403", AccessDenied), ("404", NotFound), ("412", SourceChanged), ("400", AccessDenied)],
)
def test_a_refusal_that_waiting_cannot_help_is_final_at_once(server: FaultServer, status: str, error: Any) -> None:
    url = server.add("/w", BODY, *[status] * 9)
    assert type(failure(pull_one(job_for(url, BODY)))) is error
    assert len(server.asked) == (2 if status == "401" else 1)


def test_a_404_of_a_pinned_version_means_that_it_changed(server: FaultServer) -> None:
    url = server.add("/w", BODY, "404")
    assert type(failure(pull_one(job_for(url, BODY, validator='"v1"')))) is SourceChanged


@pytest.mark.parametrize("faults", [["416"], ["cut:300000", "416"]])
def test_a_416_costs_one_more_request_and_no_byte(server: FaultServer, faults: list[str]) -> None:
    counted = []
    job = job_for(server.add("/w", BODY, *faults), BODY, explain=lambda *_: AccessDenied("refused"))
    assert whole(pull_one(job, SMALL, reporter=on_received(lambda path, size: counted.append(size))))
    assert sum(counted) == len(BODY)
    assert server.sent == len(BODY)
    assert len(server.asked) == len(faults) + 1


def test_a_416_in_one_part_leaves_the_others_as_they_are(server: FaultServer) -> None:
    url = server.add("/w", BODY, "", "cut:1000", "416")
    job = job_for(url, BODY, validator='"v1"')
    assert whole(pull_one(job, replace(SMALL, connections=1, part_min=256 << 10, part_max=256 << 10)))
    assert server.sent == len(BODY)


def test_a_416_in_one_part_lets_another_go_on_that_is_under_way(server: FaultServer) -> None:
    url = server.add("/w", BODY, "pause:1000", "416")

    def report(event: Event) -> None:
        if isinstance(event, Received) and any(asked.status == 416 for asked in server.asked):
            server.go.set()  # other bytes come after the 416

    job = job_for(url, BODY, validator='"v1"')
    assert whole(pull_one(job, replace(SMALL, part_min=256 << 10, part_max=256 << 10), report))
    assert server.sent == len(BODY)


def test_after_a_416_of_what_a_redirect_led_to_the_redirect_is_asked_again(server: FaultServer) -> None:
    server.add("/one", BODY, "", "416", "416")
    server.add("/other", BODY)
    url = server.add("/w", BODY, "redirect:/one", *["redirect:/other"] * 9)
    limits = replace(SMALL, connections=1, part_min=512 << 10, part_max=512 << 10)
    assert whole(pull_one(job_for(url, BODY, validator='"v1"'), limits))
    assert [asked.path for asked in server.asked] == ["/w", "/one", "/one", "/w", "/other"]


@pytest.mark.parametrize("faults", [["416", "416"], ["cut:300000", "416", "cut:300000", "416"]])
def test_a_second_416_means_that_the_file_changed(server: FaultServer, faults: list[str]) -> None:
    job = job_for(server.add("/w", BODY, *faults), BODY, explain=lambda *_: AccessDenied("refused"))
    error = failure(pull_one(job, SMALL))
    assert type(error) is SourceChanged
    assert f"127.0.0.1 answers 416: it has not all of the {len(BODY)} bytes that were listed" in str(error)
    assert len(server.asked) == len(faults)


def test_a_proof_of_access_asks_once_more_after_a_416(server: FaultServer) -> None:
    job = job_for(server.add("/w", BODY, "416"), BODY)
    transfer.probe(job.file, job.locate, limits=FAST)
    job = job_for(server.add("/w", BODY, "416", "416"), BODY)
    with pytest.raises(SourceChanged):
        transfer.probe(job.file, job.locate, limits=FAST)


def test_a_range_that_is_answered_by_200_with_its_content_range_is_the_range(server: FaultServer) -> None:
    url = server.add("/w", BODY, *["range-200"] * 9)
    job = job_for(url, BODY, validator='"v1"')
    assert whole(pull_one(job, replace(SMALL, part_min=256 << 10, part_max=256 << 10)))
    assert server.sent == len(BODY)
    assert {asked.status for asked in server.asked} == {200}
    assert len(server.asked) == 4


def test_a_200_with_the_content_range_of_other_bytes_is_the_whole_file_or_wrong(server: FaultServer) -> None:
    other = f"bytes 5-9/{len(BODY)}"
    url = server.add("/whole", BODY, "cut:300000", "ignore-range")
    server.files["/whole"].headers["Content-Range"] = other
    assert whole(pull_one(job_for(url, BODY), SMALL))
    url = server.add("/part", BODY, *["cut:300000", "range-200"] * 2)
    server.files["/part"].headers["Content-Range"] = other
    assert type(failure(pull_one(job_for(url, BODY), SMALL))) is IntegrityError


def test_a_length_of_thousands_of_digits_is_a_wrong_answer(server: FaultServer) -> None:
    digits = "9" * 5000  # more than Python makes a number of
    url = server.add("/length", BODY, *["no-length"] * 9)
    server.files["/length"].headers["Content-Length"] = digits
    assert isinstance(failure(pull_one(job_for(url, BODY), FAST)), CacheTaskError)
    url = server.add("/range", BODY, *["cut:300000", "ignore-range"] * 2)
    server.files["/range"].headers["Content-Range"] = f"bytes {digits}-{digits}/{digits}"
    assert whole(pull_one(job_for(url, BODY), SMALL))


@pytest.mark.parametrize("fault", ["503", "cut:0", "reset:0", "hang-up"])
def test_the_budget_of_attempts_ends_it(server: FaultServer, fault: str) -> None:
    error = failure(pull_one(job_for(server.add("/w", BODY, *[fault] * 9), BODY), replace(FAST, attempts=4)))
    assert type(error) is TransientError
    assert len(server.asked) == 4
    assert "4 times" in str(error)


def test_cuts_that_bring_little_are_not_endured_for_ever(server: FaultServer) -> None:
    url = server.add("/w", BODY, *["cut:1000"] * 50)
    assert type(failure(pull_one(job_for(url, BODY), FAST))) is TransientError
    assert len(server.asked) == FAST.attempts


def test_progress_begins_a_new_row_of_attempts(server: FaultServer) -> None:
    url = server.add("/w", BODY, *["cut:100000"] * 9)
    assert whole(pull_one(job_for(url, BODY), replace(SMALL, attempts=2, progress=100_000)))
    assert server.sent == len(BODY)


def test_the_budget_of_seconds_ends_it_without_waiting(server: FaultServer) -> None:
    url = server.add("/w", BODY, "503:3600")
    limits = replace(FAST, retry_after_cap_s=3600, total_s=60)
    assert type(failure(pull_one(job_for(url, BODY), limits))) is TransientError


class Told(Exception):
    """Ends a run at its first wait."""


@pytest.mark.parametrize(("fault", "shortest", "longest"), [("429:7", 7, 7), ("503:date", 0, 1), ("429:3600", 60, 60)])
def test_retry_after_is_obeyed_up_to_its_cap(server: FaultServer, fault: str, shortest: int, longest: int) -> None:
    def report(event: Event) -> None:
        if isinstance(event, Retrying):
            raise Told(event)

    with pytest.raises(Told) as told:
        pull_one(job_for(server.add("/w", BODY, fault), BODY), reporter=report)
    (retrying,) = told.value.args
    assert shortest <= retrying.delay_s <= longest
    assert (retrying.path, retrying.attempt) == ("w.bin", 1)
    assert retrying.cause.startswith(f"w.bin: 127.0.0.1 answers {fault[:3]}")


def test_a_wait_that_locate_asks_for_is_obeyed() -> None:
    def locate() -> Location:
        error = TransientError("the token server answered 429")
        error.retry_after_s = 7
        raise error

    def report(event: Event) -> None:
        if isinstance(event, Retrying):
            raise Told(event)

    with pytest.raises(Told) as told:
        pull_one(job_for("http://127.0.0.1:9/w", BODY, locate=locate), reporter=report)
    assert told.value.args[0].delay_s == 7


def test_a_refused_connection_and_an_unknown_host_are_unavailable(server: FaultServer) -> None:
    url = server.add("/w", BODY)
    server.close()
    limits = replace(FAST, attempts=2)
    error = failure(pull_one(job_for(url + "?sig=hush", BODY), limits))
    assert type(error) is TransientError
    assert str(error) == "w.bin: 127.0.0.1: connection refused (tried 2 times)"
    error = failure(pull_one(job_for("http://no-such-host.invalid/w", BODY), limits))
    assert type(error) is TransientError
    assert "no-such-host.invalid: the name cannot be resolved" in str(error)


def test_a_token_that_expired_is_asked_for_once_more(server: FaultServer) -> None:
    url = server.add("/w", BODY, needs="Bearer new")
    tokens = iter(["Bearer old", "Bearer new"])
    assert whole(pull_one(job_for(url, BODY, locate=lambda: Location(url, {"Authorization": next(tokens)}))))
    assert [asked.status for asked in server.asked] == [401, 200]


def test_a_location_that_expired_is_asked_for_before_it_is_used_again(server: FaultServer) -> None:
    url = server.add("/w", BODY, "503", "503")
    asked = itertools.count()

    def locate() -> Location:
        return Location(url, expires=0.0 if next(asked) == 0 else None)

    assert whole(pull_one(job_for(url, BODY, locate=locate)))
    assert next(asked) == 2


def test_a_locate_that_is_unavailable_is_retried_and_another_error_is_final(server: FaultServer) -> None:
    url = server.add("/w", BODY)
    answers = iter([TransientError("later"), TransientError("later"), None])

    def locate() -> Location:
        if (error := next(answers)) is not None:
            raise error
        return Location(url)

    assert whole(pull_one(job_for(url, BODY, locate=locate)))

    def denied() -> None:
        raise AccessDenied("no s3:GetObject")

    assert str(failure(pull_one(job_for(url, BODY, locate=denied)))) == "no s3:GetObject"
    assert len(server.asked) == 1


def test_the_source_explains_a_refusal_from_its_headers_and_body(server: FaultServer) -> None:
    def explain(file: RemoteFile, status: int, headers: Mapping[str, str], body: bytes) -> CacheTaskError:
        return AccessDenied(f"{file.path} {status} {headers['x-error-code']} {body.decode()}")

    error = failure(pull_one(job_for(server.add("/w", BODY, "403"), BODY, explain=explain)))
    assert str(error) == 'w.bin 403 Said {"said": "no"}'


def test_the_source_may_call_a_refusal_passing(server: FaultServer) -> None:
    job = job_for(server.add("/w", BODY, "403"), BODY, explain=lambda *_: TransientError("slow down"))
    assert whole(pull_one(job))


def test_no_secret_of_the_request_is_in_any_error(server: FaultServer) -> None:
    headers = {"Authorization": "Bearer hush", "Cookie": "hush"}
    for fault in ("403", "404", "503", "cut:0", "reset:0", "announce-long", "etag-stray", "redirect-loop", "hang-up"):
        url = server.add("/w", BODY, *[fault] * 9) + "?X-Signature=hush"
        error = failure(pull_one(job_for(url, BODY, headers=headers, validator='"v1"')))
        seen = f"{error} {error.hint} {error!r} {error.__cause__} {error.__cause__!r}"
        assert "hush" not in seen, fault


def test_a_former_longer_attempt_in_the_partial_leaves_nothing_behind(server: FaultServer) -> None:
    partial = Scratch(b"x" * (len(BODY) + 5000))
    assert whole(pull_one(job_for(server.add("/w", BODY), BODY, partial=partial)))


def test_an_empty_file_is_a_file(server: FaultServer) -> None:
    assert whole(pull_one(job_for(server.add("/w", b""), b"", partial=Scratch(b"old"))), b"")


def test_an_unsized_cut_counts_every_byte_once(server: FaultServer) -> None:
    counted = []
    pull_one(
        job_for(server.add("/w", BODY, "cut:300000"), BODY), SMALL, on_received(lambda path, size: counted.append(size))
    )
    assert sum(counted) == len(BODY)
    assert all(size > 0 for size in counted)


def test_a_file_is_described_by_the_one_that_was_listed() -> None:
    file = RemoteFile("w.bin", 3, "v1", "w.bin")
    result = pull_one(transfer.Job(file, lambda: Location("file:///nowhere/at/all"), Scratch()))
    assert failure(result).args[0].startswith("w.bin: ")


def test_a_body_in_chunks_is_as_good(server: FaultServer) -> None:
    assert whole(pull_one(job_for(server.add("/w", BODY, "chunked", "chunked"), BODY)))
    assert whole(pull_one(job_for(server.add("/w", BODY), BODY)))
    assert server.connections == 1


def test_a_stall_between_chunks_costs_the_connection(server: FaultServer) -> None:
    """http.client takes EAGAIN for an end, and gave such a connection back as if it were free."""
    url = server.add("/w", BODY, "chunked-stall:100", "chunked-stall:50")
    assert whole(pull_one(job_for(url, BODY), replace(FAST, stall_s=0.2)))
    assert server.connections == len(server.asked) == 3


def test_a_body_that_is_whole_is_not_asked_for_again_for_its_missing_end(server: FaultServer) -> None:
    url = server.add("/w", BODY, f"chunked-stall:{len(BODY)}")
    assert whole(pull_one(job_for(url, BODY, validator='"v1"'), replace(FAST, stall_s=0.2)))
    assert len(server.asked) == 1
