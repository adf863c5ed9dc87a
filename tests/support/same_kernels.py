"""Set Inductor so that rounding does not depend on what a compile tuned or fused, for comparisons of bits.

With `deterministic` no compile tunes the block sizes of its reductions by itself. With `emulate_precision_casts` Triton
contracts no multiplication and addition into one operation with one rounding, which it else does as it finds them in a kernel:
where a graph on streams has a kernel more than serial, the last bit differs.

They have to be passed to each `torch.compile`. In the process's configuration `deterministic` holds until Dynamo has compiled
one frame: it then calls `torch.use_deterministic_algorithms` with what held before, which sets Inductor's setting too
(`_dynamo/convert_frame.py:preserve_global_state`, torch 2.15.0), so that only the first of two compiles has it.
"""

from __future__ import annotations

from typing import Any

SAME_KERNELS: dict[str, Any] = {"deterministic": True, "emulate_precision_casts": True}
