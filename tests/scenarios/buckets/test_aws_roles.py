"""Roles of `weights` entries: what a machine has is exchanged at a token service, and nothing is read anonymously."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.s3 import S3Server
from servers.sts import GOOD_TOKEN, Sts, sts_before
from trusses import Ran, Truss, tree

from scenarios.buckets.stores import S3Store, Store

OIDC = "{{auth_method: AWS_OIDC, aws_oidc_role_arn: '{}', aws_oidc_region: us-east-1}}"
ASSUMED = "{{auth_method: AWS_ASSUME_ROLE, aws_assume_role_arn: '{}', aws_assume_role_region: us-east-1}}"
BY_TOKEN, BY_KEYS = "AssumeRoleWithWebIdentity", "AssumeRole"


@pytest.fixture(scope="session")
def of_moto(moto: S3Server) -> Iterator[Sts]:
    with sts_before(moto) as sts:
        yield sts


@pytest.fixture
def sts(of_moto: Sts) -> Sts:
    of_moto.asked.clear()
    of_moto.faults.clear()
    of_moto.lifetime_s = None
    return of_moto


def role_of(store: S3Store, suffix: str = "", actions: str = "s3:*") -> str:
    """Make a role that may do `actions`, and that any identity of its account may assume; return its ARN."""
    iam, name = store.server.client("admin", "iam"), store.base + suffix
    trust = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
    rights = {"Effect": "Allow", "Action": actions, "Resource": "*"}
    policies = [json.dumps({"Version": "2012-10-17", "Statement": [one]}) for one in (trust, rights)]
    arn: str = iam.create_role(RoleName=name, AssumeRolePolicyDocument=policies[0])["Role"]["Arn"]
    iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=policies[1])
    return arn


def config_with(truss: Truss, store: Store, auth: str, more: str = "") -> dict[str, bytes]:
    """Put a file, let the config have it as an entry of `weights`, and return what a fetch shows below the mounts."""
    store.put("m/a.bin", b"a" * 300)
    store.give(truss, None)
    truss.config(f"weights:\n  - source: {store.uri('m')}\n    mount_location: /models/m\n    auth: {auth}\n{more}")
    return {"models/m/a.bin": b"a" * 300}


def entry(truss: Truss, store: S3Store, sts: Sts, auth: str) -> dict[str, bytes]:
    there = config_with(truss, store, auth)
    truss.env["AWS_ENDPOINT_URL_STS"] = sts.url
    return there


def token_file(truss: Truss, text: str = GOOD_TOKEN) -> dict[str, str]:
    path = truss.root / "token"
    path.write_text(text)
    return {"AWS_WEB_IDENTITY_TOKEN_FILE": str(path)}


def failed(ran: Ran, *words: str) -> None:
    """One cause and one remedy, no traceback, and no token."""
    assert ran.code == 1, ran
    assert "Traceback" not in ran.text
    assert ran.err.count("hint: ") == 1, ran.err
    assert GOOD_TOKEN not in ran.text
    for word in words:
        assert word in ran.err, (word, ran.err)


@pytest.mark.parametrize("auth", [OIDC, ASSUMED], ids=["oidc", "assume"])
def test_a_web_identity_token_is_exchanged_for_the_role_of_the_entry(
    on_moto: S3Store, truss: Truss, sts: Sts, auth: str
) -> None:
    role = role_of(on_moto)
    there = entry(truss, on_moto, sts, auth.format(role))
    ran = truss.cli(**token_file(truss, GOOD_TOKEN + "\n"))
    assert ran.code == 0, ran
    assert tree(truss.mounts) == there
    (asked,) = sts.asked
    assert (asked["Action"], asked["RoleArn"]) == (BY_TOKEN, role)
    assert truss.cli("why", "--check").code == 0
    assert len(sts.asked) == 1


def test_the_machines_credentials_assume_the_role_of_the_entry(on_moto: S3Store, truss: Truss, sts: Sts) -> None:
    role = role_of(on_moto)
    there = entry(truss, on_moto, sts, ASSUMED.format(role))
    user = on_moto.server.identities["admin"].env()
    ran = truss.cli(**user, AWS_ROLE_SESSION_NAME="build-7")
    assert ran.code == 0, ran
    assert tree(truss.mounts) == there
    (asked,) = sts.asked
    assert (asked["Action"], asked["RoleArn"], asked["RoleSessionName"]) == (BY_KEYS, role, "build-7")


def test_without_a_token_the_machines_credentials_read_for_aws_oidc(on_moto: S3Store, truss: Truss, sts: Sts) -> None:
    there = entry(truss, on_moto, sts, OIDC.format(role_of(on_moto)))
    ran = truss.cli(**on_moto.server.identities["ro"].env())
    assert ran.code == 0, ran
    assert tree(truss.mounts) == there
    assert sts.asked == []


def test_the_role_of_the_entry_goes_before_that_of_the_environment(on_moto: S3Store, truss: Truss, sts: Sts) -> None:
    role, other = role_of(on_moto), role_of(on_moto, "-other", "s3:PutObject")
    there = entry(truss, on_moto, sts, OIDC.format(role))
    ran = truss.cli(**token_file(truss), AWS_ROLE_ARN=other)
    assert ran.code == 0, ran
    assert tree(truss.mounts) == there
    assert [asked["RoleArn"] for asked in sts.asked] == [role]


def test_a_role_that_the_machine_has_already_is_not_assumed_again(on_moto: S3Store, truss: Truss, sts: Sts) -> None:
    role = role_of(on_moto)
    there = entry(truss, on_moto, sts, ASSUMED.format(role))
    ran = truss.cli(**token_file(truss), AWS_ROLE_ARN=role)
    assert ran.code == 0, ran
    assert tree(truss.mounts) == there
    assert sts.actions == [BY_TOKEN]


def test_the_machines_own_role_assumes_that_of_the_entry(on_moto: S3Store, truss: Truss, sts: Sts) -> None:
    role, own = role_of(on_moto), role_of(on_moto, "-own", "sts:AssumeRole")
    there = entry(truss, on_moto, sts, ASSUMED.format(role))
    ran = truss.cli(**token_file(truss), AWS_ROLE_ARN=own)
    assert ran.code == 0, ran
    assert tree(truss.mounts) == there
    assert [(asked["Action"], asked["RoleArn"]) for asked in sts.asked] == [(BY_TOKEN, own), (BY_KEYS, role)]


@pytest.mark.parametrize("auth", [OIDC, ASSUMED], ids=["oidc", "assume"])
def test_a_machine_that_has_nothing_fails_and_is_told_what_to_set(on_seaweed: S3Store, truss: Truss, auth: str) -> None:
    on_seaweed.bucket = str(on_seaweed.server.public)  # an anonymous request would get it
    config_with(truss, on_seaweed, auth.format("arn:aws:iam::123456789012:role/reader"))
    with on_seaweed.front.watching() as front:
        ran = truss.cli()
    failed(ran, "found neither a token nor credentials", "AWS_WEB_IDENTITY_TOKEN_FILE", "role/reader")
    assert front.asked == []
    assert tree(truss.mounts) == {}


def test_keys_in_the_data_folder_go_before_the_role(on_moto: S3Store, truss: Truss, sts: Sts) -> None:
    there = entry(truss, on_moto, sts, OIDC.format("arn:aws:iam::123456789012:role/of-others"))
    on_moto.give(truss, "ro")
    assert truss.cli(**token_file(truss)).code == 0
    assert tree(truss.mounts) == there
    assert sts.asked == []


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ((403, "AccessDenied"), "missing permission sts:AssumeRoleWithWebIdentity on arn:aws:iam::"),
        ((400, "ExpiredTokenException"), "the token has expired (ExpiredTokenException)"),
        ((400, "IDPRejectedClaim"), "the identity provider does not accept the token"),
    ],
)
def test_a_refusal_of_the_token_service_names_the_role_and_what_is_missing(
    on_moto: S3Store, truss: Truss, sts: Sts, fault: tuple[int, str], words: str
) -> None:
    role = role_of(on_moto)
    entry(truss, on_moto, sts, OIDC.format(role))
    sts.faults.append(fault)
    ran = truss.cli(**token_file(truss))
    failed(ran, words, role, str(truss.root / "token"), "trust policy")
    assert len(sts.asked) == 1


def test_a_token_of_nobody_is_refused_by_name_and_not_shown(on_moto: S3Store, truss: Truss, sts: Sts) -> None:
    entry(truss, on_moto, sts, OIDC.format(role_of(on_moto)))
    ran = truss.cli(**token_file(truss, "sekrit-token"), TRUSS_CACHE_DEBUG="1")
    assert ran.code == 1
    assert "the token is not valid" in ran.err
    assert "sekrit-token" not in ran.text


def test_a_user_without_the_right_to_assume_the_role_is_told_of_it(on_moto: S3Store, truss: Truss, sts: Sts) -> None:
    role = role_of(on_moto)
    entry(truss, on_moto, sts, ASSUMED.format(role))
    ran = truss.cli(**on_moto.server.identities["ro"].env())  # it could read the bucket itself
    failed(ran, f"missing permission sts:AssumeRole on {role}", "AWS_ACCESS_KEY_ID")
    assert tree(truss.mounts) == {}


def test_a_profile_with_the_same_role_is_used_as_it_is(on_moto: S3Store, truss: Truss, sts: Sts) -> None:
    role, user = role_of(on_moto), on_moto.server.identities["admin"]
    there = entry(truss, on_moto, sts, ASSUMED.format(role))
    folder = Path(truss.env["HOME"]) / ".aws"
    folder.mkdir()
    (folder / "config").write_text(
        f"[profile r]\nrole_arn = {role}\nsource_profile = u\nexternal_id = e1\nregion = us-east-1\n"
    )
    (folder / "credentials").write_text(f"[u]\naws_access_key_id={user.access}\naws_secret_access_key={user.secret}\n")
    ran = truss.cli(AWS_PROFILE="r")
    assert ran.code == 0, ran
    assert tree(truss.mounts) == there
    assert [(asked["Action"], asked["ExternalId"]) for asked in sts.asked] == [(BY_KEYS, "e1")]


def test_keys_that_nobody_has_assume_no_role(on_moto: S3Store, truss: Truss, sts: Sts) -> None:
    role = role_of(on_moto)
    entry(truss, on_moto, sts, ASSUMED.format(role))
    ran = truss.cli(AWS_ACCESS_KEY_ID="AKIANOBODY0123456789", AWS_SECRET_ACCESS_KEY="sekrit")
    failed(ran, "the access key is unknown there", "AWS_ACCESS_KEY_ID", role)
    assert "sekrit" not in ran.text
    assert "AKIANOBODY" not in ran.text


def test_a_busy_token_service_is_asked_again(on_moto: S3Store, truss: Truss, sts: Sts) -> None:
    there = entry(truss, on_moto, sts, OIDC.format(role_of(on_moto)))
    sts.faults.extend([(503, "ServiceUnavailable"), (400, "IDPCommunicationError")])
    ran = truss.cli(**token_file(truss))
    assert ran.code == 0, ran
    assert tree(truss.mounts) == there
    assert len(sts.asked) == 3


def test_keys_that_end_soon_are_renewed_with_the_token_that_is_there_then(
    on_moto: S3Store, truss: Truss, sts: Sts
) -> None:
    there = entry(truss, on_moto, sts, OIDC.format(role_of(on_moto)))
    sts.lifetime_s = 60  # less than a request may take: each one renews them
    assert truss.cli(**token_file(truss)).code == 0
    assert tree(truss.mounts) == there
    assert len(sts.asked) > 1


def test_a_role_that_is_taken_away_meanwhile_fails_the_entry_by_name(on_moto: S3Store, truss: Truss, sts: Sts) -> None:
    entry(truss, on_moto, sts, OIDC.format(role_of(on_moto)))
    sts.lifetime_s = 60
    with on_moto.front.watching() as front:
        front.before = lambda _asked: sts.faults.extend([(403, "AccessDenied")] * 9)
        ran = truss.cli(**token_file(truss))
    sts.faults.clear()
    failed(ran, "missing permission sts:AssumeRoleWithWebIdentity")
    assert len(sts.asked) > 1
    assert tree(truss.mounts) == {}


@pytest.mark.parametrize("written", [None, "", " \n", "x" * 20_001, "\udcff"])
def test_a_token_file_that_holds_no_token_is_named(
    on_moto: S3Store, truss: Truss, sts: Sts, written: str | None
) -> None:
    entry(truss, on_moto, sts, OIDC.format(role_of(on_moto)))
    path = truss.root / "token"
    if written is not None:
        path.write_bytes(written.encode(errors="surrogateescape"))
    failed(truss.cli(AWS_WEB_IDENTITY_TOKEN_FILE=str(path)), "AWS_WEB_IDENTITY_TOKEN_FILE", str(path))
    assert sts.asked == []


@pytest.mark.parametrize(("role", "region"), [("reader", "us-east-1"), ("arn:aws:iam::1:role/reader", "no region!")])
def test_a_role_or_a_region_that_is_none_fails_the_entry(
    on_moto: S3Store, truss: Truss, sts: Sts, role: str, region: str
) -> None:
    auth = f"{{auth_method: AWS_OIDC, aws_oidc_role_arn: '{role}', aws_oidc_region: '{region}'}}"
    entry(truss, on_moto, sts, auth)
    failed(truss.cli(**token_file(truss)), "reader" if region == "us-east-1" else "'no region!'", "auth")
    assert sts.asked == []


def test_a_role_of_another_cloud_fails_its_entry_alone(
    on_moto: S3Store, truss: Truss, sts: Sts, tmp_path: Path
) -> None:
    (truss.folder / "w").mkdir()
    (truss.folder / "w" / "b.bin").write_bytes(b"b")
    gcp = "{auth_method: GCP_OIDC, gcp_oidc_service_account: s, gcp_oidc_workload_id_provider: p}"
    config_with(truss, on_moto, gcp, "  - {source: 'file://w', mount_location: /models/w}\n")
    failed(truss.cli(), "weights[0].auth: GCP_OIDC gives no access to s3://", "AWS_OIDC or AWS_ASSUME_ROLE")
    assert tree(truss.mounts) == {"models/w/b.bin": b"b"}


def test_no_token_is_in_any_output_or_record(on_moto: S3Store, truss: Truss, sts: Sts) -> None:
    entry(truss, on_moto, sts, OIDC.format(role_of(on_moto)))
    env = {**token_file(truss), "TRUSS_CACHE_DEBUG": "1", "TRUSS_CACHE_EVENTS": str(truss.root / "events.jsonl")}
    said = [truss.doit("cache_weights", **env).text, truss.cli("run", "-a", **env).text]
    sts.faults.append((403, "AccessDenied"))
    said += [truss.cli("run", "-a", **env).text, truss.cli("why", **env).text]
    written = [path.read_bytes() for path in truss.root.rglob("*") if path.is_file() and path.name != "token"]
    assert b"a" * 300 in b"".join(written)
    assert GOOD_TOKEN not in "".join(said)
    assert GOOD_TOKEN.encode() not in b"".join(written)


LOGGED = """
import io, logging, sys
log = io.StringIO()
logging.basicConfig(stream=log, level=logging.DEBUG)
from truss_cache_tasks import fetch
fetch(sys.argv[1])
print(log.getvalue())
"""


@pytest.mark.parametrize("auth", [OIDC, ASSUMED], ids=["oidc", "assume"])
def test_no_secret_is_in_the_log_of_a_program(on_moto: S3Store, truss: Truss, sts: Sts, auth: str) -> None:
    there = entry(truss, on_moto, sts, auth.format(role_of(on_moto)))
    user = on_moto.server.identities["admin"].env() if auth == ASSUMED else token_file(truss)
    ran = truss.python(LOGGED, str(truss.folder), **user)
    assert tree(truss.mounts) == there
    assert "botocore" in ran.out  # the rest is logged
    secrets = (GOOD_TOKEN, "<SecretAccessKey>", "<SessionToken>", "Signature=", "x-amz-security-token:")
    assert not [secret for secret in secrets if secret.lower() in ran.text.lower()]
