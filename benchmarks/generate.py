"""Time Hugging Face models with random weights in `generate`: plain Inductor and graphstreams in turns, in one process.

    python benchmarks/generate.py --out generate [--profile] [--models qwen2_moe]

Needs a GPU and transformers 5. Models are Cohere and Qwen2-MoE of their default configurations, and Cohere with the sizes of a
7B model, or others that are named. They have four layers, bf16 and a static cache. Every side has a copy of the model that
shares the weights, so that each keeps its own compiled call. Plain Inductor is compiled before ours and once more behind it,
and both are paired with ours, text by text, because what the same code takes depends on when a process has compiled it; the
ratio of these two is the control.

A step is one token; the prompt, which is not compiled, is not timed. transformers makes a new static cache for every text, so
Inductor's CUDA graphs are recorded anew in the first steps of each: "all" counts these and "steady" begins after them. With
`--profile` some steady steps of each side are profiled. Exit status 1: a side failed, or a ratio is under its bar or can't be
told from it.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from decode_trace import summarize
from generate_report import AGAIN, OURS, PLAIN, failures, ratios, table
from paired import FEWEST
from workers import messages, one_line

from graphstreams.benchmark.results import environment, reports_in, write
from graphstreams.benchmark.run import has_gpu, prepared, release
from graphstreams.benchmark.timing import summary

HEADS_8: dict[str, Any] = {"num_key_value_heads": 8}
SIZES_7B = {"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, **HEADS_8}
# Configurations of transformers, with what differs from their defaults. Cohere's default sizes are those of a 35B model.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "cohere": ("CohereConfig", {}),
    "cohere_7b": ("CohereConfig", SIZES_7B),
    "qwen2_moe": ("Qwen2MoeConfig", {}),
    "llama": ("LlamaConfig", {**SIZES_7B, "vocab_size": 128256}),
    "qwen3": ("Qwen3Config", HEADS_8),
    "qwen3_moe": ("Qwen3MoeConfig", {}),
    "mixtral": ("MixtralConfig", {}),
    "olmo2": ("Olmo2Config", {}),
    "phi3": ("Phi3Config", {}),
    "cohere2": ("Cohere2Config", {**SIZES_7B, "head_dim": 128}),
    "glm4": ("Glm4Config", {}),
    "gpt_oss": ("GptOssConfig", {}),
    "gptj": ("GPTJConfig", {}),
    "falcon": (
        "FalconConfig",
        {"hidden_size": 4096, "num_attention_heads": 64, "new_decoder_architecture": True, "num_kv_heads": 8},
    ),
}
FEW = ("cohere", "cohere_7b", "qwen2_moe")
MODES = ("default", "reduce-overhead")
SETTLED = 8  # steps after which no CUDA graph is recorded
PROFILED = (SETTLED + 4, SETTLED + 12)  # steps between which the profiler runs
REPORTED = ("name", "verdict", "stage", "reason", "kernels_serial", "kernels_streamed", "streams", "events", "measured",
            "differences", "notes", "seconds")  # fmt: skip
TINY: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 128,
}  # fmt: skip


Action = Callable[[], None]


class Clock:
    """A logits processor, called once a step, that notes the time at some steps when the GPU has nothing left to do."""

    def __init__(self, actions: Mapping[int, Action] | None = None, wait: Action = lambda: None) -> None:
        """`actions` are called at their steps. `wait` waits for the GPU."""
        self.step, self._actions, self._wait = 0, dict(actions or {}), wait
        self.at: dict[int, float] = {}  # step -> when, in s

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Return the scores as they are. Step 0 ends the prompt."""
        if self.step in (0, SETTLED) or self.step in self._actions:
            self._wait()
            self._actions.get(self.step, lambda: None)()
            self.at[self.step] = time.perf_counter()
        self.step += 1
        return scores

    def milliseconds(self, ended: float) -> tuple[float, float]:
        """Return ms a token over all steps and over the steady ones. `ended` is the time after the last."""
        steps = self.step - 1
        return 1e3 * (ended - self.at[0]) / steps, 1e3 * (ended - self.at[SETTLED]) / (steps - SETTLED)


