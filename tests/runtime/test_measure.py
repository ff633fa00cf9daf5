"""Engines measured in processes of their own, and everything that can go wrong with those."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from tests.runtime.tiny_bundle import SETTINGS, tiny_model

from enginewright_runtime import worker, worker_process
from enginewright_runtime.backends import backend
from enginewright_runtime.bench.latency import disturbed_line
from enginewright_runtime.caches import Evictor, bytes_to_evict
from enginewright_runtime.canonical import Json, sha256_hex
from enginewright_runtime.chunk_conditions import ConditionsProbe
from enginewright_runtime.errors import MeasurementError
from enginewright_runtime.gpu_state import GpuState
from enginewright_runtime.host import fingerprint
from enginewright_runtime.json_field import JsonField
from enginewright_runtime.measure import EngineToMeasure, Measuring, measure
from enginewright_runtime.measurement import Measurement, pooled_ns
from enginewright_runtime.npz import write_npz
from enginewright_runtime.warm_up import WarmUpRule
from enginewright_runtime.worker_process import WorkerProcess

QUICK = WarmUpRule(least_ns=0, least_count=10, window=5, steady_share=0.5, steady_times=1, cap_ns=1_000_000_000)
INPUTS = {"x": np.ones((1, 4), np.float32)}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> EngineToMeasure:
    """A tiny engine."""
    path = tmp_path_factory.mktemp("engine") / "engine"
    path.write_bytes(backend("onnxruntime").compile(tiny_model(), SETTINGS))
    return EngineToMeasure(path, "onnxruntime", SETTINGS)


@pytest.fixture(scope="module")
def slower(tmp_path_factory: pytest.TempPathFactory) -> EngineToMeasure:
    """An engine with some hundred thousand times more work: x @ weights @ weights ..."""
    size = 512
    names = ["wide", *(f"step{index}" for index in range(16))]
    nodes = [helper.make_node("MatMul", ["x", "first"], ["wide"])]
    nodes += [helper.make_node("MatMul", [a, "square"], [b]) for a, b in pairwise(names)]
    nodes += [helper.make_node("Identity", [names[-1]], ["y"])]
    graph = helper.make_graph(
        nodes,
        "slower",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, size])],
        [
            helper.make_tensor("first", TensorProto.FLOAT, (4, size), np.zeros((4, size), np.float32)),
            helper.make_tensor("square", TensorProto.FLOAT, (size, size), np.zeros((size, size), np.float32)),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    path = tmp_path_factory.mktemp("slower") / "engine"
    path.write_bytes(backend("onnxruntime").compile(model, SETTINGS))
    return EngineToMeasure(path, "onnxruntime", SETTINGS)


@pytest.fixture(scope="module")
def measured(engine: EngineToMeasure, slower: EngineToMeasure) -> Measurement:
    """Two sessions of both engines."""
    engines = {"reference": slower, "engine": engine}
    return measure(engines, INPUTS, sessions=2, rounds=6, chunk=5, seed=7, warm_up=QUICK)


@pytest.fixture(scope="module")
def evicted(engine: EngineToMeasure, slower: EngineToMeasure) -> Measurement:
    """One session of both engines with evicted caches."""
    engines = {"reference": slower, "engine": engine}
    return measure(engines, INPUTS, sessions=1, rounds=30, chunk=1, warm_up=QUICK, caches="evicted")


def alive(pid: int) -> bool:
    """Whether a process runs. One that has ended and was not waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pid: int) -> bool:
    """Whether a process ends within ten seconds."""
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


def test_every_sample_is_kept_for_each_engine_and_session(measured: Measurement) -> None:
    assert len(measured.sessions) == 2
    for label in ("reference", "engine"):
        assert [len(samples) for samples in measured.sessions_ns(label)] == [30, 30]
        assert all(sample > 0 for samples in measured.sessions_ns(label) for sample in samples)
        assert all(len(session.cpu_ns[label]) == 6 for session in measured.sessions)
        assert all(session.warm_up[label].count >= 10 for session in measured.sessions)
        assert 10 << 20 < measured.peak_memory_bytes(label) < 1 << 30


