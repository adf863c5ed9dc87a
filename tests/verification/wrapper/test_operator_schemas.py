"""Check what is read from operators' schemas."""

import pytest

from graphstreams.verification.wrapper.operator_schemas import UnknownOperatorError, read_operator


@pytest.mark.parametrize("path", ["aten.add_", "aten.clear"])
def test_an_overload_that_the_dispatcher_does_not_know_is_refused(path: str) -> None:
    with pytest.raises(UnknownOperatorError, match="composed of others"):
        read_operator(path)


def test_a_named_overload_is_read() -> None:
    assert read_operator("aten.add_.Tensor").written == {"self"}
