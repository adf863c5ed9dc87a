"""Check the command line: what it prints, and its exit status."""

import json
import re
import subprocess
import sys
import tempfile
import webbrowser
from dataclasses import replace

import pytest

from graphstreams.__main__ import main
from graphstreams.calibration import samples
from graphstreams.calibration.fit import BY_HAND
from graphstreams.costs.calibration import Calibration, calibration_of
from graphstreams.ir.devices import DEVICES
from graphstreams.ir.kernels import Kernel
from tests.support.paths import DSV32
from tests.support.sample_modules import captured

EXAMPLE = """
import torch

class TwoArms(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.wk, self.wq = (torch.nn.Linear(2048, 2048, bias=False) for _ in range(2))

    def forward(self, x):
        return self.wk(x), self.wq(x)

class OneArm(TwoArms):
    def forward(self, x):
        return self.wk(x)

def make():
    with torch.device("meta"):
        return TwoArms(), (torch.empty(4, 2048),)

def make_serial():
    with torch.device("meta"):
        return OneArm(), (torch.empty(4, 2048),)

def half():
    return TwoArms()

NUMBERS = {"one": 1}
BY_NUMBER = {1: make}
"""


BROKEN = """
class Broken(TwoArms):
    def forward(self, x):
        y = self.wk(x)
        torch._dynamo.graph_break()
        return self.wq(x), self.wk(y)

def make_broken():
    with torch.device("meta"):
        return Broken(), (torch.empty(4, 2048),)
"""


@pytest.fixture
def example(tmp_path):
    path = tmp_path / "example.py"
    path.write_text(EXAMPLE)
    return path


def run(capsys, *arguments):
    """Exit status, standard output, standard error."""
    status = main([str(a) for a in arguments])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


@pytest.mark.parametrize(("streams", "limit"), [(2, 36), (3, 31)])
def test_the_profile_is_planned_well(capsys, streams, limit):
    status, out, _ = run(capsys, "plan", DSV32, "--streams", streams, "--json")
    predicted = json.loads(out)["predicted_us"]
    assert status == 0
    assert predicted["lower_bound"] <= predicted["streamed"] <= limit < predicted["serial"]


def test_a_plan_as_json_is_a_plan(capsys):
    data = json.loads(run(capsys, "plan", DSV32, "--json")[1])
    assert data["streams"] == 2
    assert len(data["placements"]) == len(json.loads(DSV32.read_text())["kernels"])


def test_a_plan_as_text(capsys):
    status, out, err = run(capsys, "plan", DSV32, "--streams", 3, "--event-us", 1)
    assert (status, err) == (0, "")
    assert all(text in out for text in ("DeepSeek", "qkv_a_proj", "speed-up", "lower bound", "1.0 us each"))


def test_planning_needs_no_torch():
    code = f"import sys; from graphstreams.__main__ import main; main(['plan', {str(DSV32)!r}]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split()[-1] == "False"


def test_explain_a_function_of_a_file(capsys, example, tmp_path):
    status, out, _ = run(capsys, "explain", f"{example}:make", "--target", "h200", "--dump", tmp_path / "dump")
    assert status == 0
    assert ": clean" in out and "wk" in out and "wq" in out
    assert json.loads((tmp_path / "dump" / "report.json").read_text())["verdict"] == "clean"


