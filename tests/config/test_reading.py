"""What a config.yaml means, field by field (docs/contract.md)."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from truss_cache_tasks import Config, Entry, load_config
from truss_cache_tasks.errors import ConfigError
from truss_cache_tasks.model.credentials import AuthMethod, Role
from truss_cache_tasks.model.request import Layout, Request, SourceRef


def write(folder: Path, text: str, name: str = "config.yaml") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def read(folder: Path, text: str) -> Config:
    return load_config(write(folder, text))


VOLUMES = "volumes of Baseten's delivery network, which have no address outside of it"


def one(folder: Path, text: str) -> Entry:
    (entry,) = read(folder, text).entries
    return entry


def test_an_entry_carries_the_users_own_words(tmp_path: Path) -> None:
    text = """
model_cache:
  - repo_id: gcs://bucket/models/sd/
    kind: gcs
    allow_patterns: ["*.safetensors", '*.json']
    ignore_patterns: []
    use_volume: yes
    volume_folder: ./sd//fp16/
    runtime_secret_name: my-gcs.key
"""
    entry = one(tmp_path, text)
    assert entry.repo_id == "gcs://bucket/models/sd/"
    assert entry.allow_patterns == ("*.safetensors", "*.json")
    assert entry.ignore_patterns == ()
    assert (entry.use_volume, entry.volume_folder) == (True, "./sd//fp16/")
    assert (entry.runtime_secret_name, entry.secret_is_named) == ("my-gcs.key", True)
    assert entry.where == f"{tmp_path}/config.yaml:3: model_cache[0]"
    assert (entry.config, entry.data_dir) == (tmp_path / "config.yaml", tmp_path / "data")
    assert entry.request == Request(
        SourceRef("gs", "bucket", "models/sd"), "", ("*.safetensors", "*.json"), (), Layout.VOLUME, "sd/fp16"
    )


def test_a_bare_hub_entry_is_main_of_the_hub_layout(tmp_path: Path) -> None:
    entry = one(tmp_path, "model_cache:\n- repo_id: org/name\n")
    assert (entry.name, entry.revision) == ("org/name", "main")
    assert entry.request == Request(SourceRef("hf", "org/name"), "main", None, (), Layout.HUB)
    assert (entry.runtime_secret_name, entry.secret_is_named) == ("hf_access_token", False)
    assert (entry.allow_patterns, entry.ignore_patterns, entry.volume_folder, entry.mount_location) == (None,) * 4


@pytest.mark.parametrize(
    ("repo_id", "source", "form"),
    [
        ("org/name", "hf://org/name", Layout.HUB),
        ("gpt2", "hf://gpt2", Layout.HUB),
        ("hf://org/name", "hf://org/name", Layout.HUB),
        ("gs://b", "gs://b", Layout.BUCKET),
        ("gs://b/", "gs://b", Layout.BUCKET),
        ("gcs://b/p/q//", "gs://b/p/q", Layout.BUCKET),
        ("s3://b//p//q/", "s3://b/p//q", Layout.BUCKET),
        ("s3://b/m@v1 final", "s3://b/m@v1 final", Layout.BUCKET),
        ("r2://account_id.bucket/p//", "r2://account_id.bucket/p", Layout.BUCKET),
        ("r2://0a1b.my.bucket", "r2://0a1b.my.bucket", Layout.BUCKET),
        ("cw://bucket/p/q", "cw://bucket/p/q", Layout.BUCKET),
        ("file://weights/", "file://weights", Layout.BUCKET),
        ("file://./weights", "file://./weights", Layout.BUCKET),
        ("file:///srv/weights//", "file:///srv/weights", Layout.BUCKET),
    ],
)
def test_every_spelling_of_a_source_has_one_canonical_form(
    repo_id: str, source: str, form: Any, tmp_path: Path
) -> None:
    entry = one(tmp_path, f"model_cache:\n- repo_id: '{repo_id}'\n")
    assert (str(entry.request.source), entry.request.layout, entry.repo_id) == (source, form, repo_id)


@pytest.mark.parametrize(
    ("lines", "revision"),
    [
        ("repo_id: org/name", "main"),
        ("repo_id: org/name\n  revision:", "main"),
        ("repo_id: org/name\n  revision: ''", "main"),
        ("repo_id: org/name\n  revision: edaa852", "edaa852"),
        ("repo_id: org/name\n  revision: refs/pr/35", "refs/pr/35"),
        ("repo_id: org/name\n  revision: '2024'", "2024"),
        ("repo_id: org/name\n  revision: !!str 2024", "2024"),
        ("repo_id: hf://org/name@v1.0", "v1.0"),
        ("repo_id: hf://org/name@refs/pr/3\n  revision: refs/pr/3", "refs/pr/3"),
        ("repo_id: hf://org/name@v1\n  revision: ''", "v1"),
    ],
)
def test_a_hub_revision_comes_from_its_field_or_its_uri_else_main(lines: str, revision: str, tmp_path: Path) -> None:
    entry = one(tmp_path, f"model_cache:\n- {lines}\n")
    assert entry.revision == entry.request.revision == revision


@pytest.mark.parametrize("repo_id", ["gs://b/p", "s3://b", "file://weights"])
def test_a_revision_on_a_bucket_or_folder_is_ignored_with_a_warning(repo_id: str, tmp_path: Path) -> None:
    config = read(tmp_path, f"model_cache:\n- repo_id: {repo_id}\n  revision: main\n")
    assert config.entries[0].request.revision == ""
    assert config.entries[0].revision == "main"
    (warning,) = config.warnings
    assert "config.yaml:3: model_cache[0].revision: ignored" in warning
    assert read(tmp_path, f"model_cache:\n- repo_id: {repo_id}\n  revision: ''\n").warnings == ()


def test_null_means_not_given_and_an_empty_list_keeps_nothing(tmp_path: Path) -> None:
    fields = (
        "allow_patterns:\n  ignore_patterns: null\n  use_volume: ~\n  volume_folder:\n  kind:\n  runtime_secret_name:"
    )
    entry = one(tmp_path, f"model_cache:\n- repo_id: a/b\n  {fields}\n")
    assert (entry.allow_patterns, entry.ignore_patterns, entry.use_volume) == (None, None, False)
    assert not entry.secret_is_named
    entry = one(tmp_path, "model_cache:\n- repo_id: a/b\n  allow_patterns: []\n")
    assert entry.allow_patterns == entry.request.allow == ()


@pytest.mark.parametrize(
    "text",
    ["", "# nothing\n", "---\n...\n", "model_name: x\n", "model_cache:\n", "model_cache: []\n", "hf_cache: null\n",
     "weights: []\n", "\ufeffmodel_name: x\n", "null\n"],
)  # fmt: skip
def test_a_config_without_entries_is_no_error(text: str, tmp_path: Path) -> None:
    assert read(tmp_path, text).entries == ()


@pytest.mark.parametrize(
    "text",
    [
        "hf_cache:\n- repo_id: org/name\n",
        "model_cache:\n  repo_id: org/name\n",
        "model_cache: {repo_id: org/name}\n",
        "\ufeffmodel_cache:\r\n- repo_id: org/name\r\n",
        "weights: []\nmodel_cache: [{repo_id: org/name}]\n",
        '"model_cache": [{"repo_id": "org/name"}]',
        "x-common: &c {repo_id: org/name}\nmodel_cache: [*c]\n",
        "x-common: &c {repo_id: other/one, use_volume: false}\nmodel_cache:\n- <<: *c\n  repo_id: org/name\n",
        "x: &a {repo_id: org/name}\ny: &b {repo_id: b/b}\nmodel_cache:\n- <<: [*a, *b]\n",
        "1: a\n2024-01-01: b\nmodel_cache: [{repo_id: org/name}]\n",
        "env: !ENV x\nother: !!python/object:os.system {}\nmodel_cache: [{repo_id: org/name}]\n",
    ],
)
def test_every_form_that_real_configs_have_is_read(text: str, tmp_path: Path) -> None:
    assert one(tmp_path, text).request.source == SourceRef("hf", "org/name")


def test_a_mapping_is_named_without_an_index(tmp_path: Path) -> None:
    assert one(tmp_path, "model_cache:\n  repo_id: org/name\n").where.endswith("config.yaml:2: model_cache")


def test_volume_folder_without_use_volume_is_ignored_with_a_warning_as_in_truss(tmp_path: Path) -> None:
    config = read(tmp_path, "model_cache:\n- repo_id: a/b\n  volume_folder: x\n- repo_id: c/d\n  volume_folder: x\n")
    assert [entry.request.layout for entry in config.entries] == [Layout.HUB, Layout.HUB]
    assert [entry.volume_folder for entry in config.entries] == ["x", "x"]
    assert [warning.partition(": ")[2] for warning in config.warnings] == [
        "model_cache[0].volume_folder: ignored without `use_volume: true`, as in Truss",
        "model_cache[1].volume_folder: ignored without `use_volume: true`, as in Truss",
    ]


def test_a_wildcard_in_a_prefix_is_literal_and_warned_of(tmp_path: Path) -> None:
    config = read(tmp_path, "model_cache:\n- repo_id: s3://b/m/*.bin\n")
    assert config.entries[0].request.source.prefix == "m/*.bin"
    assert "config.yaml:2: model_cache[0].repo_id: a wildcard in the prefix" in config.warnings[0]


def test_weights_are_mounts_with_their_own_names_for_things(tmp_path: Path) -> None:
    text = """
