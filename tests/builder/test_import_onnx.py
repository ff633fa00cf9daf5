"""A network that comes as ONNX is checked, held against what the recipe says of it, and must be whole in its file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.builder.lone_stage import LoneStage

from enginewright.errors import DataError

MODEL = {"inputs": {"x": {"shape": ["batch", 4], "dtype": "float32"}}, "outputs": ["y"]}


def network(
    *,
    weight: float = 1.0,
    batch: int | str = "batch",
    width: int = 4,
    dtype: int = TensorProto.FLOAT,
    op: str = "MatMul",
) -> onnx.ModelProto:
    values = [
        helper.make_tensor_value_info("x", dtype, [batch, width]),
        helper.make_tensor_value_info("y", dtype, [batch, 300]),
    ]
    matrix = np.full((width, 300), weight, helper.tensor_dtype_to_np_dtype(dtype))
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w"], ["y"])], "g", values[:1], values[1:], [numpy_helper.from_array(matrix, "w")]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def beside(path: Path) -> None:
    onnx.save(network(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "not there": (lambda path: None, "is not a valid ONNX network"),
    "empty": (lambda path: path.write_bytes(b""), "is not a valid ONNX network"),
    "garbage": (lambda path: path.write_bytes(b"\x00garbage"), "is not a valid ONNX network"),
    "cut short": (lambda path: path.write_bytes(network().SerializeToString()[:900]), "is not a valid ONNX network"),
    "unknown operator": (lambda path: onnx.save(network(op="Matmul"), path), "is not a valid ONNX network: .*Matmul"),
    "weights beside it": (beside, "keeps weights in files beside it"),
    "NaN": (lambda path: onnx.save(network(weight=np.nan), path), "the weight 'w' holds NaN or infinity"),
    "another batch": (lambda path: onnx.save(network(batch=1), path), r"'x' has the shape \[1, 4\], the recipe says"),
    "another width": (lambda path: onnx.save(network(width=5), path), r"'x' has the shape \['batch', 5\]"),
    "another dtype": (
        lambda path: onnx.save(network(dtype=TensorProto.DOUBLE), path),
        "input 'x' is float64, the recipe says float32",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_network_that_is_not_what_the_recipe_says_is_refused(fault: str, lone: LoneStage, tmp_path: Path) -> None:
    write, words = FAULTS[fault]
    write(tmp_path / "net.onnx")
    with pytest.raises(DataError, match=words) as caught:
        lone.run("import_onnx", {"model": MODEL}, onnx=tmp_path / "net.onnx")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({**MODEL, "inputs": {"image": MODEL["inputs"]["x"]}}, r"inputs are \['x'\], the recipe's are \['image'\]"),  # type: ignore[index]
        ({**MODEL, "outputs": ["scores"]}, r"outputs are \['y'\], the recipe's are \['scores'\]"),
    ],
)
def test_names_that_differ_are_shown_on_both_sides(
    model: dict[str, Any], words: str, lone: LoneStage, tmp_path: Path
) -> None:
    onnx.save(network(), tmp_path / "net.onnx")
    with pytest.raises(DataError, match=words):
        lone.run("import_onnx", {"model": model}, onnx=tmp_path / "net.onnx")


def test_a_network_that_fits_goes_on_as_it_is(lone: LoneStage, tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "net.onnx")
    ran = lone.run("import_onnx", {"model": MODEL}, onnx=tmp_path / "net.onnx")
    assert onnx.load(ran.output("exported")) == network()
    assert ran.outcome.summary == {"operators": 1, "opset": 18}


def test_a_recipe_may_fix_a_size_that_the_network_leaves_free(lone: LoneStage, tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "net.onnx")
    fixed = {**MODEL, "inputs": {"x": {"shape": [8, 4], "dtype": "float32"}}}
    assert lone.run("import_onnx", {"model": fixed}, onnx=tmp_path / "net.onnx").output("exported").is_file()


def test_weights_that_the_file_lists_as_inputs_are_no_inputs(lone: LoneStage, tmp_path: Path) -> None:
    """As files of before 2019 do."""
    old = network()
    old.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 300]))
    onnx.save(old, tmp_path / "net.onnx")
    assert lone.run("import_onnx", {"model": MODEL}, onnx=tmp_path / "net.onnx").outcome.summary["operators"] == 1
