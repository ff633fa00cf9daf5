"""What goes wrong on a device, seen from the command line: the message, the exit code, and that nothing is lost."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from tests.fake_cuda import H200, ORIN
from tests.fake_device import FakeDevice, until
from tests.fake_tensorrt import CACHE_OF_THIS_DEVICE
from tests.runtime.tiny_bundle import tiny_golden, tiny_manifest, tiny_model
from tests.small_disk import mount_small_disk

from enginewright_runtime.bundle import read_bundle, write_bundle
from enginewright_runtime.host import machine
from enginewright_runtime.manifest import PendingEngine

FINGERPRINT = f"tensorrt-10.3.0-sm90-{machine()}-nvidia-h200-132sm"
ON_H200 = PendingEngine(
    "tensorrt",
    {"sizes": {"batch": [1, 1, 4]}, "workspace_mib": 4096},
    {"machine": machine(), "compute_capability": "9.0"},
)


COMMAND = "import sys; from enginewright_runtime.cli import main; sys.exit(main())"


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Bench:
    """A device with a bundle on it."""

    folder: Path
    device: FakeDevice
    bundle: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bundle", self.folder / "b.ewb")
        (self.folder / "tmp").mkdir(exist_ok=True)

    @property
    def timings(self) -> Path:
        return self.device.folder / "cache" / f"{FINGERPRINT}.timing"

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", COMMAND, *arguments],
            cwd=self.folder,
            env=self.device.environment(**{"TMPDIR": str(self.folder / "tmp"), **more}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **more: str) -> Ran:
        process = self.start(*arguments, **more)
        out, err = process.communicate(timeout=120)
        return Ran(process.returncode, out, err)

    def is_clean(self) -> bool:
        """No temporary file, no process."""
        beside = [path for path in self.folder.rglob("*") if path.name.endswith(".partial")]
        return not beside and not list((self.folder / "tmp").iterdir()) and not self.device.processes()


def waiting(path: Path, *, off_by: float = 0.0, model: bytes | None = None) -> Path:
    """A bundle whose engine is pending."""
    files = {"model.onnx": model or tiny_model(), "golden.npz": tiny_golden(off_by=off_by).to_bytes()}
    write_bundle(path, replace(tiny_manifest(), target="h200", pending=(ON_H200,)), files)
    return path


def a_bench(folder: Path, **device: object) -> Bench:
    made = Bench(folder, FakeDevice(folder / "device", **device))  # type: ignore[arg-type]
    waiting(made.bundle)
    return made


@pytest.fixture
def h200(tmp_path: Path) -> Bench:
    return a_bench(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, Ran]:
    """A bundle that was compiled, where timings of another device lay. Tests must not change it."""
    bench = a_bench(tmp_path_factory.mktemp("finished"))
    bench.timings.parent.mkdir()
    bench.timings.write_bytes(b"timings of another device")
    return bench, bench.run("compile", "b.ewb", "--sessions", "1")


def test_timings_of_another_device_are_taken_out_with_a_warning_and_replaced(finished: tuple[Bench, Ran]) -> None:
    bench, ran = finished
    assert ran.code == 4, ran.err  # one session decides no budget
    warning = f"  warning: the timings in {bench.timings} are another device's or version's: they were measured anew"
    assert warning in ran.out.splitlines()
    assert bench.timings.read_bytes() == CACHE_OF_THIS_DEVICE
    assert bench.is_clean()


WRONG: dict[str, tuple[dict[str, object], dict[str, str], int, str]] = {
    "no TensorRT": (
        {"distributions": ()},
        {},
        4,
        "b.ewb: its pending engine cannot be compiled here\n"
        "  tensorrt: TensorRT is not installed\n"
        "  fix: on a Jetson it comes with JetPack (apt install python3-libnvinfer); elsewhere: pip install tensorrt",
    ),
    "no driver": (
        {"driver": False},
        {},
        4,
        "b.ewb: its pending engine cannot be compiled here\n"
        "  tensorrt: there is no NVIDIA driver here\n"
        "  fix: install the driver, or go where the GPU is",
    ),
    "no GPU": (
        {"cu_init": 100},
        {},
        4,
        "b.ewb: its pending engine cannot be compiled here\n"
        "  tensorrt: the NVIDIA driver finds no GPU (cuInit gives 100)\n"
        "  fix: run nvidia-smi for the cause; a container needs --gpus all (on a Jetson --runtime nvidia), and a GPU in MIG "
        "mode an instance",
    ),
    "a GPU that is hidden": (
        {},
        {"CUDA_VISIBLE_DEVICES": ""},
        4,
        "b.ewb: its pending engine cannot be compiled here\n"
        "  tensorrt: the NVIDIA driver finds no GPU (cuInit gives 100)\n"
        "  fix: CUDA_VISIBLE_DEVICES is '', which hides GPUs: unset it, or name one that is there",
    ),
    "no fabric manager": (
        {"cu_init": 802},
        {},
        4,
        "b.ewb: its pending engine cannot be compiled here\n"
        "  tensorrt: the NVIDIA driver does not start (cuInit gives 802)\n"
        "  fix: start NVIDIA's fabric manager, in the driver's version (systemctl start nvidia-fabricmanager)",
    ),
    "a driver that is too old": (
        {
            "gpu": replace(H200, driver_cuda="12.2"),
            "version": "10.13.3",
            "distributions": ("tensorrt", "tensorrt-cu13"),
        },
        {},
        4,
        "b.ewb: its pending engine cannot be compiled here\n"
        "  tensorrt: the NVIDIA driver is too old: it knows CUDA 12.2 at the most, and TensorRT 10.13.3 (tensorrt-cu13) was "
        "made for CUDA 13\n"
        "  fix: update the driver to one that knows CUDA 13, or install a TensorRT for CUDA 12",
    ),
    "a GPU of another kind": (
        {"gpu": ORIN},
        {},
        4,
        "b.ewb: its pending engine cannot be compiled here\n"
        "  tensorrt: it is for compute capability 9.0, and this device has 8.7\n"
        "  fix: take the bundle to the device that it is for",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_machine_that_is_unfit_is_told_why_and_what_to_do(name: str, tmp_path: Path) -> None:
    device, environment, code, told = WRONG[name]
    bench = a_bench(tmp_path, **device)
    before = bench.bundle.read_bytes()
    ran = bench.run("compile", "b.ewb", **environment)
    assert ran.err == f"looking at the device\nenginewright-runtime: {told}\n"
    assert (ran.code, ran.out) == (code, "")
    assert bench.bundle.read_bytes() == before
    assert bench.is_clean()
    for command in (["verify", "b.ewb"], ["info", "b.ewb"]):
        assert bench.run(*command, **environment).code == 0
    refused = bench.run("run", "b.ewb", **environment)
    assert refused.code == 4
    assert refused.err.endswith("  fix: on its device: enginewright-runtime compile BUNDLE\n")


FAILS: dict[str, tuple[dict[str, object], str]] = {
    "out of memory": (
        {
            "fails": ["build"],
            "warns": ["Requested amount of GPU memory (15485030400 bytes) could not be allocated."],
            "says": ["Error Code 1: Cuda Runtime (out of memory)"],
        },
        "TensorRT 10.3.0 could not build the engine; it says:\n"
        "  Error Code 1: Cuda Runtime (out of memory)\n"
        "  fix: lower workspace_mib of the target (now 4096) and build the bundle again, or end what else uses the GPU's "
        "memory",
    ),
    "no kernel": (
        {
            "fails": ["build"],
            "says": [
                "IBuilder::buildSerializedNetwork: Error Code 10: Internal Error (Could not find any implementation for "
                "node MatMul_0.)"
            ],
        },
        "TensorRT 10.3.0 could not build the engine; it says:\n"
        "  IBuilder::buildSerializedNetwork: Error Code 10: Internal Error (Could not find any implementation for node "
        "MatMul_0.)\n"
        "  fix: raise workspace_mib of the target (now 4096), or keep that layer in float (keep_float in the recipe), and "
        "build the bundle again",
    ),
    "an operator that the parser lacks": (
        {
            "rejects": ["Relu"],
            "rejecting": 'Assertion failed: creator && "Plugin not found, are the plugin name, version, and namespace '
            'correct?"',
        },
        "TensorRT 10.3.0 could not parse the model:\n"
        '  node 1 (Relu): Assertion failed: creator && "Plugin not found, are the plugin name, version, and namespace '
        'correct?"\n'
        "  fix: this version lacks that operator, and plugins are not loaded: write the network with other operators",
    ),
    "no builder": (
        {
            "fails": ["builder"],
            "warns": ["CUDA initialization failure with error: 35. Please check your CUDA installation"],
        },
        "TensorRT 10.3.0 could not create its builder; it says:\n"
        "  CUDA initialization failure with error: 35. Please check your CUDA installation\n"
        "  fix: the driver is older than this TensorRT wants (it knows CUDA 13.0 at the most): update it, or install a "
        "TensorRT for its CUDA",
    ),
    "a GPU that is taken": (
        {"refuses": {"cuDevicePrimaryCtxRetain": 46}},
        "CUDA: cuDevicePrimaryCtxRetain gives 46 (CUDA_ERROR_DEVICE_UNAVAILABLE)\n"
        "  fix: another process has the GPU to itself: see nvidia-smi; measuring takes processes of its own, so its compute "
        "mode must be Default (sudo nvidia-smi -c 0)",
    ),
    "no memory to run it": (
        {"refuses": {"cuMemAlloc": 2}},
        "CUDA: cuMemAlloc gives 2 (CUDA_ERROR_OUT_OF_MEMORY)\n"
        "  fix: close other sessions, or lower the largest batch that the engine is built for",
    ),
}


@pytest.mark.parametrize("name", FAILS)
def test_a_build_that_fails_says_what_and_loses_nothing(name: str, h200: Bench) -> None:
    behaviour, told = FAILS[name]
    h200.device.set(**behaviour)
    h200.timings.parent.mkdir()
    h200.timings.write_bytes(CACHE_OF_THIS_DEVICE)
    before = h200.bundle.read_bytes()
    ran = h200.run("compile", "b.ewb")
    assert ran.err.partition("enginewright-runtime: ")[2] == f"{told}\n"
    assert (ran.code, ran.out) == (2, "")
    assert h200.bundle.read_bytes() == before
    assert h200.timings.read_bytes() == CACHE_OF_THIS_DEVICE
    assert h200.is_clean()


def test_wrong_outputs_are_not_measured_and_change_nothing(h200: Bench) -> None:
    waiting(h200.bundle, off_by=0.5)
    before = h200.bundle.read_bytes()
    ran = h200.run("compile", "b.ewb")
    assert ran.code == 1
    assert ran.out.endswith("nothing was measured, and the bundle is as it was\n")
    assert h200.bundle.read_bytes() == before
    assert h200.is_clean()


def test_samples_beyond_the_profile_are_refused_with_the_batch_that_fits(
    finished: tuple[Bench, Ran], tmp_path: Path
) -> None:
    bench, _ = finished
    samples = tmp_path / "x.npz"
    file = io.BytesIO()
    np.savez(file, x=np.zeros((9, 4), np.float32))
    samples.write_bytes(file.getvalue())
    ran = bench.run("run", "b.ewb", "--input", str(samples))
    assert ran.err == (
        "enginewright-runtime: the input 'x' has the shape [9, 4], and the engine was built for [1, 4] to [4, 4]\n"
        "  fix: split the samples: 4 at a time (enginewright-runtime run --batch 4)\n"
    )
    assert ran.code == 2
    assert bench.run("run", "b.ewb", "--input", str(samples), "--batch", "4").code == 0


@pytest.mark.parametrize("command", ["run", "bench", "check"])
def test_an_engine_of_another_version_is_refused_with_the_command_that_mends_it(
    finished: tuple[Bench, Ran], tmp_path: Path, command: str
) -> None:
    bench, _ = finished
    upgraded = Bench(tmp_path, FakeDevice(tmp_path / "device", version="10.13.3"))
    upgraded.bundle.write_bytes(bench.bundle.read_bytes())
    ran = upgraded.run(command, "b.ewb")
    assert ran.err == (
        "enginewright-runtime: b.ewb: no engine of this bundle runs on this machine\n"
        f"  {FINGERPRINT}: it needs TensorRT 10.3.0, and 10.13.3 is installed: compile it again here\n"
        "  fix: on its device: enginewright-runtime compile BUNDLE\n"
    )
    assert ran.code == 4
    assert "it needs TensorRT 10.3.0, and 10.13.3 is installed" in upgraded.run("info", "b.ewb").out


def test_a_slice_of_a_gpu_is_a_device_of_its_own(finished: tuple[Bench, Ran], tmp_path: Path) -> None:
    """A MIG instance has another name, and fewer multiprocessors: kernels that were timed on the whole are not for it."""
    bench, _ = finished
    gpu = replace(H200, name="NVIDIA H200 MIG 1g.18gb", sm_count=16)
    part = Bench(tmp_path, FakeDevice(tmp_path / "device", gpu))
    part.bundle.write_bytes(bench.bundle.read_bytes())
    ran = part.run("run", "b.ewb")
    assert ran.code == 4
    assert (
        f"  {FINGERPRINT}: it was tuned on a NVIDIA H200, and this is a NVIDIA H200 MIG 1g.18gb: compile it here\n"
        in ran.err
    )


def test_a_kill_during_the_build_leaves_bundle_and_timings_and_the_next_run_goes_through(h200: Bench) -> None:
    before = h200.bundle.read_bytes()
    h200.timings.parent.mkdir()
    h200.timings.write_bytes(CACHE_OF_THIS_DEVICE)
    mark = h200.folder / "building"
    for number, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, -signal.SIGTERM)):
        h200.device.set(blocks=str(mark))
        process = h200.start("compile", "b.ewb")
        until(mark.exists)
        process.send_signal(number)
        process.communicate(timeout=60)
        assert process.returncode == code
        assert h200.bundle.read_bytes() == before
        assert h200.timings.read_bytes() == CACHE_OF_THIS_DEVICE
        assert h200.is_clean()
        mark.unlink()
    h200.device.set()
    assert h200.run("compile", "b.ewb", "--sessions", "1").code == 4
    assert [entry.fingerprint for entry in read_bundle(h200.bundle).manifest.engines] == [FINGERPRINT]


def interrupted_while_building(bench: Bench, mark: Path) -> subprocess.Popen[str]:
    """A compile that got one SIGINT while TensorRT built, and has said so. It goes on once `<mark>.goes-on` is there."""
    bench.device.set(blocks=str(mark))
    process = bench.start("compile", "b.ewb")
    until(mark.exists)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    line = next((line for line in process.stderr if "interrupted" in line), "")
    assert line == "interrupted: the build ends with its present step\n"
    return process


def test_ctrl_c_ends_the_build_with_its_present_step(h200: Bench) -> None:
    before = h200.bundle.read_bytes()
    mark = h200.folder / "building"
    process = interrupted_while_building(h200, mark)
    mark.with_name("building.goes-on").touch()
    _, err = process.communicate(timeout=60)
    assert err == "enginewright-runtime: interrupted\n"
    assert process.returncode == 130
    assert h200.bundle.read_bytes() == before
    assert h200.is_clean()


def test_a_second_ctrl_c_does_not_wait_for_the_step(h200: Bench) -> None:
    mark = h200.folder / "building"
    process = interrupted_while_building(h200, mark)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert h200.is_clean()


def test_ctrl_c_ends_a_version_without_a_monitor_at_once(tmp_path: Path) -> None:
    bench = a_bench(tmp_path, version="8.6.1")
    before = bench.bundle.read_bytes()
    mark = tmp_path / "building"
    bench.device.set(blocks=str(mark))
    process = bench.start("compile", "b.ewb")
    until(mark.exists)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert bench.bundle.read_bytes() == before
    assert bench.is_clean()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_an_end_while_measuring_takes_the_workers_and_the_temporary_files_with_it(
    h200: Bench, number: signal.Signals, code: int
) -> None:
    before = h200.bundle.read_bytes()
    process = h200.start("compile", "b.ewb")
    until(lambda: len(h200.device.processes()) > 1 and any((h200.folder / "tmp").rglob("engine")))
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code
    assert h200.bundle.read_bytes() == before
    if number is signal.SIGKILL:  # nobody is left to remove the temporary folder
        until(lambda: not h200.device.processes())
    else:
        until(h200.is_clean)


def test_a_second_compile_of_the_same_bundle_is_refused_while_the_first_one_runs(h200: Bench) -> None:
    before = h200.bundle.read_bytes()
    mark = h200.folder / "building"
    h200.device.set(blocks=str(mark))
    first = h200.start("compile", "b.ewb")
    until(mark.exists)
    ran = h200.run("compile", "b.ewb")
    first.kill()
    first.communicate(timeout=60)
    assert (ran.code, ran.out) == (4, "")
    assert ran.err == (
        "enginewright-runtime: b.ewb: another process is compiling this bundle\n  fix: try again when it has ended\n"
    )
    assert h200.bundle.read_bytes() == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mount_small_disk(tmp_path / "small", size="40k") as folder:
        yield folder


def test_a_disk_that_is_full_when_the_bundle_is_written_back_leaves_the_one_that_was_there(
    h200: Bench, small_disk: Path
) -> None:
    bundle = waiting(small_disk / "b.ewb")
    before = bundle.read_bytes()
    fill = small_disk / "fill"
    fill.write_bytes(bytes(40_000 - len(before) - 8_000))
    ran = h200.run("compile", str(bundle), "--sessions", "1")
    assert ran.code == 2, ran.out
    assert ran.err.endswith(
        f"enginewright-runtime: {bundle}: cannot be written: No space left on device\n"
        "  fix: free some space there, or name another file with --output\n"
    )
    assert bundle.read_bytes() == before
    assert {path.name for path in small_disk.iterdir()} == {"b.ewb", "fill"}
    assert h200.is_clean()


def test_a_full_disk_for_temporary_files_is_named(h200: Bench, small_disk: Path) -> None:
    folder = small_disk / "tmp"
    folder.mkdir()
    before = h200.bundle.read_bytes()
    (small_disk / "fill").write_bytes(bytes(36_864))  # one page is left, for the engine, and none for its inputs
    ran = h200.run("compile", "b.ewb", "--sessions", "1", TMPDIR=str(folder))
    assert ran.code == 4
    assert ran.err.partition("enginewright-runtime: ")[2] == (
        f"the engine cannot be measured: {folder}: No space left on device\n"
        "  fix: free some space there, or set TMPDIR to a folder elsewhere\n"
    )
    assert h200.bundle.read_bytes() == before


@pytest.mark.parametrize("kind", ["a folder", "a folder that is not there"])
def test_a_place_that_cannot_be_written_is_told_before_anything_is_compiled(h200: Bench, kind: str) -> None:
    output = h200.folder / "tmp" if kind == "a folder" else h200.folder / "missing" / "b.ewb"
    ran = h200.run("compile", "b.ewb", "--output", str(output))
    told = "a folder, and not a file" if kind == "a folder" else "cannot be written"
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"enginewright-runtime: {output}: {told}\n  fix: name ")


def test_a_bundle_that_is_not_there_is_told_as_ever(h200: Bench) -> None:
    ran = h200.run("compile", "missing.ewb")
    assert (ran.code, ran.err) == (2, "enginewright-runtime: missing.ewb: no such file\n")
