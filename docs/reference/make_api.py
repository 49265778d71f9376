"""Write api.md beside this file from the docstrings of the public API: `python docs/reference/make_api.py`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import truss_cache_tasks
from truss_cache_tasks import errors, events, stores

PAGE = Path(__file__).parent / "api.md"
CONSTANTS = {"__version__": "the version of this package, such as `0.1.0`."}
HEAD = """\
# Python API

Made from docstrings by `doit docs`: edit those, not this page. `import truss_cache_tasks` reads and opens nothing; each
name is loaded when it is first used. Names that are not on this page may change without notice.
"""
STORES = """\
## Stores of other packages: `truss_cache_tasks.stores`

[How to write a store](../how-to/stores.md). `truss_cache_tasks.sources.testing.SourceContract` has the tests of a
`Source`; it imports pytest. `UNPINNED` is `Pins()`.
"""
SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Yields):")
METHODS = {"Source": ("listing", "locate", "explain"), "HttpClient": ("send",), "Network": ("variable", "with_retries")}
NEWLINE = "\n"
MODULE = re.compile(r"\b(?:[a-z_]+\.)+(?=[A-Z])")
ITEM = re.compile(r"( {4})((?:`?[\w.*]+`?)(?:, (?:`?[\w.*]+`?))*): (.*)")


def shown_kind(kind: Any) -> str:
    """Return an annotation as it is written, whether it is a text or was evaluated."""
    return kind if isinstance(kind, str) else MODULE.sub("", inspect.formatannotation(kind))


def main() -> None:
    """Write the page."""
    PAGE.write_text(page())


def page() -> str:
    """Return the text of api.md."""
    parts = [HEAD]
    for name in sorted(truss_cache_tasks.__all__, key=lambda name: (name.startswith("_"), name[0].isupper(), name)):
        value = getattr(truss_cache_tasks, name)
        if not isinstance(value, ModuleType):
            parts += described(value, f"truss_cache_tasks.{name}", "##")
    for module, title in ((errors, "Errors"), (events, "Events")):
        parts.append(f"## {title}: `{module.__name__}`\n\n{rendered(inspect.getdoc(module) or '')}")
        for value in own_members(module):
            parts += described(value, value.__name__, "###")
    parts.append(STORES)
    for name in sorted(stores.__all__, key=lambda name: (name not in ("Store", "Source"), name)):
        value = getattr(stores, name)
        if callable(value):
            parts += described(value, name, "###")
        if name in METHODS:
            for method in METHODS[name]:
                parts += described(getattr(value, method), f"{name}.{method}", "####")
    return "\n".join(part.rstrip() + "\n" for part in parts)


def own_members(module: ModuleType) -> Iterator[Any]:
    """Yield the public classes and functions that are defined in the module, in its order."""
    for name, value in vars(module).items():
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__:
            yield value


def described(value: Any, name: str, heading: str) -> Iterator[str]:
    """Yield the heading and the docstring of one function, class or constant."""
    if not callable(value):
        yield f"{heading} `{name}`\n\n{type(value).__name__}: {CONSTANTS[name.rpartition('.')[2]]}"
        return
    kind = "class " if inspect.isclass(value) else ""
    yield f"{heading} `{kind}{name}{bases(value)}`\n\n{signature(value)}{rendered(inspect.getdoc(value) or '')}"
    if inspect.isclass(value):
        for member, attribute in vars(value).items():
            if isinstance(attribute, property) and not member.startswith("_"):
                yield f"- `.{member}`: {' '.join((inspect.getdoc(attribute) or '').split())}"


def bases(value: Any) -> str:
    """Return `(Base)` of a class with a base of this package, `()` of a function, else ""."""
    if not inspect.isclass(value):
        return "()"
    named = [base.__name__ for base in value.__bases__ if base.__module__.startswith("truss_cache_tasks")]
    return f"({', '.join(named)})" if named else ""


def signature(value: Any) -> str:
    """Return a block of code: a function with an argument a line where it is long, or the fields of a class."""
    if inspect.isclass(value):
        kinds = {name: shown_kind(kind) for name, kind in inspect.get_annotations(value).items() if name[0] != "_"}
        fields = [f"{name}: {kind}" for name, kind in kinds.items()]
        return f"```python\n{NEWLINE.join(fields)}\n```\n\n" if fields else ""
    given = inspect.signature(value)
    arguments: list[str] = []
    for parameter in given.parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in arguments:
            arguments.append("*")
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        arguments.append(f"{parameter.name}: {shown_kind(parameter.annotation)}{default}")
    text = f"{value.__name__}({', '.join(arguments)}) -> {shown_kind(given.return_annotation)}"
    if len(text) > 100:
        inside = "".join(f"    {argument},\n" for argument in arguments)
        text = f"{value.__name__}(\n{inside}) -> {shown_kind(given.return_annotation)}"
    return f"```python\n{text}\n```\n\n"


def rendered(doc: str) -> str:
    """Return a docstring in Google style as Markdown: sections as lists, doctests as code."""
    out: list[str] = []
    section = code = False
    doc = re.sub(r" *# doctest: \+\w+", "", doc)
    for line in re.sub(r"(?<!`)``(?!`)", "`", doc).splitlines():
        if code and not line.strip():
            out, code = [*out, "```"], False
        if line.lstrip().startswith(">>> ") and not code:
            out, code = [*out, "```python"], True
        if found := SECTION.fullmatch(line):
            out.append(f"{found[1]}:\n")
            section = True
        elif code or not section:
            out.append(line)
        elif not line.startswith(" ") and line:
            section = False
            out.append(line)
        elif item := ITEM.fullmatch(line):
            names = ", ".join(f"`{name.strip('`')}`" for name in item[2].split(", "))
            out.append(f"- {names}: {item[3]}")
        else:
            out.append(re.sub(r"^ {8}", "  ", line) if line.startswith(" " * 8) else line.strip())
    return "\n".join(out + ["```"] * code)


if __name__ == "__main__":
    main()
