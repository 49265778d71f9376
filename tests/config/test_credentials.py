"""Credentials: the order they are looked up in, what is refused, and that none is ever shown."""

import hashlib
import json
import os
import pickle
import traceback
from pathlib import Path
from typing import Any

import pytest
from rights import rights_of_files_count

from truss_cache_tasks import Entry, load_config
from truss_cache_tasks.config.credentials import find_credential, fingerprint
from truss_cache_tasks.config.settings import Settings
from truss_cache_tasks.errors import CredentialError
from truss_cache_tasks.model.credentials import Credential, Secret

S3 = {"aws_access_key_id": "AKID", "aws_secret_access_key": "sekrit", "aws_region": "eu-west-1"}
GCS = {
    "type": "service_account",
    "client_email": "a@b",
    "private_key": "sekrit",
    "token_uri": "https://t.example/token",
}


class World:
    """A Truss, two folders of secrets, a home, and an environment."""

    def __init__(self, root: Path) -> None:
        self.truss = root / "truss"
        self.mounted, self.etc, self.home = root / "secrets", root / "etc-secrets", root / "home"
        for folder in (self.truss / "data", self.mounted, self.etc, self.home):
            folder.mkdir(parents=True)
        self.env = {"HOME": str(self.home)}

    def entry(self, repo_id: str, extra: str = "") -> Entry:
        config = self.truss / "config.yaml"
        config.write_text(f"model_cache:\n- repo_id: {repo_id}\n{extra}")
        return load_config(config).entries[0]

    @property
    def settings(self) -> Settings:
        return Settings(secrets_dirs=(self.mounted, self.etc), environment=self.env, cwd=self.truss)

    def find(self, entry: Entry) -> Credential | None:
        found = find_credential(entry, self.settings)
        return found if isinstance(found, Credential) else None

    def refused(self, entry: Entry) -> str:
        with pytest.raises(CredentialError) as caught:
            self.find(entry)
        shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + (caught.value.hint or "")
        assert "sekrit" not in shown
        assert caught.value.hint
        return str(caught.value)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def token(credential: Credential | None) -> tuple[str, str]:
    assert credential is not None
    return credential.origin, credential.fields["token"].reveal()


def test_a_hub_token_is_looked_up_in_the_documented_order(world: World) -> None:
    entry = world.entry("a/b")
    assert world.find(entry) is None
    login = world.home / ".cache/huggingface/token"
    login.parent.mkdir(parents=True)
    login.write_text("hf_login")
    assert token(world.find(entry)) == (str(login), "hf_login")
    world.env["HUGGING_FACE_HUB_TOKEN"] = "hf_old"
    assert token(world.find(entry)) == ("HUGGING_FACE_HUB_TOKEN", "hf_old")
    world.env["HF_TOKEN"] = " hf_env\n"
    assert token(world.find(entry)) == ("HF_TOKEN", "hf_env")
    (world.etc / "hf_access_token").write_text("hf_etc")
    assert token(world.find(entry)) == (f"{world.etc}/hf_access_token", "hf_etc")
    (world.mounted / "hf_access_token").write_text("hf_mounted")
    assert token(world.find(entry)) == (f"{world.mounted}/hf_access_token", "hf_mounted")


def test_the_secret_that_the_entry_names_is_the_one(world: World) -> None:
    (world.mounted / "hf_access_token").write_text("hf_default")
    (world.mounted / "mine").write_text("hf_mine")
    entry = world.entry("a/b", "  runtime_secret_name: mine\n")
    assert token(world.find(entry)) == (f"{world.mounted}/mine", "hf_mine")


@pytest.mark.parametrize("given", ["hf_mine", "hf_mine\n", "api_org_mine", "\ufeffhf_mine"])
def test_a_named_secret_that_is_a_token_of_the_hub_is_used(given: str, world: World) -> None:
    (world.mounted / "mine").write_text(given)
    for form in ("model_cache", "weights", "auth"):
        assert token(world.find(named_in(world, form)))[1] == given.strip().strip("\ufeff")


