"""Which way dependencies go is kept by `make check`, and here it is shown that the check can fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("file", "line", "rule"),
    [
        ("runtime/enginewright_runtime/x.py", "import enginewright", "TID251"),
        ("runtime/enginewright_runtime/x.py", "import torch", "TID251"),
        ("runtime/enginewright_runtime/x.py", "import onnxruntime", "TID253"),
        ("builder/enginewright/x.py", "import torch", "TID253"),
        ("builder/enginewright/stages/x.py", "from enginewright.stages.prune import run", "TID251"),
        ("builder/enginewright/build.py", "print(1)", "T201"),
    ],
)
def test_a_forbidden_line_is_refused(file: str, line: str, rule: str) -> None:
    command = [sys.executable, "-m", "ruff", "check", "--output-format", "concise", "--stdin-filename", file, "-"]
    checked = subprocess.run(command, input=f"{line}\n", capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert rule in checked.stdout


def test_every_module_of_the_builder_imports_without_what_is_heavy() -> None:
    """The modules outside stages/ and graph/ are what planning and reporting import."""
    folder = REPOSITORY / "builder" / "enginewright"
    names = sorted(
        "enginewright." + ".".join(path.relative_to(folder).with_suffix("").parts)
        for path in [*folder.glob("*.py"), *folder.glob("report/*.py")]
        if path.stem not in ("__init__", "__main__")
    )
    program = (
        f"import importlib, sys\nfor name in {names!r}: importlib.import_module(name)\n"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'rich'} & set(sys.modules)))"
    )
    environment = {"PYTHONPATH": f"{REPOSITORY / 'builder'}:{REPOSITORY / 'runtime'}"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")
