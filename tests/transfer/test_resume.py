"""A journal beside the temporary: what a dead run left is checked and kept, the rest is fetched."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from servers.faults import Asked, FaultServer

from transfer.conftest import FAST, Scratch, content_of, job_for, on_received, on_warned, pull_one, sha256
from truss_cache_tasks import transfer
from truss_cache_tasks.errors import TransientError
from truss_cache_tasks.events import Event, Received, Warned
from truss_cache_tasks.model.keys import ContentId
from truss_cache_tasks.model.listing import RemoteFile
from truss_cache_tasks.model.plan import PlannedFile
from truss_cache_tasks.store.blobs.partials import open_partial, sweep_partials
from truss_cache_tasks.store.layouts.flat_layout import flat_root

PART = 64 << 10
BODY = random.Random(6).randbytes(12 * PART + 99)  # 13 parts
CUT = replace(FAST, part_min=PART, part_max=PART, buffer=16 << 10, connections=3)
GIVES_UP = replace(CUT, attempts=2)


class Journalled(Scratch):
    def __init__(self, content: bytes = b"") -> None:
        super().__init__(content)
        descriptor, self._name = tempfile.mkstemp()
        os.close(descriptor)
        self.journal: int = os.open(self._name, os.O_RDWR | os.O_APPEND)
        os.unlink(self._name)

    def __del__(self) -> None:
        os.close(self.journal)
        super().__del__()

    @property
    def lines(self) -> list[Any]:
        return os.pread(self.journal, 1 << 20, 0).decode().splitlines()


def whole(result: Any, body: bytes = BODY) -> bool:
    assert isinstance(result, transfer.Done), result
    assert content_of(result.job) == body
    return True


def broken_off(server: FaultServer, **named: Any) -> tuple[Journalled, int]:
    """A partial that a failed pull left, and how many parts of it count. It asked for another path than reruns do."""
    partial = Journalled()
    url = server.add("/first", BODY, *[""] * 5, *["503"] * 99)
    error = pull_one(job_for(url, BODY, partial=partial, **named), GIVES_UP).error
    assert type(error) is TransientError
    assert 3 <= len(partial.lines) <= 5
    transfer.reset()
    return partial, len(partial.lines)


def asked_again(server: FaultServer) -> list[Asked]:
    """Return the requests of reruns; what was cut off may still be on its way to the server."""
    return [asked for asked in server.asked if asked.path == "/w"]


@pytest.mark.parametrize("named", [{}, {"validator": '"v1"'}, {"validator": '"v1"', "digest": None}])
def test_only_what_is_missing_is_fetched_again(server: FaultServer, named: dict[str, Any]) -> None:
    partial, kept = broken_off(server, **named)
    counted = []
    job = job_for(server.add("/w", BODY), BODY, partial=partial, **named)
    assert whole(pull_one(job, CUT, on_received(lambda path, size: counted.append(size))))
    assert len(asked_again(server)) == 13 - kept
    assert sum(asked.sent for asked in asked_again(server)) == len(BODY) - kept * PART
    assert sum(counted) == len(BODY)


def test_an_etag_that_a_server_sends_bare_or_weak_resumes_too(server: FaultServer) -> None:
    for etag in ("v1", 'W/"v1"'):
        partial = Journalled()
        url = server.add("/w", BODY, *[""] * 5, *["503"] * 99, etag=etag)
        pull_one(job_for(url, BODY, partial=partial, validator='"v1"'), GIVES_UP)
        kept = len(partial.lines)
        assert kept
        transfer.reset()
        job = job_for(server.add("/w", BODY, etag=etag), BODY, partial=partial, validator='"v1"')
        told: list[Event] = []
        assert whole(pull_one(job, CUT, told.append))
        resumed = [event.size for event in told if isinstance(event, Received) and event.resumed]
        assert len(resumed) == 1, "what is kept is told at once"
        assert resumed[0] >= kept * PART
        assert not [event for event in told if isinstance(event, Warned)]


def test_a_part_that_rotted_meanwhile_is_fetched_again(server: FaultServer) -> None:
    partial, kept = broken_off(server)
    start = int(partial.lines[1].split()[0])
    os.pwrite(partial.descriptor, b"rot", start + 7)
    assert whole(pull_one(job_for(server.add("/w", BODY), BODY, partial=partial), CUT))
    assert len(asked_again(server)) == 13 - kept + 1


def test_what_is_there_whole_costs_no_request(server: FaultServer) -> None:
    partial = Journalled()
    assert whole(pull_one(job_for(server.add("/w", BODY), BODY, partial=partial), CUT))
    server.asked.clear()
    assert whole(pull_one(job_for(server.add("/w", BODY), BODY, partial=partial), CUT))
    assert server.asked == []


def test_a_torn_or_foreign_journal_is_no_harm(server: FaultServer) -> None:
    partial, _ = broken_off(server)
    os.write(partial.journal, b"7 8 9\nx\n0 65536 " + b"0" * 32 + b' "v1"\n65536 1310')
    assert whole(pull_one(job_for(server.add("/w", BODY), BODY, partial=partial), CUT))


def test_another_version_drops_it_all_and_says_so(server: FaultServer) -> None:
    partial, _ = broken_off(server, validator='"v1"')
    said: list[str] = []
    other = BODY[::-1]
    job = job_for(server.add("/w", other, etag='"v2"'), other, partial=partial, validator='"v2"')
    assert whole(pull_one(job, CUT, on_warned(said.append)), other)
    assert said == ['w.bin: what an earlier run left is of "v1", not of "v2": dropped']
    assert len(asked_again(server)) == 13


def test_another_version_that_only_the_answer_tells_of_costs_the_file_once(server: FaultServer) -> None:
    partial, _ = broken_off(server)
    other = BODY[::-1]
    assert whole(pull_one(job_for(server.add("/w", other, etag='"v2"'), other, partial=partial), CUT), other)
    assert sum(asked.sent for asked in asked_again(server)) <= len(other) + 3 * PART


def test_a_second_wrong_digest_leaves_a_journal_of_nothing_old(server: FaultServer) -> None:
    partial = Journalled()
    job = job_for(server.add("/w", BODY, "flip"), BODY, partial=partial)
    assert whole(pull_one(job, CUT))
    assert len(partial.lines) == 13


def planned(body: bytes) -> PlannedFile:
    return PlannedFile(
        RemoteFile("w.bin", len(body), "v1", "w.bin", sha256(body)), "w.bin", ContentId("s3://b/w@v1"), "s3://b/w"
    )


def test_the_store_hands_over_what_a_dead_run_left_and_sweeps_the_rest(tmp_path: Path) -> None:
    place = flat_root(tmp_path)
    first = open_partial(place, planned(BODY))
    os.write(first.descriptor, b"abc")
    os.write(first.journal, b"line\n")
    first.leave()
    (tmp_path / first.path).with_suffix(".0badcafe").write_bytes(b"x")
    sweep_partials(place, older_than_s=3600)
    second = open_partial(place, planned(BODY))
    assert os.pread(second.descriptor, 3, 0) == b"abc"
    assert os.pread(second.journal, 9, 0) == b"line\n"
    assert not (tmp_path / first.path).exists()
    third = open_partial(place, planned(BODY))  # as if locks did not work: nobody shares a living one's bytes
    assert os.pread(third.descriptor, 3, 0) in (b"", bytes(3)), "its space is allocated"
    second.close()
    third.leave()
    assert list((tmp_path / ".truss_cache/partials").iterdir()) == []


CHILD = """
    import sys
    sys.path.insert(0, {tests!r})
    from pathlib import Path
    from transfer.test_resume import BODY, CUT, planned
    from truss_cache_tasks import transfer
    from truss_cache_tasks.model.listing import Location
    from truss_cache_tasks.store.layouts.flat_layout import flat_root
    from truss_cache_tasks.store.blobs.partials import open_partial

    wanted = planned(BODY)
    partial = open_partial(flat_root(Path(sys.argv[1])), wanted)
    job = transfer.Job(wanted.file, lambda: Location(sys.argv[2]), partial)
    print("begun", flush=True)
    for end in transfer.pull([job], lambda *_: print(".", flush=True), limits=CUT):
        assert isinstance(end, transfer.Done), end
        import os
        assert os.pread(partial.descriptor, len(BODY) + 1, 0) == BODY
        print("done", flush=True)
"""


def test_a_kill_at_any_point_costs_at_most_the_parts_in_flight(server: FaultServer, tmp_path: Path) -> None:
    url = server.add("/w", BODY)
    code = textwrap.dedent(CHILD).format(tests=os.path.dirname(os.path.dirname(__file__)))
    dice, kills = random.Random(7), 0
    for _ in range(40):
        with subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), url], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            lines = iter(child.stdout.readline, "")
            left = dice.randrange(2, 25)
            said = [line for line, _ in zip(lines, range(left), strict=False)]
            if "done\n" in said or "done\n" in list(lines if len(said) < left else ()):
                break
            child.send_signal(signal.SIGKILL)
            kills += 1
    else:
        pytest.fail("it never came through")
    assert kills > 0
    # In flight: the part of each connection, and what lay in the sockets' buffers behind it.
    assert server.sent <= len(BODY) + kills * CUT.connections * PART
