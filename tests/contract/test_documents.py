"""What the pages say is so: the schema reference is up to date, links lead somewhere, and no figure stands without its command."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from enginewright.cli import main
from enginewright.target import load_target

REPOSITORY = Path(__file__).parents[2]
PAGES = [
    *(REPOSITORY / folder / "README.md" for folder in ("", "runtime", "tests/gpu")),
    *sorted((REPOSITORY / "docs").rglob("*.md")),
]


def headings(page: Path) -> set[str]:
    """As links name them: small letters, digits and hyphens."""
    found = re.findall(r"^#+ (.+)", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found}


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
def test_headings_that_links_name_are_there(page: Path) -> None:
    for link, heading in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", page.read_text()):
        assert heading in headings(page.parent / link if link else page), f"{link}#{heading}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_targets_of_the_pages_are_valid(page: Path, tmp_path: Path) -> None:
    for block in re.findall(r"^```yaml\n(target: 1\n.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL):
        name = re.search(r"^name: (\S+)", block, flags=re.MULTILINE)[1]
        (tmp_path / f"{name}.yaml").write_text(block)
        assert load_target(name, [tmp_path]).name == name


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
