"""Credentials against servers that check them; what a changed credential file costs; and that no secret gets out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from servers.s3 import Keys
from trusses import Ran, Truss, tree

from scenarios.buckets.stores import GcsStore, S3Store, Store


def put(store: Store) -> dict[str, bytes]:
    store.put("m/a.bin", b"a" * 300)
    store.put("m/b.bin", b"b" * 400)
    return {store.visible("m", "a.bin"): b"a" * 300, store.visible("m", "b.bin"): b"b" * 400}


def entry(store: Store, truss: Truss, fields: str = "") -> None:
    truss.config(f"model_cache:\n  - repo_id: {store.uri('m')}\n{fields}")


def failed(ran: Ran, *words: str) -> None:
    """One cause and one remedy, and no traceback."""
    assert ran.code == 1, ran
    assert "Traceback" not in ran.text
    assert ran.err.count("hint: ") == 1, ran.err
    for word in words:
        assert word in ran.err, (word, ran.err)


# Where it is found


def test_a_right_credential_file_is_accepted_and_a_wrong_one_refused_by_name(bucket: Store, truss: Truss) -> None:
    there = put(bucket)
    entry(bucket, truss)
    bucket.give(truss, "wrong")
    failed(truss.cli(), f"data/{bucket.credential_file}")
    assert tree(truss.model_cache) == {}
    bucket.give(truss, "ro")
    assert truss.cli().code == 0
    assert tree(truss.model_cache) == there


def test_a_named_secret_is_used_and_only_if_the_entry_names_it(vendor: Store, truss: Truss) -> None:
    there = put(vendor)
    vendor.give(truss, None)
    vendor.credential(truss.secrets / "hf_access_token", "ro")  # the default name is the Hub's alone
    vendor.credential(truss.secrets / "of_the_bucket", "ro")
    entry(vendor, truss)
    failed(truss.cli())
    entry(vendor, truss, "    runtime_secret_name: of_the_bucket\n")
    ran = truss.cli()
    assert ran.code == 0, ran
    assert tree(truss.model_cache) == there


def test_the_data_file_goes_before_the_named_secret(on_seaweed: Store, truss: Truss) -> None:
    put(on_seaweed)
    on_seaweed.give(truss, "wrong")
    on_seaweed.credential(truss.secrets / "mine", "ro")
    entry(on_seaweed, truss, "    runtime_secret_name: mine\n")
    failed(truss.cli(), f"data/{on_seaweed.credential_file}")


@pytest.mark.parametrize("named", ["aws_", ""])
def test_both_namings_of_an_s3_credential_file_work(on_seaweed: S3Store, truss: Truss, named: str) -> None:
    there = put(on_seaweed)
    on_seaweed.give(truss, None)
    fields = {named + name.removeprefix("aws_"): value for name, value in on_seaweed.fields("ro").items()}
    (truss.folder / "data").mkdir()
    (truss.folder / "data" / "s3_credentials.json").write_text(json.dumps({**fields, f"{named}region": "us-east-1"}))
    entry(on_seaweed, truss)
    assert truss.cli().code == 0
    assert tree(truss.model_cache) == there


def test_another_data_dir_is_where_the_credential_file_is(on_gcs: Store, truss: Truss) -> None:
    put(on_gcs)
    on_gcs.give(truss, None)
    on_gcs.credential(truss.folder / "private" / on_gcs.credential_file, "ro")
    truss.config(f"data_dir: private\nmodel_cache:\n  - repo_id: {on_gcs.uri('m')}\n")
    assert truss.cli().code == 0


def test_boto3s_chain_is_used_from_variables_and_from_a_profile(on_moto: S3Store, truss: Truss) -> None:
    put(on_moto)
    on_moto.give(truss, None)
    entry(on_moto, truss)
    failed(truss.cli(AWS_ACCESS_KEY_ID="AKWRONG", AWS_SECRET_ACCESS_KEY="SK-wrong-0123456789"), "AWS_ACCESS_KEY_ID")
    assert truss.cli(**on_moto.server.identities["ro"].env()).code == 0
    keys = on_moto.server.identities["ro"]
    profile = Path(truss.env["HOME"]) / ".aws" / "credentials"
    profile.parent.mkdir()
    profile.write_text(f"[p]\naws_access_key_id = {keys.access}\naws_secret_access_key = {keys.secret}\n")
    assert truss.cli("clean").code == 0
    assert truss.cli(AWS_PROFILE="p").code == 0


def test_a_session_token_is_sent_with_every_request(on_moto: S3Store, truss: Truss) -> None:
    there = put(on_moto)
    sts, iam = (on_moto.server.client("admin", service) for service in ("sts", "iam"))
    trust = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}],
    }
    role = iam.create_role(RoleName=on_moto.base, AssumeRolePolicyDocument=json.dumps(trust))["Role"]
    rights = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    iam.put_role_policy(RoleName=on_moto.base, PolicyName="p", PolicyDocument=json.dumps(rights))
    given = sts.assume_role(RoleArn=role["Arn"], RoleSessionName="session")["Credentials"]
    keys = Keys(given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"])
    entry(on_moto, truss)
    on_moto.give(truss, None)
    (truss.folder / "data").mkdir()
    file = truss.folder / "data" / "s3_credentials.json"
    file.write_text(json.dumps(keys.fields()))
    ran = truss.cli()
    assert ran.code == 0, ran
    assert tree(truss.model_cache) == there
    assert truss.cli("clean").code == 0
    file.write_text(json.dumps(Keys(keys.access, keys.secret).fields()))  # without the token they are nobody's
    failed(truss.cli(), "data/s3_credentials.json")


def test_application_default_credentials_are_used(on_gcs: GcsStore, truss: Truss) -> None:
    there = put(on_gcs)
    on_gcs.give(truss, None)
    entry(on_gcs, truss)
    failed(truss.cli(), "no credential found")
    on_gcs.credential(truss.root / "adc.json", "ro")
    truss.env["GOOGLE_APPLICATION_CREDENTIALS"] = str(truss.root / "adc.json")
    assert truss.cli().code == 0
    assert tree(truss.model_cache) == there


def test_a_public_bucket_needs_no_credential(on_seaweed: S3Store, on_gcs: GcsStore, truss: Truss) -> None:
    on_seaweed.bucket = str(on_seaweed.server.public)
    on_gcs.gcs.public.add(on_gcs.bucket)
    there = {**put(on_seaweed), **put(on_gcs)}
    for store in (on_seaweed, on_gcs):
        store.give(truss, None)
    truss.config(f"model_cache:\n  - repo_id: {on_seaweed.uri('m')}\n  - repo_id: {on_gcs.uri('m')}\n")
    ran = truss.cli()
    assert ran.code == 0, ran
    assert tree(truss.model_cache) == there


@pytest.mark.parametrize("missing", ["aws_access_key_id", "aws_secret_access_key", "client_email", "private_key"])
def test_a_credential_file_that_lacks_a_key_names_it_and_shows_no_value(
    on_seaweed: S3Store, on_gcs: GcsStore, truss: Truss, missing: str
) -> None:
    store = on_seaweed if missing.startswith("aws_") else on_gcs
    put(store)
    store.give(truss)
    fields = store.fields("ro")
    del fields[missing]
    (truss.folder / "data" / store.credential_file).write_text(json.dumps(fields))
    entry(store, truss)
    ran = truss.cli()
    failed(ran, f"data/{store.credential_file}", f"{missing} is missing")
    for name in ("aws_access_key_id", "aws_secret_access_key", "private_key", "private_key_id"):
        assert fields.get(name, "no such key")[:40] not in ran.text


@pytest.mark.parametrize("text", ["", '{"aws_access_key_id": 1}', "\xff"])
def test_a_credential_file_that_is_no_such_file_is_named(on_seaweed: S3Store, truss: Truss, text: str) -> None:
    put(on_seaweed)
    on_seaweed.give(truss)
    (truss.folder / "data" / "s3_credentials.json").write_bytes(text.encode("latin-1"))
    entry(on_seaweed, truss)
    failed(truss.cli(), "data/s3_credentials.json")


# Rights that are not enough


@pytest.mark.parametrize("who", ["listonly", "getonly"])
def test_a_missing_permission_is_named(vendor: Store, truss: Truss, who: str) -> None:
    put(vendor)
    vendor.give(truss, who)
    entry(vendor, truss)
    permission = {
        ("s3", "listonly"): "s3:GetObject",
        ("s3", "getonly"): "s3:ListBucket",
        ("gs", "listonly"): "storage.objects.get",
        ("gs", "getonly"): "storage.objects.list",
        ("azure", "listonly"): "the permission Read (r)",
        ("azure", "getonly"): "the permission List (l)",
    }[vendor.scheme, who]
    failed(truss.cli(), permission)
    assert tree(truss.model_cache) == {}
    assert truss.cli("why", "--check").code == 1


# The file is an input


def test_a_changed_credential_file_is_proven_with_one_listing_and_no_bytes(vendor: Store, truss: Truss) -> None:
    there = put(vendor)
    vendor.give(truss)
    entry(vendor, truss)
    assert truss.cli().code == 0
    vendor.credential(truss.folder / "data" / vendor.credential_file, "ro", note="the same key, another file")
    why = truss.cli("why", "--check")
    assert why.code == 1
    assert "the credential file changed" in why.out
    with vendor.front.watching() as front:
        ran = truss.cli()
        assert ran.code == 0, ran
        asked = front.kinds()
        assert truss.cli().code == 0
        assert front.kinds() == asked  # fresh again
    assert front.fetched() == []
    assert asked.count("proof") == 1
    assert "list" in asked
    assert "the credential file changed" in ran.err
    assert "fetched 0 files" in ran.err
    assert tree(truss.model_cache) == there


@pytest.mark.parametrize(
    ("store", "who"), [("gcs", "listonly"), ("gcs", "wrong"), ("seaweed", "listonly"), ("seaweed", "getonly")]
)
def test_a_changed_credential_that_may_not_do_both_fails_and_stays_stale_and_the_files_stay(
    request: pytest.FixtureRequest, truss: Truss, store: str, who: str
) -> None:
    vendor: Store = request.getfixturevalue(f"on_{store}")
    there = put(vendor)
    vendor.give(truss)
    entry(vendor, truss)
    assert truss.cli().code == 0
    vendor.give(truss, who)
    failed(truss.cli())
    why = truss.cli("why", "--check")
    assert why.code == 1
    assert "the credential file changed" in why.out
    assert tree(truss.model_cache) == there
    vendor.give(truss, "ro")
    with vendor.front.watching() as front:
        assert truss.cli("why", "--check").code == 0
        assert truss.cli().code == 0
    assert front.asked == []


def test_a_credential_file_that_is_absent_afterwards_is_no_change(on_seaweed: Store, truss: Truss) -> None:
    put(on_seaweed)
    on_seaweed.give(truss)
    entry(on_seaweed, truss)
    assert truss.cli().code == 0
    path = truss.folder / "data" / on_seaweed.credential_file
    text = path.read_bytes()
    path.unlink()
    with on_seaweed.front.watching() as front:
        assert truss.cli("why", "--check").code == 0
        path.write_bytes(text)
        assert truss.cli().code == 0
    assert front.asked == []


def test_ambient_credentials_rotate_without_making_anything_stale(on_moto: S3Store, truss: Truss) -> None:
    put(on_moto)
    on_moto.give(truss, None)
    entry(on_moto, truss)
    assert truss.cli(**on_moto.server.identities["ro"].env()).code == 0
    with on_moto.front.watching() as front:
        assert truss.cli("why", "--check", **on_moto.server.identities["admin"].env()).code == 0
        assert truss.cli().code == 0
    assert front.asked == []


def test_another_project_proves_its_own_credential_on_a_cache_that_is_there(on_gcs: Store, truss: Truss) -> None:
    put(on_gcs)
    on_gcs.give(truss)
    entry(on_gcs, truss)
    assert truss.cli().code == 0
    on_gcs.give(truss, "listonly")
    with on_gcs.front.watching() as front:
        failed(truss.cli(TRUSS_CACHE_PROJECT="another"))
        on_gcs.credential(truss.folder / "data" / on_gcs.credential_file, "ro", note="theirs")
        ran = truss.cli(TRUSS_CACHE_PROJECT="another")
        assert ran.code == 0, ran
    assert "not yet proven" in ran.err
    assert front.fetched() == []


# Nothing secret gets out


def test_no_secret_is_in_any_output_record_or_database(vendor: Store, truss: Truss) -> None:
    put(vendor)
    entry(vendor, truss)
    said = []
    for who in ("wrong", "ro"):
        vendor.give(truss, who)
        said.append(truss.doit("cache_weights", TRUSS_CACHE_DEBUG="1").text)
    vendor.give(truss, "listonly")
    said.append(truss.cli("run", "-a", TRUSS_CACHE_DEBUG="1").text)
    vendor.give(truss, "ro")
    for command in (["cache-why"], ["cache-verify"], ["info", f"cache_weights:{vendor.name('m')}"]):
        said.append(truss.doit(*command).text)
    assert "fresh" in said[-3]
    own = truss.folder / "data" / vendor.credential_file
    written = [path.read_bytes() for path in truss.root.rglob("*") if path.is_file() and path != own]
    everything = "".join(said).encode() + b"".join(written)
    assert b"a" * 300 in everything
    secrets = vendor.secrets() + (["SK-wrong-0123456789"] if vendor.scheme == "s3" else [])
    for secret in secrets:
        assert secret.encode() not in everything
