"""Recommenders of deepctr-torch, on features like those of its data sets: many small tables, some numbers, a history."""

from __future__ import annotations

import sys
import types
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.zoo.case import Case, Dynamic, Made

LINEAR_TOO = ("DeepFM", "DCN", "DCNMix", "xDeepFM", "AutoInt", "WDL", "NFM", "FiBiNET")  # with columns of a linear part
TASKS = ("MMOE", "PLE", "ESMM", "SharedBottom")
HISTORIES = ("DIN",)
OWN: dict[str, dict[str, Any]] = {"xDeepFM": {"cin_layer_size": (64, 32)}}


def deepctr() -> Any:
    """Return the library, without its look for a newer release when it is imported."""
    quiet = types.ModuleType("deepctr_torch.utils")
    quiet.check_version = lambda version: None  # type: ignore[attr-defined]
    sys.modules.setdefault("deepctr_torch.utils", quiet)
    import deepctr_torch.inputs
    import deepctr_torch.models

    return deepctr_torch


def build(name: str, tiny: bool) -> Made:
    """Return a recommender and a batch of rows, one column a feature."""
    library = deepctr()
    inputs = library.inputs
    tables, numbers, size, words = (4, 2, 8, 20) if tiny else (10 if name == "FiBiNET" else 26, 13, 16, 1000)
    sparse = [inputs.SparseFeat(f"C{number}", words, embedding_dim=size) for number in range(tables)]
    columns = [*sparse, *(inputs.DenseFeat(f"I{number}", 1) for number in range(numbers))]
    batch = 16 if tiny else 2048
    values = [torch.randint(0, words, (batch, tables)).float(), torch.rand(batch, numbers)]
    if name in HISTORIES:
        length = 5 if tiny else 50
        item = inputs.SparseFeat("hist_C0", words, embedding_dim=size, embedding_name="C0")
        columns.append(inputs.VarLenSparseFeat(item, maxlen=length, length_name="length"))
        values += [torch.randint(1, words, (batch, length)).float(), torch.randint(1, length + 1, (batch, 1)).float()]
    first: tuple[Any, ...] = (columns,) * (2 if name in LINEAR_TOO else 1)
    if name in HISTORIES:
        first = (columns, ["C0"])
    model = getattr(library.models, name)(*first, device="cpu", **OWN.get(name, {}))
    # Its embeddings are so small that float32 rounds what they make to a constant.
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    rows: Tensor = torch.cat(values, -1)
    return model, (rows,)


CASES = [
    *(
        Case(f"deepctr-{name.lower()}", "deepctr-torch", partial(build, name), quick=name == "MMOE")
        for name in (*LINEAR_TOO, *TASKS, *HISTORIES)
    ),
    Case("deepctr-mmoe-dynamic-batch", "deepctr-torch", partial(build, "MMOE"), dynamic=Dynamic(((0, 0),), (3, 40))),
]
