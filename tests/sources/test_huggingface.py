"""The Hugging Face source against the Hub stand-in: the contract of all sources, then what only the Hub has."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from entries import entry, open_with, settings
from servers.hub import Hub, Repo, Rights

from truss_cache_tasks.errors import (
    AccessDenied,
    CacheTaskError,
    ConfigError,
    CredentialError,
    NotFound,
    PermanentError,
    TransientError,
)
from truss_cache_tasks.model.listing import Pins, RemoteFile
from truss_cache_tasks.network.exchange import ExchangeLimits
from truss_cache_tasks.network.retry import RetryLimits
from truss_cache_tasks.sources.huggingface import HuggingFaceSource
from truss_cache_tasks.sources.registry import open_source
from truss_cache_tasks.sources.testing import SourceContract, by_path, digest_of, read, text_of

GOOD = "hf_goodgoodgood"
RIGHTS = {
    GOOD: Rights(),
    "hf_no_access": Rights(gated=False, private=False),
    "hf_list_only": Rights(read=False),
    "hf_read_only": Rights(list=False),
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        running.tokens = dict(RIGHTS)
        yield running


@pytest.fixture
def repo(hub: Hub) -> Repo:
    repo = hub.create("org/name")
    repo.commit({"config.json": b"{}", "w.safetensors": bytes(range(256)) * 100})
    return repo


QUICK = ExchangeLimits(head_s=0.3, stall_s=0.3, retry=RetryLimits(attempts=3))


class Pauses(list[float]):
    """The waits of a source, which take no time."""

    def check(self) -> None:
        pass

    def wait(self, seconds: float) -> None:
        self.append(seconds)


class Sources:
    """Makes sources of one Hub, for processes that have nothing but the variables given."""

    def __init__(self, hub: Hub, home: Path) -> None:
        self.hub, self.home, self.pauses = hub, home, Pauses()

    def __call__(self, uri: str = "org/name", token: str | None = None, **fields: Any) -> HuggingFaceSource:
        env = {"HF_ENDPOINT": self.hub.url, "HOME": str(self.home), "HF_HOME": str(self.home / "hf")}
        if token is not None:
            env["HF_TOKEN"] = token
        found = settings(self.home / "secrets", **env)
        return open_with(HuggingFaceSource, entry(uri, **fields), found, limits=QUICK, cancel=self.pauses)


@pytest.fixture
def source(hub: Hub, tmp_path: Path) -> Sources:
    return Sources(hub, tmp_path)


class HubStore:
    """The contract's view of one repo."""

    secrets = (GOOD, "hf_wrongwrongwrong")

    def __init__(self, hub: Hub, sources: Sources, name: str, *, private: bool, token: str | None) -> None:
        self.hub, self.sources, self.name, self.token = hub, sources, name, token
        self.repo = hub.create(name, private=private)
        self.repo.lfs_size = 20  # so that LFS files and plain ones are among the contract's

    def put(self, path: str, data: bytes) -> None:
        self.repo.commit({path: data})

    def delete(self, path: str) -> None:
        self.repo.commit({path: None})

    def source(self, **fields: Any) -> HuggingFaceSource:
        return self.sources(self.name, self.token, **fields)

    def missing(self) -> HuggingFaceSource:
        return self.sources("org/none", self.token)

    def refused(self) -> HuggingFaceSource:
        return self.sources(self.name, "hf_wrongwrongwrong")

    def public(self) -> HubStore:
        return HubStore(self.hub, self.sources, "org/public", private=False, token=None)


class TestContract(SourceContract):
    prefixes = False  # a repo is whole
    versions = True  # each commit is
    single = False  # and a URI names no file of it

    @pytest.fixture
    def store(self, hub: Hub, source: Sources) -> HubStore:
        hub.page = 700
        return HubStore(hub, source, "org/private", private=True, token=GOOD)


# Revisions


