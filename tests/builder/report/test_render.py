"""The rendered report: its golden Markdown, and what the page promises: self-contained, escaped, readable, the same each time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.builder.report.report_cases import (
    CASES,
    SIGNS,
    evaluations,
    few_samples,
    hostile,
    latency,
    lights,
    resnet20,
    signs,
    unmeasured,
)

from enginewright.report import render_html, render_markdown
from enginewright.report.data import ReportData
from enginewright_runtime.budget import Verdict

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests/golden/reports"
STYLE = ROOT / "builder/enginewright/report/templates/report.css"
VOID = {"meta", "br", "hr", "img", "input", "link", "wbr"}
LARGEST = 400_000  # bytes


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    def all(self, tag: str) -> Iterator[Element]:
        for child in self.children:
            if isinstance(child, Element):
                if child.tag == tag:
                    yield child
                yield from child.all(tag)

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def __contains__(self, text: str) -> bool:
        return text in self.text


class Page(HTMLParser):
    """Builds the tree of a page, and fails where a tag is not closed in its turn."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.root = Element("", {})
        self._open = [self.root]
        self.feed(html)
        self.close()
        assert self._open == [self.root], f"left open: {[element.tag for element in self._open]}"

    def handle_starttag(self, tag, attrs):
        element = Element(tag, {name: value or "" for name, value in attrs})
        self._open[-1].children.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag, attrs):
        self._open[-1].children.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag):
        assert self._open[-1].tag == tag, f"</{tag}> closes <{self._open[-1].tag}>"
        self._open.pop()

    def handle_data(self, data):
        self._open[-1].children.append(data)


def page_of(data: ReportData) -> Element:
    return Page(render_html(data)).root


def section(page: Element, name: str) -> Element:
    return next(item for item in page.all("section") if item.attributes.get("id") == name)


@pytest.fixture(params=CASES)
def case(request):
    return request.param


def test_the_markdown_is_the_golden_one(case):
    assert render_markdown(CASES[case]()) == (GOLDEN / f"{case}.md").read_text(encoding="utf-8")


def test_the_page_parses_and_is_small(case):
    html = render_html(CASES[case]())
    Page(html)
    assert len(html.encode()) < LARGEST


def test_the_page_fetches_nothing(case):
    html = render_html(CASES[case]())
    page = Page(html).root
    fetching = {"src", "srcset", "poster", "data", "action", "formaction", "background", "xlink:href"}
    for tag in ("script", "img", "link", "iframe", "object", "embed", "image", "use", "base", "form"):
        assert list(page.all(tag)) == []
    for element in every(page):
        assert not fetching & set(element.attributes)
        assert not [name for name in element.attributes if name.startswith("on")]
        assert element.attributes.get("href", "#").startswith("#")
    style = next(page.all("style")).text
    assert "@import" not in style
    assert "url(" not in style
    assert "http://" not in html
    assert "https://" not in html


def test_nothing_is_fetched_even_if_markup_slipped_through(case):
    policies = [item for item in page_of(CASES[case]()).all("meta") if "content" in item.attributes]
    assert "default-src 'none'; style-src 'unsafe-inline'" in [item.attributes["content"] for item in policies]


def test_links_lead_to_places_on_the_page(case):
    page = page_of(CASES[case]())
    places = {element.attributes["id"] for element in every(page) if "id" in element.attributes}
    assert {link.attributes["href"].removeprefix("#") for link in page.all("a")} <= places


def test_markup_in_names_is_shown_and_not_obeyed():
    page = page_of(hostile())
    for part in ("h1", "title"):
        assert "<script>alert('x')</script>" in next(page.all(part))
    assert "<script>alert('x')</script>" in section(page, "accuracy")
    assert "<script>alert('x')</script>\"'&" in section(page, "layers")
    assert "{{ 7 * 7 }}" in next(page.all("pre"))


def test_markup_in_names_is_shown_by_markdown_too():
    text = render_markdown(hostile())
    assert "<script" not in text
    assert "| Vorfahrt gewähren \\| 優先道路 |" in text
    assert "| line end |" in text


