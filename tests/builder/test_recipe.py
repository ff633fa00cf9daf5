"""Recipes: what a valid one becomes, and the golden text of every wrong one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from enginewright.compression import Calibration, Distill, Prune, Quantize, Recover
from enginewright.errors import RecipeError
from enginewright.recipe import Budget, Data, Factory, Recipe, TensorSpec, effective_budget, load_recipe
from enginewright.target import Target

GOLDEN = Path(__file__).parents[1] / "golden/errors/recipes"
ONNX = "{onnx: signs.onnx, inputs: {image: {shape: [batch, 3, 64, 64], dtype: float32}}, outputs: [logits]}"
CPU = Target(target=1, name="cpu", summary="this computer", backend="onnxruntime", build="here", threads=1)

SIGNS = """\
recipe: 1
name: signs
model:
  factory: model:SignNet
  arguments: {width: {{ width | default(32) }}}
  weights: signs.safetensors
  inputs: {image: {shape: [batch, 3, 64, 64], dtype: float32}}
  outputs: [logits]
data:
  factory: data:Signs
  arguments: {root: "{{ env.SIGNS_DATA | default('') }}"}
metric: top1
compress:
  - prune: {importance: magnitude, macs: 0.35, round_to: 4, keep: [head]}
  - recover: {epochs: 4, learning_rate: 1e-3, distill: {temperature: 2}}
  - quantize: {calibration: {method: entropy, samples: 256}, keep_float: ["/head/*"]}