def test_a_revision_resolves_to_its_commit_by_every_name_it_can_have(repo: Repo, source: Sources) -> None:
    first = repo.refs["refs/heads/main"]
    repo.tag("v1.0")
    repo.commit({"config.json": b"{'new': 1}"})
    pull = repo.commit({"pull.txt": b"pull"}, branch="refs/pr/1")
    branch = repo.commit({"dev.txt": b"dev"}, branch="dev/x y")
    want = {"v1.0": first, first: first, first[:7]: first, "refs/pr/1": pull, "dev/x y": branch}
    assert {revision: source(revision=revision).listing().revision for revision in want} == want


def test_files_are_read_at_the_listed_commit_when_the_branch_has_moved_since(repo: Repo, source: Sources) -> None:
    then = source()
    files = by_path(then.listing())
    repo.commit({"config.json": b"moved", "w.safetensors": None})
    assert read(then.locate(files["config.json"])).data == b"{}"
    assert read(then.locate(files["w.safetensors"])).data == bytes(range(256)) * 100


def test_a_pinned_commit_is_listed_without_resolving_the_revision(hub: Hub, repo: Repo, source: Sources) -> None:
    first = repo.refs["refs/heads/main"]
    repo.commit({"new.bin": b"new"})
    hub.requests.clear()
    listing = source().listing(Pins(first))
    assert listing.revision == first
    assert set(by_path(listing)) == {"config.json", "w.safetensors"}
    assert [request.path for request in hub.requests] == [f"/api/models/org/name/tree/{first}"]


def test_a_listing_costs_one_call_for_the_commit_and_one_for_each_page(hub: Hub, repo: Repo, source: Sources) -> None:
    hub.page = 1
    commit = source().listing().revision
    tree = f"/api/models/org/name/tree/{commit}"
    assert [request.path for request in hub.requests] == ["/api/models/org/name/revision/main", tree, tree]


def test_a_misspelled_revision_gets_the_name_it_may_mean(repo: Repo, source: Sources) -> None:
    repo.tag("v1.0")
    with pytest.raises(NotFound, match=r"org/name: no revision 'mian'") as caught:
        source(revision="mian").listing()
    assert caught.value.hint == "Did you mean 'main'?"
    with pytest.raises(NotFound) as caught:
        source(revision="fp16").listing()
    assert caught.value.hint == "Use one that it has: main, v1.0, or a commit."


def test_a_pinned_commit_that_is_gone_is_named_with_its_revision(repo: Repo, source: Sources) -> None:
    with pytest.raises(NotFound, match=f"commit {'0' * 40}, which stands for revision 'main', is gone"):
        source().listing(Pins("0" * 40))


# Files


def test_lfs_and_xet_files_have_their_sha256_and_others_their_git_sha1(repo: Repo, source: Sources) -> None:
    repo.xet = {"xet.bin"}
    repo.commit({"xet.bin": b"xet"})
    found = source()
    files = by_path(found.listing())
    digests = {path: file.digest for path, file in files.items()}
    assert {path: digest and digest.algorithm for path, digest in digests.items()} == {
        "config.json": "git-sha1",
        "w.safetensors": "sha256",
        "xet.bin": "sha256",
    }
    assert files["config.json"].version == "9e26dfeeb6e641a33dae4961196235bdb965b21b"  # `git hash-object` of {}
    assert all(digest and file.version == digest.value for file in files.values() for digest in [file.digest])
    for path, digest in digests.items():
        assert digest
        assert digest_of(read(found.locate(files[path])).data, digest) == digest


def test_locating_asks_nobody(hub: Hub, repo: Repo, source: Sources) -> None:
    found = source(token=GOOD)
    files = found.listing().files
    hub.requests.clear()
    for file in files:
        assert found.locate(file).headers["Authorization"] == f"Bearer {GOOD}"
    assert hub.requests == []


