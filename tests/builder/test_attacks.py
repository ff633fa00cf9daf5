"""A careless user and a hostile machine: closed streams, files where folders should be, stores that vanish, recipe code
that does what code should not. Every answer names the place and the fix, and nothing that was finished is lost.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.builder.lone_stage import DATA, LoneStage, Samples, model_of
from tests.tiny_project import TinyProject, Waiter

from enginewright.build import _deliver  # what is attacked here needs no build of its own
from enginewright.datasets import Split, class_names
from enginewright.errors import DataError, EnginewrightError, NoSpace, StepFailed, StoreError, UsageError, UserCodeError
from enginewright.launch import launch
from enginewright.networks import class_labels, outputs_of
from enginewright.progress import PlainWatch
from enginewright.project import find_project
from enginewright.record import Artifact, Ingredients, Record
from enginewright.signature import InputSpec, Signature
from enginewright.sources import _digest_of_tree
from enginewright.store import Store
from enginewright.user_code import call_factory, users
from enginewright.worker import Spec
from enginewright_runtime.backends import backend

SCORES = Signature({"image": InputSpec(("batch", 4), "float32")}, ("scores",))


def shell(project: TinyProject, command: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """A command line in bash, where `ew` is enginewright; its exit code is that of `ew`."""
    line = f"set -o pipefail; ew() {{ '{sys.executable}' -m enginewright \"$@\"; }}; {command}"
    return subprocess.run(
        ["bash", "-c", line],
        cwd=project.root,
        env=project.environment(extra),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def spec_of(folder: Path, parameters: dict[str, Any] | None = None) -> Spec:
    ingredients = Ingredients("import", 1, parameters or {"model": model_of([4])})
    return Spec("import", ingredients, {}, folder / "store", folder, folder / "code")


def a_record(store: Store, content: bytes = b"network") -> Record:
    path = store.staging("k") / "network"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    artifact = store.add(path, kind="network")
    record = Record("simplify", Ingredients("simplify", 1, {"x": content.decode()}), {"network": artifact}, 1.0)
    store.write_record(record)
    return record


# --- streams


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_bug(tiny: TinyProject, closed: str) -> None:
    finished = shell(tiny, f"ew plan tiny --target cpu {closed}")
    assert finished.returncode == 0, finished.stderr


def test_standard_output_on_a_full_disk_is_said_and_is_no_success(tiny: TinyProject) -> None:
    finished = shell(tiny, "ew plan tiny --target cpu >/dev/full")
    assert finished.returncode == 2
    assert "standard output cannot be written: No space left on device" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_reader_that_left_does_not_change_the_exit_code(tiny: TinyProject) -> None:
    tiny.edit("tiny.yaml", "macs:", "macz:")
    assert shell(tiny, "ew plan tiny --target cpu 2>&1 | head -0").returncode == 2


def test_progress_that_nobody_reads_does_not_stop_the_build() -> None:
    def broken(text: str) -> None:
        raise BrokenPipeError

    watch = PlainWatch(SimpleNamespace(write=broken, flush=lambda: None))  # type: ignore[arg-type]  # a stream whose reader left
    watch.begins("import", 1, 15, ("it was never built",))
    watch.ends("import", "built", 1.0, {})


def test_an_ascii_terminal_can_be_told_of_other_letters(tiny: TinyProject) -> None:
    (tiny.root / "recipes" / "tiny.yaml").rename(tiny.root / "recipes" / "schild-ü.yaml")
    finished = shell(tiny, "ew plan 'schild-ü' --target cpu", PYTHONIOENCODING="ascii", LC_ALL="C", PYTHONUTF8="0")
    assert finished.returncode == 2
    assert "Traceback" not in finished.stderr


# --- a place that is not what it should be


@pytest.mark.parametrize(
    "extra", [{"ENGINEWRIGHT_STORE": "recipes/tiny.yaml"}, {"ENGINEWRIGHT_STORE": "~nobody-here/store"}]
)
def test_a_store_that_cannot_be_a_folder_is_named(tiny: TinyProject, extra: dict[str, str]) -> None:
    finished = tiny.build(**extra)
    assert finished.code == 2, finished.err
    assert "ENGINEWRIGHT_STORE" in finished.err
    assert "Traceback" not in finished.err


def test_a_home_that_is_nobodys_is_said_for_the_store(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    with pytest.raises(UsageError, match="ENGINEWRIGHT_STORE"):
        find_project(tmp_path, environment={"ENGINEWRIGHT_STORE": "~nobody-here/x"})


def test_a_working_folder_that_was_removed_is_said(tiny: TinyProject) -> None:
    finished = shell(tiny, "mkdir gone && cd gone && rmdir ../gone && ew plan tiny --target cpu")
    assert finished.returncode == 2
    assert "the working folder is gone" in finished.stderr


@pytest.mark.parametrize("name", ["steps/k.json", "builds/tiny@cpu.json", "locks/k", "locks/store"])
def test_a_folder_where_the_store_has_a_file_is_named(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path / "store")
    (store.root / name).mkdir(parents=True)

    def use() -> None:
        store.record("k")
        store.last_build("tiny@cpu")
        with store.in_use(), store.lock("k"):
            pass

    with pytest.raises(StoreError, match=name) as caught:
        use()
    assert caught.value.hint


def test_a_record_that_is_nested_without_end_or_names_no_digest_is_not_trusted(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    record = a_record(store)
    path = store.root / "steps" / f"{record.key}.json"
    good = path.read_bytes()
    digest = record.outputs["network"].digest.encode()
    for bad in (b"[" * 100_000, good.replace(b'"%s"' % digest, b"5"), good.replace(digest, b"../../../etc/passwd")):
        path.write_bytes(bad)
        assert store.record(record.key) is None


@pytest.mark.parametrize("make", ["dist", "dist/tiny-cpu.ewb"])
def test_what_stands_in_the_way_of_a_delivery_is_named(tmp_path: Path, make: str) -> None:
    store = Store(tmp_path / "store")
    made = a_record(store).outputs["network"]
    packed = SimpleNamespace(outputs={"bundle": made, "report_html": made, "report_markdown": made})
    dist = tmp_path / "dist"
    if make == "dist":
        dist.write_text("")
    else:
        (tmp_path / make).mkdir(parents=True)
    job = SimpleNamespace(project=SimpleNamespace(dist=dist), name="tiny-cpu", store=store)
    with pytest.raises(UsageError, match=make):
        _deliver(job, packed)  # type: ignore[arg-type]  # all that is used of a job


def test_a_delivery_from_a_store_that_vanished_says_so(tmp_path: Path) -> None:
    gone = Artifact("a" * 64, "bundle", 1)
    packed = SimpleNamespace(outputs={"bundle": gone, "report_html": gone, "report_markdown": gone})
    job = SimpleNamespace(
        project=SimpleNamespace(dist=tmp_path / "dist"), name="tiny-cpu", store=Store(tmp_path / "no")
    )
    with pytest.raises(StoreError, match="build again"):
        _deliver(job, packed)  # type: ignore[arg-type]  # all that is used of a job


# --- the sweep


def test_a_sweep_waits_and_keeps_what_the_running_build_finished_meanwhile(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    waiting = threading.Event()
    with store.in_use():
        sweep = threading.Thread(target=lambda: store.sweep(on_wait=waiting.set))
        sweep.start()
        assert waiting.wait(5)
        record = a_record(store)
        store.note_build("tiny-cpu", {"simplify": record.key})
    sweep.join(5)
    assert store.record(record.key) == record
    assert store.damage(record.outputs["network"]) == ""


def test_a_sweep_passes_over_folders_and_takes_what_a_killed_write_left(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    record = a_record(store)
    store.note_build("tiny-cpu", {"simplify": record.key})
    (store.root / "objects" / "zz" / "folder").mkdir(parents=True)
    half = store.root / "steps" / ".k.json.0123.partial"
    half.write_bytes(b"half")
    store.sweep()
    assert store.record(record.key) == record
    assert not half.exists()


# --- the step's process


def test_a_process_that_dies_before_it_reads_is_a_failed_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(StepFailed, match="ended with status 1"):
        launch(spec_of(tmp_path, {"model": "x" * 1_000_000}), on_event=lambda event: None)


def test_a_full_temporary_folder_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/tmp")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(NoSpace, match="temporary"):
        launch(spec_of(tmp_path), on_event=lambda event: None)


CODE: dict[str, tuple[str, type[EnginewrightError], str]] = {
    "asks a question": ("input('which camera? ')", UserCodeError, "EOFError"),
    "crashes in C": ("import ctypes; ctypes.string_at(0)", StepFailed, "killed by signal 11"),
    "leaves at once": ("import os; os._exit(3)", StepFailed, "ended with status 3"),
    "closes its input": ("import sys; sys.stdin.close(); raise OSError('no camera')", UserCodeError, "no camera"),
    "wants all memory": ("bytearray(1 << 60)", StepFailed, "memory"),
    "prints a lot and exits": ("print('x' * 5_000_000)\nimport sys; sys.exit(0)", UserCodeError, "SystemExit"),
    "meets a full disk": ("import errno; raise OSError(errno.ENOSPC, 'No space left')", NoSpace, "no space left"),
}


@pytest.mark.parametrize("name", CODE)
def test_code_of_the_recipe_that_misbehaves(name: str, tmp_path: Path) -> None:
    program, kind, said = CODE[name]
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "model.py").write_text(program + "\n")
    (tmp_path / "w.npz").write_bytes(b"")
    np.savez(tmp_path / "w.npz", x=np.zeros(1))
    ingredients = Ingredients("import", 1, {"model": model_of([4])}, sources={"weights": "0" * 64})
    spec = Spec(
        "import", ingredients, {"weights": str(tmp_path / "w.npz")}, tmp_path / "store", tmp_path, tmp_path / "code"
    )
    with pytest.raises(kind, match=said):
        launch(spec, on_event=lambda event: None)


def test_a_file_of_the_working_folder_does_not_stand_in_for_the_standard_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "random.py").write_text("raise SystemExit('the wrong random')\n")
    (tmp_path / "tempfile.py").write_text("raise SystemExit('the wrong tempfile')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EnginewrightError) as caught:
        launch(spec_of(tmp_path), on_event=lambda event: None)
    assert "wrong" not in str(caught.value)


def test_code_that_was_just_edited_is_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python trusts a compiled file whose source has the same size and second; a step's key goes by content."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "edited_twice.py"
    made = {"factory": "edited_twice:made", "arguments": {}}
    path.write_text("def made(): return 1\n")
    second = path.stat().st_mtime
    subprocess.run(
        [sys.executable, "-B", "-c", f"import py_compile; py_compile.compile({str(path)!r})"], check=True, timeout=30
    )
    path.write_text("def made(): return 2\n")
    os.utime(path, (second, second))
    try:
        assert call_factory(made, tmp_path) == 2
    finally:
        sys.modules.pop("edited_twice", None)


# --- what the recipe's code gives


def test_an_output_that_is_no_tensor_is_named() -> None:
    import torch

    for given in (None, {"scores": None}, [[torch.zeros(1)]], 3.0):
        with pytest.raises(DataError, match=r"model\.outputs|tensor"):
            outputs_of(lambda image, given=given: given, {"image": torch.zeros(1, 4)}, SCORES)  # type: ignore[arg-type,misc]  # as a network


def test_a_dict_of_outputs_in_another_order_is_not_mislabelled() -> None:
    import torch

    signature = Signature(SCORES.inputs, ("boxes", "scores"))
    with pytest.raises(DataError, match="order"):
        outputs_of(
            lambda image: {"scores": torch.zeros(1), "boxes": torch.ones(1)},  # type: ignore[arg-type]  # as a network
            {"image": torch.zeros(1, 4)},
            signature,
        )


def test_one_score_a_sample_is_no_class_score() -> None:
    import torch

    batch = SimpleNamespace(labels=np.zeros(3, np.int64))
    with pytest.raises(DataError, match="class labels"):
        class_labels(batch, torch.zeros(3), what="recover", otherwise="leave it out")  # type: ignore[arg-type]


def test_classes_that_are_no_names_are_refused() -> None:
    with pytest.raises(EnginewrightError, match="classes"):
        class_names(SimpleNamespace(classes=5))


@pytest.mark.parametrize("value", [np.array([0.5, 0.7], np.float32), np.array([1, 300])])
def test_an_integer_input_is_not_cut_to_fit(value: Any) -> None:
    signature = Signature({"image": InputSpec(("batch", 2), "uint8")}, ("scores",))
    with pytest.raises(DataError, match="uint8"):
        list(Split("test", [(value, 0)], signature).batches(1))


def test_a_file_name_that_is_not_utf8_has_a_digest(tmp_path: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert len(_digest_of_tree(tmp_path)) == 64


def test_frozen_layers_can_be_pruned_all_the_same(lone: LoneStage, tmp_path: Path) -> None:
    import torch
    from torch import nn

    from enginewright.checkpoint import save_checkpoint

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.AdaptiveAvgPool2d(1))
            self.head = nn.Linear(16, 4)
            self.requires_grad_(False)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.head(self.body(image).flatten(1))
            return result

    lone.module("model", Net=Net)
    lone.data(train=Samples(32, (3, 8, 8)))
    checkpoint = tmp_path / "checkpoint"
    save_checkpoint(checkpoint, Net().state_dict(), {})
    parameters = {
        "model": model_of([3, 8, 8]),
        "data": DATA,
        "macs": 0.4,
        "importance": "taylor",
        "round_to": 1,
        "keep": ["head"],
        "samples": 32,
    }
    assert lone.run("prune", parameters, checkpoint=checkpoint).outcome.summary["removed"] == pytest.approx(
        0.4, abs=0.02
    )


def test_a_network_that_onnxsim_cannot_take_is_the_users_to_mend(lone: LoneStage, tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Camera", ["image"], ["scores"], domain="com.example")],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 4])],
    )
    network = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("com.example", 1)], ir_version=9
    )
    path = tmp_path / "own.onnx"
    onnx.save(network, path)
    with pytest.raises(DataError):
        lone.run("simplify", {"model": model_of([4])}, exported=path)


def test_no_space_is_found_under_the_words_of_other_libraries(tmp_path: Path) -> None:
    with pytest.raises(NoSpace), users("writing"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_two_ctrl_c_end_like_one(tiny: TinyProject, wait_for_line: Waiter) -> None:
    process = tiny.start("build", "tiny", "--target", "cpu")
    wait_for_line(process, "[1/")
    os.killpg(process.pid, signal.SIGINT)
    wait_for_line(process, "interrupted")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert not list(tiny.root.rglob("*.partial"))


def test_a_template_nested_without_end_is_the_recipes_fault(tiny: TinyProject) -> None:
    tiny.edit("tiny.yaml", "epochs: 1", "epochs: {{ " + "(" * 5000 + "1" + ")" * 5000 + " }}")
    finished = tiny.run("plan", "tiny", "--target", "cpu")
    assert finished.code == 2
    assert "nested too deep" in finished.err


def test_an_onnx_input_that_is_a_sequence_is_refused(lone: LoneStage, tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("ConcatFromSequence", ["image"], ["scores"], axis=0)],
        "g",
        [helper.make_tensor_sequence_value_info("image", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, 4])],
    )
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(network, tmp_path / "list.onnx")
    with pytest.raises(DataError, match="'image' is no tensor: sequence"):
        lone.run("import_onnx", {"model": model_of([4])}, onnx=tmp_path / "list.onnx")


def test_names_for_other_classes_than_the_network_has_are_warned_of(lone: LoneStage, tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Relu", ["image"], ["scores"])],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 4])],
    )
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(network, tmp_path / "net.onnx")
    lone.data(test=Samples(8, (4,)), classes=("stop", "go"))
    made = lone.run(
        "compile",
        {"backend": "onnxruntime", "settings": {}, "requires": backend("onnxruntime").requires()},
        network=tmp_path / "net.onnx",
    )
    parameters = {"model": model_of([4]), "metric": {"name": "top1"}, "data": DATA}
    ran = lone.run("evaluate", parameters, engine=made.output("engine"), entry=made.output("entry"))
    assert ran.warnings() == ["the data names 2 classes and the network has 4: the report gives numbers"]
