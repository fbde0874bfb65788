"""Figures at any number of points: every label and every point inside the axes, and no label over another."""

import json
import random
from itertools import combinations, pairwise

import matplotlib.style
import pytest

from bench.evaluation import plot
from bench.evaluation.panels import Curve, Panel, drawn
from engine.figure_style import LIGHT, settings


@pytest.fixture(autouse=True)
def style():
    """How wide letters are is asked for with every drawing."""
    with matplotlib.style.context(settings(LIGHT), after_reset=True):
        yield


def figure(*curves, title="a model, a task: 400 problems"):
    """The figure of one panel, and its axes, drawn."""
    made = drawn([Panel("average thinking tokens", curves)], title, LIGHT)
    made.draw_without_rendering()
    return made, made.axes[0]


def curve(name, tokens, accuracy, **more):
    ends = {"low": [max(0, x - 0.05) for x in accuracy], "high": [min(1, x + 0.05) for x in accuracy]}
    return Curve(name, tokens, accuracy, labels=[f"{round(x)}" for x in tokens], **ends, **more)


def made(name, count, seed):
    """A rising curve with noise, from 8 tokens to 4,096."""
    chance = random.Random(seed)
    tokens = [8 * 512 ** chance.random() for _ in range(count)]
    accuracy = [min(1.0, max(0.0, 0.1 + 0.08 * x**0.25 + chance.gauss(0, 0.05))) for x in tokens]
    return curve(name, tokens, accuracy, below=seed % 2 == 0)


REPORTS = {
    "one point": [curve("budget", [300.0], [0.4])],
    "two points": [curve("budget", [16, 512], [0.2, 0.9])],
    "sixty points": [made("budget", 60, 1)],
    "sixty points, all right": [curve("budget", [8 * 1.1**i for i in range(60)], [1.0] * 60)],
    "sixty points, none right": [curve("budget", [8 * 1.1**i for i in range(60)], [0.0] * 60)],
    "twelve curves": [made(f"extensions Wait, temperature 0.{i}", 8, i) for i in range(12)],
    "twelve curves of twenty": [made(f"curve {i}", 20, i) for i in range(12)],
    "one curve twelve times": [made(f"curve {i}", 8, 1) for i in range(12)],
    "a name that matplotlib would hide": [curve("_name", [16, 512], [0.2, 0.9])],
    "0 alone": [curve("budget", [0], [0.4])],
    "all at 0": [curve("budget", [0, 0, 0], [0.1, 0.11, 0.7]), curve("none", [0], [0.0])],
    "0 and more": [curve("budget", [0, 0.3, 500, 16000], [0.1, 0.2, 0.5, 0.6])],
    "0 and 1": [curve("budget", [0, 1, 2], [0.1, 0.2, 0.3])],
}


@pytest.mark.parametrize("curves", REPORTS.values(), ids=REPORTS)
def test_no_label_lies_over_another_or_outside_the_axes(curves):
    whole, axes = figure(*curves)
    assert len(axes.texts) >= min(2, len(curves[0].tokens)), "the ends have labels"
    for dpi in (72, 100, 150):  # of an SVG, where they were placed, and of a PNG
        whole.set_dpi(dpi)
        whole.draw_without_rendering()
        found = [text.get_window_extent() for text in axes.texts]
        assert not [1 for one, other in combinations(found, 2) if one.overlaps(other)]
        assert all(axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1) for box in found)
        for line in axes.lines:
            points = axes.transData.transform(line.get_xydata())
            assert not any(box.count_contains(points) for box in found), "a label over a point"


@pytest.mark.parametrize("curves", REPORTS.values(), ids=REPORTS)
def test_everything_is_inside_the_figure(curves):
    whole, axes = figure(*curves)
    inside = axes.bbox.padded(1)
    for line in axes.lines:
        assert all(inside.contains(x, y) for x, y in axes.transData.transform(line.get_xydata()))
    numbers = [label for label in axes.get_xticklabels() if label.get_text()]
    (legend,) = whole.legends
    assert [text.get_text() for text in legend.get_texts()] == [each.name for each in curves]
    words = [axes.xaxis.label, axes.yaxis.label, *numbers, *whole.texts, *legend.get_texts(), legend]
    extents = [(word, word.get_window_extent()) for word in words]
    assert all(whole.bbox.contains(box.x0, box.y0) and whole.bbox.contains(box.x1, box.y1) for _, box in extents)
    assert len(numbers) >= 2
    assert not [1 for (_, one), (_, other) in pairwise(extents[2 : 2 + len(numbers)]) if one.overlaps(other)]


