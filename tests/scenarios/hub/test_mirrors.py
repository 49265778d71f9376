"""Mirrors of the Hub: asked in turn while HF_ENDPOINT is unavailable, never after a refusal, and never with a token."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from fast_clock import FastClock
from in_process import Cli, cli
from servers.hub import Hub, Repo, Rights
from trusses import Ran, Truss, tree

__all__ = ["cli"]

ONE = "model_cache:\n  - repo_id: org/name\n"
FILES = {"config.json": b"{}", "model.safetensors": b"m" * 20_000}
BIG = random.Random(8).randbytes((24 << 20) + 5)  # 4 parts of 8 MiB
NOWHERE = "http://127.0.0.1:9"  # discard: nobody listens there
DOWN = ["503"] * 99


@pytest.fixture
def repo(hub: Hub, truss: Truss) -> Repo:
    truss.config(ONE)
    repo = hub.create("org/name")
    repo.commit(FILES)
    return repo


@pytest.fixture
def mirrors(hub: Hub, repo: Repo, truss: Truss) -> Iterator[tuple[Hub, Hub]]:
    """Two servers with the repos of `hub`, which TRUSS_CACHE_HF_ENDPOINTS names."""
    with Hub() as one, Hub() as other:
        for mirror in (one, other):
            mirror.repos = hub.repos
            mirror.cdn_etag = "mirror"
        truss.env["TRUSS_CACHE_HF_ENDPOINTS"] = f"{one.url}/, {other.url}"
        yield one, other


def done(ran: Ran) -> Ran:
    assert ran.code == 0, ran.text
    return ran


def fetched(truss: Truss) -> dict[str, bytes]:
    (snapshot,) = (truss.hub_cache / "models--org--name/snapshots").iterdir()
    return tree(snapshot)


def tokens(hub: Hub) -> set[str | None]:
    return {request.token for request in hub.requests if request.host == "hub"}


def fail_all(hub: Hub, *faults: str) -> None:
    hub.fail("", *faults)


def test_a_mirror_brings_everything_while_the_hub_is_unavailable(
    truss: Truss, mirrors: tuple[Hub, Hub], cli: Cli
) -> None:
    ran = done(cli(HF_ENDPOINT=NOWHERE, HF_TOKEN="secret-token"))
    assert f"warning: {NOWHERE} is unavailable, {mirrors[0].url} is asked instead\n" in ran.err
    assert "(all verified)" in ran.err
    assert fetched(truss) == FILES
    assert tokens(mirrors[0]) == {None}
    assert mirrors[1].requests == []


def test_entries_side_by_side_find_the_hub_unavailable_once(
    truss: Truss, hub: Hub, mirrors: tuple[Hub, Hub], cli: Cli
) -> None:
    names = [f"org/r{number}" for number in range(12)]
    for name in names:
        hub.create(name).commit({"a.bin": name.encode()})
    truss.config("model_cache:\n" + "".join(f"  - repo_id: {name}\n" for name in names))
    fail_all(hub, *DOWN)
    ran = done(cli())
    assert len(hub.requests) <= 4 * 3  # four entries at a time, three attempts each
    assert ran.err.count("is unavailable") == 1


def test_the_hub_itself_is_asked_while_it_answers(truss: Truss, hub: Hub, mirrors: tuple[Hub, Hub], cli: Cli) -> None:
    hub.tokens["good"] = Rights()
    fail_all(hub, "503", "503", "pass", "503")
    done(cli(HF_TOKEN="good"))
    assert tokens(hub) == {"good"}
    assert [mirror.requests for mirror in mirrors] == [[], []]


def test_a_hub_that_asks_for_a_long_wait_is_unavailable_at_once(
    hub: Hub, mirrors: tuple[Hub, Hub], truss: Truss, cli: Cli
) -> None:
    fail_all(hub, "429 Retry-After=300")
    done(cli())
    assert len(hub.requests) == 1
    assert fetched(truss) == FILES


def test_the_next_mirror_is_asked_and_at_last_the_hub_again(
    hub: Hub, mirrors: tuple[Hub, Hub], truss: Truss, cli: Cli
) -> None:
    for server in (hub, *mirrors):
        fail_all(server, *["503"] * 3)
    ran = done(cli())
    assert ran.err.count("is asked instead") == 3
    assert [len(mirror.requests) for mirror in mirrors] == [3, 3]
    assert fetched(truss) == FILES
    assert hub.leaks == []


def test_the_run_ends_when_no_server_is_available(hub: Hub, mirrors: tuple[Hub, Hub], cli: Cli) -> None:
    for server in (hub, *mirrors):
        fail_all(server, "503 Retry-After=300", *DOWN)
    hub.faults[0] = ("hub", "", ["503 Retry-After=300", "404 X-Error-Code=RepoNotFound"])
    ran = cli()
    assert ran.code == 1
    assert "no such repo" in ran.err


@pytest.mark.parametrize("status", ["401", "403", "404", "403 X-Error-Code=GatedRepo", "401 X-Error-Code=RepoNotFound"])
def test_a_refusal_is_never_followed_by_another_server(
    status: str, hub: Hub, mirrors: tuple[Hub, Hub], cli: Cli
) -> None:
    fail_all(hub, *[status] * 9)
    assert cli().code == 1
    hub.faults.clear()
    hub.fail("model.safetensors", *[status] * 9)
    assert cli().code == 1
    assert [mirror.requests for mirror in mirrors] == [[], []]


def test_a_refusal_of_a_mirror_is_final_and_says_whose_it_is(hub: Hub, mirrors: tuple[Hub, Hub], cli: Cli) -> None:
    hub.repos["org/name"].gated = True
    ran = cli(HF_ENDPOINT=NOWHERE, HF_TOKEN="secret-token")
    assert ran.code == 1
    said = f"the mirror {mirrors[0].url} answers 401, asked while {NOWHERE} is unavailable\n"
    assert said in ran.err
    assert f"hint: Wait for {NOWHERE}, or correct TRUSS_CACHE_HF_ENDPOINTS. Mirrors get no token.\n" in ran.err
    assert mirrors[1].requests == []
    assert "secret-token" not in ran.text


def test_wrong_bytes_of_the_hub_are_never_asked_of_another_server(hub: Hub, mirrors: tuple[Hub, Hub], cli: Cli) -> None:
    hub.fail("model.safetensors", *["flip"] * 9, host="cdn")
    ran = cli()
    assert ran.code == 1
    assert "got sha256 " in ran.err
    assert [mirror.requests for mirror in mirrors] == [[], []]


def test_the_bytes_of_a_mirror_are_compared_with_the_digest_that_the_hub_listed(
    hub: Hub, mirrors: tuple[Hub, Hub], truss: Truss, cli: Cli
) -> None:
    hub.fail("model.safetensors", *DOWN)
    mirrors[0].fail("model.safetensors", *["flip"] * 9, host="cdn")
    ran = cli()
    assert ran.code == 1
    assert "got sha256 " in ran.err
    assert mirrors[1].requests == []
    assert not list(truss.hub_cache.glob("models--org--name/snapshots/*/model.safetensors"))


def test_a_locked_entry_gets_the_locked_bytes_from_a_mirror(
    truss: Truss, hub: Hub, repo: Repo, mirrors: tuple[Hub, Hub], cli: Cli
) -> None:
    done(cli("lock"))
    repo.commit({"model.safetensors": b"another"})
    mirrors[0].requests.clear()
    done(cli(HF_ENDPOINT=NOWHERE, TRUSS_CACHE_LOCKED="1"))
    assert fetched(truss) == FILES
    assert [request for request in mirrors[0].requests if "/api/" in request.path] == []


def test_a_file_goes_on_at_a_mirror_where_the_hub_left_off(
    truss: Truss, hub: Hub, mirrors: tuple[Hub, Hub], cli: Cli
) -> None:
    hub.repos["org/name"].commit({"model.safetensors": BIG})
    hub.fail("model.safetensors", "pass", *["cut"] * 2, *["503"] * 30, host="cdn")
    hub.fail("model.safetensors", "pass", *DOWN)
    done(cli(TRUSS_CACHE_CONNECTIONS="1"))
    assert fetched(truss)["model.safetensors"] == BIG
    assert 0 < mirrors[0].sent["cdn"] < len(BIG) - (8 << 20)


def test_a_later_run_resumes_at_a_mirror(truss: Truss, hub: Hub, mirrors: tuple[Hub, Hub], cli: Cli) -> None:
    hub.repos["org/name"].commit({"model.safetensors": BIG})
    hub.fail("model.safetensors", "pass", *["403"] * 30, host="cdn")
    assert cli(TRUSS_CACHE_CONNECTIONS="1").code == 1
    assert mirrors[0].requests == []
    done(cli(HF_ENDPOINT=NOWHERE))
    assert fetched(truss)["model.safetensors"] == BIG
    assert mirrors[0].sent["cdn"] < len(BIG) - (4 << 20)


def test_the_pages_of_a_listing_are_of_one_server(truss: Truss, hub: Hub, mirrors: tuple[Hub, Hub], cli: Cli) -> None:
    files = {f"{number:02}.bin": b"%d" % number for number in range(9)}
    hub.repos["org/name"].commit(files)
    hub.page, mirrors[0].page = 4, 3
    hub.relink = lambda link: link and link.replace("cursor=4", "cursor=of-the-hub")
    tree = f"tree/{hub.repos['org/name'].resolve('main')}"
    hub.fail(tree, "pass", *DOWN)
    done(cli())
    assert fetched(truss) == FILES | files
    cursors = [request.query.partition("cursor=")[2] for request in mirrors[0].asked("GET", tree)]
    assert cursors[-4:] == ["", "3", "6", "9"]


def test_a_mirror_may_redirect_and_no_server_gets_a_token(
    truss: Truss, hub: Hub, mirrors: tuple[Hub, Hub], cli: Cli
) -> None:
    commit = hub.repos["org/name"].resolve("main")
    for path in (f"/api/models/org/name/tree/{commit}", f"/org/name/resolve/{commit}/model.safetensors"):
        query = "?recursive=true&expand=false" if "/tree/" in path else ""
        mirrors[0].fail(path, f"302 Location={mirrors[1].url}{path}{query}")
    done(cli(HF_ENDPOINT=NOWHERE, HF_TOKEN="secret-token"))
    assert fetched(truss) == FILES
    assert len(mirrors[1].requests) == 3  # the tree, the file, and its CDN
    assert tokens(mirrors[0]) | tokens(mirrors[1]) == {None}


def test_a_mirror_proves_no_access_of_a_new_credential(
    truss: Truss, hub: Hub, mirrors: tuple[Hub, Hub], cli: Cli, fast_clock: FastClock
) -> None:
    hub.tokens["hf_old"] = hub.tokens["hf_new"] = Rights()
    secret = truss.secrets / "hf_access_token"
    secret.write_text("hf_old")
    done(cli())
    secret.write_text("hf_new")
    ran = truss.cli(HF_ENDPOINT=NOWHERE, **fast_clock(20))
    assert ran.code == 1
    assert [mirror.requests for mirror in mirrors] == [[], []]
    assert cli("why", "--check").code == 1
    done(cli())


SECRET = "https://me:secret@mirror.example"


@pytest.mark.parametrize("name", ["HF_ENDPOINT", "TRUSS_CACHE_HF_ENDPOINTS"])
@pytest.mark.parametrize(
    "url",
    ["mirror.example", "ftp://mirror.example", "https://", SECRET, "https://m:0", "https://m:99999", "https://m?x=1"],
)
def test_a_url_of_no_hub_is_exit_3_and_sends_nothing(url: str, name: str, hub: Hub, mirrors: object, cli: Cli) -> None:
    for command in ("run", "plan", "lock"):
        ran = cli(command, **{name: url})
        assert (ran.code, ran.out) == (3, ""), ran.text
        assert ran.err.startswith(name)
        assert "secret" not in ran.err
    assert hub.requests == []


def test_a_list_with_an_empty_place_is_exit_3(truss: Truss, repo: Repo, cli: Cli) -> None:
    ran = cli(TRUSS_CACHE_HF_ENDPOINTS="https://mirror.example,")
    assert ran.code == 3
    assert ran.err.startswith("TRUSS_CACHE_HF_ENDPOINTS: got another text at place 2, expected https://HOST")


def test_a_wrong_hub_endpoint_matters_to_no_run_without_work(truss: Truss, repo: Repo, cli: Cli) -> None:
    done(cli())
    done(cli(HF_ENDPOINT="nonsense"))
    assert truss.doit(HF_ENDPOINT="nonsense").code == 0
    done(cli("clean"))
    ran = truss.doit(HF_ENDPOINT="nonsense")
    assert ran.code == 3
    assert "HF_ENDPOINT is not the URL of a Hub" in ran.err
    assert "Traceback" not in ran.text


def test_a_later_run_of_the_same_process_asks_the_hub_first(
    truss: Truss, hub: Hub, mirrors: tuple[Hub, Hub], cli: Cli
) -> None:
    fail_all(hub, *["503"] * 3)
    done(cli())
    asked = len(mirrors[0].requests)
    done(cli("run", "-a"))
    assert len(mirrors[0].requests) == asked
