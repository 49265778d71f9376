"""Servers that hang, drip, talk without end or fail once: a listing ends in bounded time and memory, or is right."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from entries import entry, open_with, settings
from fast_clock import FastClock
from servers.hostile import HostileServer, hostile_server
from trusses import BIN, Ran, Truss

from truss_cache_tasks.errors import CacheTaskError, Stopped, TransientError, WrongAnswer
from truss_cache_tasks.network.cancel import StopPoll
from truss_cache_tasks.network.exchange import ExchangeLimits
from truss_cache_tasks.network.retry import RetryLimits
from truss_cache_tasks.sources.azure import AzureSource
from truss_cache_tasks.sources.gcs import GcsSource
from truss_cache_tasks.sources.huggingface import HuggingFaceSource
from truss_cache_tasks.sources.s3 import S3Source

pytestmark = pytest.mark.slow  # each starts a server of its own

SHA1 = "b" * 40
RETRY = RetryLimits(attempts=2, backoff_s=0.01)
IMPATIENT = ExchangeLimits(head_s=1, stall_s=1, floor_s=1, total_s=5, page=1 << 20, refusal=1 << 16, retry=RETRY)
HASTY = replace(IMPATIENT, head_s=0.3, stall_s=0.3, floor_s=0.3)
PATIENT = replace(IMPATIENT, total_s=20, retry=RetryLimits(attempts=6, backoff_s=0.01))  # on a busy machine, too
MEMORY = 64 << 20  # of one listing; most of it is the SDK, which the first one imports


def healthy_hub(path: str) -> tuple[bytes, str]:
    commit = {"sha": SHA1}
    tree = [{"type": "file", "path": "w.bin", "size": 5, "oid": SHA1}]
    return json.dumps(tree if "/tree/" in path else commit).encode(), "application/json"


def healthy_gcs(path: str) -> tuple[bytes, str]:
    item = {"name": "m/w.bin", "size": "5", "generation": "7", "crc32c": "4waSgw=="}
    return json.dumps({"items": [item]}).encode(), "application/json"


def healthy_s3(path: str) -> tuple[bytes, str]:
    item = b"<Contents><Key>m/w.bin</Key><Size>5</Size><ETag>&quot;e&quot;</ETag></Contents>"
    return b"<ListBucketResult><IsTruncated>false</IsTruncated>" + item + b"</ListBucketResult>", "application/xml"


def healthy_azure(path: str) -> tuple[bytes, str]:
    properties = b"<Properties><Content-Length>5</Content-Length><Etag>0x8D1</Etag></Properties>"
    blob = b"<Blob><Name>m/w.bin</Name>" + properties + b"</Blob>"
    return b"<EnumerationResults><Blobs>" + blob + b"</Blobs><NextMarker /></EnumerationResults>", "application/xml"


@dataclass
class Store:
    """One kind of store, and its source at a server."""

    kind: str
    uri: str
    healthy: Callable[[str], tuple[bytes, str]]
    source: Callable[..., Any]
    variable: str

    def env(self, server: HostileServer) -> dict[str, str]:
        quiet = {"AWS_EC2_METADATA_DISABLED": "true", "NO_GCE_CHECK": "true", "HOME": "/nowhere"}
        quiet |= {"AZURE_STORAGE_ACCOUNT": "acc", "AZURE_STORAGE_SAS_TOKEN": "sig=s"}
        return {self.variable: server.url, **quiet}

    def open(self, server: HostileServer, limits: ExchangeLimits = IMPATIENT, **options: Any) -> Any:
        return open_with(self.source, entry(self.uri), settings(**self.env(server)), limits=limits, **options)


STORES = [
    Store("hub", "org/name", healthy_hub, HuggingFaceSource, "HF_ENDPOINT"),
    Store("s3", "s3://bkt/m", healthy_s3, S3Source, "AWS_ENDPOINT_URL_S3"),
    Store("gcs", "gs://bkt/m", healthy_gcs, GcsSource, "STORAGE_EMULATOR_HOST"),
    Store("azure", "azure://acc/box/m", healthy_azure, AzureSource, "AZURE_STORAGE_SERVICE_ENDPOINT"),
]


@pytest.fixture(params=STORES, ids=lambda store: store.kind)
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Store:
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "AWS_PROFILE", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "no-gcloud-here"))
    monkeypatch.setenv("HOME", str(tmp_path))
    found: Store = request.param
    return found


@pytest.fixture
def server(store: Store) -> Iterator[HostileServer]:
    with hostile_server(store.healthy) as running:
        yield running


SLOW = ["silence", "drip-interim", "drip-head", "drip-body", "drip-refusal", "drip-trailers", "drip-redirect"]
LARGE = ["interim", "endless-head", "endless", "endless-refusal", "trailers", "bomb", "redirect", "endless-redirect"]
ONCE = ["408", "429", "429:0", "500", "502", "503", "504", "reset", "silence", "cut", "drip-head", "drip-body", "early"]


def fails(store: Store, server: HostileServer, **options: Any) -> CacheTaskError:
    tracemalloc.start()
    try:
        with pytest.raises(CacheTaskError) as caught:
            store.open(server, **options).listing()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MEMORY
    assert caught.value.hint
    assert str(caught.value).isprintable()
    return caught.value


@pytest.mark.timeout(30)
@pytest.mark.parametrize("fault", SLOW)
def test_a_listing_from_a_server_that_is_slow_for_ever_is_unavailable_in_time(
    fault: str, store: Store, server: HostileServer
) -> None:
    server.always = fault
    error = fails(store, server, limits=HASTY)
    assert isinstance(error, TransientError)
    assert "(tried 2 times)" in str(error)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("fault", LARGE)
def test_a_listing_from_a_server_that_talks_for_ever_is_one_clear_error(
    fault: str, store: Store, server: HostileServer
) -> None:
    server.always = fault
    error = fails(store, server)
    broken = fault in ("interim", "endless-head") or (store.kind == "hub" and fault == "trailers")  # no answer came
    assert isinstance(error, (TransientError, WrongAnswer) if broken else WrongAnswer)  # whichever limit comes first
    if not broken:
        assert len(server.asked) <= 7  # a redirect of S3 asks for the region


@pytest.mark.timeout(30)
@pytest.mark.parametrize("fault", ONCE)
def test_a_listing_that_fails_once_is_tried_again(fault: str, store: Store, server: HostileServer) -> None:
    server.faults[:] = [fault]
    found = store.open(server, PATIENT).listing()
    assert [(file.path, file.size) for file in found.files] == [("w.bin", 5)]


@pytest.mark.parametrize("to", ["http://[::1", "http://a..b/", f"http://{'x' * 300}/", "ftp://x/", "ü", "//", "x:y"])
@pytest.mark.parametrize("store", STORES[::2], ids=lambda store: store.kind, indirect=True)  # S3 follows none
def test_a_redirect_to_what_is_no_url_is_one_clear_error(to: str, store: Any, server: HostileServer) -> None:
    server.always = f"redirect:{to}"
    fails(store, server)


# What is listed (the Hub's: test_huggingface_answers.py)


CONTENT = {"Key": "m/w.bin", "Size": "5", "ETag": '"e"'}
WRONG_CONTENTS = [
    {**CONTENT, "Size": "five"},
    {**CONTENT, "Size": "5.5"},
    {**CONTENT, "Size": "-1"},
    {**CONTENT, "Size": str(1 << 63)},
    {**CONTENT, "Size": "9" * 5000},
    {**CONTENT, "Size": ""},
    {"Key": "m/w.bin", "ETag": '"e"'},
    {"Size": "5", "ETag": '"e"'},
    {**CONTENT, "Key": ""},
    {**CONTENT, "Key": "m/w.bin</Key><Key>m/again"},
    {"Key": "m/w.bin", "Size": "5"},
    {**CONTENT, "ETag": ""},
    {**CONTENT, "ETag": "a\nb"},
    {**CONTENT, "ETag": "\u202e"},
]


def page_of_s3(contents: list[dict[str, str]], more: str = "<IsTruncated>false</IsTruncated>") -> tuple[bytes, str]:
    items = ["".join(f"<{name}>{value}</{name}>" for name, value in item.items()) for item in contents]
    body = "".join(f"<Contents>{item}</Contents>" for item in items)
    return f"<ListBucketResult>{more}{body}</ListBucketResult>".encode(), "application/xml"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HostileServer]:
    monkeypatch.setenv("HOME", str(tmp_path))
    with hostile_server(healthy_s3) as running:
        yield running


@pytest.mark.parametrize("content", WRONG_CONTENTS, ids=lambda content: ascii(content)[:60])
def test_an_object_that_no_s3_lists_is_a_wrong_answer(content: dict[str, Any], s3: HostileServer) -> None:
    s3.healthy = lambda path: page_of_s3([CONTENT, content])
    with pytest.raises(WrongAnswer, match="s3://bkt/m: the store's answer is wrong") as caught:
        STORES[1].open(s3).listing()
    assert str(caught.value).isprintable()
    assert len(s3.asked) == 1


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("<NextContinuationToken>again</NextContinuationToken>", "a page names an earlier one as the next"),
        ("<NextContinuationToken></NextContinuationToken>", "names no next one"),
        ("", "names no next one"),
        ("<NextContinuationToken>{}</NextContinuationToken>", "1000 pages in turn without a new name"),
    ],
)
def test_pages_of_s3_end(more: str, words: str, s3: HostileServer) -> None:
    def page(path: str) -> tuple[bytes, str]:
        return page_of_s3([CONTENT], "<IsTruncated>true</IsTruncated>" + more.format(len(s3.asked)))

    s3.healthy = page
    with pytest.raises(WrongAnswer, match=words):
        STORES[1].open(s3, PATIENT).listing()
    assert len(s3.asked) <= 1010  # a few may be tried again


ITEM: dict[str, Any] = {"name": "m/w.bin", "size": "5", "generation": "7", "crc32c": "4waSgw=="}
WRONG_NAMES: list[Any] = [5, None, "", ["m"], {}]
WRONG_OBJECTS: list[Any] = [
    *({**ITEM, "size": size} for size in ["five", "-1", "5.5", str(1 << 63), "9" * 5000, "", 5.5, True, None, ["5"]]),
    *({**ITEM, "name": name} for name in WRONG_NAMES),
    *({**ITEM, "generation": value} for value in [None, 7.5, "", "v1", "7\n", "../7", "9" * 30, ["7"]]),
    *(
        {**ITEM, "crc32c": value}
        for value in ["", "4waSgw", "4waSgw==\n", "deadbeef", "../../..", 5, ["4waSgw=="], "ü"]
    ),
    {"size": "5", "generation": "7"},
    {"name": "m/w.bin", "size": "5"},
    None,
    "m/w.bin",
    [ITEM],
]


@pytest.fixture
def gcs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HostileServer]:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "no-gcloud-here"))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with hostile_server(healthy_gcs) as running:
        yield running


def page_of_gcs(page: Any) -> Callable[[str], tuple[bytes, str]]:
    return lambda path: (json.dumps(page).encode(), "application/json")


@pytest.mark.parametrize("item", WRONG_OBJECTS, ids=lambda item: ascii(item)[:60])
def test_an_object_that_no_gcs_lists_is_a_wrong_answer(item: Any, gcs: HostileServer) -> None:
    gcs.healthy = page_of_gcs({"items": [ITEM, item]})
    with pytest.raises(WrongAnswer, match="gs://bkt/m: the store's answer is wrong") as caught:
        STORES[2].open(gcs).listing()
    assert str(caught.value).isprintable()
    assert len(gcs.asked) == 1


@pytest.mark.parametrize("page", [[], "text", 5, {"items": {}}, {"items": 5}, {"nextPageToken": 5}], ids=ascii)
def test_a_page_that_no_gcs_sends_is_a_wrong_answer(page: Any, gcs: HostileServer) -> None:
    gcs.healthy = page_of_gcs(page)
    with pytest.raises(WrongAnswer):
        STORES[2].open(gcs).listing()


def test_pages_of_gcs_end(gcs: HostileServer) -> None:
    gcs.healthy = page_of_gcs({"items": [ITEM], "nextPageToken": "again"})
    with pytest.raises(WrongAnswer, match="a page names an earlier one as the next"):
        STORES[2].open(gcs).listing()
    gcs.healthy = lambda path: (json.dumps({"items": [ITEM], "nextPageToken": str(len(gcs.asked))}).encode(), "json")
    with pytest.raises(WrongAnswer, match="1000 pages in turn without a new name"):
        STORES[2].open(gcs).listing()


@pytest.mark.parametrize("store", STORES[::2], ids=lambda store: store.kind)  # botocore takes it for a 500 of S3
def test_an_answer_of_no_store_is_not_asked_for_again(
    store: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with hostile_server(store.healthy) as server:
        server.always = "junk"
        with pytest.raises(CacheTaskError):
            store.open(server).listing()
        assert len(server.asked) == 1


# Stopping


@pytest.mark.timeout(20)
@pytest.mark.parametrize("fault", ["503:60", "silence"])
@pytest.mark.parametrize("store", STORES[1:], ids=lambda store: store.kind)
def test_a_stop_ends_a_wait_between_attempts_and_a_silent_read(
    store: Any, fault: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "no-gcloud-here"))
    with hostile_server(store.healthy) as server:
        server.always = fault
        source = store.open(server, ExchangeLimits(), cancel=StopPoll(lambda: len(server.asked) > 0))
        with pytest.raises(Stopped):
            source.listing()
        assert len(server.asked) == 1


# The real command


def run_command(store: Store, server: HostileServer, folder: Path, *, memory: str = "unlimited", **env: str) -> Ran:
    """Run `truss-cache` with the limits that it has, on an entry of `store`; `memory` in KiB of addresses."""
    truss = Truss(folder, **store.env(server))
    truss.config(f"model_cache:\n  - repo_id: {store.uri}\n")
    return truss.run(["sh", "-c", f"ulimit -v {memory}; exec {BIN / 'truss-cache'}"], **env)


@pytest.mark.parametrize("fault", ["silence", "drip-head", "drip-body"])  # each limit in time; the others are above
@pytest.mark.parametrize("store", STORES[:2], ids=lambda store: store.kind)
def test_the_command_ends_with_one_clear_error_where_a_server_is_slow_for_ever(
    store: Any, fault: str, fast_clock: FastClock, tmp_path: Path
) -> None:
    with hostile_server(store.healthy) as server:
        server.always = fault
        ran = run_command(store, server, tmp_path, **fast_clock(100))
    assert ran.code == 1, ran.text
    assert "(tried 8 times)" in ran.err
    assert "hint: " in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("fault", ["bomb", "endless", "endless-refusal", "trailers"])
@pytest.mark.parametrize("store", STORES[:2], ids=lambda store: store.kind)
def test_the_command_ends_with_one_clear_error_in_bounded_memory(
    store: Any, fault: str, fast_clock: FastClock, tmp_path: Path
) -> None:
    with hostile_server(store.healthy) as server:
        server.always = fault
        ran = run_command(store, server, tmp_path, memory=str(1 << 20), **fast_clock(20))  # a bomb is 2.5 GB
    assert ran.code == 1, ran.text
    assert "internal error" not in ran.err
    assert "hint: " in ran.err


@pytest.mark.parametrize("fault", ["503", "408", "reset", "silence"])
@pytest.mark.parametrize("store", STORES[:2], ids=lambda store: store.kind)
def test_the_command_lists_again_where_a_listing_failed_once(
    store: Any, fault: str, fast_clock: FastClock, tmp_path: Path
) -> None:
    with hostile_server(store.healthy) as server:
        server.faults[:] = [fault]
        ran = run_command(store, server, tmp_path, **fast_clock(20))
        assert any("w.bin" in path for path in server.asked), ran.err  # it was listed, and its bytes asked for
