"""The entry point by which vLLM finds this package; vLLM calls it in each of its processes.

With GRAPHSTREAMS_VLLM=1 it names a platform that adds the pass to the configuration of every engine. Without it, or without
CUDA, vLLM goes on as if this package were not there. Read in vLLM 0.33.0: `platforms/__init__.py`.
"""

from __future__ import annotations

from graphstreams.options import disabled, vllm_enabled

PLATFORM = "graphstreams.integrations.vllm_platform.StreamsPlatform"


def platform() -> str | None:
    """Return the name of the platform class, or None to leave vLLM its own.

    Raises OptionError if GRAPHSTREAMS_VLLM, or GRAPHSTREAMS_DISABLE, is neither 0 nor 1.
    """
    if not vllm_enabled() or disabled():
        return None
    from vllm.platforms import cuda_platform_plugin

    return PLATFORM if cuda_platform_plugin() else None
