"""Hold what was measured of one graph on a GPU."""

from __future__ import annotations

from dataclasses import dataclass

HOST_BOUND = 1.1  # times a replay that a direct call of serial code takes, from which on it waits for the host


@dataclass(frozen=True)
class Measurement:
    """Times of a graph, in us of one CUDA-graph replay unless said otherwise."""

    serial_us: float  # the kernels on one stream
    played_us: float = 0.0  # the same kernels on the plan's streams; 0 if none was measured
    compiled_us: float = 0.0  # the code that was generated for the plan; 0 if that was not measured
    inductor_us: float = 0.0  # Inductor's serial code, measured beside it, which reuses buffers; 0 if it was not measured
    direct_us: float = 0.0  # a call of the generated code launched by the host; 0 if that was not measured
    direct_serial_us: float = 0.0  # the same of Inductor's serial code
    tried: int = 0  # plans measured
    from_disk: bool = False  # found by an earlier compile
    plans: tuple[tuple[float, float], ...] = ()  # of each plan: the simulated and the measured us

    @property
    def gain(self) -> float:
        """The share of the serial time that is saved, by the last thing measured, against the serial code beside it."""
        if self.compiled_us:
            return 1 - self.compiled_us / (self.inductor_us or self.serial_us)
        return 1 - (self.played_us or self.serial_us) / self.serial_us

    @property
    def direct_gain(self) -> float | None:
        """The share of a direct call's time that streams save; None if it was not measured."""
        return 1 - self.direct_us / self.direct_serial_us if self.direct_us and self.direct_serial_us else None

    @property
    def waits_for_host(self) -> bool:
        """Whether a direct call of the serial code takes longer than its kernels do.

        Streams save nothing then, for they give the host more to do, and a gain that was measured is the host's noise. An H200
        had serial calls of a layer with medians of 457 and 543 us, streamed ones of 481 and 551; its replay takes 165 us.
        """
        return self.direct_serial_us > HOST_BOUND * (self.inductor_us or self.serial_us)

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
