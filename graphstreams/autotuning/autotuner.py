"""Times the kernels and plans of one graph on the GPU at hand, and keeps the results for the next compile."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any

import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily

from graphstreams.autotuning.cache_keys import plan_key, setting
from graphstreams.autotuning.garbage import NewGarbage
from graphstreams.autotuning.plan_benchmark import PlanBenchmark
from graphstreams.autotuning.serial_code import CompiledSerialGraph
from graphstreams.autotuning.stand_ins import stand_ins
from graphstreams.autotuning.worker import WorkerClient
from graphstreams.costs.roofline import Roofline
from graphstreams.inductor.disk_cache import Store, cache_folder
from graphstreams.inductor.lowering import Lowered
from graphstreams.ir.devices import Device
from graphstreams.ir.measurement import Measurement
from graphstreams.ir.plan import Plan
from graphstreams.ir.reading import Reading
from graphstreams.options import Options
from graphstreams.planning.synchronization import check_plan


class Autotuner:
    """The measurements of one graph. Code is compiled and run only for a result that the cache lacks.

    What runs kernels raises Unmeasurable if that is not safe, or if an input is not known.
    """

    def __init__(
        self, reading: Reading, device: Device, options: Options, values: Mapping[int, Any], serial: Lowered | None = None,
        plan: Plan | None = None,
    ) -> None:  # fmt: skip
        """`values` are real inputs of the graph by position. The graph is measured only if all its tensors are known.

        `serial` is the graph as Inductor has lowered it, whose code is used where that is safe. `plan` is one that is not
        chosen: what is measured of it is kept apart from what is measured of chosen ones.
        """
        self._reading, self._given, self._values = reading, options, values
        self._serial, self._model = serial, Roofline(device)
        self._store = Store(cache_folder(), setting(device))
        self._key = plan_key(reading, options, plan)
        self._loaded: PlanBenchmark | None = None
        self._garbage: NewGarbage | None = None
        self._worker: WorkerClient | None = None

    @cached_property
    def options(self) -> Options:
        """The options that plans are measured with: with collectives without other priorities, which pauses do not tell of."""
        if self._collectives and self._given.priority is None:
            return replace(self._given, priority=0)
        return self._given

    def load_cached(self) -> tuple[list[float], Plan, Measurement] | None:
        """Return times, plan and measurement of an earlier compile of the same graph under the same options, if any."""
        found = self._store.get(f"plan {self._key}")
        try:
            plan = Plan.loads(found["plan"])  # type: ignore[index]
            check_plan(self._reading.kernels, plan)
            fields = {**found["measurement"], "from_disk": True}  # type: ignore[index]
            measurement = Measurement(**{**fields, "plans": tuple(map(tuple, fields["plans"]))})
            return [float(us) for us in found["us"]], replace(plan, name=self._reading.kernels.name), measurement  # type: ignore[index]
        except (KeyError, TypeError, ValueError):
            return None

    def save(self, us: Sequence[float], plan: Plan, measurement: Measurement) -> None:
        """Write what `load_cached` returns in a later compile."""
        self._store.put(f"plan {self._key}", {"us": list(us), "plan": plan.dumps(), "measurement": asdict(measurement)})

    def times(self) -> list[float]:
        """Return the time of each kernel in us in its place in the serial graph. Kernels that the cache has are not run.

        Collectives and waits, which are left out when the others are timed, have the time of the cost model.
        """
        found: list[object] = [self._store.get(f"kernel {key}") if key else 0.0 for key in self._kernel_keys]
        for collective, us in self._collectives.items():
            found[collective] = us
        if not all(isinstance(us, float) for us in found):
            for kernel, us in self.benchmark.replayer.kernel_times(self._order).items():
                if not isinstance(found[kernel], float):
                    found[kernel] = us
                    self._store.put(f"kernel {self._kernel_keys[kernel]}", us)
        return [float(us) for us in found]  # type: ignore[arg-type]

    def blocks(self) -> dict[int, list[tuple[int, int]]]:
        """Return, for each launch of each kernel, its thread blocks, and how many the GPU holds at once; as far as known."""
        found: dict[int, list[tuple[int, int]]] = {}
        for kernel, key in enumerate(self._kernel_keys):
            none = not key or self._reading.kernels.kernels[kernel].collective
            cached = [] if none else self._store.get(f"blocks {key}")
            if not isinstance(cached, list):
                cached = [(blocks.count, blocks.at_once) for blocks in self.benchmark.replayer.blocks(kernel)]
                self._store.put(f"blocks {key}", cached)
            found[kernel] = [(int(count), int(at_once)) for count, at_once in cached]
        return found

    def gain_at(self, plan: Plan, sizes: Mapping[str, int]) -> float:
        """Return the share of the serial time that `plan` saves at other dynamic sizes, on synthetic inputs.

        It is measured in a process of its own, because an index that is out of range ends the process, and cached on disk.
        """
        digest = hashlib.sha256(repr((plan.placements, plan.events, plan.priority)).encode()).hexdigest()
        key = f"gain {self._key} {digest} {sorted(sizes.items())}"
        share = self._store.get(key)
        if not isinstance(share, float):
            if self._worker is None:
                self._worker = WorkerClient(self._code.job(plan))
            share = self._worker.gain(self._code.layouts(sizes))
            self._store.put(key, share)
        return share

    def close(self) -> None:
        """Free the memory that measuring took, and end the process that measured other sizes."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None
        if self._garbage is not None:  # also if loading failed
            self._loaded = None
            # Generated code refers to itself. Left to a later collection, it would take its kernels along in the middle of
            # someone's capture, and so end that capture.
            self._garbage.collect()
            self._garbage = None
            torch.cuda.empty_cache()

    @cached_property
    def _code(self) -> CompiledSerialGraph:
        return CompiledSerialGraph(self._reading, self._serial)

    @cached_property
    def _kernel_keys(self) -> list[str]:
        return self._code.keys()

    @cached_property
    def _collectives(self) -> dict[int, float]:
        """The us of each collective and each wait, by the cost model."""
        graph = self._reading.kernels
        return {kernel.id: self._model.us(kernel, graph.sizes) for kernel in graph.kernels if kernel.collective}

    @property
    def benchmark(self) -> PlanBenchmark:
        """What times plans and generated code, on the compiled kernels of the graph. Collectives have stand-ins."""
        if self._loaded is None:
            self._garbage = self._garbage or NewGarbage()
            with unset_fake_temporarily():
                arguments = self._code.arguments(self._values)
                replayer = self._code.replayer(arguments)
                if self._collectives:
                    replayer = replayer.with_launches(stand_ins(self._reading.kernels, self._collectives))
            self._loaded = PlanBenchmark(replayer, arguments, self._reading.kernel_order, self.options)
        return self._loaded

    @property
    def _order(self) -> list[int]:
        """The kernels that can be run, in serial order: no rank may run a collective by itself."""
        return [kernel for kernel in self._reading.kernel_order if not self._reading.kernels.kernels[kernel].collective]
