"""Check how options of ours, settings of Inductor's and a mode are told apart in one dict."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._inductor import config, list_mode_options

from graphstreams import OptionError, Options
from graphstreams.pipeline import given_options
from graphstreams.pipeline.given_options import read_options, read_texts


@pytest.mark.parametrize("given", [None, {}])
def test_nothing_given_is_the_defaults(given: dict[str, Any] | None) -> None:
    found = read_options(given)
    assert (found.options, found.settings) == (Options.from_dict(), {})


def test_names_of_both_stand_side_by_side() -> None:
    found = read_options({"streams": 3, "max_autotune": True, "triton.cudagraphs": True, "max-autotune-gemm": True})
    assert found.options.streams == 3
    assert found.settings == {"max_autotune": True, "triton.cudagraphs": True, "max_autotune_gemm": True}


@pytest.mark.parametrize(("given", "mode"), [({"mode": "reduce-overhead"}, None), ({}, "reduce-overhead")])
def test_the_mode_may_be_an_option(given: dict[str, Any], mode: str | None) -> None:
    assert read_options(given, mode).settings == list_mode_options("reduce-overhead")


def test_settings_win_over_the_mode() -> None:
    settings = read_options({"mode": "max-autotune", "max_autotune": False, "inductor": {"triton.cudagraphs": False}}).settings
    assert (settings["max_autotune"], settings["triton.cudagraphs"]) == (False, False)


def test_the_same_setting_twice_is_no_error_if_the_values_agree() -> None:
    assert read_options({"deterministic": True, "inductor": {"deterministic": True}}).settings == {"deterministic": True}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"stream": 2}, "unknown option 'stream'; did you mean 'streams'"),
        ({"max_autotun": True}, "unknown option 'max_autotun'; did you mean Inductor's 'max_autotune'"),
        ({"triton.cudagraph": True}, "did you mean Inductor's 'triton.cudagraphs'"),
        ({3: 1}, "unknown option 3; did you mean"),
        ({"inductor": {"max_autotun": 1}}, "option 'inductor' has 'max_autotun'.*; did you mean Inductor's 'max_autotune'"),
        ({"inductor": {"streams": 2}}, "option 'inductor' has 'streams', which is no setting of Inductor's"),
        ({"inductor": 3}, "option 'inductor' takes a dict of Inductor's own options, not 3"),
        ({"deterministic": True, "inductor": {"deterministic": False}}, "'deterministic' is given twice, as False and True"),
        ({"mode": "fastest"}, "unknown mode 'fastest'; Inductor knows .*reduce-overhead"),
        ({"streams": 99}, "from 1 to 8"),
        (["streams"], "options are a dict of names and values"),
    ],
)
def test_what_is_wrong_is_named_with_the_nearest(given: Any, told: str) -> None:
    with pytest.raises(OptionError, match=told):
        read_options(given)


def test_two_modes_are_an_error() -> None:
    with pytest.raises(OptionError, match="the mode is 'reduce-overhead', and 'max-autotune' in the options"):
        read_options({"mode": "max-autotune"}, "reduce-overhead")


def test_a_name_that_both_know_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(given_options, "setting_names", lambda: frozenset({"search"}))
    monkeypatch.setattr(given_options, "why_no_value", lambda *_: "")
    with pytest.raises(OptionError, match="'search' is known to graphstreams and to this torch's Inductor: set GRAPHSTREAMS_"):
        read_options({"search": 3})
    assert read_options({"inductor": {"search": 3}}).settings == {"search": 3}


def test_no_option_of_ours_is_one_of_inductors() -> None:
    assert not (given_options.OWN | set(given_options.SPECIAL)) & set(config._config)  # type: ignore[attr-defined]


@pytest.mark.parametrize("value", ["yes", 1, "False", None])
def test_a_setting_has_the_type_that_torch_compile_asks_for(value: Any) -> None:
    for given in ({"max_autotune": value}, {"inductor": {"max_autotune": value}}):
        with pytest.raises(OptionError, match=f"the value of Inductor's 'max_autotune' is wrong: it takes bool, not {value!r}"):
            read_options(given)
        with pytest.raises(RuntimeError, match="Unexpected type of attr max_autotune"):
            torch.compile(lambda x: x, options={"max_autotune": value})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("max_autotune=no", False), ("max_autotune=1", True), ("triton.cudagraphs=FALSE", False), ("max_fusion_size=1", 1),
        ("max_autotune_gemm_backends=TRITON", "TRITON"), ("mode=default", "default"), ("max_tokens=None", None),
        ("streams=3", 3),
    ],
)  # fmt: skip
def test_texts_stand_for_values(text: str, value: Any) -> None:
    (found,) = read_texts([text], "--option").values()
    assert found == value and type(found) is type(value)


def test_a_text_that_is_no_value_of_a_setting_is_named() -> None:
    with pytest.raises(OptionError, match="Inductor's 'max_autotune' is wrong: it takes bool, not 'maybe'"):
        read_texts(["max_autotune=maybe"], "--option")
