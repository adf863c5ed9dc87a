"""What was measured of one graph on a GPU."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measurement:
    """What was measured of a graph, in us of one CUDA-graph replay."""

    serial_us: float  # the kernels on one stream
    played_us: float = 0.0  # the same kernels as the plan has them; 0 where no plan was measured
    compiled_us: float = 0.0  # the code that was generated for the plan; 0 where that was not measured
    tried: int = 0  # plans measured
    from_disk: bool = False  # found by an earlier compile
    plans: tuple[tuple[float, float], ...] = ()  # of each plan: what the simulator said, and what was measured

    @property
    def gain(self) -> float:
        """The share of the serial time that is saved, by the last thing measured."""
        return 1 - (self.compiled_us or self.played_us or self.serial_us) / self.serial_us

    def __str__(self) -> str:
        parts = [f"measured: {self.serial_us:.1f} us on one stream"]
        for us, what in ((self.played_us, "the plan's kernels"), (self.compiled_us, "the generated code")):
            if us:
                parts.append(f"{us:.1f} us {what} ({self.serial_us / us:.2f}x)")
        source = "by an earlier compile" if self.from_disk else "now"
        return ", ".join(parts) + f"; {self.tried} plans measured {source}"
