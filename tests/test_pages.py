"""What others wrote never becomes part of a page: hostile values in every field, and templates without a hole."""

import re
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import polars as pl
import pytest

from bench.evaluation import plot
from bench.evaluation.browse import said
from bench.evaluation.panels import Curve, Panel
from curate.pages import policy, render
from curate.stages.plots import domain_plot, length_plot
from engine.figure_style import save

ROOT = Path(__file__).parents[1]
TEMPLATES = sorted(p for floor in ("bench", "curate", "engine", "train") for p in (ROOT / floor).rglob("*.html.jinja"))
SAMPLES, REPORT = ROOT / "bench/evaluation/samples.html.jinja", ROOT / "curate/stages/report.html.jinja"
IMAGES = [
    (name, f"data:image/svg+xml;base64,{{{{ {kind} }}}}") for name, kind in (("src", "light"), ("srcset", "dark"))
]
"""The sources that an image may have."""
HOSTILE = (
    '"><script>alert(1)</script>',
    "' onmouseover='alert(1)' x='",
    " onerror=alert(1) ",
    "</script><script>alert(1)</script>",
    "</pre></details></title></style><img src=x onerror=alert(1)>",
    "javascript:alert(1)",
    "<!-- --><svg/onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;script&gt; &#60; ]]>",
    "\ud800\x00\x1b[31m\u202e",
)


class Page(HTMLParser):
    """Elements with the names of their attributes, in order; the values and texts apart."""

    def __init__(self, page: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, ...]] = []
        self.values: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(page.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, *(name for name, _ in attrs)))
        self.values += [value or "" for _, value in attrs]
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.elements.append(("/", tag))
        self._inside = ""

    def handle_data(self, data: str) -> None:
        self.values.append(data)
        if self._inside == "script":
            self.scripts.append(data)

    def handle_comment(self, data: str) -> None:
        self.elements.append(("comment", data))


def samples(text: Any) -> bytes:
    """The samples page with `text` in every field that a run, a data set or an endpoint fills."""
    key = str(text)
    problem = SimpleNamespace(id=key, group=text, reference=text)
    task = SimpleNamespace(name=key, private=False, problems=[problem])
    row = dict.fromkeys(("condition", "sample", "thinking_tokens", "extensions", "stop_reason"), text)
    graded = SimpleNamespace(correct=True, extracted=text, rule=text)
    return render(
        SAMPLES,
        name=text,
        problems=1,
        conditions=[text],
        tasks=[task],
        samples={(key, key): [(row, graded)]},
        question_text=lambda problem: problem.id,
        judged_by=lambda problem: text,
        said=said,
        pieces=lambda row: [(text, True), (text, False)],
    )


def report(text: Any) -> bytes:
    """The report of a curation with `text` in every cell."""
    tables = ("stages", "sources", "rules", "seeded", "verdicts", "cost", "notes", "provenance")
    found = {name: [[text, text, None]] for name in tables}
    drops = [(text, text, text, [(text, text, text)])]
    funnel = [
        {"stage": text, "rows": text, "kept": text, "rules": [(text, text)] * 4 + [(text, 1)], "shape": "0,0 9,0 9,9"}
    ]
    return render(
        REPORT,
        found=SimpleNamespace(**found, funnel=funnel, source_stages=[text], drops=drops, seconds=1.5),
        plots={str(text): ["eA==", "eQ=="]},
        title=text,
        seed=text,
    )


@pytest.mark.parametrize("page", [samples, report])
@pytest.mark.parametrize("hostile", [*HOSTILE, {"<b>": "<i>"}, ["<script>"]], ids=range(len(HOSTILE) + 2))
def test_no_element_and_no_attribute_comes_from_data(page, hostile):
    plain, filled = Page(page("x")), Page(page(hostile))
    assert filled.elements == plain.elements and filled.scripts == plain.scripts
    shown = str(hostile).encode("utf-8", "backslashreplace").decode().replace("\x00", "")
    assert sum(shown in value.replace("\x00", "").replace("\ufffd", "") for value in filled.values) >= 5


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_templates_write_values_as_text_or_in_quoted_attributes(template):
    text = template.read_text()
    assert not re.search(r"\|\s*safe\b|Markup|autoescape|\|\s*tojson", text)
    assert not re.search(r"=\s*{[{]", text), "an attribute without quotes"
    tags = re.findall(r"<[a-z][^<>]*{{[^<>]*>", text)
    for tag in tags:
        bare = re.sub(r'"[^"]*"', "", tag)
        assert "{{" not in bare, f"{tag}: a value outside quotes"
        assert not re.search(r"\b(href|on\w+|style|srcdoc|action)=", tag), f"{tag}: a value that may run"
        for name, source in re.findall(r'(src(?:set)?)="([^"]*)"', tag):
            assert (name, source) in IMAGES
    for block in re.findall(r"<(?:script|style)>(.*?)</(?:script|style)>", text, re.DOTALL):
        assert "{{" not in block or block == "{{ script }}"
    if "<html" in text:
        assert re.search(r"<meta charset=utf-8>{{ policy\(\w*\) }}", text)


def test_the_pages_of_this_repository_are_all_tested():
    assert {path.name for path in TEMPLATES} == {"samples.html.jinja", "report.html.jinja", "macros.html.jinja"}
    written = {"bench/evaluation/browse.py", "curate/stages/page.py", "curate/pages.py"}
    for floor in ("bench", "curate", "engine", "train"):
        for path in (ROOT / floor).rglob("*.py"):
            if re.search(r"<html|<!doctype|<script|<table|html\.escape", path.read_text(), re.IGNORECASE):
                assert str(path.relative_to(ROOT)) in written, f"{path} writes HTML of its own; use curate.pages"


def test_a_page_runs_its_own_script_alone_and_loads_nothing():
    page = Page(samples("x"))
    (script,) = page.scripts
    assert policy(script).unescape() in samples("x").decode()
    assert "'unsafe-inline'" not in policy(script).replace("style-src 'unsafe-inline'", "")
    assert "script-src" not in policy()


def test_names_in_figures_are_text(tmp_path):
    names = [HOSTILE[0], HOSTILE[6], r"$x^{$\frac", "--><script>alert(1)</script>"]
    curves = [Curve(name, [10, 20], [0.2, 0.4], labels=[name, "2"]) for name in names]
    table = pl.DataFrame({"title": names, "pool": 3, "selected": 1})
    files = [
        *plot.write(tmp_path / "figure", [Panel(names[-1], curves)], names[2]),
        *save(partial(domain_plot, table), tmp_path / "domains"),
        *save(partial(length_plot, {names[2]: [1, 2], names[0]: [1]}), tmp_path / "lengths"),
    ]
    drawing, about = "svg g path defs use clipPath rect style", "metadata RDF Work type creator Agent title format"
    for svg in (file for file in files if file.suffix == ".svg"):
        tags = {element.tag.partition("}")[2] for element in ElementTree.fromstring(svg.read_bytes()).iter()}
        assert tags <= {*drawing.split(), *about.split()}, svg
        assert "<script" not in svg.read_text()
    assert [file.read_bytes()[:4] for file in files if file.suffix == ".png"] == [b"\x89PNG"] * 3