def test_a_report_can_be_written_whatever_its_names_hold():
    assert "\N{REPLACEMENT CHARACTER}" in render_html(hostile())
    render_html(hostile()).encode()
    render_markdown(hostile()).encode()


def test_the_same_build_gives_the_same_bytes_in_another_process():
    program = (
        "from tests.builder.report.report_cases import signs\n"
        "from enginewright.report import render_html\n"
        "import sys\n"
        "sys.stdout.buffer.write(render_html(signs()).encode())"
    )
    paths = os.pathsep.join(str(ROOT / name) for name in ("builder", "runtime", "."))
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": "4711", "TZ": "Asia/Tokyo"}
    finished = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    assert finished.stdout.decode() == render_html(signs())


def test_tables_have_heads_and_charts_have_titles_or_are_hidden(case):
    page = page_of(CASES[case]())
    for table in page.all("table"):
        assert all(head.attributes["scope"] in ("col", "row") for head in table.all("th"))
        for row in next(table.all("tbody")).all("tr"):
            assert len(list(row.all("th"))) == 1
    for chart in page.all("svg"):
        if chart.attributes.get("role") == "img":
            assert next(chart.all("title")).text == chart.attributes["aria-label"]
    hidden = [chart for cell in page.all("td") for chart in cell.all("svg")]
    assert all(chart.attributes["aria-hidden"] == "true" for chart in hidden)


def test_every_row_of_a_table_has_as_many_cells_as_its_head(case):
    for table in page_of(CASES[case]()).all("table"):
        widths = {sum(int(cell.attributes.get("colspan", 1)) for cell in cells(row)) for row in table.all("tr")}
        assert len(widths) == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_their_paper(scheme):
    light, dark = re.findall(r":root \{(.*?)\n *\}", STYLE.read_text(), flags=re.DOTALL)
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", light if scheme == "light" else dark))
    pairs = [
        (name, "paper")
        for name in ("ink", "soft", "reference-ink", "engine-ink", "limit", "pass", "fail", "inconclusive")
    ]
    pairs += [(name, f"{name}-paper") for name in ("pass", "fail", "inconclusive")]
    pairs += [("ink", "raised"), ("soft", "raised")]
    pairs += [("ink", f"{name}-paper") for name in ("pass", "fail", "inconclusive")]
    for text, paper in pairs:
        assert contrast(colours[text], colours[paper]) >= 4.5, f"{text} on {paper}"


def test_the_verdict_and_its_sentence_come_first():
    banner = next(page_of(signs()).all("header"))
    assert "PASS" in banner
    assert (
        "The engine keeps within all 3 budgets; against the reference the engine is 2.73× faster at the median"
        in banner
    )


@pytest.mark.parametrize(("data", "explained"), [(signs(), False), (unmeasured(), False), (lights(), True)])
def test_what_inconclusive_means_is_said_when_it_is_the_verdict(data, explained):
    for text in (page_of(data).text, render_markdown(data)):
        assert ("neither a pass nor a failure" in text) is explained


def test_a_percentile_that_the_samples_cannot_carry_is_not_printed():
    table = next(section(page_of(few_samples()), "latency").all("table"))
    rows = {cells(row)[0].text: [cell.text for cell in cells(row)[1:]] for row in table.all("tr")}
    assert rows["p90"][0].endswith(" ms")
    assert rows["p99"] == ["p99 needs 299 samples or more, and there are 40"]


def test_warm_and_evicted_caches_have_a_table_of_their_own():
    part = section(page_of(signs()), "latency")
    [table] = [table for table in part.all("table") if "evicted" in table]
    rows = {cells(row)[0].text: [cell.text for cell in cells(row)[1:]] for row in next(table.all("tbody")).all("tr")}
    assert list(rows) == ["warm", "evicted"]
    assert rows["warm"][2].startswith("2.73×")
    assert rows["evicted"][2].startswith("3.02×")
    assert "Evicted: before each inference its process writes 256 MiB" in part
    assert "Distribution with warm caches" in part