def test_the_engine_with_more_work_is_slower(measured: Measurement) -> None:
    assert np.median(measured.sessions_ns("reference")) > 2 * np.median(measured.sessions_ns("engine"))
    cpu = {label: sum(measured.sessions[0].cpu_ns[label]) for label in ("reference", "engine")}
    assert cpu["reference"] > 2 * cpu["engine"]


def test_the_measurement_says_what_was_measured_how_and_where(measured: Measurement, engine: EngineToMeasure) -> None:
    assert measured.engines["engine"].sha256 == sha256_hex(engine.path.read_bytes())
    assert measured.engines["engine"].size_bytes == engine.path.stat().st_size
    assert measured.host == fingerprint()  # and no GPU: these engines run on the processor
    assert all(session.chunk_conditions == {} for session in measured.sessions)
    protocol = measured.protocol
    assert protocol.threads == {"reference": 1, "engine": 1}
    assert (protocol.caches, protocol.evicted_bytes) == ("warm", 0)
    assert (protocol.clock, protocol.interleaved) == ("wall", True)
    assert (protocol.sessions, protocol.rounds, protocol.chunk, protocol.dropped_per_chunk) == (2, 6, 5, 1)
    assert (protocol.seed, protocol.warm_up) == (7, QUICK)
    assert measured.sessions[0].conditions_before.keys() == measured.sessions[0].conditions_after.keys()


@pytest.mark.parametrize(
    ("evicted_bytes", "order"), [(0, ["run", "run", "run"]), (4096, ["run", "evict", "run", "evict", "run"])]
)
def test_the_caches_are_evicted_before_each_timed_inference_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evicted_bytes: int, order: list[str]
) -> None:
    done: list[str] = []

    class Engine:
        """Stands for an engine, and for the backend that opens it."""

        def open(self, engine: bytes, settings: object) -> Engine:
            return self

        def run(self, inputs: object) -> None:
            done.append("run")

        def gpu_bytes(self) -> int:
            return 0

    monkeypatch.setattr(worker, "backend", lambda name: Engine())
    monkeypatch.setattr(Evictor, "evict", lambda self: done.append("evict"))
    (tmp_path / "engine").write_bytes(b"")
    (tmp_path / "inputs.npz").write_bytes(write_npz(INPUTS))
    paths = {"engine": str(tmp_path / "engine"), "inputs": str(tmp_path / "inputs.npz"), "sha256": sha256_hex(b"")}
    asked = worker.Worker(0)
    requests: list[dict[str, Json]] = [
        {"do": "open", **paths, "backend": "any", "settings": {}, "evicted_bytes": evicted_bytes},
        {"do": "chunk", "count": 2, "drop": 1},
    ]
    for request in requests:
        asked.answer(JsonField(request, "request", MeasurementError))
    assert done == order


def test_what_other_engines_of_a_session_take_of_the_gpu_later_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Engine:
        """By the driver's count: what it takes when it opens, in its first inference, and what others take then."""

        taken = 300

        def open(self, engine: bytes, settings: object) -> Engine:
            return self

        def run(self, inputs: object) -> None:
            self.taken = 350

        def gpu_bytes(self) -> int:
            return self.taken

    engine = Engine()
    monkeypatch.setattr(worker, "backend", lambda name: engine)
    (tmp_path / "engine").write_bytes(b"")
    (tmp_path / "inputs.npz").write_bytes(write_npz(INPUTS))
    paths = {"engine": str(tmp_path / "engine"), "inputs": str(tmp_path / "inputs.npz"), "sha256": sha256_hex(b"")}
    asked = worker.Worker(0)
    request = {"do": "open", **paths, "backend": "any", "settings": {}, "evicted_bytes": 0}
    asked.answer(JsonField(request, "request", MeasurementError))
    engine.taken = 900
    assert asked.answer(JsonField({"do": "report"}, "request", MeasurementError))["gpu_bytes"] == 350


def test_with_evicted_caches_every_sample_is_kept_and_none_dropped(evicted: Measurement) -> None:
    protocol = evicted.protocol
    assert (protocol.caches, protocol.evicted_bytes) == ("evicted", bytes_to_evict())
    assert (protocol.rounds, protocol.chunk, protocol.dropped_per_chunk) == (30, 1, 0)
    for label in ("reference", "engine"):
        assert [len(samples) for samples in evicted.sessions_ns(label)] == [30]


