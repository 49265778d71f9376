"""Value: a node of config.yaml, with its line and its field name for messages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NoReturn, TypeVar

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from truss_cache_tasks.errors import ConfigError

T = TypeVar("T")

_TAG = "tag:yaml.org,2002:"
_TEXT = (_TAG + "str", _TAG + "value")  # a plain `=` is text to PyYAML's SafeLoader too
_TRUE = ("yes", "true", "on")
# Characters that break a line, a path or a terminal: C0, DEL, C1, and the Unicode line breaks.
_CONTROL = "[\x00-\x1f\x7f-\x9f\u2028\u2029]"
_QUERY = r"(?i:(https?://[^\s?#]*)\?\S*)"  # may hold a token
_LONGEST_PATTERN = 4096  # PATH_MAX; object keys have at most 1024 bytes
_LONGEST = 80  # characters of a user's value that a message repeats


class InvalidText(ValueError):
    """A text of the config breaks a rule. `Value.parsed` makes it a ConfigError, which names the field."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Value:
    """A node of the file, with its line and its field name.

    Attributes:
        file: the path of the config file, as messages show it.
        field: `model_cache[1].revision`.
        node: the composed YAML node; scalars keep the characters that the user wrote.
    """

    __slots__ = ("field", "file", "node")

    def __init__(self, file: str, field: str, node: Node) -> None:
        self.file = file
        self.field = field
        self.node = node

    @property
    def line(self) -> int:
        """Line of the file, from 1; of an aliased value, the line of its anchor."""
        return line_of(self.node)

    @property
    def where(self) -> str:
        """Where the value is, for messages: ``config.yaml:14: model_cache[1]``."""
        return f"{self.file}:{self.line}: {self.field}"

    @property
    def is_null(self) -> bool:
        """Whether the value is absent, `~` or `null`, which means: not given."""
        return self.node.tag == _TAG + "null"

    @property
    def is_empty(self) -> bool:
        """Whether the value is null or an empty list."""
        return self.is_null or (self.is_list and not self.node.value)

    @property
    def is_list(self) -> bool:
        """Whether it is a YAML sequence without a custom tag."""
        return isinstance(self.node, SequenceNode) and self.node.tag == _TAG + "seq"

    @property
    def is_mapping(self) -> bool:
        """Whether it is a YAML mapping without a custom tag."""
        return isinstance(self.node, MappingNode) and self.node.tag == _TAG + "map"

    @property
    def is_string(self) -> bool:
        """Whether it is a scalar that YAML reads as text."""
        return isinstance(self.node, ScalarNode) and self.node.tag in _TEXT

    def fail(self, message: str, hint: str) -> NoReturn:
        """Raise the ConfigError that names file, line and field."""
        raise ConfigError(f"{self.where}: {message}", hint=hint)

    def shown(self) -> str:
        """Return the value as the user wrote it, shortened for a message."""
        if self.is_null:
            return "nothing"
        if not isinstance(self.node, ScalarNode):
            return "a list" if isinstance(self.node, SequenceNode) else "a mapping"
        text = printable(self.node.value)
        if self.is_string:
            return f"the string '{text}'"
        return text if self.node.tag.startswith(_TAG) else f"'{text}' with the tag {printable(self.node.tag)}"

    def string(self) -> str:
        """Return the text, which is not empty and has no control characters. Raises ConfigError."""
        if not self.is_string:
            self._fail_for_a_string()
        text: str = self.node.value
        if not text:
            self.fail("is empty", "Write a value, or leave the field out.")
        if not text.isprintable() and (bad := re.search(_CONTROL, text)):  # none of these is printable
            self.fail(f"holds the control character U+{ord(bad[0]):04X}", "Write it on one line, without escapes.")
        return text

    def _fail_for_a_string(self) -> NoReturn:
        name = self.field.rpartition(".")[2]
        if isinstance(self.node, ScalarNode) and not self.is_null and self.node.tag.startswith(_TAG):
            written = printable(self.node.value)
            quoted = f'"{written}"'
            example = f"- {quoted}" if name.endswith("]") else f"{name}: {quoted}"
            self.fail(f"YAML reads {written} as {_kind(self.node)}, expected a string", f"Quote it: {example}")
        self.fail(f"got {self.shown()}, expected a string", "Write one text there.")

    def boolean(self) -> bool:
        """Return the boolean. Raises ConfigError."""
        if self.node.tag != _TAG + "bool":
            self.fail(f"got {self.shown()}, expected true or false", "Write true or false, without quotes.")
        return str(self.node.value).lower() in _TRUE

    def patterns(self) -> tuple[str, ...]:
        """Return the list of patterns as written, none of them empty. Raises ConfigError."""
        if not self.is_list:
            hint = f'Write a list: {self.field.rpartition(".")[2]}: ["*.safetensors"]'
            self.fail(f"got {self.shown()}, expected a list of patterns", hint)
        found = []
        for item in self.items():
            if not item.is_string:
                item._fail_for_a_string()
            if not item.node.value:
                item.fail("is empty", "Remove it, or write a pattern such as '*.safetensors'.")
            if "\0" in item.node.value:
                item.fail("holds a NUL character, which no file name has", "Remove it.")
            if len(item.node.value) > _LONGEST_PATTERN:
                item.fail(f"is longer than {_LONGEST_PATTERN:,} characters, and no file name is", "Shorten it.")
            found.append(item.node.value)
        return tuple(found)

    def items(self) -> Iterator[Value]:
        """Yield the items of a list; the field of the second is `FIELD[1]`."""
        for index, node in enumerate(self.node.value):
            yield Value(self.file, f"{self.field}[{index}]", node)

    def parsed(self, rule: Callable[[str], T]) -> T:
        """Return `rule(text)`; an InvalidText of the rule becomes a ConfigError with file, line and field."""
        try:
            return rule(self.string())
        except InvalidText as why:
            raise ConfigError(f"{self.where}: {why.message}", hint=why.hint) from None

    def members(self, *, strict: Callable[[str], bool] = lambda key: True) -> dict[str, Value]:
        """Return the mapping's values by key, null values too, with merge keys (`<<`) resolved.

        Args:
            strict: whether it is an error that a key is given twice; else the last one counts.
        """
        found: dict[str, Value] = {}
        merges: list[Node] = []
        lines: dict[str, int] = {}
        for key, node in self.node.value:
            if key.tag == _TAG + "merge":
                merges.append(node)
                continue
            name = self._name_of(key)
            shown = printable(name)
            member = Value(self.file, f"{self.field}.{shown}" if self.field else shown, node)
            if name in lines and strict(name):
                here = Value(self.file, member.field, key)
                here.fail(f"given twice, on line {lines[name]} and on line {here.line}", "Remove one of the two.")
            lines[name] = line_of(key)
            found[name] = member
        for merge in merges:
            for name, member in self._merged(merge).items():
                found.setdefault(name, member)
        return found

    def _name_of(self, key: Node) -> str:
        if isinstance(key, ScalarNode):
            return str(key.value)
        Value(self.file, self.field or "top level", key).fail("a key that is no name", "Write `name: value`.")

    def _merged(self, node: Node) -> dict[str, Value]:
        """Return the values that `<<` adds: of several mappings the first counts (YAML 1.1, merge key)."""
        parts = node.value if isinstance(node, SequenceNode) else [node]
        found: dict[str, Value] = {}
        for part in parts:
            value = Value(self.file, self.field, part)
            if not value.is_mapping:
                value.fail(f"`<<` brings {value.shown()}, expected a mapping", "Point `<<` to a mapping.")
            for name, member in value.members().items():
                found.setdefault(name, member)
        return found

    def known_members(self, known: Sequence[str], hints: Mapping[str, str]) -> dict[str, Value]:
        """Return the members that are not null. Raises ConfigError for a key that is not in `known`.

        Args:
            known: the allowed keys.
            hints: for keys that belong elsewhere, the hint that says where.
        """
        members = self.members()
        for name, value in members.items():
            if name not in known:
                hint = hints.get(name) or did_you_mean(name, known) or f"Known are {', '.join(known)}."
                value.fail("unknown key", hint)
        return {name: value for name, value in members.items() if not value.is_null}


def line_of(node: Node) -> int:
    """Return the line on which `node` begins, from 1."""
    line: int = node.start_mark.line
    return line + 1


def printable(text: str) -> str:
    """Return `text` on one line, without control characters and queries of URLs, shortened for a message."""
    text = re.sub(_QUERY, r"\1?...", text) if "?" in text else text
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def did_you_mean(name: str, known: Sequence[str]) -> str | None:
    """Return `Did you mean X?` for the nearest of `known`, or None.

    >>> did_you_mean("allow_pattern", ["repo_id", "allow_patterns"])
    'Did you mean allow_patterns?'
    """
    import difflib

    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    return f"Did you mean {near[0]}?" if near else None


def _kind(node: Node) -> str:
    names = {"int": "a number", "float": "a number", "bool": "true or false", "timestamp": "a date"}
    return names.get(node.tag.removeprefix(_TAG), "something else than text")
