"""The recipe's own Python is found and called as the recipe says, and what it raises is shown as the user's."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from enginewright.errors import DataError, UserCodeError
from enginewright.user_code import call_factory, users

Call = Callable[..., Any]


@pytest.fixture
def call(tmp_path: Path) -> Iterator[Call]:
    """`call(code, factory, **arguments)` with `code` as model.py of a recipe's folder."""
    before = list(sys.path), set(sys.modules)

    def write_and_call(code: str, factory: str = "model:Net", **arguments: object) -> Any:
        (tmp_path / "model.py").write_text(code)
        importlib.invalidate_caches()
        return call_factory({"factory": factory, "arguments": arguments}, tmp_path)

    yield write_and_call
    sys.path[:] = before[0]
    for name in set(sys.modules) - before[1]:
        del sys.modules[name]


def test_a_class_is_called_with_the_recipes_arguments(call: Call) -> None:
    assert call("class Net:\n    def __init__(self, width): self.width = width", width=32).width == 32


def test_a_function_gives_what_it_returns(call: Call) -> None:
    assert call("def make(**given): return given", "model:make", a=1, b="two") == {"a": 1, "b": "two"}


def test_a_dotted_name_leads_into_a_class(call: Call) -> None:
    code = "class Net:\n    @classmethod\n    def small(cls): return 'small'"
    assert call(code, "model:Net.small") == "small"


def test_a_module_in_a_package_of_the_folder_is_found(call: Call, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "net.py").write_text("from model import WIDTH\ndef make(): return WIDTH")
    assert call("WIDTH = 7", "parts.net:make") == 7


def test_the_folder_comes_before_other_modules_of_the_same_name(call: Call, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.py").write_text("def Net(): return 'other'")
    sys.path.insert(0, str(other))
    assert call("def Net(): return 'ours'") == "ours"


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("model:Nett", r"model\.py has no 'Nett'"),
        ("model:Net.large", r"model\.py has no 'Net\.large'"),
        ("modell:Net", r"importing modell\.py of .* failed with ModuleNotFoundError: No module named 'modell'"),
        ("sys:Net", "sys has no 'Net'"),
    ],
)
def test_a_factory_that_is_not_there_is_named(factory: str, words: str, call: Call) -> None:
    with pytest.raises(UserCodeError, match=words) as caught:
        call("import os\nclass Net: pass\n_hidden = 1", factory)
    if factory.startswith("model:"):
        assert caught.value.hint == f"correct the factory '{factory}'; the module has: Net, os"


def test_what_a_factory_raises_is_shown_with_the_users_lines_and_none_of_ours(call: Call) -> None:
    code = "def inner(path):\n    raise OSError(f'no {path}')\n\ndef Net(root):\n    return inner(root)\n"
    with pytest.raises(UserCodeError) as caught:
        call(code, root="camera")
    error = caught.value
    assert error.message == "calling model:Net failed with OSError: no camera"
    assert error.traceback.startswith("Traceback of the recipe's code (most recent call last):\n")
    assert error.traceback.endswith("OSError: no camera\n")
    assert [line for line in ("in inner", "in Net", "return inner(root)") if line not in error.traceback] == []
    assert "user_code.py" not in error.traceback.replace("test_user_code.py", "")


def test_a_syntax_error_is_shown_with_its_line(call: Call) -> None:
    with pytest.raises(UserCodeError, match=r"importing model\.py of .* failed with SyntaxError") as caught:
        call("class Net:\n    def __init__(self:\n")
    assert "line 2" in caught.value.traceback
    assert "importlib" not in caught.value.traceback


def test_an_argument_that_the_factory_does_not_take_is_the_users_to_mend(call: Call) -> None:
    with pytest.raises(UserCodeError, match=r"calling model:Net failed with TypeError: .*'depth'"):
        call("class Net: \n    def __init__(self, width=1): pass", depth=3)


def test_what_cannot_be_called_is_the_users_to_mend(call: Call) -> None:
    with pytest.raises(UserCodeError, match=r"calling model:Net failed with TypeError: 'int' object is not callable"):
        call("Net = 3")


def test_a_factory_that_exits_does_not_take_the_step_with_it(call: Call) -> None:
    with pytest.raises(UserCodeError, match="calling model:Net failed with SystemExit: 3") as caught:
        call("import sys\ndef Net(): sys.exit(3)")
    assert "sys.exit(3)" in caught.value.traceback


def test_ctrl_c_in_the_users_code_stays_ctrl_c() -> None:
    with pytest.raises(KeyboardInterrupt), users("reading"):
        raise KeyboardInterrupt


def test_an_error_of_ours_goes_through_as_it_is() -> None:
    error = DataError("the split is empty")
    with pytest.raises(DataError) as caught, users("reading"):
        raise error
    assert caught.value is error


def test_the_cause_is_kept_for_whoever_debugs() -> None:
    with pytest.raises(UserCodeError) as caught, users("reading"):
        raise KeyError("camera")
    assert isinstance(caught.value.__cause__, KeyError)
