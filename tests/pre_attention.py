"""The block of `examples/deepseek_pre_attention.py` for tests, which find that folder through this module."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import deepseek_v32
from deepseek_pre_attention import PreAttention, pre_attention, pre_attention_inputs

__all__ = ["PreAttention", "deepseek_v32", "pre_attention", "pre_attention_inputs"]
