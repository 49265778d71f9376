"""Read a page of List Blobs, which is XML: https://learn.microsoft.com/rest/api/storageservices/list-blobs."""

from __future__ import annotations

import binascii
from dataclasses import dataclass
from urllib.parse import unquote
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from truss_cache_tasks.model.listing import Digest, RemoteFile, listed_digest, listed_file, quoted, wrong_answer

_FOLDER = "hdi_isfolder"  # metadata of what is a folder where an account has a hierarchical namespace


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
    try:
        text = body.decode("utf-8-sig")
        if "<!DOCTYPE" in text:  # whose entities could expand without an end
            raise ValueError
        page = ElementTree.fromstring(text)
    except (ValueError, ElementTree.ParseError, RecursionError):  # UnicodeDecodeError is a ValueError
        raise wrong_answer(store, "a page that is no XML", "one of List Blobs") from None
    if page.tag != "EnumerationResults":
        raise wrong_answer(store, f"a page that begins with {quoted(page.tag)}", "EnumerationResults")
    return [_blob(store, found) for found in page.iterfind("Blobs/Blob")], page.findtext("NextMarker") or ""


def _blob(store: str, found: Element) -> ListedBlob:
    name = _name(found)
    properties = {element.tag: element.text or "" for element in found.find("Properties") or ()}
    size = properties.get("Content-Length", "")
    file = listed_file(
        store,
        path=name,
        size=int(size) if size.isascii() and size.isdigit() and len(size) < 20 else size,
        version=properties.get("Etag", "").strip('"'),
        key=name,
        digest=_md5(store, name, properties.get("Content-MD5", "")),
    )
    if not file.size and _is_folder(found):
        folder = file.key if file.key.endswith("/") else f"{file.key}/"
        return ListedBlob(file=RemoteFile(folder, 0, file.version, folder))
    archived = properties.get("AccessTier") == "Archive"
    return ListedBlob(file=file, archived=properties.get("ArchiveStatus") or "archived" if archived else "")


def _name(found: Element) -> str:
    """Return a name; one that XML cannot hold comes percent-encoded."""
    element = found.find("Name")
    if element is None or not element.text:
        return ""
    return unquote(element.text) if element.get("Encoded") == "true" else element.text


def _is_folder(found: Element) -> bool:
    metadata = found.find("Metadata")
    return any(
        item.tag.lower() == _FOLDER and (item.text or "").strip().lower() == "true"
        for item in (metadata if metadata is not None else ())
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
