"""A source of another package that breaks the protocol is an error which names it, and no internal error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from entries import entry, settings

from truss_cache_tasks.errors import AccessDenied, BrokenStore, CacheTaskError, MissingPackage
from truss_cache_tasks.model.credentials import NoCredential
from truss_cache_tasks.model.listing import Digest, Listing, Location, RemoteFile
from truss_cache_tasks.model.stores import Store, registered
from truss_cache_tasks.sources.base import Source
from truss_cache_tasks.sources.registry import open_source

FILE = RemoteFile("a.bin", 1, "v1", "m/a.bin")
GOOD = Listing("", (FILE,))


class Scripted:
    """A source whose methods return or raise what a test says."""

    says: Any = None

    def __init__(self, *_: object) -> None:
        pass

    def answer(self, *_: object) -> Any:
        if isinstance(self.says, Exception) and not isinstance(self.says, CacheTaskError):
            raise self.says
        return self.says

    listing = locate = explain = answer


class Refusing:
    def __init__(self, *_: object) -> None:
        raise AccessDenied("no way", hint="Ask.")


class Unfinished:
    def __init__(self, *_: object) -> None:
        self.listing = self.locate = print


@pytest.fixture
def opened() -> Callable[[str], Source]:
    """Return a function that opens the source of `x://`, whose row names this class or function."""

    def open_x(opens: str) -> Source:
        with registered(Store(schemes=("x",), opens=opens)):
            return open_source(entry("x://b/m").request, NoCredential(), settings().network)

    return open_x


def scripted(opened: Callable[[str], Source], says: Any, monkeypatch: pytest.MonkeyPatch) -> Source:
    monkeypatch.setattr(Scripted, "says", says)
    return opened(f"{__name__}:Scripted")


def broken(call: Callable[[], object]) -> str:
    with pytest.raises(BrokenStore) as caught:
        call()
    assert str(caught.value).startswith(f"x://: the store of another package is broken: {__name__}:")
    assert caught.value.hint
    assert "secret" not in str(caught.value)
    return str(caught.value).partition(f"{__name__}:")[2]


@pytest.mark.parametrize(
    ("opens", "said"),
    [
        (":Unknown", ":Unknown cannot be opened (AttributeError)"),
        (":FILE", ":FILE cannot be opened (TypeError)"),
        (":Unfinished", ":Unfinished Unfinished has no method explain"),
        ("_no:X", "_no:X cannot be opened (ModuleNotFoundError: No module named"),
    ],
)
def test_a_class_that_is_no_source_is_named(opened: Callable[[str], Source], opens: str, said: str) -> None:
    with pytest.raises(BrokenStore) as caught:
        opened(f"{__name__}{opens}")
    assert f"is broken: {__name__}{said}" in str(caught.value)


def test_an_error_of_our_tree_is_passed_on(opened: Callable[[str], Source], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AccessDenied, match="no way"):
        opened(f"{__name__}:Refusing")
    source = scripted(opened, denied := AccessDenied("no way"), monkeypatch)
    assert source.explain(FILE, 403, {}, b"") is denied


def test_a_dependency_of_ours_that_is_missing_is_told_as_such(
    opened: Callable[[str], Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = scripted(opened, ModuleNotFoundError("No module named 'boto3'", name="urllib3"), monkeypatch)
    with pytest.raises(MissingPackage, match=r"^urllib3: "):
        source.listing()


@pytest.mark.parametrize("method", ["listing", "locate", "explain"])
def test_any_other_error_is_named_without_its_text(
    opened: Callable[[str], Source], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    source = scripted(opened, KeyError("a secret"), monkeypatch)
    arguments: tuple[Any, ...] = {"listing": (), "locate": (FILE,), "explain": (FILE, 500, {}, b"")}[method]
    assert broken(lambda: getattr(source, method)(*arguments)) == f"Scripted {method}() failed (KeyError)"


def listing_of(**fields: Any) -> Listing:
    return Listing("", (RemoteFile(**{"path": "a", "size": 1, "version": "v", "key": "m/a", **fields}),))


@pytest.mark.parametrize(
    ("says", "said"),
    [
        (None, "gives a NoneType, expected a Listing"),
        ([FILE], "gives a list, expected a Listing"),
        (Listing("", [FILE]), "gives a list, expected a tuple of files"),  # type: ignore[arg-type]  # on purpose
        (Listing("", ("a.bin",)), "gives a str, expected a RemoteFile"),  # type: ignore[arg-type]  # on purpose
        (listing_of(size="1"), "gives path 'a' of the key 'm/a': size '1'"),
        (listing_of(size=-1), "size -1"),
        (listing_of(path=""), "path ''"),
        (listing_of(path=None), "path None"),
        (listing_of(version="a b"), "version 'a b'"),
        (listing_of(version=7), "version 7"),
        (listing_of(digest=Digest("sha512", "00")), "the digest sha512 00, expected one of sha256"),
        (listing_of(digest=Digest("sha256", "../../x")), "sha256 '../../x', expected 64 lower-case hex digits"),
        (listing_of(digest="sha256:00"), "the digest sha256:00"),
    ],
)
def test_a_wrong_listing_is_refused(
    opened: Callable[[str], Source], monkeypatch: pytest.MonkeyPatch, says: Any, said: str
) -> None:
    source = scripted(opened, says, monkeypatch)
    assert said.partition(" of the key")[0] in broken(source.listing)


@pytest.mark.parametrize("says", ["http://host/a", None, Location("/etc/passwd"), Location("ftp://host/a")])
def test_a_wrong_location_or_explanation_is_refused(
    opened: Callable[[str], Source], monkeypatch: pytest.MonkeyPatch, says: Any
) -> None:
    source = scripted(opened, says, monkeypatch)
    assert "Scripted locate() gives" in broken(lambda: source.locate(FILE))
    assert "Scripted explain() gives" in broken(lambda: source.explain(FILE, 403, {}, b""))


def test_good_answers_are_passed_on(opened: Callable[[str], Source], monkeypatch: pytest.MonkeyPatch) -> None:
    assert scripted(opened, GOOD, monkeypatch).listing() is GOOD
    location = Location("https://host/a")
    assert scripted(opened, location, monkeypatch).locate(FILE) is location
