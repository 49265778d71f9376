"""Google's token service and its impersonation of service accounts, scripted: no server of either can be installed.

Both follow https://google.aip.dev/auth/4117.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from servers.gcs import TOKENS
from servers.tools import serving

PROVIDER = "projects/123/locations/global/workloadIdentityPools/pool/providers/builds"
MACHINE_TOKEN = "eyJhbGciOiJSUzI1NiJ9.token.of-this-machine"
FEDERATED = "listonly"  # what the exchange gives: it may list, and impersonate


@dataclass
class GoogleSts:
    """What was asked: audiences of exchanges, accounts that were impersonated. Faults are used up from the front."""

    url: str = ""
    exchanged: list[str] = field(default_factory=list)
    impersonated: list[str] = field(default_factory=list)
    faults: list[tuple[int, Any]] = field(default_factory=list)  # (status, JSON of the body)

    def credential_file(self, folder: Path, *, account: str = "", provider: str = PROVIDER, **more: Any) -> Path:
        """Write a token and a credential file for it, as `gcloud ... create-cred-config` does; return the latter."""
        token = folder / "machine-token"
        token.write_text(MACHINE_TOKEN)
        fields = {
            "type": "external_account",
            "audience": f"//iam.googleapis.com/{provider}",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": f"{self.url}/v1/token",
            "credential_source": {"file": str(token)},
        }
        if account:
            name = f"{self.url}/v1/projects/-/serviceAccounts/{account}:generateAccessToken"
            fields["service_account_impersonation_url"] = name
        path = folder / "external_account.json"
        path.write_text(json.dumps({**fields, **more}))
        return path


@contextlib.contextmanager
def google_sts() -> Iterator[GoogleSts]:
    sts = GoogleSts()

    class Handler(_Handler):
        of = sts

    with serving(Handler) as url:
        sts.url = url
        yield sts


class _Handler(BaseHTTPRequestHandler):
    of: GoogleSts
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.of.faults:
            self._answer(*self.of.faults.pop(0))
        elif self.path == "/v1/token":
            self._answer(*self._exchange(dict(urllib.parse.parse_qsl(body))))
        else:
            self._answer(*self._impersonate(json.loads(body)))

    def _exchange(self, asked: dict[str, str]) -> tuple[int, Any]:
        self.of.exchanged.append(asked["audience"])
        if asked["grant_type"] != "urn:ietf:params:oauth:grant-type:token-exchange":
            return 400, {"error": "unsupported_grant_type"}
        if asked["subject_token"] != MACHINE_TOKEN:
            return 400, {"error": "invalid_grant", "error_description": f"bad token {asked['subject_token']}"}
        if not asked["audience"].endswith(PROVIDER):
            return 400, {"error": "invalid_target", "error_description": "The target service is invalid."}
        kind = "urn:ietf:params:oauth:token-type:access_token"
        return 200, {"access_token": FEDERATED, "issued_token_type": kind, "token_type": "Bearer", "expires_in": 3600}

    def _impersonate(self, asked: dict[str, Any]) -> tuple[int, Any]:
        named = re.fullmatch("/v1/projects/-/serviceAccounts/([^/]*):generateAccessToken", self.path)
        account = urllib.parse.unquote(named[1]) if named else ""
        self.of.impersonated.append(account)
        if self.headers["Authorization"] != f"Bearer {FEDERATED}" or not asked["scope"] or account not in TOKENS:
            return 403, {"error": {"code": 403, "message": "Permission 'iam.serviceAccounts.getAccessToken' denied"}}
        ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
        return 200, {"accessToken": TOKENS[account], "expireTime": ends}

    def _answer(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None: ...
