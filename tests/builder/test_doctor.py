"""The doctor looks at the host and says what can be done, what cannot, and what to install; whatever it meets."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from enginewright import doctor
from enginewright.doctor import Finding, Health, doctor_text, examine_host


@pytest.fixture(autouse=True)
def calm_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with everything, in a project: each test takes one thing away."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "signs.yaml").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ENGINEWRIGHT_STORE", raising=False)
    monkeypatch.setattr(doctor.os, "getloadavg", lambda: (0.25, 0.0, 0.0))
    monkeypatch.setattr(doctor.host, "usable_cores", lambda: 4)
    monkeypatch.setattr(doctor.host, "machine", lambda: "x86_64")
    monkeypatch.setattr(doctor.host, "instruction_sets", lambda: ("avx2", "avx512_vnni"))
    monkeypatch.setattr(doctor.host, "fingerprint", lambda: {"governor": "performance"})
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: SimpleNamespace(free=50 * 2**30))


def found(what: str) -> Finding:
    (finding,) = [item for item in examine_host().findings if item.what == what]
    return finding


def test_what_is_installed_is_shown_with_its_version() -> None:
    assert found("torch") == Finding("torch", "ok", importlib.metadata.version("torch"))
    assert found("onnxruntime").state == "ok"


def test_what_is_missing_is_named_with_its_use_and_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name in ("torch-pruning", "onnxruntime"):
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert found("torch-pruning") == Finding(
        "torch-pruning", "missing", "not installed; prune needs it", "pip install torch-pruning"
    )
    assert found("onnxruntime").fix == "pip install onnxruntime"


@pytest.mark.parametrize("distributions", [[], ["tensorrt_rtx_cu99_bindings"]])
def test_tensorrt_rtx_is_found_whatever_cuda_it_is_for(
    distributions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(
        importlib.metadata,
        "packages_distributions",
        lambda: {"tensorrt_rtx_bindings": distributions} if distributions else {},
    )
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.2.3")
    finding = found("TensorRT-RTX")
    assert finding.state == "ok"
    assert finding.found.startswith("1.2.3" if distributions else "of unknown version")


def test_without_tensorrt_rtx_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    assert found("TensorRT-RTX").state == "missing"
    assert found("TensorRT-RTX").fix == "pip install 'enginewright[tensorrt-rtx]'"


@pytest.mark.parametrize(
    ("machine", "sets", "state"),
    [
        ("x86_64", ("avx2", "avx512_vnni"), "ok"),
        ("x86_64", ("avx2", "avx_vnni"), "ok"),
        ("x86_64", ("avx2", "avx512f"), "warning"),
        ("x86_64", (), "warning"),
        ("aarch64", ("asimddp",), "ok"),
        ("riscv64", (), "warning"),  # unknown: quantized as carefully as the worst
    ],
)
def test_a_processor_whose_int8_products_may_saturate_is_a_warning(
    machine: str, sets: tuple[str, ...], state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor.host, "machine", lambda: machine)
    monkeypatch.setattr(doctor.host, "instruction_sets", lambda: sets)
    assert found("processor").state == state
    assert ("7 bits" in found("processor").fix) == (state == "warning")


def answer(code: int, out: str = "", err: str = "") -> Any:
    return lambda *arguments, **options: subprocess.CompletedProcess(arguments, code, out, err)


def raises(error: Exception) -> Any:
    def run(*arguments: object, **options: object) -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("run", "state", "words"),
    [
        (answer(0, "NVIDIA H100, 570.1, 1980 MHz, 1980 MHz\n"), "ok", "NVIDIA H100, 570.1, 1980 MHz, 1980 MHz"),
        (answer(0, "one\ntwo\n"), "ok", "one; two"),
        (answer(9, "NVIDIA-SMI has failed\nmore\n"), "missing", "NVIDIA-SMI has failed"),
        (answer(9, "", "no driver\n"), "missing", "no driver"),
        (answer(9), "missing", "nvidia-smi ended with 9"),
        (raises(subprocess.TimeoutExpired("nvidia-smi", 20)), "warning", "nvidia-smi gave no answer in 20 s"),
        (raises(OSError(8, "Exec format error")), "missing", "/bin/nvidia-smi does not run: Exec format error"),
    ],
)
def test_whatever_nvidia_smi_does_is_an_answer(
    run: Any, state: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/bin/nvidia-smi")
    monkeypatch.setattr(doctor.subprocess, "run", run)
    assert (found("NVIDIA GPU").state, found("NVIDIA GPU").found) == (state, words)


def test_without_nvidia_smi_there_is_no_gpu_and_nothing_to_mend() -> None:
    assert (found("NVIDIA GPU").state, found("NVIDIA GPU").fix) == ("missing", "")


@pytest.mark.parametrize(("load", "state"), [(0.25, "ok"), (2.0, "ok"), (2.5, "warning")])
def test_a_load_above_half_of_the_cores_disturbs_measurements(
    load: float, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor.os, "getloadavg", lambda: (load, 0.0, 0.0))
    assert found("load").state == state


@pytest.mark.parametrize(("governor", "state"), [("performance", "ok"), (None, "ok"), ("powersave", "warning")])
def test_a_governor_that_saves_power_is_a_warning(
    governor: str | None, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor.host, "fingerprint", lambda: {"governor": governor})
    assert found("clocks").state == state


def test_the_project_is_shown_with_its_recipes_and_its_store(tmp_path: Path) -> None:
    assert found("project").found == f"{tmp_path}: recipes signs"
    assert found("store").found == f"{tmp_path / '.enginewright'}, 50.0 GiB free"


def test_outside_a_project_it_says_how_to_make_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes" / "signs.yaml").unlink()
    (tmp_path / "recipes").rmdir()
    assert found("project").state == "missing"
    assert "enginewright init" in found("project").fix


def test_a_store_that_cannot_be_written_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.os, "access", lambda folder, mode: False)
    assert found("store").state == "warning"
    assert "ENGINEWRIGHT_STORE" in found("store").fix


def test_a_disk_that_is_nearly_full_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**30))
    assert found("store").state == "warning"
    assert "only 1.0 GiB free" in found("store").found


def test_the_text_has_a_line_for_each_finding_with_its_fix_below() -> None:
    health = Health((Finding("torch", "ok", "2.13"), Finding("load", "warning", "9 on 4 cores", "wait")))
    assert doctor_text(health) == (
        "ok       torch                    2.13\n"
        "warning  load                     9 on 4 cores\n"
        "                                  wait"
    )


def test_the_json_has_every_finding_with_its_four_parts() -> None:
    content = json.loads(json.dumps(examine_host().to_json()))
    assert {"torch", "processor", "NVIDIA GPU", "load", "project", "store"} <= {item["what"] for item in content}
    assert all(set(item) == {"what", "state", "found", "fix"} for item in content)
    assert {item["state"] for item in content} <= {"ok", "missing", "warning"}


def test_a_finding_that_is_not_ok_says_what_to_do_but_for_a_gpu_that_nobody_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor.os, "getloadavg", lambda: (99.0, 0.0, 0.0))
    monkeypatch.setattr(doctor.host, "instruction_sets", lambda: ())
    silent = [item.what for item in examine_host().findings if item.state != "ok" and not item.fix]
    assert silent == ["NVIDIA GPU"]
