"""Parse the URL of a web server's file: `https://host[:port]/path/file[?query]`, and http:// for loopback addresses."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import quote, unquote

from truss_cache_tasks.config.fields import InvalidText
from truss_cache_tasks.model.request import SourceRef
from truss_cache_tasks.network.hosts import address_of, is_loopback

_HINT = "Write https://HOST/PATH/FILE."
_PORTS = {"https": 443, "http": 80}
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?|\[[0-9a-f:.]+\]")
_CHARACTERS = "%!$&'()*+,/:;=?@~"  # of a path or query, besides letters, digits, '_', '.' and '-' (RFC 3986)
_NO_PERCENT = re.compile("%(?![0-9A-Fa-f]{2})")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_HUB = ("huggingface.co", "hf.co")

# Parameters that carry a signature, a token or a password, in lower case: of Azure, AWS, CloudFront, Google Cloud,
# Alibaba Cloud and Tencent Cloud, and of web services.
_SECRET_PREFIXES = ("x-amz-", "x-goog-", "x-oss-", "x-ms-", "q-sign", "q-ak")
_SECRET_NAMES = frozenset(
    (
        *("sig", "se", "sp", "sv", "skoid", "sktid"),
        *("signature", "expires", "key-pair-id", "awsaccesskeyid", "googleaccessid", "ossaccesskeyid"),
        *("token", "access_token", "auth_token", "private_token", "job_token", "id_token", "jwt", "bearer"),
        *("auth", "authorization", "api_key", "apikey", "api-key", "secret", "password", "passwd", "pwd"),
        *("hmac", "sas", "hdnts", "hdnea", "__token__", "__gda__", "x-token", "security-token"),
    )
)


def parse_web_url(scheme: str, rest: str) -> SourceRef:
    """Return the source that `{scheme}://{rest}` names. Path and query are kept as they are sent.

    Raises:
        InvalidText: it names no file, or not safely. The message shows nothing of the query.

    >>> parse_web_url("https", "Example.com:443/a b/w.bin?download=1")
    SourceRef(scheme='https', root='example.com', prefix='a%20b/w.bin?sha256:27c97122cc140687')
    """
    address, fragment, _ = rest.partition("#")
    if fragment:
        hint = "Remove all from the '#' on. A digest goes into cache_tasks(digests=) or TRUSS_CACHE_DIGESTS."
        raise InvalidText("it holds a '#', which is never sent", hint)
    address, _, query = address.partition("?")
    authority, _, path = address.partition("/")
    root = _root(scheme, authority)
    _check_path(path)
    if root in _HUB and path.count("/") == 1:
        raise InvalidText("it is the page of a repo, not a file", f"Write {path}.")
    prefix = quote(path, safe=_CHARACTERS)
    if not query:
        return SourceRef(scheme, root, prefix)
    _check_query(query)
    sent = quote(query, safe=_CHARACTERS)
    digest = hashlib.sha256(sent.encode()).hexdigest()[:16]
    return SourceRef(scheme, root, f"{prefix}?sha256:{digest}", sent)


def _root(scheme: str, authority: str) -> str:
    """Return `host` or `host:port`, in lower case and without the port of the scheme."""
    host, colon, port = authority.lower().rpartition(":")
    if not colon or port.endswith("]"):  # the colon is inside of an IPv6 address
        host, port = authority.lower(), ""
    if not host:
        raise InvalidText("no host", _HINT)
    if not host.isascii():
        raise InvalidText("the host is not ASCII", "Write its name as DNS has it, beginning with xn--.")
    if not _HOST.fullmatch(host) or ".." in host or (host[0] == "[" and address_of(host) is None):
        raise InvalidText("its host is no name of a host", _HINT)
    if (colon and not port and not host.endswith("]")) or (port and not _is_port(port)):
        raise InvalidText("its port is no number from 1 to 65535", _HINT)
    if scheme == "http" and not is_loopback(host):
        hint = "Write https://; http:// is for loopback addresses alone."
        raise InvalidText("http:// is not supported: anyone on the way could change the weights", hint)
    return host if not port or int(port) == _PORTS[scheme] else f"{host}:{int(port)}"


def _is_port(port: str) -> bool:
    return re.fullmatch("[0-9]{1,5}", port) is not None and 1 <= int(port) <= 65535


def _check_path(path: str) -> None:
    """Raise InvalidText unless the path ends in the name of a file, and stays below the host's folder."""
    if _NO_PERCENT.search(path):
        raise InvalidText("its path has a '%' without two hex digits", "Write %25 for a '%' in a name.")
    try:
        plain = unquote(path, errors="strict")
        plain.encode()
    except UnicodeError:
        raise InvalidText("its path is not UTF-8", "Give the file a name in UTF-8.") from None
    name = path.rpartition("/")[2]
    if not name:
        hint = "Name one file; this store has no listing of a folder."
        raise InvalidText("it names no file", hint)
    if "/" in unquote(name):
        raise InvalidText("its file name holds a '/' (%2F)", "Give the file another name.")
    if {".", ".."} & set(plain.split("/")):
        raise InvalidText("'.' or '..' in its path", "Write the path as the server has it.")
    if _CONTROL.search(plain):
        raise InvalidText("a control character in its path", "Give the file another name.")


def _check_query(query: str) -> None:
    """Raise InvalidText for a parameter that carries a secret. The message has a name that is known, and no value."""
    if not query.isprintable():
        raise InvalidText("a control character in its query", "Write the query as the server has it.")
    if (known := find_secret_parameter(query)) is not None:
        hint = "Remove it, and put the query into the secret that the entry names: ?NAME=VALUE&..."
        raise InvalidText(f"its query has {known}, which holds a secret", hint)


def find_secret_parameter(query: str) -> str | None:
    """Return the first known name of a parameter that carries a secret, or its beginning and `...`; None without one.

    >>> find_secret_parameter("a=1&SIG=hush"), find_secret_parameter("a=1"), find_secret_parameter("X-Amz-Date=hush")
    ('sig', None, 'x-amz-...')
    """
    for parameter in re.split("[&;]", query):
        name = unquote(parameter.partition("=")[0]).strip().lower()
        if name in _SECRET_NAMES:
            return name
        if (prefix := next(filter(name.startswith, _SECRET_PREFIXES), None)) is not None:
            return f"{prefix}..."
    return None
