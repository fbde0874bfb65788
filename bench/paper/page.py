"""docs/paper.md and its figures, from `paper.json` alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from bench.paper import figures
from bench.paper.claims import percent, points, share, slope, tokens
from bench.paper.figures import NAMES
from engine.errors import InputError
from engine.whole_file import write_whole


def text(told: Mapping[str, Any], figure_folder: str) -> str:
    """The page; figures are named below `figure_folder`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters |= {
        "points": points,
        "tokens": tokens,
        "share": share,
        "percent": _percent,
        "within": _within,
        "seeds": _seeds,
        "slope": slope,
        "interval": percent,
        "whole": _whole,
    }
    page = environment.get_template("page.md.jinja").render(**told, figures=figure_folder, names=NAMES)
    return "".join(f"{line.rstrip()}\n" for line in page.splitlines())


def _percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} %"


def _whole(number: float) -> str:
    return f"{number:,.0f}"


def _within(row: Mapping[str, Any]) -> str:
    return "{:.1f} to {:.1f}".format(*(100 * row["accuracy"][end] for end in ("low", "high")))


def _seeds(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{100 * one:.1f}" for one in row["seeds"])


def write(results: Path, page: Path, folder: Path) -> None:
    """`page`, and its figures in `folder` beside it. Raises InputError where there are no results yet."""
    if not results.is_file():
        raise InputError(f"{results} is not there; run python -m bench.paper first, which makes it")
    told = json.loads(results.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    figures.draw(told, folder)
    write_whole(page, text(told, folder.name))
