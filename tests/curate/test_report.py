"""The report: what the text of a question may not do to the page, and the numbers beside the paper's."""

import re
from functools import partial
from pathlib import Path

import matplotlib.style
import polars as pl
import pytest
import yaml
from rich.console import Console

from curate import pages
from curate.config import load_config
from curate.run import Arguments, run
from curate.stages.findings import ledger
from curate.stages.plots import domain_plot, length_plot
from engine.figure_style import LIGHT, save, settings, settle

HOSTILE = '<script>alert("x")</script> & <img src=x onerror=alert(1)> \' </table> ![Image](a)'


def made(tmp_path, sources, **changes):
    """The page of a run over `sources` without models."""
    tree = {"run": str(tmp_path / "run"), "collect": {"sources": sources}, **changes}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    run(load_config(tmp_path / "config.yaml"), Arguments(Path()), Console(quiet=True))
    return (tmp_path / "run" / "report" / "report.html").read_text()


def rows(tmp_path, *texts):
    path = tmp_path / "rows.parquet"
    pl.DataFrame({"question": texts, "answer": ["#### 1"] * len(texts)}).write_parquet(path)
    return {"adapter": "GSM8K", "path": str(path), "name": "<b>mine</b>"}


def test_everything_is_escaped_and_nothing_is_loaded_from_elsewhere(tmp_path):
    page = made(tmp_path, [rows(tmp_path, HOSTILE, "Fine?")], report={"title": "<i>" + HOSTILE})
    known = "html meta title style h1 h2 h3 p b div span svg polygon details summary table tr th td picture source img"
    assert set(re.findall(r"<(\w+)", page)) <= set(known.split())
    assert "&lt;script&gt;alert" in page and "&lt;b&gt;mine" in page
    assert not re.search(r"<img(?! alt=\"[^\"]*\" src=\"data:image/svg\+xml;base64,)", page)
    assert "http" not in page.replace("https://", "").replace("http-equiv", "")


def test_counts_stand_beside_the_papers(tmp_path):
    page = made(tmp_path, [{"adapter": "probability", "name": "procedural/s1-prob"}])
    row = re.search(r"<tr><td>procedural/s1-prob</td>(.*?)</tr>", page)[1]
    assert re.findall(r">([\d,]+)<", row) == ["182"] * 5
    assert "54,116 without errors, 51,581 well formed" in page


def test_private_text_is_not_shown(tmp_path):
    line = {
        "Question": "Secret gas? p12. says how a very long line of words goes on and on",
        "Correct Answer": "He",
        "Incorrect Answer 1": "Ne",
        "Incorrect Answer 2": "Ar",
        "Incorrect Answer 3": "Xe",
        "Record ID": "r1",
    }
    path = tmp_path / "gpqa.parquet"
    pl.DataFrame([line, line | {"Record ID": "r2", "Question": "Other?"}]).write_parquet(path)
    page = made(tmp_path, [{"adapter": "GPQA", "path": str(path)}])
    assert "page_reference" in page and "(kept private)" in page and "Secret" not in page
    ends = pl.read_parquet(tmp_path / "run" / "report" / "ledger.parquet")
    assert ends.filter(rule="page_reference")["evidence"].to_list() == ["(kept private)"]
    assert "p12" not in str(pl.read_parquet(tmp_path / "run" / "quality" / "decisions.parquet").rows())
    against = tmp_path / "test.jsonl"
    against.write_text('{"question": "Secret gas? p12. says how a very long line of words goes on and on"}\n')
    made(
        tmp_path,
        [{"adapter": "GPQA", "path": str(path)}],
        decontaminate={"rule": "s1", "against": [{"name": "t", "path": str(against)}]},
        quality={"page_reference": "s1"},
    )
    for table in ("decisions", "matches"):
        rows = pl.read_parquet(tmp_path / "run" / "decontaminate" / f"{table}.parquet")
        assert rows.height and "gas" not in str(rows.rows()) and "secret" not in str(rows.rows()).lower()


def test_a_folder_in_the_report_and_damaged_times_break_nothing(tmp_path):
    source = rows(tmp_path, "Fine?")
    made(tmp_path, [source])
    (tmp_path / "run" / "report" / "mine").mkdir()
    for damaged in ("{", "[]", '{"collect": "x"}', "\0"):
        (tmp_path / "run" / "seconds.json").write_text(damaged)
        assert "Fine?" not in made(tmp_path, [source], report={"title": f"After {damaged}"})


