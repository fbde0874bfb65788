"""What stands beside the points of a figure: as much as there is room for, measured, and nothing over anything else."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from math import dist

from matplotlib.axes import Axes
from matplotlib.path import Path
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox, BboxBase

SIZE, NEAR, GAP = 7.5, 8.0, 1.5
"""Points: of the letters, between points of a curve that share a label, between a label and all else."""
ALIGNED = {-1: ("right", "top"), 0: ("center", "center"), 1: ("left", "bottom")}
CORNERS = ((-1, 1), (1, 1), (1, -1), (-1, -1))
SIDES = ((0, 1), (0, -1), (-1, 0), (1, 0))
"""Where a label may stand, seen from its point: right of it is (1, 0), below it (0, -1)."""


@dataclass(frozen=True)
class Labelled:
    """The points of a curve from left to right, in the axes' data, and their labels in `colour`. The first place that
    is tried is upper left, or with `below` lower right."""

    points: Sequence[tuple[float, float]]
    labels: Sequence[str]
    colour: str
    below: bool


def write_labels(axes: Axes, curves: Sequence[Labelled]) -> None:
    """Label the points of `curves`, the ends of each first, where the fewest lines are crossed. Points that lie on one
    spot share a label, such as 128-512; a label that has no place inside the axes, and off all points and other labels,
    is left out. The figure's layout must be settled, and axes and curves in it as they stay."""
    scale = axes.figure.dpi / 72
    places = [[tuple(at) for at in axes.transData.transform(curve.points)] for curve in curves]
    taken = [Bbox.from_bounds(x - 3 * scale, y - 3 * scale, 6 * scale, 6 * scale) for x, y in chain(*places)]
    lines, room = [Path(at) for at in places], axes.bbox.padded(-scale)
    for curve, at in zip(curves, places, strict=True):
        spots = list(_spots(at, NEAR * scale))
        for first, last in dict.fromkeys((spots[0], spots[-1], *spots)) if curve.labels else ():
            text = axes.annotate(
                "-".join(dict.fromkeys((curve.labels[first], curve.labels[last]))),
                curve.points[last],
                (0, 0),
                textcoords="offset points",
                fontsize=SIZE,
                color=curve.colour,
                path_effects=[withStroke(linewidth=2, foreground=axes.get_facecolor())],
            )
            size = text.get_window_extent()
            sides = (*(CORNERS[2:] + CORNERS[:2] if curve.below else CORNERS), *SIDES)
            found = {side: _beside(at[last], side, size.width / scale, size.height / scale, scale) for side in sides}
            free = {
                side: box for side, (_, box) in found.items() if _within(box, room) and not box.count_overlaps(taken)
            }
            if free:
                side = min(free, key=lambda side: sum(line.intersects_bbox(free[side], filled=False) for line in lines))
                text.set(position=found[side][0], ha=ALIGNED[side[0]][0], va=ALIGNED[side[1]][1])
                taken.append(free[side])
            else:
                text.remove()


def _within(box: Bbox, room: BboxBase) -> bool:
    return room.contains(box.x0, box.y0) and room.contains(box.x1, box.y1)


def _beside(
    point: tuple[float, ...], side: tuple[int, int], width: float, height: float, scale: float
) -> tuple[tuple[float, float], Bbox]:
    """How far from its point, in points, a label on that side is written, and the box in pixels that it takes."""
    away = (side[0] * (5.0 if side[1] else 6.0), side[1] * (2.0 if side[0] else 5.0))
    x, y = (move + (way - 1) * length / 2 for move, way, length in zip(away, side, (width, height), strict=True))
    box = Bbox.from_bounds(point[0] + x * scale, point[1] + y * scale, width * scale, height * scale)
    return away, box.padded(GAP * scale)


def _spots(points: Sequence[tuple[float, ...]], near: float) -> Iterator[tuple[int, int]]:
    """The first and the last of every run of points that lie within `near` of its first."""
    first = 0
    for i, point in enumerate(points):
        if dist(points[first], point) > near:
            yield first, i - 1
            first = i
    yield first, len(points) - 1