def test_a_renamed_repo_is_followed(hub: Hub, repo: Repo, source: Sources) -> None:
    commit = repo.refs["refs/heads/main"]
    hub.fail("/org/old/revision/main", "307 Location=/api/models/org/name/revision/main")
    hub.fail(f"/org/old/tree/{commit}", f"307 Location=/api/models/org/name/tree/{commit}?recursive=true")
    hub.fail(f"/org/old/resolve/{commit}/config.json", f"307 Location=/org/name/resolve/{commit}/config.json")
    found = source("org/old")
    assert read(found.locate(by_path(found.listing())["config.json"])).data == b"{}"


# Tokens


def test_the_token_goes_to_the_hub_and_not_to_the_cdn(hub: Hub, repo: Repo, source: Sources) -> None:
    found = source(token=GOOD)
    files = by_path(found.listing())
    assert len(read(found.locate(files["w.safetensors"])).data) == 25_600
    assert {request.token for request in hub.requests if request.host == "hub"} == {GOOD}
    assert [request.token for request in hub.requests if request.host == "cdn"] == [None]


def test_without_a_token_of_ours_the_one_of_the_process_is_not_sent(
    hub: Hub, repo: Repo, source: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_ambient")
    source().listing()
    assert {request.token for request in hub.requests} == {None}


def test_a_named_secret_is_the_token(hub: Hub, repo: Repo, source: Sources, tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "my_token").write_text(GOOD + "\n")
    source(runtime_secret_name="my_token").listing()
    assert {request.token for request in hub.requests} == {GOOD}


def test_a_named_secret_that_is_no_token_of_a_hub_is_sent_to_nobody(
    hub: Hub, repo: Repo, source: Sources, tmp_path: Path
) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "database").write_text("pa55word\n")
    with pytest.raises(CredentialError, match="database: is no token of the Hub") as caught:
        source(runtime_secret_name="database").listing()
    assert "HF_TOKEN" in (caught.value.hint or "")
    assert "pa55word" not in text_of(caught.value)
    assert hub.requests == []


def test_without_implicit_tokens_no_token_is_sent_and_the_message_says_why(
    hub: Hub, repo: Repo, tmp_path: Path
) -> None:
    variables = {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "HF_TOKEN": GOOD, "HF_ENDPOINT": hub.url, "HOME": str(tmp_path)}
    open_with(HuggingFaceSource, entry("org/name"), settings(**variables)).listing()
    assert {request.token for request in hub.requests} == {None}
    with pytest.raises(NotFound, match="HF_HUB_DISABLE_IMPLICIT_TOKEN is set"):
        open_with(HuggingFaceSource, entry("org/none"), settings(**variables)).listing()


def test_a_next_page_on_another_host_does_not_get_the_token(hub: Hub, repo: Repo, source: Sources) -> None:
    hub.page = 1
    with Hub() as other:
        found = source(token=GOOD)
        hub.url = other.url  # from now on the Link names the other Hub
        assert len(found.listing().files) == 2
        assert other.requests == []


# Refusals


@pytest.mark.parametrize(
    ("uri", "token", "kind", "message", "hint"),
    [
        ("org/none", None, NotFound, "org/none: no such repo, or it is private and no token was found", "/org/none"),
        ("org/none", GOOD, NotFound, "no such repo, or it is private and the token of HF_TOKEN may not", "repo_id"),
        ("org/secret", None, NotFound, "HF_TOKEN and the login of `hf auth login`", "a private repo needs a token"),
        ("org/secret", "hf_no_access", NotFound, "or it is private and the token of HF_TOKEN may not see", "account"),
        ("org/name", "hf_unknown", AccessDenied, "does not know the token of HF_TOKEN", "/settings/tokens"),
        ("org/name", "hf_read_only", AccessDenied, "the token of HF_TOKEN may not list this repo", "read the contents"),
    ],
)
def test_a_refused_listing_says_what_is_wrong_and_what_to_do(
    *,
    hub: Hub,
    repo: Repo,
    source: Sources,
    uri: str,
    token: str | None,
    kind: type[CacheTaskError],
    message: str,
    hint: str,
) -> None:
    hub.create("org/secret", private=True).commit({"w.bin": b"private"})
    with pytest.raises(kind) as caught:
        source(uri, token).listing()
    assert message in str(caught.value)
    assert hint in (caught.value.hint or "")
    assert not token or token not in text_of(caught.value)


