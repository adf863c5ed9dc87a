"""Hold what was measured of one graph on a GPU."""

from __future__ import annotations

from dataclasses import dataclass

# us of the host in a call of a compiled function beside what the graph's code takes: Dynamo's guards, AOTAutograd's wrapper.
# In 34 public models it was up to about 250 us (benchmarks/zoo/gpu.py, H200, 2026-11-30), and more with objects as outputs.
HOST_BESIDE_US = 300.0


@dataclass(frozen=True)
class Measurement:
    """Times of a graph, in us of one CUDA-graph replay unless said otherwise."""

    serial_us: float  # the kernels on one stream
    played_us: float = 0.0  # the same kernels on the plan's streams; 0 if none was measured
    compiled_us: float = 0.0  # the code that was generated for the plan; 0 if that was not measured
    inductor_us: float = 0.0  # Inductor's serial code, measured beside it, which reuses buffers; 0 if it was not measured
    direct_us: float = 0.0  # a call of the generated code launched by the host; 0 if that was not measured
    direct_serial_us: float = 0.0  # the same of Inductor's serial code
    direct_host_us: float = 0.0  # until a call of the generated code returns to the host, which the GPU may be behind
    tried: int = 0  # plans measured
    from_disk: bool = False  # found by an earlier compile
    plans: tuple[tuple[float, float], ...] = ()  # of each plan: the simulated and the measured us

    @property
    def replay_us(self) -> tuple[float, float] | None:
        """The serial and the streamed time by the last thing measured, the former beside it; None if no plan was."""
        if self.compiled_us:
            return self.inductor_us or self.serial_us, self.compiled_us
        return (self.serial_us, self.played_us) if self.played_us else None

    @property
    def gain(self) -> float:
        """The share of the serial time that is saved, by the last thing measured, against the serial code beside it."""
        serial_us, streamed_us = self.replay_us or (1.0, 1.0)
        return 1 - streamed_us / serial_us

    @property
    def direct_gain(self) -> float | None:
        """The share of a direct call's time that streams save; None if it was not measured."""
        return 1 - self.direct_us / self.direct_serial_us if self.direct_us and self.direct_serial_us else None

    @property
    def waits_for_host(self) -> bool:
        """Whether the GPU may wait for the host in a direct call of the generated code, with all that a call has beside it.

        Streams give the host more to do than they save then, and a gain that was measured without the rest of the call is none.
        An H200 took 1,425 us for serial calls of a DeepSeek V3 layer and 1,546 for streamed ones, where the graph's code alone
        had taken 1,290 and 1,212. A call whose time on the host is not known may wait too.
        """
        return not self.direct_host_us or self.direct_host_us + HOST_BESIDE_US > self.direct_us

    def __str__(self) -> str:
        parts = [f"measured: {self.serial_us:.1f} us on one stream"]
        if self.played_us:
            parts.append(f"{self.played_us:.1f} us the plan's kernels ({self.serial_us / self.played_us:.2f}x)")
        if self.compiled_us:
            serial = f" of Inductor's {self.inductor_us:.1f} us" if self.inductor_us else ""
            parts.append(f"{self.compiled_us:.1f} us the generated code ({1 / (1 - self.gain):.2f}x{serial})")
        if self.direct_us:
            parts.append(f"{self.direct_us:.1f} us a direct call of it, serially {self.direct_serial_us:.1f} us")
        source = "by an earlier compile" if self.from_disk else "now"
        return ", ".join(parts) + f"; {self.tried} plans measured {source}"
