"""The token service of AWS before a moto that checks IAM: it looks at web identity tokens, which moto does not.

With IAM enforced, moto answers a request without a signature with 500, and AssumeRoleWithWebIdentity has none. So the
door checks the token, signs the request as `admin`, and passes it on. Any other request is passed on as it came.
"""

from __future__ import annotations

import contextlib
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.error import HTTPError

from servers.s3 import REGION, S3Server
from servers.tools import serving

GOOD_TOKEN = "eyJhbGciOiJSUzI1NiJ9.web-identity.of-this-machine"


@dataclass
class Sts:
    """What was asked: the parameters of each request; and what the next requests get in place of an answer."""

    url: str = ""
    asked: list[dict[str, str]] = field(default_factory=list)
    faults: list[tuple[int, str]] = field(default_factory=list)  # (status, code), used up from the front
    lifetime_s: int | None = None  # of the keys, in place of what moto says

    @property
    def actions(self) -> list[str]:
        return [asked["Action"] for asked in self.asked]


@contextlib.contextmanager
def sts_before(moto: S3Server) -> Iterator[Sts]:
    """Run it before `moto`."""
    sts = Sts()

    class Handler(_Handler):
        of, behind = sts, moto

    with serving(Handler) as url:
        sts.url = url
        yield sts


class _Handler(BaseHTTPRequestHandler):
    of: Sts
    behind: S3Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        asked = dict(urllib.parse.parse_qsl(body.decode()))
        self.of.asked.append(asked)
        if self.of.faults:
            self._refuse(*self.of.faults.pop(0))
            return
        headers = dict(self.headers.items())
        if asked["Action"] == "AssumeRoleWithWebIdentity":
            if "Authorization" in headers:
                self._refuse(400, "SignedThoughItNeedNot")
                return
            if asked["WebIdentityToken"] != GOOD_TOKEN:
                self._refuse(400, "InvalidIdentityToken")
                return
            headers = self._signed(body)
        request = urllib.request.Request(self.behind.url + "/", body, headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                self._send(answer.status, self._shortened(answer.read()))
        except HTTPError as error:
            self._send(error.code, error.read())

    def _signed(self, body: bytes) -> dict[str, str]:
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import Credentials

        admin = self.behind.identities["admin"]
        kind = "application/x-www-form-urlencoded; charset=utf-8"
        request = AWSRequest("POST", self.behind.url + "/", {"Content-Type": kind}, body)
        SigV4Auth(Credentials(admin.access, admin.secret), "sts", REGION).add_auth(request)
        return dict(request.headers.items())

    def _shortened(self, data: bytes) -> bytes:
        if self.of.lifetime_s is None:
            return data
        start, _, rest = data.partition(b"<Expiration>")
        _, _, end = rest.partition(b"</Expiration>")
        ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + self.of.lifetime_s))
        return b"%b<Expiration>%b</Expiration>%b" % (start, ends.encode(), end)

    def _refuse(self, status: int, code: str) -> None:
        """Answer with an error whose text quotes the request, as no server should."""
        asked = self.of.asked[-1]
        text = f"<Error><Code>{code}</Code><Message>{asked.get('WebIdentityToken', 'no')}</Message></Error>"
        self._send(status, f"<ErrorResponse>{text}</ErrorResponse>".encode())

    def _send(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None: ...
