"""Check what is read from operators' schemas."""

import pytest

from graphstreams.verification.wrapper.operator_schemas import Returned, UnknownOperatorError, read_operator


@pytest.mark.parametrize("path", ["aten.add_", "aten.clear"])
def test_an_overload_that_the_dispatcher_does_not_know_is_refused(path: str) -> None:
    with pytest.raises(UnknownOperatorError, match="composed of others"):
        read_operator(path)


def test_a_named_overload_is_read() -> None:
    assert read_operator("aten.add_.Tensor").written == {"self"}


@pytest.mark.parametrize("path", ["aten.split.Tensor", "aten.split_with_sizes.default", "aten.unbind.int"])
def test_a_list_of_views_is_of_the_argument_that_may_be_in_it(path: str) -> None:
    assert read_operator(path).returns == (Returned("list", "self"),)


@pytest.mark.parametrize(
    "path", ["aten.view_as_real.default", "aten.view_as_complex.default", "aten._conj.default", "aten.diagonal"]
)
def test_a_view_is_of_its_argument(path: str) -> None:
    assert read_operator(path).returns == (Returned("tensor", "self"),)


@pytest.mark.parametrize("path", ["aten.chunk.default", "aten.tensor_split.sections", "aten.real.default", "aten.split.sizes"])
def test_a_view_that_is_composed_of_others_is_refused(path: str) -> None:
    with pytest.raises(UnknownOperatorError, match="composed of others"):
        read_operator(path)


@pytest.mark.parametrize("path", ["aten.unsafe_split.Tensor", "aten._values.default", "aten._make_dual.default"])
def test_what_hides_a_view_or_gives_one_that_is_not_known_is_refused(path: str) -> None:
    with pytest.raises(UnknownOperatorError, match=r"schema does not tell|known of few"):
        read_operator(path)


def test_a_reshape_gives_a_view_or_a_copy() -> None:
    assert read_operator("aten.reshape.default").returns == (Returned("tensor", "self", copied=True),)
