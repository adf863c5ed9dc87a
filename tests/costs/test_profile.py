import json
from pathlib import Path

import pytest

from graphstreams.costs.profile import ProfileError, load_profile
from graphstreams.graph.kernels import EdgeKind

DSV32 = Path(__file__).parents[1] / "data" / "dsv32_attention_39308.json"


def profile(*kernels, **fields):
    return {"name": "p", "unit": "us", "kernels": list(kernels)} | fields


def kernel(name, us=1.0, after=()):
    return {"id": name, "us": us, "after": list(after)}


def names(graph):
    return [k.name for k in graph.kernels]


def test_reads_a_file():
    graph, us = load_profile(DSV32)
    listed = json.loads(DSV32.read_text())["kernels"]
    assert sum(us) == pytest.approx(63.8)
    assert {k.name: us[k.id] for k in graph.kernels} == {k["id"]: k["us"] for k in listed}
    assert {(graph.kernels[e.before].name, graph.kernels[e.after].name) for e in graph.edges} == {
        (before, k["id"]) for k in listed for before in k["after"]
    }
    assert {e.kind for e in graph.edges} == {EdgeKind.RAW}
    assert {k.kind for k in graph.kernels} == {"profile"}
    assert graph.kernels[0].launches == ("#4 QKV A Proj (fused_a_gemm)",)


def test_a_path_may_be_a_string():
    assert load_profile(str(DSV32)) == load_profile(DSV32)


def test_program_order_is_the_files_where_that_is_possible():
    graph, us = load_profile(profile(kernel("a"), kernel("b", 2, ["d"]), kernel("c", 3), kernel("d", 4, ["a"])))
    assert names(graph) == ["a", "c", "d", "b"]
    assert us == [1, 3, 4, 2]
    assert [(e.before, e.after) for e in graph.edges] == [(0, 2), (2, 3)]
    assert [k.id for k in graph.kernels] == [0, 1, 2, 3]


def test_after_may_be_left_out_and_may_repeat():
    graph, _ = load_profile(profile({"id": "a", "us": 0}, kernel("b", 1, ["a", "a"])))
    assert [(e.before, e.after) for e in graph.edges] == [(0, 1)]
    assert graph.kernels[0].launches == ()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (profile(kernel("wq_b"), kernel("b", 1, ["wq_a"])), "'b' is after 'wq_a'.*did you mean 'wq_b'"),
        (profile(kernel("a"), kernel("b", 1, ["zzz"])), "'b' is after 'zzz', which is no kernel of the profile$"),
        (profile(kernel("b", 1, [3])), "'b' is after 3"),
        (profile({"id": "b", "us": 1, "after": "a"}), "'b' has an 'after' that is not a list but a string"),
        (profile(kernel("a"), kernel("b"), kernel("a")), r"'a': kernels\[0\] and kernels\[2\]"),
        (profile({"id": "a"}), "'a' has no 'us'"),
        (profile(kernel("a", -1)), "'a' has 'us' -1"),
        (profile(kernel("a", float("nan"))), "'a' has 'us' nan"),
        (profile(kernel("a", float("inf"))), "'a' has 'us' inf"),
        (profile(kernel("a", 10**400)), "'a' has 'us' 1000"),
        (profile(kernel("a", "3")), "'a' has 'us' '3'"),
        (profile(kernel("a", True)), "'a' has 'us' True"),
        (profile({"us": 1}), r"kernels\[0\] has no 'id'"),
        (profile("a"), r"kernels\[0\] has no 'id'"),
        (profile(kernel("a", 1, ["a"])), "cycle: a -> a$"),
        (profile(kernel("a"), unit="ms"), "unit is 'ms'"),
        ({"name": "p", "kernels": [kernel("a")]}, "unit is None"),
        ({"name": "p", "unit": "us"}, "no 'kernels'"),
        (profile(), "'kernels' is empty"),
        (profile(kernels={}), "not a list but an object"),
    ],
)
def test_says_what_is_wrong(data, message):
    with pytest.raises(ProfileError, match=message):
        load_profile(data)


def test_names_the_members_of_a_cycle_and_no_others():
    data = profile(kernel("in"), kernel("a", 1, ["c", "in"]), kernel("b", 1, ["a"]), kernel("c", 1, ["b"]))
    data["kernels"].append(kernel("out", 1, ["c"]))
    with pytest.raises(ProfileError) as error:
        load_profile(data)
    members = str(error.value).split(": ")[1].split(" -> ")
    assert members[0] == members[-1]
    assert "a b c a b c".find(" ".join(members[:-1])) >= 0


@pytest.mark.parametrize(("text", "message"), [("{", "is not JSON"), ("[]", "not a profile.*not a list"), ("", "is not JSON")])
def test_a_file_that_is_no_profile(tmp_path, text, message):
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(ProfileError, match=message):
        load_profile(path)


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_profile(tmp_path / "none.json")
