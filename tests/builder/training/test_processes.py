"""Several processes train as one does; where one fails, all end, and its error is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.builder.lone_stage import model_of
from tests.builder.recoverer import SHAPE, Coloured, Recoverer, TwoOutputs, curve, notes, seeded, weights
from tests.tiny_project import REPOSITORY

from enginewright.errors import StepFailed, UserCodeError
from enginewright.stages.recover import run

MODEL = "from tests.builder.recoverer import TwoOutputs as Net\nTeacher = Net\n"
# Each process leaves its id in a file beside this one.
DATA = """
import os, signal, time, types
from pathlib import Path
from tests.builder.recoverer import Coloured

(Path(__file__).parent / f"{os.getpid()}.pid").touch()

class Train(Coloured):
    def __getitem__(self, index):
        %s
        return super().__getitem__(index)

def Made():
    return types.SimpleNamespace(train=Train(61), validation=Coloured(48, seed=1))
"""
MODEL_OF = {**model_of(SHAPE), "outputs": ["scores", "extra"]}
HOW = {"epochs": 3, "learning_rate": 0.02, "ema": 0.5, "model": MODEL_OF}


@pytest.fixture
def two(recoverer: Recoverer, monkeypatch: pytest.MonkeyPatch) -> Recoverer:
    """Its code is there as files, too, for processes of their own."""
    paths = [str(path) for path in (REPOSITORY, REPOSITORY / "builder", REPOSITORY / "runtime")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    recoverer.factory = TwoOutputs
    recoverer.lone.data(train=Coloured(61), validation=Coloured(48, seed=1))
    code(recoverer).mkdir(parents=True)
    (code(recoverer) / "model.py").write_text(MODEL)
    (code(recoverer) / "data.py").write_text(DATA % "")
    return recoverer


def code(recoverer: Recoverer) -> Path:
    return recoverer.lone.step({}).code_folder


def all_gone(recoverer: Recoverer) -> bool:
    """Whether no process lives of those that read the data; two have."""
    pids = [int(path.stem) for path in code(recoverer).glob("*.pid")]
    assert len(pids) == 2
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_two_processes_train_as_one_does(two: Recoverer) -> None:
    """61 samples in batches of 16: the shares of the last batch are seven and six. One output has no part in the loss."""
    student = seeded(TwoOutputs)
    alone = two.run(student, **HOW)
    together = two.run(student, **HOW, processes=2)
    for ours, theirs in zip(curve(together), curve(alone), strict=True):
        assert (ours["loss"] or 0) == pytest.approx(theirs["loss"] or 0, rel=1e-4)
        assert ours["validation"] == theirs["validation"]
    for name, value in weights(alone).items():
        assert (weights(together)[name] - value).abs().max() < 1e-3, name
    assert together.outcome == alone.outcome
    assert [note.partition(":")[0] for note in notes(together)] == ["epoch 1 of 3", "epoch 2 of 3", "epoch 3 of 3"]
    told = [event for event in together.events if event["event"] == "progress"]
    assert told[-1]["done"] == told[-1]["total"] == 3 * 4
    assert all_gone(two)


def test_an_error_of_the_second_process_ends_both_and_is_told(two: Recoverer) -> None:
    (code(two) / "data.py").write_text(DATA % "if os.environ['RANK'] == '1': raise RuntimeError('no such image')")
    with pytest.raises(
        UserCodeError, match=r"reading the samples .* failed with RuntimeError: no such image"
    ) as caught:
        two.run(seeded(TwoOutputs), **HOW, processes=2)
    assert "data.py" in caught.value.traceback
    assert all_gone(two)


def test_a_process_that_is_killed_ends_both_and_is_told(two: Recoverer) -> None:
    (code(two) / "data.py").write_text(DATA % "os.environ['RANK'] == '1' and os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(StepFailed, match="training process 2 of 2 was killed by signal 9"):
        two.run(seeded(TwoOutputs), **HOW, processes=2)
    assert all_gone(two)


def test_an_interruption_ends_both(two: Recoverer) -> None:
    step = two.lone.step(two.parameters(**HOW, processes=2), **two.inputs(seeded(TwoOutputs)))

    def tell(event: Mapping[str, Any]) -> None:
        raise KeyboardInterrupt

    object.__setattr__(step, "tell", tell)
    with pytest.raises(KeyboardInterrupt):
        run(step)
    assert all_gone(two)


def test_both_leave_when_the_process_that_started_them_is_killed(two: Recoverer) -> None:
    (code(two) / "data.py").write_text(DATA % "time.sleep(15)")
    step = two.lone.step(two.parameters(**HOW, processes=2), **two.inputs(seeded(TwoOutputs)))
    program = f"""
import os, signal
from pathlib import Path
from enginewright.running import RunningStep
from enginewright.stages.recover import run

inputs = {{name: Path(path) for name, path in { ({name: str(path) for name, path in step.inputs.items()})!r}.items()}}
run(RunningStep("lone", {dict(step.parameters)!r}, inputs, Path({str(step.staging)!r}), Path({str(step.unfinished)!r}),
                Path({str(step.code_folder)!r}), lambda event: os.kill(os.getpid(), signal.SIGKILL)))
"""
    killed = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert all_gone(two)