def test_without_a_measurement_there_is_no_latency():
    page = page_of(unmeasured())
    assert list(section(page, "latency").all("svg")) == []
    assert "Nothing was measured" in section(page, "latency")
    assert " ms" not in next(page.all("table"))


def test_without_labels_the_report_speaks_of_agreement():
    page = page_of(resnet20())
    assert "There are no labels" in section(page, "accuracy")
    compared = next(page.all("table"))
    assert "Agreement" in compared
    assert "31.2 dB" in compared
    assert "Accuracy" not in compared


@pytest.mark.parametrize(("classes", "shown", "folded"), [(3, 3, 0), (20, 20, 0), (21, 10, 11), (43, 10, 33)])
def test_more_than_twenty_classes_are_folded_after_the_worst_ten(classes, shown, folded):
    part = section(page_of(with_classes(classes)), "accuracy")
    details = [table for fold in part.all("details") for table in fold.all("table")]
    tables = [table for table in part.all("table") if "classes" in table.attributes["class"] and table not in details]
    assert [len(list(next(table.all("tbody")).all("tr"))) for table in tables] == [shown]
    assert sum(len(list(next(table.all("tbody")).all("tr"))) for table in details) == folded


@pytest.mark.parametrize(("classes", "drawn"), [(3, True), (12, True), (13, False)])
def test_a_confusion_matrix_is_drawn_up_to_twelve_classes(classes, drawn):
    assert ("Confusion matrix" in section(page_of(with_classes(classes)), "accuracy")) is drawn


@pytest.mark.parametrize(("warnings", "folded"), [(1, 0), (5, 0), (6, 1), (40, 35)])
def test_more_than_five_warnings_are_folded_after_the_first_ones(warnings, folded):
    data = replace(signs(), warnings=tuple(f"quantize: layer {number} is odd" for number in range(warnings)))
    top = next(page_of(data).all("header"))
    assert sum(len(list(fold.all("li"))) for fold in top.all("details")) == folded
    assert [item.text for item in top.all("li")] == list(data.warnings)
    text = render_markdown(data)
    assert text.count("> **Warning:**") == warnings - folded
    assert text.count("is odd") == warnings


def test_a_large_network_over_many_sessions_stays_small():
    data = signs()
    layers = tuple(replace(layer, name=f"{part}.{layer.name}") for part in range(8) for layer in data.engine.layers)
    data = replace(data, latency=latency(sessions=40), reference=replace(data.reference, layers=layers))
    data = replace(data, engine=replace(data.engine, layers=layers))
    assert len(render_html(data).encode()) < LARGEST


def test_a_limit_far_from_the_samples_is_said_and_not_drawn():
    data = signs()
    far = replace(data, findings=(replace(data.findings[0], limit=4_000.0),))
    part = section(page_of(far), "latency")
    assert "The p99 budget of 4,000 ms lies far outside this chart." in part
    assert "p99 budget 4,000 ms" not in part


def test_every_verdict_has_its_colour():
    style = STYLE.read_text()
    for verdict in Verdict:
        assert f".is-{verdict.value.lower()}" in style
        assert f".verdict.{verdict.value.lower()} " in style
        assert f"svg .verdict-{verdict.value.lower()} " in style


def with_classes(number: int) -> ReportData:
    data = signs()
    before, after = evaluations(SIGNS[:number], with_confusion=True)
    return replace(
        data, reference=replace(data.reference, evaluation=before), engine=replace(data.engine, evaluation=after)
    )


def every(element: Element) -> Iterator[Element]:
    yield element
    for child in element.children:
        if isinstance(child, Element):
            yield from every(child)


def cells(row: Element) -> list[Element]:
    return [child for child in row.children if isinstance(child, Element) and child.tag in ("th", "td")]


def contrast(first: str, second: str) -> float:
    """The contrast ratio of WCAG 2.1."""
    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
