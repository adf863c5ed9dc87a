"""Check the fake tensors that stand in for a module's and its inputs' while a graph is captured."""

from __future__ import annotations

import functools
import logging
from collections import deque, namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.testing._internal.two_tensor import TwoTensor

from graphstreams.errors import CannotPlan
from graphstreams.inductor.fakes import faked
from graphstreams.inductor.offline import offline
from graphstreams.ir.devices import DEVICES

Pair = namedtuple("Pair", ["first", "second"])


class Cache:
    """Tensors in a plain object, with the device on which it makes others, as in transformers' static caches."""

    def __init__(self, rows: int) -> None:
        self.keys, self.device = torch.zeros(rows, 4), torch.device("cpu")


class Slotted:
    __slots__ = ("empty", "value")

    def __init__(self) -> None:
        self.value = torch.zeros(3)


def stood_in(function: Any, inputs: Any) -> Any:
    """Return what stands in for `inputs`, and what it is while fakes are there."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with offline(DEVICES["h200"]), faked(function, inputs, mode) as (_, made):
        yield made


@pytest.fixture
def in_place():
    """Return a function that gives fakes for inputs and keeps them until the test ends."""
    open_ones = []

    def of(inputs: Any, function: Any = nn.Identity()) -> Any:  # noqa: B008
        open_ones.append(stood_in(function, inputs))
        return next(open_ones[-1])

    yield of
    for each in open_ones:
        next(each, None)


def test_tensors_are_found_in_containers_and_objects(in_place: Any) -> None:
    x = torch.zeros(2)
    cache, slotted = Cache(4), Slotted()
    made = in_place(([x, {"k": x}], Pair(x, 1), deque([x]), cache, slotted, (1, "a"), None))
    first = made[0][0]
    assert isinstance(first, FakeTensor) and first.device == torch.device("cuda:0")
    assert all(each is first for each in (made[0][1]["k"], made[1].first, made[2][0]))
    assert isinstance(made[1], Pair) and made[1].second == 1 and made[5] == (1, "a")
    assert isinstance(cache.keys, FakeTensor) and cache.device == torch.device("cuda:0")
    assert isinstance(slotted.value, FakeTensor)


def test_everything_is_given_back() -> None:
    held, x, cache, slotted = [torch.zeros(2)], torch.zeros(2), Cache(4), Slotted()
    module = nn.Linear(4, 4)
    module.cache, module.held = cache, held
    before = held[0], cache.keys, cache.device, slotted.value, module.weight
    for _ in stood_in(module, (x, slotted)):
        assert isinstance(module.held[0], FakeTensor) and isinstance(module.weight, nn.Parameter)
    after = held[0], cache.keys, cache.device, slotted.value, module.weight
    assert all(one is other for one, other in zip(before, after, strict=True))


def test_everything_is_given_back_after_an_error() -> None:
    held = [torch.zeros(2), torch.zeros(2).to_sparse()]
    before = list(held)
    with pytest.raises(CannotPlan, match=r"inputs\[0\]\[1\] is torch.sparse_coo"):
        next(stood_in(nn.Identity(), (held,)))
    assert all(one is other for one, other in zip(before, held, strict=True))


def test_what_holds_itself_is_walked_once(in_place: Any) -> None:
    loop: list[Any] = [torch.zeros(2)]
    loop.append(loop)
    made = in_place((loop,))
    assert made[0][1] is made[0] and isinstance(made[0][0], FakeTensor)


def test_shared_memory_stays_shared_and_other_memory_apart(in_place: Any) -> None:
    base = torch.zeros(8, 4)
    rows, bits, other = base[2:4], base.view(torch.int32), torch.zeros(8, 4)
    made = in_place((base, rows, bits, other))
    storages = [each.untyped_storage()._cdata for each in made]
    assert storages[0] == storages[1] == storages[2] != storages[3]
    assert (made[1].storage_offset(), made[1].stride(), made[2].dtype) == (8, (4, 1), torch.int32)


def test_memory_is_shared_between_a_module_and_an_input(in_place: Any) -> None:
    module = nn.Linear(4, 4)
    (made,) = in_place((module.weight.detach()[1:],), module)
    assert made.untyped_storage()._cdata == module.weight.untyped_storage()._cdata


def test_closures_methods_partials_and_named_globals(in_place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = torch.zeros(2)
    monkeypatch.setitem(globals(), "at_module_level", torch.zeros(2))

    def function(x: Tensor) -> Tensor:
        return x + inside + at_module_level  # type: ignore[name-defined]  # noqa: F821

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with offline(DEVICES["h200"]), faked(functools.partial(function, inside), (), mode) as (partial, _):
        cells = {cell.cell_contents for cell in function.__closure__}
        assert cells == {partial.args[0]} and isinstance(partial.args[0], FakeTensor)
        assert partial.func is function
    assert not isinstance(inside, FakeTensor)
    with offline(DEVICES["h200"]), faked(function, (), mode):
        assert isinstance(globals()["at_module_level"], FakeTensor)
    assert not isinstance(globals()["at_module_level"], FakeTensor)
    module = nn.Linear(2, 2)
    with offline(DEVICES["h200"]), faked(module.forward, (), mode):
        assert isinstance(module.weight.data, FakeTensor)


def test_a_subclass_of_tensor_is_taken_apart(in_place: Any) -> None:
    module = nn.Linear(4, 4)
    module.weight = nn.Parameter(TwoTensor(torch.zeros(4, 4), torch.ones(4, 4)))
    in_place((), module)
    assert isinstance(module.weight, TwoTensor) and isinstance(module.weight, nn.Parameter)
    assert isinstance(module.weight.a, FakeTensor) and module.weight.b.device.type == "cuda"


class Opaque(Tensor):
    """A subclass that does not say what it is made of."""


@pytest.mark.parametrize(
    ("tensor", "told"),
    [
        (torch.zeros(2, 2).to_sparse(), "inputs['x'] is torch.sparse_coo; only dense tensors"),
        (torch.zeros(2, dtype=torch.complex64).conj(), "inputs['x'] is a lazy view"),
        (torch.quantize_per_tensor(torch.zeros(2), 1.0, 0, torch.qint8), "inputs['x'] is quantized"),
        (torch.zeros(2).as_subclass(Opaque), "inputs['x'] is a Opaque, which torch can't take apart"),
        (nn.LazyLinear(2).weight, "inputs['x'] is a UninitializedParameter"),
    ],
    ids=["sparse", "conjugate", "quantized", "opaque", "lazy"],
)
def test_what_can_not_be_faked_is_named(tensor: Tensor, told: str) -> None:
    with pytest.raises(CannotPlan) as error:
        next(stood_in(nn.Identity(), {"x": tensor}))
    assert str(error.value).startswith(told)


def test_an_attribute_that_can_not_be_faked_stays_as_it_is_unless_it_is_an_input(in_place: Any) -> None:
    module, sparse = nn.Linear(4, 4), torch.zeros(2, 2).to_sparse()
    module.unused, module.held = sparse, [torch.zeros(2), {"of": sparse}]
    in_place((), module)
    assert module.unused is sparse and isinstance(module.held[0], FakeTensor) and isinstance(module.weight.data, FakeTensor)
    with pytest.raises(CannotPlan, match=r"inputs\[0\] is torch.sparse_coo"):
        next(stood_in(module, (sparse,)))


def test_what_a_process_holds_is_not_walked(in_place: Any) -> None:
    module, table = nn.Linear(4, 4), [torch.zeros(2)]
    module.log, module.names = logging.getLogger("of a module"), globals()
    module.log.table = table  # type: ignore[attr-defined]
    in_place((), module)
    assert isinstance(module.weight.data, FakeTensor) and not isinstance(table[0], FakeTensor)
    del module.log.table  # type: ignore[attr-defined]


def test_a_parameter_is_named_as_its_module_names_it() -> None:
    module = nn.Sequential(nn.LazyLinear(2))
    with pytest.raises(CannotPlan, match=r"^module\.0\.weight is a UninitializedParameter"):
        next(stood_in(module, ()))
