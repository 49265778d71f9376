"""Request: what one entry asks for, in canonical form and without any path of this machine."""

# No `from __future__ import annotations`: of each annotation that is a text, NamedTuple compiles a ForwardRef

from enum import Enum, StrEnum
from typing import NamedTuple, Self

from truss_cache_tasks.model.stores import Store, store_of


class Layout(StrEnum):
    """Where an entry's files go (docs/contract.md)."""

    HUB = "hub"  # {hub}/models--org--name/{blobs,refs,snapshots}
    BUCKET = "bucket"  # {model cache}/{bucket}/{full key}; file://: {model cache}/{name}/{path}
    VOLUME = "volume"  # {model cache}/{volume_folder}/{path}
    MOUNT = "mount"  # {mount_location}/{path}


class Dialect(Enum):
    """What `*` means in an entry's patterns."""

    FNMATCH = "model_cache"  # `*` crosses `/`, as in huggingface_hub.utils.filter_repo_objects
    GLOBSTAR = "weights"  # `*` stays within a folder and `**` crosses, as in Truss's `weights`


class SourceRef(NamedTuple):
    """A parsed source URI.

    Attributes:
        scheme: of its store, the first one of the row (model/stores.py); of a web server as written.
        root: `org/name`, the bucket, `host` or `host:port`, or the path of a `file://` URI as the user wrote it.
        prefix: object prefix without slashes at either end; "" for a whole bucket, a Hub repo and a folder. Of a web
            server: the path as it is sent, and for a query `?sha256:` with 16 hex digits of its digest.
        query: of a web server's URL, as it is sent; never printed or stored, since it may hold a secret.

    >>> str(SourceRef("gs", "b", "m/fp16"))
    'gs://b/m/fp16'
    """

    scheme: str
    root: str
    prefix: str = ""
    query: str = ""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.root}{'/' + self.prefix if self.prefix else ''}"

    def __repr__(self) -> str:
        return f"SourceRef(scheme={self.scheme!r}, root={self.root!r}, prefix={self.prefix!r})"

    @property
    def store(self) -> Store:
        """The row of its store."""
        return store_of(self.scheme)

    @property
    def url(self) -> str:
        """The URL of a web server's file, without its query."""
        return f"{self.scheme}://{self.root}/{self.prefix.partition('?')[0]}"

    @property
    def cache_path(self) -> str:
        """Where what the URI names lies, relative to the model cache, in Layout.BUCKET. No component of it is empty.

        >>> SourceRef("https", "h:8443", "a%20b/w.bin?sha256:0123456789abcdef").cache_path
        'h_8443/a b/w.bin'
        >>> SourceRef("s3", "b", "m//fp16").cache_path, SourceRef("file", "../weights/m").cache_path
        ('b/m/fp16', 'm')
        """
        if self.store.is_local:
            return self.root.rstrip("/").rpartition("/")[2]
        if self.store.is_web:
            from urllib.parse import unquote  # a config without such files does not need it

            host = self.root.translate({ord(":"): "_", ord("["): None, ord("]"): None})  # IPv6 has brackets
            path = f"{host}/{unquote(self.prefix.partition('?')[0])}"
        else:
            path = f"{self.store.folder}/{self.root}/{self.prefix}"
        return "/".join(filter(None, path.split("/")))


class _Fields(NamedTuple):
    source: SourceRef
    revision: str
    allow: tuple[str, ...] | None
    ignore: tuple[str, ...]
    layout: Layout
    folder: str
    dialect: Dialect
    digest: str


class Request(_Fields):
    """What one entry asks of a store: equal requests have equal keys on every machine.

    Attributes:
        source: the store and what of it.
        revision: Hub only (branch, tag, commit, `refs/pr/N`); "" elsewhere.
        allow: patterns as the user wrote them; None keeps all, () keeps nothing.
        ignore: patterns; ignore wins.
        layout: where its files go; `folder` is its volume_folder or mount_location, else "".
        dialect: how `allow` and `ignore` are read; not given: `implied_dialect(layout)`. It stays the same when
            `layout` is replaced, so that an entry selects the same files in the hub cache and in its own folder.
        digest: `sha256:hex` that the bytes of a web server's file must have, where the user gave it; else "".
    """

    __slots__ = ()

    def __new__(  # noqa: D102, PLR0917  # it takes the fields
        cls,
        source: SourceRef,
        revision: str,
        allow: tuple[str, ...] | None,
        ignore: tuple[str, ...],
        layout: Layout,
        folder: str = "",
        dialect: Dialect | None = None,
        digest: str = "",
    ) -> Self:
        dialect = dialect or implied_dialect(layout)
        return super().__new__(cls, source, revision, allow, ignore, layout, folder, dialect, digest)


def implied_dialect(layout: Layout) -> Dialect:
    """Return the dialect of an entry whose own files have this layout: only `weights` entries are mounts."""
    return Dialect.GLOBSTAR if layout is Layout.MOUNT else Dialect.FNMATCH