def test_evicting_is_neither_in_the_cpu_time_nor_in_the_peak_memory(
    measured: Measurement, evicted: Measurement
) -> None:
    for label in ("reference", "engine"):
        assert np.median(evicted.sessions[0].cpu_ns[label]) < 2_000_000  # writing 64 MiB takes longer
        assert evicted.peak_memory_bytes(label) < measured.peak_memory_bytes(label) + (32 << 20)


def test_figures_of_warm_and_of_evicted_caches_do_not_mix(measured: Measurement, evicted: Measurement) -> None:
    said = "do not compare: .*caches warm against evicted, evicted_bytes 0 against "
    with pytest.raises(MeasurementError, match=said):
        measured.require_alike(evicted)
    with pytest.raises(MeasurementError, match=said):
        pooled_ns("engine", measured, evicted)
    with pytest.raises(MeasurementError, match="with warm caches was expected, and this is evicted"):
        evicted.with_caches("warm")
    assert evicted.with_caches("evicted") is evicted


def test_figures_of_different_hosts_or_engines_do_not_mix(measured: Measurement) -> None:
    elsewhere = replace(measured, host={**measured.host, "cores": 1000})
    with pytest.raises(MeasurementError, match="do not compare: another host"):
        pooled_ns("engine", measured, elsewhere)
    other = {**measured.engines, "engine": measured.engines["reference"]}
    with pytest.raises(MeasurementError, match="of different engines, each called 'engine'"):
        pooled_ns("engine", measured, replace(measured, engines=other))


def test_measurements_that_were_taken_alike_are_pooled(measured: Measurement) -> None:
    first = replace(measured, sessions=measured.sessions[:1], protocol=replace(measured.protocol, sessions=1, seed=8))
    assert len(pooled_ns("engine", measured)) == 60
    assert pooled_ns("engine", first, measured)[:30] == pooled_ns("engine", measured)[:30]
    assert len(pooled_ns("engine", first, measured)) == 90


def test_a_measurement_reads_back_equal(measured: Measurement, evicted: Measurement) -> None:
    assert Measurement.from_bytes(measured.to_bytes()) == measured
    assert Measurement.from_bytes(evicted.to_bytes()) == evicted


def test_a_measurement_of_format_1_had_warm_caches(measured: Measurement) -> None:
    document = json.loads(measured.to_bytes())
    del document["protocol"]["evicted_bytes"]
    assert Measurement.from_json({**document, "format": 1}) == measured


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("format",), 5, "format 5 is newer than this runtime reads"),
        (("sessions", 0, "samples_ns", "engine", 3), -1, r"samples_ns\['engine'\]\[3\] must be at least 0, got -1"),
        (("sessions", 0, "samples_ns", "engine", 3), 0.5, "must be a whole number, got 0.5"),
        (("sessions", 1, "cpu_ns"), {}, r"sessions\[1\].cpu_ns must be of engine, reference"),
        (("protocol", "interleaved"), "yes", "protocol.interleaved must be true or false, got 'yes'"),
        (
            ("protocol", "caches"),
            "cold",
            r"protocol.caches must be warm, or evicted by .* \(evicted_bytes is 0\), got 'cold'",
        ),
        (("protocol", "caches"), "evicted", r"protocol.caches must be .*, got 'evicted'"),
        (("protocol", "evicted_bytes"), 64, r"protocol.caches must be .* \(evicted_bytes is 64\), got 'warm'"),
        (("host",), [], r"host must be an object, got \[\]"),
    ],
)
def test_a_measurement_file_that_is_wrong_is_refused(
    measured: Measurement, path: tuple[str | int, ...], value: object, message: str
) -> None:
    document = json.loads(measured.to_bytes())
    at = document
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    with pytest.raises(MeasurementError, match=f"m.json: .*{message}"):
        Measurement.from_json(document, source="m.json")
    with pytest.raises(MeasurementError, match=r"m.json: not valid JSON"):
        Measurement.from_bytes(measured.to_bytes()[:-1], source="m.json")


