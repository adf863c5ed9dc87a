"""Check kernels="fast": what is decided for given times, that both bodies have the kernels, and that the report says why."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import deepseek_v32
import pytest
import torch
from torch import fx

import graphstreams
from graphstreams.autotuning.cache_keys import kernels_key
from graphstreams.costs.few_rows import FormTime, ProductTimes
from graphstreams.errors import StaySerial, Unmeasurable
from graphstreams.inductor.few_rows import WeightProduct, weight_products
from graphstreams.inductor.own_kernels import NOTES
from graphstreams.ir.devices import DEVICES
from graphstreams.ir.placement_rules import MarkedModule
from graphstreams.kernels.few_rows_candidates import candidates
from graphstreams.kernels.few_rows_forms import Form, MultiplyAndSum, Product, TensorCores
from graphstreams.options import Options
from graphstreams.pipeline import explain, fast_kernels
from graphstreams.pipeline.fast_kernels import Decision, decide, use_fast_kernels
from graphstreams.pipeline.kernel_variants import Forms, GivenGraph, Times, put_forms
from graphstreams.reports.report import Report
from graphstreams.verification.wrapper.read import verify
from tests.support import sample_modules

BFLOAT16, SMS = torch.bfloat16, 132
PRODUCT = Product(1, 2112, 7168, BFLOAT16, BFLOAT16, (7168, 1), (1, 7168))
MANY, FEW = MultiplyAndSum(1, 1024), TensorCores(64, 128, swapped=True)


def product_named(name: str) -> WeightProduct:
    """Return a product whose node and weight have names, and no graph."""
    graph = fx.Graph()
    weight = graph.placeholder(f"weight_of_{name}")
    return WeightProduct(graph.create_node("call_function", len, (weight,), name=name), PRODUCT, {}, weight)


def timed(us: Mapping[Form, float], torch_us: float = 10.0) -> ProductTimes:
    return ProductTimes(torch_us, 1e-3, tuple(FormTime(form, each, 1e-3, 1e-3, True) for form, each in us.items()))


@dataclass
class Variants:
    """Variants of a graph that take what a test says."""

    us: Sequence[float]
    beside: set[str] = field(default_factory=set)
    lasts: float = 0.0  # what the fastest takes in the end; 0: what was measured
    planned: list[dict[str, Form]] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)

    def plan(self, *several: Forms) -> set[str]:
        self.planned += [{name: each.form for name, each in forms.items()} for forms in several]
        return self.beside if several[-1] else set()

    def times(self) -> list[Times]:
        return [Times(us + 5, us, 400.0 + 20 * place) for place, us in enumerate(self.us[: len(self.planned)])]

    def difference(self, number: int) -> float:
        return 1e-3 * number

    def lasting(self, number: int, times: Times) -> tuple[float, str]:
        return self.lasts or times.us, "on 3 streams"

    def keep(self, number: int) -> None:
        self.kept.append(number)


def decided(variants: Variants, us: Mapping[Form, float] = {MANY: 7.0, FEW: 9.0}) -> Decision:
    return decide([product_named("a"), product_named("b")], {product_named("a").operation: timed(us)}, SMS, variants)


def test_forms_that_are_faster_in_the_whole_graph_are_taken() -> None:
    variants = Variants([100.0, 90.0])
    decision = decided(variants)
    assert {name: each.form for name, each in decision.forms.items()} == {"a": MANY, "b": MANY}
    assert variants.planned == [{}, {"a": MANY, "b": MANY}]
    assert "takes 90.0 us, on 3 streams, with 2 products replaced (the fastest alone): 100.0 us" in decision.notes[0]
    assert "launched by the host the serial code takes 420.0 us, with torch's products 400.0; it is only" in decision.notes[1]
    assert "measured on the inputs of this compile: 1.0e-03 of a tensor's largest value" in decision.notes[2]
    assert "max_autotune's difference from the same code, which it is to stay below" in decision.notes[2]


def test_products_beside_others_may_take_forms_of_few_blocks() -> None:
    variants = Variants([100.0, 90.0, 85.0], {"weight_of_b"})
    decision = decided(variants)
    assert {name: each.form for name, each in decision.forms.items()} == {"a": MANY, "b": FEW}
    assert "(few blocks beside other kernels)" in decision.notes[0]


@pytest.mark.parametrize("us", [[100.0, 101.0, 103.0], [100.0, 99.5, 99.2]])
def test_a_graph_that_gets_no_faster_keeps_torchs_products(us: list[float]) -> None:
    variants = Variants(us, {"weight_of_a"})
    decision = decided(variants)
    assert decision.forms == {} and variants.kept == [0]
    assert "torch's products are as fast in the whole graph: 100.0 us" in decision.notes[0]


def test_a_variant_whose_code_is_slower_than_its_plan_is_not_taken() -> None:
    decision = decided(Variants([100.0, 90.0], lasts=100.0))
    assert decision.forms == {} and "the generated code takes 100.0 us, on 3 streams" in decision.notes[0]


def test_without_a_faster_form_nothing_is_planned() -> None:
    variants = Variants([100.0])
    decision = decided(variants, {MANY: 9.9, FEW: 10.0})
    assert decision.forms == {} and variants.planned == [] and "no form takes less than" in decision.notes[0]


def layer(**changes: Any) -> tuple[Any, Any]:
    config = deepseek_v32.Config(tp=8, context=4096, **changes)
    return deepseek_v32.build(config, "meta"), deepseek_v32.example_inputs(config, "meta")


def explained(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Report:
    """Return the report on V3.2's layer in which each product has one of its first forms."""

    def put(given: GivenGraph, at_hand: bool) -> None:
        found, _ = weight_products(given.module.graph)
        forms = {each.node.name: candidates(each.product, SMS)[number % 2] for number, each in enumerate(found)}
        put_forms(given.module, {name: FormTime(form, 5.0, 0.0, 0.0, True) for name, form in forms.items()})

    monkeypatch.setattr(explain, "use_fast_kernels", put)
    return graphstreams.explain(*layer(**changes), "h200", {"kernels": "fast", "min_gain": 0.0})