FOREIGN = [
    "sekrit",
    "Hf_sekrit",
    "HF_sekrit",
    "xhf_sekrit",
    "hf-sekrit",
    "api_orgsekrit",
    "sekrit-hf_",
    '{"k":"sekrit"}',
]


@pytest.mark.parametrize("given", FOREIGN)
@pytest.mark.parametrize("form", ["model_cache", "weights", "auth"])
def test_a_secret_that_the_config_names_and_that_is_no_token_of_the_hub_is_not_used(
    form: str, given: str, world: World
) -> None:
    (world.etc / "mine").write_text(given)
    world.env["HF_TOKEN"] = "hf_env"
    with pytest.raises(CredentialError) as caught:
        world.find(named_in(world, form))
    assert (
        str(caught.value) == f"{world.etc}/mine: is no token of the Hub, expected one that begins with hf_ or api_org_"
    )
    assert "HF_TOKEN" in (caught.value.hint or "")
    assert given not in str(caught.value) + (caught.value.hint or "")


@pytest.mark.parametrize("extra", ["", "  runtime_secret_name: hf_access_token\n"])
def test_what_the_default_secret_the_variables_and_the_login_hold_is_used_as_it_is(extra: str, world: World) -> None:
    entry = world.entry("a/b", extra)
    (world.home / "t").write_text("mirror-login")
    world.env["HF_TOKEN_PATH"] = str(world.home / "t")
    assert token(world.find(entry))[1] == "mirror-login"
    world.env["HUGGING_FACE_HUB_TOKEN"] = "mirror-old"
    assert token(world.find(entry))[1] == "mirror-old"
    world.env["HF_TOKEN"] = "mirror-env"
    assert token(world.find(entry))[1] == "mirror-env"
    (world.mounted / "hf_access_token").write_text("mirror-file")
    assert token(world.find(entry))[1] == "mirror-file"


def named_in(world: World, form: str) -> Entry:
    """Return an entry of the Hub that names the secret `mine` in one of the forms that a config can."""
    if form == "model_cache":
        return world.entry("a/b", "  runtime_secret_name: mine\n")
    auth = {"weights": "auth_secret_name: mine", "auth": "auth: {auth_method: CUSTOM_SECRET, auth_secret_name: mine}"}
    config = world.truss / "config.yaml"
    config.write_text(f"weights:\n- source: hf://a/b\n  mount_location: /m\n  {auth[form]}\n")
    return load_config(config).entries[0]


@pytest.mark.parametrize("value", ["1", "true", "True", "TRUE", "yes", "YES", "on", "ON"])
def test_without_implicit_tokens_the_variables_and_the_login_are_not_used_and_secrets_are(
    value: str, world: World
) -> None:
    (world.home / "t").write_text("hf_login")
    world.env.update(
        HF_HUB_DISABLE_IMPLICIT_TOKEN=value, HF_TOKEN_PATH=str(world.home / "t"),
        HF_TOKEN="hf_env", HUGGING_FACE_HUB_TOKEN="hf_old",
    )  # fmt: skip
    assert world.find(world.entry("a/b")) is None
    (world.mounted / "mine").write_text("hf_mine")
    assert token(world.find(world.entry("a/b", "  runtime_secret_name: mine\n")))[1] == "hf_mine"
    (world.mounted / "hf_access_token").write_text("hf_default")
    assert token(world.find(world.entry("a/b")))[1] == "hf_default"


@pytest.mark.parametrize("value", ["", "0", "false", "no", "off", "2", " 1", "y"])
def test_what_huggingface_hub_does_not_take_for_true_leaves_implicit_tokens_on(value: str, world: World) -> None:
    world.env.update(HF_HUB_DISABLE_IMPLICIT_TOKEN=value, HF_TOKEN="hf_env")
    assert token(world.find(world.entry("a/b")))[1] == "hf_env"


