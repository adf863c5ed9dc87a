"""Pieces of Python's syntax: whether two are the same, and how messages call them."""

from __future__ import annotations

import ast


def literal(node: ast.expr) -> bool:
    """Whether it is a constant, or a tuple of constants."""
    return all(isinstance(part, ast.Constant | ast.Tuple | ast.Load) for part in ast.walk(node))


def same(node: ast.AST, other: ast.AST) -> bool:
    """Whether two pieces of source say the same, an expression being the statement of it."""
    one, two = (n.value if isinstance(n, ast.Expr) else n for n in (node, other))
    return ast.dump(one) == ast.dump(two)


def dotted(node: ast.expr) -> str:
    """`a.b.c` as text; empty where the expression is anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join([node.id, *reversed(parts)])


def shortened(node: ast.AST) -> str:
    """The source of a node in one line of a message."""
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 120 else text[:117] + "..."
