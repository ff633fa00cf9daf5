"""Projects: finding one, and where its parts lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginewright.errors import UsageError
from enginewright.project import Project, find_project


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "recipes/signs/deep").mkdir(parents=True)
    for name in ("signs", "lights"):
        (tmp_path / f"recipes/{name}.yaml").write_text("")
    return tmp_path


@pytest.fixture
def project(root: Path) -> Project:
    return find_project(root, environment={})


def test_the_nearest_folder_upward_with_recipes_is_the_project(root):
    assert find_project(root / "recipes/signs/deep", environment={}).root == root
    (root / "recipes/signs/deep/recipes").mkdir()
    assert find_project(root / "recipes/signs/deep", environment={}).root == root / "recipes/signs/deep"


def test_a_start_with_two_dots_is_followed_before_looking_upward(root, tmp_path):
    (tmp_path / "recipes/signs/deep/recipes").mkdir()
    assert find_project(root / "recipes/signs/deep/..", environment={}).root == root


def test_where_there_is_no_project_the_error_says_how_to_make_one(tmp_path):
    with pytest.raises(UsageError) as caught:
        find_project(tmp_path / "nowhere", environment={})
    assert str(caught.value) == (
        f"there is no project here: neither {tmp_path}/nowhere nor a folder above it has a folder 'recipes'\n"
        "  fix: `enginewright init` makes a project with a recipe that builds"
    )


def test_a_file_called_recipes_is_no_project(tmp_path):
    (tmp_path / "recipes").write_text("")
    with pytest.raises(UsageError):
        find_project(tmp_path, environment={})


@pytest.mark.parametrize(
    ("variable", "store"),
    [
        (None, "{root}/.enginewright"),
        ("", "{root}/.enginewright"),
        ("/fast/store", "/fast/store"),
        ("cache", "{root}/cache"),
    ],
)
def test_the_store_is_in_the_project_unless_the_environment_says_otherwise(root, variable, store):
    environment = {} if variable is None else {"ENGINEWRIGHT_STORE": variable}
    assert str(find_project(root, environment=environment).store) == store.format(root=root)


def test_the_parts_of_a_project_lie_in_its_root(project, root):
    assert (project.recipes, project.targets, project.dist) == (root / "recipes", root / "targets", root / "dist")
    assert project.recipe_names() == ("lights", "signs")


def test_a_recipe_is_found_by_its_name_and_by_its_path_from_anywhere(project, root, monkeypatch):
    expected = root / "recipes/signs.yaml"
    monkeypatch.chdir(root)
    assert project.recipe_path("signs") == expected
    assert project.recipe_path("recipes/signs.yaml") == expected
    assert project.recipe_path(str(expected)) == expected
    monkeypatch.chdir(root / "recipes/signs")
    assert project.recipe_path("../signs.yaml") == expected
    monkeypatch.chdir(root / "recipes")
    assert project.recipe_path("signs.yaml") == expected
    assert project.recipe_path("recipes/signs.yaml") == expected


@pytest.mark.parametrize("name", ["sings", "recipes/sings.yaml"])
def test_an_unknown_recipe_is_told_with_the_nearest(project, name):
    with pytest.raises(UsageError) as caught:
        project.recipe_path(name)
    assert caught.value.message == f"there is no recipe '{name}'. Did you mean 'signs'?"


def test_an_unknown_recipe_unlike_any_is_told_with_all_of_them(project):
    with pytest.raises(UsageError) as caught:
        project.recipe_path("pedestrians")
    assert caught.value.message == "there is no recipe 'pedestrians'. The recipes are: lights and signs."


def test_the_code_of_a_recipe_is_in_the_folder_of_its_name(project, root):
    assert project.code_folder(root / "recipes/signs.yaml") == root / "recipes/signs"
    assert project.code_folder(root / "recipes/signs-max.yaml", "signs") == root / "recipes/signs"


@pytest.mark.parametrize(
    ("written", "place"),
    [
        ("signs.safetensors", "{root}/recipes/signs/signs.safetensors"),
        ("weights/best.pt", "{root}/recipes/signs/weights/best.pt"),
        ("./weights/best.pt", "{root}/weights/best.pt"),
        ("../shared/best.npz", "{above}/shared/best.npz"),
        ("/data/best.th", "/data/best.th"),
    ],
)
def test_a_path_is_the_recipes_own_or_the_projects(project, root, written, place):
    assert str(project.locate(root / "recipes/signs.yaml", written)) == place.format(root=root, above=root.parent)
