"""vLLM's CUDA platform, with the pass in the configuration of every engine.

A platform may change a configuration before an engine is built from it, which no other plugin of vLLM may do.
Read in vLLM 0.33.0: `platforms/interface.py`, `platforms/cuda.py`, `config/vllm.py`.
"""

from __future__ import annotations

from typing import Any

from vllm.platforms.cuda import CudaPlatform


class StreamsPlatform(CudaPlatform):  # type: ignore[misc]
    """The CUDA platform. Engines whose configuration names no post-grad pass get this package's."""

    @classmethod
    def check_and_update_config(cls, vllm_config: Any) -> None:
        """Change a configuration as vLLM's platform does, and add the pass."""
        super().check_and_update_config(vllm_config)
        from graphstreams.integrations.vllm import add_pass

        add_pass(vllm_config)
