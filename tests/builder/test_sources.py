"""What a recipe brings from outside enters keys by its content, never by its place; and what is missing is named."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from enginewright.errors import DataError
from enginewright.project import Project
from enginewright.recipe import Data, Factory, Model, Recipe, TensorSpec
from enginewright.sources import Source, Sources, gather_sources, place_sources

SPEC = TensorSpec(shape=("batch", 3), dtype="float32")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project whose recipe `net` has its code, its weights, a folder of images and a list of names."""
    root = tmp_path / "project"
    code, images = root / "recipes" / "net", root / "images"
    (code / "parts").mkdir(parents=True)
    (images / "red").mkdir(parents=True)
    (root / "recipes" / "net.yaml").write_text("recipe: 1\n")
    (code / "model.py").write_text("model")
    (code / "parts" / "block.py").write_text("block")
    (code / "notes.txt").write_text("notes")
    (code / "net.npz").write_bytes(b"weights")
    (images / "red" / "1.png").write_bytes(b"first")
    (images / "2.png").write_bytes(b"second")
    (root / "names.txt").write_text("names")
    return Project(root, root / ".enginewright")


def recipe_of(project: Project, **changed: Any) -> Recipe:
    data = Data(factory="data:Images", arguments={"root": "images", "names": ["names.txt", "none"], "size": 3})
    parts = {
        "model": Model(factory="model:Net", weights="net.npz", inputs={"x": SPEC}, outputs=("y",)),
        "data": data,
        "metric": "top1",
        **changed,
    }
    return Recipe(recipe=1, name="net", targets={}, path=project.root / "recipes" / "net.yaml", **parts)


def gather(project: Project, **changed: Any) -> Sources:
    return gather_sources(recipe_of(project, **changed), project, target="cpu")


def digests(sources: Sources) -> dict[str, str]:
    parts = (sources.code, sources.files, sources.arguments)
    return {label: source.digest for part in parts for label, source in part.items()}


def test_code_weights_and_named_files_are_digested_under_labels_without_places(project: Project) -> None:
    sources = gather(project)
    assert set(digests(sources)) == {
        "code/model.py", "code/parts/block.py", "weights", "data.arguments.root", "data.arguments.names.0",
    }  # fmt: skip
    assert sources.code["code/model.py"].digest == sha256(b"model").hexdigest()
    assert sources.files["weights"].digest == sha256(b"weights").hexdigest()
    assert sources.arguments["data.arguments.names.0"] == Source(sha256(b"names").hexdigest(), "names.txt")
    assert sources.arguments["data.arguments.root"].location == "images"


def test_a_project_that_moves_keeps_every_digest(project: Project, tmp_path: Path) -> None:
    before = digests(gather(project))
    moved = shutil.copytree(project.root, tmp_path / "elsewhere")
    for path in moved.rglob("*"):
        os.utime(path, (0, 0))
    assert digests(gather(Project(moved, moved / ".enginewright"))) == before


@pytest.mark.parametrize(
    ("file", "label"),
    [
        ("recipes/net/model.py", "code/model.py"),
        ("recipes/net/parts/block.py", "code/parts/block.py"),
        ("recipes/net/net.npz", "weights"),
        ("images/red/1.png", "data.arguments.root"),
        ("names.txt", "data.arguments.names.0"),
    ],
)
def test_one_changed_byte_changes_the_digest_of_its_source_alone(file: str, label: str, project: Project) -> None:
    before = digests(gather(project))
    path = project.root / file
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    after = digests(gather(project))
    assert {name for name in before if before[name] != after[name]} == {label}


@pytest.mark.parametrize("change", ["rename", "move", "add", "remove"])
def test_a_folder_is_its_files_with_their_names(change: str, project: Project) -> None:
    before, images = digests(gather(project))["data.arguments.root"], project.root / "images"
    if change == "rename":
        (images / "2.png").rename(images / "3.png")
    elif change == "move":
        (images / "2.png").rename(images / "red" / "2.png")
    elif change == "add":
        (images / "red" / "empty.png").touch()
    else:
        (images / "2.png").unlink()
    assert digests(gather(project))["data.arguments.root"] != before


def test_files_behind_a_linked_folder_count_and_a_link_that_leads_back_ends(project: Project, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "3.png").write_bytes(b"third")
    (project.root / "images" / "linked").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(project.root / "images")
    before = digests(gather(project))["data.arguments.root"]
    (elsewhere / "3.png").write_bytes(b"changed")
    assert digests(gather(project))["data.arguments.root"] != before


def test_hidden_files_empty_folders_and_text_beside_the_code_do_not_count(project: Project) -> None:
    before = digests(gather(project))
    (project.root / "images" / ".DS_Store").write_bytes(b"x")
    (project.root / "images" / ".cache").mkdir()
    (project.root / "images" / ".cache" / "1.png").write_bytes(b"x")
    (project.root / "images" / "empty").mkdir()
    (project.root / "recipes" / "net" / "notes.txt").write_text("other notes")
    assert digests(gather(project)) == before


