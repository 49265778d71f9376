"""What `store/` keeps on disk, as values: FileRecord, Manifest, Claim, Pin (docs/on-disk-format.md)."""

# No `from __future__ import annotations`: of each annotation that is a text, NamedTuple compiles a ForwardRef

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from truss_cache_tasks.model.keys import ContentId, RequestKey, SnapshotKey, snapshot_key

if TYPE_CHECKING:
    from truss_cache_tasks.model.listing import Digest

RECORDS = ".truss_cache"  # our own folder in every cache root; no file of an entry may lie in it
LOCK_NAME = "model_cache.lock"  # beside the config, whatever that is called (model/lockfile.py)
DIGITS = {"sha256": 64, "git-sha1": 40, "sha1": 40, "md5": 32, "crc32": 8, "crc32c": 8, "crc64nvme": 16}  # hex digits
FORMAT = 1  # of every JSON file below .truss_cache/; a reader refuses a number that it does not know


def digest_text(digest: "Digest | None", encoding: str = "") -> str:
    """Return a digest as a record has it: `algorithm:hex`, "" for none.

    One over parts is `algorithm-composite:hex`, one of bytes that are shown decoded `algorithm-gzip:hex`.
    """
    if digest is None:
        return ""
    of = "-composite" if digest.parts else f"-{encoding}" if encoding else ""
    return f"{digest.algorithm}{of}:{digest.value}"


def parse_digest(text: str) -> "Digest | None":
    """Return the digest that `digest_text` wrote; None for "", and for `-composite` and `-gzip` ones.

    The visible bytes alone do not have those: the first needs the sizes of the parts, the second is of other bytes.
    """
    from truss_cache_tasks.model.listing import Digest  # not needed by a run of fresh entries

    algorithm, _, value = text.partition(":")
    return Digest(algorithm, value) if value and not algorithm.endswith(("-composite", "-gzip")) else None


class FileRecord(NamedTuple):
    """One file of a manifest.

    Attributes:
        path: where it is visible, relative to the cache root.
        size: bytes.
        mtime_ns: of the file with the bytes (the target of a link), when they were last verified.
        content_id: names these bytes (plan.content_id); `identity` in the JSON.
        origin: the object that they came from.
        digest: `algorithm:hex` of the store's digest that confirmed them; "" is unverified.
        xxh3: our xxh3-128, hex.
        blob: the file that holds the bytes, relative to the root, where `path` is only a link to it; else "".
        made_link, made_blob: this package made them; `clean` never removes what the user or huggingface_hub made.
        stored_size: bytes of the object where it is stored as gzip and shown decoded; else None. `digest` is then of
            the stored bytes (`crc32c-gzip:hex`), `size` and `xxh3` of the decoded ones.
    """

    path: str
    size: int
    mtime_ns: int
    content_id: ContentId
    origin: str
    digest: str
    xxh3: str
    blob: str = ""
    made_link: bool = True
    made_blob: bool = True
    stored_size: int | None = None


class _ManifestFields(NamedTuple):
    key: RequestKey
    request: Mapping[str, Any]
    revision: str
    folder: str
    files: tuple[FileRecord, ...]
    hidden: frozenset[str] = frozenset()


class Manifest(_ManifestFields):
    """What one request resolved to in one cache root: the record that a commit writes.

    Attributes:
        key: the request key.
        request: its canonical form.
        revision: the commit of a Hub repo, else "".
        folder: what users open, relative to the root.
        files: 1..N records, sorted by path.
        hidden: paths of `files` that a later commit or clean replaced or removed: a file that is there now is not of
            this manifest.
    """

    @cached_property
    def snapshot(self) -> SnapshotKey:
        """The key of what the request resolved to."""
        names = ((f.path, f.size, f.digest or f"xxh3-128:{f.xxh3}") for f in self.files)
        return snapshot_key(self.revision, names)

    @property
    def paths(self) -> frozenset[str]:
        """The paths of all files, relative to the root."""
        return frozenset(file.path for file in self.files)

    @property
    def shown(self) -> tuple[FileRecord, ...]:
        """The files that are visible, as far as this manifest knows."""
        return tuple(file for file in self.files if file.path not in self.hidden)

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)


ClaimId = tuple[str, str]  # project id, claim name


class Maker(NamedTuple):
    """Who made a claim, or noted a fetch.

    Attributes:
        config, host: path of the config, and the host that it was read on.
        when: seconds since the epoch, UTC.
    """

    config: str
    host: str
    when: float


class Claim(NamedTuple):
    """One project's use of one manifest.

    Attributes:
        request: the request key; `form` its canonical form, so that a change can be named.
        fingerprint: of the credential file that the files were read with, or None.
        when: seconds since the epoch, UTC.
        config, host: whose claim it is, for people.
        cleaned: `clean` removed its bytes: the next run resolves again and re-hashes what it reuses.
        former: keys of requests that the entry of this name had before, whose bytes are still in this root.
        snapshot: key of what it resolved to for this project. Only a `file://` entry compares it, as the same URI
            beside another config names another folder.
    """

    request: RequestKey
    form: Mapping[str, Any]
    fingerprint: str | None
    when: float
    config: str
    host: str
    cleaned: bool = False
    former: tuple[str, ...] = ()
    snapshot: str = ""

    @property
    def maker(self) -> Maker:
        """Who made it, and when."""
        return Maker(config=self.config, host=self.host, when=self.when)


class Claims(NamedTuple):
    """All claims of one project in one root.

    Attributes:
        former: request keys of entries that left the config, whose bytes are still in this root.
        roots: absolute paths of all cache roots that the project's config ever had while it claimed here.
    """

    entries: Mapping[str, Claim]
    former: tuple[str, ...] = ()
    roots: tuple[str, ...] = ()


class Pin(NamedTuple):
    """The commit that a moving revision stands for in one root.

    Attributes:
        by, run: the name of the entry and the id of the run that set it.
    """

    commit: str
    by: str
    run: str


class Project(NamedTuple):
    """The project that this process makes claims for.

    Attributes:
        id: TRUSS_CACHE_PROJECT, else the digest of the config's real path; a file name.
        config: real path of the config file, for people, and to tell its former entries from those of another config.
        entries: claim name -> request key, of the whole config.
        roots: absolute paths of the cache roots of the whole config.
        host: this host.
        is_named: TRUSS_CACHE_PROJECT names it: the user says that all claims under the id are of one project. Else the
            id is a digest of the config's path, and another host (a container) may have another config at that path.
    """

    id: str
    config: str
    entries: Mapping[str, str]
    roots: tuple[str, ...] = ()
    host: str = ""
    is_named: bool = True

    def made(self, claim: Claim | Maker) -> bool:
        """Return whether this config made a claim, or note of a fetch, that is under this project's id."""
        return claim.config == self.config and (self.is_named or claim.host == self.host)

    def maker(self, when: float) -> Maker:
        """Return who makes a claim, or notes a fetch, at this time."""
        return Maker(config=self.config, host=self.host, when=when)
