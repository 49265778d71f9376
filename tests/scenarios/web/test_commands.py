"""Files of web servers through the commands: plan, run, why, lock, verify, clean, prune, and doit."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from servers.faults import FaultServer, fault_server
from trusses import tree

from scenarios.cache.forks import ForkedTruss

BODY = os.urandom(100_000)
OTHER = os.urandom(100_000)
LARGE = os.urandom(20 << 20)


def digest(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def folder_of(server: FaultServer) -> str:
    return f"127.0.0.1_{server.port}"


def configure(truss: ForkedTruss, url: str, more: str = "") -> None:
    truss.config(f"model_cache:\n- repo_id: {url}\n{more}")


def everything(folder: Path) -> bytes:
    """The bytes of every file below `folder`, our records included, but config.yaml."""
    return b"\n".join(
        path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "config.yaml"
    )


def test_a_file_goes_through_all_commands(server: FaultServer, truss: ForkedTruss) -> None:
    configure(truss, server.add("/a/w.bin", BODY))
    shown = {f"{folder_of(server)}/a/w.bin": BODY}
    plan = truss.cli("plan")
    assert plan.code == 0, plan.text
    assert "would fetch 1 file, 100.0 kB" in plan.out
    assert tree(truss.model_cache) == {}
    ran = truss.cli()
    assert (ran.code, tree(truss.model_cache)) == (0, shown), ran.text
    assert "1 unverified" in ran.text
    asked = len(server.asked)
    for line in ("", "why --check", "verify", "lock", "lock --check", "key", "du"):
        ran = truss.cli(*line.split())
        assert ran.code == 0, ran.text
    assert len(server.asked) == asked
    assert "unchanged" in truss.cli("lock", "--check", "--remote").out
    assert truss.cli("path", f"{folder_of(server)}/a/w.bin").out.strip() == str(
        truss.model_cache / folder_of(server) / "a"
    )
    ran = truss.cli("clean")
    assert (ran.code, tree(truss.model_cache)) == (0, {}), ran.text
    assert truss.cli("why", "--check").code == 1
    assert truss.cli().code == 0
    assert tree(truss.model_cache) == shown


def test_doit_fetches_a_file_once_by_its_given_digest(server: FaultServer, truss: ForkedTruss) -> None:
    url = server.add("/w.bin", BODY, etag=None)
    configure(truss, f"{url}?download=1")

    def give(digest: str) -> None:
        truss.dodo(
            f"""
            from truss_cache_tasks import cache_tasks
            task_cache_weights = cache_tasks(digests={{"{url}?download=1": "{digest}"}})
            """
        )

    give(digest(BODY))
    assert truss.doit("cache_weights").code == 0
    assert tree(truss.model_cache) == {f"{folder_of(server)}/w.bin": BODY}
    asked = len(server.asked)
    again = truss.doit("cache_weights")
    assert (again.code, len(server.asked)) == (0, asked)
    listed = truss.doit("list", "--all")
    assert f"cache_weights:{folder_of(server)}/w.bin" in listed.out
    assert "download" not in listed.text
    give(digest(OTHER))
    why = truss.doit("cache-why")
    assert f"digest: '{digest(BODY)}' -> '{digest(OTHER)}'" in why.out
    failed = truss.doit("cache_weights")
    assert failed.code == 1
    assert f"expected {digest(OTHER).replace(':', ' ')}" in failed.err
    assert tree(truss.model_cache) == {f"{folder_of(server)}/w.bin": BODY}
    give(digest(BODY))
    assert truss.doit("cache_weights").code == 0
    assert truss.doit("clean", "cache_weights").code == 0
    assert tree(truss.model_cache) == {}


def test_bytes_of_another_digest_are_never_shown(server: FaultServer, truss: ForkedTruss) -> None:
    url = server.add("/w.bin", BODY)
    configure(truss, url)
    ran = truss.cli(TRUSS_CACHE_DIGESTS=f"{url}={digest(OTHER)}")
    assert ran.code == 1
    assert "got sha256 " in ran.err
    assert tree(truss.model_cache) == {}
    server.files["/w.bin"].body = OTHER
    ran = truss.cli(TRUSS_CACHE_DIGESTS=f"{url}={digest(OTHER)}")
    assert ran.code == 0, ran.text
    assert "all verified" in ran.text
    assert truss.cli("why", "--check", TRUSS_CACHE_DIGESTS=f"{url}={digest(OTHER)}").code == 0


def test_a_digest_that_is_given_later_is_compared_with_the_file_that_is_there(
    server: FaultServer, truss: ForkedTruss
) -> None:
    url = server.add("/w.bin", BODY)
    configure(truss, url)
    assert truss.cli().code == 0
    asked = len(server.asked)
    truss.env["TRUSS_CACHE_DIGESTS"] = f"{url}={digest(BODY)}"
    assert "digest: None -> 'sha256:" in truss.cli("why").out
    ran = truss.cli()
    assert ran.code == 0, ran.text
    assert server.ranges()[asked:] == ["bytes=0-0"], "the listing"
    assert truss.cli("clean").code == 0
    assert tree(truss.model_cache) == {}


def test_a_query_and_a_login_are_shown_and_stored_nowhere(server: FaultServer, truss: ForkedTruss) -> None:
    (truss.secrets / "web").write_text(json.dumps({"token": "hushtoken", "query": "sig=hushsig"}))
    url = server.add("/w.bin", BODY, needs="Bearer hushtoken")
    configure(truss, f"{url}?id=hushid", "  runtime_secret_name: web\n")
    events = truss.folder / "events.jsonl"
    shown = []
    for line in ("plan", "plan --json", "", "why --json", "lock --json", "-a", "-a --json"):
        ran = truss.cli(*line.split(), TRUSS_CACHE_EVENTS=str(events), TRUSS_CACHE_DEBUG="1")
        assert ran.code == 0, ran.text
        shown.append(ran.text)
    (truss.folder / "model_cache.lock").unlink()
    server.files["/w.bin"].needs = "Bearer another"
    ran = truss.cli("-a", TRUSS_CACHE_DEBUG="1")
    assert ran.code == 1
    assert "401 Unauthorized to the login of " in ran.err
    shown += [
        ran.text,
        truss.doit("list", "--all").text,
        truss.doit("info", f"cache_weights:{folder_of(server)}/w.bin").text,
    ]
    assert all(asked.path == "/w.bin?id=hushid&sig=hushsig" for asked in server.asked)
    stored = everything(truss.folder) + everything(truss.model_cache) + everything(truss.root / "home")
    assert not [text for text in shown if "hush" in text]
    assert b"hush" not in stored


def test_a_large_file_comes_over_tls_and_from_where_a_redirect_leads(
    secure: FaultServer, fault_authority: tuple[Path, Any], truss: ForkedTruss
) -> None:
    with fault_server(tls=fault_authority[1]) as elsewhere:
        target = elsewhere.add("/blob", LARGE)
        url = secure.add("/w.bin", LARGE, *[f"redirect:{target}?sig=hush"] * 9, needs="Bearer good-token")
        (truss.secrets / "web").write_text("good-token")
        configure(truss, url, "  runtime_secret_name: web\n")
        ran = truss.cli(SSL_CERT_FILE=str(fault_authority[0]))
    assert ran.code == 0, ran.text
    assert tree(truss.model_cache) == {f"{folder_of(secure)}/w.bin": LARGE}
    assert not [asked for asked in elsewhere.asked if "authorization" in asked.headers]
    assert "hush" not in ran.text


def test_bytes_that_a_redirect_to_http_leads_to_are_not_read(
    secure: FaultServer, server: FaultServer, fault_authority: tuple[Path, Any], truss: ForkedTruss
) -> None:
    plain = server.add("/w.bin", BODY)
    configure(truss, secure.add("/w.bin", BODY, "", *[f"redirect:{plain}"] * 9))
    ran = truss.cli(SSL_CERT_FILE=str(fault_authority[0]))
    assert ran.code == 1
    assert "127.0.0.1 redirects from https to http, expected https" in ran.err
    assert server.asked == []


def test_an_entry_of_weights_is_one_file_in_its_mount(server: FaultServer, truss: ForkedTruss) -> None:
    server.add("/a/w%201.bin", BODY)
    truss.config(f"weights:\n- source: {server.base}/a/w%201.bin\n  mount_location: /models/w\n")
    ran = truss.cli()
    assert ran.code == 0, ran.text
    assert tree(truss.mounts) == {"models/w/w 1.bin": BODY}
    assert truss.cli("clean").code == 0
    assert tree(truss.mounts) == {}


def test_a_volume_has_the_file_by_its_name(server: FaultServer, truss: ForkedTruss) -> None:
    configure(truss, server.add("/a/w.bin", BODY), "  use_volume: true\n  volume_folder: v\n")
    assert truss.cli().code == 0
    assert tree(truss.model_cache) == {"v/w.bin": BODY}


# Without a version


@pytest.mark.parametrize("etag", [None, 'W/"v1"'])
def test_a_file_without_a_version_comes_by_one_connection_and_starts_over_where_that_breaks(
    etag: str | None, server: FaultServer, truss: ForkedTruss
) -> None:
    configure(truss, server.add("/w.bin", LARGE, "", "cut:15000000", etag=etag))
    ran = truss.cli()
    assert ran.code == 0, ran.text
    assert tree(truss.model_cache) == {f"{folder_of(server)}/w.bin": LARGE}
    assert server.ranges() == ["bytes=0-0", None, None]
    assert server.most_in_flight == 1


def test_a_file_with_a_version_goes_on_where_a_connection_broke(server: FaultServer, truss: ForkedTruss) -> None:
    configure(truss, server.add("/w.bin", LARGE, "", "cut:4000000"))
    ran = truss.cli()
    assert ran.code == 0, ran.text
    assert tree(truss.model_cache) == {f"{folder_of(server)}/w.bin": LARGE}
    assert sum(asked.sent for asked in server.asked[1:]) == len(LARGE)


def test_a_given_digest_makes_parts_of_a_file_without_a_version(server: FaultServer, truss: ForkedTruss) -> None:
    url = server.add("/w.bin", LARGE, etag=None)
    configure(truss, url)
    ran = truss.cli(TRUSS_CACHE_DIGESTS=f"{url}={digest(LARGE)}")
    assert ran.code == 0, ran.text
    assert len(server.ranges()) == 4
    assert tree(truss.model_cache) == {f"{folder_of(server)}/w.bin": LARGE}


def test_a_file_that_changes_while_it_comes_is_listed_again(server: FaultServer, truss: ForkedTruss) -> None:
    configure(truss, server.add("/w.bin", BODY, "", "etag-change"))
    ran = truss.cli()
    assert ran.code == 0, ran.text
    assert tree(truss.model_cache) == {f"{folder_of(server)}/w.bin": BODY}


OLD = "Thu, 01 Jan 1970 00:00:09 GMT"


@pytest.mark.parametrize(
    ("etag", "headers", "is_given", "left"),
    [
        ('"v1"', {}, False, 2),
        (None, {"Last-Modified": OLD}, False, 2),
        (None, {}, True, 2),
        (None, {}, False, 1),  # all of it, by one connection
        ('W/"v1"', {}, False, 1),
    ],
)
def test_a_rerun_goes_on_only_where_the_version_or_the_digest_is_known(
    etag: str | None, headers: dict[str, str], is_given: bool, left: int, server: FaultServer, truss: ForkedTruss
) -> None:
    url = server.add("/w.bin", LARGE, "", "" if left > 1 else "403", *["403"] * 20, etag=etag)
    server.files["/w.bin"].headers = headers
    configure(truss, url)
    truss.env["TRUSS_CACHE_CONNECTIONS"] = "1"  # the first part is complete when the second is refused
    if is_given:
        truss.env["TRUSS_CACHE_DIGESTS"] = f"{url}={digest(LARGE)}"
    assert truss.cli().code == 1
    server.files["/w.bin"].faults.clear()
    asked = len(server.asked)
    ran = truss.cli()
    assert ran.code == 0, ran.text
    assert len(server.ranges()[asked:]) == 1 + left
    assert tree(truss.model_cache) == {f"{folder_of(server)}/w.bin": LARGE}


def test_what_broke_off_is_dropped_where_the_file_changed(server: FaultServer, truss: ForkedTruss) -> None:
    configure(truss, server.add("/w.bin", LARGE, "", "", *["403"] * 20))
    truss.env["TRUSS_CACHE_CONNECTIONS"] = "1"
    assert truss.cli().code == 1
    changed = LARGE[::-1]
    server.files["/w.bin"].faults.clear()
    server.files["/w.bin"].body, server.files["/w.bin"].etag = changed, '"v2"'
    ran = truss.cli()
    assert ran.code == 0, ran.text
    assert tree(truss.model_cache) == {f"{folder_of(server)}/w.bin": changed}


def test_a_redirect_to_a_signed_url_that_expires_is_asked_for_again(server: FaultServer, truss: ForkedTruss) -> None:
    target = server.add("/signed", LARGE, "", "cut:1000000", "403")
    configure(truss, server.add("/w.bin", LARGE, *[f"redirect:{target}?sig=hush"] * 9))
    ran = truss.cli()
    assert ran.code == 0, ran.text
    assert "hush" not in ran.text
    assert tree(truss.model_cache) == {f"{folder_of(server)}/w.bin": LARGE}


def test_a_login_that_changed_has_to_prove_that_it_may_read_the_file(server: FaultServer, truss: ForkedTruss) -> None:
    secret = truss.secrets / "web"
    secret.write_text("one")
    url = server.add("/w.bin", BODY, needs="Bearer one")
    configure(truss, url, "  runtime_secret_name: web\n")
    assert truss.cli().code == 0
    secret.write_text("two")
    assert "the credential file changed" in truss.cli("why").out
    assert truss.cli().code == 1
    assert truss.cli("why", "--check").code == 1
    server.files["/w.bin"].needs = "Bearer two"
    sent = server.sent
    assert truss.cli().code == 0
    assert server.sent - sent < len(BODY)
    assert truss.cli("why", "--check").code == 0


# The lock file


def locked_digest(truss: ForkedTruss) -> str:
    lock = json.loads((truss.folder / "model_cache.lock").read_text())
    found: str = lock["entries"][0]["files"][0]["digest"]
    return found


@pytest.mark.parametrize("etag", ['"v1"', None])
def test_a_lock_of_a_fetched_file_has_its_digest_and_refuses_other_bytes(
    etag: str | None, server: FaultServer, truss: ForkedTruss
) -> None:
    configure(truss, server.add("/w.bin", BODY, etag=etag))
    assert truss.cli().code == 0
    assert truss.cli("lock").code == 0
    assert locked_digest(truss).startswith("xxh3-128:")
    assert truss.cli("clean").code == 0
    asked = len(server.asked)
    ran = truss.cli(TRUSS_CACHE_LOCKED="1")
    assert (ran.code, len(server.asked)) == (0, asked + 1), "the lock is the listing"
    server.files["/w.bin"].body = OTHER
    assert truss.cli("clean").code == 0
    ran = truss.cli()
    assert ran.code == 1
    assert "of model_cache.lock" in ran.err
    assert tree(truss.model_cache) == {}


def test_a_lock_takes_the_digest_of_the_headers_and_finds_the_bytes_under_another_version(
    server: FaultServer, truss: ForkedTruss
) -> None:
    configure(truss, server.add("/w.bin", BODY))
    sha256 = base64.b64encode(hashlib.sha256(BODY).digest()).decode()
    server.files["/w.bin"].headers = {"Repr-Digest": f"sha-256=:{sha256}:"}
    assert truss.cli("lock").code == 0
    assert locked_digest(truss) == digest(BODY)
    server.files["/w.bin"].etag = '"of a mirror"'
    server.files["/w.bin"].headers = {}
    ran = truss.cli()
    assert ran.code == 0, ran.text
    assert "all verified" in ran.text


def test_a_lock_of_a_file_without_version_and_digest_says_to_fetch_it_first(
    server: FaultServer, truss: ForkedTruss
) -> None:
    url = server.add("/w.bin", BODY, etag=None)
    configure(truss, url)
    ran = truss.cli("lock")
    assert ran.code == 1, ran.text
    assert "neither a version nor a digest" in ran.err
    assert truss.cli("lock", TRUSS_CACHE_DIGESTS=f"{url}={digest(BODY)}").code == 0
    assert locked_digest(truss) == digest(BODY)


def test_an_upgrade_of_a_lock_keeps_our_digest_of_a_version_that_is_here(
    server: FaultServer, truss: ForkedTruss
) -> None:
    configure(truss, server.add("/w.bin", BODY))
    assert truss.cli().code == 0
    assert truss.cli("lock").code == 0
    before = (truss.folder / "model_cache.lock").read_text()
    assert "unchanged" in truss.cli("lock", "--upgrade").out
    assert (truss.folder / "model_cache.lock").read_text() == before
    server.files["/w.bin"].body, server.files["/w.bin"].etag = OTHER, '"v2"'
    assert "1 file changed" in truss.cli("lock", "--upgrade").out
    assert truss.cli().code == 0
    assert tree(truss.model_cache) == {f"{folder_of(server)}/w.bin": OTHER}
