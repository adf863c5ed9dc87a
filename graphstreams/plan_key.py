"""What a measured plan depends on, as keys for what is kept on disk. Read in torch 2.15.0: `utils/_config_module.py`."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch._inductor import config

from graphstreams.costs.devices import Device
from graphstreams.graph.reading import Reading
from graphstreams.options import Options
from graphstreams.runtime.child import precisions


@cache
def source_hash() -> bytes:
    """Of every file of this package: another version of it reads, plans and measures otherwise."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).digest()


def setting(device: Device) -> str:
    """What the times of all kernels depend on: device, versions, and how exact library kernels are to be."""
    return repr((device.name, torch.__version__, torch.version.cuda, _version("triton"), sorted(precisions().items())))


def plan_key(reading: Reading, options: Options) -> str:
    """What the plan of a graph depends on, its device and versions left out: the graph with all sizes, strides and dtypes, the
    options of the search, every setting of Inductor, and this package."""
    chosen = (options.streams, options.event_us, options.search, options.priority)
    settings = sorted(config.save_config_portable(ignore_private_configs=False).items())
    # Not by name: AOTAutograd numbers the graphs of a process.
    kernels = replace(reading.kernels, name="")
    values = [_described(node.meta.get("val")) for node in reading.module.graph.nodes]
    graph = (str(reading.module.graph), values, kernels, chosen, settings, source_hash())
    return hashlib.sha256(repr(graph).encode()).hexdigest()


def _described(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return str(value.dtype), str(tuple(value.shape)), str(value.stride()), str(value.device)
    if isinstance(value, tuple | list):
        return tuple(_described(each) for each in value)
    return str(value)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
