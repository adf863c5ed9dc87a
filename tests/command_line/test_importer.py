"""Check how MODULE:FUNCTION and FILE.py:FUNCTION are imported."""

import json
import sys
from pathlib import Path

import pytest

from graphstreams.command_line.importer import load_function, load_mapping


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
        ("jsn:loads", "no module 'jsn'; did you mean 'json'"),
        ("jsn.decoder:loads", "no module 'jsn'; did you mean 'json.decoder'"),
        ("json.decodr:loads", "no module 'json.decodr'"),
        ("a..b:f", "'a..b' is no name of a module"),
        (".:f", "'.' is no name of a module"),
        (f"{'x' * 500}:f", "no module"),
        (f"{'x' * 500}.py:f", "no file"),
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


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("import sys\nsys.exit(3)\n", "cannot be imported: it exits with 3"),
        ("raise BaseException\n", "cannot be imported: BaseException"),
        ("import no_such_module_of_loading\n", "cannot be imported: ModuleNotFoundError: No module named 'no_such"),
        ("raise ModuleNotFoundError\n", "cannot be imported: ModuleNotFoundError"),
        ("raise ValueError('one\\ntwo\\n\\nthree')\n", "cannot be imported: ValueError: one two$"),
        ("def make(:\n", "cannot be imported: SyntaxError: invalid syntax"),
        ("def __getattr__(name):\n    raise KeyError(name)\n", "cannot be asked for 'make': KeyError: 'make'"),
    ],
)
def test_a_module_that_fails_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, told: str) -> None:
    file = tmp_path / "failing_of_loading.py"
    file.write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    for name in (str(file), "failing_of_loading"):
        with pytest.raises(ValueError, match=told):
            load_function(f"{name}:make")
        monkeypatch.delitem(sys.modules, "failing_of_loading", raising=False)
        monkeypatch.delitem(sys.modules, str(file), raising=False)


def test_a_module_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "beside_of_loading.py").write_text("def make():\n    return 1\n")
    (tmp_path / "json.py").write_text("raise KeyError\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    assert load_function("beside_of_loading:make")() == 1
    assert load_function("json:loads") is json.loads
    monkeypatch.delitem(sys.modules, "beside_of_loading")


@pytest.mark.parametrize("ending", ["", "raise KeyError"])
def test_a_file_named_like_a_module_does_not_replace_it(tmp_path: Path, ending: str) -> None:
    file = tmp_path / "json.py"
    file.write_text(f"from dataclasses import dataclass\n@dataclass\nclass Made:\n    a: int = 1\n{ending}\n")
    if ending:
        with pytest.raises(ValueError, match="KeyError"):
            load_function(f"{file}:Made")
    else:
        assert load_function(f"{file}:Made")().a == 1
        assert load_function(f"{file}:Made") is load_function(f"{file}:Made")
    assert sys.modules["json"] is json