def launched(report: Report) -> dict[str, tuple[str, ...]]:
    assert report.kernels is not None
    return {each.name: each.launches for each in report.kernels.kernels}


def test_both_bodies_of_v32s_layer_have_the_kernels_and_the_proof_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    report = explained(monkeypatch)
    assert report.verdict == "clean" and not report.races and verify(report.wrapper) == []
    found = launched(report)
    for name in ("fused_qkv_a_proj", "q_b_proj", "indexer.wk_weights_proj", "indexer.wq_b", "o_proj"):
        assert found[name] == ("few_rows_dot",), found
    launches = re.findall(r"^ +(few_rows_[a-z]+)_\d+\.run\(", report.wrapper, re.MULTILINE)
    of_serial = [name for own in found.values() for name in own if name.startswith("few_rows")]
    assert sorted(launches) == sorted(2 * of_serial) and "few_rows_splits" in launches
    assert report.kernels is not None
    assert not any(kernel.exclusive for kernel in report.kernels.kernels)


def test_float8_products_of_scaled_blocks_are_read_and_proved_too(monkeypatch: pytest.MonkeyPatch) -> None:
    report = explained(monkeypatch, fp8=True)
    assert report.verdict == "clean" and verify(report.wrapper) == []
    assert "_scaled_mm" not in re.sub("#.*", "", report.wrapper) and launched(report)["q_b_proj"] == ("few_rows_dot",)


def test_without_the_gpu_products_stay_torchs_and_a_note_says_why() -> None:
    exact, fast = (graphstreams.explain(*layer(), "h200", {"kernels": kernels}) for kernels in ("exact", "fast"))
    assert launched(exact) == launched(fast)
    (note,) = set(fast.notes) - set(exact.notes)
    assert note == "kernels='fast': all products stay torch's: kernels are chosen by measuring, and the GPU is not at hand"


def narrow(m: Any, x: torch.Tensor) -> Any:
    return m.wa(x), m.wb(x), m.wc(x)


