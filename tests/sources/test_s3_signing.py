"""Our signature of a GET is botocore's, byte for byte."""

import datetime
from types import SimpleNamespace
from typing import Any
from unittest import mock

from botocore import auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from hypothesis import given
from hypothesis import strategies as st

from truss_cache_tasks.sources.s3.signing import signed_headers

word = st.text("abcXYZ019/+=", min_size=1, max_size=40)


@given(
    host=st.sampled_from(
        [
            "https://b.s3.eu-west-1.amazonaws.com",
            "http://127.0.0.1:8333/b",
            "http://MinIO:9000/b",
            "https://h:443",
            "http://h:80",
        ]
    ),
    key=st.text("abc/%20.-_~", max_size=30),
    query=st.none() | st.text("abcXYZ019._-~", min_size=1, max_size=30),
    keys=st.builds(SimpleNamespace, access_key=word, secret_key=word, token=st.none() | word),
    region=st.sampled_from(["us-east-1", "eu-west-1"]),
    now=st.integers(0, 4_000_000_000),
)
def test_a_signature_is_the_one_that_botocore_makes(
    host: Any, key: str, query: Any, keys: Any, region: Any, now: int
) -> None:
    url = f"{host}/{key}" + (f"?versionId={query}" if query else "")
    headers = {"x-amz-checksum-mode": "ENABLED"}
    theirs = AWSRequest(method="GET", url=url, headers=headers)
    theirs.context["payload_signing_enabled"] = True  # over https too: a body that is empty has a hash
    signer = auth.S3SigV4Auth(ReadOnlyCredentials(keys.access_key, keys.secret_key, keys.token), "s3", region)
    moment = datetime.datetime.fromtimestamp(now, datetime.UTC)
    # botocore's clock, which it takes no other way: the stamp is part of what is signed
    with mock.patch.object(auth, "get_current_datetime", return_value=moment):
        signer.add_auth(theirs)
    ours = {name.lower(): value for name, value in signed_headers(url, headers, region, keys, now).items()}
    assert ours == {name.lower(): value for name, value in theirs.headers.items()}