weights:
- source: hf://org/name@v2
  mount_location: /models//a/
  auth_secret_name: mine
- source: s3://b/p/
  mount_location: /models/b
  allow_patterns: ["**/*.bin"]
  auth: {auth_method: aws_oidc, aws_oidc_role_arn: r, aws_oidc_region: e}
- source: gs://b/p
  mount_location: /models/c
  auth: {auth_method: custom_secret, auth_secret_name: other, aws_oidc_role_arn: ''}
- source: file://w
  mount_location: /models/a/inside
"""
    first, second, third, fourth = read(tmp_path, text).entries
    assert (first.repo_id, first.revision, first.mount_location) == ("hf://org/name@v2", "v2", "/models//a/")
    assert first.request == Request(SourceRef("hf", "org/name"), "v2", None, (), Layout.MOUNT, "/models/a")
    assert (first.runtime_secret_name, first.secret_is_named) == ("mine", True)
    assert (second.runtime_secret_name, second.secret_is_named) == ("hf_access_token", False)
    assert (second.revision, second.request.allow) == ("", ("**/*.bin",))
    assert second.role == Role(method=AuthMethod.AWS_OIDC, account="r", scope="e")
    assert (third.runtime_secret_name, third.secret_is_named, third.role) == ("other", True, None)
    assert [entry.name for entry in (first, second, third, fourth)] == ["org/name", "b/p", "b/p#2", "w"]


def test_a_secret_beside_a_role_is_ignored_with_a_warning(tmp_path: Path) -> None:
    text = """
