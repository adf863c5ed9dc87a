"""Modules that concatenate what products compute, in the ways that Inductor writes the pieces into one buffer."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

F8 = torch.float8_e4m3fn
WIDTH = 256


class Products(nn.Module):
    """Four weights and what a function makes of them and of the inputs."""

    def __init__(self, function: Callable[..., Any], rows: int = WIDTH) -> None:
        super().__init__()
        self.weights = nn.ParameterList([torch.randn(rows, WIDTH) / 16 for _ in range(4)])
        self.biases = nn.ParameterList([torch.randn(WIDTH) for _ in range(4)])
        self.function = function
        self.requires_grad_(False)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self.weights, self.biases, *inputs)


class Quantized(nn.Module):
    """Products in FP8 of one activation, which are concatenated."""

    def __init__(self) -> None:
        super().__init__()
        for i in range(3):
            self.register_buffer(f"weight{i}", torch.randn(WIDTH, WIDTH).to(F8))
        self.register_buffer("scale", torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        weights = [getattr(self, f"weight{i}").t() for i in range(3)]
        x = (x * 4).to(F8)
        return torch.cat([torch._scaled_mm(x, w, self.scale, self.scale, out_dtype=torch.bfloat16) for w in weights], -1)


def _last(w: Any, b: Any, x: Tensor) -> Tensor:
    return torch.cat([x @ w[0], x @ w[1]], -1) @ w[2].expand(2, WIDTH, WIDTH).reshape(2 * WIDTH, WIDTH)


def _first(w: Any, b: Any, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    return torch.cat([x @ w[0], y @ w[1], z @ w[2]]).sin()


def _pointwise(w: Any, b: Any, x: Tensor) -> Tensor:
    return torch.cat([x @ w[0], x.sin(), x @ w[1], x @ w[2]], -1).sum(-1)


def _nested(w: Any, b: Any, x: Tensor) -> Tensor:
    inner = torch.cat([x @ w[0], x @ w[1]], -1)
    return torch.cat([inner, x @ w[2], x @ w[3]], -1).sum(-1)


def _returned(w: Any, b: Any, x: Tensor) -> Tensor:
    return torch.cat([x @ each for each in w], -1)


def _read_early(w: Any, b: Any, x: Tensor) -> Any:
    """A piece is read on the way to another piece."""
    first = x @ w[0]
    return torch.cat([first, first.relu() @ w[3], x @ w[1]], -1), x @ w[2]


def _summed_early(w: Any, b: Any, x: Tensor) -> Any:
    """A piece is read before another piece, which a generated kernel writes, is made."""
    first = x @ w[0]
    return first.sum(0) @ w[2], torch.cat([first, x * 2], -1)


def _read_twice(w: Any, b: Any, x: Tensor) -> Any:
    both = torch.cat([x @ w[0], x @ w[1]])
    return both @ w[2], both @ w[3]


def _biased(w: Any, b: Any, x: Tensor) -> Tensor:
    return torch.cat([torch.addmm(bias, x, each) for bias, each in zip(b, w, strict=True)], -1).sum(-1)


def _batched(w: Any, b: Any, x: Tensor) -> Tensor:
    x, (one, other, *_) = x.view(4, -1, WIDTH), [each.expand(4, WIDTH, WIDTH) for each in w]
    return torch.cat([torch.bmm(x, one), torch.bmm(x, other), torch.bmm(x.sin(), one)], 1)


def _with_input(w: Any, b: Any, x: Tensor) -> Tensor:
    return torch.cat([x @ w[0], x, x @ w[1]], -1).sum(-1)


def _piece_read(w: Any, b: Any, x: Tensor) -> Any:
    one, other = x @ w[0], x @ w[1]
    return torch.cat([one, other], -1).sum(-1), one.relu() @ w[2], other @ w[3]


def _two(w: Any, b: Any, x: Tensor) -> Any:
    """Of the second, the first in no memory that is free by then."""
    one = torch.cat([x @ w[0], x @ w[1]], -1).sin()
    other = torch.cat([one[:, :WIDTH] @ w[2], one[:, WIDTH:] @ w[3]], -1)
    return other.cos() + one


def _product_of_a_piece(w: Any, b: Any, x: Tensor) -> Tensor:
    one = x @ w[0]
    return torch.cat([one, one @ w[1], x @ w[2], x @ w[3]], -1).sum(-1)


def _pieces_read_later(w: Any, b: Any, x: Tensor) -> Any:
    one, other = x @ w[0], x @ w[1]
    both = torch.cat([one, other], -1)
    return both.sum(-1), one.relu().cumsum(0), other.sin()


def _read_and_returned(w: Any, b: Any, x: Tensor) -> Any:
    both = torch.cat([x @ w[0], x @ w[1]], -1)
    return both.view(2, -1, WIDTH), both.sum(0), torch.cat([x @ w[2], x @ w[3]]).t()


def _changed(w: Any, b: Any, x: Tensor, y: Tensor) -> Any:
    """The concatenation is changed in place behind a reader, before another."""
    both = torch.cat([x @ w[0], x @ w[1]])
    first = both.sum(-1)
    both[:16] += y
    return first, both.sum(0), y @ w[2]


def _inputs(count: int) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: tuple(torch.randn(16, WIDTH) for _ in range(count))


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]]]] = {
    "last dimension": (lambda: Products(_last), _inputs(1)),
    "first dimension": (lambda: Products(_first), _inputs(3)),
    "a pointwise piece": (lambda: Products(_pointwise), _inputs(1)),
    "nested": (lambda: Products(_nested), _inputs(1)),
    "returned": (lambda: Products(_returned), _inputs(1)),
    "read early": (lambda: Products(_read_early), _inputs(1)),
    "summed early": (lambda: Products(_summed_early), _inputs(1)),
    "read twice": (lambda: Products(_read_twice), _inputs(1)),
    "biased": (lambda: Products(_biased), _inputs(1)),
    "batched": (lambda: Products(_batched), _inputs(1)),
    "with an input": (lambda: Products(_with_input), _inputs(1)),
    "a piece that is read": (lambda: Products(_piece_read), _inputs(1)),
    "a product of a piece": (lambda: Products(_product_of_a_piece), _inputs(1)),
    "pieces that are read later": (lambda: Products(_pieces_read_later), _inputs(1)),
    "read and returned": (lambda: Products(_read_and_returned), _inputs(1)),
    "changed": (lambda: Products(_changed), _inputs(2)),
    "two": (lambda: Products(_two), _inputs(1)),
    "fp8": (Quantized, lambda: (torch.randn(16, WIDTH, dtype=torch.bfloat16),)),
}


class RandomProgram:
    """Products, elementwise steps and concatenations, drawn from a seed and written as a function of one input."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._lines = ["def function(w, b, v0):"]
        self._values = 1
        self._returned: list[str] = []
        for number in range(self._rng.randint(6, 12)):
            self._step(number)
        self._returned += [f"v{self._values - 1}", f"v{self._values - 2}"]
        self.source = "\n".join([*self._lines, f"    return {', '.join(self._returned)}"])

    def function(self) -> Callable[..., Any]:
        """Return the function."""
        names: dict[str, Any] = {"torch": torch}
        exec(self.source, names)
        return names["function"]

    def _value(self, expression: str) -> None:
        self._lines.append(f"    v{self._values} = {expression}")
        self._values += 1

    def _step(self, number: int) -> None:
        kind, any_value = self._rng.random(), f"v{self._rng.randrange(self._values)}"
        if kind < 0.5 or self._values < 3:
            self._value(f"{any_value} @ w[{self._rng.randrange(4)}]")
        elif kind < 0.66:
            self._value(f"{any_value}{self._rng.choice(['.sin()', '.relu()', ' * 2 + 1', '.softmax(-1)'])}")
        else:
            self._concatenate(f"c{number}")

    def _concatenate(self, name: str) -> None:
        dimension, size = self._rng.choice([(0, 16), (-1, WIDTH)])
        pieces = [f"v{self._rng.randrange(1, self._values)}" for _ in range(self._rng.randint(2, 4))]
        self._lines.append(f"    {name} = torch.cat([{', '.join(pieces)}], {dimension})")
        use = self._rng.random()
        if use < 0.6:
            self._returned.append(name if use < 0.3 else f"{name}.sum({dimension})")
        elif use < 0.8:
            self._value(f"{name}.narrow({dimension}, 0, {size}) + 1")
        else:
            self._value(f"{name}.narrow({dimension}, {size}, {size}) @ w[0]")
            self._returned.append(f"{name}.sum({-1 - dimension})")
