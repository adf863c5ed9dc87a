"""How long each kernel takes at any value of one dynamic size: piecewise linear where its expression is, else evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import isfinite

import sympy

Line = tuple[float, float]  # us at size 0, us per unit of the size

SIZE = sympy.Symbol("size", integer=True, positive=True)
MOST_LINES = 32  # of one kernel; a roofline has up to three


class KernelTimes:
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
        self._costs = [_substituted(cost, self._growing, self._fixed) for cost in costs]
        self._lines = [_lines(cost) for cost in self._costs]
        self._known: dict[int, list[float]] = {}

    def at(self, size: int) -> list[float]:
        """The us of each kernel at `size`. Raises ValueError where one is not a finite number of at least 0."""
        if size not in self._known:
            values = zip(self._costs, self._lines, strict=True)
            self._known[size] = [_checked(_value(cost, lines, size), size) for cost, lines in values]
        return self._known[size]

    def sizes(self, size: int) -> dict[str, int]:
        """The value of each dynamic size at `size`."""
        at = {SIZE: sympy.Integer(size)}
        return {**self._fixed, **{name: round(float(value.xreplace(at))) for name, value in self._growing.items()}}

    def breakpoints(self) -> list[float] | None:
        """Sizes above 0 where a kernel's us may stop being linear; None where one is no maximum of lines."""
        found: set[float] = set()
        for lines in self._lines:
            if lines is None:
                return None
            for (start, slope), (other_start, other_slope) in combinations(lines, 2):
                if slope != other_slope and (crossing := (other_start - start) / (slope - other_slope)) > 0:
                    found.add(crossing)
        return sorted(found)


def anchored(costs: Sequence[sympy.Expr], us: Sequence[float], sizes: Mapping[str, int]) -> list[sympy.Expr]:
    """Each expression times the factor that makes it the kernel's us, measured perhaps, at the example sizes.

    A kernel whose expression is 0 there has its us at every size. Raises ValueError where an example value is missing.
    """
    scaled = []
    for cost, time in zip(costs, us, strict=True):
        value = float(_substituted(cost, {}, sizes))
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


def _value(cost: sympy.Expr, lines: Sequence[Line] | None, size: int) -> float:
    if lines is not None:
        return max(start + slope * size for start, slope in lines)
    return float(cost.xreplace({SIZE: sympy.Integer(size)}))


def _checked(us: float, size: int) -> float:
    if not (isfinite(us) and us >= 0):
        raise ValueError(f"a kernel has the time {us} us at size {size}; a finite time of at least 0 is needed")
    return us


def _lines(cost: sympy.Expr) -> list[Line] | None:
    """Straight lines in SIZE whose maximum `cost` is; None where it is not seen to be one."""
    found: list[Line] | None
    match cost:
        case sympy.Add():
            found = [(0.0, 0.0)]
            for term in cost.args:
                found = _sums(found, _lines(term))
        case sympy.Mul() if cost.args[0].is_number and cost.args[0] >= 0 and len(cost.args) == 2:
            factor, inner = float(cost.args[0]), _lines(cost.args[1])
            found = [(factor * start, factor * slope) for start, slope in inner] if inner is not None else None
        case _ if type(cost).__name__ == "Max":  # sympy's, or torch's own
            found = []
            for argument in cost.args:
                inner = _lines(argument)
                found = found + inner if found is not None and inner is not None else None
        case _:
            found = _line(cost)
    return found if found is not None and len(found) <= MOST_LINES else None


def _sums(lines: list[Line] | None, others: list[Line] | None) -> list[Line] | None:
    if lines is None or others is None or len(lines) * len(others) > MOST_LINES:
        return None
    return [(a + c, b + d) for a, b in lines for c, d in others]


def _line(cost: sympy.Expr) -> list[Line] | None:
    polynomial = cost.as_poly(SIZE) if cost.has(SIZE) else sympy.Poly(cost, SIZE)
    if polynomial is None or polynomial.degree() > 1 or not all(c.is_number for c in polynomial.all_coeffs()):
        return None
    return [(float(polynomial.coeff_monomial(1)), float(polynomial.coeff_monomial(SIZE)))]
