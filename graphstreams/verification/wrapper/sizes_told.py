"""What the source of a wrapper tells of the sizes of tensors, and which elements of its result's storage a product writes.

A product whose `out=` has other sizes than the product resizes it, and then writes elsewhere. So its part of a storage is only
known if the source tells the sizes of both factors. Inputs have the sizes that the source asserts by Dynamo's guards: the
assertion itself holds for any tensor without elements. Read in torch 2.15.0: `native/Resize.cpp` (resize_output),
`_inductor/kernel/mm.py` and `bmm.py`, `_inductor/codegen/wrapper.py` (codegen_reinterpret_view).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import replace

from graphstreams.verification.elements import Elements
from graphstreams.verification.wrapper.abstract_values import (
    Call,
    ConstantValue,
    GroupValue,
    Storage,
    TensorValue,
    Value,
    storages_of,
)
from graphstreams.verification.wrapper.names import GUARDS

# Library kernels that write the product of two matrices, or of two batches of them, into `out=`, and the place of the factors.
PRODUCTS = {"mm": 0, "addmm": 1, "bias_addmm": 1, "bmm": 0, "baddbmm": 1, "_scaled_mm": 0}

Sizes = tuple[int | None, ...]


def allocated(tensor: TensorValue, call: Call) -> TensorValue:
    """Return the tensor that `empty_strided_cuda(sizes, strides, dtype)` gives."""
    dtype = call.constant(2)
    if len(call.arguments) != 3 or call.keywords or not isinstance(dtype, str):
        return tensor
    made = _placed(tensor, call.arguments[0], call.arguments[1], dtype, 0)
    made.storages[0].whole = made.elements
    return made


def view(tensor: TensorValue, call: Call) -> TensorValue:
    """Return the tensor that `reinterpret_tensor(tensor, sizes, strides, offset)` gives. The offset is from the tensor's."""
    offset, base = call.constant(3), tensor.elements
    if len(call.arguments) != 4 or call.keywords:
        return tensor.any_view
    start = base.offset + offset if base is not None and type(offset) is int else None
    found = _placed(tensor, call.arguments[1], call.arguments[2], base.dtype if base else "", start)
    whole = tensor.storages[0].whole if len(tensor.storages) == 1 else None
    beyond = found.elements is not None and (whole is None or found.elements.last > whole.last)
    return replace(found, elements=None) if beyond else found


def _placed(tensor: TensorValue, sizes: Value, strides: Value, dtype: str, offset: int | None) -> TensorValue:
    told, steps = _numbers(sizes), _numbers(strides)
    elements = Elements(dtype, told or (), steps or (), offset)  # type: ignore[arg-type]
    known = dtype and told is not None and steps is not None and elements.known
    return replace(tensor, sizes=told, elements=elements if known else None)


def _numbers(value: Value) -> Sizes | None:
    """Return the items of a tuple, those that are no numbers in the source as None; None if it is no tuple of numbers."""
    if not isinstance(value, GroupValue) or not all(isinstance(item, ConstantValue) for item in value.items):
        return None
    return tuple(_number(item.value) for item in value.items)  # type: ignore[union-attr]


def _number(value: object) -> int | None:
    return value if type(value) is int else None


def asserted_sizes(path: str, node: ast.Call) -> Iterator[tuple[str, Sizes]]:
    """Yield the names and sizes that a call of `path` asserts: of one tensor, or of several in tuples."""
    tensors, sizes = (node.args[0], node.args[1]) if len(node.args) > 1 else (None, None)
    if path == f"{GUARDS}assert_size_stride":
        pairs = [(tensors, sizes)]
    elif path == f"{GUARDS}assert_size_stride_grouped" and isinstance(tensors, ast.Tuple) and isinstance(sizes, ast.Tuple):
        pairs = list(zip(tensors.elts, sizes.elts, strict=False)) if len(tensors.elts) == len(sizes.elts) else []
    else:
        return
    for tensor, listed in pairs:
        if isinstance(tensor, ast.Name) and isinstance(listed, ast.Tuple):
            yield tensor.id, tuple(_number(item.value) if isinstance(item, ast.Constant) else None for item in listed.elts)


def part_written(name: str, call: Call, out: TensorValue) -> Mapping[Storage, Elements]:
    """Return the elements that a library kernel writes, by storage; nothing for a storage of which it may write all."""
    if not _fits(name, call, out):
        may_resize(out)
        return {}
    read = set(storages_of(*call.arguments, *(value for key, value in call.keywords.items() if key != "out")))
    (storage,) = out.all
    partial = out.elements not in (None, storage.whole) and storage not in read
    return {storage: out.elements} if partial else {}  # type: ignore[dict-item]


def may_resize(*values: Value) -> None:
    """Note that tensors over the storages of these values may have other sizes from here on than the source tells."""
    for storage in storages_of(*values):
        storage.resized = True


def _fits(name: str, call: Call, out: TensorValue) -> bool:
    """Return whether `out` is known to have the sizes of the product that is written into it."""
    first = PRODUCTS.get(name)
    if first is None or len(out.all) != 1:
        return False
    told = [_sizes(value) for value in (*call.arguments[first : first + 2], out)]
    match [sizes for sizes in told if sizes is not None]:
        case [left, right, product] if 2 <= len(left) == len(right) == len(product) <= 3:
            return None not in product and product == (*left[:-1], right[-1])
    return False


def _sizes(value: Value) -> Sizes | None:
    if not isinstance(value, TensorValue) or any(storage.resized for storage in value.all):
        return None
    return value.sizes
