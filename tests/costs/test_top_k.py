"""Check which form of top-k is chosen, by times made up here."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from graphstreams.costs.top_k import choose_form
from graphstreams.costs.top_k_times import TopKTimes, times_of
from graphstreams.ir.devices import DEVICES
from graphstreams.kernels.top_k import Choice, DynamicLength, OneProgram, SeveralPrograms, TopK, fields_of, form_name
from tests.support.top_k_times import MADE_UP, ONE, SHARED, table, together

OTHER = SeveralPrograms(slack=8)  # as many launches as SHARED
ROW = TopK(rows=1, length=4096, k=2048, dtype=torch.float32, row_stride=4096)


def chosen(times: TopKTimes = MADE_UP, **changes: Any) -> Choice:
    return choose_form(replace(ROW, **changes), times, "a GPU")


@pytest.mark.parametrize(
    ("changes", "form"),
    [
        ({}, ONE),
        ({"dtype": torch.int32}, ONE),  # as many bytes as float32
        ({"length": 16_384}, ONE),  # 12 us instead of 14
        ({"length": 65_536}, SHARED),
        ({"length": 20_000, "rows": 3}, SHARED),  # one program can't take what is measured above it
        ({"length": 2049, "rows": 8}, None),  # 17 us, aten's are 16
        ({"length": 3000}, ONE),  # at most 8 us, aten's at least 16
        ({"k": 512}, ONE),
    ],
)
def test_the_form_is_the_fastest_of_those_that_were_measured_around_the_shape(changes: dict[str, Any], form: Any) -> None:
    assert chosen(**changes).form == form


def any_rows() -> torch.SymInt:
    """Return a number of rows that is not known."""
    mode = FakeTensorMode(shape_env=ShapeEnv())
    return mode.from_tensor(torch.empty(5, 7), static_shapes=False).shape[0]  # type: ignore[return-value]


def test_for_any_number_of_rows_a_form_has_to_be_faster_for_each_that_was_measured() -> None:
    found = chosen(rows=any_rows(), length=4096)
    assert found.form == ONE and found.reason.startswith(
        "any number x 4096, k 2048, float32: 1 program, 16 warps, up to 8.0 us"
    )
    assert chosen(rows=any_rows(), length=65_536).form == SHARED
    assert chosen(rows=any_rows(), length=2049).form is None  # slower for 8 rows
    assert chosen(rows=any_rows(), length=2048).form is None


def chosen_for_lengths(shortest: int, longest: int, captured: bool = False, **changes: Any) -> Choice:
    asked = replace(ROW, length=longest, dynamic=DynamicLength(longest, shortest), **changes)
    return choose_form(asked, MADE_UP, "a GPU", captured)


@pytest.mark.parametrize(
    ("lengths", "changes", "form", "told"),
    [
        ((4096, 16_384), {}, ONE, "1 x 4096 to 16384, k 2048, float32: 1 program, 16 warps, up to 12.0 us; aten 17.0 us"),
        ((3000, 10_000), {"k": 512}, ONE, "up to 12.0 us; aten 16.0 us or more"),  # measured below and above both ends
        ((20_000, 100_000), {}, SHARED, "up to 15.0 us; aten 50.0 us or more"),
        ((16_384, 131_072), {"rows": 8}, SHARED, "up to 22.0 us; aten 50.0 us or more"),
        ((2049, 16_384), {"rows": 8}, None, "none is known to be as fast"),  # 17 us of the shortest, aten's are 16
        ((4096, 131_072), {}, None, "none is known to be as fast"),  # what the host takes for three launches of the shortest
    ],
)
def test_for_any_length_a_form_has_to_be_faster_than_aten_on_each_that_was_measured(
    lengths: tuple[int, int], changes: dict[str, Any], form: Any, told: str
) -> None:
    found = chosen_for_lengths(*lengths, **changes)
    assert found.form == form and told in found.reason


@pytest.mark.parametrize(("longest_us", "shorter_us", "form"), [(15.9, 8.0, SHARED), (16.1, 8.0, None), (15.9, 16.1, None)])
def test_in_cuda_graphs_a_dynamic_length_takes_a_form_that_is_a_fifth_faster_throughout(
    longest_us: float, shorter_us: float, form: Any
) -> None:
    """16.0 us are 80 % of aten's shortest time. Of the shortest rows no form of three launches has a direct time."""
    shortest = table({SHARED: shorter_us}, aten=20.0)
    shortest["times"][0]["direct_us"] = {"aten": 20.0}
    times = together(shortest, table({SHARED: longest_us}, aten=70.0, length=16_384))
    asked = replace(ROW, length=16_384, dynamic=DynamicLength(16_384, 4096))
    found = choose_form(asked, times, "a GPU", captured=True)
    assert found.form == form
    assert (", and 20% less are asked of a dynamic length" in found.reason) == (form is None)
    assert choose_form(asked, times, "a GPU").form is None


