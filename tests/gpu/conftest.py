"""Tests that need an NVIDIA GPU and TensorRT; each is skipped, with the reason, where one of them is missing.

They need numpy, onnx, pytest, TensorRT 8.6 to 11, and pycuda or cuda.bindings: neither the builder's libraries nor torch.
    python -m pytest tests/gpu -m gpu -s
tests/gpu/README.md tells how the recipes' material gets onto a device.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tests.gpu.effort import Effort, chosen_effort
from tests.gpu.prepared import Prepared, prepared_names, read_prepared

from enginewright_runtime import finishing
from enginewright_runtime.errors import BackendMissing
from enginewright_runtime.measure import measure
from enginewright_runtime.tensorrt import gpu_time
from enginewright_runtime.tensorrt.cuda import open_cuda
from enginewright_runtime.tensorrt.device import Device, NoDevice, probe
from enginewright_runtime.tensorrt.library import Library, load

FOLDER_VARIABLE = "ENGINEWRIGHT_GPU_RECIPES"
_RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(scope="session")
def device() -> Device:
    try:
        return probe()
    except NoDevice as error:
        pytest.skip(error.message)


@pytest.fixture(scope="session")
def library(device: Device) -> Library:
    try:
        found = load("tensorrt")
        open_cuda().free()
    except BackendMissing as error:
        pytest.skip(error.message)
    return found


@pytest.fixture(scope="session", autouse=True)
def effort() -> Iterator[Effort]:
    """What is asked for; where that is little, the runtime's own measuring is cut short, too."""
    wanted = chosen_effort()
    with pytest.MonkeyPatch.context() as patch:
        if wanted != Effort():
            short = {"rounds": wanted.rounds, "chunk": wanted.chunk, "warm_up": wanted.warm_up}
            patch.setattr(finishing, "measure", partial(measure, **short))
            timed = partial(gpu_time.time_on_gpu, warm_up_ns=wanted.gpu_warm_up_ns, least_ns=wanted.gpu_ns)
            patch.setattr(gpu_time, "time_on_gpu", timed)
        yield wanted


@pytest.fixture(scope="session")
def timings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for the timings of the whole run: what one test timed, the next one finds."""
    return tmp_path_factory.getbasetemp() / "timings"


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, timings: Path) -> Any:
    monkeypatch.setenv("ENGINEWRIGHT_CACHE", str(timings))
    return timings


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Once for each recipe of the prepared folder; without one, for each recipe of this repository."""
    if "prepared" in metafunc.fixturenames:
        folder = os.environ.get(FOLDER_VARIABLE)
        names = prepared_names(Path(folder)) if folder else tuple(sorted(path.stem for path in _RECIPES.glob("*.yaml")))
        metafunc.parametrize("prepared", names or ("none",), indirect=True, scope="session")


@pytest.fixture(scope="session")
def prepared(request: pytest.FixtureRequest, library: Library, device: Device, tmp_path_factory: Any) -> Prepared:
    """A recipe's material: carried here, or made here where the builder is."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder:
        return read_prepared(Path(folder), request.param)
    if lacking := [name for name in ("torch", "onnxscript", "onnxruntime") if find_spec(name) is None]:
        pytest.skip(
            f"{FOLDER_VARIABLE} names no prepared folder, and the builder cannot make one without {', '.join(lacking)}: "
            "see tests/gpu/README.md"
        )
    from tests.gpu.prepare import prepare_recipe, recipes_for, target_of

    target = target_of(device)
    if target is None:
        pytest.skip(f"no target of the catalogue has a {device.name}'s compute capability {device.compute_capability}")
    if request.param not in recipes_for(target):
        pytest.skip(f"{request.param} does not list the target {target}")
    made: Path = tmp_path_factory.getbasetemp() / "recipes"
    print(prepare_recipe(made, request.param, target))
    return read_prepared(made, request.param)