def test_the_seed_decides_the_order_within_the_rounds(engine: EngineToMeasure, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    ask = WorkerProcess.ask

    def recorded(self: WorkerProcess, do: str, **parameters: object) -> object:
        if do == "chunk":
            asked.append(self.label)
        return ask(self, do, **parameters)  # type: ignore[arg-type] # passed on as they came

    monkeypatch.setattr(WorkerProcess, "ask", recorded)
    orders = []
    for seed in (1, 1, 2):
        asked.clear()
        measure({"a": engine, "b": engine}, INPUTS, sessions=1, rounds=12, chunk=1, seed=seed, warm_up=QUICK)
        assert all(set(asked[index : index + 2]) == {"a", "b"} for index in range(0, 24, 2))
        orders.append(tuple(asked))
    assert orders[0] == orders[1] != orders[2]
    assert len({orders[0][index : index + 2] for index in range(0, 24, 2)}) == 2


def test_sessions_are_taken_for_as_long_as_they_are_wanted(engine: EngineToMeasure) -> None:
    with Measuring({"engine": engine}, INPUTS, rounds=2, chunk=3, seed=0, warm_up=QUICK) as measuring:
        measuring.take_session()
        record = measuring.take_session()
        assert measuring.measurement().sessions[1] == record
        assert measuring.measurement().protocol.sessions == 2
        assert not measuring.measurement().protocol.interleaved


def test_the_conditions_are_read_after_each_chunk_where_a_probe_is_given(engine: EngineToMeasure) -> None:
    engines = {"a": engine, "b": engine}
    with Measuring(engines, INPUTS, rounds=3, chunk=1, seed=0, warm_up=QUICK, probe=ConditionsProbe()) as measuring:
        record = measuring.take_session()
        measurement = measuring.measurement()
    assert {len(column) for label in engines for column in record.chunk_conditions[label].values()} == {3}
    assert all(grown is None or grown >= 0 for grown in record.chunk_conditions["a"]["steal_ticks"])
    assert Measurement.from_bytes(measurement.to_bytes()) == measurement


class SteadyGpu:
    """A GPU that never changes."""

    def read(self) -> GpuState:
        return GpuState(clock_khz=1_300_500, held_back_by="nothing", throttled_now=False)

    def settings(self) -> dict[str, Json]:
        return {}


def test_the_gpu_is_read_after_each_chunk_of_an_engine_that_runs_on_one(
    engine: EngineToMeasure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enginewright_runtime.measure.watched_gpu", lambda backends: SteadyGpu())
    taken = measure({"engine": engine}, INPUTS, sessions=1, rounds=3, chunk=1, warm_up=QUICK)
    conditions = taken.sessions[0].chunk_conditions["engine"]
    assert conditions["gpu_clock_khz"] == (1_300_500,) * 3
    assert conditions["gpu_throttles"] == (0,) * 3
    assert Measurement.from_bytes(taken.to_bytes()) == taken
    at_other_clocks = {**conditions, "gpu_clock_khz": (1_300_500, 900_000, 1_300_500)}
    moved = replace(taken.sessions[0], chunk_conditions={"engine": at_other_clocks})
    assert disturbed_line(replace(taken, sessions=(*taken.sessions, moved))) == (
        "  clocks changed or were throttled in 1 of 6 chunks"
    )
    assert disturbed_line(replace(taken, sessions=(replace(moved, chunk_conditions={}),))) == ""


def test_all_engines_of_a_session_are_bound_to_the_same_cores_and_the_next_session_to_others(
    engine: EngineToMeasure, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound: list[set[int]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 8})
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: bound.append(cores))
    two = replace(engine, settings={"threads": 2})
    with Measuring(
        {"a": engine, "b": two}, INPUTS, rounds=1, chunk=1, seed=0, warm_up=QUICK, same_cores=True
    ) as measuring:
        measuring.take_session()
        measuring.take_session()
    assert bound == [{3, 5}, {3, 5}, {3, 8}, {3, 8}]


def test_engines_are_bound_only_where_it_is_asked_for(engine: EngineToMeasure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: pytest.fail("bound"))
    measure({"a": engine}, INPUTS, sessions=1, rounds=1, warm_up=QUICK)


def test_an_engine_may_have_inputs_of_its_own(engine: EngineToMeasure) -> None:
    own = replace(engine, inputs=INPUTS)
    measure({"own": own}, {"x": np.ones((1, 5), np.float32)}, sessions=1, rounds=1, warm_up=QUICK)
    with pytest.raises(MeasurementError, match="other: onnxruntime could not run"):
        measure({"own": own, "other": engine}, {"x": np.ones((1, 5), np.float32)}, sessions=1, warm_up=QUICK)


def test_progress_is_told_between_sessions(engine: EngineToMeasure) -> None:
    told: list[tuple[int, int]] = []
    measure(
        {"engine": engine},
        INPUTS,
        sessions=1,
        rounds=1,
        warm_up=QUICK,
        on_progress=lambda done, sessions: told.append((done, sessions)),
    )
    assert told == [(0, 1), (1, 1)]


def test_a_measurement_of_nothing_is_refused(engine: EngineToMeasure) -> None:
    with pytest.raises(ValueError, match="one engine"):
        measure({}, INPUTS)
    with pytest.raises(ValueError, match="one engine"):
        measure({"engine": engine}, INPUTS, rounds=0)
    with pytest.raises(ValueError, match="one session"):
        measure({"engine": engine}, INPUTS, sessions=0)


def test_an_engine_that_does_not_open_is_an_error_with_the_library_s_words(tmp_path: Path) -> None:
    (tmp_path / "engine").write_bytes(b"not a model")
    broken = EngineToMeasure(tmp_path / "engine", "onnxruntime", {})
    with pytest.raises(MeasurementError, match=r"engine: onnxruntime could not open the engine: .*[Pp]rotobuf"):
        measure({"engine": broken}, INPUTS, sessions=1, warm_up=QUICK)


def test_inputs_that_the_engine_does_not_take_are_an_error(engine: EngineToMeasure) -> None:
    with pytest.raises(MeasurementError, match="engine: onnxruntime could not run the engine"):
        measure({"engine": engine}, {"x": np.ones((1, 5), np.float32)}, sessions=1, warm_up=QUICK)


def test_an_engine_that_changes_between_sessions_is_refused(engine: EngineToMeasure, tmp_path: Path) -> None:
    path = tmp_path / "engine"
    path.write_bytes(engine.path.read_bytes())
    changing = EngineToMeasure(path, "onnxruntime", SETTINGS)
    with Measuring({"engine": changing}, INPUTS, rounds=1, chunk=1, seed=0, warm_up=QUICK) as measuring:
        measuring.take_session()
        path.write_bytes(path.read_bytes() + b"\0")
        with pytest.raises(MeasurementError, match="the engine was altered after it was chosen"):
            measuring.take_session()


def test_a_worker_that_is_killed_is_an_error_that_says_so() -> None:
    with WorkerProcess("engine") as worker:
        worker.ask("report")
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(MeasurementError, match="worker engine: was killed by SIGKILL when asked to chunk"):
            worker.ask("chunk", count=1, drop=0)


def fake_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str) -> None:
    """Have every worker run `program` instead."""
    script = tmp_path / "python"
    script.write_text(f"#!{sys.executable}\n{textwrap.dedent(program)}")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("print('Loading weights...', flush=True); input()", "report: the answer is not JSON: Expecting value"),
        ("print('[1]', flush=True); input()", "the document must be an object, got \\[1\\]"),
        ("import sys; print('out of memory', file=sys.stderr); sys.exit(9)", "ended with status 9(?s:.*)out of memory"),
        ("import os; os.close(1); input(); input()", "was killed by SIGKILL when asked to report"),
        ("import sys; input(); print('x' * (1 << 23), end='', flush=True); input()", "the answer has no end"),
        ("import os; input(); os.abort()", "was killed by SIGABRT when asked to report; it wrote nothing"),
    ],
)
def test_a_worker_that_writes_garbage_or_dies_is_an_error_with_its_standard_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str, message: str
) -> None:
    fake_worker(monkeypatch, tmp_path, program)
    monkeypatch.setattr(worker_process, "_END_LIMIT_S", 0.5)
    with pytest.raises(MeasurementError, match=message), WorkerProcess("engine") as worker:
        worker.ask("report")
    assert wait_until_gone(worker.pid)