@pytest.fixture
def graph(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Call what is given with the post-grad graph of a module with three products in bfloat16, as if it were on a GPU."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))

    def with_graph(options: dict[str, Any], act: Any = lambda given: use_fast_kernels(given)) -> fx.GraphModule:
        found: list[fx.GraphModule] = []

        def use(given: GivenGraph, at_hand: bool) -> None:
            act(replace(given, options=Options(**{"kernels": "fast", **options}), inputs=[torch.zeros(1)]))
            found.append(given.module)

        monkeypatch.setattr(explain, "use_fast_kernels", use)
        monkeypatch.setitem(sample_modules.SAMPLES, "narrow", (narrow, lambda: (torch.randn(4, 64, dtype=BFLOAT16),)))
        module, inputs = sample_modules.module_and_inputs("narrow")
        graphstreams.explain(module.to(BFLOAT16), inputs, "h200")
        return found[0]

    return with_graph


def notes_of(gm: fx.GraphModule) -> tuple[str, ...]:
    return gm.meta[NOTES]  # type: ignore[no-any-return]


def test_modelled_times_measure_nothing(graph: Any) -> None:
    (note,) = notes_of(graph({"costs": "roofline"}))
    assert "costs='roofline' measures nothing" in note


def test_what_measuring_raises_leaves_the_graph_as_it_was(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    decided: list[bool] = []
    for error, text, whether in (
        (Unmeasurable("it holds a collective"), "it holds a collective", False),
        (KeyError("x"), "please report it", False),
        (torch.OutOfMemoryError("CUDA out of memory"), "not enough free memory", False),
        (StaySerial("serial", "it has no kernels"), "it has no kernels", True),  # and it never will
    ):

        def fails(*_: Any, error: Exception = error) -> Any:
            raise error

        monkeypatch.setattr(fast_kernels, "times_of_products", fails)
        gm = graph({}, lambda given: decided.append(use_fast_kernels(given)))
        assert decided.pop() == whether
        assert text in notes_of(gm)[-1] and "all products stay torch's" in notes_of(gm)[-1]
        assert len(gm.graph.find_nodes(op="call_function", target=torch.ops.aten.mm.default)) == 3


def test_a_decision_is_found_again(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Variants] = []

    def variants(given: GivenGraph) -> Any:
        made.append(Variants([100.0, 80.0]))
        made[-1].close = lambda: None  # type: ignore[attr-defined]
        return made[-1]

    def times(found: Sequence[WeightProduct], device: Any) -> dict[str, ProductTimes]:
        return {each.operation: timed({MultiplyAndSum(1, 64): 5.0}) for each in found}

    def marked(given: GivenGraph) -> None:
        use_fast_kernels(replace(given, marked=[MarkedModule("wa", 1)]))

    monkeypatch.setattr(fast_kernels, "KernelVariants", variants)
    monkeypatch.setattr(fast_kernels, "times_of_products", times)
    monkeypatch.setattr(fast_kernels, "device_at_hand", lambda: DEVICES["h200"])
    notes = []
    for _ in range(2):
        gm = graph({})
        notes.append(notes_of(gm))
        assert not gm.graph.find_nodes(op="call_function", target=torch.ops.aten.mm.default)
    assert len(made) == 1 and made[0].planned[1].keys() == {"mm", "mm_1", "mm_2"}
    assert notes[1] == (*notes[0], "kernels='fast': this was decided by an earlier compile")
    graph({}, marked)
    assert len(made) == 2  # a mark may forbid what the plan was
    assert any("'wa', 'wb', 'wc': 4 x 64 by 64, bfloat16: sums 1 x 64" in note for note in notes[0]), notes


def test_decisions_depend_on_what_they_were_made_for(graph: Any) -> None:
    keys: list[str] = []

    def key(given: GivenGraph) -> None:
        options = given.options
        changed = (options, replace(options, dump="x"), replace(options, streams=2), replace(options, exclude=("wa",)))
        keys.extend(kernels_key(given.module, each) for each in changed)
        given.module.graph.find_nodes(op="placeholder")[0].meta["val"] = torch.empty(3)
        keys.append(kernels_key(given.module, options))

    graph({}, key)
    assert keys[0] == keys[1] and len(set(keys)) == 4
