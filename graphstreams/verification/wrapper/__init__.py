"""Read the source of a generated wrapper into traces. The source may only use what the tables below list.

A wrapper that uses anything else is refused, which keeps its graph serial but is never wrong. For a new release of torch,
compare its sources with those that the tables were read in, and extend the tables. All were read in torch 2.14.1 and 2.15.0
unless they say otherwise, and most of what they list is written by `_inductor/codegen/wrapper.py`:
- Imports, and attributes of imports that get a name: `names.IMPORTS` and `ALIASES`.
- Statements at the top level: `module._TopLevel`, with the class that runs partitions in `module._RUNNER` and the functions
  that no call runs in `names.HARNESS`. `codegen/multi_kernel.py` too.
- The choice between two bodies: `dispatch._chooses`, which this package's `rewriting/two_bodies.py` writes.
- Statements of a function, and how partitions and subgraphs are called: `statements.CallReader`.
- Contexts, checks of sizes and numbers, and the handler that joins streams: `control_flow.ControlFlowReader`.
  `_inductor/ir.py`.
- Expressions: `expressions.ExpressionReader`. Names of sizes among the inputs: `inputs._SYMBOL`.
- Functions: `known_calls._FUNCTIONS`, and `PURE` for those that only compute. Methods of tensors: `known_calls._METHODS`.
- Functions, methods and operators of devices, streams and events: `stream_calls`. `_dynamo/variables/streams.py` too.
- Library kernels with `out=`: `operator_calls._WITH_OUT`, and those that write a part of a storage: `sizes_told.PRODUCTS`.
  `_inductor/kernel/*.py`.
- Collectives, which are operators of `_c10d_functional`: `operator_calls._COLLECTIVES`.
- Operators whose schema cannot be trusted: the sets at the top of `operator_schemas`. `native_functions.yaml`, 2.15.0.
- Launches of kernels: `kernel_calls`. What a Triton kernel may use is in `graphstreams/verification/triton/__init__.py`.

`tests/verification/wrapper/test_generated.py` reads what the installed torch generates.
"""
