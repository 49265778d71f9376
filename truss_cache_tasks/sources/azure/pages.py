"""Read a page of List Blobs, which is XML: https://learn.microsoft.com/rest/api/storageservices/list-blobs."""

from __future__ import annotations

import binascii
from dataclasses import dataclass
from urllib.parse import unquote
from xml.parsers import expat

from truss_cache_tasks.errors import WrongAnswer
from truss_cache_tasks.model.listing import Digest, RemoteFile, listed_digest, listed_file, quoted, wrong_answer

_FOLDER = "hdi_isfolder"  # metadata of what is a folder where an account has a hierarchical namespace
_BLOB = ("EnumerationResults", "Blobs", "Blob")
_DEPTH = 16  # of elements in each other; a page has 5
_FIELDS = 1000  # of a blob; metadata have at most 8 KiB


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedBlob:
    """One blob of a page.

    Attributes:
        file: its key ends in `/` for a folder of a hierarchical namespace, as that of a folder marker does.
        archived: why its bytes cannot be read now, as Azure says it; "" where they can.
    """

    file: RemoteFile
    archived: str = ""


def read_page(store: str, body: bytes) -> tuple[list[ListedBlob], str]:
    """Return the blobs of a page, and the marker of the next one ("" on the last).

    Args:
        store: what was listed, for messages.

    Raises:
        WrongAnswer: it is no such page.
    """
    page = _Page(store)
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = page.doctype
    parser.StartElementHandler = page.start
    parser.EndElementHandler = page.end
    parser.CharacterDataHandler = page.text
    try:
        parser.Parse(body, True)
    except expat.ExpatError:
        raise _no_page(store) from None
    return page.blobs, page.marker


def _no_page(store: str) -> WrongAnswer:
    return wrong_answer(store, "a page that is no XML", "one of List Blobs")


class _Page:
    """Collects the blobs while a page is parsed, so that no tree is built of what a server nests without an end."""

    def __init__(self, store: str) -> None:
        self.blobs: list[ListedBlob] = []
        self.marker = ""
        self._store = store
        self._path: list[str] = []
        self._fields: dict[str, str] = {}  # of the blob that is being read, by the path of their elements below it
        self._words: list[str] = []
        self._is_encoded = False

    def doctype(self, *_: object) -> None:
        raise _no_page(self._store)  # its entities could expand without an end

    def start(self, name: str, attributes: dict[str, str]) -> None:
        path = self._path
        if not path and name != "EnumerationResults":
            raise wrong_answer(self._store, f"a page that begins with {quoted(name)}", "EnumerationResults")
        path.append(name)
        if len(path) > _DEPTH or len(self._fields) > _FIELDS:
            raise _no_page(self._store)
        self._words = []
        if len(path) == 3:
            self._fields, self._is_encoded = {}, False
        elif name == "Name" and len(path) == 4:
            self._is_encoded = attributes.get("Encoded") == "true"

    def text(self, words: str) -> None:
        self._words.append(words)

    def end(self, name: str) -> None:
        path, words = self._path, "".join(self._words)
        depth = len(path)
        if depth > 3:
            self._fields["/".join(path[3:])] = words
        elif depth == 3 and tuple(path) == _BLOB:
            self.blobs.append(_blob(self._store, self._fields, is_encoded=self._is_encoded))
        elif depth == 2 and name == "NextMarker":
            self.marker = words
        self._words = []
        path.pop()


def _blob(store: str, fields: dict[str, str], *, is_encoded: bool) -> ListedBlob:
    name = fields.get("Name", "")
    name = unquote(name) if is_encoded else name  # a name that XML cannot hold
    size = fields.get("Properties/Content-Length", "")
    file = listed_file(
        store,
        path=name,
        size=int(size) if size.isascii() and size.isdigit() and len(size) < 20 else size,
        version=fields.get("Properties/Etag", "").strip('"'),
        key=name,
        digest=_md5(store, name, fields.get("Properties/Content-MD5", "")),
    )
    if not file.size and _is_folder(fields):
        folder = file.key if file.key.endswith("/") else f"{file.key}/"
        return ListedBlob(file=RemoteFile(folder, 0, file.version, folder))
    archived = fields.get("Properties/AccessTier") == "Archive"
    return ListedBlob(file=file, archived=fields.get("Properties/ArchiveStatus") or "archived" if archived else "")


def _is_folder(fields: dict[str, str]) -> bool:
    return any(
        path.lower() == f"metadata/{_FOLDER}" and value.strip().lower() == "true" for path, value in fields.items()
    )


def _md5(store: str, name: str, value: str) -> Digest | None:
    """Return the digest of a `Content-MD5`; None where a blob has none, as most do that were uploaded in blocks."""
    if not value:
        return None
    try:
        digits = binascii.a2b_base64(value.encode("ascii"), strict_mode=True).hex()
    except ValueError:  # `listed_digest` refuses what is not base64, and shows it
        digits = value
    return listed_digest(store, name, "md5", digits)
