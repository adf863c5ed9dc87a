"""Check options: names, ranges, environment variables, and which of them wins."""

import dataclasses
import os
from pathlib import Path

import pytest
import torch

from graphstreams.errors import OptionError
from graphstreams.options import COSTS, Options, _warn_of_unknown, disabled
from graphstreams.planning.modelled_plan import LISTED_WAIT_US
from graphstreams.planning.simulator import EVENT_US

NAMES = [field.name for field in dataclasses.fields(Options)]


def options(given=None, **environment):
    return Options.from_dict(given, environment)


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_documented(name):
    (line,) = [line for line in Options.help().splitlines() if line.startswith(f"{name} (default ")]
    assert len(line.partition("): ")[2].split()) >= 4


def test_the_help_has_a_line_for_each_option_and_no_other():
    assert [line.split(" ")[0] for line in Options.help().splitlines()] == NAMES


def test_without_anything_the_defaults_hold():
    assert options() == Options()


def test_options_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Options().streams = 2


@pytest.mark.parametrize(("wrong", "right"), [("stream", "streams"), ("min_gains", "min_gain"), ("xyz", "")])
def test_a_wrong_name_gets_the_nearest(wrong, right):
    with pytest.raises(OptionError, match=f"unknown option '{wrong}'; did you mean '{right}") as raised:
        options({wrong: 1})
    assert all(name in str(raised.value) for name in NAMES)


@pytest.mark.parametrize(
    ("name", "value", "limits"),
    [
        ("streams", 0, "from 1 to 8"),
        ("streams", 9, "from 1 to 8"),
        ("min_gain", -0.1, "from 0.0 to 1.0"),
        ("min_gain", 1.5, "from 0.0 to 1.0"),
        ("event_us", -1, "from 0.0 to"),
        ("max_tokens", 0, "from 1 to"),
    ],
)
def test_a_value_out_of_range_gets_the_range(name, value, limits):
    with pytest.raises(OptionError, match=f"option '{name}' is .*{limits}"):
        options({name: value})


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("streams", "3", "int"),
        ("streams", 2.0, "int"),
        ("streams", True, "int"),
        ("streams", None, "int"),
        ("min_gain", "0.1", "float"),
        ("min_gain", True, "float"),
        ("strict", 1, "bool or 'refused'"),
        ("strict", "serial", "bool or 'refused'"),
        ("costs", 7, "str"),
        ("dump", True, "str"),
    ],
)
def test_a_value_of_another_type_gets_the_type(name, value, kind):
    with pytest.raises(OptionError, match=f"option '{name}' takes {kind}.*not {value!r}"):
        options({name: value})


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("measurd", "measured"), ("Roofline", "roofline"), ("autos", "auto"), ("gone/a.json", ""), ("", ""), (".", "")],
)
def test_costs_that_are_neither_known_nor_a_file_get_the_nearest(wrong, near, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a folder without profiles
    with pytest.raises(OptionError, match=f"option 'costs' is '{wrong}'; did you mean '{near}") as raised:
        options({"costs": wrong})
    assert all(repr(known) in str(raised.value) for known in COSTS)
    assert "anything else has to be an existing file, or a folder of profiles" in str(raised.value)


def test_costs_may_be_a_file(tmp_path, monkeypatch):
    profile = tmp_path / "measurd"
    profile.write_text("{}")
    assert options({"costs": profile}).profile == str(profile)
    monkeypatch.chdir(tmp_path)
    assert options(GRAPHSTREAMS_COSTS="measurd").profile == "measurd"
    assert options().profile is None


def test_plans_are_one_path_or_several(tmp_path, monkeypatch):
    file, folder = tmp_path / "a.json", tmp_path / "reports"
    file.write_text("{}")
    folder.mkdir()
    assert options().plan == options({"plan": None}).plan == ()
    assert options({"plan": file}).plan == options({"plan": [str(file)]}).plan == (str(file),)
    assert options(GRAPHSTREAMS_PLAN=f"{file}{os.pathsep}{folder}").plan == (str(file), str(folder))
    for wrong, told in (
        (3, "takes the path of a file or a folder, or a list of them, not 3"),
        ([file, 3], "not .*3"),
        ("gone", "'gone'"),
    ):
        with pytest.raises(OptionError, match=f"option 'plan' .*{told}"):
            options({"plan": wrong})


def test_a_plan_may_not_be_where_reports_are_written(tmp_path):
    (tmp_path / "dump" / "g").mkdir(parents=True)
    for plan in (tmp_path / "dump", tmp_path / "dump" / "g", tmp_path / "dump" / ".." / "dump"):
        with pytest.raises(OptionError, match="which reports in 'dump' are written over; give another folder"):
            options({"plan": plan, "dump": tmp_path / "dump"})
    (tmp_path / "dump2").mkdir()
    assert options({"plan": tmp_path / "dump2", "dump": tmp_path / "dump"}).plan


def test_the_help_tells_what_a_wait_costs_by_default_and_when_strict_raises():
    help_of = {line.split(" ")[0]: line for line in Options.help().splitlines()}
    assert f"{EVENT_US} on the simulator" in help_of["event_us"]
    assert f"{LISTED_WAIT_US} in list schedules" in help_of["event_us"]
    assert "every graph" in help_of["strict"] and "too small a gain" in help_of["strict"]


@pytest.mark.parametrize(("given", "told"), [({3: 1}, "unknown option 3"), ("streams", "not 'streams'"), ([1], r"not \[1\]")])
def test_options_are_a_dict_of_names(given, told):
    with pytest.raises(OptionError, match=told):
        options(given)


@pytest.mark.parametrize("digits", [20, 400, 5000])
@pytest.mark.parametrize("sign", [1, -1])
def test_an_integer_that_no_float_holds_is_no_value(digits, sign):
    with pytest.raises(OptionError, match="option 'event_us' takes float, from 0"):
        options({"event_us": sign * 10**digits})


def test_nan_is_out_of_range():
    with pytest.raises(OptionError):
        options({"min_gain": float("nan")})


def test_integers_stand_for_floats_and_paths_for_strings():
    chosen = options({"event_us": 2, "dump": Path("a/b")})
    assert (chosen.event_us, chosen.dump) == (2.0, "a/b")
    assert isinstance(chosen.event_us, float)


def test_reports_have_a_folder() -> None:
    with pytest.raises(OptionError, match="option 'dump' is empty; give a folder, or None for no report"):
        options({"dump": ""})


@pytest.mark.parametrize("name", ["max_tokens", "event_us", "dump"])
def test_none_is_a_value_where_it_is_the_default(name):
    assert getattr(options({name: None}), name) is None


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("streams", "2", 2),
        ("costs", "roofline", "roofline"),
        ("min_gain", "0.5", 0.5),
        ("max_tokens", "64", 64),
        ("event_us", "1.5", 1.5),
        ("dump", "there", "there"),
        ("strict", "1", True),
        ("strict", "off", False),
        ("strict", "refused", "refused"),
    ],
)
def test_each_option_is_read_from_the_environment(name, text, value):
    assert getattr(options(**{f"GRAPHSTREAMS_{name.upper()}": text}), name) == value


