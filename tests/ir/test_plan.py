"""Check that plans come back from JSON as they were, and that other files are refused."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphstreams.costs.profile import load_profile
from graphstreams.ir.plan import Event, Placement, Plan, Wait
from graphstreams.planning.list_schedule import plan_kernels
from tests.support.paths import DSV32

times = st.floats(0, 1e9)
small = st.integers(-2, 99)
tuples = {
    Placement: st.builds(Placement, small, st.text(), small, times, times),
    Event: st.builds(Event, small, small, small, st.lists(st.builds(Wait, small, small)).map(tuple)),
}
plans = st.builds(
    Plan,
    name=st.text(),
    streams=small,
    placements=st.lists(tuples[Placement]).map(tuple),
    events=st.lists(tuples[Event]).map(tuple),
    serial_us=times,
    streamed_us=times,
    lower_bound_us=times,
    critical_path_us=times,
    critical_path=st.lists(small).map(tuple),
    event_us=times,
)


@settings(max_examples=30, deadline=None)
@given(plans)
def test_json_keeps_every_plan(plan):
    assert Plan.loads(plan.dumps()) == plan


@pytest.mark.parametrize("event_us", [0.0, 1.5])
def test_json_keeps_a_real_plan(event_us):
    plan = plan_kernels(*load_profile(DSV32), event_us=event_us)
    assert Plan.loads(plan.dumps()) == plan


def test_stream_of():
    plan = plan_kernels(*load_profile(DSV32), streams=2)
    assert plan.stream_of() == {p.kernel: p.stream for p in plan.placements}


def without(field):
    data = json.loads(plan_kernels(*load_profile(DSV32)).dumps())
    del data[field]
    return json.dumps(data)


@pytest.mark.parametrize(
    "text",
    ["", "{", "{}", "[]", without("name"), without("placements"), without("events"), without("critical_path")],
)
def test_refuses_what_is_no_plan(text):
    with pytest.raises(ValueError, match="not a plan"):
        Plan.loads(text)


def test_refuses_unknown_fields():
    data = json.loads(plan_kernels(*load_profile(DSV32)).dumps()) | {"colour": "red"}
    with pytest.raises(ValueError, match="colour"):
        Plan.loads(json.dumps(data))
