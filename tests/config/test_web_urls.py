"""URLs of web servers: what they name, what is refused, and that no message shows a query."""

from __future__ import annotations

from pathlib import Path

import pytest

from truss_cache_tasks.config.fields import InvalidText
from truss_cache_tasks.config.loader import load_config
from truss_cache_tasks.config.uris import parse_uri
from truss_cache_tasks.errors import ConfigError
from truss_cache_tasks.model.keys import canonical
from truss_cache_tasks.model.request import Layout, Request, SourceRef


def source(url: str) -> SourceRef:
    return parse_uri(url).source


@pytest.mark.parametrize(
    ("url", "sent", "lies_at"),
    [
        ("https://h/w.bin", "https://h/w.bin", "h/w.bin"),
        ("https://H.Example/A/w.bin", "https://h.example/A/w.bin", "h.example/A/w.bin"),
        ("https://h:443/w.bin", "https://h/w.bin", "h/w.bin"),
        ("https://h:0443/w.bin", "https://h/w.bin", "h/w.bin"),
        ("https://h:8443/w.bin", "https://h:8443/w.bin", "h_8443/w.bin"),
        ("https://[::1]:8443/w.bin", "https://[::1]:8443/w.bin", "__1_8443/w.bin"),
        ("https://[::1]/w.bin", "https://[::1]/w.bin", "__1/w.bin"),
        ("http://localhost:8080/w.bin", "http://localhost:8080/w.bin", "localhost_8080/w.bin"),
        ("http://127.0.0.1:80/w.bin", "http://127.0.0.1/w.bin", "127.0.0.1/w.bin"),
        ("https://h/a b/ü.bin", "https://h/a%20b/%C3%BC.bin", "h/a b/ü.bin"),
        ("https://h/a%20b/%c3%bc.bin", "https://h/a%20b/%c3%bc.bin", "h/a b/ü.bin"),
        ("https://h/group%2Fproject/w%23.bin", "https://h/group%2Fproject/w%23.bin", "h/group/project/w#.bin"),
        (
            "https://h/@scope/pkg@1.0:x/w;v=1.bin",
            "https://h/@scope/pkg@1.0:x/w;v=1.bin",
            "h/@scope/pkg@1.0:x/w;v=1.bin",
        ),
        ("https://h//a//w.bin", "https://h//a//w.bin", "h/a/w.bin"),
    ],
)
def test_a_path_is_sent_as_it_is_written_and_lies_below_its_host_unquoted(url: str, sent: str, lies_at: str) -> None:
    found = source(url)
    assert (found.url, found.cache_path) == (sent, lies_at)
    assert str(found) == sent


