"""An engine in a process of its own, for `vllm_generate`; `benchmarks.workers` starts and ends this process.

python -m benchmarks.engines.vllm_worker

The first request builds the engine. Each other one runs it once and answers with times, or with tokens.
"""

from __future__ import annotations

import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.engines.vllm_models import MODELS, compilation_of, config_of
from benchmarks.workers import serve


class Replays:
    """Notes how long the GPU takes for each CUDA graph that is replayed, while it is on."""

    def __init__(self) -> None:
        """Put itself in front of `torch.cuda.CUDAGraph.replay`."""
        self.on = False
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        replay = torch.cuda.CUDAGraph.replay

        def noted(graph: torch.cuda.CUDAGraph) -> None:
            if not self.on:
                return replay(graph)
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            replay(graph)
            end.record()
            self._events.append((start, end))

        torch.cuda.CUDAGraph.replay = noted  # type: ignore[assignment, method-assign]

    def take(self) -> list[float]:
        """Return the us of each replay since the last call, and forget them."""
        torch.cuda.synchronize()
        found = [start.elapsed_time(end) * 1e3 for start, end in self._events]
        self._events.clear()
        return found


def use_own_weights() -> None:
    """Have vLLM's loader of random weights fill each as `fill` does.

    Its own are within 1e-3, so what a layer adds is lost in the rounding of the residual, and no text depends on it; and all
    tensors of one shape are equal. Read in vLLM 0.33.0: `model_executor/model_loader/dummy_loader.py`.
    """
    from vllm.model_executor.model_loader import dummy_loader

    given = dummy_loader.initialize_single_dummy_weight
    seeds = itertools.count(1)

    def filled(param: torch.Tensor, *arguments: Any, **named: Any) -> None:
        given(param, *arguments, **named)
        if getattr(param, "dummy_weight_value", None) is None:
            fill(param, named.get("name", ""), next(seeds))

    dummy_loader.initialize_single_dummy_weight = filled


def fill(param: torch.Tensor, name: str, seed: int) -> None:
    """Fill a matrix with normal values that keep the size of what it multiplies, a bias with zeros, other vectors with ones."""
    if param.device.type == "meta" or param.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        return
    with torch.no_grad():
        if param.dim() < 2:
            param.fill_(0.0 if "bias" in name else 1.0)
        else:
            param.normal_(0.0, param.shape[-1] ** -0.5, generator=torch.Generator(param.device).manual_seed(seed))


class Engine:
    """vLLM with random weights, in this process."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        """Build the engine: `model`, `mode`, `side`, `layers`, `sizes`, `ranges`, `single` and vLLM's
        `arguments`.
        """
        self.replays = Replays()
        started = time.perf_counter()
        from vllm import LLM, SamplingParams

        use_own_weights()
        imported = time.perf_counter()
        model = MODELS[request["model"]]
        folder = Path(tempfile.mkdtemp())
        config = config_of(model, request.get("layers"))
        (folder / "config.json").write_text(json.dumps(config))
        self._vocabulary, self._parameters = config["vocab_size"], SamplingParams
        self.llm = LLM(
            model=str(folder), skip_tokenizer_init=True, load_format="dummy", dtype="bfloat16", seed=0, max_model_len=2048,
            max_num_seqs=64, max_num_batched_tokens=2048, enable_prefix_caching=False, disable_log_stats=True,
            kv_cache_memory_bytes=request.get("kv_bytes", 4 << 30), gpu_memory_utilization=0.2,
            compilation_config=compilation_of(
                request["mode"], request["side"], request["sizes"], request["ranges"], request.get("single")
            ),
            **{**model.arguments, **request.get("arguments", {})},
        )  # fmt: skip
        ended = time.perf_counter()
        self.built = {"import_s": imported - started, "engine_s": ended - imported}

    def _generate(self, prompts: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
        parameters = self._parameters(temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        asked = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        return [list(each.outputs[0].token_ids) for each in self.llm.generate(asked, parameters, use_tqdm=False)]

    def _prompts(self, count: int, length: int, seed: int) -> list[list[int]]:
        rng = np.random.default_rng(seed)
        return [[int(token) for token in rng.integers(3, self._vocabulary, length)] for _ in range(count)]

    def texts(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the greedy continuations of `prompts` random prompts of 4 to 67 tokens."""
        prompts = [self._prompts(1, 4 + seed % 64, seed)[0] for seed in range(request["prompts"])]
        return {"texts": self._generate(prompts, request["tokens"])}

    def decode(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return ms a token, without the prompt, for `batch` sequences, and the us of CUDA graphs a step in a second run."""
        prompts, tokens = self._prompts(request["batch"], 16, request["seed"]), request["tokens"]
        first = _seconds(lambda: self._generate(prompts, 1))
        whole = _seconds(lambda: self._generate(prompts, tokens))
        prompt = len(self._replayed(prompts, 1))  # replays of a short prompt, which come first, are no steps
        replays = self._replayed(prompts, request["graph_tokens"])[prompt:]
        steps = max(request["graph_tokens"] - 1, 1)
        return {"tpot_ms": (whole - first) / (tokens - 1) * 1e3, "graphs_us": _per_step(replays, steps),
                "replays": len(replays)}  # fmt: skip

    def _replayed(self, prompts: Sequence[Sequence[int]], tokens: int) -> list[float]:
        self.replays.take()
        self.replays.on = True
        self._generate(prompts, tokens)
        self.replays.on = False
        return self.replays.take()

    def prefill(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the ms until the first token of one prompt of `length` tokens."""
        prompts = self._prompts(1, request["length"], request["seed"])
        return {"prefill_ms": _seconds(lambda: self._generate(prompts, 1)) * 1e3}

    def verdicts(self, _: Mapping[str, Any]) -> dict[str, Any]:
        """Return what became of each graph, and how the engine was built."""
        from graphstreams.runtime.verdicts import verdicts_of

        return {"verdicts": [str(verdict) for verdict in verdicts_of()], **self.built}


def _per_step(replays: Sequence[float], steps: int) -> float:
    """Return the us of replays a step: the median if there is one a step, else their sum over the steps."""
    if not replays:
        return 0.0
    each = len(replays) // steps
    return float(np.median(replays)) if each <= 1 else float(sum(replays)) / steps


def _seconds(call: Callable[[], Any]) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    """Answer requests."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    engine: list[Engine] = []

    def handle(request: Mapping[str, Any]) -> Mapping[str, Any]:
        if request["do"] == "build":
            engine.append(Engine(request))
            return engine[0].built
        answer: dict[str, Any] = getattr(engine[0], request["do"])(request)
        return answer

    serve(handle)


if __name__ == "__main__":
    main()
