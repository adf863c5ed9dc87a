"""Check that timed kernels come back from a file as the roofline sees them."""

import json
from pathlib import Path

import pytest
import sympy

from graphstreams.calibration.fit import BY_HAND
from graphstreams.calibration.samples import Sample, as_dict, load, save
from graphstreams.costs.work import works_of
from graphstreams.ir.devices import DEVICES
from graphstreams.ir.kernels import Access, Kernel, LaunchWork

TOKENS = sympy.Symbol("s0", integer=True, positive=True)
PRODUCT = Kernel(
    3,
    "q_b",
    "gemm",
    launches=("mm", "reduce"),
    reads=(Access("x", 2 * TOKENS * 1536), Access("w", sympy.Integer(2 * 1536 * 3072))),
    writes=(Access("y", 2 * TOKENS * 3072),),
    flops=2 * TOKENS * 1536 * 3072,
    dtype="bfloat16",
    ops=("mm",),
)
SAMPLES: list[Sample] = [
    (PRODUCT, {"s0": 4}, 5.12345),
    (Kernel(0, "top", "extern", reads=(Access("x", sympy.Integer(16384)),), ops=("topk",)), {}, 20.0),
]


def test_a_sample_is_told_in_numbers() -> None:
    assert as_dict(SAMPLES[0]) == {
        "name": "q_b",
        "kind": "gemm",
        "dtype": "bfloat16",
        "ops": ["mm"],
        "launches": 2,
        "reads": 2 * 4 * 1536 + 2 * 1536 * 3072,
        "writes": 2 * 4 * 3072,
        "flops": 2 * 4 * 1536 * 3072,
        "us": 5.123,
    }
    with pytest.raises(ValueError, match="no example value for the dynamic size 's0'"):
        as_dict((PRODUCT, {"s1": 4}, 5.0))


def test_a_file_gives_back_the_same_work(tmp_path: Path) -> None:
    path = save(SAMPLES, BY_HAND, tmp_path / "kernels.json")
    samples, told = load(path)
    assert told == {**told, "device": BY_HAND.device, "date": BY_HAND.date, "versions": BY_HAND.versions}
    assert "kernels" not in told and len(json.loads(path.read_text())["kernels"]) == len(samples) == 2
    for (kernel, sizes, us), (read, none, again) in zip(SAMPLES, samples, strict=True):
        assert none == {} and again == round(us, 3)
        now, then = works_of(read, DEVICES["h200"]), works_of(kernel, DEVICES["h200"])
        assert [work.at({}) for work in now] == [work.at(sizes) for work in then]


def test_the_work_of_each_launch_is_kept(tmp_path: Path) -> None:
    work = (
        LaunchWork("gemm", 64 * TOKENS, operator="bmm", dtype="float32", flops=2 * TOKENS, matrices=TOKENS),
        LaunchWork("extern", sympy.Integer(8), operator="convolution", rearranged=True),
    )
    sample = (Kernel(0, "unit", "gemm", launches=("bmm", "convolution"), work=work), {"s0": 4}, 5.0)
    assert as_dict(sample)["work"] == [
        {"kind": "gemm", "bytes": 256, "operator": "bmm", "dtype": "float32", "flops": 8, "matrices": 4},
        {"kind": "extern", "bytes": 8, "operator": "convolution", "rearranged": True},
    ]
    ((kernel, _, _),), _ = load(save([sample], BY_HAND, tmp_path / "kernels.json"))
    assert [each.bytes for each in kernel.work] == [256, 8] and kernel.work[1] == work[1]


@pytest.mark.parametrize("text", ["{}", "[]", "no json", '{"kernels": []}', '{"kernels": [{"name": "q_b"}]}'])
def test_what_is_no_such_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kernels.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"kernels\.json: no kernels of a calibration run"):
        load(path)
