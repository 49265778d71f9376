"""Parse sources: the text of a repo id or a URI -> SourceRef and revision."""

from __future__ import annotations

import re
from typing import NamedTuple, assert_never

from truss_cache_tasks.config.fields import InvalidText, did_you_mean
from truss_cache_tasks.model.request import SourceRef
from truss_cache_tasks.model.stores import HUGGINGFACE, NamePart, Store, UriForm, find_store, stores

# The rule of huggingface_hub.utils.validate_repo_id, which takes 450 ms to import; a test compares the two.
_REPO_ID = r"(?a:(\b[\w\-.]{1,96}\b/)?\b[\w\-.]{1,96}\b)"
# What git check-ref-format refuses in a branch or tag. Without '..', refs/{revision} also stays inside its folder.
_NO_REVISION = r"[\s~^:?*\[\\]|\.\.|@\{|//|^/|/$|\.$|(^|/)\.|\.lock(/|$)|^@$"

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*"
# `user:password@`. A password may hold a '/', as secret keys of S3 do. The path of a file:// may hold '/', ':' and
# '@', so its own pattern matches no '/'.
_USERINFO = r"(?s:[^/@]*:.*@)"
_LOCAL_USERINFO = r"[^/@]*:[^/@]*@"
_TOKEN = r"hf_[A-Za-z0-9]{20,}@"


class ParsedSource(NamedTuple):
    """A source and the `@revision` of its URI ("" where it has none)."""

    source: SourceRef
    revision: str


def parse_repo_id(text: str) -> ParsedSource:
    """Read `repo_id`: `org/name` or a URI. Raises InvalidText.

    >>> parse_repo_id("gcs://bucket/m/").source
    SourceRef(scheme='gs', root='bucket', prefix='m')
    """
    if "://" in text:
        return parse_uri(text)
    _refuse_credentials(HUGGINGFACE.scheme, text)
    _refuse_missing_slashes(text)
    if "@" in text and is_repo_id(text.partition("@")[0]):
        raise InvalidText("the Hub has no '@' in a repo id", f"Write hf://{text}, or a `revision:` of its own.")
    if text.startswith(("./", "../", "/", "~")):
        raise InvalidText(f"{text!r} is a path, not a repo id", "Write a local folder as file://PATH.")
    check_repo_id(text)
    return ParsedSource(SourceRef(HUGGINGFACE.scheme, text), "")


def parse_source(text: str) -> ParsedSource:
    """Read `source` of the `weights` form: always a URI, as Truss demands. Raises InvalidText."""
    if "://" not in text:
        _refuse_missing_slashes(text)
        hint = f"Write hf://{text}." if is_repo_id(text.partition("@")[0]) else _hint_of_schemes()
        raise InvalidText("no scheme", hint)
    scheme, _, rest = text.partition("://")
    _refuse_credentials(scheme, rest)
    if (store := _find_store(scheme)) and store.is_bucket and "@" in rest:
        raise InvalidText(f"{scheme}:// has no @revision", "Remove the '@': only hf:// sources have revisions.")
    return parse_uri(text)


def parse_uri(text: str) -> ParsedSource:
    """Read `scheme://...`. Raises InvalidText, whose message repeats nothing that may be a password."""
    scheme, _, rest = text.partition("://")
    _refuse_credentials(scheme, rest)
    if (store := _find_store(scheme)) is None:
        raise _unknown_scheme(scheme)
    match store.uri_form:
        case UriForm.REPO:
            return _repo(store, rest)
        case UriForm.BUCKET:
            return ParsedSource(_bucket(store, scheme, rest), "")
        case UriForm.FOLDER:
            return ParsedSource(_folder(store, rest), "")
        case UriForm.FILE:
            from truss_cache_tasks.config.web_urls import parse_web_url  # a config without one does not need it

            return ParsedSource(parse_web_url(scheme, rest), "")
        case _:
            assert_never(store.uri_form)


def is_repo_id(text: str) -> bool:
    """Return whether huggingface_hub accepts `text` as a repo id."""
    try:
        check_repo_id(text)
    except InvalidText:
        return False
    return True


def check_repo_id(text: str) -> None:
    """Raise InvalidText for what huggingface_hub.utils.validate_repo_id refuses."""
    hint = "Write it as the Hub shows it: org/name."
    if text.count("/") > 1:
        raise InvalidText(f"{text!r} is no repo id: more than one '/'", hint)
    if not re.fullmatch(_REPO_ID, text):
        rule = "letters, digits, '-', '_', '.', neither first nor last a '-' or '.', at most 96 a name"
        raise InvalidText(f"{text!r} is no repo id ({rule})", hint)
    if "--" in text or ".." in text:
        raise InvalidText(f"{text!r} is no repo id: it holds '--' or '..'", hint)
    if text.endswith(".git"):
        raise InvalidText(f"{text!r} is no repo id: it ends in '.git'", "Remove the '.git'.")


def parse_revision(text: str) -> str:
    """Return a revision that git allows. Raises InvalidText."""
    if re.search(_NO_REVISION, text):
        raise InvalidText(
            f"{text!r} is no branch, tag or commit: git allows no such name", "Copy the revision from the repo's page."
        )
    return text


