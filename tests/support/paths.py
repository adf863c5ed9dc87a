"""Name the places of the repository that tests read from."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
BENCHMARKS = ROOT / "benchmarks"
DATA = ROOT / "tests" / "data"
DSV32 = DATA / "dsv32_attention_39308.json"  # a profile of a DeepSeek V3.2 attention