def test_the_login_token_is_looked_up_with_the_variables_of_the_process_alone(world: World) -> None:
    (world.home / "t").write_text("hf_login")
    world.env["HF_TOKEN_PATH"] = "~/t"
    entry = world.entry("a/b", "environment_variables: {HF_HOME: /elsewhere, HF_TOKEN: hf_config}\n")
    assert token(world.find(entry))[1] == "hf_login"


def test_a_literal_token_in_the_config_is_never_used(world: World) -> None:
    assert world.find(world.entry("a/b", "secrets: {hf_access_token: hf_aB3dE5fG7hJ9kL1mN3pQ5rS7}\n")) is None


def test_an_empty_variable_counts_as_not_set(world: World) -> None:
    world.env.update(HF_TOKEN="", HUGGING_FACE_HUB_TOKEN="hf_old")
    assert token(world.find(world.entry("a/b")))[0] == "HUGGING_FACE_HUB_TOKEN"


@pytest.mark.parametrize("written", ["hf_x\n", "  hf_x\r\n\n", "\ufeffhf_x"])
def test_a_token_file_with_a_newline_works(written: str, world: World) -> None:
    (world.mounted / "hf_access_token").write_text(written)
    assert token(world.find(world.entry("a/b")))[1] == "hf_x"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"hf_sekrit\nhf_sekrit", "is no token"),
        (b"hf sekrit", "is no token"),
        ("hf_sekrit\u00e9".encode(), "is no token"),
        (b"hf_sekrit\x00", "is no token"),
        (b"\xffsekrit", "is not UTF-8"),
    ],
)
def test_a_token_file_that_cannot_be_a_token_is_refused(data: bytes, says: str, world: World) -> None:
    path = world.mounted / "hf_access_token"
    path.write_bytes(data)
    world.env["HF_TOKEN"] = "hf_env"
    assert world.refused(world.entry("a/b")).startswith(f"{path}: {says}")


def test_an_empty_login_token_is_refused_too(world: World) -> None:
    world.env["HF_TOKEN_PATH"] = str(world.home / "t")
    (world.home / "t").write_text("\n")
    assert world.refused(world.entry("a/b")) == f"{world.home}/t: is empty"


def test_a_token_in_a_variable_that_would_break_a_header_is_refused(world: World) -> None:
    world.env["HF_TOKEN"] = "hf_sekrit\r\nX: y"
    assert world.refused(world.entry("a/b")).startswith("HF_TOKEN: is no token")


def test_a_folder_a_fifo_or_a_loop_in_place_of_a_file_is_refused(world: World) -> None:
    entry, path = world.entry("a/b"), world.mounted / "hf_access_token"
    path.mkdir()
    assert "is no file" in world.refused(entry)
    assert fingerprint(entry, world.settings) is None
    path.rmdir()
    os.mkfifo(path)
    assert "is no file" in world.refused(entry)
    path.unlink()
    path.symlink_to("hf_access_token")
    assert "cannot be looked at" in world.refused(entry)
    assert fingerprint(entry, world.settings) is None


def test_a_file_too_large_to_be_a_credential_is_refused(world: World) -> None:
    with (world.mounted / "hf_access_token").open("wb") as stream:
        stream.truncate((1 << 20) + 1)
    assert "is larger than 1 MiB" in world.refused(world.entry("a/b"))


def test_a_credential_without_read_permission_is_refused(world: World) -> None:
    path = world.mounted / "hf_access_token"
    path.write_text("hf_x")
    path.chmod(0)
    with rights_of_files_count():
        assert "cannot be read (Permission denied)" in world.refused(world.entry("a/b"))


