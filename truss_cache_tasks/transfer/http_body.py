"""Reads the bytes of an http(s) location: one GET, its redirects, and the checks of its answer."""

from __future__ import annotations

import http.client
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from urllib.parse import urlsplit

from truss_cache_tasks.errors import RUN_AGAIN, IntegrityError, PermanentError, SourceChanged, WrongAnswer
from truss_cache_tasks.model.listing import Location, RemoteFile
from truss_cache_tasks.network.connections import Answer
from truss_cache_tasks.network.exchange import AnswerTooLong
from truss_cache_tasks.network.http_errors import network_errors
from truss_cache_tasks.network.redirects import REDIRECTS, headers_after, redirect_target
from truss_cache_tasks.transfer.body import BadResponse, HttpStatusError
from truss_cache_tasks.transfer.context import TransferContext
from truss_cache_tasks.transfer.limits import Limits
from truss_cache_tasks.transfer.pools import pool_for
from truss_cache_tasks.version import USER_AGENT

_EXPLANATION = 4096  # bytes of a refusal's body that are passed to the source
_SHORT = 16384  # bytes of a redirect's body that are read, since that takes less than a new connection


class HttpBody:
    """The body of one checked answer."""

    def __init__(
        self,
        file: RemoteFile,
        span: tuple[int, int],
        validator: str | None,
        *,
        answer: Answer,
        host: str,
        reached: Location | None,
        limits: Limits,
    ) -> None:
        self.start, self.end = span
        self.reached = reached
        self.validator = validator
        self.headers = answer.headers
        self._file = file
        self._answer = answer
        self._host = host
        self._limits = limits

    def readinto(self, buffer: memoryview, /) -> int:
        """Put the next bytes into `buffer`; see Body."""
        with network_errors(self._file.path, self._host):
            return self._answer.readinto(buffer, self._limits.stall_s, self._limits.overhead)

    def finish(self) -> None:
        """Check that nothing follows the last byte."""
        self._answer.begin(self._limits.stall_s, self._limits.overhead)
        with network_errors(self._file.path, self._host):
            beyond = self._answer.read() if self._answer.is_at_end else self._answer.read(1)
        if beyond:
            raise _bad(self._file, f"{self._host} sent more than the {self._file.size} bytes that were listed")

    def close(self) -> None:
        """Give the connection back, or close it if bytes are left on it."""
        self._answer.close()


def open_body(
    file: RemoteFile,
    location: Location,
    span: tuple[int, int],
    validator: str | None,
    context: TransferContext,
    *,
    has_digest: bool = False,
) -> HttpBody:
    """Ask for the bytes of `file` from `span[0]` up to `span[1]`; return the body of the answer.

    Args:
        validator: of an earlier answer of this file, used where the location itself has none.
        has_digest: whether the bytes will be compared with a digest that is known by now.

    Raises:
        TransientError, BadResponse, HttpStatusError: see `body`.
    """
    start, end = span
    last = end - 1 if end < file.size else ""
    headers = {} if span == (0, file.size) else {"Range": f"bytes={start}-{last}"}
    answer, host, reached = _get(file, location, headers, context)
    try:
        if answer.status not in (200, 206):
            raise _refusal(file, answer, host, context)
        seen = _check_version(file, location, validator, answer, host, may_lack=has_digest or location.pins_version)
        given = _check_range(file, span, answer, host)
        return HttpBody(file, given, seen, answer=answer, host=host, reached=reached, limits=context.limits)
    except BaseException:
        answer.close()
        raise


def prove(file: RemoteFile, location: Location, context: TransferContext) -> None:
    """Ask for the first byte and read none. Raises TransientError and HttpStatusError as `open_body` does."""
    answer, host, _ = _get(file, location, {"Range": "bytes=0-0"}, context)
    try:
        empty = answer.status == 416 and file.size == 0  # an empty file has no first byte; the server grants access
        if answer.status not in (200, 206) and not empty:
            raise _refusal(file, answer, host, context)
    finally:
        answer.close()