def test_a_form_need_not_have_been_measured_on_shorter_rows_if_the_host_does_not_launch_it() -> None:
    times = together(table({ONE: 8.0}, aten=20.0), table({SHARED: 15.0}, aten=70.0, length=16_384))
    asked = replace(ROW, length=16_384, dynamic=DynamicLength(16_384, 4096))
    assert choose_form(asked, times, "a GPU", captured=True).form == SHARED
    assert choose_form(asked, times, "a GPU").form is None


def test_for_any_length_and_number_of_rows_both_rules_hold() -> None:
    found = chosen_for_lengths(4096, 16_384, rows=any_rows())
    assert found.form == ONE and found.reason.startswith("any number x 4096 to 16384, k 2048, float32: 1 program, 16 warps")
    assert chosen_for_lengths(4096, 131_072, captured=True, rows=any_rows()).form is None


@pytest.mark.parametrize("lengths", [(2048, 16_384), (4096, 131_073)])
def test_a_range_of_lengths_that_was_not_measured_stays_as_it_is(lengths: tuple[int, int]) -> None:
    found = chosen_for_lengths(*lengths)
    assert found.form is None
    assert found.reason == f"1 x {lengths[0]} to {lengths[1]}, k 2048, float32 lies outside of what was measured on NVIDIA H200"


def test_the_reason_has_both_times() -> None:
    assert chosen(length=3000).reason == (
        "1 x 3000, k 2048, float32: 1 program, 16 warps, up to 8.0 us; aten 16.0 us or more (NVIDIA H200, 2026-11-30)"
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"length": 2048}, "outside of what was measured"),
        ({"length": 200_000}, "outside of what was measured"),
        ({"rows": 9}, "outside of what was measured"),
        ({"k": 511}, "outside of what was measured"),
        ({"k": 2049}, "outside of what was measured"),
        ({"dtype": torch.float64}, "outside of what was measured"),
    ],
)
def test_what_was_not_measured_stays_as_it_is(changes: dict[str, Any], reason: str) -> None:
    found = chosen(**changes)
    assert found.form is None and reason in found.reason


def test_a_form_that_is_no_faster_is_not_taken() -> None:
    slow = TopKTimes.loads(json.dumps(table({ONE: 15.3}, aten=16.0)))  # 15.2 are 95 %
    assert chosen(slow).form is None
    assert chosen(TopKTimes.loads(json.dumps(table({ONE: 15.1}, aten=16.0)))).form == ONE


@pytest.mark.parametrize(("direct", "form"), [(20.3, SHARED), (21.0, ONE)])
def test_a_form_that_is_slower_launched_by_the_host_is_not_taken(direct: float, form: Any) -> None:
    made = table({ONE: 9.0, SHARED: 8.0}, aten=17.0)
    made["times"][0]["direct_us"] = {"aten": 20.0, form_name(ONE): 20.0, form_name(SHARED): direct}
    asked, times = TopK(1, 4096, 2048, torch.float32, 4096), TopKTimes.loads(json.dumps(made))
    assert choose_form(asked, times, "NVIDIA H200").form == form
    assert choose_form(asked, times, "NVIDIA H200", captured=True).form == SHARED


@pytest.mark.parametrize(("of_another", "form"), [(20.0, OTHER), (21.0, None)])
def test_what_the_host_takes_for_a_form_it_takes_for_others_of_as_many_launches(of_another: float, form: Any) -> None:
    """20.0 us, and 0.4 that the GPU takes longer for it, are no more than 2 % over aten's 20.0; 21.4 are more."""
    made = table({SHARED: 8.1, OTHER: 8.5}, aten=17.0)
    made["times"][0]["direct_us"] = {"aten": 20.0, form_name(SHARED): of_another}
    made["times"].append({**made["times"][0], "length": 16_384, "us": {"aten": 17.0, form_name(OTHER): 8.0}})
    made["times"][1]["direct_us"] = {"aten": 20.0, form_name(OTHER): 20.0}
    assert choose_form(TopK(1, 8192, 2048, torch.float32, 8192), TopKTimes.loads(json.dumps(made)), "NVIDIA H200").form == form