def test_a_long_title_and_long_names_fit():
    whole, axes = figure(*(curve(f"a name of many words, number {i} " * 5, [8, 64], [0.1, 0.2]) for i in range(7)))
    (legend,) = whole.legends
    for box in (legend.get_window_extent(), axes.get_tightbbox()):
        assert whole.bbox.x0 <= box.x0 and box.x1 <= whole.bbox.x1
    assert legend.get_window_extent().y1 < axes.get_tightbbox().y0


def test_a_label_stands_beside_its_point_and_the_ends_come_first():
    whole, axes = figure(made("budget", 60, 1))
    for text in axes.texts:
        point = axes.transData.transform(text.xy)
        assert text.get_window_extent().padded(12 * whole.dpi / 72).contains(*point)
    whole, axes = figure(curve("budget", [64.0, 64.5, 65, 65.5, 512], [0.5, 0.51, 0.5, 0.51, 0.6]))
    assert {text.get_text() for text in axes.texts} == {"64-66", "512"}


def test_points_on_one_spot_share_a_label():
    spots = Curve("x", [10, 50, 51, 52, 90], [0.1, 0.5, 0.5, 0.5, 0.9], labels=["a", "b", "c", "d", "e"])
    assert sorted(text.get_text() for text in figure(spots)[1].texts) == ["a", "b-d", "e"]


@pytest.mark.parametrize("tokens", [[0, 16, 64], [0, 0.4, 16], [0, 1, 2], [0, 500, 16000]])
def test_points_without_thinking_have_a_place_left_of_the_others(tokens):
    """The axis counts doublings, and 0 is none."""
    _, axes = figure(curve("x", tokens, [0.1, 0.2, 0.4]))
    places = axes.transAxes.inverted().transform(axes.transData.transform([(x, 20) for x in tokens]))[:, 0]
    assert all(0.01 < here < there < 0.99 for here, there in pairwise(places))
    assert axes.get_xticks()[0] == 0 and (places[-1] - places[0] > 0.5)


def test_a_figure_of_zeros_alone_has_an_axis():
    _, axes = figure(curve("x", [0, 0], [0.1, 0.2]))
    assert axes.get_xticks().tolist() == [0, 1] and axes.get_xlim()[0] < 0 < 1 < axes.get_xlim()[1]


def test_files_are_named_after_the_task_and_made_alike(tmp_path):
    panels = [Panel("tokens", [made("one", 9, 1), made("two", 9, 2)])]
    files = plot.write(tmp_path / "s1_nano-accuracy", panels, "title")
    names = ["s1_nano-accuracy.png", "s1_nano-accuracy.svg", "s1_nano-accuracy-dark.svg", "s1_nano-accuracy.json"]
    assert [file.name for file in files] == names
    before = [file.read_bytes() for file in files]
    assert before == [file.read_bytes() for file in plot.write(tmp_path / "s1_nano-accuracy", panels, "title")]
    assert before[0].startswith(b"\x89PNG") and before[1] != before[2]
    assert [len(c["tokens"]) for c in json.loads(before[3])["panels"][0]["curves"]] == [9, 9]


def test_extensions_by_a_number_are_labelled_by_how_many():
    rows = [
        {
            "condition": f"{n}x 10",
            "series": "extensions 10",
            "thinking_tokens": 10.0 * n,
            "accuracy": 0.5,
            "interval": {"low": 0.4, "high": 0.6},
        }
        for n in (1, 2)
    ]
    (curve,) = plot.sequential({"conditions": [*rows, rows[0] | {"condition": " ", "series": "harness"}]})[:1]
    assert list(curve.labels) == ["1x", "2x"]
