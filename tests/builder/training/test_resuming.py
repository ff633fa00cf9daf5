"""A training that was interrupted goes on after its last whole epoch, and ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.builder.lone_stage import Ran
from tests.builder.recoverer import Net, Recoverer, notes, seeded
from tests.tiny_project import REPOSITORY
from torch import Tensor, nn

from enginewright.stages.recover import run


class Dropping(Net):
    """All that has a state: batch norm, dropout, and convolutions that lie in memory channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.second, self.drop = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.Dropout(0.3)

    def forward(self, image: Tensor) -> Tensor:
        inner = self.second(torch.relu(self.norm(self.conv(image))))
        return self.head(self.drop(torch.relu(inner).mean((2, 3))))


HOW = {"epochs": 5, "learning_rate": 0.02, "ema": 0.9, "weight_decay": 0.01}
QUANTIZED = {"quantized": True, "dialect": "onnxruntime-x86"}
DISTILLED = {"distill": {"temperature": 2.0, "weight": 0.5, "features": ["conv"], "feature_weight": 1.0}}


class Loudness:
    """A metric that every bit of the network changes, and that grows while it learns."""

    def __init__(self) -> None:
        self.total = 0.0

    def update(self, outputs: Any, labels: Any) -> None:
        self.total += float(np.abs(outputs["scores"].astype(np.float64)).sum())

    def compute(self) -> float:
        return self.total


class Interrupted(Exception):
    pass