def test_without_a_token_the_places_that_were_looked_at_are_named(source: Sources, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=f"looked at {tmp_path}/secrets/hub_token, HF_TOKEN"):
        source("org/none", runtime_secret_name="hub_token").listing()


def explained(found: HuggingFaceSource, path: str) -> CacheTaskError:
    """Return the words for the Hub's refusal of the bytes of `path`, or of a file that it does not have."""
    files = by_path(found.listing())
    file = files.get(path) or RemoteFile(path, 1, "", path)
    answer = read(found.locate(file))
    assert answer.status >= 400
    return found.explain(file, answer.status, answer.headers, answer.data[:4096])


@pytest.mark.parametrize(
    ("uri", "token", "kind", "message", "hint"),
    [
        ("org/gated", None, AccessDenied, "w.bin: this repo is gated, and no token was found (looked at", "/org/gated"),
        ("org/gated", "hf_no_access", AccessDenied, "the account of the token of HF_TOKEN has no access", "/org/gated"),
        ("org/name", "hf_list_only", AccessDenied, "HF_TOKEN may list this repo, not read its files", "the contents"),
        ("org/empty", GOOD, NotFound, "w.bin: no such file at this commit", "-a"),
    ],
)
def test_refused_bytes_say_what_is_wrong_and_what_to_do(
    *,
    hub: Hub,
    repo: Repo,
    source: Sources,
    uri: str,
    token: str | None,
    kind: type[CacheTaskError],
    message: str,
    hint: str,
) -> None:
    repo.commit({"w.bin": b"w"})
    hub.create("org/gated", gated=True).commit({"w.bin": b"gated"})
    hub.create("org/empty").commit({"config.json": b"{}"})
    error = explained(source(uri, token), "w.bin")
    assert type(error) is kind
    assert message in str(error)
    assert hint in (error.hint or "")


def test_a_gated_repo_is_read_with_access(hub: Hub, source: Sources) -> None:
    hub.create("org/gated", gated=True).commit({"w.bin": b"gated"})
    found = source("org/gated", GOOD)
    (file,) = found.listing().files
    assert read(found.locate(file)).data == b"gated"


def test_a_token_that_leaves_gated_repos_out_is_told_where_to_allow_them(hub: Hub, source: Sources) -> None:
    found = source("org/gated", "hf_fine")
    said = "Please enable access to public gated repositories in your fine-grained token settings to view this one."
    headers = {"x-error-code": "GatedRepo", "X-Error-Message": said}
    error = found.explain(RemoteFile("w.bin", 1, "", "w.bin"), 403, headers, b"")
    assert isinstance(error, AccessDenied)
    assert error.hint == f"Allow it to read public gated repos at {hub.url}/settings/tokens."


def test_a_link_that_the_cdn_refuses_is_no_matter_of_rights(source: Sources) -> None:
    error = source().explain(RemoteFile("w.bin", 1, "", "w.bin"), 403, {}, b"<?xml version='1.0'?><Error/>")
    assert isinstance(error, TransientError)


# The network


def test_a_call_that_fails_for_now_is_tried_again(hub: Hub, repo: Repo, source: Sources) -> None:
    hub.fail("/revision/main", "503", "429 Retry-After=3")
    assert source().listing().revision == repo.refs["refs/heads/main"]
    first, second = source.pauses
    assert 0 <= first <= QUICK.retry.backoff_s
    assert second == 3.0