def test_a_form_whose_direct_calls_were_not_timed_is_for_cuda_graphs_only() -> None:
    made = table({ONE: 8.0}, aten=17.0)
    del made["times"][0]["direct_us"]
    asked, times = TopK(1, 4096, 2048, torch.float32, 4096), TopKTimes.loads(json.dumps(made))
    assert choose_form(asked, times, "NVIDIA H200", captured=True).form == ONE
    choice = choose_form(asked, times, "NVIDIA H200")
    assert choice.form is None and choice.reason.endswith("is known to be as fast as aten's launched by the host")


def test_without_times_of_sorted_results_they_stay_atens() -> None:
    found = chosen(sorted=True)
    assert found.form is None
    assert found.reason == "no times of sorted results are known for a GPU; pass sorted=False if the order does not matter"


def test_sorted_results_have_times_of_their_own() -> None:
    """Not sorted, ONE is faster, and sorted SHARED is; the launches of SHARED alone take 9 us."""
    both = together(table({ONE: 8.0, SHARED: 9.0}, 17.0), of_sorted=[table({ONE: 25.0, SHARED: 20.0}, 27.0)])
    assert chosen(both) == Choice(ONE, "1 x 4096, k 2048, float32: 1 program, 16 warps, up to 8.0 us; aten 17.0 us or more "
                                       "(NVIDIA H200, 2026-11-30)", 8.0)  # fmt: skip
    found = chosen(both, sorted=True)
    assert (found.form, found.us) == (SHARED, 9.0)
    assert found.reason == (
        "1 x 4096, k 2048, float32, sorted: 32 programs, 8, 8, 8 warps, slack 16, spare 4, up to 20.0 us; aten 27.0 us or more "
        "(NVIDIA H200, 2026-11-30)"
    )


def test_a_sort_may_cost_what_the_launches_save() -> None:
    both = together(table({ONE: 8.0}, 17.0), of_sorted=[table({ONE: 26.0}, 27.0)])
    assert chosen(both).form == ONE and chosen(both, sorted=True).form is None


def test_of_sorted_times_alone_that_of_the_launches_is_not_known() -> None:
    found = chosen(together(of_sorted=[table({ONE: 20.0}, 27.0)]), sorted=True)
    assert (found.form, found.us) == (ONE, 0.0)


def test_sorted_times_are_for_their_shapes_only() -> None:
    both = together(table({ONE: 8.0}, 17.0, length=8192), of_sorted=[table({ONE: 20.0}, 27.0)])
    assert "lies outside of what was measured" in chosen(both, sorted=True, length=8192).reason
    assert "lies outside of what was measured" in chosen(both, length=4096).reason


def test_without_times_nothing_is_chosen() -> None:
    assert choose_form(ROW, None, "a GPU") == Choice(None, "no times of the kernels are known for a GPU")
    assert times_of(replace(DEVICES["h200"], name="a GPU")) is None


@pytest.mark.parametrize("damage", ["times", "forms", "measured"])
def test_a_file_without_a_part_is_refused(damage: str) -> None:
    data = table({ONE: 8.0}, aten=16.0)
    del data[damage]
    with pytest.raises(ValueError, match=f"no times of top-k: KeyError: '{damage}'"):
        TopKTimes.loads(json.dumps(data))


def test_times_of_forms_that_are_not_described_are_refused() -> None:
    data = table({ONE: 8.0}, aten=16.0)
    data["forms"] = {form_name(SHARED): fields_of(SHARED)}
    with pytest.raises(ValueError, match="1 program"):
        TopKTimes.loads(json.dumps(data))


def test_direct_times_without_atens_are_refused() -> None:
    made = table({ONE: 8.0}, aten=17.0)
    made["times"][0]["direct_us"] = {form_name(ONE): 8.0}
    with pytest.raises(ValueError, match="has no time of aten"):
        TopKTimes.loads(json.dumps(made))


def test_the_shipped_times_are_readable() -> None:
    for device in DEVICES.values():
        times = times_of(device)
        assert times is None or (times.device == device.name and times.measured)


def test_forms_have_names_of_their_own() -> None:
    forms = [ONE, SHARED, OneProgram(8), SeveralPrograms(slack=1), SeveralPrograms(spare=1.5), SeveralPrograms(warps=(4, 8, 8))]
    assert len({form_name(form) for form in forms}) == len(forms)