def test_explain_takes_options_and_says_how_to_keep_the_plan(capsys, example, tmp_path):
    name, dump = f"{example}:make", tmp_path / "dump"
    status, out, _ = run(
        capsys, "explain", name, "--target", "h200", "--out", dump, "--option", "pin=wq=2", "--option", "min_gain=0"
    )
    assert status == 0
    streams = {region["name"]: region["stream"] for region in json.loads((dump / "report.json").read_text())["regions"]}
    assert streams == {"wk": 0, "wq": 2}
    (kept,) = [line for line in out.splitlines() if line.startswith("to keep this plan: options=")]
    assert json.loads(kept.partition("options=")[2]) == {"plan": str(dump / "plan.json")}
    again = run(
        capsys, "explain", name, "--target", "h200", "--option", f"plan={dump / 'plan.json'}", "--option", "min_gain=0"
    )[1]
    assert re.search(r"wq +2 ", again)


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("pim=wq=2", "unknown option 'pim'; did you mean 'pin'?"),
        ("streams", "--option 'streams' has to be NAME=VALUE"),
        ("streams=two", "--option streams='two' is not a whole number"),
        ("streams=9", "option 'streams' is 9; it has to be from 1 to 8"),
        ("dump=x", "--option dump: give --dump"),
        ("mode=fast", "unknown mode 'fast'; Inductor knows "),
        ("max_autotun=True", "unknown option 'max_autotun'; did you mean Inductor's 'max_autotune'"),
        ("pin=/wq=1", "option 'pin' has '/wq', with nothing before its '/'; give GRAPH/NAME, or NAME for every graph"),
        ("exclude=0_inference/", "option 'exclude' has '0_inference/', with nothing behind its '/'"),
        ("plan=gone.json", "option 'plan' has 'gone.json', which is neither a file nor a folder"),
    ],
)
def test_explain_says_what_is_no_option(capsys, example, option, told):
    status, out, err = run(capsys, "explain", f"{example}:make", "--target", "h200", "--option", option)
    assert (status, out) == (2, "") and told in err


def test_explain_takes_each_option_once(capsys, example):
    command = ["explain", f"{example}:make", "--target", "h200"]
    for more, told in (
        (["--option", "search=1", "--option", "search=2"], "--option search is given twice, as 1 and '2'; give one of them"),
        (["--streams", "3", "--option", "streams=2"], "streams is given twice, by --streams and by --option"),
    ):
        status, out, err = run(capsys, *command, *more)
        assert (status, out) == (2, "") and told in err


def test_explain_takes_a_mode_and_settings_of_inductor(capsys, example):
    options = [each for text in ("mode=max-autotune", "cpp_wrapper=True") for each in ("--option", text)]
    status, out, _ = run(capsys, "explain", f"{example}:make", "--target", "h200", *options)
    assert status == 0 and "Inductor's setting cpp_wrapper is on: only Python wrappers know streams" in out
    assert "off, for without that GPU nothing can be run: max_autotune" in out


def test_explain_plans_for_dynamic_sizes(capsys, example):
    name = f"{example}:make"
    fixed, dynamic = (run(capsys, "explain", name, "--target", "h200", *more)[1] for more in ((), ("--dynamic",)))
    assert "tokens (" not in fixed and re.search(r"streams .*tokens \(s\d+, where", dynamic)


def test_explain_says_first_which_graphs_there_are(capsys, tmp_path):
    path = tmp_path / "broken.py"
    path.write_text(EXAMPLE + BROKEN)
    out = run(capsys, "explain", f"{path}:make_broken", "--target", "h200")[1]
    lines = out.splitlines()
    assert lines[0] == "2 graphs:"
    assert [re.match(r"  \d+_inference", line) is not None for line in lines[1:4]] == [True, True, False]


def test_diff_exits_with_1_where_reports_differ(capsys, tmp_path):
    one = captured("diamond").report.save(tmp_path / "one")
    other = replace(captured("diamond").report, kernels_streamed=6).save(tmp_path / "other")
    assert run(capsys, "diff", one, one / "report.json") == (0, "the reports do not differ\n", "")
    name = captured("diamond").report.name
    assert run(capsys, "diff", one, other) == (1, f"{name}\n  launches on streams: 5 -> 6\n", "")
    status, out, err = run(capsys, "diff", one, tmp_path / "gone")
    assert (status, out) == (2, "") and "gone" in err and len(err.splitlines()) == 1


def test_explain_opens_the_page_of_a_report(capsys, example, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda address: bool(opened.append(address)) or len(opened) == 1)
    name = f"{example}:make_serial"
    run(capsys, "explain", name, "--target", "h200", "--out", tmp_path / "dump", "--open")
    assert opened == [(tmp_path / "dump" / "report.html").resolve().as_uri()]
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    out = run(capsys, "explain", name, "--target", "h200", "--open")[1]
    (folder,) = tmp_path.glob("graphstreams-*")
    assert opened[1] == (folder / "report.html").resolve().as_uri()
    assert f"no browser was found; open {folder / 'report.html'}" in out