def test_arguments_of_the_model_and_the_metric_count_and_each_part_has_its_own(project: Project) -> None:
    model = replace(recipe_of(project).model, arguments={"anchors": "names.txt"})
    metric = Factory(factory="metric:IoU", arguments={"nested": {"deep": ["names.txt"]}})
    sources = gather(project, model=model, metric=metric)
    assert set(sources.arguments_of("model")) == {"model.arguments.anchors"}
    assert set(sources.arguments_of("metric")) == {"metric.arguments.nested.deep.0"}
    assert set(sources.arguments_of("data")) == {"data.arguments.root", "data.arguments.names.0"}


@pytest.mark.parametrize(
    "text", ["", " ", "nothing", "/", ".", "..", "/dev/zero", "x" * 5000, "images/" + "y" * 300, "a\0b"]
)
def test_a_text_that_names_no_content_is_a_text(text: str, project: Project) -> None:
    """A separator, a device and a long prompt are no data; the folder of the project holds the store."""
    sources = gather(project, data=Data(factory="data:Images", arguments={"text": text}))
    assert sources.arguments == {}
    assert sources.content_of("data.arguments", {"text": text}) == {"text": text}


def test_an_absolute_path_is_a_source_too(project: Project, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    sources = gather(project, data=Data(factory="data:Images", arguments={"root": str(tmp_path / "outside")}))
    assert sources.arguments["data.arguments.root"].location == str(tmp_path / "outside")


def test_content_that_cannot_be_read_is_named(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        if path.name == "1.png":
            raise PermissionError(13, "Permission denied", str(path))
        return "0" * 64

    monkeypatch.setattr("enginewright.sources.sha256_file", refuse)
    with pytest.raises(DataError, match=r"net\.yaml: data\.arguments\.root: .*red/1\.png: Permission denied"):
        gather(project)


def test_arguments_lose_their_places_and_get_them_back(project: Project) -> None:
    sources = gather(project)
    arguments = {"root": "images", "names": ["names.txt", "none"], "size": 3}
    content = sources.content_of("data.arguments", arguments)
    assert content == {
        "root": {"source": "data.arguments.root"},
        "names": [{"source": "data.arguments.names.0"}, "none"],
        "size": 3,
    }
    assert place_sources(content, sources.arguments) == arguments
    elsewhere = {label: Source(source.digest, f"/moved/{label}") for label, source in sources.arguments.items()}
    assert place_sources(content, elsewhere)["root"] == "/moved/data.arguments.root"


KEYS = some.text("abcdef", min_size=1, max_size=4)
VALUES = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False) | some.text(),
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(arguments=some.dictionaries(KEYS, VALUES, max_size=5))
def test_arguments_without_sources_stay_as_they_are(arguments: dict[str, Any]) -> None:
    nothing = Sources({}, {}, {})
    assert place_sources(nothing.content_of("data.arguments", arguments), {}) == arguments


def test_missing_weights_with_a_script_that_trains_them_name_the_command(project: Project) -> None:
    (project.root / "recipes" / "net" / "net.npz").unlink()
    (project.root / "recipes" / "net" / "train.py").touch()
    with pytest.raises(DataError, match=r"net\.yaml: model\.weights: there is no file .*net\.npz") as caught:
        gather(project)
    assert caught.value.hint == "make train RECIPE=net"


def test_missing_weights_with_variables_in_the_recipe_name_them(project: Project) -> None:
    (project.root / "recipes" / "net" / "net.npz").unlink()
    (project.root / "recipes" / "net.yaml").write_text("weights: {{ env.NET_WEIGHTS }}{{ env.DATA | default('') }}\n")
    with pytest.raises(DataError) as caught:
        gather(project)
    assert caught.value.hint.startswith("set DATA and NET_WEIGHTS to where your data is")


def test_missing_weights_of_any_other_recipe_say_where_to_put_them(project: Project) -> None:
    (project.root / "recipes" / "net" / "net.npz").unlink()
    with pytest.raises(DataError) as caught:
        gather(project)
    assert caught.value.hint.startswith("put the file there, or correct model.weights in ")


def test_a_folder_in_place_of_the_weights_is_refused(project: Project) -> None:
    (project.root / "recipes" / "net" / "net.npz").unlink()
    (project.root / "recipes" / "net" / "net.npz").mkdir()
    with pytest.raises(DataError, match=r"model\.weights: .*net\.npz: Is a directory"):
        gather(project)


def test_a_network_that_comes_as_onnx_is_a_file_and_has_no_weights(project: Project) -> None:
    (project.root / "recipes" / "net" / "net.onnx").write_bytes(b"onnx")
    sources = gather(project, model=Model(onnx="net.onnx", inputs={"x": SPEC}, outputs=("y",)))
    assert {label: source.digest for label, source in sources.files.items()} == {"onnx": sha256(b"onnx").hexdigest()}