def test_seeded_rows_are_followed_to_their_end(tmp_path):
    source = {
        "adapter": "procedural",
        "name": "procedural/AIME",
        "rows": 80,
        "families": {"clocks": 1},
        "copies": 4,
        "leaks": 3,
        "damaged": 2,
    }
    page = made(tmp_path, [source], decontaminate={"against": [{"name": "held out", "heldout": 1000}]})
    ends = re.findall(
        r"<tr><td>(copy|leak|damaged)</td><td class=n>(\d+)</td><td>([^<]*)</td><td class=n>(\d+)</td>", page
    )
    assert ("copy", "4", "dedupe: exact_duplicate", "4") in ends
    assert ("leak", "3", "decontaminate: scored:equal", "3") in ends
    assert sum(int(n) for kind, _, end, n in ends if kind == "damaged" and end.startswith("quality: ")) == 2


def test_ledger_names_the_stage_that_took_a_row_out():
    def decision(row, stage, keep):
        return {
            "row_id": row,
            "qid": row,
            "stage": stage,
            "keep": keep,
            "rule": "kept" if keep else "out",
            "evidence": "",
        }

    one = pl.DataFrame([decision("a", "one", True), decision("b", "one", False)])
    two = pl.DataFrame([decision("a", "two", True)])
    found = ledger({"one": one, "two": two})
    assert found.select("row_id", "stage", "kept").rows() == [("a", "two", True), ("b", "one", False)]


def test_cells():
    text = (
        """{% from "macros.html.jinja" import image, table %}{{ table(head, rows) }}{{ image("eA==", "eQ==", '"') }}"""
    )
    stages = pages.pages(Path(pages.__file__).parent / "stages")
    cells = stages.from_string(text).render(head=["a", "b"], rows=[["<x>", 1234], [None, 0.12345]])
    assert cells == (
        "<div class=scroll><table><tr><th>a</th><th class=n>b</th></tr>"
        "<tr><td>&lt;x&gt;</td><td class=n>1,234</td></tr><tr><td></td><td class=n>0.123</td></tr></table></div>"
        '<picture><source media="(prefers-color-scheme: dark)" srcset="data:image/svg+xml;base64,eQ==">'
        '<img alt="&#34;" src="data:image/svg+xml;base64,eA=="></picture>'
    )


@pytest.mark.parametrize("lengths", [{"all": [], "selected": []}, {"all": [5, 9, 7], "selected": [9]}])
def test_plots_are_pictures_of_something_and_of_nothing(lengths, tmp_path):
    titles = pl.DataFrame({"title": ["11 Number theory", "60 $Probability_$"], "pool": [5, 3], "selected": [1, 0]})
    for at, draw in enumerate(
        (partial(length_plot, lengths), *(partial(domain_plot, t) for t in (titles, titles[:0])))
    ):
        png, light, dark = save(draw, tmp_path / f"{at}")
        assert png.read_bytes().startswith(b"\x89PNG") and png.stat().st_size > 2000
        assert light.read_bytes() != dark.read_bytes()


def test_nothing_is_drawn_outside_a_plot():
    """Long titles and large counts included."""
    long = [f"{i:02} A domain of a very long name, and of more than one word, number {i}" for i in range(60)]
    table = pl.DataFrame({"title": long, "pool": [10**6 + i for i in range(60)], "selected": range(60)})
    with matplotlib.style.context(settings(LIGHT)):
        for figure in (domain_plot(table, LIGHT), length_plot({"all": [10**6, 5], "selected": []}, LIGHT)):
            settle(figure)
            box, all_of_it = figure.bbox.padded(1), figure.get_tightbbox().transformed(figure.dpi_scale_trans)
            assert box.x0 <= all_of_it.x0 and all_of_it.x1 <= box.x1
            assert box.y0 <= all_of_it.y0 and all_of_it.y1 <= box.y1


def test_the_funnel_narrows_by_what_each_stage_dropped(tmp_path):
    page = made(tmp_path, [rows(tmp_path, *["The same question?"] * 3, "Another one?", "")])
    steps = re.findall(r'<b>(\w+)</b><svg.*?points="([^"]*)".*?class=n>([\d,]+)<.*?<p class=small>(.*?)</p>', page)
    told = {stage: (kept, why) for stage, _, kept, why in steps}
    assert told["dedupe"][1].endswith("dropped: 2 exact_duplicate")
    counts = [int(kept) for _, _, kept, _ in steps]
    assert counts == sorted(counts, reverse=True)
    assert steps[0][1].startswith("0.00,0 100.00,0 ")
    most = None
    for (_, shape, kept, why), before in zip(steps, [None, *counts], strict=False):
        (a, _), (b, _), (c, _), (d, _) = (map(float, corner.split(",")) for corner in shape.split())
        assert a + b == c + d == 100
        most = most or int(kept) / (c - d)  # rows of a hundredth of the width
        assert (c - d) * most == pytest.approx(int(kept), rel=0.01)
        if before is not None:
            assert (b - a) * most == pytest.approx(before, rel=0.01)
            dropped = [int(n) for n in re.findall(r"(\d+) [a-z]", why.partition("dropped: ")[2])]
            assert sum(dropped) == before - int(kept)