def test_the_process_environment_is_read(monkeypatch):
    monkeypatch.setenv("GRAPHSTREAMS_STREAMS", "5")
    assert Options.from_dict().streams == 5


def test_what_is_given_wins_over_the_environment():
    assert options({"streams": 4}, GRAPHSTREAMS_STREAMS="2").streams == 4
    assert options({"min_gain": 0.5}, GRAPHSTREAMS_STREAMS="2").streams == 2


def test_an_empty_variable_is_not_set():
    assert options(GRAPHSTREAMS_STREAMS="").streams == Options().streams


@pytest.mark.parametrize(
    ("variable", "text", "complaint"),
    [
        ("GRAPHSTREAMS_STREAMS", "two", "GRAPHSTREAMS_STREAMS='two' is not a whole number"),
        ("GRAPHSTREAMS_STREAMS", "99", "from 1 to 8"),
        ("GRAPHSTREAMS_STRICT", "maybe", "neither 0 nor 1"),
        ("GRAPHSTREAMS_DISABLE", "maybe", "neither 0 nor 1"),
    ],
)
def test_a_wrong_variable_is_named(variable, text, complaint):
    with pytest.raises(OptionError, match=complaint):
        options(**{variable: text})


def test_a_variable_that_is_like_none_is_compared_with_none(caplog):
    _warn_of_unknown.cache_clear()
    options(GRAPHSTREAMS_FOO="1")
    assert caplog.messages[0].endswith("'GRAPHSTREAMS_FOO' does nothing; `graphstreams options` lists those that do something")


@pytest.mark.parametrize(
    ("variable", "near"), [("GRAPHSTREAMS_STREAM", "GRAPHSTREAMS_STREAMS"), ("GRAPHSTREAMS_DISABL", "GRAPHSTREAMS_DISABLE")]
)
def test_an_unknown_variable_is_one_warning_with_the_nearest(variable, near, caplog):
    _warn_of_unknown.cache_clear()
    for _ in range(2):
        assert options(**{variable: "2"}) == Options()
    assert caplog.messages == [f"graphstreams: unknown environment variable {variable!r} does nothing; did you mean {near!r}?"]


@pytest.mark.parametrize(("text", "off"), [("1", True), ("true", True), ("0", False), ("", False)])
def test_disabling(text, off):
    assert disabled({"GRAPHSTREAMS_DISABLE": text}) is off


def test_nothing_disables_by_default():
    assert not disabled({})


def test_a_wrong_disable_is_an_error():
    with pytest.raises(OptionError, match="GRAPHSTREAMS_DISABLE='2'"):
        disabled({"GRAPHSTREAMS_DISABLE": "2"})


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"stream": 2}, "did you mean 'streams'"),
        ({"streams": 2, "max_autotun": True}, "unknown option 'max_autotun'; did you mean Inductor's 'max_autotune'"),
        ({"costs": "measurd"}, "OptionError: option 'costs' is 'measurd'; did you mean 'measured'"),
        ({"streams": 99}, "from 1 to 8"),
        ({"inductor": 3}, "takes a dict of Inductor's own options"),
    ],
)
def test_torch_compile_passes_the_complaint_on(given, complaint):
    torch._dynamo.reset()
    with pytest.raises(Exception, match=complaint):
        torch.compile(torch.sin, backend="graphstreams", options=given)(torch.ones(2))


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_a_dump_is_a_path(text):
    with pytest.raises(OptionError, match=r"option 'dump' is .*, which is no path"):
        options({"dump": text})


def test_a_stream_of_any_size_is_told():
    with pytest.raises(OptionError, match="option 'pin' has stream "):
        options({"pin": {"q": 10**5000}})
