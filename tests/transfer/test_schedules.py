"""Random schedules of faults, seeded: every run ends whole and verified, or with the right class of error."""

import random
from dataclasses import replace
from typing import Any

import pytest
from servers.faults import FaultServer

from transfer.conftest import FAST, content_of, job_for, on_received, sha256
from transfer.test_pieces import composite
from truss_cache_tasks import transfer
from truss_cache_tasks.errors import CacheTaskError, IntegrityError, SourceChanged, TransientError

PART = 4 << 10
LIMITS = replace(
    FAST,
    part_min=PART,
    part_max=PART,
    buffer=1 << 10,
    connections=4,
    attempts=40,  # of which a schedule has fewer faults: what may be tried again always comes through
    stall_s=0.3,
    answer_s=0.3,
    floor_s=0.3,
    retry_after_cap_s=0.01,
)
PASSING = ["408", "425", "429", "429:9", "500", "502", "503", "503:date", "504", "hang-up", "cut", "reset", "cut:0"]
PASSING += ["cut:700", "reset:1500", "no-length"]
ONCE = ["flip", "wrong-content-range", "etag-stray", "announce-long", "announce-short", "endless", "long"]
SLOW = ["stall:500", "silence"]


def schedule(dice: random.Random) -> tuple[list[str], Any]:
    """Faults of one file, and the class of error that they may end in (None: it must come whole)."""
    kind = dice.choice(["passing", "passing", "ignored", "once", "changed", "many"])
    faults = dice.choices(["", *PASSING], k=dice.randrange(12))
    if dice.random() < 0.05:
        faults.append(dice.choice(SLOW))
    may_end_in: type[CacheTaskError] | tuple[type[CacheTaskError], ...] | None = None
    match kind:
        case "ignored":
            faults += ["ignore-range"] * dice.randrange(1, 30)
        case "once":
            faults.append(dice.choice(ONCE))
        case "changed":
            faults.append("etag-change")
            may_end_in = SourceChanged
        case "many":
            faults += dice.choices(ONCE, k=3)
            may_end_in = (IntegrityError, SourceChanged)
    dice.shuffle(faults)
    return faults, may_end_in


@pytest.mark.parametrize("seed", range(200))
def test_a_run_ends_whole_or_with_the_right_error(server: FaultServer, seed: int) -> None:
    dice = random.Random(seed)
    jobs, may_end_in, counted = [], {}, {}
    for n in range(dice.randrange(1, 4)):
        body = dice.randbytes(dice.choice([0, 1, 900, PART, PART + 1, 3 * PART, 7 * PART + 5]))
        faults, may_end_in[str(n)] = schedule(dice)
        if not body:
            faults = [fault for fault in faults if fault != "flip"]
        want = dice.choice(
            [sha256(body), composite(dice.choice(["crc32", "sha1"]), body, dice.randrange(700, 3 * PART))]
        )
        url = server.add(f"/{n}", body, *faults)
        jobs.append(job_for(url, body, path=str(n), validator='"v1"', digest=want))
        counted[str(n)] = (0, len(body), body)

    @on_received
    def report(path: str, size: int) -> None:
        done, whole, body = counted[path]
        counted[path] = (done + size, whole, body)

    for end in transfer.pull(jobs, report, limits=LIMITS):
        done, whole, body = counted[end.job.file.path]
        if isinstance(end, transfer.Done):
            assert content_of(end.job) == body
            assert end.digest == end.job.file.digest
        else:
            allowed = may_end_in[end.job.file.path]
            assert allowed is not None, end
            assert isinstance(end.error, allowed), end
            assert not isinstance(end.error, TransientError)
    for path, (done, whole, _) in counted.items():
        assert done == whole or may_end_in[path] is not None