def test_explain_strictly_exits_with_2_where_the_graph_stays_serial(capsys, example):
    name = f"{example}:make_serial"
    assert run(capsys, "explain", name, "--target", "h200")[0] == 0
    status, out, _ = run(capsys, "explain", name, "--target", "h200", "--strict")
    assert status == 2 and ": serial" in out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["plan", "nowhere.json"], "nowhere.json"),
        (["plan", DSV32, "--streams", "0"], "streams is 0"),
        (["plan", DSV32, "--event-us", "-1"], "event_us"),
        (["plan", __file__], "not JSON"),
        (["explain", "no colon", "--target", "h200"], "MODULE:FUNCTION"),
        (["explain", "no_such_module:make", "--target", "h200"], "no module 'no_such_module'"),
        (["explain", "nowhere.py:make", "--target", "h200"], "no file nowhere.py"),
        (["explain", "{example}:mak", "--target", "h200"], "did you mean 'make'"),
        (["explain", "{example}:half", "--target", "h200"], "(module, example inputs)"),
        (["explain", "{example}:make", "--target", "h20"], "did you mean 'h200'"),
        (["explain", "{example}:make", "--target", "h200", "--streams", "99"], "from 1 to 8"),
        (["verify", "nowhere.py"], "nowhere.py"),
        (["verify", __file__], "test_main.py"),
        (["verify", DSV32], DSV32.name),
        (["bench"], "MODULE:FUNCTION"),
        (["bench", "{example}:make", "--calibrate"], "either MODULE:FUNCTION to compare, or --calibrate"),
        (["bench", "{example}:make", "--batch", "1,two"], "--batch '1,two' has to be numbers of tokens"),
        (["bench", "{example}:make", "--batch", "0"], "--batch '0' has to be numbers of tokens"),
        (["bench", "{example}:make", "--rounds", "1"], "--rounds has to be at least 2"),
        (["bench", "{example}:make", "--streams", "99"], "from 1 to 8"),
        (["bench", "{example}:make", "--rival", "{example}:make"], "has to be NAME=MODULE:FUNCTION"),
        (["bench", "{example}:make", "--rival", "a: b={example}:make"], "without a colon in the name"),
        (["bench", "{example}:make", "--rival", "serial={example}:make"], "the name 'serial' is taken"),
        (["bench", "{example}:make", "--rival", "mine={example}:mak"], "did you mean 'make'"),
        (["bench", "{example}:make", "--policies", "{example}:make"], "has no mapping 'make'"),
        (["bench", "{example}:make", "--policies", "{example}:NUMBERS"], "its values have to be functions"),
        (["bench", "{example}:make", "--policies", "{example}:BY_NUMBER"], "its names have to be text"),
        (["bench", "{example}:mak"], "did you mean 'make'"),
        (["bench", "{example}:make", "--rival", "graphstreams, search={example}:make"], "is taken"),
        (["bench", "{example}:make", "--policies", ""], "has to be MODULE:MAPPING"),
        (["bench", "{example}:make", "--policies", "none", "--settings", "default"], "--settings deterministic or both"),
        (["bench", "--calibrate", "--rival", "a={example}:make"], "go with MODULE:FUNCTION"),
        (["bench", "--calibrate", "--out", "nowhere/file.json"], "nowhere/file.json is no file that can be written"),
        (["bench", "--calibrate", "--out", "."], ". is no file"),
        (["bench", "--calibrate", "--kernels", "nowhere/file.json"], "nowhere/file.json is no file that can be written"),
        (["bench", "{example}:make", "--kernels", "file.json"], "--kernels goes with --calibrate"),
        (["bench", "--calibrate", "--out", "./file.json", "--kernels", "file.json"], "--out and --kernels are the same file"),
    ],
)
def test_bad_input_is_one_line_and_2(capsys, example, arguments, complaint):
    status, out, err = run(capsys, *(str(a).replace("{example}", str(example)) for a in arguments))
    assert (status, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith(f"graphstreams {arguments[0]}: ")
    assert complaint in line


def test_calibrating_without_a_gpu_is_one_line_and_2(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for out in ([], ["--out", tmp_path / "file.json"]):
        status, printed, err = run(capsys, "bench", "--calibrate", *out)
        assert (status, printed) == (2, "")
        assert err == "graphstreams bench: calibrating needs a CUDA device, and there is none here\n"
    assert not list(tmp_path.iterdir())


def test_a_calibration_is_written_where_compiles_look_for_it(capsys, monkeypatch, tmp_path):
    found = replace(BY_HAND, date="2027-01-02")

    def calibrate(progress):
        progress("matrix products: 35 kernels, 1.0 s")
        return found, [(Kernel(0, "sum", "reduction"), {}, 2.5)]

    monkeypatch.setattr("graphstreams.calibration.calibrate.calibrate", calibrate)
    monkeypatch.setattr("graphstreams.ir.devices.device_at_hand", lambda: DEVICES["h200"])
    monkeypatch.setattr("graphstreams.costs.calibration._user_folder", lambda: tmp_path / "calibration")
    status, out, err = run(capsys, "bench", "--calibrate")
    path = tmp_path / "calibration" / "nvidia_h200.json"
    assert (status, err) == (0, "matrix products: 35 kernels, 1.0 s\n")
    assert out.splitlines()[-1] == f"written: {path}" and "90th percentile" in out
    assert Calibration.load(path) == found == calibration_of(DEVICES["h200"])
    kernels, other = tmp_path / "kernels.json", tmp_path / "other.json"
    status, out, _ = run(capsys, "bench", "--calibrate", "--out", other, "--kernels", kernels)
    assert (status, Calibration.load(other)) == (0, found)
    assert out.splitlines()[-2:] == [f"written: {other}", f"written: {kernels}"]
    assert [(kernel.name, us) for kernel, _, us in samples.load(kernels)[0]] == [("sum", 2.5)]


def test_a_file_that_does_not_import_is_one_line_and_2(capsys, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("def make(:\n")
    status, _, err = run(capsys, "explain", f"{broken}:make", "--target", "h200")
    assert status == 2
    assert "broken.py" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["plan"], ["plan", str(DSV32), "--streams", "two"]])
def test_wrong_usage_exits_with_2(capsys, arguments):
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_verify_a_clean_wrapper(capsys, tmp_path):
    path = tmp_path / "wrapper.py"
    path.write_text(captured("diamond").report.wrapper)
    assert run(capsys, "verify", path) == (0, f"{path}: no races\n", "")


def test_verify_a_racy_wrapper_prints_each_race(capsys, tmp_path):
    path = tmp_path / "wrapper.py"
    path.write_text(re.sub(r"event\d+\.wait\(default_stream\)", "pass", captured("diamond").report.wrapper))
    status, out, err = run(capsys, "verify", path)
    *races, last = out.splitlines()
    assert (status, err) == (1, "")
    assert races
    assert re.fullmatch(rf"{path}: \d+ races", last)


def test_the_module_runs_as_a_program():
    command = [sys.executable, "-m", "graphstreams", "plan", str(DSV32)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0 and "speed-up" in done.stdout


LOADED = """
import contextlib, sys
import graphstreams.command_line.guards as limits
loaded = []

@contextlib.contextmanager
def noted(seconds):
    loaded.append("torch" in sys.modules)
    yield

limits.time_limit = noted
from graphstreams.__main__ import main
main(["verify", sys.argv[1]])
print(loaded)
"""


def test_loading_torch_does_not_count_as_reading_a_wrapper(tmp_path):
    path = tmp_path / "wrapper.py"
    path.write_text("no wrapper")
    done = subprocess.run([sys.executable, "-c", LOADED, str(path)], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.splitlines()[-1].endswith("True]"), done.stderr
