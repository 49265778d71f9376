"""Threads import libraries one at a time: entries of several stores are fetched side by side."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "truss_cache_tasks"
OWN = {"truss_cache_tasks.model", "truss_cache_tasks.transfer", "truss_cache_tasks.network", "truss_cache_tasks.events"}


def unlocked(node: ast.AST, locked: bool = True) -> list[int]:
    """Return the lines of imports that a call makes outside of `with IMPORTS`; `locked`: this node may import."""
    if isinstance(node, ast.FunctionDef):
        locked = False
    elif isinstance(node, ast.With):
        locked = locked or any(ast.unparse(item.context_expr) == "IMPORTS" for item in node.items)
    elif isinstance(node, ast.Import | ast.ImportFrom) and not locked and imports_libraries(node):
        return [node.lineno]
    return [line for child in ast.iter_child_nodes(node) for line in unlocked(child, locked)]


def imports_libraries(node: ast.Import | ast.ImportFrom) -> bool:
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
    own = all(".".join(name.split(".")[:2]) in OWN and not name.endswith(".http_body") for name in names)
    return not own and not all(name.partition(".")[0] in sys.stdlib_module_names for name in names)


def test_what_a_source_or_a_transfer_imports_when_it_is_called_is_imported_under_the_lock() -> None:
    modules = [path for layer in ("sources", "transfer", "network") for path in (PACKAGE / layer).rglob("*.py")]
    found = {
        f"{path.relative_to(PACKAGE)}:{line}"
        for path in modules
        if path.name != "testing.py"  # of tests, which run one after the other
        for line in unlocked(ast.parse(path.read_text()))
    }
    assert found == set()


def test_the_classes_of_stores_are_imported_under_the_lock() -> None:
    for module in ("sources/registry.py", "sources/foreign.py", "sources/gcs/federation.py"):
        tree = ast.parse((PACKAGE / module).read_text())
        under = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.With)]
        calls = ast.unparse(tree).count("import_module(")
        assert calls == sum(text.count("import_module(") for text in under if text.startswith("with IMPORTS:")) == 1
