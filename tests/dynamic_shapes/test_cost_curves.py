"""Check the times of kernels over one size, for what is told in numbers and for other expressions."""

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from graphstreams.dynamic_shapes import cost_curves
from graphstreams.dynamic_shapes.cost_curves import KernelCostCurves, anchored

S, T = (sympy.Symbol(name, integer=True, positive=True) for name in ("s0", "s1"))


class FloorDiv(sympy.Function):
    """Stands for torch's, which sympy does not know."""

    @classmethod
    def eval(cls, base, divisor):
        if base.is_Integer and divisor.is_Integer:
            return base // divisor
        return None


class Max(sympy.Function):
    """Stands for torch's, which is not sympy's."""

    @classmethod
    def eval(cls, *values):
        return max(values) if all(value.is_number for value in values) else None


def times(cost, size=S, **sizes):
    return KernelCostCurves([cost], size, sizes)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 9), st.integers(1, 5000))
def test_a_maximum_of_lines_has_its_value(floor, start, slope, size):
    cost = sympy.Max(floor, start + slope * S / sympy.Integer(7))
    assert times(cost).at(size) == [pytest.approx(float(cost.subs(S, size)))]


@pytest.mark.parametrize(
    "expression",
    [
        sympy.Integer(3),
        2 * S * T,
        S * (S + 1) * T,
        S * sympy.Max(4, S, evaluate=False),
        3 - S,
        -sympy.Max(4, S),
        sympy.Max(4, S) * sympy.Max(5, S),
        Max(sympy.Integer(4), 1 + S / 2),
        S * FloorDiv(S, sympy.Integer(8)),
        T / FloorDiv(T, sympy.Integer(2)),
        sympy.sqrt(S) + S**2 / 7,
    ],
)
def test_an_expression_has_its_value_at_each_size(expression):
    curve = KernelCostCurves([], S, {"s0": 3, "s1": 4}).curve(expression)
    for size in (1, 3, 20, 65536):
        assert curve(size) == pytest.approx(float(expression.xreplace({S: sympy.Integer(size), T: sympy.Integer(4)})))


def test_nothing_is_substituted_in_maxima_of_polynomials(monkeypatch):
    def refused(*_):
        raise AssertionError("to substitute takes long")

    found = KernelCostCurves([], S, {"s0": 3, "s1": 4})
    monkeypatch.setattr(cost_curves, "_substituted", refused)
    cost = sympy.Max(2 * S * T + 1, 0.5 * S**2 * T, 100, evaluate=False) * sympy.Float(0.5)
    assert found.curve(cost)(4) == 50
    assert anchored([cost], [5.0], {"s0": 4, "s1": 4}) == [cost * sympy.Float(0.1)]


def test_other_expressions_are_evaluated():
    assert times(FloorDiv(S + 7, sympy.Integer(8)) + sympy.Rational(1, 2)).at(9) == [2.5]
    assert times(S**2).at(9) == [81]


def test_other_sizes_keep_their_example_values():
    assert times(S * T + 1, s1=10, s0=3).at(5) == [51]


def test_sizes_that_equal_it_in_the_example_grow_with_it():
    """A cache has a row for each of 4 tokens, another 16 rows for each of them; a table of 64 rows stays as it is."""
    tokens, rows, slots = (sympy.Symbol(name, integer=True, positive=True) for name in ("s0", "s1", "s2"))
    found = KernelCostCurves([tokens + rows + slots], tokens, {"s0": 4, "s1": 4, "s2": 64})
    assert found.at(8) == [8 + 8 + 64]
    assert found.sizes(8) == {"s0": 8, "s1": 8, "s2": 64}


def test_sizes_that_equal_a_product_grow_with_the_product_and_those_inside_stay():
    product, many = S * T, sympy.Symbol("s2", integer=True, positive=True)
    found = KernelCostCurves([many], product, {"s0": 4, "s1": 16, "s2": 64, "s3": 4, "s4": 16})
    assert found.sizes(128) == {"s0": 8, "s1": 16, "s2": 128, "s3": 8, "s4": 16}
    assert found.at(128) == [128]


def test_names_count_and_not_assumptions():
    assert times(sympy.Symbol("s0") * 2).at(5) == [10]


def test_a_size_that_is_a_product():
    # At s1 = 16 the size is 16 times s0.
    assert times(S * 100, S * T, s0=2, s1=16).at(64) == [400]
    assert times(S * 100, 2 * S - 4, s0=2).at(6) == [500]
    assert times(S * 100, S * T, s0=2, s1=16).sizes(64) == {"s0": 4, "s1": 16}


def test_a_size_that_does_not_grow_in_proportion():
    with pytest.raises(ValueError, match="does not grow in proportion"):
        times(S + 0, S * S)
    with pytest.raises(ValueError, match="no dynamic size"):
        times(S + 0, sympy.Integer(4))


def test_an_example_value_that_is_missing():
    with pytest.raises(ValueError, match="no example value for the dynamic size 's1'"):
        times(S * T)


def test_a_time_below_zero():
    with pytest.raises(ValueError, match=r"-1\.0 us at size 4"):
        times(3 - S).at(4)


def test_anchored_costs_go_through_what_was_measured():
    costs = anchored([sympy.Max(4, S), S * 3, sympy.Integer(0)], [8.0, 1.0, 2.5], {"s0": 2})
    assert [float(cost.subs(S, 2)) for cost in costs] == [8, 1, 2.5]
    assert [float(cost.subs(S, 8)) for cost in costs] == [16, 4, 2.5]
    with pytest.raises(ValueError, match="no example value"):
        anchored([S + 0], [1.0], {})
