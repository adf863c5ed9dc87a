"""What planning adds to the compile of the DeepSeek V3.2 layer: stages of graphstreams against Inductor's own compile, cold.

    python examples/compile_time.py

Needs a GPU. Each compile is the first of a fresh process, with an empty cache or, last, the cache of the one before.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent


def compile_once(way: str) -> dict[str, Any]:
    """Compiles and runs the layer once in this process: host seconds in all, those of each stage if "reported", and a sum.

    A report is written only where no cache is used, so "streamed" goes without one.
    """
    sys.path.insert(0, str(HERE))
    import deepseek_v32

    config = deepseek_v32.Config()
    module, inputs = deepseek_v32.build(config, "cuda"), deepseek_v32.example_inputs(config, "cuda")
    with tempfile.TemporaryDirectory() as directory, torch.no_grad():
        options = {"dump": directory} if way == "reported" else {}
        chosen: dict[str, Any] = {} if way == "serial" else {"backend": "graphstreams", "options": options}
        started = time.perf_counter()
        output = torch.compile(module, **chosen)(*inputs)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        reports = [json.loads(path.read_text()) for path in Path(directory).glob("*/report.json")]
    stages = {stage: s for stage, s in reports[0]["seconds"].items() if stage != "report"} if reports else {}
    return {"seconds": seconds, "stages": stages, "output": float(output.double().sum())}


def in_fresh_process(way: str, cache: str) -> dict[str, Any]:
    """The same in a process of its own, with the caches of a directory."""
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache, "TRITON_CACHE_DIR": f"{cache}/triton"}
    done = subprocess.run([sys.executable, __file__, way], env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(argv: Sequence[str]) -> int:
    """Compiles in turns, three times each, and prints planning's share."""
    if argv:
        print(json.dumps(compile_once(argv[0])))
        return 0
    for _ in range(3):
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two, tempfile.TemporaryDirectory() as three:
            serial, streamed = in_fresh_process("serial", one), in_fresh_process("streamed", two)
            warm, reported = in_fresh_process("streamed", two), in_fresh_process("reported", three)
        planning = sum(reported["stages"].values())
        stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in reported["stages"].items())
        print(
            f"serial {serial['seconds']:.2f} s, graphstreams {streamed['seconds']:.2f} s, planning {planning:.2f} s "
            f"({planning / serial['seconds']:.1%} of serial): {stages}; with a warm cache {warm['seconds']:.2f} s, output "
            f"{'equal' if warm['output'] == streamed['output'] else 'DIFFERENT'}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