def test_a_worker_that_never_answers_is_an_error_and_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_worker(monkeypatch, tmp_path, "import time; time.sleep(1000)")
    with (
        pytest.raises(MeasurementError, match=r"no answer within 0.3 s"),
        WorkerProcess("a", answer_limit_s=0.3) as worker,
    ):
        worker.ask("report")
    assert wait_until_gone(worker.pid)


def test_a_chatty_library_cannot_reach_the_answers(tmp_path: Path) -> None:
    """A sitecustomize that prints whatever it can stands for a library that does; its words go to standard error."""
    (tmp_path / "chatty.py").write_text(
        "import os\nprint('loading')\nos.system('echo from a child')\nos.write(1, b'raw')\n"
    )
    program = (
        "import sys\n"
        "import enginewright_runtime.worker as worker\n"
        "answer = worker.Worker.answer\n"
        "def noisy(self, request):\n"
        "    import chatty\n"
        "    return answer(self, request)\n"
        "worker.Worker.answer = noisy\n"
        "worker.main()\n"
    )
    paths = [str(tmp_path), str(Path(__file__).parents[2] / "runtime")]
    finished = subprocess.run(
        [sys.executable, "-c", program],
        input=b'{"do":"report"}\n',
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        check=True,
        timeout=60,
    )
    assert finished.stdout.startswith(b'{"gpu_bytes":0,"peak_rss_bytes":')
    assert finished.stdout.count(b"\n") == 1
    for words in (b"loading", b"from a child", b"raw"):
        assert words in finished.stderr


