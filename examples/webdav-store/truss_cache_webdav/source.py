"""The source of `dav://`: folders are listed by PROPFIND, files are read by GET."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from urllib.parse import quote, unquote, urlsplit
from xml.etree import ElementTree

from truss_cache_tasks.errors import AccessDenied, CacheTaskError, ConfigError, NotFound, TransientError
from truss_cache_tasks.stores import (
    UNPINNED,
    Credential,
    HttpClient,
    Listing,
    Location,
    Network,
    NoCredential,
    PaginationGuard,
    Pins,
    RemoteFile,
    Request,
    WholeAnswer,
    check_pins,
    is_transient_status,
    listed_file,
    retry_after_s,
    under_prefix,
    wrong_answer,
)

# Depth 1: many servers refuse `infinity`, as RFC 4918 (9.1) allows them to.
PROPERTIES = b"""<?xml version="1.0" encoding="utf-8"?>
<propfind xmlns="DAV:"><prop><resourcetype/><getcontentlength/><getetag/><getlastmodified/></prop></propfind>"""


class WebDavSource:
    """The files below one path of a share. WebDAV has no digests: files are `unverified`, and have a hash of ours."""

    def __init__(self, request: Request, credential: Credential | NoCredential, network: Network) -> None:
        self._source = request.source
        self._network = network
        self._share = f"{_base(network)}/{quote(request.source.root)}"
        self._headers: dict[str, str] = {}
        self._asked = f"without a credential ({credential})"
        if isinstance(credential, Credential):
            pair = f"{credential.fields['user'].reveal()}:{credential.fields['password'].reveal()}"
            self._headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
            self._asked = f"with the user of {credential.origin}"

    def listing(self, pins: Pins = UNPINNED) -> Listing:
        """List every file below the prefix, or the one file that it names."""
        with HttpClient(self._share, self._network) as client:
            files = list(self._files(client))
        if pins.files is not None:
            files = check_pins(files, pins.files, self._source)
        return under_prefix(files, self._source)

    def locate(self, file: RemoteFile) -> Location:
        """Return the URL of `file`. Every answer has to have the ETag that was listed."""
        strong = file.version.startswith('"')
        url = f"{self._share}/{quote(file.key)}"
        return Location(url, headers=self._headers, validator=file.version if strong else None)

    def explain(self, file: RemoteFile, status: int, headers: Mapping[str, str], body: bytes) -> CacheTaskError:
        """Return the error for a refused GET."""
        return self._refusal(status, headers, f"{self._source}: {file.path}")

    def _files(self, client: HttpClient) -> Iterator[RemoteFile]:
        """Yield the files below the prefix, folder by folder."""
        folders = [self._source.prefix]
        guard = PaginationGuard(str(self._source), first=self._source.prefix)
        while folders:
            folder = folders.pop()
            found = self._entries(client, folder)
            files = [self._file(key, entry) for key, entry in found.items() if not _is_folder(entry)]
            folders += [key for key, entry in found.items() if _is_folder(entry) and key != folder]
            yield from files
            guard.check((file.key for file in files), folders[-1] if folders else None)

    def _entries(self, client: HttpClient, folder: str) -> dict[str, ElementTree.Element]:
        """Return what one PROPFIND tells of a folder and its members, by key. Empty where it does not exist."""
        answer = self._network.with_retries(lambda: self._propfind(client, folder))
        if answer.status == 404 and folder:
            if folder != self._source.prefix:  # removed between two requests
                return {}
            self._network.with_retries(lambda: self._propfind(client, ""))  # does the share exist?
            return {}
        try:
            root = ElementTree.fromstring(answer.body)
        except ElementTree.ParseError as exc:
            raise self._wrong("a body that is not XML", "a DAV:multistatus") from exc
        return {self._key(entry, folder): entry for entry in root.iter("{DAV:}response")}

    def _propfind(self, client: HttpClient, folder: str) -> WholeAnswer:
        headers = {**self._headers, "Depth": "1", "Content-Type": "application/xml"}
        url = f"{self._share}/{quote(folder)}".rstrip("/")
        answer = client.send("PROPFIND", url, headers, str(self._source), PROPERTIES)
        if answer.status == 207 or (answer.status == 404 and folder):
            return answer
        raise self._refusal(answer.status, answer.headers, str(self._source))

    def _key(self, entry: ElementTree.Element, folder: str) -> str:
        """Return the key of an entry: its path below the share. It is of `folder` itself or of a member of it."""
        href = entry.findtext("{DAV:}href", "")
        base = unquote(urlsplit(self._share).path)
        path = unquote(urlsplit(href).path).rstrip("/")
        key = path.removeprefix(base).strip("/")
        above = key.rpartition("/")[0]
        if not f"{path}/".startswith(f"{base}/") or folder not in (key, above):
            raise self._wrong(f"href {href[:80]!r}", "a member of the folder")
        return key

    def _file(self, key: str, entry: ElementTree.Element) -> RemoteFile:
        size = _property(entry, "getcontentlength")
        return listed_file(
            str(self._source),
            path=key,
            size=int(size) if size.isdecimal() and len(size) < 20 else size,
            version=_version(entry, size),
            key=key,
        )

    def _refusal(self, status: int, headers: Mapping[str, str], what: str) -> CacheTaskError:
        if is_transient_status(status):
            error = TransientError(f"{what}: the server answers {status}", hint="Wait, then run the command again.")
            error.retry_after_s = retry_after_s(headers)
            return error
        if status in (404, 410):
            return NotFound(f"{what}: found no such share or file", hint="Correct repo_id, or WEBDAV_URL.")
        hint = "Let data/webdav_credentials.json hold a user and a password that may read it."
        return AccessDenied(f"{what}: the server answers {status}, asked {self._asked}", hint=hint)

    def _wrong(self, found: str, expected: str) -> CacheTaskError:
        return wrong_answer(str(self._source), found, expected)


def _base(network: Network) -> str:
    """Return WEBDAV_URL without a slash at its end."""
    url = network.variable("WEBDAV_URL").rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
        hint = "Set it to the URL of the server, such as https://cloud.example.com/dav."
        raise ConfigError(f"WEBDAV_URL: got {'no URL' if url else 'nothing'}, expected the URL of a server", hint=hint)
    return url


def _property(entry: ElementTree.Element, name: str) -> str:
    """Return the text of a property that the server has; "" where it has not."""
    for propstat in entry.iter("{DAV:}propstat"):
        if " 200 " in f"{propstat.findtext('{DAV:}status', '')} ":
            return (propstat.findtext(f"{{DAV:}}prop/{{DAV:}}{name}") or "").strip()
    return ""


def _is_folder(entry: ElementTree.Element) -> bool:
    return entry.find("{DAV:}propstat/{DAV:}prop/{DAV:}resourcetype/{DAV:}collection") is not None


def _version(entry: ElementTree.Element, size: str) -> str:
    """Return the ETag; without one, what tells two versions apart best: the time of the change, and the size."""
    if etag := _property(entry, "getetag"):
        return etag if etag.startswith(('"', "W/")) else f'"{etag}"'  # RFC 4918 wants the quotes; some leave them out
    return f"{_property(entry, 'getlastmodified')}-{size}".replace(" ", "_")
