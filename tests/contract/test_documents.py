"""What the pages say is so: the schema reference is up to date, links lead somewhere, and no figure stands without its command."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from enginewright.cli import main

REPOSITORY = Path(__file__).parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md")), REPOSITORY / "runtime" / "README.md"]


def test_the_schema_reference_is_what_the_code_says() -> None:
    made = runpy.run_path(str(REPOSITORY / "docs" / "make_schema.py"))["schema_page"]()
    assert (REPOSITORY / "docs" / "schema.md").read_text() == made, "run: python docs/make_schema.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_and_named_files_are_there(page: Path) -> None:
    text = page.read_text()
    for link in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", text):
        assert (page.parent / link).exists(), link
    for named in re.findall(r"benchmarks/\w+\.py", text):
        assert (REPOSITORY / named).exists(), named


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_commands_of_the_pages_exist(page: Path) -> None:
    for command in re.findall(r"^    (?:\S*/)?enginewright (\w+)", page.read_text(), flags=re.MULTILINE):
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0, command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_what_the_pages_build_is_listed_in_the_recipe(page: Path) -> None:
    for options in re.findall(r"make build ((?:TARGET|RECIPE)=[^`\n]+)", page.read_text()):
        named = dict(re.findall(r"(TARGET|RECIPE)=([\w-]+)", options))
        recipe = (REPOSITORY / "recipes" / f"{named.get('RECIPE', 'signs')}.yaml").read_text()
        assert re.search(rf"^  {named['TARGET']}:", recipe.partition("\ntargets:")[2], flags=re.MULTILINE), options
