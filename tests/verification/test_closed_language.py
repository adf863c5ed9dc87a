"""What a wrapper may say is a closed language: what hides a race, or what runs, is refused or shown to race."""

from __future__ import annotations

import pytest

from graphstreams.verification.wrapper import UnreadableWrapper, verify
from tests.verification.racing import Case, cases, wrapper

CASES = cases()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_no_racing_wrapper_is_called_clean(case: Case) -> None:
    compile(case.source, case.name, "exec")
    if case.outcome == "races":
        assert case.pattern in {race.kind for race in verify(case.source)} | {""}
        assert verify(case.source)
        return
    with pytest.raises(UnreadableWrapper) as caught:
        verify(case.source)
    assert any(part in str(caught.value) for part in case.pattern.split("|")), caught.value
    assert caught.value.line > 0


ORDERED = """
event0.record(default_stream)
buf1 = empty_strided_cuda((64, 64), (64, 1), torch.float32)
with stream1:
    event0.wait(stream1)
    buf0 = empty_strided_cuda((64, 64), (64, 1), torch.float32)
    raw_stream = get_raw_stream(0)
    copy.run(arg0_1, buf0, 4096, stream=raw_stream)
    event1.record(stream1)
event1.wait(default_stream)
raw_stream = get_raw_stream(0)
copy.run(buf0, buf1, 4096, stream=raw_stream)
del buf0
del arg0_1
return (buf1, )
"""


def test_the_wrapper_that_they_are_made_of_is_clean() -> None:
    assert verify(wrapper(ORDERED)) == []
