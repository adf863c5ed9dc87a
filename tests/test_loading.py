"""MODULE:FUNCTION and FILE.py:FUNCTION."""

from pathlib import Path

import pytest

from graphstreams.loading import load_function


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
