"""Make random torch modules over small matrices."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch

SIZE = 8
Matrix = torch.Tensor  # 8 x 8, float32
Operation = Callable[["RandomModule", Matrix, Matrix], Sequence[Matrix]]

OPERATIONS: dict[str, Operation] = {
    "mm": lambda m, a, b: [a @ b * 0.3],
    "linear": lambda m, a, b: [m.linear(a)],
    "gelu": lambda m, a, b: [torch.nn.functional.gelu(m.linear(a)) * b],
    "addmm": lambda m, a, b: [torch.addmm(b, a, m.linear.weight)],
    "bmm": lambda m, a, b: [torch.bmm(a.reshape(2, 4, 8), b.reshape(2, 8, 4)).reshape(4, 8).repeat(2, 1)],
    "relu": lambda m, a, b: [torch.relu(a) - b],
    "tanh": lambda m, a, b: [torch.tanh(a)],
    "where": lambda m, a, b: [torch.where(a > 0, a, b)],
    "half": lambda m, a, b: [a.to(torch.bfloat16).to(torch.float32) + 1],
    "norm": lambda m, a, b: [torch.nn.functional.layer_norm(a, [SIZE], m.scale)],
    "softmax": lambda m, a, b: [torch.softmax(a, -1) + b],
    "mean": lambda m, a, b: [a - b.mean(0, keepdim=True), b.sum(-1, keepdim=True) * a],
    "scalar": lambda m, a, b: [a * torch.sigmoid(b.sum())],
    "transpose": lambda m, a, b: [a.t()],
    "view": lambda m, a, b: [a.reshape(4, 16).t().reshape(SIZE, SIZE)],
    "roll": lambda m, a, b: [torch.cat([a[3:], b[:3]])],
    "columns": lambda m, a, b: [torch.cat([a[:, 4:] @ b[4:], b[:, :4] @ a[:4]], 0)[::2]],
    "split": lambda m, a, b: [torch.cat([p * 2, q], 0) for p, q in [(a + 1).split(4)]],
    "topk": lambda m, a, b: [torch.cat([v, i.to(a.dtype)], 1) for v, i in [torch.topk(a, 4)]],
    "sort": lambda m, a, b: [*(v + i for v, i in [torch.sort(a, -1)])],
    "gather": lambda m, a, b: [a[m.rows(b)], torch.gather(a, 1, torch.argsort(b, 1))],
    "cumsum": lambda m, a, b: [torch.cumsum(a, 0) * 0.2],
    "constant": lambda m, a, b: [torch.full_like(a, 0.5) + torch.arange(SIZE, device=a.device)],
}


class RandomModule(torch.nn.Module):
    """A random program over 8 x 8 matrices that reads two inputs and two states, writes the states, and returns some values."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = random.Random(seed)
        self.linear: torch.nn.Linear = torch.nn.Linear(SIZE, SIZE, bias=generator.random() < 0.5)
        self.scale: torch.nn.Parameter = torch.nn.Parameter(torch.ones(SIZE))
        recent = generator.choice([3, 6, 1000])  # small: deep graphs; large: wide ones
        names = [*OPERATIONS, *generator.choices(WRITES, k=generator.randint(0, 8))]
        self.program = [
            (generator.choice(names), generator.randrange(recent), generator.randrange(recent))
            for _ in range(generator.randint(6, 24))
        ]
        self.returned = [generator.randrange(1000) for _ in range(generator.randint(2, 8))]

    def rows(self, values: Matrix) -> torch.Tensor:
        """Return valid row numbers, from data."""
        return values.argmax(1)

    def forward(self, x: Matrix, y: Matrix, state: Matrix, cache: torch.Tensor, where: torch.Tensor) -> tuple[Matrix, ...]:
        values = [x, y]
        for name, first, second in self.program:
            a, b = values[-1 - first % len(values)], values[-1 - second % len(values)]
            if name in OPERATIONS:
                values.extend(OPERATIONS[name](self, a, b))
            else:
                values.extend(_write(name, a, (x, state, cache, where)))
        return tuple(values[-1 - i % len(values)] for i in self.returned)


WRITES = ("put", "slice", "column", "add", "copy", "input", "read", "window")


def _write(name: str, a: Matrix, places: tuple[torch.Tensor, ...]) -> list[Matrix]:
    """Write one input in place, or read one that others write."""
    x, state, cache, where = places
    if name == "put":
        cache[where] = a
    elif name == "slice":
        cache[2:6] = a[:4]
    elif name == "column":
        cache[:SIZE, 3] = a[:, 0]
    elif name == "add":
        state.add_(a)
    elif name == "copy":
        state.copy_(a)
    elif name == "input":
        x.mul_(a)
    elif name == "read":
        return [state * 0.5, cache[4:12] + a]
    elif name == "window":
        return [state.t(), cache[1:9]]
    return []
