"""Keep torch from writing trace records, and skip what needs a GPU if there is none.

Costs are those of the package, whatever calibration the user of this machine has.
"""

import gc
import logging
import os
from collections.abc import Iterator

import pytest
import torch

from graphstreams.costs import calibration

# torch writes its records, with the text of each graph, if anybody listens: pytest does so to loggers that don't propagate.
logging.getLogger("torch.__trace").handlers.clear()
logging.getLogger("torch.__trace").propagate = True
if not torch.cuda.is_available():
    # Nothing is compiled in parallel without a GPU, and each process would start workers that import torch.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    # pytest's workers take a core each, and more threads for tensors this small only spin.
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Each new cache would compile programs that try the vector instructions of this CPU, and load them in processes with torch.
os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "0")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked `gpu` if there is no CUDA device."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="module", autouse=True)
def _frozen_imports() -> None:
    """Keep full collections of garbage from looking at all that was imported: torch alone makes 400,000 objects."""
    if not gc.get_freeze_count():  # benchmarks freeze and unfreeze too
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _rare_collections() -> None:
    """Let garbage be collected less often than by default: compiling makes many objects, most of which stay for a while."""
    gc.set_threshold(100_000, 50, 100)


@pytest.fixture(scope="session", autouse=True)
def _no_calibration_of_the_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    empty = tmp_path_factory.mktemp("calibration")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "_user_folder", lambda: empty)
        yield
