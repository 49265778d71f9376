"""The names of all that we write below a cache root. docs/on-disk-format.md has the JSON, and who may delete what.

{root}/.truss_cache/            only ours; {root} is models--org--name, {model cache}, or a mount
    manifests/{key}.json        one for each request; {key}.{snapshot:12}.json was superseded and waits for `clean`
    claims/{project}.json       which project uses which manifest
    pins.json                   the commit that each moving revision stands for
    runs.jsonl                  what the last runs did
    fetches/{key}.json          what an unfinished fetch of a request may have left: blobs, partials, visible paths
    published/{etag}            hub layout: a blob of ours that no manifest lists yet, with the mtime of the blob
    blobs/{id:2}/{id}.{xxh3}.{digest}   whole files that no path shows: verified and not yet committed, or hidden again
    partials/{id}.{token}       files that are being fetched, or that a run left for the next one
    partials/{id}.{token}.parts     the journal of one: `start end xxh3 validator`, a line for each whole part of it
    partials/put.{token}        a file, link (`link.`) or ref (`ref.`) that gets its final name in the next step; or the
                                file that reserves space (`space.`), which loses its name as soon as it is made
    locks/{name}.lock           flock(2) files: `root`, `entry-{key}` and `budget` name their holder; `{id}`,
                                `try.{token}`; `space.{token}` has the bytes that its holder reserves
{hub}/.locks/models--org--name/{etag}.lock      huggingface_hub's own, held while a blob of its cache is written
{hub}/.locks/models--org--name/removed.{token}  an empty repo folder, while it is removed
{hub}/.locks/truss-cache-budget.lock            while it is decided whether a fetch fits into TRUSS_CACHE_MAX_BYTES

{id} is 40 or 64 hex digits, {token} 8. Records are replaced by way of {name}.{token}.tmp beside them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from truss_cache_tasks.model.records import RECORDS
from truss_cache_tasks.model.request import Request

PARTIALS = f"{RECORDS}/partials"
STAGING = f"{RECORDS}/blobs"
PUBLISHED = f"{RECORDS}/published"
MANIFESTS = f"{RECORDS}/manifests"
LOCKS = f"{RECORDS}/locks"
HISTORY = f"{RECORDS}/runs.jsonl"

# Names of ours, in full: nothing else in our folder is removed

BLOB_ID = r"(?:[0-9a-f]{40}|[0-9a-f]{64})"
TOKEN = r"[0-9a-f]{8}"


class Name:
    """A pattern of whole names. It is compiled at its first use, as a run of fresh entries uses none."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern

    def fullmatch(self, name: str) -> re.Match[str] | None:
        """Return the match of the whole name, None without one."""
        return re.fullmatch(self.pattern, name)


PARTIAL = Name(rf"({BLOB_ID})\.{TOKEN}")
JOURNAL = Name(rf"({BLOB_ID})\.{TOKEN}\.parts")
STAGED = Name(r"([0-9a-f]{40})\.([0-9a-f]{32})\.([a-z0-9-]+)")
MANIFEST = Name(r"([0-9a-f]{64})(?:\.[0-9a-f]{12})?\.json")
SPACE_LOCK = Name(rf"space\.{TOKEN}\.lock")
LOCK = Name(rf"(?:root|budget|entry-[0-9a-f]{{64}}|{BLOB_ID}|try\.{TOKEN}|space\.{TOKEN})\.lock")
BUDGET_LOCK = ".locks/truss-cache-budget.lock"  # below the hub cache
REMOVED = Name(rf"removed\.{TOKEN}")  # a repo's folder while it is removed, in huggingface_hub's folder of locks

RECORD_NAMES: dict[str, str] = {  # folder below ours -> the names of its records
    "": r"(?:pins\.json|runs\.jsonl)",
    "manifests": MANIFEST.pattern,
    "fetches": MANIFEST.pattern,
    "claims": r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}\.json",
    "published": r"links\.json",
}
TEMPORARIES = {
    **{folder: Name(rf"(?:{names})\.{TOKEN}\.tmp") for folder, names in RECORD_NAMES.items()},
    "partials": Name(rf"(?:put|link|ref|space)\.{TOKEN}"),
}
TEMPORARIES[""] = Name(rf"{TEMPORARIES[''].pattern}|(?:link|ref)\.{TOKEN}")  # 0.1.0 made them there


def is_name_of_ours(folder: str, name: str, *, is_folder: bool) -> bool:
    """Whether we give this name to something in `folder`, a path below our own folder."""
    if is_folder:
        return {
            "": name in ("manifests", "claims", "fetches", "published", "blobs", "partials", "locks"),
            "blobs": re.fullmatch("[0-9a-f]{2}", name) is not None,
        }.get(folder, False)
    names = {
        **RECORD_NAMES,
        "locks": LOCK.pattern,
        "partials": rf"{PARTIAL.pattern}|{JOURNAL.pattern}",
        "published": rf"{RECORD_NAMES['published']}|{BLOB_ID}",
    }
    if folder.startswith("blobs/"):
        return STAGED.fullmatch(name) is not None
    return re.fullmatch(names.get(folder, "(?!)"), name) is not None or is_temporary(folder, name)


def is_temporary(folder: str, name: str) -> bool:
    """Whether this is the name of a temporary of ours in `folder`, a path below our own folder."""
    return folder in TEMPORARIES and TEMPORARIES[folder].fullmatch(name) is not None


def is_commit(revision: str) -> bool:
    """Whether a Hub revision is a full commit, which needs no pin and no ref."""
    return re.fullmatch(r"[0-9a-f]{40}", revision) is not None


def pin_name(request: Request) -> str | None:
    """Return the name under which a root keeps this request's pin; None where the revision cannot move."""
    if not request.source.store.is_hub or is_commit(request.revision):
        return None
    return f"{request.source.root}@{request.revision}"


def pin_name_of_form(form: Mapping[str, Any]) -> str:
    """Return `pin_name` of the request with this canonical form, also of a full commit; "" for another store."""
    source = str(form.get("source", ""))
    return f"{source.removeprefix('hf://')}@{form.get('revision', '')}" if source.startswith("hf://") else ""


def folders_of(path: str) -> list[str]:
    """Return the folders that a relative path lies in, the outermost first.

    >>> folders_of("a/b/c.bin")
    ['a', 'a/b']
    """
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]
