"""Check which files are profiles, and what graph a profile describes."""

import json

import pytest

from graphstreams.costs.profile import load_profile
from graphstreams.errors import ProfileError
from graphstreams.ir.kernels import EdgeKind
from tests.support.paths import DSV32


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
        (profile(kernel("a", 1e308)), r"'a' has 'us' 1e\+308; a number from 0 to 1e\+12"),
        (profile(kernel("a", 10**5000)), "'a' has 'us' a number too long to show"),
        (profile(kernel("a", [[[[[[1]]]]]])), r"'a' has 'us' \[\[\[\[...\]\]\]\]"),
        (profile(kernel("a"), name=3), "the profile has 'name' 3; a string"),
        (profile(kernel("a"), name="n" * 1001), "a string of at most 1000 characters is needed"),
        (profile(kernel("\ud800")), r"kernels\[0\] has 'id' '\\ud800'"),
        (profile(kernel("i" * 1001)), r"kernels\[0\] has 'id' 'iii"),
        (profile({**kernel("a"), "label": ["l"]}), r"kernel 'a' has 'label' \['l'\]"),
        (profile(kernel("a"), kernel("b", 1, ["c" * 10**6])), "'b' is after 'ccc.*c', which is no kernel of the profile$"),
        (profile(*(kernel(str(i)) for i in range(10_001))), "10001 kernels; at most 10000 can be planned"),
        (profile(kernel("a"), kernel("b", 1, ["a"] * 50_001)), "more than 50000 entries"),
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "not a profile.*not a list"),
        ("", "is not JSON"),
        ("9" * 5000, "is not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("\ufeff\ufeff{}", "is not JSON"),
        ('{"unit": "us", "kernels": [{"id": "a"}]}', "kernel 'a' has no 'us'"),
        ('{"unit": "us", "kernels": [{"id": "a", "us": NaN}]}', "kernel 'a' has 'us' nan"),
    ],
)
def test_a_file_that_is_no_profile(tmp_path, text, message):
    path = tmp_path / "broken.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ProfileError, match=message) as raised:
        load_profile(path)
    assert str(raised.value).startswith(f"{path}: ") and len(str(raised.value).splitlines()) == 1


def test_a_file_that_is_no_text(tmp_path):
    path = tmp_path / "broken.json"
    path.write_bytes(b'{"unit": "us\xff"}')
    with pytest.raises(ProfileError, match="is not text in UTF-8: invalid start byte at byte 12"):
        load_profile(path)


def test_a_file_that_is_too_large(tmp_path):
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(16 * 2**20 + 1)
    with pytest.raises(ProfileError, match="more than 16777216 bytes"):
        load_profile(path)


def test_the_largest_profile_is_read():
    count = 10_000
    graph, us = load_profile(profile(*(kernel(str(i), 1e12, [str(i - 1)] if i else []) for i in range(count))))
    assert (len(graph.kernels), sum(us)) == (count, count * 1e12)


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_profile(tmp_path / "none.json")
