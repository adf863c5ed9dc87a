"""How long each kernel takes at any value of one dynamic size: piecewise linear where its expression is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations, zip_longest
from math import isfinite

import sympy

Polynomial = tuple[float, ...]  # value at size 0, factor of the size, factor of its square and so on; the last is not 0

SIZE = sympy.Symbol("size", integer=True, positive=True)
MOST_PARTS = 32  # of one kernel; a roofline has up to three


@dataclass(frozen=True)
class CostCurve:
    """A number over the size."""

    parts: Sequence[Polynomial] | None  # whose maximum it is; None where it is not seen to be one
    otherwise: sympy.Expr = sympy.S.Zero  # in SIZE, where there are no parts

    def at(self, size: int) -> float:
        """The number at `size`."""
        if self.parts is not None:
            return _highest(self.parts, size)
        return float(self.otherwise.xreplace({SIZE: sympy.Integer(size)}))


class KernelCostCurves:
    """The us of every kernel of a graph, as functions of one size.

    The size may be an expression: of the sizes in it the first by name varies, so that `s0 * s1` at s1 = 16 is 16 times s0.
    Sizes outside it whose example value is that of the size, or of what varies in it, are taken to grow alike: a cache with a
    row for each token. All others keep their example values.
    """

    def __init__(self, costs: Sequence[sympy.Expr], size: sympy.Expr, sizes: Mapping[str, int]) -> None:
        """`costs` has the us of each kernel as an expression in dynamic sizes, `sizes` their example values.

        Raises ValueError where an example value is missing, or where `size` is not linear in the size that varies.
        """
        varying = min(size.free_symbols, key=str, default=None)
        if varying is None:
            raise ValueError(f"{size} is no dynamic size")
        fixed = {name: value for name, value in sizes.items() if name != str(varying)}
        self._growing = {str(varying): _inverse(size, varying, fixed), **_alike(size, varying, sizes)}
        self._fixed = {name: value for name, value in fixed.items() if name not in self._growing}
        self._values = _Values(self._growing, self._fixed)
        self._costs = [self.growth(cost) for cost in costs]
        self._known: dict[int, list[float]] = {}

    def growth(self, expression: sympy.Expr) -> CostCurve:
        """What an expression in the dynamic sizes is over the size. Raises ValueError where an example value is missing."""
        parts = self._values.parts(expression)
        return CostCurve(parts) if parts is not None else CostCurve(None, self._values.substituted(expression))

    def at(self, size: int) -> list[float]:
        """The us of each kernel at `size`. Raises ValueError where one is not a finite number of at least 0."""
        if size not in self._known:
            self._known[size] = [_checked(cost.at(size), size) for cost in self._costs]
        return self._known[size]

    def sizes(self, size: int) -> dict[str, int]:
        """The value of each dynamic size at `size`."""
        at = {SIZE: sympy.Integer(size)}
        return {**self._fixed, **{name: round(float(value.xreplace(at))) for name, value in self._growing.items()}}

    def breakpoints(self) -> list[float] | None:
        """Sizes above 0 where a kernel's us may stop being linear; None where one is no maximum of lines."""
        found: set[float] = set()
        for cost in self._costs:
            if cost.parts is None or any(len(part) > 2 for part in cost.parts):
                return None
            lines = [(*part, 0.0, 0.0)[:2] for part in cost.parts]
            for (start, slope), (other_start, other_slope) in combinations(lines, 2):
                if slope != other_slope and (crossing := (other_start - start) / (slope - other_slope)) > 0:
                    found.add(crossing)
        return sorted(found)


def anchored(costs: Sequence[sympy.Expr], us: Sequence[float], sizes: Mapping[str, int]) -> list[sympy.Expr]:
    """Each expression times the factor that makes it the kernel's us, measured perhaps, at the example sizes.

    A kernel whose expression is 0 there has its us at every size. Raises ValueError where an example value is missing.
    """
    scaled, values = [], _Values({}, sizes)
    for cost, time in zip(costs, us, strict=True):
        parts = values.parts(cost)
        value = float(values.substituted(cost)) if parts is None else _highest(parts, 0)
        scaled.append(cost * sympy.Float(time / value) if value else sympy.Float(time))
    return scaled


def _inverse(size: sympy.Expr, varying: sympy.Symbol, others: Mapping[str, int]) -> sympy.Expr:
    """The varying symbol in terms of SIZE."""
    polynomial = _substituted(size, {str(varying): varying}, others).as_poly(varying)
    if polynomial is None or polynomial.degree() != 1:
        raise ValueError(f"{size} does not grow in proportion to {varying}")
    slope, start = polynomial.all_coeffs()
    return (SIZE - start) / slope