@dataclass
class Side:
    """One backend in one mode, with a copy of the model."""

    backend: str
    mode: str
    model: Any
    config: Any  # of transformers: how to compile
    dump: Path
    samples: dict[str, list[float]] = field(default_factory=lambda: {"all": [], "steady": []})  # ms a token
    texts: list[list[int]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)  # what the package logged
    record: dict[str, Any] = field(default_factory=dict)


def build(name: str, layers: int, device: str, tiny: bool) -> Any:
    """Return a causal language model with random weights."""
    import transformers

    kind, own = MODELS[name]
    changes: dict[str, Any] = {"num_hidden_layers": layers, **(TINY if tiny else own)}
    if tiny and name == "qwen2_moe":
        changes.update(moe_intermediate_size=32, shared_expert_intermediate_size=64, num_experts=8)
    if tiny:
        changes.update(pad_token_id=0, bos_token_id=1, eos_token_id=2)
    config = getattr(transformers, kind)(**changes)
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.eval().requires_grad_(False)
    model.generation_config.eos_token_id = None  # so that a text has as many tokens as are asked for
    model.generation_config.pad_token_id = 0
    return model


def sharing(model: Any) -> Any:
    """Return a copy of a model that has the same weights and buffers."""
    return copy.deepcopy(model, {id(value): value for value in [*model.parameters(), *model.buffers()]})


def compile_config(backend: str, mode: str, deterministic: bool, device: str) -> Any:
    """Return how transformers compiles a side."""
    from transformers import CompileConfig

    from graphstreams import graphstreams

    chosen: Any = graphstreams if backend == OURS else PLAIN
    if deterministic:
        settings = {**torch._inductor.list_mode_options(mode), "deterministic": True}
        config = CompileConfig(backend=chosen, mode=None, options={"inductor": settings} if backend == OURS else settings)
    else:
        config = CompileConfig(backend=chosen, mode=mode)
    if device == "cpu":
        config._compile_all_devices = True
    return config


def text_of(side: Side, prompt: torch.Tensor, tokens: int, clock: Clock) -> list[int]:
    """Return the tokens that follow a prompt, greedily."""
    from transformers import LogitsProcessorList

    arguments: dict[str, Any] = {"do_sample": False, "cache_implementation": "static", "max_new_tokens": tokens}
    found = side.model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        compile_config=side.config,
        logits_processor=LogitsProcessorList([clock]),
        **arguments,
    )
    return [int(token) for token in found[0, prompt.shape[1] :].cpu()]


def prompt_of(vocabulary: int, length: int, seed: int, device: str) -> torch.Tensor:
    """Return random tokens."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(3, vocabulary, (1, length), generator=rng).to(device)


def first_difference(some: Sequence[int], others: Sequence[int]) -> int | None:
    """Return the place of the first token that differs; None if the texts are equal."""
    if list(some) == list(others):
        return None
    pairs = enumerate(zip(some, others, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(some), len(others)))


def warm_up(side: Side, prompt: torch.Tensor, arguments: argparse.Namespace) -> None:
    """Compile a side and generate twice, noting what the package logs. An error is kept as the record's "failed"."""
    from torch._dynamo.utils import counters

    started = time.perf_counter()
    before = dict(counters["inductor"]), dict(counters["stats"])
    reserved = torch.cuda.memory_reserved() if arguments.device == "cuda" else 0
    try:
        with messages(side.said), dumping(side):
            for _ in range(2):
                text_of(side, prompt, arguments.tokens, Clock(wait=waiting(arguments.device)))
    except Exception as error:
        side.record["failed"] = one_line(f"{type(error).__name__}: {error}", 400)
        logging.getLogger("generate").exception("%s, %s", side.backend, side.mode)
    side.record["seconds"] = round(time.perf_counter() - started, 1)
    side.record["graphs"] = counters["stats"]["unique_graphs"] - before[1].get("unique_graphs", 0)
    side.record["cudagraph_skips"] = counters["inductor"]["cudagraph_skips"] - before[0].get("cudagraph_skips", 0)
    if arguments.device == "cuda":
        side.record["reserved_mib"] = round((torch.cuda.memory_reserved() - reserved) / 2**20, 1)
    side.record["reports"] = short_reports(side.dump) if side.backend == OURS else []
    side.record["said"] = side.said


