"""Print how the package's parts import each other, and check that imports go down only.

    python scripts/imports.py [--check]

A part is a folder of the package or a module at its root. PARTS lists them from the bottom to the top: a part imports only
parts before it in the list. Imports that only a type checker follows count too. Floors are the parts on the longest chain of
imports. With `--check` the exit status is 1 if an import goes up, parts import each other in a circle, there are more than
FLOORS floors, or a module other than those of TORCH_INTERNALS names a module of torch's internals.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "graphstreams"
PARTS = (
    "messages", "errors", "files", "ir", "options", "runtime", "verification", "kernels", "inductor", "reading", "costs",
    "planning", "dynamic_shapes", "rewriting", "autotuning", "reports", "pipeline", "backend", "api",
    "integrations", "benchmark",
    "calibration", "testing", "command_line", "__init__", "__main__",
)  # fmt: skip
FLOORS = 10
INTERNALS = ("torch._inductor", "torch._dynamo", "torch._functorch", "torch._C")
TORCH_INTERNALS = ("inductor", "runtime", "autotuning")  # parts that may import them


def part_of(module: str) -> str:
    """Return the part that a module of the package is in, such as "planning" for "graphstreams.planning.paths"."""
    _, _, rest = module.partition(".")
    return rest.partition(".")[0] or "__init__"


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the module, or the name in it, of each import statement, wherever it stands, and of each use of internals."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and (text := ast.unparse(node)) in INTERNALS:
            yield text


def arrows() -> tuple[dict[str, set[str]], list[str]]:
    """Return which parts each part imports, and the files that use torch's internals but may not."""
    found: dict[str, set[str]] = defaultdict(set)
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        own = part_of(".".join(["graphstreams", *path.relative_to(PACKAGE).with_suffix("").parts]))
        names = list(imported(ast.parse(path.read_text())))
        found[own] |= {part_of(name) for name in names if name.startswith("graphstreams.")} - {own}
        internals = [name for name in names if name.startswith(INTERNALS)]
        if internals and own not in TORCH_INTERNALS:
            wrong.append(f"{path.relative_to(PACKAGE)} uses {internals[0]}")
    known = set(PARTS)
    return {own: {part if part in known else "__init__" for part in parts} - {own} for own, parts in found.items()}, wrong


def floors(found: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the parts by floor, the lowest first. Raises CycleError if parts import each other in a circle."""
    height: dict[str, int] = {}
    for part in TopologicalSorter(found).static_order():
        height[part] = 1 + max((height[other] for other in found.get(part, ())), default=-1)
    return [[part for part in PARTS if height.get(part) == level] for level in range(max(height.values()) + 1)]


def main() -> int:
    """Print floors, arrows and faults; exit status 1 with `--check` if there are faults."""
    found, wrong = arrows()
    unknown = sorted(found.keys() - set(PARTS))
    wrong += [f"{part} is not in PARTS of scripts/imports.py" for part in unknown]
    ups = [
        (own, part) for own, parts in found.items() for part in parts if own in PARTS and PARTS.index(part) > PARTS.index(own)
    ]
    wrong += [f"{own} imports {part}, which is above it" for own, part in sorted(ups)]
    try:
        levels = floors(found)
    except CycleError as error:
        levels = []
        wrong.append(f"parts import each other in a circle: {' -> '.join(error.args[1])}")
    for level, parts in reversed(list(enumerate(levels, 1))):
        print(f"{level:3}  {', '.join(parts)}")
    if len(levels) > FLOORS:
        wrong.append(f"{len(levels)} floors, {FLOORS} are allowed")
    modules = [path for path in PACKAGE.glob("*.py")]
    lines = sum(len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py"))
    print(f"{len(levels)} floors, {sum(map(len, found.values()))} arrows, {len(ups)} of them up; "
          f"{len(modules)} modules at the root; {lines} lines of Python")  # fmt: skip
    print("\n".join(wrong), end="\n" if wrong else "")
    return int(bool(wrong) and "--check" in sys.argv[1:])


if __name__ == "__main__":
    raise SystemExit(main())
