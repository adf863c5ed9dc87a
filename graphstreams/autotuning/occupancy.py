"""Asks the driver how much of a GPU the kernels of a captured CUDA graph fill.

The nodes of the graph give every kernel's grid, block and shared memory, also for libraries' kernels, and
`cuOccupancyMaxActiveBlocksPerMultiprocessor` how many of its blocks fit on one SM. Structures: CUDA driver API 12, `cuda.h`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from graphstreams.runtime.driver import check, driver

_KERNEL_NODE = 0  # CU_GRAPH_NODE_TYPE_KERNEL


@dataclass(frozen=True)
class Occupancy:
    """The thread blocks of one launch: how many there are, and how many the whole GPU holds at once."""

    count: int
    at_once: int

    @property
    def share(self) -> float:
        """The share of the GPU's block slots that they fill, at most 1."""
        return min(1.0, self.count / max(1, self.at_once))


class _KernelNodeParams(ctypes.Structure):
    """The driver's CUDA_KERNEL_NODE_PARAMS_v2."""

    _fields_ = [
        ("func", ctypes.c_void_p),
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("kernel_params", ctypes.c_void_p),
        ("extra", ctypes.c_void_p),
        ("kern", ctypes.c_void_p),
        ("ctx", ctypes.c_void_p),
    ]


def blocks_of_graph(graph: torch.cuda.CUDAGraph) -> list[Occupancy]:
    """Return the blocks of each kernel of a graph that was captured with `keep_graph=True`, in the order of its nodes.

    Raises RuntimeError if the driver does not tell.
    """
    sms = torch.cuda.get_device_properties(torch.cuda.current_device()).multi_processor_count
    return [_occupancy(parameters, sms) for parameters in _kernel_nodes(ctypes.c_void_p(graph.raw_cuda_graph()))]


def _kernel_nodes(graph: ctypes.c_void_p) -> Iterator[_KernelNodeParams]:
    cuda, count = driver(), ctypes.c_size_t()
    check(cuda.cuGraphGetNodes(graph, None, ctypes.byref(count)), "tell how many nodes a graph has")
    nodes = (ctypes.c_void_p * count.value)()
    check(cuda.cuGraphGetNodes(graph, nodes, ctypes.byref(count)), "tell the nodes of a graph")
    for node in nodes:
        kind, parameters = ctypes.c_int(), _KernelNodeParams()
        check(cuda.cuGraphNodeGetType(ctypes.c_void_p(node), ctypes.byref(kind)), "tell the type of a node")
        if kind.value == _KERNEL_NODE:
            status = cuda.cuGraphKernelNodeGetParams_v2(ctypes.c_void_p(node), ctypes.byref(parameters))
            check(status, "tell what a node launches")
            yield parameters


def _occupancy(parameters: _KernelNodeParams, sms: int) -> Occupancy:
    cuda, function, per_sm = driver(), ctypes.c_void_p(parameters.func), ctypes.c_int()
    if not function.value:
        check(cuda.cuKernelGetFunction(ctypes.byref(function), ctypes.c_void_p(parameters.kern)), "tell a kernel's function")
    threads = parameters.block[0] * parameters.block[1] * parameters.block[2]
    status = cuda.cuOccupancyMaxActiveBlocksPerMultiprocessor(
        ctypes.byref(per_sm), function, ctypes.c_int(threads), ctypes.c_size_t(parameters.shared_bytes)
    )
    check(status, "tell how many blocks fit on an SM")
    return Occupancy(parameters.grid[0] * parameters.grid[1] * parameters.grid[2], per_sm.value * sms)
