"""A step in a process of its own: its errors come back as what they were, its end is noticed however it comes, and
nothing that the recipe's code prints gets between its events.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from tests.tiny_project import REPOSITORY

from enginewright.errors import DataError, StepCrashed, StepFailed, StoreError, UserCodeError
from enginewright.launch import Launched, launch
from enginewright.record import Ingredients
from enginewright.store import Store
from enginewright.worker import Spec
from enginewright_runtime.backends import backend
from enginewright_runtime.canonical import sha256_file
from enginewright_runtime.errors import EngineError, EnginewrightError
from enginewright_runtime.exit_codes import ExitCode

DATA = """
import json, os, signal, subprocess, sys, time
import numpy as np

class Made:
    def __init__(self, **arguments):
        self.test = [(np.eye(4, dtype=np.float32)[index % 4], index % 4) for index in range(40)]
        self.at_start()

    def at_start(self):
        {at_start}
"""


def identity_engine() -> bytes:
    """Gives its input back, so that every sample is called right."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("image", "scores")]
    graph = helper.make_graph([helper.make_node("Identity", ["image"], ["scores"])], "g", values[:1], values[1:])
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(network)
    return backend("onnxruntime").compile(network.SerializeToString(), {"threads": 1})


class Bench:
    """A store with an engine, and a data factory whose code each test writes: the stage is `evaluate`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store, self.events = folder, Store(folder / "store"), []
        (folder / "code").mkdir()
        self.inputs = {"entry": self.put(b'{"backend": "onnxruntime", "settings": {"threads": 1}}', "engine-entry")}

    def put(self, content: bytes, kind: str) -> str:
        staging = self.store.staging("put")
        staging.mkdir(parents=True, exist_ok=True)
        (staging / "it").write_bytes(content)
        return self.store.add(staging / "it", kind=kind).digest

    def spec(self, at_start: str = "pass", *, engine: bytes = b"not an engine", **changed: Any) -> Spec:
        code = self.folder / "code" / "data.py"
        code.write_text(DATA.replace("{at_start}", at_start.replace("\n", "\n        ")))
        parameters = {
            "model": {"inputs": {"image": {"shape": ["batch", 4], "dtype": "float32"}}, "outputs": ["scores"]},
            "data": {"factory": "data:Made", "arguments": {}},
            "metric": {"name": "top1"},
            **changed,
        }
        self.inputs["engine"] = self.put(engine, "engine")
        sources = {"code/data.py": sha256_file(code)}
        ingredients = Ingredients("evaluate", 1, parameters, inputs=dict(self.inputs), sources=sources)
        locations = {"code/data.py": str(code)}
        return Spec("evaluate", ingredients, locations, self.store.root, self.folder, self.folder / "code")

    def launch(self, *arguments: Any, **changed: Any) -> Launched:
        return launch(self.spec(*arguments, **changed), on_event=self.events.append)

    def fails(self, kind: type[EnginewrightError], *arguments: Any, **changed: Any) -> Any:
        with pytest.raises(kind) as caught:
            self.launch(*arguments, **changed)
        assert type(caught.value) is kind
        return caught.value


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY / "builder"), str(REPOSITORY / "runtime")]))
    return Bench(tmp_path)


def test_a_step_that_ran_is_in_the_store_with_what_it_told(bench: Bench) -> None:
    spec = bench.spec(engine=identity_engine())
    launched = launch(spec, on_event=bench.events.append)
    assert launched == Launched(spec.ingredients.key, built=True)
    record = bench.store.record(launched.key)
    assert record is not None
    assert record.summary == {"metric": "top1", "accuracy": 1.0, "samples": 40}
    assert set(record.outputs) == {"evaluation", "outputs", "golden"}
    assert [bench.store.damage(item) for item in record.outputs.values()] == [""] * 3
    assert bench.events[-1] == {"event": "progress", "done": 2, "total": 2, "note": "evaluating"}
    assert list(bench.store.staging("x").parent.glob("*")) == [bench.store.staging("put")]


def test_a_step_that_another_build_has_done_meanwhile_is_not_run_again(bench: Bench) -> None:
    started = bench.folder / "started"
    spec = bench.spec(f"open({str(started)!r}, 'a').write('x')", engine=identity_engine())
    both = [launch(spec, on_event=bench.events.append) for _ in range(2)]
    assert [launched.built for launched in both] == [True, False]
    assert both[0].key == both[1].key
    assert started.read_text() == "x"


CHATTER = """
print('{"event": "done", "key": "forged"}')
print('no json at all', flush=True)
sys.__stdout__.write('{"event": "failed"}\\n'); sys.__stdout__.flush()
os.write(1, b'{"event": "reused"}\\n\\xff\\xfe\\x00')
subprocess.run(['echo', '{"event": "done", "key": "forged"}'], check=True)
sys.stderr.write('x' * 1_000_000)
"""


def test_what_the_recipes_code_prints_is_no_event_and_fills_no_pipe(bench: Bench) -> None:
    spec = bench.spec(CHATTER.strip(), engine=identity_engine())
    launched = launch(spec, on_event=bench.events.append)
    assert launched == Launched(spec.ingredients.key, built=True)
    assert {event["event"] for event in bench.events} == {"progress"}


def test_what_the_recipes_code_raises_comes_back_with_its_lines(bench: Bench) -> None:
    error = bench.fails(UserCodeError, "raise OSError('no camera')")
    assert error.message == "step 'evaluate': calling data:Made failed with OSError: no camera"
    assert "in at_start" in error.traceback
    assert "raise OSError('no camera')" in error.traceback
    assert error.hint
    assert error.exit_code == ExitCode.USAGE


def test_an_error_of_the_data_keeps_its_kind_and_its_fix(bench: Bench) -> None:
    error = bench.fails(DataError, "self.test = []")
    assert error.message == "step 'evaluate': the split 'test' is empty"
    assert error.hint == "check the data factory's arguments in the recipe"


def test_an_error_of_the_runtime_keeps_its_kind_and_is_no_bug_of_ours(bench: Bench) -> None:
    error = bench.fails(EngineError, engine=b"not an engine")
    assert error.message.startswith("step 'evaluate': ")
    assert error.exit_code != ExitCode.BUG


def test_what_nobody_foresaw_is_our_bug_and_shows_where(bench: Bench) -> None:
    error = bench.fails(StepCrashed, metric={"name": "no such metric"}, engine=identity_engine())
    assert error.message == "step 'evaluate': KeyError: 'no such metric'"
    assert "metrics.py" in error.traceback
    assert error.exit_code == ExitCode.BUG


def test_a_damaged_input_is_found_before_the_step_runs(bench: Bench) -> None:
    spec = bench.spec("raise OSError('it ran')")
    path = bench.store.object_path(spec.ingredients.inputs["engine"])
    path.chmod(0o644)
    path.write_bytes(b"other bytes")
    with pytest.raises(StoreError, match="the input 'engine' in the store is missing or damaged"):
        launch(spec, on_event=bench.events.append)


@pytest.mark.parametrize(
    ("number", "fix"), [(signal.SIGKILL, "give the machine more"), (signal.SIGSEGV, ""), (signal.SIGTERM, "")]
)
def test_a_step_that_is_killed_is_said_with_the_signal(number: signal.Signals, fix: str, bench: Bench) -> None:
    error = bench.fails(StepFailed, f"os.kill(os.getpid(), {int(number)}); time.sleep(60)")
    assert error.message == f"step 'evaluate': its process was killed by signal {int(number)}"
    assert fix in error.hint
    assert bool(fix) == bool(error.hint)


def test_a_step_that_ends_without_a_word_shows_the_last_lines_that_it_wrote(bench: Bench) -> None:
    error = bench.fails(
        StepFailed,
        "print(*range(100), sep='\\n', flush=True)\nsys.stderr.write('malloc(): corrupted'); sys.stderr.flush()\nos._exit(7)",
    )
    first, *lines = error.message.split("\n    ")
    assert first == "step 'evaluate': its process ended with status 7 and no word; its last lines were:"
    assert lines[-2:] == ["99", "malloc(): corrupted"]
    assert len(lines) == 30


def test_a_source_that_changes_while_the_step_uses_it_is_not_stored_under_the_old_key(bench: Bench) -> None:
    spec = bench.spec("open(__file__, 'a').write('# edited')", engine=identity_engine())
    with pytest.raises(DataError, match=r"data\.py \(code/data\.py\) changed while the step was using it"):
        launch(spec, on_event=bench.events.append)
    assert bench.store.record(spec.ingredients.key) is None


def gone(process: int, *, within_seconds: float = 10.0) -> bool:
    end = time.monotonic() + within_seconds
    while time.monotonic() < end:
        if not Path(f"/proc/{process}").exists():
            return True
        time.sleep(0.02)
    return False


def interrupted(bench: Bench, at_start: str, on_event: Callable[[Mapping[str, Any]], None]) -> None:
    pid = bench.folder / "pid"
    spec = bench.spec(f"open({str(pid)!r}, 'w').write(str(os.getpid()))\n{at_start}", engine=identity_engine())
    with pytest.raises(KeyboardInterrupt):
        launch(spec, on_event=on_event)
    assert gone(int(pid.read_text()))
    assert bench.store.record(spec.ingredients.key) is None


def test_ctrl_c_ends_the_process_of_the_step(bench: Bench) -> None:
    def interrupt(event: Mapping[str, Any]) -> None:
        raise KeyboardInterrupt

    started = time.monotonic()
    interrupted(bench, "self.test.append((lambda: time.sleep(60), 0))", interrupt)
    assert time.monotonic() - started < 10


def test_ctrl_c_that_the_step_got_itself_is_ctrl_c_here_too(bench: Bench) -> None:
    interrupted(bench, "os.kill(os.getpid(), signal.SIGINT); time.sleep(60)", bench.events.append)


@pytest.mark.parametrize("at_start", ["raise OSError('no camera')", "os._exit(7)"])
def test_a_step_that_failed_leaves_no_half_result_and_can_run_again(at_start: str, bench: Bench) -> None:
    with pytest.raises(EnginewrightError):
        bench.launch(at_start)
    spec = bench.spec(engine=identity_engine())
    assert launch(spec, on_event=bench.events.append).built
    assert bench.store.record(spec.ingredients.key) is not None


def test_the_spec_reads_back_equal(bench: Bench) -> None:
    spec = bench.spec()
    assert Spec.from_json(spec.to_json()) == spec


def test_a_safe_path_set_by_the_user_does_not_stop_the_step(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python then leaves the working folder off the path by itself, and there is nothing to take away."""
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    assert bench.launch(engine=identity_engine()).built
