"""Roles of S3 entries where the token service does not work, and in many threads. scenarios/buckets has the rest."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from entries import settings
from servers.s3 import S3Server, _serving
from servers.sts import GOOD_TOKEN, sts_before

from truss_cache_tasks.errors import CacheTaskError, TransientError
from truss_cache_tasks.model.credentials import AuthMethod, Role
from truss_cache_tasks.model.request import SourceRef
from truss_cache_tasks.sources.s3.identity import SESSIONS, Identity, identify

pytestmark = pytest.mark.slow
ARN = "arn:aws:iam::123456789012:role/reader"


def obtained(method: AuthMethod, arn: str, **env: str) -> Identity:
    return identify(Role(method, arn, "us-east-1"), settings(**env).network, SourceRef("s3", "b", "m"))


def by_token(folder: Path, url: str) -> Identity:
    (folder / "token").write_text(GOOD_TOKEN)
    token = {"AWS_WEB_IDENTITY_TOKEN_FILE": str(folder / "token")}
    return obtained(AuthMethod.AWS_OIDC, ARN, AWS_ENDPOINT_URL_STS=url, **token)


def test_a_token_service_that_cannot_be_reached_may_be_reached_later(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match=r"127\.0\.0\.1:9 cannot be reached") as caught:
        by_token(tmp_path, "http://127.0.0.1:9")
    assert "AWS_ENDPOINT_URL_STS" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "body",
    [
        b"<html>log in</html>",
        b"{}",
        b"",
        b"<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult/></AssumeRoleWithWebIdentityResponse>",
        b"<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>a</AccessKeyId>"
        b"<SecretAccessKey>b</SecretAccessKey><SessionToken>c</SessionToken><Expiration>soon</Expiration></Credentials>"
        b"</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>",
    ],
)
def test_a_server_that_is_no_token_service_is_no_reason_to_wait(body: bytes, tmp_path: Path) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    with _serving(Handler) as url, pytest.raises(CacheTaskError) as caught:
        by_token(tmp_path, url)
    assert not isinstance(caught.value, TransientError)
    assert caught.value.hint


def test_keys_are_renewed_by_one_thread_at_a_time_whoever_holds_the_sessions(moto: S3Server) -> None:
    iam = moto.client("admin", "iam")
    anyone = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
    trust = json.dumps({"Version": "2012-10-17", "Statement": [anyone]})
    role = iam.create_role(RoleName="renewed", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    started = threading.Barrier(8)
    with sts_before(moto) as sts:
        sts.lifetime_s = 60  # every use renews them
        user = moto.identities["admin"].env()
        identity = obtained(AuthMethod.AWS_ASSUME_ROLE, role, AWS_ENDPOINT_URL_STS=sts.url, **user)

        def use(number: int) -> str:
            started.wait(20)
            if number % 2:
                return str(identity.credentials.get_frozen_credentials().access_key)
            with SESSIONS:  # as `locate` does
                return str(identity.credentials.get_frozen_credentials().access_key)

        with ThreadPoolExecutor(8) as pool:
            keys = list(pool.map(use, range(8), timeout=60))
        assert len(set(keys)) == 8
        assert len(sts.asked) == 9
