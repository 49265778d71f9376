"""huggingface_hub itself, in processes of its own, judges the Hub stand-in that our tests rely on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from servers.hub import Hub, Repo, Rights

WEIGHTS = os.urandom(40_000)
ODD = {"a b+ü.txt": b"odd", "#%/100%.bin": b"odder", "%41.json": b"[]", "q?x=1&y.bin": b"q", "empty.bin": b""}
HARNESSES = "/api/agent-harnesses"  # huggingface_hub asks it by itself, once a day and cache
FILES = {"config.json": b"{}", "w.safetensors": WEIGHTS, "fp16/w.safetensors": WEIGHTS[::-1], **ODD}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        running.tokens = {
            "good": Rights(),
            "no-access": Rights(gated=False, private=False),
            "list-only": Rights(read=False),
            "read-only": Rights(list=False),
        }
        yield running


@pytest.fixture
def repo(hub: Hub) -> Repo:
    repo = hub.create("org/name")
    repo.commit(FILES)
    return repo


def judge(hub: Hub, home: Path, code: str, **env: str) -> Any:
    """Run `code` beside huggingface_hub, which knows `hub` only; return its `answer`, or the classes of its error."""
    script = (
        "import json, warnings; warnings.simplefilter('error')\n"
        "from huggingface_hub import *\n"
        "try:\n" + "".join(f"    {line}\n" for line in code.splitlines()) + "except Exception as error:\n"
        "    answer = [kind.__name__ for kind in type(error).__mro__]\n"
        "print(json.dumps(answer))\n"
    )
    own = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PATH": os.environ["PATH"],
        "HOME": str(home),
    }
    run = subprocess.run(
        [sys.executable, "-c", script], env={**own, **env}, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_snapshot_download_gets_every_file_and_a_warm_one_asks_once(hub: Hub, repo: Repo, tmp_path: Path) -> None:
    folder = Path(judge(hub, tmp_path, "answer = snapshot_download('org/name')"))
    got = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert got == FILES
    assert folder.name == repo.refs["refs/heads/main"]
    hub.requests.clear()
    judge(hub, tmp_path, "answer = snapshot_download('org/name')")
    asked = [(request.method, request.path) for request in hub.requests if request.path != HARNESSES]
    assert asked == [("GET", "/api/models/org/name/revision/main")]


def test_the_cache_it_leaves_is_scanned_without_a_warning(hub: Hub, repo: Repo, tmp_path: Path) -> None:
    judge(hub, tmp_path, "answer = snapshot_download('org/name')")
    code = "info = scan_cache_dir(); answer = [[str(w) for w in info.warnings], sum(r.nb_files for r in info.repos)]"
    assert judge(hub, tmp_path, code) == [[], len(FILES)]


def test_one_file_comes_over_the_other_host_without_the_token(hub: Hub, repo: Repo, tmp_path: Path) -> None:
    path = judge(hub, tmp_path, "answer = hf_hub_download('org/name', 'w.safetensors')", HF_TOKEN="good")
    assert Path(path).read_bytes() == WEIGHTS
    assert Path(path).resolve().name == repo.trees[repo.refs["refs/heads/main"]]["w.safetensors"].sha256
    assert {request.token for request in hub.requests if request.host == "hub" and request.path != HARNESSES} == {
        "good"
    }
    assert [request.host for request in hub.asked("GET", "w.safetensors")] == ["cdn"]
    assert hub.leaks == []


def test_a_token_at_the_other_host_is_refused_and_recorded(hub: Hub, repo: Repo) -> None:
    with urllib3.PoolManager() as http:
        url = f"{hub.url}/org/name/resolve/main/w.safetensors"
        location = http.request("HEAD", url, redirect=False).headers["Location"]
        assert http.request("GET", location).data == WEIGHTS
        assert hub.leaks == []
        assert http.request("GET", location, headers={"Authorization": "Bearer good"}).status == 400
    assert [request.token for request in hub.leaks] == ["good"]


def test_a_xet_file_still_comes_over_plain_http(hub: Hub, repo: Repo, tmp_path: Path) -> None:
    repo.xet = {"x.bin"}
    repo.commit({"x.bin": b"xet-backed"})
    code = (
        "meta = get_hf_file_metadata(hf_hub_url('org/name', 'x.bin'))\n"
        "path = hf_hub_download('org/name', 'x.bin')\n"
        "answer = [bool(meta.xet_file_data), meta.size, open(path).read()]"
    )
    assert judge(hub, tmp_path, code) == [True, 10, "xet-backed"]


def test_model_info_with_files_knows_sizes_and_digests(hub: Hub, repo: Repo, tmp_path: Path) -> None:
    code = (
        "info = model_info('org/name', files_metadata=True)\n"
        "answer = [info.sha, {s.rfilename: [s.size, s.blob_id, s.lfs and s.lfs.sha256] for s in info.siblings}]"
    )
    commit, files = judge(hub, tmp_path, code)
    assert commit == repo.refs["refs/heads/main"]
    tree = repo.trees[commit]
    assert files == {
        path: [len(data), tree[path].git_oid, tree[path].sha256 if tree[path].lfs else None]
        for path, data in FILES.items()
    }
    assert tree["config.json"].git_oid == "9e26dfeeb6e641a33dae4961196235bdb965b21b"  # as `git hash-object` says


def test_a_tree_comes_in_pages(hub: Hub, repo: Repo, tmp_path: Path) -> None:
    hub.page = 3
    code = "answer = [type(i).__name__ + ' ' + i.path for i in list_repo_tree('org/name', recursive=True)]"
    want = [f"RepoFile {path}" for path in FILES] + ["RepoFolder #%", "RepoFolder fp16"]
    assert sorted(judge(hub, tmp_path, code)) == sorted(want)
    assert len(hub.asked("GET", "/tree/main")) == 4


def test_a_tree_that_is_not_recursive_stops_at_folders(hub: Hub, repo: Repo, tmp_path: Path) -> None:
    code = (
        "answer = [i.path for i in list_repo_tree('org/name')] + [i.path for i in list_repo_tree('org/name', 'fp16')]"
    )
    top = {path.partition("/")[0] for path in FILES}
    assert sorted(judge(hub, tmp_path, code)) == sorted([*top, "fp16/w.safetensors"])


def test_paths_info_knows_the_named_files(hub: Hub, repo: Repo, tmp_path: Path) -> None:
    code = "answer = [[i.path, i.size] for i in get_paths_info('org/name', ['w.safetensors', 'a b+ü.txt', 'gone'])]"
    assert judge(hub, tmp_path, code) == [["w.safetensors", len(WEIGHTS)], ["a b+ü.txt", 3]]


def test_revisions_resolve_by_branch_tag_commit_short_commit_and_pull_request(
    hub: Hub, repo: Repo, tmp_path: Path
) -> None:
    first = repo.refs["refs/heads/main"]
    repo.tag("v1")
    main = repo.commit({"config.json": b"{'new': 1}"})
    pull = repo.commit({"config.json": None}, branch="refs/pr/1")
    named = repo.commit({"dev.txt": b"dev"}, branch="dev/x")
    code = (
        f"names = [None, 'v1', '{first}', '{first[:7]}', 'refs/pr/1', 'dev/x']\n"
        "refs = list_repo_refs('org/name', include_pull_requests=True)\n"
        "path = hf_hub_download('org/name', 'w.safetensors', revision='refs/pr/1')\n"
        "commits = [model_info('org/name', revision=name).sha for name in names]\n"
        "answer = [commits, [ref.name for ref in refs.branches + refs.tags], refs.pull_requests[0].ref, path]"
    )
    commits, names, pulls, path = judge(hub, tmp_path, code)
    assert commits == [main, first, first, first, pull, named]
    assert names == ["main", "dev/x", "v1"]
    assert pulls == "refs/pr/1"
    assert (tmp_path / "hub/models--org--name/refs/refs/pr/1").read_text() == pull
    assert Path(path).parent.name == pull


INFO, FILE = "model_info('org/{}', revision='{}')", "hf_hub_download('org/{}', '{}')"


@pytest.mark.parametrize(
    ("code", "token", "error"),
    [
        (INFO.format("none", "main"), None, "RepositoryNotFoundError"),
        (INFO.format("none", "main"), "good", "RepositoryNotFoundError"),
        (INFO.format("secret", "main"), "no-access", "RepositoryNotFoundError"),
        (INFO.format("name", "mian"), "good", "RevisionNotFoundError"),
        (INFO.format("name", "main"), "wrong", "HfHubHTTPError"),
        (INFO.format("name", "main"), "read-only", "HfHubHTTPError"),
        (FILE.format("name", "gone"), "good", "EntryNotFoundError"),
        (FILE.format("gated", "w.bin"), None, "GatedRepoError"),
        (FILE.format("gated", "w.bin"), "no-access", "GatedRepoError"),
    ],
)
def test_what_is_refused_has_the_error_class_that_it_has_at_the_hub(
    *, hub: Hub, repo: Repo, tmp_path: Path, code: str, token: str | None, error: str
) -> None:
    hub.create("org/gated", gated=True).commit({"w.bin": b"gated"})
    hub.create("org/secret", private=True).commit({"w.bin": b"private"})
    kinds = judge(hub, tmp_path, f"answer = {code}", **({"HF_TOKEN": token} if token else {}))
    assert error in kinds
    if error == "HfHubHTTPError":
        assert kinds[0] == error


def test_a_gated_repo_is_listed_for_anyone_and_read_with_access(hub: Hub, tmp_path: Path) -> None:
    hub.create("org/gated", gated=True).commit({"w.bin": b"gated"})
    listed = "answer = [i.path for i in list_repo_tree('org/gated')]"
    assert judge(hub, tmp_path, listed) == ["w.bin"]
    path = judge(hub, tmp_path, "answer = hf_hub_download('org/gated', 'w.bin')", HF_TOKEN="good")
    assert Path(path).read_bytes() == b"gated"


def test_a_token_that_may_list_and_not_read_is_refused_at_the_bytes(hub: Hub, repo: Repo, tmp_path: Path) -> None:
    code = "names = list_repo_files('org/name')\nhf_hub_download('org/name', 'config.json')"
    hub.tokens["list-only"] = Rights(read=False)
    kinds = judge(hub, tmp_path, code, HF_TOKEN="list-only")
    assert "HfHubHTTPError" in kinds or "LocalEntryNotFoundError" in kinds
    assert hub.asked("HEAD", "config.json")


@pytest.mark.parametrize("host", ["hub", "cdn"])
def test_ranges_are_answered_by_both_hosts(hub: Hub, repo: Repo, host: str) -> None:
    repo.commit({"small.bin": b"0123456789"})
    url = f"{hub.url}/org/name/resolve/main/{'w.safetensors' if host == 'cdn' else 'small.bin'}"
    data = WEIGHTS if host == "cdn" else b"0123456789"
    with urllib3.PoolManager() as http:
        for asked, want in {"bytes=2-4": data[2:5], "bytes=7-": data[7:], "bytes=-3": data[-3:]}.items():
            answer = http.request("GET", url, headers={"Range": asked})
            assert (answer.status, answer.data) == (206, want)
        past = http.request("GET", url, headers={"Range": f"bytes={len(data)}-"})
        assert (past.status, past.headers["Content-Range"]) == (416, f"bytes */{len(data)}")


def test_faults_come_in_order_and_once(hub: Hub, repo: Repo) -> None:
    repo.commit({"w.bin": b"0123456789"})
    hub.fail("w.bin", "429 Retry-After=7", "flip", "cut", "ignore-range", "pass", "stall")
    url = f"{hub.url}/org/name/resolve/main/w.bin"
    with urllib3.PoolManager(retries=False) as http:
        refused = http.request("GET", url)
        assert (refused.status, refused.headers["Retry-After"]) == (429, "7")
        assert http.request("GET", url).data == b"1123456789"
        with pytest.raises(urllib3.exceptions.HTTPError):
            http.request("GET", url)
        assert http.request("GET", url, headers={"Range": "bytes=0-1"}).status == 200
        assert http.request("GET", url, headers={"Range": "bytes=0-1"}).data == b"01"
        with pytest.raises(urllib3.exceptions.HTTPError):
            http.request("GET", url, timeout=0.2)
        assert http.request("GET", url).data == b"0123456789"