weights:
- source: s3://b/p
  mount_location: /models/b
  auth_secret_name: mine
  auth: {auth_method: AWS_ASSUME_ROLE, aws_assume_role_arn: r, aws_assume_role_region: e}
"""
    config = read(tmp_path, text)
    assert config.entries[0].role == Role(method=AuthMethod.AWS_ASSUME_ROLE, account="r", scope="e")
    assert not config.entries[0].secret_is_named
    assert config.warnings[0].endswith(
        "config.yaml:5: weights[0].auth_secret_name: ignored, AWS_ASSUME_ROLE takes no secret"
    )


def test_data_dir_is_relative_to_the_config(tmp_path: Path) -> None:
    text = "data_dir: ../secrets/\nmodel_cache: [{repo_id: s3://b}]\n"
    assert one(tmp_path, text).data_dir == tmp_path.parent / "secrets"


def test_only_the_hub_variables_of_the_config_are_kept(tmp_path: Path) -> None:
    text = """
environment_variables: {HF_HOME: ./hf, HF_HUB_CACHE: ~/hub, XDG_CACHE_HOME: null, HF_HUB_OFFLINE: 1, A: [1]}
model_cache: [{repo_id: a/b}]
"""
    assert one(tmp_path, text).hub_env == (("HF_HOME", f"{tmp_path}/hf"), ("HF_HUB_CACHE", "~/hub"))


def test_duplicate_keys_that_we_do_not_read_are_a_warning(tmp_path: Path) -> None:
    text = "resources:\n  gpu: A10\n  gpu: H100\nmodel_cache: [{repo_id: a/b}]\nenvironment_variables: {A: 1, A: 2}\n"
    found = sorted(warning.removeprefix(f"{tmp_path}/") for warning in read(tmp_path, text).warnings)
    assert found == [
        "config.yaml:3: gpu: given twice, first on line 2; the last one wins",
        "config.yaml:5: A: given twice, first on line 5; the last one wins",
    ]


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("model-cache", "model_cache"),
        ("modelcache", "model_cache"),
        ("Model_Cache", "model_cache"),
        ("model_caches", "model_cache"),
        ("hf-cache", "hf_cache"),
        ("weight", "weights"),
        ("weigths", "weights"),
    ],
)
def test_a_mistyped_section_is_an_error_that_names_the_right_one(key: str, meant: str, tmp_path: Path) -> None:
    text = f"model_name: x\n{key}:\n- repo_id: a/b\n"
    with pytest.raises(ConfigError, match=f":2: {key}: unknown section, expected {meant}$") as raised:
        read(tmp_path, text)
    assert raised.value.hint == f"Write {meant}."
    (warning,) = read(tmp_path, f"{text}{'weights' if meant != 'weights' else 'model_cache'}: []\n").warnings
    assert warning.endswith(f":2: {key}: not read; did you mean {meant}?"), "beside a section it is a warning"


@pytest.mark.parametrize(
    "key", ["model_name", "model_metadata", "cache", "model_class_name", "cache_internal", "runtime"]
)
def test_a_key_of_truss_is_no_mistyped_section(key: str, tmp_path: Path) -> None:
    assert read(tmp_path, f"{key}: x\n").warnings == ()


@pytest.mark.parametrize(
    "value",
    ["hf_aB3dE5fG7hJ9kL1mN3pQ5rS7tU9vW1xY3z", "hf_ABCDEFGHIJKLMNOP", "AKIAIOSFODNN7ABCDEFG", "ghp_abcdEFGH0123456789",
     "9f8e7d6c5b4a39281706f5e4d3c2b1a0", "-----BEGIN PRIVATE KEY----- MIIE"],
)  # fmt: skip
def test_a_real_looking_secret_in_the_config_is_warned_of_and_never_shown(value: str, tmp_path: Path) -> None:
    (warning,) = read(tmp_path, f"secrets:\n  hf_access_token: '{value}'\n").warnings
    assert warning.startswith(f"{tmp_path}/config.yaml:2: secrets.hf_access_token: looks like a real secret")
    assert value not in warning


@pytest.mark.parametrize(
    "value",
    ["null", "''", "ENTER HF ACCESS TOKEN HERE", "your-hf-access-token", "ENTER HF API KEY HERE", "hf_your_token_here",
     "hf_xxxxxxxxxxxxxxxxxxxxxxxx", "<YOUR_TOKEN_1234567890>", "${HF_TOKEN_0123456789}", "hf_...", "hf_access_token",
     "my-hf-access-token-secret-1", "none", "12345678901234567890", "[1]"],
)  # fmt: skip
def test_a_placeholder_secret_is_not_warned_of(value: str, tmp_path: Path) -> None:
    assert read(tmp_path, f"secrets:\n  hf_access_token: {value}\n").warnings == ()


def test_both_spellings_of_the_file_name_are_found_in_a_folder(tmp_path: Path) -> None:
    for name in ("config.yaml", "config.yml"):
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        write(folder, "model_cache: [{repo_id: a/b}]", name)
        assert load_config(folder).path == load_config(str(folder / name)).path == folder / name


def test_any_other_file_may_be_named_too(tmp_path: Path) -> None:
    write(tmp_path, "model_cache: []")
    path = write(tmp_path, "model_cache: [{repo_id: a/b}]", "other.yaml")
    assert [entry.name for entry in load_config(path).entries] == ["a/b"]


def test_messages_name_the_file_as_seen_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sd").mkdir()
    write(tmp_path / "sd", "model_cache: [{repo_id: a/b}]")
    monkeypatch.chdir(tmp_path)
    config = load_config("sd")
    assert config.entries[0].where == "sd/config.yaml:1: model_cache[0]"
    assert config.path == Path(os.getcwd(), "sd/config.yaml")


def test_a_thousand_entries_are_read_in_a_moment(tmp_path: Path) -> None:
    item = "- repo_id: org/name-{}\n  revision: v1\n  allow_patterns:\n  - '*.json'\n  - '*.bin'\n"
    path = write(tmp_path, "model_cache:\n" + "".join(item.format(number) for number in range(1000)))
    spent = []
    for _ in range(3):
        start = time.process_time()
        assert len(load_config(path).entries) == 1000
        spent.append(time.process_time() - start)
    assert min(spent) < 0.5  # 0.08 s on two cores; the Python YAML loader alone takes 0.4


def test_volumes_of_bdn_beside_entries_are_warned_of(tmp_path: Path) -> None:
    text = "bdn:\n  mounts: [{source: 'bdn:ns/vol', path: /v}]\nmodel_cache: [{repo_id: a/b}]\n"
    (warning,) = read(tmp_path, text).warnings
    assert warning.endswith("config.yaml:2: bdn.mounts: not fetched: " + VOLUMES)


@pytest.mark.parametrize("bdn", ["{}", "{mounts: []}", "{mounts: null}", "{access: [x]}", "null", "[]", "text"])
def test_a_bdn_without_volumes_is_ignored(bdn: str, tmp_path: Path) -> None:
    config = read(tmp_path, f"bdn: {bdn}\nweights: []\n")
    assert (config.entries, config.warnings) == ((), ())
