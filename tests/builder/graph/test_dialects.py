from __future__ import annotations

import subprocess
import sys

import pytest

from enginewright.graph.dialects import DIALECTS, backend_dialect, onnxruntime_dialect


@pytest.mark.parametrize(
    ("machine", "instructions", "expected"),
    [
        ("x86_64", ("avx2",), "onnxruntime-x86"),
        ("x86_64", (), "onnxruntime-x86"),
        ("AMD64", ("avx2", "avx_vnni"), "onnxruntime-x86-vnni"),
        ("x86_64", ("avx512f", "avx512_vnni"), "onnxruntime-x86-vnni"),
        ("aarch64", ("neon",), "onnxruntime-arm"),
        ("arm64", (), "onnxruntime-arm"),
        ("riscv64", (), "onnxruntime-x86"),
    ],
)
def test_the_dialect_follows_the_instruction_sets(machine: str, instructions: tuple[str, ...], expected: str) -> None:
    assert onnxruntime_dialect(machine, instructions) == expected
    assert expected in DIALECTS


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt_rtx"])
def test_every_tensorrt_takes_the_same_dialect_whatever_the_host(backend: str) -> None:
    assert backend_dialect(backend, "x86_64", ["avx512_vnni"]) == backend_dialect(backend, "aarch64", []) == "tensorrt"


def test_an_unknown_backend_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="tpu"):
        backend_dialect("tpu", "x86_64", [])


@pytest.mark.parametrize(
    ("machine", "instructions", "expected"),
    [
        ("x86_64", ("avx2",), "openvino-x86"),
        ("x86_64", ("avx2", "avx_vnni"), "openvino-x86-vnni"),
        ("x86_64", ("avx512f", "avx512_vnni", "amx_int8"), "openvino-x86-vnni"),
        ("aarch64", ("dotprod",), "openvino-x86"),
    ],
)
def test_openvino_has_7_bit_weights_wherever_vnni_is_not_known(
    machine: str, instructions: tuple[str, ...], expected: str
) -> None:
    assert backend_dialect("openvino", machine, instructions) == expected


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_without_vnni_two_products_fit_into_16_bits(backend: str) -> None:
    activation = DIALECTS[f"{backend}-x86"].activation_limits[1]
    assert 2 * activation * DIALECTS[f"{backend}-x86"].weight_limit <= 2**15 - 1
    assert 2 * activation * DIALECTS[f"{backend}-x86-vnni"].weight_limit > 2**15 - 1  # why the limit is needed


def test_planning_can_name_a_dialect_without_onnx_or_numpy() -> None:
    code = (
        "import sys; import enginewright.graph.dialects; "
        "print([name for name in ('onnx', 'numpy', 'onnxruntime', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_environment())
    assert done.stdout.strip() == "[]"


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
