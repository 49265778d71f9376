"""Logins of web servers: forms of a secret, netrc, and secrets that are not sent to a host that they are not for."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import entries
import pytest

from truss_cache_tasks.config.credentials import find_credential, fingerprint
from truss_cache_tasks.errors import CredentialError
from truss_cache_tasks.model.credentials import Credential, NoCredential, Role

URL = "https://h.example:8443/w.bin"


def found(folder: Path, secret: str | None = None, **env: str) -> Credential | Role | NoCredential:
    """Return what is found with this text in the secret `web`, and None for an entry that names no secret."""
    named = {}
    if secret is not None:
        (folder / "web").write_text(secret)
        named = {"runtime_secret_name": "web"}
    entry = entries.entry(URL, config=folder / "config.yaml", **named)
    return find_credential(entry, entries.settings(folder, **{"HOME": str(folder), **env}))


def revealed(credential: Credential | Role | NoCredential) -> dict[str, str]:
    assert isinstance(credential, Credential)
    return {name: value.reveal() for name, value in credential.fields.items()}


def basic(text: str) -> str:
    return f"Basic {base64.b64encode(text.encode()).decode()}"


@pytest.mark.parametrize(
    ("secret", "fields"),
    [
        ("abc.DEF-1_2~+/==\n", {"authorization": "Bearer abc.DEF-1_2~+/=="}),
        ("me:pass:word with blanks", {"authorization": basic("me:pass:word with blanks")}),
        ("?sv=1&sig=a%2Fb", {"query": "sv=1&sig=a%2Fb"}),
        ('{"token": "abc"}', {"authorization": "Bearer abc"}),
        ('{"username": "me", "password": "ü"}', {"authorization": basic("me:ü")}),
        ('{"user": "me", "password": "p"}', {"authorization": basic("me:p")}),
        ('{"bearer": "abc"}', {"authorization": "Bearer abc"}),
        ('{"username": "key"}', {"authorization": basic("key:")}),
        ('{"query": "?sig=1", "host": "H.example"}', {"query": "sig=1"}),
        ('{"token": "abc", "query": "sig=1"}', {"authorization": "Bearer abc", "query": "sig=1"}),
    ],
)
def test_a_secret_is_a_token_a_password_a_query_or_json(secret: str, fields: dict[str, str], tmp_path: Path) -> None:
    credential = found(tmp_path, secret)
    assert revealed(credential) == fields
    for value in (*fields.values(), secret.strip()):
        assert value not in repr(credential)


HUSH = "hush-0123456789"


@pytest.mark.parametrize(
    ("secret", "says"),
    [
        ("", "is empty"),
        (f"two words {HUSH}", "is no token"),
        (f"hf_{HUSH}", "is a token of hf://, which is not sent to h.example"),
        (f"me:hf_{HUSH}", "is a token of hf://"),
        (f"hf_{HUSH}:", "is a token of hf://"),
        (f"?a=1&access=hf_{HUSH}", "is a token of hf://"),
        (f'{{"token": "api_org_{HUSH}"}}', "is a token of hf://"),
        (f'{{"token": "{HUSH}", "host": "other.example"}}', "is a login of another host"),
        (f'{{"aws_secret_access_key": "{HUSH}"}}', "has a field that is none of token"),
        (f'{{"private_key": "{HUSH}", "token": "x"}}', "has a field that is none of token"),
        (f'{{"token": "{HUSH}", "username": "me"}}', "has a token and a username"),
        (f'{{"token": {{"{HUSH}": 1}}}}', "token: expected a string"),
        (f'{{"token": "{HUSH}"', "is not JSON"),
        ('{"host": "h.example"}', "holds no login"),
        ("{}", "holds no login"),
        (f"[default]\naws_secret_access_key = {HUSH}", "is no token"),
        (f"-----BEGIN KEY-----\nProc-Type: {HUSH}", "is no user:password"),
        (f"postgres://me:{HUSH}@h/db", "is no user:password"),
        (f"AccountName=a;AccountKey={HUSH}==", "is no token"),
        (f"?sig={HUSH} x", "holds a query"),
        (f"?sig={HUSH}#x", "holds a query"),
    ],
)
def test_a_secret_that_is_no_login_or_not_for_this_host_is_refused(secret: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(CredentialError, match=says) as caught:
        found(tmp_path, secret)
    assert caught.value.hint
    assert HUSH not in f"{caught.value} {caught.value.hint} {caught.value.__cause__}"


def test_the_login_of_the_host_in_netrc_is_used_and_no_other(tmp_path: Path) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine other login a password b\nmachine H.EXAMPLE login me password hush\n")
    assert revealed(found(tmp_path)) == {"authorization": basic("me:hush")}
    netrc.write_text("machine other login a password b\ndefault login me password hush\n")
    assert isinstance(found(tmp_path), NoCredential)
    default = entries.entry("https://default/w.bin", config=tmp_path / "config.yaml")
    assert isinstance(find_credential(default, entries.settings(tmp_path, HOME=str(tmp_path))), NoCredential)
    netrc.write_text("machine h.example login me\n")
    assert isinstance(found(tmp_path), NoCredential)
    (tmp_path / "mine").write_text("machine h.example login you password p\n")
    assert revealed(found(tmp_path, NETRC=str(tmp_path / "mine"))) == {"authorization": basic("you:p")}
    assert revealed(found(tmp_path, NETRC="~/mine")) == {"authorization": basic("you:p")}


def test_a_secret_counts_before_netrc_and_has_a_fingerprint(tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine h.example login me password hush\n")
    assert revealed(found(tmp_path, "abc")) == {"authorization": "Bearer abc"}
    entry = entries.entry(URL, runtime_secret_name="web")
    settings = entries.settings(tmp_path, HOME=str(tmp_path))
    assert fingerprint(entry, settings) is not None
    (tmp_path / "web").unlink()
    assert fingerprint(entry, settings) is None  # netrc is ambient
    assert revealed(find_credential(entry, settings)) == {"authorization": basic("me:hush")}


def test_a_secret_that_the_entry_does_not_name_is_not_sent(tmp_path: Path) -> None:
    (tmp_path / "hf_access_token").write_text("hf_token")
    credential = found(tmp_path, HF_TOKEN="hf_token")
    assert str(credential) == f"looked at {tmp_path}/.netrc"


def test_a_netrc_that_cannot_be_read_is_named_by_its_line(tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine h.example\nlogin me passwort hush\n")
    with pytest.raises(CredentialError, match=r"\.netrc: cannot be read, line 2") as caught:
        found(tmp_path)
    assert "hush" not in str(caught.value)
    (tmp_path / ".netrc").write_bytes(b"\xff\xfe")
    with pytest.raises(CredentialError, match=r"\.netrc: cannot be read"):
        found(tmp_path)
    (tmp_path / ".netrc").unlink()
    os.mkfifo(tmp_path / ".netrc")
    with pytest.raises(CredentialError, match=r"\.netrc: is no file"):
        found(tmp_path)
    assert isinstance(found(tmp_path, NETRC="/dev/null"), NoCredential)


def test_json_in_a_secret_may_end_in_a_newline(tmp_path: Path) -> None:
    assert revealed(found(tmp_path, json.dumps({"token": "abc"}, indent=2) + "\n")) == {"authorization": "Bearer abc"}
