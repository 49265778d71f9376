"""What our records on disk tell of ownership, read as docs/on-disk-format.md has them and not by our own code."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RECORDS = ".truss_cache"
FOLDERS = ("manifests", "claims", "published", "blobs", "partials", "locks", "fetches")  # that we make in it
_KEY = r"[0-9a-f]{64}"
_RECORDS = re.compile(r"manifests/.*|claims/.*|fetches/.*|locks/.*|published/.*|[^/]+\.jsonl?|partials/.*\.parts")


@dataclass
class Records:
    """The records of every root.

    Args:
        files: root -> key of a manifest -> its files, as JSON; those of superseded manifests with them.
        claimed: root -> the request keys that anybody's claims there name, also as what was asked before.
        labels: root -> the revisions that manifests there have.
    """

    files: dict[Path, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)
    claimed: dict[Path, set[str]] = field(default_factory=dict)
    labels: dict[Path, set[str]] = field(default_factory=dict)

    def owned(self) -> dict[Path, list[tuple[Path, bool]]]:
        """Return path -> (root, whether we made it) of all that manifests list, blobs of the hub cache included."""
        found: dict[Path, list[tuple[Path, bool]]] = {}
        for root, manifests in self.files.items():
            for files in manifests.values():
                for one in files:
                    found.setdefault(root / one["path"], []).append((root, one["made_link"]))
                    if one["blob"]:
                        found.setdefault(root / one["blob"], []).append((root, one["made_blob"]))
        return found

    def ours(self) -> set[Path]:
        """Return the paths that a manifest lists as made by us."""
        return {path for path, rows in self.owned().items() if any(made for _, made in rows)}

    def blob_ids(self, root: Path) -> set[str]:
        """Return the names under which bytes that manifests of this root list may wait in `.truss_cache/blobs`."""
        files = [one for files in self.files.get(root, {}).values() for one in files]
        return {hashlib.sha256(one["identity"].encode()).hexdigest()[:40] for one in files}


def read_records(tops: Iterable[Path]) -> Records:
    """Read the records of every root below `tops`; what is no JSON of ours is passed over."""
    records = Records()
    for top in tops:
        for parent, folders, _ in os.walk(top):
            if RECORDS in folders:
                folders.remove(RECORDS)
                if not os.path.islink(os.path.join(parent, RECORDS)):
                    _read_root(Path(parent), records)
    return records


def _read_root(root: Path, records: Records) -> None:
    manifests = records.files.setdefault(root, {})
    claimed = records.claimed.setdefault(root, set())
    labels = records.labels.setdefault(root, set())
    for path in (root / RECORDS / "manifests").glob("*.json"):
        value = _json(path)
        if isinstance(value, dict) and isinstance(value.get("files"), list):
            manifests.setdefault(path.name.partition(".")[0], []).extend(value["files"])
            labels.add(value.get("revision", ""))
    for path in (root / RECORDS / "claims").glob("*.json"):
        value = _json(path)
        if isinstance(value, dict):
            claimed.update(value.get("former", ()))
            for claim in value.get("entries", {}).values():
                claimed.update((claim["request"], *claim["former"]))


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def is_payload(path: Path) -> bool:
    """Whether a path, relative to the hub cache, the model cache or the folder of mounts, is no record of ours."""
    parts = path.parts
    if ".locks" in parts or (len(parts) > 1 and parts[0].startswith("models--") and parts[1] == "refs"):
        return False
    if RECORDS not in parts:
        return True
    inside = "/".join(parts[parts.index(RECORDS) + 1 :])
    return _RECORDS.fullmatch(inside) is None


def is_key(name: str) -> bool:
    """Whether a file of this name in `manifests` is one of ours."""
    return re.fullmatch(rf"{_KEY}(\.[0-9a-f]{{12}})?\.json", name) is not None
