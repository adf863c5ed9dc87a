"""Check that a graph from a cache tells what was decided when it was compiled, in a process that does not know."""

import logging

import pytest

from graphstreams.runtime import verdicts
from graphstreams.runtime.verdicts import Verdict, announce, compiled, listening

CLEAN = Verdict("a", "clean", streams=3, speedup=1.25)
SERIAL = Verdict("b", "serial", "plan", "the gain is 1 %, less than min_gain")


def loaded(verdict: Verdict) -> None:
    """Run the lines of a wrapper that carry the verdict."""
    exec("\n".join(verdict.lines), {})


@pytest.mark.parametrize(
    ("verdict", "level", "text"),
    [
        (CLEAN, logging.INFO, "a runs on 3 streams in CUDA graphs, 1.25x (from a cache)"),
        (SERIAL, logging.WARNING, "b runs serially: plan: the gain is 1 %, less than min_gain (from a cache)"),
    ],
)
def test_what_is_loaded_is_logged_and_collected(
    caplog: pytest.LogCaptureFixture, verdict: Verdict, level: int, text: str
) -> None:
    with caplog.at_level(logging.INFO, "graphstreams"), listening() as found:
        loaded(verdict)
    assert found == [verdict]
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [(level, text)]


def test_a_graph_that_this_process_compiled_is_not_told_again(caplog: pytest.LogCaptureFixture) -> None:
    own = Verdict("c", "serial", "read", "compiled here")
    compiled(own)
    with listening() as found:
        loaded(own)
    assert found == [] and caplog.records == []


def test_who_listens_inside_leaves_the_outer_list_alone() -> None:
    with listening() as outer:
        with listening() as inner:
            loaded(CLEAN)
        loaded(SERIAL)
    assert (inner, outer) == ([CLEAN], [SERIAL])
    announce(verdicts.json.dumps(verdicts.asdict(CLEAN)))  # nobody listens
