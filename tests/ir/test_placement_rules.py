"""Check the rules of the options `pin` and `exclude`: what is read of each form, what they match, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from graphstreams.errors import OptionError
from graphstreams.ir.kernels import Kernel
from graphstreams.ir.module_paths import path_of
from graphstreams.ir.placement_rules import MarkedModule, PlacementRule, parse_excluded, parse_pins
from graphstreams.options import Options

KERNEL = Kernel(0, "moe.gate.mm#2", "gemm", modules=("L['self']", "L['self'].moe", "L['self'].moe.experts.1"))


@pytest.mark.parametrize(
    ("value", "rules"),
    [
        ({"a": 1, "b.*": 0}, [("a", 1, "*"), ("b.*", 0, "*")]),
        ({"0_inference": {"a": 1, "b": 2}, "c": 1}, [("a", 1, "0_inference"), ("b", 2, "0_inference"), ("c", 1, "*")]),
        ({"0_*/a": 1}, [("a", 1, "0_*")]),
        ("a=1, 0_inference/b.*=2", [("a", 1, "*"), ("b.*", 2, "0_inference")]),
        ({}, []),
        ("", []),
        (None, []),
    ],
)
def test_pins(value: Any, rules: list[tuple[str, int, str]]) -> None:
    parsed = parse_pins(value)
    assert [(rule.pattern, rule.stream, rule.graph) for rule in parsed] == rules
    assert parse_pins(parsed) == parsed


@pytest.mark.parametrize(
    ("value", "rules"),
    [
        (["a", "b.*"], [("a", "*"), ("b.*", "*")]),
        ("a, 0_inference/b", [("a", "*"), ("b", "0_inference")]),
        ({"0_inference": ["a", "b"], "1_inference": "c"}, [("a", "0_inference"), ("b", "0_inference"), ("c", "1_inference")]),
        ({"b", "a"}, [("a", "*"), ("b", "*")]),
        (None, []),
        ((), []),
    ],
)
def test_exclusions(value: Any, rules: list[tuple[str, str]]) -> None:
    parsed = parse_excluded(value)
    assert [(rule.pattern, rule.graph) for rule in parsed] == rules
    assert all((rule.stream, rule.option) == (0, "exclude") for rule in parsed)
    assert parse_excluded(parsed) == parsed


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"pin": ["a"]}, r"option 'pin' takes a dict of names or patterns and streams, .*not \['a'\]"),
        ({"pin": {"a": "1"}}, "option 'pin' has '1' for 'a'; a stream is a whole number, 0 the caller's"),
        ({"pin": {"a": True}}, "option 'pin' has True for 'a'"),
        ({"pin": {"a": -1}}, "option 'pin' has -1 for 'a'"),
        ({"pin": {3: 1}}, "option 'pin' takes a dict .*not 3"),
        ({"pin": "a"}, "option 'pin' has 'a'; as a text it takes NAME=STREAM"),
        ({"pin": {"a": 5}}, "option 'pin' has stream 5 for 'a'; with streams=5 they are 0 to 4"),
        ({"pin": {"a": 1}, "streams": 1}, "option 'pin' has stream 1 for 'a'; with streams=1 they are 0 to 0"),
        ({"pin": "a=1,b=1,a=2"}, "option 'pin' has two streams for 'a', 1 and 2; give one"),
        ({"pin": "0_inference/=1"}, "option 'pin' has '0_inference/', with nothing behind"),
        ({"pin": {"/a": 1}}, "option 'pin' has '/a', with nothing before its"),
        ({"exclude": {"a", 3}}, "option 'exclude' takes names or patterns, .*not 3"),
        ({"exclude": 3}, "option 'exclude' takes names or patterns, .*not 3"),
        ({"exclude": [3]}, "option 'exclude' takes names or patterns, .*not 3"),
        ({"exclude": [""]}, "option 'exclude' takes names or patterns"),
        ({"pin": {"a": 1}, "exclude": ["b", "a"]}, "'a' is pinned to stream 1 and excluded; give one of them"),
    ],
)
def test_what_is_no_rule_is_an_error(options: dict[str, Any], told: str) -> None:
    with pytest.raises(OptionError, match=told):
        Options.from_dict(options, {})


def test_the_environment_has_both() -> None:
    options = Options.from_dict({}, {"GRAPHSTREAMS_PIN": "q_b_proj=1", "GRAPHSTREAMS_EXCLUDE": "moe.*,norm"})
    assert options == Options(pin={"q_b_proj": 1}, exclude=["moe.*", "norm"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("moe.gate.mm#2", True), ("moe.gate.mm", False), ("moe.gate.*", True), ("moe", True), ("moe.experts.1", True),
        ("moe.experts.?", True), ("*.experts.*", True), ("moe.experts", True),
        ("experts", False), ("gate", False), ("MOE", False), ("mo", False),
    ],
)  # fmt: skip
def test_a_pattern_is_for_a_kernel_by_its_name_or_a_module_around_it(pattern: str, matches: bool) -> None:
    assert PlacementRule(pattern, 1).matches(KERNEL) is matches


def test_a_name_with_brackets_is_for_what_has_it() -> None:
    kernel = Kernel(0, "a", "gemm", modules=("L['self']", "L['self'].layers[0]"))
    assert PlacementRule("layers[0]", 1).matches(kernel) and PlacementRule("layers[[]0]", 1).matches(kernel)
    assert not PlacementRule("layers[1]", 1).matches(kernel) and not PlacementRule("layers0", 1).matches(kernel)


def test_a_rule_is_for_graphs_by_their_name() -> None:
    assert PlacementRule("a", 1).is_for("7_inference")
    assert PlacementRule("a", 1, "0_*").is_for("0_inference") and not PlacementRule("a", 1, "0_*").is_for("10_inference")


def test_reasons() -> None:
    assert PlacementRule("a", 1).reason == "pinned to stream 1 by 'a'"
    assert parse_excluded("moe.*")[0].reason == "excluded by 'moe.*'"
    assert MarkedModule("L['self'].moe", 2).reason == "pinned to stream 2 by graphstreams.pin for module 'moe'"
    assert MarkedModule("", 0).reason == "excluded by graphstreams.exclude for the model"


def test_a_mark_is_for_what_is_in_its_module() -> None:
    assert MarkedModule("L['self'].moe", 0).holds(KERNEL) and MarkedModule("", 0).holds(KERNEL)
    assert not MarkedModule("L['self'].mo", 0).holds(KERNEL) and not MarkedModule("L['other'].moe", 0).holds(KERNEL)


def test_of_a_kernel_that_stands_in_no_module_its_first_parameter_tells() -> None:
    kernel = Kernel(0, "moe.gate", "gemm", parameters=("x", "moe.gate.weight", "norm.weight"))
    assert [PlacementRule(pattern, 1).matches(kernel) for pattern in ("moe", "moe.*", "norm", "x")] == [
        True,
        True,
        False,
        False,
    ]
    assert MarkedModule("L['self'].moe", 1).holds(kernel) and MarkedModule("L['self'].moe.gate", 1).holds(kernel)
    assert not MarkedModule("L['self'].norm", 1).holds(kernel) and not MarkedModule("L['self'].moe", 1).holds(
        Kernel(1, "a", "gemm")
    )


def test_which_mark_is_around_another() -> None:
    moe, more, listed = (MarkedModule(f"L['self'].{path}", 1) for path in ("moe", "moe2", "moe[0]"))
    expert = MarkedModule("L['self']._modules['moe']._modules['experts']._modules['1']", 2)
    assert moe.is_around(expert) and moe.is_around(listed) and MarkedModule("", 0).is_around(moe)
    assert not any([expert.is_around(moe), moe.is_around(more), moe.is_around(moe), moe.is_around(MarkedModule("", 0))])


@pytest.mark.parametrize(
    ("expression", "path"),
    [
        ("L['self']", ""), ("L['self'].a", "a"), ("L['self'].layers.0.mlp", "layers.0.mlp"), ("L['x']", "x"),
        ("L['self']._modules['a']._parameters['weight']", "a.weight"), ("G['net'].a", "net.a"), ("L['net'].a", "a"),
    ],
)  # fmt: skip
def test_paths(expression: str, path: str) -> None:
    assert path_of(expression) == path