def _alike(size: sympy.Expr, varying: sympy.Symbol, sizes: Mapping[str, int]) -> dict[str, sympy.Expr]:
    """The sizes outside `size` that grow with it, in terms of SIZE."""
    if str(varying) not in sizes:
        return {}
    inside = {str(symbol) for symbol in size.free_symbols}
    fixed = {name: value for name, value in sizes.items() if name != str(varying)}
    values = {sizes[str(varying)]: _inverse(size, varying, fixed), int(_substituted(size, {}, sizes)): SIZE}
    return {name: values[value] for name, value in sizes.items() if name not in inside and value in values}


def _substituted(expression: sympy.Expr, symbols: Mapping[str, sympy.Expr], sizes: Mapping[str, int]) -> sympy.Expr:
    """By name, since equal names may come with other assumptions."""
    values: dict[sympy.Symbol, sympy.Expr] = {}
    for symbol in sympy.sympify(expression).free_symbols:
        name = str(symbol)
        if name not in symbols and name not in sizes:
            raise ValueError(f"no example value for the dynamic size {name!r}")
        values[symbol] = symbols[name] if name in symbols else sympy.Integer(sizes[name])
    return sympy.sympify(expression).xreplace(values)


def _highest(parts: Sequence[Polynomial], size: int) -> float:
    return max(reduce(lambda value, factor: value * size + factor, reversed(part), 0.0) for part in parts)


def _checked(us: float, size: int) -> float:
    if not (isfinite(us) and us >= 0):
        raise ValueError(f"a kernel has the time {us} us at size {size}; a finite time of at least 0 is needed")
    return us


class _Values:
    """What stands for each dynamic size, by name: an expression in SIZE or a number."""

    def __init__(self, growing: Mapping[str, sympy.Expr], fixed: Mapping[str, int]) -> None:
        self._growing, self._fixed = growing, fixed
        self._parts: dict[str, list[Polynomial] | None] = {name: [(float(value),)] for name, value in fixed.items()}
        self._parts.update({name: _polynomial(value) for name, value in growing.items()})

    def substituted(self, expression: sympy.Expr) -> sympy.Expr:
        """The expression in SIZE. Raises ValueError where a value is missing."""
        return _substituted(expression, self._growing, self._fixed)

    def parts(self, expression: sympy.Expr) -> list[Polynomial] | None:
        """Polynomials whose maximum it is; None where it is not seen to be one. Raises as `substituted` does."""
        found: list[Polynomial] | None
        # In numbers as far as that goes: to substitute in thousands of expressions takes sympy seconds.
        match sympy.sympify(expression):
            case sympy.Number() as number:
                found = [(float(number),)]
            case sympy.Symbol(name=name) if name in self._parts:
                found = self._parts[name]
            case sympy.Add(args=terms):
                found = reduce(_sums, map(self.parts, terms))
            case sympy.Mul(args=factors):
                found = reduce(_products, map(self.parts, factors))
            case sympy.Pow(base=base, exp=sympy.Integer() as power) if 0 < power <= MOST_PARTS:
                found = reduce(_products, [self.parts(base)] * int(power))
            case _ if type(expression).__name__ == "Max":  # sympy's, or torch's own
                found = reduce(_either, map(self.parts, expression.args))
            case _:
                found = _polynomial(self.substituted(expression))
        return found if found is not None and len(found) <= MOST_PARTS else None


def _sums(parts: list[Polynomial] | None, others: list[Polynomial] | None) -> list[Polynomial] | None:
    if parts is None or others is None or len(parts) * len(others) > MOST_PARTS:
        return None
    return [_trimmed([a + b for a, b in zip_longest(one, other, fillvalue=0.0)]) for one in parts for other in others]


def _products(parts: list[Polynomial] | None, others: list[Polynomial] | None) -> list[Polynomial] | None:
    if parts is None or others is None:
        return None
    if len(parts) > 1:
        parts, others = others, parts
    factor = parts[0]
    if len(others) > 1 and (len(parts) > 1 or min(factor, default=0.0) < 0):
        return None
    return [_product(factor, other) for other in others]


def _product(one: Polynomial, other: Polynomial) -> Polynomial:
    found = [0.0] * (len(one) + len(other))
    for i, a in enumerate(one):
        for k, b in enumerate(other):
            found[i + k] += a * b
    return _trimmed(found)


def _either(parts: list[Polynomial] | None, others: list[Polynomial] | None) -> list[Polynomial] | None:
    return None if parts is None or others is None else parts + others


def _polynomial(cost: sympy.Expr) -> list[Polynomial] | None:
    polynomial = cost.as_poly(SIZE) if cost.has(SIZE) else sympy.Poly(cost, SIZE)
    if polynomial is None or not all(c.is_number for c in polynomial.all_coeffs()):
        return None
    return [_trimmed([float(c) for c in reversed(polynomial.all_coeffs())])]


def _trimmed(factors: list[float]) -> Polynomial:
    while factors and factors[-1] == 0:
        factors.pop()
    return tuple(factors)