def interrupt(recoverer: Recoverer, student: nn.Module, text: str, **changed: Any) -> list[Mapping[str, Any]]:
    """Run until something is told that begins with `text`. Returns what was told."""
    recoverer.lone.module("model", Net=recoverer.factory, Teacher=recoverer.factory)
    events: list[Mapping[str, Any]] = []
    step = recoverer.lone.step(recoverer.parameters(**changed), events, **recoverer.inputs(student))

    def tell(event: Mapping[str, Any]) -> None:
        events.append(event)
        if str(event.get("text", event.get("note"))).startswith(text):
            raise Interrupted

    object.__setattr__(step, "tell", tell)
    with pytest.raises(Interrupted):
        run(step)
    return events


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """With several, their number is chosen by time, and sums are rounded in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def outputs(ran: Ran) -> list[bytes]:
    return [ran.output(name).read_bytes() for name in ("checkpoint", "curve", "ranges")]


@pytest.mark.parametrize("changed", [{}, QUANTIZED, DISTILLED], ids=["plain", "quantized", "distilled"])
def test_an_interrupted_training_ends_as_one_that_was_not_to_the_bit(
    changed: dict[str, Any], recoverer: Recoverer
) -> None:
    recoverer.factory = Dropping
    recoverer.lone.module("metric", Made=Loudness)
    recoverer.metric = {"factory": "metric:Made", "arguments": {}}
    student = seeded(Dropping)
    whole = recoverer.run(student, **HOW, **changed)
    assert whole.outcome.summary["best_epoch"] == 5
    interrupt(recoverer, student, "epoch 4/5", **HOW, **changed)  # in the midst of the fourth
    resumed = recoverer.run(student, **HOW, **changed)
    assert notes(resumed)[0] == "goes on after epoch 3 of 5"
    assert [note.partition(":")[0] for note in notes(resumed)[1:]] == ["epoch 4 of 5", "epoch 5 of 5"]
    assert outputs(resumed) == outputs(whole)
    assert resumed.outcome == whole.outcome
    assert not resumed.warnings()


def test_it_can_be_interrupted_again_and_after_its_last_epoch(recoverer: Recoverer) -> None:
    student = seeded()
    whole = recoverer.run(student, **HOW)
    interrupt(recoverer, student, "epoch 2 of 5", **HOW)
    interrupt(recoverer, student, "epoch 5 of 5", **HOW)
    resumed = recoverer.run(student, **HOW)
    assert notes(resumed) == ["goes on after epoch 5 of 5"]
    assert outputs(resumed) == outputs(whole)


def test_before_the_first_epoch_is_whole_there_is_nothing_to_go_on_from(recoverer: Recoverer) -> None:
    interrupt(recoverer, seeded(), "epoch 1/5", **HOW)
    again = recoverer.run(seeded(), **HOW)
    assert not notes(again)[0].startswith("goes on")
    assert not again.warnings()


def test_progress_goes_on_where_it_was(recoverer: Recoverer) -> None:
    interrupt(recoverer, seeded(), "epoch 3 of 5", **HOW)
    told = [event for event in recoverer.run(seeded(), **HOW).events if event["event"] == "progress"]
    assert told[0]["done"] == 3 * 4 + 1
    assert told[-1]["done"] == told[-1]["total"] == 5 * 4


def cut(folder: Path) -> None:
    (file,) = folder.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-100])


def flipped(folder: Path) -> None:
    (file,) = folder.glob("*.safetensors")
    data = bytearray(file.read_bytes())
    data[-50] ^= 1
    file.write_bytes(data)


def emptied(folder: Path) -> None:
    for file in folder.glob("*.safetensors"):
        file.unlink()


def newer(folder: Path) -> None:
    content = json.loads((folder / "progress.json").read_text())
    (folder / "progress.json").write_text(json.dumps({**content, "format": 9}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut, "its tensors do not have the digest"),
        (flipped, "its tensors do not have the digest"),
        (emptied, "it is damaged"),
        (lambda folder: (folder / "progress.json").write_text('{"format": 1'), "it is damaged"),
        (lambda folder: (folder / "progress.json").write_text("[]"), "it is damaged"),
        (newer, "it has format 9"),
    ],
)
def test_what_is_damaged_is_ignored_with_a_warning(damage: Any, words: str, recoverer: Recoverer) -> None:
    whole = recoverer.run(seeded(), **HOW)
    interrupt(recoverer, seeded(), "epoch 3 of 5", **HOW)
    damage(recoverer.unfinished)
    again = recoverer.run(seeded(), **HOW)
    (warning,) = again.warnings()
    assert "training begins anew" in warning
    assert words in warning
    assert outputs(again) == outputs(whole)


def test_what_another_training_left_is_ignored_with_a_warning(recoverer: Recoverer) -> None:
    interrupt(recoverer, seeded(), "epoch 3 of 5", **HOW)
    kept = recoverer.folder / "kept"
    shutil.copytree(recoverer.unfinished, kept)
    for student, changed in ((seeded(), {**HOW, "seed": 1}), (seeded(seed=7), HOW)):
        shutil.copytree(kept, recoverer.unfinished, dirs_exist_ok=True)
        (warning,) = recoverer.run(student, **changed).warnings()
        assert "it is of another training" in warning


def test_only_the_last_epoch_is_kept_and_nothing_of_it_is_a_pickle(recoverer: Recoverer) -> None:
    interrupt(recoverer, seeded(), "epoch 3 of 5", **HOW)
    names = sorted(path.name for path in recoverer.unfinished.iterdir())
    assert names == ["epoch-3.safetensors", "progress.json"]


def test_a_process_that_is_killed_leaves_what_the_next_goes_on_with(recoverer: Recoverer) -> None:
    """SIGKILL in the midst of an epoch: nothing has the time to tidy up."""
    whole = recoverer.run(seeded(), **HOW)
    recoverer.lone.module("model", Net=Net, Teacher=Net)
    step = recoverer.lone.step(recoverer.parameters(**HOW), **recoverer.inputs(seeded()))
    program = textwrap.dedent(f"""
        import os, signal, sys, types
        from pathlib import Path
        import torch
        from tests.builder.recoverer import Coloured, Net
        from enginewright.running import RunningStep
        from enginewright.stages.recover import run

        def tell(event):
            if str(event.get("note")).startswith("epoch 3/5"):
                os.kill(os.getpid(), signal.SIGKILL)

        torch.set_num_threads(1)
        data = types.SimpleNamespace(train=Coloured(64), validation=Coloured(48, seed=1))
        sys.modules["model"] = types.SimpleNamespace(Net=Net)
        sys.modules["data"] = types.SimpleNamespace(Made=lambda: data)
        inputs = {{name: Path(path) for name, path in { ({name: str(path) for name, path in step.inputs.items()})!r}.items()}}
        run(RunningStep("lone", {dict(step.parameters)!r}, inputs, Path({str(step.staging)!r}),
                        Path({str(step.unfinished)!r}), Path({str(step.code_folder)!r}), tell))
    """)
    paths = os.pathsep.join(str(path) for path in (REPOSITORY, REPOSITORY / "builder", REPOSITORY / "runtime"))
    killed = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    resumed = recoverer.run(seeded(), **HOW)
    assert notes(resumed)[0] == "goes on after epoch 2 of 5"
    assert outputs(resumed) == outputs(whole)