budget: {accuracy_drop: 0.01, size_mib: 2}
targets:
  cpu:  {budget: {latency_p99_ms: 4.0, size_mib: 1}}
  orin: {}
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Loads the text of a recipe as recipes/signs.yaml of a project that is the working folder."""
    (tmp_path / "recipes").mkdir()
    monkeypatch.chdir(tmp_path)

    def load_text(text: str, *, settings=None, environment=None) -> Recipe:
        path = Path("recipes/signs.yaml")
        path.write_text(text)
        return load_recipe(path, target=CPU, settings=settings or {}, environment=environment or {})

    return load_text


@pytest.mark.parametrize("wrong", sorted(GOLDEN.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_wrong_recipe_is_refused_with_its_golden_text(wrong, load):
    with pytest.raises(RecipeError) as caught:
        load(wrong.read_text())
    assert f"{caught.value}\n" == wrong.with_suffix(".txt").read_text()
    assert caught.value.exit_code == 2


def test_a_recipe_becomes_frozen_values(load):
    recipe = load(SIGNS)
    assert recipe.model.factory == "model:SignNet"
    assert recipe.model.arguments == {"width": 32}
    assert recipe.model.inputs == {"image": TensorSpec(shape=("batch", 3, 64, 64), dtype="float32")}
    assert recipe.data == Data(factory="data:Signs", arguments={"root": ""})
    assert recipe.compress == (
        Prune(macs=0.35, importance="magnitude", round_to=4, keep=("head",)),
        Recover(epochs=4, learning_rate=0.001, distill=Distill(temperature=2.0, weight=0.7)),
        Quantize(calibration=Calibration(method="entropy", samples=256), keep_float=("/head/*",)),
    )
    with pytest.raises(AttributeError):
        recipe.compress[0].macs = 0.5


def test_what_is_left_out_has_its_default(load):
    recipe = load(SIGNS.replace("importance: magnitude, macs: 0.35, round_to: 4, keep: [head]", "macs: 0.35"))
    assert recipe.compress[0] == Prune(macs=0.35, importance="taylor", round_to=None, keep=(), samples=512, rounds=1)
    assert Recover(epochs=1, learning_rate=0.1) == Recover(
        epochs=1, learning_rate=0.1, batch_size=64, weight_decay=0.0005, seed=0, distill=None
    )
    assert Calibration() == Calibration(method="auto", samples=512)
    assert Quantize() == Quantize(keep_float="auto", accuracy_drop=None, equalize=False, correct_bias=False)
    assert recipe.summary == ""


def test_a_recipe_knows_its_file_and_the_text_that_was_parsed(load, tmp_path):
    recipe = load(SIGNS, settings={"width": 16}, environment={"SIGNS_DATA": "/data"})
    assert recipe.path == tmp_path / "recipes/signs.yaml"
    assert "arguments: {width: 16}" in recipe.rendered
    assert 'root: "/data"' in recipe.rendered
    assert recipe.model.arguments == {"width": 16}


def test_two_recipes_with_the_same_values_are_equal_however_they_are_written(load):
    assert load(SIGNS) == load(SIGNS.replace("learning_rate: 1e-3", "learning_rate: 0.0010"))


def test_the_budget_of_the_target_comes_before_that_of_the_recipe(load):
    recipe = load(SIGNS)
    assert effective_budget(recipe, "cpu") == {"accuracy_drop": 0.01, "latency_p99_ms": 4.0, "size_mib": 1.0}
    assert effective_budget(recipe, "orin") == {"accuracy_drop": 0.01, "size_mib": 2.0}
    assert recipe.budget == Budget(accuracy_drop=0.01, size_mib=2.0)


def test_a_budget_of_zero_accuracy_drop_is_a_limit_and_not_its_absence(load):
    recipe = load(SIGNS.replace("latency_p99_ms: 4.0", "accuracy_drop: 0"))
    assert effective_budget(recipe, "cpu")["accuracy_drop"] == 0


def test_a_network_that_comes_as_onnx_can_be_quantized(load, tmp_path):
    recipe = load(
        f"recipe: 1\nname: signs\nmodel: {ONNX}\ndata: {{factory: data:Signs}}\nmetric: fidelity\n"
        "compress: [quantize: {}]\ntargets: {cpu: {}}\n"
    )
    assert recipe.model.onnx == "signs.onnx"
    assert recipe.compress == (Quantize(),)


def test_a_recipe_may_compress_nothing(load):
    lines = ("recipe: 1", "name: signs", f"model: {ONNX}", "data: {factory: data:Signs}", "metric: fidelity")
    assert load("\n".join([*lines, "targets: {cpu: {}}"])).compress == ()


def test_a_metric_may_be_a_factory(load):
    recipe = load(SIGNS.replace("metric: top1", "metric: {factory: metric:MeanIoU, arguments: {classes: 19}}"))
    assert recipe.metric == Factory(factory="metric:MeanIoU", arguments={"classes": 19})


def test_fine_tuning_without_pruning_is_allowed(load):
    assert isinstance(
        load(SIGNS.replace("  - prune: {importance: magnitude, macs: 0.35, round_to: 4, keep: [head]}\n", "")).compress[
            0
        ],
        Recover,
    )


def test_pruning_by_magnitude_needs_no_labels(load):
    text = "\n".join(line for line in SIGNS.splitlines() if "recover" not in line).replace(
        "metric: top1", "metric: fidelity"
    )
    assert isinstance(load(text).compress[0], Prune)


def test_every_key_of_the_rendered_text_is_told_in_windows_line_ends_too(load, tmp_path):
    (tmp_path / "recipes/signs.yaml").write_bytes(SIGNS.replace("macs: 0.35", "macs: 7").replace("\n", "\r\n").encode())
    with pytest.raises(RecipeError, match=r"^recipes/signs\.yaml:14: compress\[0\]\.prune\.macs must be between"):
        load_recipe(Path("recipes/signs.yaml"), target=CPU, settings={}, environment={})


def test_a_recipe_that_is_not_there_is_said_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError) as caught:
        load_recipe(Path("recipes/none.yaml"), target=CPU, settings={}, environment={})
    assert str(caught.value) == "recipes/none.yaml: cannot be read: No such file or directory"


def test_loading_a_recipe_imports_nothing_heavy():
    heavy = ["torch", "onnx", "onnxruntime", "pydantic", "rich", "safetensors", "PIL"]
    code = f"import sys, enginewright.recipe, enginewright.project; print([m for m in {heavy} if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=_python_path())
    assert shown.stdout.strip() == "[]"


def _python_path() -> dict[str, str]:
    root = Path(__file__).parents[2]
    return {"PYTHONPATH": f"{root / 'builder'}:{root / 'runtime'}", "PATH": "/usr/bin:/bin"}
