"""Check the list of settings that are tried offline."""

from __future__ import annotations

from settings_offline import FILE, cases
from torch._inductor import config

from tests.support.sample_modules import TORCH_2_14

NEW_IN_2_15 = {"alignment_asserts_inputs", "benchmark_template_fusion", "use_rand4x", "var_std_reduction_dedup"}


def test_a_line_holds_settings_that_go_together() -> None:
    text = "# a title\na=True b.c='x'\n\nd={'e':[1,2]}\n"
    assert cases(text) == [{}, {"a": True, "b.c": "x"}, {"d": {"e": [1, 2]}}]


def test_every_setting_is_one_of_inductors_and_tried_once() -> None:
    listed = cases(FILE.read_text())
    assert len(listed) > 150 and all(listed.count(case) == 1 for case in listed)
    for case in listed:
        if not (TORCH_2_14 and NEW_IN_2_15 & case.keys()):
            with config.patch(case):
                pass
