"""The version of a web server's file: a strong ETag, or the time of its last change; as text, and in requests."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from truss_cache_tasks.model.listing import UNVERSIONED

_ETAG = re.compile(r'"[!#-~]+"')
_DATE = re.compile(r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT")


class Validator(NamedTuple):
    """How a request asks for one version, and how an answer names it.

    Attributes:
        condition: the headers of the request.
        header: of the answer; "" for none.
        value: of that header; None where no version is known.
    """

    condition: Mapping[str, str]
    header: str
    value: str | None


def version_of(headers: Mapping[str, str]) -> str:
    """Return the version that an answer names, or a new one that names nothing (`RemoteFile.is_unversioned`).

    A weak ETag does not tell whether bytes are equal. Nor does a `Last-Modified` that is not older than the answer: the
    file may change again within the same second (RFC 9110, 8.8.2.2).

    >>> version_of({"ETag": '"abc"', "Last-Modified": "Thu, 01 Jan 1970 00:00:00 GMT"})
    '"abc"'
    >>> version_of({"ETag": 'W/"abc"', "Last-Modified": "Thu, 01 Jan 1970 00:00:00 GMT"})
    'Thu,_01_Jan_1970_00:00:00_GMT'
    """
    by_name = {name.lower(): value.strip() for name, value in headers.items()}
    if _ETAG.fullmatch(etag := by_name.get("etag", "")):
        return etag
    if _DATE.fullmatch(date := by_name.get("last-modified", "")) and _is_older(date, by_name.get("date", "")):
        return date.replace(" ", "_")
    return new_version()


def new_version() -> str:
    """Return a version that names nothing, and that no other file has."""
    return f"{UNVERSIONED}{os.urandom(16).hex()}"


def validator_of(version: str) -> Validator:
    """Return how to ask for a version that `version_of` returned."""
    if version.startswith('"'):
        return Validator({"If-Match": version}, "ETag", version)
    if version.startswith(UNVERSIONED):
        return Validator({}, "", None)
    date = version.replace("_", " ")
    return Validator({"If-Unmodified-Since": date}, "Last-Modified", date)


def _is_older(date: str, now: str) -> bool:
    """Return whether `date` is at least a second before the server's clock; True where this is not known."""
    try:
        return (parsedate_to_datetime(now) - parsedate_to_datetime(date)).total_seconds() >= 1
    except (ValueError, TypeError, OverflowError):
        return True