def short_reports(directory: Path) -> list[dict[str, Any]]:
    """Return what each report says in short."""
    return [{name: report.get(name) for name in REPORTED} for report in reports_in(directory).values()]


@contextmanager
def dumping(side: Side) -> Any:
    """Let the package write its reports to the side's folder in this context, because a mode leaves no room for options."""
    os.environ["GRAPHSTREAMS_DUMP"] = str(side.dump)
    try:
        yield
    finally:
        del os.environ["GRAPHSTREAMS_DUMP"]


def waiting(device: str) -> Callable[[], None]:
    """Return a function that waits for the device."""
    return torch.cuda.synchronize if device == "cuda" else lambda: None


def time_text(side: Side, prompt: torch.Tensor, arguments: argparse.Namespace) -> None:
    """Generate one text and keep its times."""
    wait = waiting(arguments.device)
    clock = Clock(wait=wait)
    text = text_of(side, prompt, arguments.tokens, clock)
    wait()
    for name, ms in zip(side.samples, clock.milliseconds(time.perf_counter()), strict=True):
        side.samples[name].append(ms)
    side.texts.append(text)


def profile(side: Side, prompt: torch.Tensor, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the profile of some steady steps of one text."""
    activity = torch.profiler.ProfilerActivity
    kinds = [activity.CPU, activity.CUDA] if arguments.device == "cuda" else [activity.CPU]
    with torch.profiler.profile(activities=kinds):  # only graphs that are recorded after its first use show their kernels
        torch.zeros(1, device=arguments.device)
    profiler = torch.profiler.profile(activities=kinds)
    first, last = PROFILED
    clock = Clock({first: profiler.start, last: profiler.stop}, waiting(arguments.device))
    recorded: list[int] = []  # the step at the end of each capture of a CUDA graph
    hook = torch.cuda.graphs.register_graph_capture_end_hook(lambda _: recorded.append(clock.step))
    text_of(side, prompt, max(arguments.tokens, last + 2), clock)
    hook.remove()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "trace.json"
        profiler.export_chrome_trace(str(path))
        found = summarize(json.loads(path.read_text()), last - first)
    return {"graphs recorded in the text": len(recorded), "last recorded at step": max(recorded, default=0), **found}


def measure(name: str, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run all sides of one model, and return its records."""
    started = time.perf_counter()
    model = build(name, arguments.layers, arguments.device, arguments.tiny)
    sides = []
    for mode in arguments.modes:
        for backend in (PLAIN, OURS, AGAIN):
            config = compile_config(backend, mode, arguments.deterministic, arguments.device)
            sides.append(Side(backend, mode, sharing(model), config, folder / f"{name}-{mode}-{len(sides)}"))
    prompts = [prompt_of(model.config.vocab_size, arguments.prompt, seed, arguments.device) for seed in range(arguments.rounds)]
    print(f"{name}: built after {time.perf_counter() - started:.0f} s", flush=True)
    for side in sides:
        warm_up(side, prompts[0], arguments)
        told = "; ".join(f"{each['verdict']} {each['reason'] or ''}" for each in side.record["reports"])
        print(f"{name}, {side.mode}, {side.backend}: warm after {side.record['seconds']} s {told}", flush=True)
    ready = [side for side in sides if "failed" not in side.record]
    for number, prompt in enumerate(prompts):
        for side in ready if number % 2 == 0 else reversed(ready):
            time_text(side, prompt, arguments)
    result: dict[str, Any] = {"model": name, "sides": [told_of(side) for side in sides], "texts": compared(ready), "paired": {}}
    for mode in arguments.modes:
        own = {side.backend: side for side in ready if side.mode == mode}
        if len(own) == 3:
            kinds = {kind: ratios({name: side.samples[kind] for name, side in own.items()}) for kind in ("all", "steady")}
            result["paired"][mode] = {kind: {k: asdict(ratio) for k, ratio in each.items()} for kind, each in kinds.items()}
    if arguments.profile:
        result["profile"] = {}
        for side in ready:
            result["profile"].setdefault(side.mode, {})[side.backend] = profile(side, prompts[0], arguments)
    result["seconds"] = round(time.perf_counter() - started, 1)
    return result


def told_of(side: Side) -> dict[str, Any]:
    """Return a side's record with its times in ms a token."""
    times = {name: summary(own) for name, own in side.samples.items() if len(own) > 1}
    return {"mode": side.mode, "backend": side.backend, **side.record, "ms": times}


def compared(sides: Sequence[Side]) -> dict[str, Any]:
    """Return, by mode, how many texts of both backends are equal and where the first of the others differs."""
    found = {}
    for mode in dict.fromkeys(side.mode for side in sides):
        texts = {side.backend: side.texts for side in sides if side.mode == mode and side.backend != AGAIN}
        if len(texts) == 2:
            places = [first_difference(*pair) for pair in zip(*texts.values(), strict=True)]
            differing = [place for place in places if place is not None]
            found[mode] = {"texts": len(places), "equal": len(places) - len(differing), "first": min(differing, default=None)}
    return found


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add(
        "--models",
        nargs="+",
        choices=MODELS,
        metavar="NAME",
        default=list(FEW),
        help=f"of {', '.join(MODELS)}; default: {', '.join(FEW)}",
    )
    add("--modes", nargs="+", choices=MODES, default=list(MODES), help="of torch.compile (default both)")
    add("--layers", type=int, default=4, help="decoder layers (default 4)")
    add("--prompt", type=int, default=32, help="tokens of the prompt (default 32)")
    add("--tokens", type=int, default=72, help="tokens of a text (default 72)")
    add("--rounds", type=int, default=15, help="texts of each side (default 15)")
    add("--deterministic", action="store_true", help="compile all sides with Inductor's setting `deterministic`")
    add("--profile", action="store_true", help="profile some steps of each side, after the timing")
    add("--tiny", action="store_true", help="tiny layers and 128 words, to try the benchmark itself")
    add("--device", default="cuda", help="cpu tries the benchmark itself: nothing is streamed there")
    add("--out", type=Path, default=Path("generate"), help="directory for generate.md and generate.json")
    arguments = parser.parse_args(argv)
    if arguments.tokens < SETTLED + 4 or arguments.rounds < FEWEST:
        parser.error(f"--tokens has to be at least {SETTLED + 4}, --rounds at least {FEWEST}")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark. Return 2 without a GPU, 1 if a side failed or is under its bar."""
    arguments = parse_args(argv)
    if arguments.device == "cuda" and not has_gpu("generate"):
        return 2
    place = environment() if arguments.device == "cuda" else {"device": "cpu"}
    results: list[dict[str, Any]] = []
    with torch.no_grad(), prepared(), tempfile.TemporaryDirectory() as folder:
        for name in arguments.models:
            results.append(measure(name, arguments, Path(folder)))
            torch._dynamo.reset()
            release()
            write({**place, "arguments": {k: str(v) for k, v in vars(arguments).items()}, "models": results}, table(results),
                  arguments.out / "generate")  # fmt: skip
            print(f"\n{table(results[-1:])}\n{name} took {results[-1]['seconds']} s", flush=True)
    return int(any(failures(result) for result in results))


if __name__ == "__main__":
    raise SystemExit(main())
