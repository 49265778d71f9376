"""The digests that a user gives for files of web servers, in `cache_tasks(digests=)` or TRUSS_CACHE_DIGESTS."""

from __future__ import annotations

import re
from collections.abc import Iterable

from truss_cache_tasks.config.entries import Config
from truss_cache_tasks.config.fields import InvalidText
from truss_cache_tasks.config.uris import parse_uri
from truss_cache_tasks.errors import ConfigError
from truss_cache_tasks.model.request import SourceRef

_DIGEST = re.compile("sha256:([0-9a-f]{64})", re.IGNORECASE)
_FORM = "Write sha256: and the 64 hex digits that `sha256sum FILE` prints."

Given = dict[SourceRef, str]  # source -> `sha256:hex`


def parse_digests(pairs: Iterable[tuple[str, str]], where: str) -> Given:
    """Return the digests by source.

    Args:
        pairs: (URL, `sha256:hex`) as written.
        where: who gave them, for messages.

    Raises:
        ConfigError: a URL is none of a web server's file, a digest is none, or one URL has two.
    """
    given: Given = {}
    for number, (url, digest) in enumerate(pairs, 1):
        source = _source(url, f"{where}: item {number}")
        match = _DIGEST.fullmatch(digest) if isinstance(digest, str) else None
        if match is None:
            raise ConfigError(f"{where}: {source}: found another digest, expected sha256:HEX", hint=_FORM)
        _add(given, source, digest.lower(), where)
    return given


def merge_digests(one: Given, other: Given, where: str) -> Given:
    """Return both together. Raises ConfigError where one source has two digests."""
    merged = dict(one)
    for source, digest in other.items():
        _add(merged, source, digest, where)
    return merged


def with_digests(config: Config, given: Given) -> tuple[Config, list[SourceRef]]:
    """Return the config whose requests have the digests of their sources, and the sources that it does not have."""
    entries = tuple(
        entry._replace(request=entry.request._replace(digest=given.get(entry.request.source, "")))
        for entry in config.entries
    )
    asked = {entry.request.source for entry in entries}
    return config._replace(entries=entries), [source for source in given if source not in asked]


def _add(given: Given, source: SourceRef, digest: str, where: str) -> None:
    if given.setdefault(source, digest) != digest:
        raise ConfigError(f"{where}: {source}: given two digests", hint="Keep one of the two.")


def _source(url: str, what: str) -> SourceRef:
    hint = "Write the URL as the config has it: https://HOST/PATH/FILE."
    if not isinstance(url, str) or "://" not in url:
        raise ConfigError(f"{what}: found no URL", hint=hint)
    try:
        source = parse_uri(url).source
    except InvalidText as why:
        raise ConfigError(f"{what}: {why.message}", hint=why.hint) from None
    if not source.store.is_web:
        raise ConfigError(f"{what}: {source}: its store has digests of its own, expected https://", hint=hint)
    return source