@pytest.mark.parametrize(
    ("faults", "message", "waits"),
    [
        (["503"] * 3, "the Hub answers 503", 2),
        (["408"] * 3, "the Hub answers 408", 2),
        (["503 Retry-After=7"] * 3, "the Hub answers 503, and asks to wait 7 s", 2),
        (["429 Retry-After=300"] * 3, "(429), and asks to wait 300 s", 2),
        (['429 RateLimit="api";r=0;t=55'] * 3, "(429), and asks to wait 55 s", 2),
        (["429"] * 3, "too many requests, says the Hub (429)", 2),
        (["stall"] * 3, "no answer in time", 2),
        (["cut"] * 3, "cannot be reached (RemoteProtocolError)", 2),
        (["200"], "the answer is not that of a Hub", 0),
    ],
)
@pytest.mark.parametrize("call", ["/revision/main", "/tree/{}"])
def test_a_call_that_keeps_failing_is_unavailable_after_bounded_waiting(
    *, hub: Hub, repo: Repo, source: Sources, call: str, faults: list[str], message: str, waits: int
) -> None:
    hub.fail(call.format(repo.refs["refs/heads/main"]), *faults)
    with pytest.raises(TransientError if waits else PermanentError) as caught:
        source().listing()
    assert message in str(caught.value)
    assert caught.value.hint
    assert len(source.pauses) == waits
    assert all(pause <= QUICK.retry.retry_after_cap_s for pause in source.pauses)


def test_a_host_that_nobody_answers_at_is_unavailable(hub: Hub, source: Sources) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        hub.url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(TransientError, match="cannot be reached") as caught:
            source().listing()
    assert "HF_ENDPOINT" in (caught.value.hint or "")


@pytest.mark.parametrize("endpoint", ["hub.local", "ftp://hub.local", "https://", "https://me:pass@hub.local"])
def test_an_endpoint_that_is_no_url_of_a_hub_is_a_config_error(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="HF_ENDPOINT") as caught:
        open_with(HuggingFaceSource, entry("org/name"), settings(HF_ENDPOINT=endpoint))
    assert "pass" not in text_of(caught.value)


SCRIPT = """
import sys
from entries import entry, open_with, settings
from truss_cache_tasks.sources.huggingface import HuggingFaceSource
assert "huggingface_hub" not in sys.modules, "the module must import no SDK"
source = open_with(HuggingFaceSource, entry("org/name"), settings(HOME="/nowhere", HF_ENDPOINT=sys.argv[1]))
try:
    print(source.listing())
except Exception as error:
    print(type(error).__name__, error, error.hint)
"""


def test_huggingface_hubs_own_offline_switch_is_translated_and_asks_nobody(hub: Hub, repo: Repo) -> None:
    tests = str(Path(__file__).parents[1])
    env = {"PYTHONPATH": tests, "HF_HUB_OFFLINE": "1"}
    run = subprocess.run([sys.executable, "-c", SCRIPT, hub.url], env=env, capture_output=True, text=True, check=False)
    assert run.stdout.startswith("PermanentError org/name: huggingface_hub is offline"), run.stderr
    assert hub.requests == []


def test_open_source_gives_the_hub_for_a_repo_id(repo: Repo, hub: Hub, tmp_path: Path) -> None:
    found = open_with(open_source, entry("org/name"), settings(HF_ENDPOINT=hub.url, HOME=str(tmp_path)))
    assert set(by_path(found.listing())) == {"config.json", "w.safetensors"}


ENVIRONMENT_SCRIPT = """
import os, sys
from entries import settings
from truss_cache_tasks.sources.huggingface.session import open_session
network = settings(HOME="/nowhere", REQUESTS_CA_BUNDLE=sys.argv[1]).network
open_session(network)
sys.addaudithook(lambda event, arguments: event in ("os.putenv", "os.unsetenv") and print(event, *arguments))
open_session(network)
"""


@pytest.mark.slow
def test_an_open_session_is_returned_without_a_change_of_the_environment(fault_authority: tuple[Path, Any]) -> None:
    """Another thread that copies os.environ during a change fails with a KeyError."""
    env = {"PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", ENVIRONMENT_SCRIPT, str(fault_authority[0])]
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, ""), run.stderr