@pytest.mark.parametrize(
    ("written", "fields"),
    [
        (S3, S3),
        (S3 | {"aws_session_token": "tok"}, S3 | {"aws_session_token": "tok"}),
        ({"access_key_id": "AKID", "secret_access_key": "sekrit", "region": "eu-west-1"}, S3),
        (
            {"access_key_id": "A", "aws_secret_access_key": "B", "session_token": "C", "region": None, "other": 5},
            {"aws_access_key_id": "A", "aws_secret_access_key": "B", "aws_session_token": "C"},
        ),
        (S3 | {"access_key_id": "loses"}, S3),
    ],
)
def test_both_namings_of_the_s3_keys_are_read(written: Any, fields: Any, world: World) -> None:
    (world.truss / "data/s3_credentials.json").write_text(json.dumps(written))
    found = world.find(world.entry("s3://b"))
    assert found is not None
    assert found.origin == "data/s3_credentials.json"
    assert {name: secret.reveal() for name, secret in found.fields.items()} == fields


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("", "is not JSON (line 1, column 1)"),
        ('{"aws_access_key_id": sekrit}', "is not JSON (line 1, column 23)"),
        ("[1]", "is JSON, but no object"),
        ('"sekrit"', "is JSON, but no object"),
        ("{}", "aws_access_key_id is missing"),
        ('{"aws_access_key_id": "sekrit"}', "aws_secret_access_key is missing"),
        ('{"aws_access_key_id": "a", "aws_secret_access_key": ""}', "aws_secret_access_key is missing"),
        ('{"access_key_id": "a", "secret_access_key": null}', "aws_secret_access_key is missing"),
        ('{"aws_access_key_id": 5}', "aws_access_key_id: expected a string"),
        ('{"access_key_id": ["sekrit"]}', "access_key_id: expected a string"),
        (json.dumps(S3 | {"aws_region": 5}), "aws_region: expected a string"),
        ("[" * 100_000, "is JSON that no credential file holds"),
        ('{"a": ' + "9" * 5000 + "}", "is JSON that no credential file holds"),
    ],
)
def test_a_malformed_s3_file_names_the_key_and_never_a_value(written: Any, says: str, world: World) -> None:
    (world.truss / "data/s3_credentials.json").write_text(written)
    assert world.refused(world.entry("s3://b")) == f"data/s3_credentials.json: {says}"
    assert fingerprint(world.entry("s3://b"), world.settings) is not None


def test_a_service_account_is_given_whole(world: World) -> None:
    text = json.dumps(GCS, indent=2)
    (world.truss / "data/service_account.json").write_text(text)
    found = world.find(world.entry("gs://b"))
    assert found is not None
    assert (found.origin, found.fields["json"].reveal()) == ("data/service_account.json", text)


def test_a_service_account_without_a_token_uri_gets_googles(world: World) -> None:
    (world.truss / "data/service_account.json").write_text(json.dumps({**GCS, "token_uri": None}))
    found = world.find(world.entry("gs://b"))
    assert found is not None
    assert json.loads(found.fields["json"].reveal()) == GCS | {"token_uri": "https://oauth2.googleapis.com/token"}


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("{", "is not JSON"),
        (json.dumps({**GCS, "type": "authorized_user"}), "type: expected service_account"),
        (json.dumps({**GCS, "client_email": None}), "client_email is missing"),
        (json.dumps({**GCS, "private_key": ""}), "private_key is missing"),
        (json.dumps({**GCS, "private_key": ["sekrit"]}), "private_key: expected a string"),
        (json.dumps({**GCS, "token_uri": 5}), "token_uri: expected a string"),
    ],
)
def test_a_malformed_service_account_names_the_key(written: Any, says: str, world: World) -> None:
    (world.truss / "data/service_account.json").write_text(written)
    assert world.refused(world.entry("gs://b")).startswith(f"data/service_account.json: {says}")


def test_a_bucket_looks_at_a_secret_only_where_the_entry_names_it(world: World) -> None:
    for name in ("hf_access_token", "mine"):
        (world.mounted / name).write_text(json.dumps(S3 | {"aws_region": name}))
    assert world.find(world.entry("s3://b")) is None
    named = world.entry("s3://b", "  runtime_secret_name: mine\n")
    found = world.find(named)
    assert found is not None
    assert (found.origin, found.fields["aws_region"].reveal()) == (f"{world.mounted}/mine", "mine")
    (world.truss / "data/s3_credentials.json").write_text(json.dumps(S3))
    found = world.find(named)
    assert found is not None
    assert found.origin == "data/s3_credentials.json"


