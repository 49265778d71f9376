"""A Hub, or a mirror of one, that answers what no Hub says: one clear error, before anything is made of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from entries import entry, open_with, settings
from huggingface_hub import close_session
from servers.faults import FaultServer
from servers.hub import Hub, Repo

from truss_cache_tasks.errors import CacheTaskError, NotFound, PermanentError, WrongAnswer
from truss_cache_tasks.network.exchange import ExchangeLimits
from truss_cache_tasks.network.retry import RetryLimits
from truss_cache_tasks.sources.huggingface import HuggingFaceSource

SHA256, SHA1 = "a" * 64, "b" * 40
FILE = {"type": "file", "path": "w.bin", "size": 5, "oid": SHA1}
LFS = {**FILE, "lfs": {"oid": SHA256, "size": 5, "pointerSize": 130}}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        yield running


@pytest.fixture
def repo(hub: Hub) -> Repo:
    repo = hub.create("org/name")
    repo.commit({"config.json": b"{}", "w.bin": b"weights"})
    return repo


QUICK = ExchangeLimits(retry=RetryLimits(backoff_s=0.01, backoff_cap_s=0.05))


def open_hub(hub: Hub, home: Path, revision: str = "main") -> HuggingFaceSource:
    return open_with(
        HuggingFaceSource,
        entry("org/name", revision=revision),
        settings(HF_ENDPOINT=hub.url, HOME=str(home)),
        limits=QUICK,
    )


def lie(hub: Hub, call: str, answer: Any) -> None:
    """Let the Hub answer `answer` (JSON, or bytes) wherever the path holds `call`."""
    hub.rewrite = lambda path, value: answer if f"/{call}" in path else value


WRONG_ITEMS = [
    {**FILE, "size": "5"},
    {**FILE, "size": 5.0},
    {**FILE, "size": 5.5},
    {**FILE, "size": -1},
    {**FILE, "size": 2**63},
    {**FILE, "size": 10**400},
    {**FILE, "size": True},
    {**FILE, "size": None},
    {**FILE, "size": float("nan")},
    {**FILE, "size": [5]},
    {key: value for key, value in FILE.items() if key != "size"},
    {**FILE, "path": 5},
    {**FILE, "path": None},
    {**FILE, "path": ""},
    {**FILE, "path": ["w.bin"]},
    {key: value for key, value in FILE.items() if key != "path"},
    {**FILE, "type": None},
    {**FILE, "type": 5},
    {**FILE, "oid": None},
    {**FILE, "oid": 5},
    {**FILE, "oid": "../../../outside/evil"},
    {**FILE, "oid": SHA1 + "\n"},
    {**FILE, "oid": SHA1[:-1] + "\0"},
    {**FILE, "oid": SHA1.upper()},
    {**FILE, "oid": SHA256},
    {**FILE, "oid": ""},
    {key: value for key, value in FILE.items() if key != "oid"},
    {**FILE, "lfs": {"oid": "../../../outside/evil"}},
    {**FILE, "lfs": {"oid": "/etc/cron.d/evil"}},
    {**FILE, "lfs": {"oid": SHA256 + "\n"}},
    {**FILE, "lfs": {"oid": SHA256[:-1] + "\0"}},
    {**FILE, "lfs": {"oid": SHA256.upper()}},
    {**FILE, "lfs": {"oid": SHA1}},
    {**FILE, "lfs": {"oid": "sha256:" + SHA256}},
    {**FILE, "lfs": {"oid": [SHA256]}},
    {**FILE, "lfs": {"oid": None}},
    {**FILE, "lfs": {}},
    {**FILE, "lfs": SHA256},
    {**FILE, "lfs": False},
    {**FILE, "lfs": [SHA256]},
    {"type": "directory", "path": 5, "size": 0, "oid": SHA1},
    None,
    "file",
    5,
    [FILE],
    {},
]


@pytest.mark.parametrize("item", WRONG_ITEMS, ids=ascii)
def test_an_item_of_a_tree_that_no_hub_lists_is_a_wrong_answer(item: Any, hub: Hub, repo: Repo, tmp_path: Path) -> None:
    lie(hub, "tree", [FILE, item])
    with pytest.raises(WrongAnswer, match="org/name: the store's answer is wrong") as caught:
        open_hub(hub, tmp_path).listing()
    assert str(caught.value).isprintable()
    assert caught.value.hint


def test_what_a_hub_lists_beside_files_is_left_out(hub: Hub, repo: Repo, tmp_path: Path) -> None:
    folder = {"type": "directory", "path": "sub", "size": 0, "oid": SHA1}
    lie(hub, "tree", [FILE, folder, {"type": "submodule", "path": "other"}, {**LFS, "path": "l.bin", "more": [1]}])
    found = open_hub(hub, tmp_path).listing().files
    assert [(file.path, file.version) for file in found] == [("w.bin", SHA1), ("l.bin", SHA256)]


@pytest.mark.parametrize(
    "sha",
    ["", "main", SHA1 + "\n", SHA1.upper(), SHA1[:-1], SHA256, "../" + SHA1[3:], SHA1[:-1] + "\0", None, 5, [SHA1]],
    ids=ascii,
)
def test_a_commit_that_is_no_commit_is_a_wrong_answer(sha: Any, hub: Hub, repo: Repo, tmp_path: Path) -> None:
    lie(hub, "revision", {"sha": sha})
    with pytest.raises(WrongAnswer, match=r"commit .* expected 40 lower-case hex digits"):
        open_hub(hub, tmp_path).listing()
    assert hub.asked("GET", "") == hub.asked("GET", "/revision/main")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>log in</html>",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 5_000,
        b"null",
        b'"text"',
        b"5",
    ],
    ids=lambda answer: str(answer[:20]),
)
@pytest.mark.parametrize("call", ["revision", "tree"])
def test_an_answer_that_is_no_json_of_a_hub_is_no_answer_of_a_hub(
    call: str, answer: bytes, hub: Hub, repo: Repo, tmp_path: Path
) -> None:
    lie(hub, call, answer)
    with pytest.raises(PermanentError, match="the answer is not that of a Hub"):
        open_hub(hub, tmp_path).listing()


@pytest.mark.parametrize(("call", "answer"), [("revision", []), ("revision", {}), ("tree", {}), ("tree", {"0": FILE})])
def test_an_answer_of_another_shape_is_no_answer_of_a_hub(
    call: str, answer: list[Any] | dict[str, Any], hub: Hub, repo: Repo, tmp_path: Path
) -> None:
    lie(hub, call, answer)
    with pytest.raises(PermanentError, match="the answer is not that of a Hub"):
        open_hub(hub, tmp_path).listing()


# Listings end


def test_a_tree_whose_pages_go_in_a_circle_is_a_wrong_answer(hub: Hub, repo: Repo, tmp_path: Path) -> None:
    count = itertools.count()
    names = map(str, itertools.count())
    hub.rewrite = lambda path, value: [{**FILE, "path": next(names)}] if "/tree/" in path else value
    hub.relink = lambda link: f"{hub.url}/x?cursor={next(count) % 3}"
    with pytest.raises(WrongAnswer, match="a page names an earlier one as the next"):
        open_hub(hub, tmp_path).listing()
    assert len(hub.requests) == 5  # the commit, the first page, and three with a cursor


@pytest.mark.parametrize("query", ["", "?", "?recursive=true&expand=false", "?recursive=false", "?expand=true"])
def test_a_first_page_that_names_itself_as_the_next_is_a_wrong_answer(
    query: str, hub: Hub, repo: Repo, tmp_path: Path
) -> None:
    hub.relink = lambda link: f"{hub.url}/x{query}"
    with pytest.raises(WrongAnswer, match="a page names an earlier one as the next"):
        open_hub(hub, tmp_path).listing()


@pytest.mark.parametrize("items", [[], [FILE], [{"type": "directory", "path": "d"}]], ids=["empty", "file", "folder"])
def test_a_tree_of_endless_pages_without_news_is_a_wrong_answer(
    items: list[Any], hub: Hub, repo: Repo, tmp_path: Path
) -> None:
    count = itertools.count()
    lie(hub, "tree", items)
    hub.relink = lambda link: f"{hub.url}/x?cursor={next(count)}"
    with pytest.raises(WrongAnswer, match="1000 pages in turn without a new name"):
        open_hub(hub, tmp_path).listing()
    assert len(hub.requests) <= 1_003


@pytest.mark.parametrize("link", ["http://[", "", "?cursor=\xff", "//[::1"])
def test_a_next_page_that_is_no_url_is_one_of_our_errors(link: str, hub: Hub, repo: Repo, tmp_path: Path) -> None:
    hub.relink = lambda _: link
    with pytest.raises(CacheTaskError):
        open_hub(hub, tmp_path).listing()


# What a hint repeats


@pytest.mark.parametrize(
    "refs",
    [
        [],
        None,
        "text",
        {"branches": None},
        {"branches": "main"},
        {"branches": {"name": "main"}},
        {"branches": [None, 5, "main", [], {}, {"name": None}, {"name": 5}, {"name": ["main"]}]},
        {
            "branches": [
                {"name": "mian\x1b]0;evil\x07"},
                {"name": "mian\u202e"},
                {"name": "\ud800"},
                {"name": "x" * 999},
            ]
        },
        b"no json",
        b"[" * 100_000,
    ],
    ids=lambda refs: str(refs)[:40],
)
def test_refs_that_no_hub_has_leave_the_error_of_the_revision_as_it_is(
    refs: Any, hub: Hub, repo: Repo, tmp_path: Path
) -> None:
    lie(hub, "refs", refs)
    with pytest.raises(NotFound, match="no revision 'mian'") as caught:
        open_hub(hub, tmp_path, revision="mian").listing()
    assert caught.value.hint == "Check `revision`."


@pytest.fixture
def new_session() -> Iterator[None]:
    """Let huggingface_hub make its session, which reads certificates once, for this test alone."""
    from huggingface_hub import close_session  # takes half a second

    close_session()
    yield
    close_session()


@pytest.mark.usefixtures("new_session")
def test_a_listing_follows_no_redirect_from_https_to_http(
    hub: Hub, repo: Repo, secure: FaultServer, fault_authority: Any, tmp_path: Path
) -> None:
    close_session()  # a session of this process has the certificates of the test that opened it
    secure.add("/api/models/org/name/revision/main", b"", f"redirect:{hub.url}/api/models/org/name/revision/main")
    env = {"HF_ENDPOINT": secure.base, "HOME": str(tmp_path), "SSL_CERT_FILE": str(fault_authority[0])}
    source = open_with(HuggingFaceSource, entry("org/name"), settings(**env), limits=QUICK)
    asked = len(hub.requests)
    with pytest.raises(PermanentError, match=r"127\.0\.0\.1 redirects from https to http"):
        source.listing()
    assert len(hub.requests) == asked
