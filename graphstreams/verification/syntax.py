"""Compare pieces of Python's syntax, name them in messages, and find what a dotted name stands for."""

from __future__ import annotations

import ast
from collections.abc import Mapping

from graphstreams import messages


def is_literal(node: ast.expr) -> bool:
    """Return whether an expression is a constant or a tuple of constants."""
    return all(isinstance(part, ast.Constant | ast.Tuple | ast.Load) for part in ast.walk(node))


def same(node: ast.AST, other: ast.AST) -> bool:
    """Return whether two pieces of source say the same."""
    return ast.dump(node) == ast.dump(other)


def dotted(node: ast.AST) -> str:
    """Return `a.b.c` as text, or an empty text for any other expression."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def full_path(node: ast.AST, paths: Mapping[str, str]) -> str:
    """Return the full path of a dotted name whose first part has a path; empty for anything else."""
    root, _, rest = dotted(node).partition(".")
    found = paths.get(root, "")
    return f"{found}.{rest}" if found and rest else found


def shortened(node: ast.AST, limit: int = 120) -> str:
    """Return the source of a node for a message: one line of at most `limit` characters."""
    return messages.shortened(ast.unparse(node), limit)
