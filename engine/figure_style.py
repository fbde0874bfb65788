"""One look for every figure, on white and on dark: fonts, lines, and colours that colour-blind eyes tell apart.

It needs matplotlib, which only some extras install: import it where something is drawn.
"""

import io
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib.style
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

from engine.whole_file import write_whole


@dataclass(frozen=True)
class Theme:
    """Colours: of the ground, of text, of what is beside the point, of the grid, and of the curves in their order."""

    paper: str
    ink: str
    quiet: str
    grid: str
    curves: tuple[str, ...]


LIGHT = Theme(
    "#ffffff", "#1b1a17", "#706b62", "#e4e1da", ("#0072b2", "#d55e00", "#18a562", "#a5527a", "#614100", "#1b1a17")
)
DARK = Theme(
    "#1e1d1a", "#f1eee7", "#a09b91", "#3a3833", ("#4aa3e0", "#f98b3c", "#6ff0a8", "#e3478f", "#ffe14d", "#f1eee7")
)
"""Okabe and Ito's blue, vermilion, green, purple and yellow, moved until any two are apart, and apart from the ground,
in protanopia, deuteranopia and tritanopia too, as Machado et al. (2009) simulate them."""


def settings(theme: Theme) -> dict[str, Any]:
    """matplotlib's parameters."""
    return {
        "font.family": "DejaVu Sans",  # matplotlib brings it, so that figures are alike everywhere
        "font.size": 9,
        "text.color": theme.ink,
        "text.parse_math": False,  # a dollar sign in a name is one, and begins no formula
        "figure.facecolor": theme.paper,
        "text.hinting": "none",  # letters are as wide in a PNG as in an SVG
        "figure.titlesize": 10.5,
        "figure.constrained_layout.w_pad": 0.08,
        "figure.constrained_layout.h_pad": 0.06,
        "axes.facecolor": theme.paper,
        "axes.edgecolor": theme.quiet,
        "axes.labelcolor": theme.ink,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": cycler("color", list(theme.curves)),
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": theme.grid,
        "grid.linewidth": 0.7,
        "xtick.color": theme.quiet,
        "ytick.color": theme.quiet,
        "xtick.labelcolor": theme.ink,
        "ytick.labelcolor": theme.ink,
        "lines.linewidth": 1.7,
        "lines.markersize": 4.5,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "savefig.dpi": 150,
        "svg.hashsalt": "s1-engine",  # ids are drawn at random otherwise
    }


Place = Literal["outside upper center", "outside lower center"]
"""Of a legend: above all axes, or below them."""


def draw_legend(figure: Figure, handles: Sequence[Artist], place: Place = "outside lower center") -> None:
    """Outside of all axes, in as many columns as fit, by the handles' own labels; the figure grows by it."""
    labels = [textwrap.fill(str(handle.get_label()), 60) for handle in handles]
    for columns in range(min(4, len(labels)), 0, -1):
        legend = figure.legend(handles, labels, loc=place, ncols=columns)
        size = legend.get_window_extent()
        if size.width <= figure.bbox.width or columns == 1:
            break
        legend.remove()
    figure.set_figheight(figure.get_figheight() + size.height / figure.dpi)


def settle(figure: Figure) -> None:
    """Lay the figure out once and for all: from here on nothing in it moves, so that it can be measured."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def save(draw: Callable[[Theme], Figure], stem: Path) -> list[Path]:
    """Write `STEM.png` and `STEM.svg` on white and `STEM-dark.svg` on dark; returns the three.

    What draws alike is written alike, byte by byte. Raises OSError where a file cannot be written.
    """
    files: list[Path] = []
    for theme, ends in ((LIGHT, (".png", ".svg")), (DARK, ("-dark.svg",))):
        with matplotlib.style.context(settings(theme), after_reset=True):  # whatever the user's own file says
            figure = draw(theme)
            if figure.get_layout_engine() is not None:
                settle(figure)
            for end in ends:
                data = io.BytesIO()
                figure.savefig(data, format=end[-3:], metadata={"Software" if end == ".png" else "Date": None})
                files.append(stem.with_name(stem.name + end))
                write_whole(files[-1], data.getvalue())
    return files