def _find_store(scheme: str) -> Store | None:
    """Return the row of a scheme, of this or of an installed package. Raises InvalidText as `find_or_load_store`."""
    if (store := find_store(scheme)) is not None:
        return store
    from truss_cache_tasks.config.plugins import find_or_load_store  # not needed by most configs

    return find_or_load_store(scheme)


def _installed_schemes() -> list[str]:
    from truss_cache_tasks.config.plugins import installed_schemes  # for a message

    return installed_schemes()


def _unknown_scheme(scheme: str) -> InvalidText:
    near = did_you_mean(scheme, [one for store in stores() for one in store.schemes] + _installed_schemes())
    return InvalidText(f"unknown scheme {scheme!r}", near.replace("?", "://?") if near else _hint_of_schemes())


def _hint_of_schemes() -> str:
    known = [store.scheme for store in stores()]
    aliases = {scheme for store in stores() for scheme in store.schemes}
    *others, last = (f"{scheme}://" for scheme in known + [one for one in _installed_schemes() if one not in aliases])
    return f"Use {', '.join(others)} or {last}."


def _repo(store: Store, rest: str) -> ParsedSource:
    repo_id, at, revision = rest.partition("@")
    check_repo_id(repo_id)
    if at and not revision:
        raise InvalidText("nothing follows the '@'", "Write hf://org/name@REVISION, or remove the '@'.")
    return ParsedSource(SourceRef(store.scheme, repo_id), parse_revision(revision) if at else "")


def _bucket(store: Store, scheme: str, rest: str) -> SourceRef:
    names, prefix = store.split(rest)
    hint = f"Write {scheme}://{'/'.join(part.example or part.what.upper() for part in store.names)}/PREFIX."
    for part, name in zip(store.names, names, strict=True):
        _check_name(part, name, hint)
    bucket = "/".join(names)
    for suffix, what, remedy in store.refused:
        if bucket.lower().endswith(suffix):
            raise InvalidText(f"{bucket!r} names {what}", remedy)
    prefix = prefix.strip("/")
    if {".", ".."} & set(prefix.split("/")):
        raise InvalidText("'.' or '..' in the prefix", "Write the prefix as the store shows it.")
    return SourceRef(store.scheme, bucket, prefix)


def _check_name(part: NamePart, name: str, hint: str) -> None:
    """Raise InvalidText for what is no name of such a part."""
    if not name:
        raise InvalidText(f"no {part.what} name", hint)
    if set(name) & set("*?[]"):
        raise InvalidText(
            f"a wildcard in the {part.what} name {name!r}", f"Name one {part.what}; wildcards go into allow_patterns."
        )
    if not re.fullmatch(part.pattern, name):
        raise InvalidText(f"{name!r} is no {part.what} name ({part.rule})", hint)


def _folder(store: Store, rest: str) -> SourceRef:
    root = rest.rstrip("/")
    if not root:
        raise InvalidText("no folder or file named", "Write file://PATH, relative to config.yaml or absolute.")
    if root.startswith("~"):
        raise InvalidText("'~' is not expanded", "Write an absolute path, or one relative to config.yaml.")
    return SourceRef(store.scheme, root)


def _refuse_credentials(scheme: str, rest: str) -> None:
    """Raise InvalidText for `user:password@`, and for `user@` if it cannot be a revision. Repeat neither."""
    hint = "Credentials do not belong into a URI: remove all up to its '@', and see the README for where they go."
    if find_store(scheme) is None and not re.fullmatch(_SCHEME, scheme):
        raise InvalidText("what is before the '://' is no scheme", _hint_of_schemes())
    store = _find_store(scheme)
    if _holds_credentials(UriForm.BUCKET if store is None else store.uri_form, rest):
        raise InvalidText("it holds a user name or password", hint)
    if "?" in rest and not (store and store.is_web):  # parse_web_url has a hint of its own
        from truss_cache_tasks.config.web_urls import find_secret_parameter  # few sources have a '?'

        if name := find_secret_parameter(rest.partition("?")[2]):
            hint = "Remove all from the '?' on: a signature is a secret, and the README says where secrets go."
            raise InvalidText(f"it holds a signature or token ({name})", hint)


def _refuse_missing_slashes(text: str) -> None:
    """Raise InvalidText for `scheme:...`, and repeat nothing of the rest."""
    scheme, colon, _ = text.partition(":")
    if colon and find_store(scheme) is not None:
        raise InvalidText(f"'{scheme}:' is not followed by '//'", f"Begin it with {scheme}://.")


def _holds_credentials(form: UriForm, rest: str) -> bool:
    match form:
        case UriForm.REPO:
            before = rest.rpartition("@")[0]  # no repo id has a ':'
            return ":" in before or bool(re.match(_TOKEN, rest))
        case UriForm.BUCKET:
            return "@" in rest and (bool(re.match(_USERINFO, rest)) or "@" in rest.partition("/")[0])
        case UriForm.FOLDER:
            return "@" in rest and bool(re.match(_LOCAL_USERINFO, rest))
        case UriForm.FILE:
            return "@" in re.split("[/?#]", rest, maxsplit=1)[0]
        case _:
            assert_never(form)
