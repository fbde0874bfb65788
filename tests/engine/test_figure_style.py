"""The one look of all figures: colours that can be told apart by all eyes, on both grounds, and files made alike."""

from itertools import combinations

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from engine.figure_style import DARK, LIGHT, save

# Machado, Oliveira and Fernandes (2009), severity 1.0, on linear RGB.
EYES = {
    "all cones": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
XYZ = np.array([[0.41246, 0.35758, 0.18044], [0.21267, 0.71515, 0.07217], [0.01933, 0.11919, 0.95030]])
OKABE_ITO = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#f0e442", "#000000")


def linear(colour):
    rgb = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """WCAG's."""
    low, high = sorted(float(XYZ[1] @ linear(colour)) + 0.05 for colour in (one, other))
    return high / low


def lab(colour, eyes):
    """CIE L*a*b* of what these eyes see."""
    white = XYZ.sum(axis=1)
    x, y, z = np.cbrt(np.maximum(XYZ @ np.clip(EYES[eyes] @ linear(colour), 0, 1) / white, 0.008856))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def nearest(colours, eyes):
    """The least distance of two of them."""
    return min(float(np.linalg.norm(lab(a, eyes) - lab(b, eyes))) for a, b in combinations(colours, 2))


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("eyes", EYES)
def test_curves_are_apart_for_all_eyes(theme, eyes):
    """No two of ours are nearer than Okabe and Ito's are to somebody."""
    assert nearest(theme.curves, eyes) >= min(nearest(OKABE_ITO, other) for other in EYES)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_curves_and_text_stand_out_from_the_ground(theme):
    assert min(contrast(colour, theme.paper) for colour in theme.curves) >= 3
    assert contrast(theme.ink, theme.paper) >= 12 and contrast(theme.quiet, theme.paper) >= 4.5


def line(theme):
    figure = Figure(figsize=(2, 2))
    figure.subplots().plot([1, 2], [3, 4], label="$x_")
    figure.legend()
    return figure


def test_one_picture_is_three_files_alike_each_time(tmp_path):
    """Whatever the user's own settings are, which stay what they were."""
    before = dict(matplotlib.rcParams)
    files = save(line, tmp_path / "a.b")
    assert [file.name for file in files] == ["a.b.png", "a.b.svg", "a.b-dark.svg"]
    with matplotlib.rc_context({"font.size": 30, "svg.hashsalt": "x", "lines.linewidth": 9}):
        again = save(line, tmp_path / "again")
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in again]
    assert dict(matplotlib.rcParams) == before
    light, dark = (file.read_text() for file in files[1:])
    assert LIGHT.paper in light and DARK.paper in dark and LIGHT.curves[0] in light and DARK.curves[0] in dark


def test_no_file_is_half_written(tmp_path):
    with pytest.raises(OSError):
        save(line, tmp_path / "nowhere" / "a")
    assert not list(tmp_path.iterdir())
