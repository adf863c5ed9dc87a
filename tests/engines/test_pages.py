"""Run the code of each page of docs/engines as it is there, in a process of its own. Libraries that are missing skip theirs."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import torch

from tests.support.fork_server import run_forked

PAGES = sorted((Path(__file__).parents[2] / "docs" / "engines").glob("*.md"))
NEEDS = {"transformers.md": "transformers", "diffusers.md": "diffusers", "vllm.md": "vllm"}
PRINTS = {"any-code.md": ["torch.Size([4, 8]) torch.Size([4, 64])"], "transformers.md": ["torch.Size([1, 11])"],
          "diffusers.md": ["torch.Size([1, 16, 64])"]}  # fmt: skip
COMPILES = {
    "any-code.md": 2,
    "transformers.md": 0,
    "diffusers.md": 2,
}  # graphs on the CPU, which `generate` does not compile for
RUN = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"


def blocks(page: Path) -> list[str]:
    return re.findall(r"(?ms)^```python\n(.*?)^```$", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_one_screen(page: Path) -> None:
    assert len(page.read_text(encoding="utf-8").splitlines()) <= 60


@pytest.mark.parametrize("page", [page for page in PAGES if page.name in PRINTS], ids=lambda page: page.name)
def test_the_code_of_a_page_runs_as_it_is(page: Path, tmp_path: Path) -> None:
    needs = NEEDS.get(page.name)
    if needs is not None and importlib.util.find_spec(needs) is None:
        pytest.skip(f"{needs} is not installed")
    (code,) = blocks(page)
    file = tmp_path / "page.py"
    file.write_text(code)
    done = run_forked(RUN, str(file), more={"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == PRINTS[page.name]
    if not torch.cuda.is_available():
        said = [line for line in done.stderr.splitlines() if line.startswith("graphstreams: ")]
        assert len(said) == COMPILES[page.name] and all("read: it has no CUDA tensors" in line for line in said), done.stderr
