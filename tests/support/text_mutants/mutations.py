"""Change a wrapper's text once or twice, drawn from a seed, as an error in a code generator or an attack may."""

from __future__ import annotations

import difflib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.support.text_mutants import kernel_mutations as kernels
from tests.support.text_mutants import line_mutations as lines
from tests.support.text_mutants import name_mutations as names
from tests.support.text_mutants import odd_mutations as odd
from tests.support.text_mutants.text import Text

Mutation = Callable[[Text], None]

WEIGHTS: dict[Mutation, int] = {
    lines.drop: 3,
    lines.drop_sync: 18,
    lines.drop_del: 4,
    lines.duplicate: 3,
    lines.move: 6,
    lines.move_sync: 10,
    lines.move_launch: 8,
    lines.move_del: 8,
    lines.early_del: 10,
    lines.swap_lines: 2,
    lines.swap_neighbours: 6,
    lines.open_block: 3,
    lines.into_block: 3,
    names.rename_tensor: 4,
    names.rename_launch_operand: 10,
    names.rename_stream: 14,
    names.rename_event: 8,
    names.rename_handle: 3,
    names.replace_out: 4,
    names.change_number: 6,
    names.swap_arguments: 5,
    names.rebind: 6,
    names.misalign: 2,
    names.rename_index: 2,
    names.rebind_stream: 3,
    names.renumber: 1,
    names.change_collective: 4,
    names.swap_collectives: 8,
    odd.odd_sync: 2,
    odd.odd_block: 1,
    odd.odd_tensor: 3,
    odd.odd_statement: 3,
    odd.odd_rebind: 2,
    odd.odd_operator: 3,
    odd.odd_dispatch: 1,
    odd.rebind_in_module: 2,
    odd.drop_in_module: 1,
    kernels.rename_pointer: 3,
    kernels.second_store: 2,
    kernels.second_load: 1,
    kernels.swap_parameters: 2,
}
OF_COLLECTIVES = (names.change_collective, names.swap_collectives)


@dataclass(frozen=True)
class Mutant:
    """A text, and the names of what was done to the one that it comes from."""

    source: str
    kinds: tuple[str, ...]

    @property
    def is_odd(self) -> bool:
        """Whether it may have forms that no wrapper of Inductor's has, which are refused whatever they do."""
        return any(kind.startswith("odd_") or kind.endswith("_in_module") for kind in self.kinds)


def weights_for(source: str) -> dict[Mutation, int]:
    """Return the mutations that are drawn for a text, and how often: those of collectives only if it has some."""
    return {each: weight for each, weight in WEIGHTS.items() if "_c10d_functional" in source or each not in OF_COLLECTIVES}


def mutant(source: str, seed: int | str) -> Mutant:
    """Return the mutant of that seed, the same each time. It may equal its source."""
    rng = random.Random(seed)
    text = Text.of(source, rng)
    weights = weights_for(source)
    chosen = rng.choices(list(weights), list(weights.values()), k=rng.choice((1, 1, 2)))
    for mutation in chosen:
        mutation(text)
    return Mutant("\n".join(text.lines) + "\n", tuple(mutation.__name__ for mutation in chosen))


def difference(source: str, changed: str) -> Sequence[str]:
    """Return the lines that differ, for a reader."""
    return list(difflib.unified_diff(source.splitlines(), changed.splitlines(), "wrapper", "mutant", "", "", 2, ""))