def _get(
    file: RemoteFile, location: Location, headers: Mapping[str, str], context: TransferContext
) -> tuple[Answer, str, Location | None]:
    """Send a GET and follow redirects; return the final answer, its host, and where the redirects led to, or None.

    The Range goes to each host; credentials do not go to another origin.
    """
    url, asked, limits = location.url, location.secret_url, context.limits
    sent = {"Accept-Encoding": "identity", "User-Agent": USER_AGENT, **location.headers, **headers}
    for _ in range(limits.redirects + 1):
        host = urlsplit(url).hostname or "?"
        with network_errors(file.path, host):
            answer = pool_for(url, context).ask(
                asked,
                sent,
                context.token,
                connect_s=limits.connect_s,
                answer_s=limits.answer_s,
                overhead=limits.overhead,
            )
        target = answer.headers.get("Location") if answer.status in REDIRECTS else None
        if target is None:
            if url == location.url:
                return answer, host, None
            kept = {name: value for name, value in sent.items() if name.lower() != "range"}
            return answer, host, replace(location, url=url, headers=kept, secret_query=None)
        _discard(answer, limits)
        followed = redirect_target(file.path, url, target)
        sent = headers_after(sent, url, followed)
        url = asked = followed
    raise PermanentError(f"{file.path}: {host} redirects more than {limits.redirects} times")


def _discard(answer: Answer, limits: Limits) -> None:
    """Read the body of `answer` if it is short, so that the connection can be used again; close it otherwise."""
    length = answer.headers.get("Content-Length", "")
    answer.begin(limits.skip_s, _SHORT)
    with suppress(http.client.HTTPException, OSError):
        if length.isdecimal() and _announced(length) <= _SHORT:
            answer.read(_SHORT + 1)
    answer.close()


def _refusal(file: RemoteFile, answer: Answer, host: str, context: TransferContext) -> HttpStatusError:
    """Return `answer` as an error, with as much of its body as comes in time."""
    limits, body = context.limits, bytearray()
    answer.begin(limits.stall_s, limits.refusal + limits.overhead)
    with network_errors(file.path, host), suppress(TimeoutError, AnswerTooLong):  # the status is enough
        while len(body) < limits.refusal and (piece := answer.read1(limits.refusal - len(body))):
            body += piece
        if answer.is_at_end:
            answer.read()  # so that http.client notes that the connection is free
    context.token.check()
    return HttpStatusError(host, answer.status, answer.headers, bytes(body[:_EXPLANATION]))


def _check_version(
    file: RemoteFile, location: Location, validator: str | None, answer: Answer, host: str, *, may_lack: bool
) -> str | None:
    """Return the validator of the answer, None if it has none.

    Args:
        may_lack: whether the header may be missing: emulators and proxies strip it.

    Raises:
        BadResponse: it is of another version. One replica of the server may be stale, so the file is fetched once more.
    """
    name, seen = location.validator_header, answer.headers.get(location.validator_header)
    wanted = location.validator or validator
    if wanted is None or (seen is None and may_lack):
        return seen
    if seen is None:
        said = f"{file.path}: {host} answers without {name}, expected {wanted}, and nothing else tells the version"
        raise BadResponse(WrongAnswer(said, hint=f"Let the server, or the proxy before it, send {name}."))
    if _strong(seen) != _strong(wanted):
        said = f"{file.path}: {host} answers with {name} {seen}, expected {wanted}"
        raise BadResponse(SourceChanged(said, hint=RUN_AGAIN))
    return seen


def _strong(validator: str) -> str:
    # Some proxies make an ETag weak, some stores send it without quotes; the bytes are compared with a digest anyway.
    return validator.removeprefix("W/").strip('"')


def _check_range(file: RemoteFile, span: tuple[int, int], answer: Answer, host: str) -> tuple[int, int]:
    """Return the span that the answer holds: the one asked for, or the whole file where the server ignores ranges.

    An answer with a Content-Range is a range even if its status is 200: `rclone serve s3` answers so.
    """
    given = whole = (0, file.size)
    said = answer.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", said.strip())
    if span != whole and match is not None and int(match[1]) == span[0] and match[3] in ("*", str(file.size)):
        given = span
    elif answer.status == 206:
        last = span[1] - 1 if span[1] < file.size else ""
        asked = "the whole file" if span == whole else f"bytes {span[0]}-{last} of {file.size}"
        raise _bad(file, f"{host} answers with Content-Range {said[:60]!r}, expected {asked}")
    length = answer.headers.get("Content-Length", "")
    left = given[1] - given[0]
    # A range may be answered with less than was asked for (RFC 9110, 14.2), a whole file may not.
    if length.isdecimal() and (_announced(length) > left or (given == whole and _announced(length) < left)):
        raise _bad(file, f"{host} announces {_announced(length)} bytes, expected {left}")
    return given


def _announced(length: str) -> int:
    """Return a Content-Length as a number, cut after 20 digits: Python refuses to read thousands of them."""
    return int(length[:20])


def _bad(file: RemoteFile, said: str) -> BadResponse:
    return BadResponse(
        IntegrityError(f"{file.path}: {said}", hint=f"{RUN_AGAIN} If it fails again, look at the server.")
    )
