"""One of our JSON files -> its value, the type of every field checked once; what cannot be used is Unreadable."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from stat import S_ISREG
from typing import Any

from truss_cache_tasks.planning.plan import RECORDS
from truss_cache_tasks.planning.records import FORMAT

Check = Callable[[Any], bool]

_KEY = re.compile("[0-9a-f]{64}")


class Unreadable(Exception):
    """A record that is there and cannot be used; the text says why. It is a miss with a reason, never a crash."""


class NewerFormat(Unreadable):
    """Another version of ours wrote it: its readers can use it, so it must not be overwritten."""


class Denied(Unreadable):
    """The disk does not hand it out: nobody knows what it says."""


def read_record(path: Path) -> dict[str, Any] | None:
    """Return the JSON object of `path`, which has our format number; None where no file is. Raises Unreadable."""
    try:
        if not S_ISREG(os.stat(path).st_mode):  # a FIFO would be waited for
            raise Unreadable("it cannot be read (it is no file)")
        text = path.read_bytes().decode()
        value = json.loads(text)
        if "\\u" in text:  # an escaped lone surrogate, which could not be written again
            json.dumps(value, ensure_ascii=False).encode()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise Denied(f"it cannot be read ({exc.strerror or exc})") from exc
    except (ValueError, RecursionError) as exc:
        raise Unreadable(f"it cannot be read ({exc})") from exc
    return check_format(value)


def check_format(value: Any) -> dict[str, Any]:
    """Return `value` if it is an object of our format. Raises Unreadable."""
    if not isinstance(value, dict):
        raise Unreadable("it is no JSON object")
    number = value.get("format")
    if type(number) is not int or number != FORMAT:
        kind = NewerFormat if type(number) is int and number > FORMAT else Unreadable
        raise kind(f"its format is {shown(number)}, this version reads {FORMAT}")
    return value


def check_fields(
    value: Any, checks: Mapping[str, Check], what: str, *, optional: Collection[str] = (), more: bool = False
) -> dict[str, Any]:
    """Return the fields of `value` that `checks` names, if each is as its check wants. Raises Unreadable.

    Args:
        what: names `value` in the message.
        optional: fields that may be absent, there and in the result.
        more: other fields are passed over, else refused.
    """
    if not isinstance(value, dict):
        raise Unreadable(f"{what} is {shown(value)}")
    for name, check in checks.items():
        if name not in value and name not in optional:
            raise Unreadable(f"{what} has no {name}")
        if name in value and not check(value[name]):
            raise Unreadable(f"{name} of {what} is {shown(value[name])}")
    if not more and (unknown := value.keys() - checks.keys()):
        raise Unreadable(f"{what} has the unknown {', '.join(sorted(map(shown, unknown)))}")
    return {name: value[name] for name in checks if name in value}


def shown(value: Any) -> str:
    """Return a value as a message repeats it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def is_text(value: Any) -> bool:
    """A string."""
    return isinstance(value, str)


def is_object(value: Any) -> bool:
    """A JSON object."""
    return isinstance(value, dict)


def is_bool(value: Any) -> bool:
    """True or false."""
    return isinstance(value, bool)


def is_integer(value: Any) -> bool:
    """A whole number that the disk's own numbers can be equal to."""
    return type(value) is int and -(1 << 63) <= value < 1 << 63


def is_size(value: Any) -> bool:
    """Bytes of a file."""
    return is_integer(value) and value >= 0


def is_key(value: Any) -> bool:
    """A request key: it becomes a file name."""
    return isinstance(value, str) and _KEY.fullmatch(value) is not None


def is_keys(value: Any) -> bool:
    """A list of request keys."""
    return isinstance(value, list) and all(map(is_key, value))


def is_form(value: Any) -> bool:
    """The canonical form of a request, of whatever schema: scalars and lists of strings by name."""
    return isinstance(value, dict) and all(
        field is None or isinstance(field, str | int) or (isinstance(field, list) and all(map(is_text, field)))
        for field in value.values()
    )


def is_path(value: Any) -> bool:
    """A path of a file that stays below its root and out of our own folder."""
    if not isinstance(value, str) or "\0" in value:
        return False
    parts = value.casefold().split("/")
    return not any(part in ("", ".", "..", RECORDS) for part in parts)


def is_path_or_none(value: Any) -> bool:
    """A path, or "" for none (of the root itself)."""
    return value == "" or is_path(value)


def is_root(value: Any) -> bool:
    """The absolute path of a cache root."""
    return isinstance(value, str) and value.startswith("/") and "\0" not in value