def test_a_worker_s_peak_memory_is_its_own_and_not_its_parent_s() -> None:
    hoard = np.ones(400 << 17)  # 400 MiB, resident
    with WorkerProcess("engine") as worker:
        peak = worker.ask("report").field("peak_rss_bytes").integer()
    assert hoard.nbytes > 2 * peak


def test_an_interrupt_ends_the_workers(engine: EngineToMeasure, monkeypatch: pytest.MonkeyPatch) -> None:
    pids = []
    ask = WorkerProcess.ask

    def interrupted(self: WorkerProcess, do: str, **parameters: object) -> object:
        pids.append(self.pid)
        if do == "chunk":
            raise KeyboardInterrupt
        return ask(self, do, **parameters)  # type: ignore[arg-type] # passed on as they came

    monkeypatch.setattr(WorkerProcess, "ask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure({"a": engine, "b": engine}, INPUTS, sessions=1, warm_up=QUICK)
    assert len(set(pids)) == 2
    assert not any(alive(pid) for pid in pids)


@pytest.mark.parametrize("moment", ["idle", "warming up"])
def test_a_worker_dies_when_its_parent_is_killed(engine: EngineToMeasure, tmp_path: Path, moment: str) -> None:
    inputs = tmp_path / "inputs.npz"
    inputs.write_bytes(write_npz(INPUTS))
    forever = {**QUICK.to_json(), "least_ns": 10**18, "cap_ns": 10**18}
    program = f"""
        import sys
        from enginewright_runtime.worker_process import WorkerProcess
        worker = WorkerProcess("engine")
        worker.ask("open", engine={str(engine.path)!r}, sha256={sha256_hex(engine.path.read_bytes())!r},
                   backend="onnxruntime", settings={{}}, inputs={str(inputs)!r}, evicted_bytes=0)
        print(worker.pid, flush=True)
        if {moment == "warming up"}:
            worker.ask("warm_up", **{forever})
        sys.stdin.read()
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "runtime")},
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    with parent.stdin, parent.stdout:
        worker = int(parent.stdout.readline())
        time.sleep(0.3)
        assert alive(worker)
        parent.kill()
        parent.wait()
    assert wait_until_gone(worker)


def test_measuring_leaves_no_temporary_files(
    engine: EngineToMeasure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    measure({"engine": engine}, INPUTS, sessions=1, rounds=1, warm_up=QUICK)
    assert list(tmp_path.iterdir()) == []