ROLES = {
    "s3": "{auth_method: AWS_OIDC, aws_oidc_role_arn: r, aws_oidc_region: e}",
    "gs": "{auth_method: GCP_OIDC, gcp_oidc_service_account: s, gcp_oidc_workload_id_provider: p}",
}


def with_role(world: World, source: str, role: str) -> Entry:
    config = world.truss / "config.yaml"
    config.write_text(f"weights:\n- source: {source}\n  mount_location: /m\n  auth: {ROLES[role]}\n")
    return load_config(config).entries[0]


@pytest.mark.parametrize(("scheme", "file", "written"), [("s3", "s3_credentials", S3), ("gs", "service_account", GCS)])
def test_a_role_comes_after_the_data_folder_and_in_place_of_a_secret(
    scheme: str, file: str, written: Any, world: World
) -> None:
    entry = with_role(world, f"{scheme}://b", scheme)
    (world.mounted / "hf_access_token").write_text(json.dumps(written))
    assert find_credential(entry, world.settings) == entry.role
    assert fingerprint(entry, world.settings) is None
    (world.truss / f"data/{file}.json").write_text(json.dumps(written))
    found = world.find(entry)
    assert found is not None
    assert found.origin == f"data/{file}.json"


@pytest.mark.parametrize(
    ("source", "role"), [("hf://a/b", "s3"), ("file://w", "gs"), ("s3://b", "gs"), ("gs://b", "s3")]
)
def test_a_role_of_another_store_is_refused_whatever_else_is_there(source: str, role: str, world: World) -> None:
    world.env["HF_TOKEN"] = "hf_sekrit"
    entry = with_role(world, source, role)
    assert "weights[0].auth: " in world.refused(entry)
    assert f"gives no access to {source.partition('/')[0]}//" in world.refused(entry)


def test_the_data_folder_of_the_config_is_the_one(world: World) -> None:
    (world.truss / "keys").mkdir()
    (world.truss / "keys/s3_credentials.json").write_text(json.dumps(S3))
    found = world.find(world.entry("s3://b", "data_dir: keys\n"))
    assert found is not None
    assert found.origin == "keys/s3_credentials.json"


def test_a_local_folder_has_no_credential(world: World) -> None:
    (world.mounted / "mine").write_text("hf_x")
    entry = world.entry("file://w", "  runtime_secret_name: mine\n")
    assert (world.find(entry), fingerprint(entry, world.settings)) == (None, None)


def test_a_fingerprint_is_of_the_file_that_is_used_and_of_no_ambient_token(world: World) -> None:
    entry = world.entry("a/b")
    world.env.update(HF_TOKEN="hf_env", HF_TOKEN_PATH=str(world.home / "t"))
    (world.home / "t").write_text("hf_login")
    assert fingerprint(entry, world.settings) is None
    (world.etc / "hf_access_token").write_bytes(b"hf_etc\n")
    assert fingerprint(entry, world.settings) == hashlib.sha256(b"hf_etc\n").hexdigest()
    (world.mounted / "hf_access_token").write_bytes(b"\xff not a token")
    assert fingerprint(entry, world.settings) == hashlib.sha256(b"\xff not a token").hexdigest()


def test_a_secret_is_printed_by_nothing() -> None:
    secret = Secret("sekrit")
    credential = Credential("HF_TOKEN", {"token": secret})
    assert "sekrit" not in f"{secret} {secret!r} {secret!s:>10} {credential} {[secret]}"
    assert "sekrit" not in "".join(map(str, (credential, credential.fields)))
    assert secret.reveal() == "sekrit"


def test_a_refusal_survives_a_process_boundary(world: World) -> None:
    (world.mounted / "hf_access_token").write_text("")
    with pytest.raises(CredentialError) as caught:
        world.find(world.entry("a/b"))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
