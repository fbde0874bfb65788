"""The figure of a run's curves: what is smoothed and says so, at any number of steps and of runs."""

import random
from itertools import combinations
from pathlib import Path

import matplotlib.style
import pytest

from engine.figure_style import LIGHT, settings, settle
from train import plot
from train.curves import Run, curves, smoothed, window_of


@pytest.fixture(autouse=True)
def style():
    """How wide letters are is asked for with every drawing."""
    with matplotlib.style.context(settings(LIGHT), after_reset=True):
        yield


def run(name, steps, heldout=0):
    """A falling loss with noise; held-out loss before the first step and every `heldout` steps."""
    chance = random.Random(name)
    records = [{"step": 0, "heldout_loss": 3.0}] if heldout else []
    for step in range(1, steps + 1):
        loss = 2 / (step + 5) ** 0.2 + chance.gauss(0, 0.05)
        record = {"step": step, "epoch": (step - 1) // 50, "loss": loss, "grad_norm": 1.0, "lr": 1e-5}
        held = {"heldout_loss": loss} if heldout and step % heldout == 0 else {}
        records.append(record | {"tokens_per_second": 1e5 + chance.gauss(0, 1e4)} | held)
    return Run(name, records)


def drawn(*runs):
    """The figure, laid out, and its axes by their titles."""
    figure = curves(runs, LIGHT)
    settle(figure)
    return figure, {axes.get_title(loc="left"): axes for axes in figure.axes}


def legends(figure):
    return [[text.get_text() for text in legend.get_texts()] for legend in figure.legends]


def test_a_smoothed_curve_is_the_mean_of_what_is_around():
    assert smoothed([1, 2, 6, 3, 8], 3) == [1.5, 3, 11 / 3, 17 / 3, 5.5]
    assert smoothed([4, 5], 1) == [4, 5] and smoothed([], 3) == []
    assert [window_of([run("a", steps)]) for steps in (0, 1, 2, 39, 40, 60, 3000)] == [1, 1, 1, 1, 3, 3, 151]


def test_the_legend_tells_the_window_and_the_curve_is_that_mean():
    one = run("a", 100, 25)
    figure, panels = drawn(one)
    (told,) = legends(figure)
    assert told == ["mean of 5 reported steps around each", "each reported step", "held-out loss"]
    loss = [record["loss"] for record in one.steps]
    raw, mean, held = panels["loss"].lines[:3]
    assert raw.get_ydata().tolist() == loss and mean.get_ydata().tolist() == smoothed(loss, 5)
    assert raw.get_linewidth() < mean.get_linewidth() and held.get_xdata().tolist() == [0, 25, 50, 75, 100]
    assert panels.keys() == {"loss", "learning rate", "gradient norm", "tokens per second"}
    assert [line.get_xdata()[0] for line in panels["loss"].lines[3:]] == [51], "a line where an epoch begins"


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_few_steps_are_points(steps):
    figure, panels = drawn(run("a", steps, 1))
    (told,) = legends(figure)
    assert told == ["each reported step", "held-out loss"]
    for axes in panels.values():
        line = axes.lines[0]
        assert line.get_xdata().tolist() == list(range(1, steps + 1)) and line.get_marker() == "o"
        assert all(axes.bbox.padded(1).contains(x, y) for x, y in axes.transData.transform(line.get_xydata()))
        numbers = [float(tick) for tick in axes.get_xticks() if 0 <= tick <= max(1, steps)]
        assert numbers and all(tick == round(tick) for tick in numbers), "steps are whole"


@pytest.mark.parametrize("count", [1, 2, 9, 20])
def test_runs_are_told_apart_and_nothing_covers_anything(count):
    runs = [run(f"run {i}, named after what was changed in it", 60, 20) for i in range(count)]
    figure, panels = drawn(*runs)
    *names, kinds = legends(figure)
    assert names == [[each.name for each in runs]] * (count > 1) and len(kinds) == 3
    looks = {(line.get_color(), line.get_linestyle()) for line in panels["loss"].lines if line.get_linestyle() != "--"}
    assert len(looks) >= min(count, 3 * len(LIGHT.curves))
    boxes = [axes.get_tightbbox() for axes in panels.values()] + [box.get_window_extent() for box in figure.legends]
    assert all(figure.bbox.contains(box.x0, box.y0) and figure.bbox.contains(box.x1, box.y1) for box in boxes)
    assert not [1 for one, other in combinations(boxes, 2) if one.overlaps(other)]


def test_runs_have_their_folders_names_and_more_where_they_are_alike():
    paths = [Path(name) for name in ("/a/first/export", "/b/first/export/", "/a/second", "/a/second/../second")]
    assert plot._names(paths) == ["a/first/export", "b/first/export", "second", "second"]
    assert plot._names([Path()]) == [Path.cwd().name]
