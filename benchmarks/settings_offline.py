"""Tell, for each of many settings of Inductor, what becomes of one module on streams: a table, made without a GPU."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch._inductor import config

from graphstreams.explaining import explain
from graphstreams.reports.report import Report

# What users switch on or off, one at a time; a line is a dict so that settings that go together stay together.
SETTINGS: list[dict[str, Any]] = [
    {},
    # Text and checks of the wrapper
    {"debug": True}, {"trace.enabled": True}, {"size_asserts": False}, {"alignment_asserts": False},
    {"alignment_asserts_inputs": True}, {"scalar_asserts": False}, {"nan_asserts": True}, {"runtime_triton_nan_asserts": True},
    {"debug_index_asserts": True}, {"assert_indirect_indexing": False}, {"do_not_emit_runtime_assertions": True},
    {"generate_intermediate_hooks": True}, {"comment_origin": True}, {"benchmark_harness": False}, {"save_args": True},
    {"assume_aligned_inputs": True}, {"debug_fusion": True}, {"debug_ir_traceback": True}, {"enabled_metric_tables": "kernel_metadata"},
    {"triton.debug_sync_graph": True}, {"triton.debug_sync_kernel": True}, {"triton.descriptive_names": False},
    {"triton.descriptive_names": "inductor_node"}, {"triton.unique_kernel_names": False}, {"triton.unique_user_kernel_names": True},
    {"triton.store_cubin": True}, {"triton.skip_l1_cache": True}, {"aot_inductor.debug_intermediate_value_printer": "2"},
    # Profiling
    {"profiler_mark_wrapper_call": True}, {"profile_bandwidth": True}, {"profile_bandwidth": True, "profile_bandwidth_regex": "x"},
    {"annotate_training": True}, {"benchmark_kernel": True}, {"benchmark_fusion": True}, {"benchmark_template_fusion": False},
    {"wrap_inductor_compiled_regions": True}, {"cpp.enable_kernel_profile": True},
    # Another language
    {"cpp_wrapper": True}, {"fx_wrapper": True}, {"graph_partition": False}, {"disable_cpp_codegen": True}, {"cuda_backend": "halide"},
    # Buffers
    {"memory_planning": True}, {"memory_planning": True, "memory_pool": "combined"}, {"memory_pool": "none"},
    {"allow_buffer_reuse": False}, {"inplace_buffers": False}, {"reorder_for_peak_memory": False}, {"inplace_padding": False},
    {"can_inplace_pad_graph_input": True}, {"size_threshold_for_succ_based_strategy": 10},
    # Joining kernels
    {"combo_kernels": True}, {"combo_kernels": True, "benchmark_combo_kernel": True},
    {"combo_kernels": True, "combo_kernels_autotune": 2, "combo_kernel_allow_mixed_sizes": 2},
    {"combo_kernels": True, "combo_kernel_foreach_dynamic_shapes": False}, {"combo_kernels": True, "combo_kernel_per_subkernel_blocks": True},
    {"combo_kernels": True, "combo_kernels_pointwise_only": True}, {"combo_kernels": True, "memory_planning": True},
    {"aggressive_fusion": True}, {"epilogue_fusion": False}, {"epilogue_fusion_first": True}, {"prologue_fusion": False},
    {"loop_ordering_after_fusion": False}, {"loop_index_inversion_in_fusion": False}, {"max_fusion_size": 1},
    {"score_fusion_memory_threshold": 1000}, {"max_pointwise_cat_inputs": 2}, {"force_pointwise_cat": True},
    {"permute_fusion": True}, {"group_fusion": True}, {"batch_fusion": False}, {"b2b_gemm_pass": True}, {"pattern_matcher": False},
    {"pre_grad_fusion_options": {"batch_linear": {}, "batch_layernorm": {}, "batch_tanh": {}}},
    {"post_grad_fusion_options": {"batch_linear_post_grad": {}, "group_linear": {}}},
    {"post_grad_fusion_options": {"decompose_mm_pass": {}}}, {"decompose_mem_bound_mm": True}, {"split_cat_fx_passes": False},
    {"realize_opcount_threshold": 5}, {"realize_reads_threshold": 1}, {"epilogue_fusion_user_defined_triton_kernel": True},
    # Choosing kernels
    {"max_autotune": True}, {"max_autotune_gemm": True}, {"max_autotune_pointwise": True},
    {"max_autotune_gemm": True, "max_autotune_gemm_backends": "TRITON"}, {"max_autotune_gemm": True, "max_autotune_gemm_backends": "ATEN"},
    {"max_autotune_gemm": True, "max_autotune_gemm_backends": "CUTLASS,ATEN"}, {"max_autotune_gemm_search_space": "EXHAUSTIVE"},
    {"max_autotune": True, "autotune_in_subproc": True}, {"max_autotune_conv_backends": "TRITON"}, {"search_autotune_cache": True},
    {"coordinate_descent_tuning": True}, {"coordinate_descent_tuning": True, "max_autotune": True},
    {"autotune_fallback_to_aten": True}, {"autotune_local_cache": False}, {"deterministic": True}, {"batch_invariant": True},
    {"numerics": "strict"}, {"triton.multi_kernel": 1}, {"triton.multi_kernel": 3}, {"triton.autotune_at_compile_time": True},
    {"triton.autotune_pointwise": False}, {"triton.enable_persistent_tma_matmul": True, "max_autotune_gemm": True},
    {"triton.native_matmul": True}, {"cutlass.cutlass_epilogue_fusion_enabled": True}, {"use_static_cuda_launcher": False},
    {"use_fast_triton_launcher": False}, {"static_launch_user_defined_triton_kernels": True}, {"strict_static_cuda_launcher": True},
    # Kernels
    {"split_reductions": False}, {"online_softmax": False}, {"triton.persistent_reductions": False}, {"triton.cooperative_reductions": True},
    {"triton.force_cooperative_reductions": True}, {"triton.mix_order_reduction": True}, {"triton.mix_order_reduction": False},
    {"triton.use_block_ptr": True}, {"triton.use_tensor_descriptor": True, "assume_aligned_inputs": True},
    {"triton.prefer_nd_tiling": True}, {"triton.tile_reductions": True},
    {"triton.prefer_nd_tiling": True, "triton.tile_reductions": True, "triton.max_tiles": 3}, {"triton.coalesce_tiling_analysis": False},
    {"triton.dense_indexing": True}, {"triton.divisible_by_16": False}, {"triton.max_tiles": 3}, {"triton.codegen_upcast_to_fp32": False},
    {"triton.enable_pdl": True}, {"triton.decompose_sort_ops": True}, {"emulate_precision_casts": True}, {"use_fast_math": True},
    {"assume_32bit_indexing": True}, {"unroll_reductions_threshold": 1}, {"dynamic_scale_rblock": False}, {"strict_signed_zero": True},
    {"triton.tlx_mode": "allow"}, {"min_num_split": 4},
    # Layout
    {"layout_optimization": False}, {"force_layout_optimization": True}, {"comprehensive_padding": False}, {"shape_padding": True},
    {"force_shape_pad": True}, {"pad_outputs": True}, {"pad_dynamic_shapes": True}, {"padding_stride_threshold": 0},
    {"keep_output_stride": False}, {"conv_1x1_as_mm": True}, {"expand_dimension_for_pointwise_nodes": True},
    # What is lowered
    {"implicit_fallbacks": False}, {"fallback_random": True}, {"fallback_by_default": True}, {"selective_decompose": True},
    {"use_post_grad_passes": False}, {"use_joint_graph_passes": False}, {"use_pre_grad_passes": False}, {"freezing": True},
    {"reorder_for_locality": False}, {"reorder_for_compute_comm_overlap": True}, {"joint_graph_constant_folding": False},
    {"always_keep_tensor_constants": True}, {"keep_addmm_fused_for_half_dtypes": False}, {"dce": True}, {"use_dce": False},
    {"var_std_reduction_dedup": True}, {"partitioned_scatter_enabled": True}, {"optimize_scatter_upon_const_tensor": False},
    {"auto_chunker.enable": True}, {"_micro_pipeline_tp": True}, {"efficient_conv_bn_eval_fx_passes": True},
    # Caches and compiling
    {"force_disable_caches": True}, {"fx_graph_cache": False}, {"compile_threads": 1}, {"bundle_triton_into_fx_graph_cache": False},
    # CUDA graphs
    {"triton.cudagraphs": True}, {"triton.cudagraphs": True, "graph_partition": False}, {"triton.cudagraphs": True, "triton.cudagraph_trees": False},
    {"triton.cudagraphs": True, "triton.cudagraph_skip_dynamic_graphs": True}, {"triton.cudagraphs": True, "combo_kernels": True},
    {"triton.cudagraphs": True, "memory_planning": True}, {"triton.cudagraphs": True, "nan_asserts": True},
    {"triton.cudagraphs": True, "triton.force_cudagraph_sync": True}, {"triton.cudagraphs": True, "size_asserts": False},
    {"triton.cudagraphs": True, "triton.reorder_for_reducing_graph_partitions": False},
    {"triton.cudagraphs": True, "triton.cudagraph_min_partition_size": 100},
    {"triton.cudagraphs": True, "triton.cudagraph_or_error": True}, {"triton.cudagraphs": True, "triton.slow_path_cudagraph_asserts": False},
]  # fmt: skip


class Attention(nn.Module):
    """Projections, norms, a cache that is written and read, softmax and products: parallel kernels of most kinds."""

    def __init__(self, features: int = 2048, head: int = 512, slots: int = 1024) -> None:
        super().__init__()
        kind = torch.bfloat16
        self.head = head
        self.query = nn.Linear(features, features, bias=False, dtype=kind)
        self.key = nn.Linear(features, head, dtype=kind)
        self.value = nn.Linear(features, head, bias=False, dtype=kind)
        self.out = nn.Linear(features, features, dtype=kind)
        self.query_norm = nn.LayerNorm(head, dtype=kind)
        self.key_norm = nn.LayerNorm(head, dtype=kind)
        self.register_buffer("cache", torch.zeros(slots, head, dtype=kind))

    def forward(self, x: Tensor, position: Tensor) -> Any:
        query = self.query_norm(self.query(x).unflatten(-1, (-1, self.head)))
        self.cache[position] = self.key_norm(self.key(x))
        weights = torch.softmax((query @ self.cache.t()).float(), -1).to(x.dtype)
        return self.out((weights @ self.cache).flatten(1)), F.gelu(self.value(x)).sum(-1), x * 2


def planned(settings: dict[str, Any]) -> Report | str:
    """The report of the module under `settings`, or the error that compiling it raises."""
    torch.manual_seed(0)
    inputs = (torch.randn(2, 2048, dtype=torch.bfloat16), torch.tensor([3, 9]))
    try:
        with config.patch(settings):
            return explain(Attention(), inputs, target="h200")
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def line(settings: dict[str, Any]) -> str:
    """One row: settings, verdict, reason or notes, launches before and after, seconds."""
    started = time.perf_counter()
    report = planned(settings)
    seconds = time.perf_counter() - started
    name = ", ".join(f"{key}={value!r}" for key, value in settings.items()) or "none"
    if isinstance(report, str):
        return f"| `{name}` | raised | {report} | | {seconds:.1f} |"
    text = report.reason or "; ".join(note for note in report.notes if "off on streams" in note)
    return f"| `{name}` | {report.verdict} | {text} | {report.kernels_serial} -> {report.kernels_streamed} | {seconds:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", help="settings to try, by a part of their name; all by default")
    only = parser.parse_args().only
    print("| setting | verdict | reason, or what is off on streams | launches | s |\n|---|---|---|---|---|")
    for settings in SETTINGS:
        if not only or any(part in name for part in only for name in settings):
            print(line(settings), flush=True)


if __name__ == "__main__":
    sys.exit(main())
