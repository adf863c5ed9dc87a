"""Check that the operators that stand for vLLM's are registered as vLLM's: no Python lies in front of their bodies."""

from __future__ import annotations

import custom_op_streams  # noqa: F401
import pytest
import torch

NAMES = [f"deepseek_operators::{name}" for name in ("phase_1", "block_phase_2", "layer_phase_2")]


@pytest.mark.parametrize("name", NAMES)
def test_each_device_has_the_body_and_no_layer_of_python_stands_before_it(name: str) -> None:
    has_own = {
        key: torch._C._dispatch_has_kernel_for_dispatch_key(name, key)
        for key in ("CUDA", "CPU", "AutogradCUDA", "AutogradCPU", "ADInplaceOrView")
    }
    assert has_own == {"CUDA": True, "CPU": True, "AutogradCUDA": False, "AutogradCPU": False, "ADInplaceOrView": False}


@pytest.mark.parametrize("name", NAMES)
def test_an_operator_can_be_traced(name: str) -> None:
    operator = getattr(torch.ops.deepseek_operators, name.partition("::")[2]).default
    assert torch._C._dispatch_has_kernel_for_dispatch_key(name, "Meta")
    assert torch.Tag.pt2_compliant_tag in operator.tags