def test_a_query_is_a_part_of_the_name_and_is_shown_as_a_digest_alone() -> None:
    one, other = source("https://h/w.bin?id=hush7&download"), source("https://h/w.bin?id=hush8&download")
    assert one.query == "id=hush7&download"
    assert one != other
    assert str(one) != str(other)
    assert one.cache_path == "h/w.bin"
    form = canonical(Request(one, "", None, (), Layout.BUCKET))
    for text in (str(one), repr(one), str(form)):
        assert "hush7" not in text
        assert "id=" not in text
    assert source("https://h/w.bin?") == source("https://h/w.bin")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("https://", "no host"),
        ("https:///w.bin", "no host"),
        ("https://:8443/w.bin", "no host"),
        ("https://h", "names no file"),
        ("https://h/", "names no file"),
        ("https://h/dir/", "names no file"),
        ("https://h/dir/?x=1", "names no file"),
        ("https://h/a%2fw.bin/b%2Fc", "holds a '/'"),
        ("https://h/../w.bin", "'.' or '..'"),
        ("https://h/a/%2e%2E/w.bin", "'.' or '..'"),
        ("https://h/a/..%2fb/w.bin", "'.' or '..'"),
        ("https://h/a/..", "'.' or '..'"),
        ("https://h/./w.bin", "'.' or '..'"),
        ("https://h/a%00.bin", "control character"),
        ("https://h/a%0a.bin", "control character"),
        ("https://h/a%ff.bin", "not UTF-8"),
        ("https://h/100%.bin", "'%' without two hex digits"),
        ("https://h:0/w.bin", "its port"),
        ("https://h:65536/w.bin", "its port"),
        ("https://h:/w.bin", "its port"),
        ("https://h:pass/w.bin", "its port"),
        ("https://-h/w.bin", "no name of a host"),
        ("https://a..b/w.bin", "no name of a host"),
        ("https://[::g]/w.bin", "no name of a host"),
        ("https://[1.2.3]/w.bin", "no name of a host"),
        ("https://exämple.com/w.bin", "not ASCII"),
        ("https://h/w.bin#sha256=abc", "it holds a '#'"),
        ("http://h/w.bin", "http:// is not supported"),
        ("http://localhost.example.com/w.bin", "http:// is not supported"),
        ("http://127.0.0.1.example.com/w.bin", "http:// is not supported"),
        ("http://192.168.0.1/w.bin", "http:// is not supported"),
        ("https://huggingface.co/org/name", "the page of a repo"),
        ("https://me:hunter2@h/w.bin", "user name or password"),
        ("https://hunter2@h/w.bin", "user name or password"),
    ],
)
def test_what_names_no_file_or_not_safely_is_refused(url: str, says: str) -> None:
    with pytest.raises(InvalidText, match=says) as caught:
        source(url)
    assert caught.value.hint
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(
    "query",
    [
        "sig=hunter2",
        "sv=2026&sp=r&sig=hunter2",
        "a=1&X-Amz-Signature=hunter2",
        "x-amz-security-token=hunter2",
        "X-Goog-Signature=hunter2",
        "Signature=hunter2",
        "Expires=hunter2",
        "Key-Pair-Id=hunter2",
        "token=hunter2",
        "ACCESS_TOKEN=hunter2",
        "a=1;token=hunter2",
        "%74oken=hunter2",
        "private_token=hunter2",
    ],
)
def test_a_signature_or_token_in_a_query_is_refused_and_not_shown(query: str, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    for item in (f"repo_id: 'https://h/w.bin?{query}'", f"'https://h/w.bin?{query}'"):
        config.write_text(f"model_cache:\n- {item}\n")
        with pytest.raises(ConfigError) as caught:
            load_config(config)
        assert "hunter2" not in f"{caught.value} {caught.value.hint}"
    with pytest.raises(InvalidText, match="holds a secret"):
        source(f"https://h/w.bin?{query}")


def test_weights_and_model_cache_take_the_same_urls(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("weights:\n- source: https://h/a/@b/w.bin\n  mount_location: /models/w\n")
    (mounted,) = load_config(config).entries
    config.write_text("model_cache:\n- repo_id: https://h/a/@b/w.bin\n  use_volume: true\n  volume_folder: w\n")
    (cached,) = load_config(config).entries
    assert mounted.request.source == cached.request.source
    assert (mounted.name, cached.name) == ("h/a/@b/w.bin", "h/a/@b/w.bin")


def test_an_empty_folder_in_a_path_is_sent_and_is_none_on_the_disk(tmp_path: Path) -> None:
    found = source("https://h//a//w.bin")
    assert (str(found), found.cache_path) == ("https://h//a//w.bin", "h/a/w.bin")
    config = tmp_path / "config.yaml"
    config.write_text("model_cache:\n- repo_id: https://h/a//w.bin\n- repo_id: https://h/a/w.bin\n")
    with pytest.raises(ConfigError, match=r"'h/a/w\.bin' is the same file as that of"):
        load_config(config)


def test_two_entries_of_one_file_are_refused_unless_each_has_a_folder(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("model_cache:\n- repo_id: https://h/w.bin?id=1\n- repo_id: https://h/w.bin?id=2\n")
    with pytest.raises(ConfigError, match=r"config.yaml:3: .*'h/w.bin' is the same file as that of model_cache\[0\]"):
        load_config(config)
    config.write_text(
        "model_cache:\n- repo_id: https://h/w.bin?id=1\n"
        "- {repo_id: 'https://h/w.bin?id=2', use_volume: true, volume_folder: two}\n"
    )
    assert [entry.name for entry in load_config(config).entries] == ["h/w.bin", "h/w.bin#2"]
