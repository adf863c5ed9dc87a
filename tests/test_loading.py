"""MODULE:FUNCTION and FILE.py:FUNCTION."""

from pathlib import Path

import pytest

from graphstreams.loading import load_function, load_mapping


def test_a_function_of_a_module() -> None:
    assert load_function("os.path:basename")("a/b") == "b"


def test_a_function_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("def make():\n    return 7\n")
    assert load_function(f"{tmp_path}/model.py:make")() == 7


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("os.path", "MODULE:FUNCTION"),
        ("os.path:", "MODULE:FUNCTION"),
        ("os.path:basenme", "did you mean 'basename'"),
        ("no_such_module:f", "no module 'no_such_module'"),
        ("no/such/file.py:f", "no file"),
    ],
)
def test_bad_names_say_what_is_wrong(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_function(name)


def test_a_file_sees_those_beside_it_and_is_executed_once(tmp_path: Path) -> None:
    (tmp_path / "model_of_loading.py").write_text("class Model:\n    pass\n")
    asks = "from model_of_loading import Model\n\n\ndef same(model):\n    return type(model) is Model\n"
    (tmp_path / "neighbour_of_loading.py").write_text(asks)
    make = load_function(f"{tmp_path}/model_of_loading.py:Model")
    assert load_function(f"{tmp_path}/neighbour_of_loading.py:same")(make())
    assert load_function(f"{tmp_path}/model_of_loading.py:Model") is make


def test_a_file_of_the_same_name_elsewhere_is_another_one(tmp_path: Path) -> None:
    for value in (1, 2):
        folder = tmp_path / str(value)
        folder.mkdir()
        (folder / "twin_of_loading.py").write_text(f"def make():\n    return {value}\n")
        assert load_function(f"{folder}/twin_of_loading.py:make")() == value


def test_a_mapping_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "table_of_loading.py").write_text("TABLE = {'a': 1}\nNUMBER = 2\n")
    assert load_mapping(f"{tmp_path}/table_of_loading.py:TABLE") == {"a": 1}
    with pytest.raises(ValueError, match="no mapping 'NUMBER'"):
        load_mapping(f"{tmp_path}/table_of_loading.py:NUMBER")


def test_a_file_that_failed_is_not_there_the_next_time(tmp_path: Path) -> None:
    (tmp_path / "broken_of_loading.py").write_text("def make():\n    return 1\n\n\nraise KeyError('half')\n")
    for _ in range(2):
        with pytest.raises(ValueError, match="cannot be imported: KeyError"):
            load_function(f"{tmp_path}/broken_of_loading.py:make")


def test_files_of_one_name_are_each_executed_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same_of_loading.py").write_text("class Model:\n    pass\n")
    first, other, again = (load_function(f"{tmp_path}/{name}/same_of_loading.py:Model") for name in "aba")
    assert first is again is not other
