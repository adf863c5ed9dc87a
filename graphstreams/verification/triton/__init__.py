"""Find what a Triton kernel reads and writes from its text, which may only use what the tables below list.

A kernel that uses anything else is refused, which may keep its graph serial but is never wrong. For a new release of torch or
Triton, compare its sources with those that the tables were read in, and extend the tables:
- `accesses._HEURISTICS`: by which Inductor launches kernels. `_inductor/runtime/triton_heuristics.py`, torch 2.14 and 2.15.0.
- `accesses._GENERATED_READS`: names of the parameters that a generated kernel only reads. `_inductor/codegen/triton.py`, torch
  2.14 and 2.15.0.
- `source._read_statement`, `_RUN_AT_IMPORT` and `_BENCHMARK`: statements at the top level of a kernel's source. The same file.
- `pointer_analysis._KernelRun` and `expressions.KernelExpressions`: statements and expressions of a kernel.
  `compiler/code_generator.py`, Triton 3.7 and 3.8.
- `language._FUNCTIONS` and `TYPE_POSITIONS`: functions of Triton's language and methods of its tensors, `language/*.py`, Triton
  3.7 and 3.8; functions of Inductor's helpers, `_inductor/runtime/triton_helpers.py`, torch 2.14 and 2.15.
- `expressions._DESCRIPTOR_EFFECTS`: methods of Triton's descriptors.
- `language._REGISTER_INSTRUCTIONS`: instructions of PTX that touch no memory.
"""
