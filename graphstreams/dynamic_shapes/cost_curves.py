"""Tell how long each kernel takes at any value of one dynamic size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isfinite, prod
from typing import Any

import sympy

Curve = Callable[[int], float]  # from the size to a number of us or bytes

SIZE = sympy.Dummy("size", integer=True, positive=True)
_OPERATIONS: Mapping[str, Callable[[list[float]], float]] = {"Add": sum, "Mul": prod, "Max": max}  # torch has a Max of its own


class KernelCostCurves:
    """The us of every kernel of a graph, as functions of one size.

    The size may be an expression: of the sizes in it the first by name varies, so that `s0 * s1` at s1 = 16 is 16 times s0.
    Sizes outside it whose example value is that of the size, or of what varies in it, are taken to grow alike: a cache with a
    row for each token. All others keep their example values.
    """

    def __init__(self, costs: Sequence[sympy.Expr], size: sympy.Expr, sizes: Mapping[str, int]) -> None:
        """Take the us of each kernel as an expression in dynamic sizes, whose example values are `sizes`.

        Raises ValueError if an example value is missing, or `size` is not linear in the size that varies.
        """
        varying = min(size.free_symbols, key=str, default=None)
        if varying is None:
            raise ValueError(f"{size} is no dynamic size")
        fixed = {name: value for name, value in sizes.items() if name != str(varying)}
        inverse = _inverse(size, varying, fixed)
        self._growing = {str(varying): inverse, **_alike(size, varying, inverse, sizes)}
        self._fixed = {name: value for name, value in fixed.items() if name not in self._growing}
        self._costs = [self.curve(cost) for cost in costs]
        self._known: dict[int, list[float]] = {}

    def curve(self, expression: sympy.Expr) -> Curve:
        """Return an expression in the dynamic sizes as a function of the size. Raises ValueError if a value is missing."""
        return _curve(expression, self._growing, self._fixed)

    def at(self, size: int) -> list[float]:
        """Return the us of each kernel at `size`. Raises ValueError if one is not a finite number of at least 0."""
        if size not in self._known:
            self._known[size] = [_checked(cost(size), size) for cost in self._costs]
        return self._known[size]

    def sizes(self, size: int) -> dict[str, int]:
        """Return the value of each dynamic size at `size`."""
        return {**self._fixed, **{name: round(self.curve(value)(size)) for name, value in self._growing.items()}}


def anchored(costs: Sequence[sympy.Expr], us: Sequence[float], sizes: Mapping[str, int]) -> list[sympy.Expr]:
    """Return each expression times the factor that makes it the kernel's us, measured perhaps, at the example sizes.

    A kernel whose expression is 0 there has its us at every size. Raises ValueError if an example value is missing.
    """
    values = [_curve(cost, {}, sizes)(0) for cost in costs]
    return [
        cost * sympy.Float(time / value) if value else sympy.Float(time)
        for cost, value, time in zip(costs, values, us, strict=True)
    ]


def _inverse(size: sympy.Expr, varying: sympy.Symbol, others: Mapping[str, int]) -> sympy.Expr:
    """Return the varying symbol in terms of SIZE."""
    polynomial = _substituted(size, {str(varying): varying}, others).as_poly(varying)
    if polynomial is None or polynomial.degree() != 1:
        raise ValueError(f"{size} does not grow in proportion to {varying}")
    slope, start = polynomial.all_coeffs()
    return (SIZE - start) / slope


def _alike(size: sympy.Expr, varying: sympy.Symbol, inverse: sympy.Expr, sizes: Mapping[str, int]) -> dict[str, sympy.Expr]:
    """Return the sizes outside `size` that grow with it, in terms of SIZE."""
    if str(varying) not in sizes:
        return {}
    inside = {str(symbol) for symbol in size.free_symbols}
    values = {sizes[str(varying)]: inverse, int(_substituted(size, {}, sizes)): SIZE}
    return {name: values[value] for name, value in sizes.items() if name not in inside and value in values}


def _curve(expression: Any, growing: Mapping[str, sympy.Expr], fixed: Mapping[str, int]) -> Curve:
    """Return an expression as a function of the size.

    `growing` has the dynamic sizes that are expressions in SIZE, by name, and `fixed` those that are numbers. Sums, products,
    powers and maxima are taken in numbers, because substituting in thousands of expressions takes sympy seconds.
    """
    known = sympy.sympify(expression)
    if operation := _OPERATIONS.get(type(known).__name__):
        terms = [_curve(term, growing, fixed) for term in known.args]
        return lambda size: operation([term(size) for term in terms])
    if known.is_Pow and known.exp.is_Integer and known.exp > 0:
        base, power = _curve(known.base, growing, fixed), int(known.exp)
        return lambda size: base(size) ** power
    if known == SIZE:
        return float
    name = known.name if known.is_Symbol else ""
    if name in growing:
        return _curve(growing[name], {}, {})
    if known.is_Number or name in fixed:
        number = float(fixed[name] if name else known)
        return lambda size: number
    substituted = _substituted(known, growing, fixed)
    return lambda size: float(substituted.xreplace({SIZE: sympy.Integer(size)}))


def _substituted(expression: sympy.Expr, symbols: Mapping[str, sympy.Expr], sizes: Mapping[str, int]) -> sympy.Expr:
    """Return the expression with a value for each symbol. By name, because equal names may come with other assumptions."""
    values: dict[sympy.Symbol, sympy.Expr] = {}
    for symbol in expression.free_symbols:
        name = str(symbol)
        if name not in symbols and name not in sizes:
            raise ValueError(f"no example value for the dynamic size {name!r}")
        values[symbol] = symbols[name] if name in symbols else sympy.Integer(sizes[name])
    return expression.xreplace(values)


def _checked(us: float, size: int) -> float:
    if not (isfinite(us) and us >= 0):
        raise ValueError(f"a kernel has the time {us} us at size {size}; a finite time of at least 0 is needed")
    return us
